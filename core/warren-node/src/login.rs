//! The conversation with the control server: register, perhaps by way of a login page, then poll.
//!
//! ```text
//!            wants              answer: success
//!   Idle ─────────▶ Registering ───────────────▶ Polling
//!    ▲                │  ▲   │ answer: visit URL    │
//!    │ does not want  │  │   └──▶ Registering       │ stream ends, or 120 s of silence
//!    └──── (any) ◀────┤  │        (followup = URL)  │
//!             failure ▼  │ time                     ▼
//!                     Waiting ◀────────────────────┘
//! ```
//!
//! Order in which an answer is read, and when a new node key is made: control-protocol.md §5.3.

use std::time::{Duration, Instant};

use warren_crypto::{NodeSecret, UnixTime};
use warren_wire::{
    CapabilityVersion, Hostinfo, LOGOUT_EXPIRY, RegisterAuth, RegisterRequest, RegisterResponse, UserProfile,
};

use crate::Node;
use crate::actions::{Action, ControlRequest, ControlTarget, Notice, RequestId};
use crate::prefs::parse_control_url;

/// A stream that lived so long after its first map was a good one: the next failure waits as little as the first. A server
/// that sends a map and hangs up is asked less and less often.
const GOOD_STREAM: Duration = Duration::from_secs(10);
/// Longest wait between two tries.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// Longest wait that we accept from a server that asks us to come later.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Most characters of a server's words that are shown.
const LONGEST_SERVER_TEXT: usize = 200;

/// Where the conversation stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Login {
    /// Nothing is wanted.
    Idle,
    /// Asked. With a page: the server answers once a person has been there.
    Registering { id: RequestId, followup: Option<String> },
    /// The map stream. `started`: its first map has come.
    Polling { id: RequestId, started: bool, silent_at: Instant },
    /// Something failed; to be tried again.
    Waiting { until: Instant, then: Next },
}

/// What is tried after a wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    Register { followup: Option<String> },
    Poll,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// By itself: a server that is away or overloaded returns.
    Passes,
    /// Only when a person changes something.
    Lasts,
}

impl Trouble {
    /// What an HTTP status says; without one there was no answer.
    pub fn of_status(status: Option<u16>) -> Trouble {
        match status {
            None | Some(408 | 425 | 429 | 500..) => Trouble::Passes,
            Some(_) => Trouble::Lasts,
        }
    }
}

impl Login {
    /// The page that a person must visit.
    pub fn auth_url(&self) -> Option<&str> {
        match self {
            Login::Registering { followup, .. } | Login::Waiting { then: Next::Register { followup }, .. } => {
                followup.as_deref()
            }
            _ => None,
        }
    }
}

impl Node {
    /// Moves the conversation on, if the wishes or the clock say so. Called after every input.
    pub(crate) fn pump_login(&mut self, now: Instant, wall: UnixTime) {
        let wanted = self.wants_control();
        match &self.login {
            Login::Idle if wanted => self.register(None, now, wall),
            Login::Idle => {}
            _ if !wanted => self.close_control(),
            Login::Waiting { until, then } if *until <= now => match then.clone() {
                Next::Register { followup } => self.register(followup, now, wall),
                Next::Poll => self.start_poll(now),
            },
            Login::Polling { silent_at, .. } if *silent_at <= now => {
                self.actions.push_back(Action::CloseControl);
                self.last_error = Some("no message for 120 s".into());
                self.back_off(Next::Poll, now);
            }
            Login::Waiting { .. } | Login::Polling { .. } | Login::Registering { .. } => {}
        }
    }

    fn wants_control(&self) -> bool {
        let prefs = &self.profile().prefs;
        (prefs.want_running || self.login_asked) && !prefs.logged_out && !prefs.control_url.is_empty()
    }

    /// Where and as whom to speak to the control server; `None` when there is none to speak to.
    pub fn control_target(&self) -> Option<ControlTarget> {
        let prefs = &self.profile().prefs;
        Some(ControlTarget {
            url: parse_control_url(&prefs.control_url).ok()?,
            machine: self.state.machine.clone(),
            server_key: prefs.control_key.parse().ok(),
        })
    }

