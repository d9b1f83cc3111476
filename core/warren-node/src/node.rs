//! The node itself: inputs in, one call each; afterwards everything derived is brought up to date by [`Node::settle`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_crypto::{Random, UnixTime};
use warren_engine::Delivery;
use warren_wire::{AuthKey, Endpoint, NetInfo, RegionId};

use crate::actions::{Action, Command, CommandError, ControlEvent, Notice, OsFacts, Reply, RequestId};
use crate::clock::Clock;
use crate::data_plane::DataPlane;
use crate::health::HealthItem;
use crate::login::{Login, Trouble};
use crate::map_stream::Updates;
use crate::plan::{Plan, plan};
use crate::prefs::{Prefs, PrefsEdit};
use crate::profile::Profile;
use crate::{BackendState, NodeState};

/// How often the time is written down while a key in the map has an end: a clock set back can win no more than this.
const CHECKPOINT: Duration = Duration::from_secs(600);
/// A relay region that nobody asked for so long is left. Use is repeated every ten seconds.
const RELAY_IDLE: Duration = Duration::from_secs(60);

/// What a node is born with.
#[derive(Clone, Debug)]
pub struct NodeSetup {
    /// From the state file; `None` for a new device.
    pub state: Option<NodeState>,
    /// Fresh random bytes, different at every start.
    pub seed: [u8; 32],
    /// About the host.
    pub facts: OsFacts,
    /// Whether packets go to a user-space stack instead of an interface.
    pub userspace: bool,
    /// Of the mesh; [`crate::DEFAULT_MTU`] unless configured.
    pub mtu: u16,
    /// How accepted packets are handed over.
    pub delivery: Delivery,
}

/// A whole node as one value.
pub struct Node {
    pub(crate) state: NodeState,
    /// Index of the active profile in `state.profiles`.
    pub(crate) active: usize,
    pub(crate) facts: OsFacts,
    pub(crate) userspace: bool,
    mtu: u16,
    pub(crate) random: Random,
    pub(crate) clock: Clock,
    pub(crate) data: DataPlane,
    // the conversation with the control server
    pub(crate) login: Login,
    pub(crate) updates: Updates,
    pub(crate) auth_key: Option<AuthKey>,
    /// A person asked to sign in.
    pub(crate) login_asked: bool,
    /// The next registration is for a new key.
    pub(crate) renew_key: bool,
    /// That new key was made because the server called the old one expired, just now.
    pub(crate) renewed_at_once: bool,
    /// The server did not know our key any more when it was last asked.
    pub(crate) disowned: bool,
    /// After a restart: the known key goes first, a key that was being tried waits.
    pub(crate) hold_trying: bool,
    pub(crate) failures: u32,
    /// When the present or the last stream brought its first map.
    pub(crate) mapped_at: Option<Instant>,
    pub(crate) last_error: Option<String>,
    pub(crate) next_request: RequestId,
    pub(crate) last_ping_url: String,
    pub(crate) last_page: String,
    // facts of the network
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) net_info: NetInfo,
    pub(crate) home: Option<RegionId>,
    pub(crate) relays_used: BTreeMap<RegionId, Instant>,
    relays_told: Option<(Option<RegionId>, BTreeSet<RegionId>)>,
    pub(crate) pings: BTreeMap<u64, crate::ping::Asked>,
    pub(crate) next_ping: u64,
    // what was derived and told
    pub(crate) plan: Plan,
    /// Wishes, map or identity may have changed since the plan was made.
    pub(crate) plan_due: bool,
    host_told: bool,
    state_told: Option<BackendState>,
    health_told: Vec<HealthItem>,
    expiry_at: Option<Instant>,
    persist_at: Option<Instant>,
    checkpoint_at: Instant,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) notices: VecDeque<Notice>,
    /// When the last input came; polls happen at that moment.
    last: (Instant, UnixTime),
}

