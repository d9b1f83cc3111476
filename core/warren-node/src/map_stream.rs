//! The map stream, and the lite updates beside it.

use std::time::{Duration, Instant};

use warren_crypto::UnixTime;
use warren_wire::netmap::{NetMapChange, fold};
use warren_wire::{CapabilityVersion, MapRequest, MapResponse};

use crate::Node;
use crate::actions::{Action, ControlRequest, Notice, RequestId};
use crate::login::{Login, Next};
use crate::profile::CachedMap;

/// A server says something at least every minute; after two it is taken for dead.
const WATCHDOG: Duration = Duration::from_secs(120);
/// A map that only changed a little is written down within this time; the first of a stream at once.
const MAP_PERSIST_DELAY: Duration = Duration::from_secs(5);
/// Longest wait after a lite update that was not taken.
const LONGEST_UPDATE_BACK_OFF: Duration = Duration::from_secs(30);

/// What the server was last told beside the stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Updates {
    /// What it has, or is being told.
    told: Option<Box<MapRequest>>,
    in_flight: Option<RequestId>,
    retry_at: Option<Instant>,
    failures: u32,
}

impl Updates {
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    pub fn is(&self, id: RequestId) -> bool {
        self.in_flight == Some(id)
    }
}

impl Node {
    pub(crate) fn start_poll(&mut self, now: Instant) {
        let request = MapRequest {
            compress: "zstd".into(),
            keep_alive: true,
            stream: true,
            omit_peers: false,
            ..self.update_request()
        };
        let id = self.request(ControlRequest::Stream(Box::new(request)));
        self.login = Login::Polling { id, started: false, silent_at: now + WATCHDOG };
        // Some servers read our facts from the stream, some only from an update: both are told.
        self.updates = Updates::default();
    }

    /// Our facts as they are now.
    fn update_request(&self) -> MapRequest {
        let mut request = MapRequest {
            version: CapabilityVersion::OUR_NODE,
            // Asked for at every turn: public keys are not worked out anew.
            node_key: self.data.own_key(),
            disco_key: Some(self.data.engine.paths().disco_public()),
            omit_peers: true,
            hostinfo: Some(Box::new(self.hostinfo())),
            ..MapRequest::default()
        };
        request.set_endpoints(&self.endpoints);
        request
    }

    /// Tells the server what it does not know yet.
    pub(crate) fn pump_updates(&mut self, now: Instant) {
        let polling = matches!(self.login, Login::Polling { .. });
        let waiting = self.updates.retry_at.is_some_and(|at| at > now);
        if !polling || waiting || self.updates.in_flight.is_some() {
            return;
        }
        self.updates.retry_at = None;
        let request = Box::new(self.update_request());
        if self.updates.told.as_ref() != Some(&request) {
            let id = self.request(ControlRequest::Update(request.clone()));
            self.updates.in_flight = Some(id);
            self.updates.told = Some(request);
        }
    }

    pub(crate) fn handle_update_done(&mut self) {
        self.updates.in_flight = None;
        self.updates.failures = 0;
    }

    pub(crate) fn handle_update_failed(&mut self, now: Instant) {
        let failures = self.updates.failures.saturating_add(1);
        let base = Duration::from_millis(10).saturating_mul(failures.saturating_mul(failures));
        let base = base.min(LONGEST_UPDATE_BACK_OFF);
        let wait = self.random.range_duration(base / 2, base + base / 2);
        self.updates = Updates { told: None, in_flight: None, retry_at: Some(now + wait), failures };
    }

    pub(crate) fn handle_stream_opened(&mut self, now: Instant) {
        if let Login::Polling { silent_at, .. } = &mut self.login {
            *silent_at = now + WATCHDOG;
        }
    }

    /// One message of the stream. What cannot be applied changes nothing: the last good map stays in use.
    pub(crate) fn handle_map(&mut self, message: MapResponse, now: Instant, wall: UnixTime) {
        let Login::Polling { id, started, .. } = self.login else { return };
        if let Some(time) = message.control_time {
            self.clock.handle_control_time(time, now, wall);
            // A node that started with a clock set back stamps its handshakes too low until it knows better; peers that
            // heard it before take such handshakes for recorded ones.
            self.data.engine.set_wall(now, self.clock.time(now, wall));
        }
        let time = self.clock.time(now, wall);
        let held = if started { self.profile_mut().map.take() } else { None };
        let mut map = held.map(|cached| cached.map);
        let folded = fold(&mut map, message, time);
        let is_first = !started && map.is_some();
        if let Some(map) = map {
            self.profile_mut().map = Some(CachedMap { map, at: time });
            // A sign of life tells the time, by which keys end at another moment than we thought.
            self.plan_due = true;
        }
        let started = started || is_first;
        self.login = Login::Polling { id, started, silent_at: now + WATCHDOG };
        match folded {
            Ok(change) => self.handle_change(change, is_first, now, wall),
            Err(error) => {
                self.actions.push_back(Action::CloseControl);
                self.fail(error.to_string(), Next::Poll, now);
            }
        }
    }

    fn handle_change(&mut self, change: NetMapChange, is_first: bool, now: Instant, _wall: UnixTime) {
        if is_first {
            self.mapped_at = Some(now);
            self.last_error = None;
        }
        let effects = &change.effects;
        if let Some(ping) = &effects.ping_request
            && !ping.url.is_empty()
            && ping.url != self.last_ping_url
        {
            self.last_ping_url.clone_from(&ping.url);
            self.actions.push_back(Action::AnswerPing(Box::new(ping.clone())));
        }
        let page = &effects.pop_browser_url;
        if !page.is_empty() && *page != self.last_page && (page.starts_with("https://") || page.starts_with("http://"))
        {
            self.last_page.clone_from(page);
            self.notices.push_back(Notice::BrowseToUrl(page.clone()));
        }
        if change.self_node
            && let Some(cached) = &self.profile().map
        {
            let node_id = cached.map.self_node.stable_id.clone();
            self.profile_mut().node_id = node_id;
            self.notices.push_back(Notice::SelfChanged);
        }
        if change.any() {
            self.notices.push_back(Notice::NetMap);
            if is_first { self.persist_now() } else { self.persist_by(now + MAP_PERSIST_DELAY) }
        }
    }

    pub(crate) fn handle_stream_ended(&mut self, status: Option<u16>, reason: &str, now: Instant) {
        if !matches!(self.login, Login::Polling { .. }) {
            return;
        }
        let words: String = reason.chars().take(200).collect();
        let (words, then) = match status {
            // The server does not know us any more (or not yet again): introduce ourselves anew.
            Some(code @ (401 | 403 | 404)) => {
                (format!("initial fetch failed {code}: {words}"), Next::Register { followup: None })
            }
            Some(code) => (format!("initial fetch failed {code}: {words}"), Next::Poll),
            None => (words, Next::Poll),
        };
        self.last_error = Some(words.chars().filter(|letter| !letter.is_control()).collect());
        self.updates = Updates::default();
        self.back_off(then, now);
    }
}