    pub(crate) fn close_control(&mut self) {
        if self.login != Login::Idle {
            self.login = Login::Idle;
            self.updates = Default::default();
            self.actions.push_back(Action::CloseControl);
        }
    }

    pub(crate) fn request(&mut self, request: ControlRequest) -> RequestId {
        self.next_request.0 += 1;
        self.actions.push_back(Action::Control { id: self.next_request, request });
        self.next_request
    }

    /// Waits n² × 10 ms × (0.5–1.5), at most 30 s.
    pub(crate) fn back_off(&mut self, then: Next, now: Instant) {
        if self.mapped_at.take().is_some_and(|at| now >= at + GOOD_STREAM) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let base = Duration::from_millis(10).saturating_mul(self.failures.saturating_mul(self.failures));
        let base = base.min(LONGEST_BACK_OFF);
        let wait = self.random.range_duration(base / 2, base + base / 2).min(LONGEST_BACK_OFF);
        self.login = Login::Waiting { until: now + wait, then };
    }

    /// Asks to be registered with the key that is due: the one being tried, else the one that we have.
    fn register(&mut self, followup: Option<String>, now: Instant, wall: UnixTime) {
        // Before the server has told the time ours may be wrong by a day: then the old key is shown, and if it really has
        // expired the server says so.
        let knows_time = self.clock.skew().is_some();
        let expired = knows_time && self.profile().keys.registered && self.self_expired(now, wall);
        if followup.is_none() && (self.renew_key || expired) {
            self.make_key_to_try();
        }
        let old = self.old_public_key();
        let request = RegisterRequest {
            version: CapabilityVersion::OUR_NODE,
            node_key: self.key_in_question().public(),
            old_node_key: old,
            nl_key: Some(self.profile().keys.lock.public()),
            auth: self.auth_key.clone().map(|key| RegisterAuth { auth_key: Some(key) }).filter(|_| followup.is_none()),
            followup: followup.clone().unwrap_or_default(),
            hostinfo: Some(Box::new(self.hostinfo())),
            ..RegisterRequest::default()
        };
        let id = self.request(ControlRequest::Register(Box::new(request)));
        self.login = Login::Registering { id, followup };
    }

    fn key_in_question(&self) -> &NodeSecret {
        let keys = &self.profile().keys;
        keys.trying.as_ref().filter(|_| !self.hold_trying).unwrap_or(&keys.node)
    }

    fn old_public_key(&self) -> Option<warren_crypto::NodePublic> {
        let keys = &self.profile().keys;
        let replaces = keys.trying.is_some() && !self.hold_trying && keys.registered;
        if replaces { Some(keys.node.public()) } else { keys.old.as_ref().map(NodeSecret::public) }
    }

    /// A key that shall take the place of the one we have. Written down before it is sent.
    fn make_key_to_try(&mut self) {
        self.renew_key = false;
        self.hold_trying = false;
        if self.profile().keys.trying.is_none() {
            let key = NodeSecret::generate(&mut self.random);
            self.profile_mut().keys.trying = Some(key);
            self.persist_now();
        }
    }

    pub(crate) fn handle_registered(&mut self, answer: RegisterResponse, now: Instant, wall: UnixTime) {
        let Login::Registering { followup, .. } = self.login.clone() else { return };
        let first_try_of_new_key = std::mem::take(&mut self.renewed_at_once);
        if !answer.error.is_empty() {
            self.fail(answer.error, Next::Register { followup: None }, now);
        } else if !answer.node_key_signature.is_empty() {
            let text = "this network is locked, and signing a new key is not built yet in this node";
            self.fail(text.into(), Next::Register { followup: None }, now);
        } else if answer.node_key_expired {
            if first_try_of_new_key {
                let text = "the server says that a new key has expired".into();
                return self.fail(text, Next::Register { followup: None }, now);
            }
            self.note_expired();
            self.renew_key = true;
            self.renewed_at_once = true;
            self.register(None, now, wall);
        } else if answer.auth_url.is_empty() {
            self.finish_login(answer, now);
        } else {
            self.handle_auth_url(answer.auth_url, followup, now, wall);
        }
    }