impl Node {
    /// Starts from the state file, or as a new device. A known map is in use at once, before any server is reached.
    pub fn new(setup: NodeSetup, now: Instant, wall: UnixTime) -> Node {
        let mut random = Random::from_seed(setup.seed);
        let is_new = setup.state.is_none();
        let state = setup.state.unwrap_or_else(|| NodeState::fresh(&mut random));
        let active = state.profiles.iter().position(|profile| profile.id == state.active).unwrap_or_default();
        let keys = &state.profiles[active].keys;
        let clock = Clock::new(state.clock, now, wall);
        let time = clock.time(now, wall);
        let mut node = Node {
            active,
            facts: setup.facts,
            userspace: setup.userspace,
            mtu: setup.mtu,
            clock,
            data: DataPlane::new(&keys.node, &state.disco, setup.delivery, random.fork(), now, time),
            login: Login::Idle,
            updates: Updates::default(),
            auth_key: None,
            login_asked: false,
            renew_key: false,
            renewed_at_once: false,
            disowned: false,
            hold_trying: keys.trying.is_some() && keys.registered,
            failures: 0,
            mapped_at: None,
            last_error: None,
            next_request: RequestId(0),
            last_ping_url: String::new(),
            last_page: String::new(),
            endpoints: Vec::new(),
            net_info: NetInfo::default(),
            home: None,
            relays_used: BTreeMap::new(),
            relays_told: None,
            pings: BTreeMap::new(),
            next_ping: 0,
            plan: plan(&Prefs::default(), None, wall, setup.mtu),
            plan_due: true,
            host_told: false,
            state_told: None,
            health_told: Vec::new(),
            expiry_at: None,
            persist_at: None,
            checkpoint_at: now + CHECKPOINT,
            actions: VecDeque::new(),
            notices: VecDeque::new(),
            last: (now, wall),
            random,
            state,
        };
        if is_new {
            node.persist_now();
        }
        node.settle(now, wall);
        node
    }

    // inputs

    /// Someone wants something.
    ///
    /// # Errors
    /// [`CommandError`]; nothing has changed then.
    pub fn handle_command(&mut self, command: Command, now: Instant, wall: UnixTime) -> Result<Reply, CommandError> {
        let reply = match command {
            Command::Start { auth_key, prefs } => self.start(auth_key, prefs, now, wall),
            Command::EditPrefs(edit) => self.edit_prefs(edit),
            Command::CheckPrefs(edit) => {
                return Ok(Reply::Prefs(Box::new(self.profile().prefs.edited(edit)?)));
            }
            Command::LoginInteractive => self.login_interactive(),
            Command::Logout => {
                self.log_out(now);
                Ok(Reply::Done)
            }
            Command::ListProfiles => return Ok(self.list_profiles()),
            Command::NewProfile => self.new_profile(now),
            Command::SwitchProfile(id) => self.switch_profile(&id, now),
            Command::DeleteProfile(id) => self.delete_profile(&id, now),
            Command::Ping { ip, kind, size } => Ok(self.start_ping(ip, kind, size, now)),
            Command::CheckNetwork => {
                self.data.engine.paths_mut().check_network(now);
                Ok(Reply::Done)
            }
        };
        self.plan_due = true;
        self.settle(now, wall);
        reply
    }

    /// The control server said something, in answer to request `id`. Answers to questions of the past are ignored.
    pub fn handle_control(&mut self, id: RequestId, event: ControlEvent, now: Instant, wall: UnixTime) {
        let current = match &self.login {
            Login::Registering { id, .. } | Login::Polling { id, .. } => Some(*id),
            Login::Idle | Login::Waiting { .. } => None,
        };
        if current != Some(id) && !self.updates.is(id) {
            return;
        }
        match event {
            ControlEvent::Registered(answer) => self.handle_registered(*answer, now, wall),
            ControlEvent::RegisterFailed { status, text, retry_after, is_lasting } => {
                let trouble = if is_lasting { Trouble::Lasts } else { Trouble::of_status(status) };
                self.handle_register_failed(status, &text, trouble, retry_after, now);
            }
            ControlEvent::StreamOpened => self.handle_stream_opened(now),
            ControlEvent::Map(message) => self.handle_map(*message, now, wall),
            ControlEvent::StreamEnded { status, reason } => self.handle_stream_ended(status, &reason, now),
            ControlEvent::UpdateDone => self.handle_update_done(),
            ControlEvent::UpdateFailed { reason: _ } => self.handle_update_failed(now),
        }
        self.settle(now, wall);
    }

    /// A relay's name has addresses.
    pub fn handle_resolved(&mut self, name: &str, addrs: Vec<IpAddr>, now: Instant, wall: UnixTime) {
        self.data.engine.paths_mut().resolved(name, addrs, now);
        self.settle(now, wall);
    }

    /// An HTTPS request to a relay region took so long; `None`: it failed.
    pub fn handle_https_latency(&mut self, region: RegionId, latency: Option<Duration>, now: Instant, wall: UnixTime) {
        self.data.engine.paths_mut().https_latency(region, latency, now);
        self.settle(now, wall);
    }