    /// The server says that the key has expired. If that is the one we are in with, the map that we know has to say so too,
    /// whatever it said: what is asked next is asked with another key, and the answer is no news of this one.
    fn note_expired(&mut self) {
        let is_registered =
            self.profile().keys.registered && self.key_in_question().public() == self.profile().keys.node.public();
        if is_registered
            && let Some(cached) = &mut self.profile_mut().map
            && !std::mem::replace(&mut cached.map.self_node.expired, true)
        {
            self.plan_due = true;
            self.persist_now();
            self.notices.push_back(Notice::NetMap);
        }
    }

    fn handle_auth_url(&mut self, url: String, followup: Option<String>, now: Instant, wall: UnixTime) {
        if self.hold_trying && self.profile().keys.trying.is_some() {
            // The server does not know the key that we had: perhaps it took the new one just before we died.
            self.hold_trying = false;
            return self.register(None, now, wall);
        }
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return self.fail(
                "the server named a login page that is no web page".into(),
                Next::Register { followup: None },
                now,
            );
        }
        if followup.as_ref() == Some(&url) {
            return self.back_off(Next::Register { followup }, now);
        }
        self.last_error = None;
        if !self.login_asked && !self.self_expired(now, wall) {
            self.forget_map();
        }
        self.notices.push_back(Notice::BrowseToUrl(url.clone()));
        self.register(Some(url), now, wall);
    }

    /// The server shows the door to a node that held itself for one of its own: somebody deleted it while it was away. Its
    /// addresses may be another's by now, so they are given up at once, and a restart does not bring them back. The key
    /// stays: a server that was set back and mended knows it again.
    fn forget_map(&mut self) {
        self.disowned = self.profile().keys.registered;
        if self.profile_mut().map.take().is_some() {
            self.plan_due = true;
            self.persist_now();
            self.notices.push_back(Notice::NetMap);
        }
    }

    fn finish_login(&mut self, answer: RegisterResponse, now: Instant) {
        let hold = std::mem::take(&mut self.hold_trying);
        // Who brought a key waits for word of it, also where the node was in already and its state does not change.
        let is_asked = self.login_asked || self.auth_key.is_some();
        let is_new = !self.profile().keys.registered || (self.profile().keys.trying.is_some() && !hold) || is_asked;
        let profile = self.profile_mut();
        if let Some(key) = profile.keys.trying.take().filter(|_| !hold) {
            let before = std::mem::replace(&mut profile.keys.node, key);
            if profile.keys.registered {
                profile.keys.old = Some(before);
            }
            // What the old key's map says of expiry is no longer about us; until the new one comes we know nothing.
            if let Some(cached) = &mut profile.map {
                cached.map.self_node.key = profile.keys.node.public();
                cached.map.self_node.key_expiry = None;
                cached.map.self_node.expired = false;
            }
        }
        profile.keys.registered = true;
        profile.user = UserProfile {
            id: answer.user.id,
            login_name: answer.login.login_name,
            display_name: if answer.login.display_name.is_empty() {
                answer.user.display_name
            } else {
                answer.login.display_name
            },
            profile_pic_url: if answer.login.profile_pic_url.is_empty() {
                answer.user.profile_pic_url
            } else {
                answer.login.profile_pic_url
            },
            groups: Vec::new(),
        };
        self.auth_key = None;
        self.login_asked = false;
        self.renewed_at_once = false;
        self.disowned = false;
        self.last_error = None;
        self.use_identity(now);
        self.persist_now();
        if is_new {
            self.notices.push_back(Notice::LoginFinished);
        }
        self.start_poll(now);
    }

    pub(crate) fn handle_register_failed(
        &mut self,
        status: Option<u16>,
        text: &str,
        trouble: Trouble,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let Login::Registering { followup, .. } = self.login.clone() else { return };
        let words: String = text.chars().take(LONGEST_SERVER_TEXT).collect();
        let words = match status {
            Some(429) => "rate limited by the control server".into(),
            Some(code) => format!("register request: http {code}: {words}"),
            None => words,
        };
        let again = Next::Register { followup: followup.clone() };
        match trouble {
            Trouble::Lasts => self.fail(words, again, now),
            Trouble::Passes => self.try_later(words, again, now),
        }
        if status == Some(429) {
            let asked = retry_after.filter(|wait| !wait.is_zero() && *wait <= LONGEST_RETRY_AFTER);
            let wait =
                asked.unwrap_or_else(|| self.random.range_duration(Duration::from_secs(5), Duration::from_secs(10)));
            self.login = Login::Waiting { until: now + wait, then: Next::Register { followup } };
        }
    }

    /// Something is wrong that waiting does not mend. It is tried again all the same: a person may mend it.
    pub(crate) fn fail(&mut self, text: String, then: Next, now: Instant) {
        self.note_trouble(text, Notice::Error);
        self.back_off(then, now);
    }

    /// The server is away, or cannot answer now.
    fn try_later(&mut self, text: String, then: Next, now: Instant) {
        self.note_trouble(text, Notice::Retrying);
        self.back_off(then, now);
    }

    /// The same words are news once.
    fn note_trouble(&mut self, text: String, notice: fn(String) -> Notice) {
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        if self.last_error.as_ref() != Some(&text) {
            self.notices.push_back(notice(text.clone()));
        }
        self.last_error = Some(text);
    }

    /// Gives the key back and forgets it at once; the server hears of it if it can be reached.
    pub(crate) fn log_out(&mut self, now: Instant) {
        self.close_control();
        if self.profile().keys.registered
            && let Some(target) = self.control_target()
        {
            let request = RegisterRequest {
                version: CapabilityVersion::OUR_NODE,
                node_key: self.profile().keys.node.public(),
                old_node_key: self.profile().keys.old.as_ref().map(NodeSecret::public),
                nl_key: Some(self.profile().keys.lock.public()),
                expiry: Some(UnixTime::from_secs(LOGOUT_EXPIRY)),
                hostinfo: Some(Box::new(self.hostinfo())),
                ..RegisterRequest::default()
            };
            self.actions.push_back(Action::SayGoodbye { target, request: Box::new(request) });
        }
        let active = self.active;
        self.state.profiles[active].forget_identity(&mut self.random);
        let prefs = &mut self.profile_mut().prefs;
        prefs.logged_out = true;
        prefs.want_running = false;
        self.forget_conversation();
        self.use_identity(now);
        self.persist_now();
        self.notices.push_back(Notice::Prefs(Box::new(self.profile().prefs.clone())));
    }

    /// Everything about a conversation that belongs to one profile.
    pub(crate) fn forget_conversation(&mut self) {
        self.auth_key = None;
        self.login_asked = false;
        self.renew_key = false;
        self.renewed_at_once = false;
        self.disowned = false;
        self.hold_trying = self.profile().keys.trying.is_some() && self.profile().keys.registered;
        self.last_error = None;
        self.failures = 0;
    }

    /// What this node says of itself.
    pub(crate) fn hostinfo(&self) -> Hostinfo {
        let prefs = &self.profile().prefs;
        let facts = self.facts.clone();
        Hostinfo {
            ipn_version: facts.version,
            backend_log_id: self.state.log_id.clone(),
            os: facts.os,
            os_version: facts.os_version,
            distro: facts.distro,
            distro_version: facts.distro_version,
            distro_code_name: facts.distro_code_name,
            machine: facts.machine,
            container: Some(facts.container),
            hostname: if prefs.hostname.is_empty() { facts.hostname } else { prefs.hostname.clone() },
            shields_up: prefs.shields_up,
            no_logs_no_support: true,
            routable_ips: prefs.advertise_routes.clone(),
            request_tags: prefs.advertise_tags.clone(),
            net_info: Some(Box::new(self.net_info.clone())).filter(|info| **info != Default::default()),
            userspace: Some(self.userspace),
            userspace_router: Some(self.userspace),
            ..Hostinfo::default()
        }
    }
}