    /// To be called when packets went through [`Node::engine_mut`], so that their news is heard; cheap when there is none.
    pub fn handle_engine(&mut self, now: Instant, wall: UnixTime) {
        if self.hear_engine(now) {
            self.settle(now, wall);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.data.engine.handle_timeout(now);
        if now >= self.checkpoint_at {
            self.checkpoint_at = now + CHECKPOINT;
            if self.plan.next_expiry.is_some() {
                self.persist_now();
            }
        }
        if self.persist_at.is_some_and(|at| at <= now) {
            self.persist_now();
        }
        self.settle(now, wall);
    }

    // outputs

    /// When [`Node::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let login = match &self.login {
            Login::Polling { silent_at, .. } => Some(*silent_at),
            Login::Waiting { until, .. } => Some(*until),
            Login::Idle | Login::Registering { .. } => None,
        };
        let relay_idle = self.relays_used.values().min().map(|used| *used + RELAY_IDLE);
        [
            login,
            self.updates.poll_timeout(),
            self.expiry_at,
            self.persist_at,
            Some(self.checkpoint_at),
            relay_idle,
            self.data.engine.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the shell must do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// News, in order.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// The data plane, for packets. Call [`Node::handle_engine`] after a batch.
    pub fn engine_mut(&mut self) -> &mut warren_engine::Engine {
        &mut self.data.engine
    }

    /// The data plane, to look at.
    pub fn engine(&self) -> &warren_engine::Engine {
        &self.data.engine
    }

    /// The secret behind our node key, by which relays know us.
    pub fn node_secret(&self) -> &warren_crypto::NodeSecret {
        &self.profile().keys.node
    }

    /// Wishes of the active profile.
    pub fn prefs(&self) -> &Prefs {
        &self.profile().prefs
    }

    /// The map in use, fresh or cached.
    pub fn net_map(&self) -> Option<&warren_wire::netmap::NetMap> {
        self.profile().map.as_ref().map(|cached| &cached.map)
    }

    /// The corrected time.
    pub fn time(&self, now: Instant, wall: UnixTime) -> UnixTime {
        self.clock.time(now, wall)
    }

    // commands

    fn start(
        &mut self,
        auth_key: Option<AuthKey>,
        edit: PrefsEdit,
        now: Instant,
        wall: UnixTime,
    ) -> Result<Reply, CommandError> {
        let edit = PrefsEdit { logged_out: Some(false), ..edit };
        if self.profile().prefs.edited(edit.clone())?.control_url.is_empty() {
            return Err(CommandError::NoControlServer);
        }
        let reply = self.edit_prefs(edit)?;
        // Who starts a node waits for word of its state, also where nothing changes.
        self.state_told = None;
        if auth_key.is_some() {
            self.auth_key = auth_key;
        }
        // A page that nobody visited, or a wait, is no reason to keep a person waiting who starts anew; and who starts
        // an expired node wants a new key.
        let is_well = matches!(self.login, Login::Polling { .. }) && !self.self_expired(now, wall);
        if !is_well || self.auth_key.is_some() {
            self.close_control();
            self.failures = 0;
            // Who starts anew reads again what is wrong.
            self.last_error = None;
        }
        Ok(reply)
    }

    fn edit_prefs(&mut self, edit: PrefsEdit) -> Result<Reply, CommandError> {
        let before = self.profile().prefs.clone();
        let after = before.edited(edit)?;
        if after != before {
            let moved = after.control_url != before.control_url || after.control_key != before.control_key;
            self.profile_mut().prefs = after;
            if moved {
                self.close_control();
                if self.profile().keys.registered && !before.control_url.is_empty() {
                    // Another server knows nothing of our key there, and need not be able to link the two.
                    let active = self.active;
                    self.state.profiles[active].forget_identity(&mut self.random);
                    let now = self.last.0;
                    self.use_identity(now);
                }
                self.forget_conversation();
            } else if self.profile().prefs.advertise_tags != before.advertise_tags {
                // Tags are given or refused when a node registers, and then only.
                self.close_control();
                self.failures = 0;
            }
            self.persist_now();
            self.notices.push_back(Notice::Prefs(Box::new(self.profile().prefs.clone())));
        }
        Ok(Reply::Prefs(Box::new(self.profile().prefs.clone())))
    }

    fn login_interactive(&mut self) -> Result<Reply, CommandError> {
        if self.profile().prefs.control_url.is_empty() {
            return Err(CommandError::NoControlServer);
        }
        // A page is open already: show it again.
        if let Some(url) = self.login.auth_url() {
            self.notices.push_back(Notice::BrowseToUrl(url.to_owned()));
            return Ok(Reply::Done);
        }
        self.close_control();
        self.failures = 0;
        self.login_asked = true;
        self.renew_key = self.profile().keys.registered;
        self.profile_mut().prefs.logged_out = false;
        Ok(Reply::Done)
    }

    // derived facts

    pub(crate) fn profile(&self) -> &Profile {
        &self.state.profiles[self.active]
    }

    pub(crate) fn profile_mut(&mut self) -> &mut Profile {
        &mut self.state.profiles[self.active]
    }

    pub(crate) fn use_identity(&mut self, now: Instant) {
        let (node, disco) = (self.profile().keys.node.clone(), self.state.disco.clone());
        self.plan_due = true;
        self.data.set_identity(&node, &disco, now);
    }

    pub(crate) fn persist_now(&mut self) {
        self.persist_at = Some(self.last.0);
    }

    pub(crate) fn persist_by(&mut self, at: Instant) {
        self.persist_at = Some(self.persist_at.map_or(at, |other| other.min(at)));
    }

    /// Brings everything that follows from the facts up to date, in a fixed order: what the engine has to say, the
    /// conversation, the plan, the state file, then the news of it.
    fn settle(&mut self, now: Instant, wall: UnixTime) {
        self.last = (now, wall);
        self.hear_engine(now);
        self.pump_login(now, wall);
        self.pump_updates(now);
        let is_reachable = self.map_is_live();
        self.data.engine.paths_mut().control_reachable(is_reachable);
        self.apply_plan(now, wall);
        self.hear_engine(now);
        self.tell_relays(now);
        if self.persist_at.is_some_and(|at| at <= now) {
            self.persist_at = None;
            self.state.clock = self.clock.remember(now, wall);
            // A request must not overtake the key that it speaks of: what is to be written goes first, and only once.
            self.actions.retain(|action| !matches!(action, Action::Persist(_)));
            self.actions.push_front(Action::Persist(Box::new(self.state.clone())));
        }
        self.tell_state(now, wall);
    }

    /// Plans anew if something changed, or if the clock (of whatever cause) has passed the end of a key.
    fn apply_plan(&mut self, now: Instant, wall: UnixTime) {
        let time = self.clock.time(now, wall);
        let key_ended = self.plan.next_expiry.is_some_and(|expiry| expiry <= time);
        if !std::mem::take(&mut self.plan_due) && !key_ended {
            return;
        }
        let profile = self.profile();
        let registered = profile.keys.registered;
        let map = profile.map.as_ref().map(|cached| &cached.map).filter(|_| registered);
        let next = plan(&profile.prefs, map, time, self.mtu);
        self.data.set(&next.engine, now);
        if !self.host_told || next.host != self.plan.host {
            self.host_told = true;
            self.actions.push_back(Action::ConfigureHost(next.host.clone()));
        }
        self.expiry_at = next.next_expiry.and_then(|expiry| self.clock.instant_of(expiry)).map(|at| at.max(now));
        self.plan = next;
    }

    fn tell_relays(&mut self, now: Instant) {
        self.relays_used.retain(|_, used| now.saturating_duration_since(*used) < RELAY_IDLE);
        let known = &self.plan.engine.relay_map.regions;
        let home = self.home.filter(|region| known.contains_key(region));
        let used = self.relays_used.keys().filter(|region| known.contains_key(region));
        let wanted: BTreeSet<RegionId> = used.copied().chain(home).collect();
        let told = Some((home, wanted));
        if self.relays_told != told {
            if let Some((home, wanted)) = told.clone()
                && (self.relays_told.is_some() || !wanted.is_empty())
            {
                self.actions.push_back(Action::Relays { home, wanted });
            }
            self.relays_told = told;
        }
    }

    fn tell_state(&mut self, now: Instant, wall: UnixTime) {
        let state = self.backend_state(now, wall);
        if self.state_told != Some(state) {
            self.state_told = Some(state);
            self.notices.push_back(Notice::State(state));
        }
        let health = self.health(now, wall);
        let codes = |items: &[HealthItem]| items.iter().map(|item| item.code.clone()).collect::<Vec<_>>();
        // Texts contain ages that change every second; only what is wrong is news.
        if codes(&health) != codes(&self.health_told) {
            self.health_told.clone_from(&health);
            self.notices.push_back(Notice::Health(health));
        }
    }
}
