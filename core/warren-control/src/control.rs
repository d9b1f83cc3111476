//! The whole control server as one value.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_crypto::UnixTime;
use warren_wire::{DnsRecord, MapRequest, NodeId, RelayMap, UserId};

use crate::approvals;
use crate::attributes::has_due_attribute;
use crate::clones::ChannelId;
use crate::command::{Command, What};
use crate::dns;
use crate::event::{Event, Impact, impact};
use crate::gap::Gaps;
use crate::offers::{Offered, Questions};
use crate::operator_nodes::is_due;
use crate::pending::{AuthId, Pending, Waiting};
use crate::presence::{Deadlines, Presence, Present, is_connected};
use crate::records;
use crate::register::cut;
use crate::registry::{Registry, RowsError};
use crate::routers::{Duties, Routers};
use crate::routes::{self, Serving};
use crate::rows::{Node, Revision, Rows, SoftRow};
use crate::services;
use crate::settings::Settings;
use crate::shown::{Pages, Shown};
use crate::snapshot::{Snapshot, Touched, Turn};
use crate::staged::{Batch, Draft};
use crate::table::Table;
use crate::tags::RefusedTags;
use crate::visibility::{self, Reach};

/// How often keys are looked at for expiry. Clients know the time of expiry themselves; this is for what they cannot.
const EXPIRY_TICK: Duration = Duration::from_secs(5);

/// A node's name follows its host name at most this often: each time is a commit and a line of the audit table, and one
/// machine that changes its mind all the time must not fill the disk.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

/// How many pictures a session may fall behind before it is sent a whole map: at 20 a second, 50 s.
const MOST_TURNS: usize = 1024;

/// The registry with its presence: one writer owns it. See the crate's front page for how to drive it.
#[derive(Debug)]
pub struct Control {
    settings: Arc<Settings>,
    state: Draft,
    presence: Presence,
    asks: VecDeque<Command>,
    /// Nodes whose host name was followed a moment ago, and when it is looked at again.
    followed: Deadlines,
    next_tick: Instant,
    published: Arc<Snapshot>,
    /// Nodes whose record may differ from the published one.
    stale_nodes: BTreeSet<NodeId>,
    stale_users: BTreeSet<UserId>,
    stale_reach: bool,
    stale_relays: bool,
    stale_dns: bool,
    stale_rows: bool,
    routers: Routers,
    /// About the services that nodes offer.
    questions: Questions,
    /// The latest time that was heard of.
    now: Instant,
}

/// A batch that was decided on another state than the present one; nothing was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch of revision {} does not follow revision {}", .base.0, .present.0)]
pub struct Stale {
    /// What the batch was decided on.
    pub base: Revision,
    /// What the control server holds.
    pub present: Revision,
}

impl Control {
    /// Folds loaded rows into a server on which nobody is connected.
    ///
    /// # Errors
    /// [`RowsError`]: settings that cannot work, rows that no server wrote, a policy that does not compile.
    pub fn from_rows(rows: &Rows, settings: Settings, now: Instant) -> Result<Self, RowsError> {
        settings.check()?;
        let registry = Registry::from_rows(rows, &settings)?;
        let policy = rows.policy.as_ref().map(|policy| policy.text.as_str());
        let policy = visibility::parse(policy).map_err(RowsError::Policy)?;
        let mut presence = Presence::from_rows(&rows.soft);
        for node in registry.nodes().filter(|node| node.ephemeral) {
            presence.watch_away(node.id, settings.ephemeral_timeout, now);
        }
        let settings = Arc::new(settings);
        let state = Draft { registry, pending: Pending::default(), refused_tags: RefusedTags::default(), policy };
        let mut routers = Routers::default();
        for node in state.registry.nodes() {
            let present = presence.get(node.id).map(|present| &**present);
            routers.set(node.id, duties(node, present, &state.registry), false);
        }
        let serving = routers.elect(settings.probing, now).unwrap_or_default();
        let published = first_picture(&settings, &state, &presence, serving);
        Ok(Self {
            settings,
            state,
            presence,
            asks: VecDeque::new(),
            followed: Deadlines::default(),
            next_tick: now,
            published: Arc::new(published),
            stale_nodes: BTreeSet::new(),
            stale_users: BTreeSet::new(),
            stale_reach: false,
            stale_relays: false,
            stale_dns: false,
            stale_rows: false,
            routers,
            questions: Questions::default(),
            now,
        })
    }

    /// A map stream of `node` has begun on this channel of its machine.
    pub fn handle_stream_started(&mut self, node: NodeId, channel: ChannelId, now: Instant) {
        self.now = now;
        if self.state.registry.node(node).is_some() {
            self.presence.session_started(node, channel, now);
            self.routers.handle_answer(node);
        }
    }

    /// A map stream of `node` has ended. Every start has exactly one end, and it comes after the start.
    pub fn handle_stream_ended(&mut self, node: NodeId, channel: ChannelId, now: Instant, wall: UnixTime) {
        self.now = now;
        let Some(row) = self.state.registry.node(node) else { return };
        let remove_after = row.ephemeral.then_some(self.settings.ephemeral_timeout);
        self.presence.session_ended(node, channel, remove_after, now, wall);
        let known = self.presence.known();
        if !is_connected(&known, node) {
            self.questions.forget(node);
        }
    }

    /// Takes in what a map request of `node` says (streaming, lite or one-shot). Returns whether anything was new.
    /// The caller has found the node by machine and node key ([`Snapshot::node_of`]).
    pub fn handle_map_request(&mut self, node: NodeId, channel: ChannelId, request: &MapRequest, now: Instant) -> bool {
        let Some(row) = self.state.registry.node(node) else { return false };
        if request.read_only {
            return false;
        }
        let row = Arc::clone(row);
        self.now = now;
        let before = self.presence.get(node).cloned();
        let Some(is_new) = self.presence.hear_request(node, channel, request, now) else { return false };
        if request.hostinfo.is_some() {
            self.follow_hostname(node, now);
        }
        let after = self.presence.get(node).map(|present| &**present);
        let announced = routes::announced(after);
        if is_new
            && routes::announced(before.as_deref()) != announced
            && !approvals::fresh(&self.state.policy, &self.state.registry, &row, announced).is_empty()
        {
            self.asks.push_back(Command::by_server(What::ApproveAnnounced { node }));
        }
        self.look_at_offers(node, now);
        is_new
    }

    /// A node answered what services it offers, after [`Control::poll_question`] asked.
    pub fn handle_offered(&mut self, node: NodeId, offered: Offered, now: Instant) {
        self.now = now;
        let Some(row) = self.state.registry.node(node).cloned() else { return };
        if !self.presence.hear_offered(node, offered) {
            return;
        }
        self.look_at_offers(node, now);
        let Some(present) = self.presence.get(node) else { return };
        if !approvals::fresh_services(&self.state.policy, &self.state.registry, &row, &present.offered).is_empty() {
            self.asks.push_back(Command::by_server(What::ApproveAnnounced { node }));
        }
    }

    /// Asks for another name where the machine has another host name, unless that was asked for a moment ago.
    fn follow_hostname(&mut self, node: NodeId, now: Instant) {
        let (Some(row), Some(present)) = (self.state.registry.node(node), self.presence.get(node)) else { return };
        let hostname = present.hostinfo.hostname.as_str();
        if hostname.is_empty() || cut(hostname, 255) == row.hostname || self.followed.contains(node) {
            return;
        }
        let what = What::FollowHostname { node, hostname: hostname.to_owned() };
        self.asks.push_back(Command::by_server(what));
        self.followed.set(node, now + FOLLOW_EVERY);
    }

    /// A router showed a sign of life after [`Control::poll_probe`] asked for one.
    pub fn handle_probe_answer(&mut self, node: NodeId) {
        self.routers.handle_answer(node);
    }

    /// Time passed: graces end, ephemeral nodes become due, keys expire.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.now = now;
        self.routers.handle_timeout(self.settings.probing, now);
        self.questions.handle_timeout(now);
        for node in self.presence.handle_timeout(now) {
            self.asks.push_back(Command::by_server(What::RemoveAway { node }));
        }
        for node in self.followed.take_due(now) {
            self.follow_hostname(node, now);
        }
        if now >= self.next_tick {
            self.next_tick = now + EXPIRY_TICK;
            if self.state.registry.nodes().any(|node| is_due(node, wall) || has_due_attribute(node, wall)) {
                self.asks.push_back(Command::by_server(What::ExpireDue));
            }
        }
    }

    /// Makes a committed batch the state. Answers of its commands may leave afterwards.
    ///
    /// # Errors
    /// [`Stale`], which means that two batches were open at once: a mistake of the caller.
    pub fn apply(&mut self, batch: Batch, now: Instant) -> Result<(), Stale> {
        let present = self.state.registry.revision();
        if batch.base != present {
            return Err(Stale { base: batch.base, present });
        }
        self.now = now;
        self.state = batch.state;
        self.stale_rows |= !batch.rows.is_empty();
        for event in &batch.events {
            self.follow(event, now);
        }
        for said in &batch.said {
            if self.state.registry.node(said.node).is_some() {
                self.presence.hear_registration(said);
            }
        }
        Ok(())
    }

    /// Other relays, from now on.
    pub fn set_relay_map(&mut self, relay_map: RelayMap) {
        if self.settings.relay_map != relay_map {
            self.settings = Arc::new(Settings { relay_map, ..Settings::clone(&self.settings) });
            self.stale_relays = true;
        }
    }

    /// Other names beside those of nodes, from now on.
    pub fn set_extra_records(&mut self, extra_records: Vec<DnsRecord>) {
        if self.settings.dns.extra_records != extra_records {
            let mut settings = Settings::clone(&self.settings);
            settings.dns.extra_records = extra_records;
            self.settings = Arc::new(settings);
            self.stale_dns = true;
        }
    }

    /// Makes a new picture if anything changed that a reader could see. Call it after a batch, or some tens of times a
    /// second, never per change: every session looks at every picture.
    pub fn publish(&mut self) -> Option<Arc<Snapshot>> {
        self.stale_nodes.append(&mut self.presence.take_untold());
        let is_fresh = self.stale_nodes.is_empty()
            && self.stale_users.is_empty()
            && !self.stale_reach
            && !self.stale_relays
            && !self.stale_dns
            && !self.routers.is_stale()
            && !self.stale_rows;
        if is_fresh {
            return None;
        }
        let mut picture = Snapshot::clone(&self.published);
        picture.seq += 1;
        picture.settings = Arc::clone(&self.settings);
        picture.registry = self.state.registry.clone();
        picture.known = self.presence.known();
        let mut nodes = Vec::new();
        for node in std::mem::take(&mut self.stale_nodes) {
            self.stale_reach |= self.look_at_routes(node);
            self.stale_reach |= self.has_other_posture(node);
            let before = picture.records.get(&node).cloned();
            let after = self.record(node);
            if before.as_deref().map(|before| &**before) == after.as_ref() {
                continue;
            }
            match after.and_then(Shown::new) {
                Some(record) => picture.records.insert(node, record),
                None => picture.records.remove(&node),
            };
            nodes.push(Touched { node, before });
        }
        picture.pages.renew(&picture.records, nodes.iter().map(|touched| touched.node));
        if std::mem::take(&mut self.stale_reach) {
            picture.reach = Reach::new(&self.state.policy, &picture.registry, &picture.known);
            picture.reach_seq = picture.seq;
        }
        if let Some(serving) = self.routers.elect(self.settings.probing, self.now)
            && *picture.serving != serving
        {
            picture.serving = Arc::new(serving);
            picture.serving_seq = picture.seq;
        }
        if std::mem::take(&mut self.stale_relays) {
            picture.relay_map = Arc::new(self.settings.relay_map.clone());
        }
        if std::mem::take(&mut self.stale_dns) {
            picture.dns = Arc::new(dns::config(&self.settings));
        }
        self.stale_rows = false;
        let users = std::mem::take(&mut self.stale_users).into_iter().collect();
        picture.turns.push_back(Arc::new(Turn { seq: picture.seq, nodes, users }));
        if picture.turns.len() > MOST_TURNS {
            picture.turns.pop_front();
        }
        self.published = Arc::new(picture);
        Some(Arc::clone(&self.published))
    }

    /// What the server itself wants decided; call until `None`, and decide these like any other command.
    pub fn poll_ask(&mut self) -> Option<Command> {
        self.asks.pop_front()
    }

    /// What the server itself wanted ([`Control::poll_ask`]) was granted, but not committed: it is wanted still.
    pub fn handle_not_committed(&mut self, command: Command) {
        match command.what {
            What::RemoveAway { node } => self.presence.watch_away(node, Duration::ZERO, self.now),
            What::ApproveAnnounced { node } => {
                let is_same =
                    |ask: &Command| matches!(ask.what, What::ApproveAnnounced { node: other } if other == node);
                if !self.asks.iter().any(is_same) {
                    self.asks.push_back(command);
                }
            }
            // The next tick finds what is due, and a host name is looked at again soon.
            _ => {}
        }
    }

    /// A node that must show within [`crate::Probing::answer_within`] that it is there: ask it for a sign of life over its
    /// map stream, and say so when one came ([`Control::handle_probe_answer`]). Call until `None`.
    pub fn poll_probe(&mut self) -> Option<NodeId> {
        self.routers.poll_probe()
    }

    /// A node that must be asked what services it offers (c2n `/vip-services`); the answer goes to
    /// [`Control::handle_offered`]. Who is silent is asked again. Call until `None`.
    pub fn poll_question(&mut self) -> Option<NodeId> {
        self.questions.poll_ask()
    }

    /// When [`Control::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let others = self.presence.poll_timeout().into_iter().chain(self.routers.poll_timeout());
        let others = others.chain(self.followed.first()).chain(self.questions.poll_timeout());
        others.fold(self.next_tick, Instant::min)
    }

    /// Soft facts to be stored, without haste: every second or so, and at the end. After a crash nodes say most of
    /// them again; the home relay is what a stock client would not repeat.
    pub fn take_soft(&mut self) -> Vec<SoftRow> {
        self.presence.take_unsaved()
    }

    /// The last picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published)
    }

    /// The registry as of the last batch applied.
    pub fn registry(&self) -> &Registry {
        &self.state.registry
    }

    /// What nodes said, and who is there.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The settings in force.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// A registration that waits for a person (or what became of it), while its link is good.
    pub fn waiting(&self, id: AuthId, now: UnixTime) -> Option<&Waiting> {
        self.state.pending.get(id, now)
    }

    /// All registrations that wait.
    pub fn all_waiting(&self, now: UnixTime) -> Vec<(AuthId, Waiting)> {
        self.state.pending.undecided(now).map(|(id, waiting)| (id, waiting.clone())).collect()
    }

    /// The registrations that wait, to look things up in.
    pub fn pending(&self) -> Pending {
        self.state.pending.clone()
    }

    pub(crate) fn draft(&self) -> Draft {
        self.state.clone()
    }

    /// Whether the device says other things of itself than it did, on which rules may turn.
    fn has_other_posture(&self, node: NodeId) -> bool {
        let said = |known: Option<&Arc<Present>>| known.map(|present| visibility::attributes(&present.hostinfo));
        said(self.published.known.get(&node)) != said(self.presence.get(node))
    }

    /// Holds what a node says that it offers against what is known of it.
    fn look_at_offers(&mut self, node: NodeId, now: Instant) {
        let Some(present) = self.presence.get(node).cloned() else { return };
        let (said, known) = (&present.hostinfo.services_hash, &present.offered.hash);
        if self.questions.hear(node, said, known, now) {
            self.presence.hear_offered(node, Offered::default());
        }
    }

    /// Tells the routers what a node serves now. Returns whether that changed, which filters may speak of.
    fn look_at_routes(&mut self, node: NodeId) -> bool {
        let present = self.presence.get(node).map(|present| &**present);
        let registry = &self.state.registry;
        let duties = registry.node(node).map(|row| duties(row, present, registry)).unwrap_or_default();
        self.routers.set(node, duties, present.is_some_and(|present| present.online))
    }

    fn record(&self, node: NodeId) -> Option<warren_wire::Node> {
        let row = self.state.registry.node(node)?;
        let present = self.presence.get(node).map(|present| &**present);
        records::peer_record(row, present, &self.settings)
    }

    /// Notes what an event makes stale, and what presence must do about it.
    fn follow(&mut self, event: &Event, now: Instant) {
        match event {
            Event::NodeAdded(node) | Event::NodeRekeyed(node) if node.ephemeral => {
                self.presence.watch_away(node.id, self.settings.ephemeral_timeout, now);
            }
            // Its time to come back ran out while it was kept out, and was of no effect.
            Event::NodeApproved(id) if self.state.registry.node(*id).is_some_and(|node| node.ephemeral) => {
                self.presence.watch_away(*id, self.settings.ephemeral_timeout, now);
            }
            Event::NodeRemoved(node) => {
                self.presence.forget(*node);
                self.questions.forget(*node);
            }
            Event::ServiceChanged { hosts, .. } => self.stale_nodes.extend(hosts),
            _ => {}
        }
        match impact(event) {
            Impact::Nobody => {}
            Impact::PeersOf(node) => {
                self.stale_nodes.insert(node);
            }
            Impact::Reach(node) => {
                self.stale_nodes.insert(node);
                self.stale_reach = true;
            }
            Impact::WhoSees(user) => {
                self.stale_users.insert(user);
                self.stale_reach = true;
            }
            Impact::Everyone => self.stale_reach = true,
        }
    }
}

fn duties(node: &Node, present: Option<&Present>, registry: &Registry) -> Duties {
    Duties { networks: routes::served(node, present), services: services::hosted(node, present, registry) }
}

fn first_picture(settings: &Arc<Settings>, state: &Draft, presence: &Presence, serving: Serving) -> Snapshot {
    let mut records = Table::default();
    for node in state.registry.nodes() {
        let present = presence.get(node.id).map(|present| &**present);
        if let Some(record) = records::peer_record(node, present, settings).and_then(Shown::new) {
            records.insert(node.id, record);
        }
    }
    Snapshot {
        seq: 1,
        settings: Arc::clone(settings),
        registry: state.registry.clone(),
        known: presence.known(),
        pages: Pages::of(&records),
        records,
        reach: Reach::new(&state.policy, &state.registry, &presence.known()),
        reach_seq: 1,
        serving: Arc::new(serving),
        serving_seq: 1,
        relay_map: Arc::new(settings.relay_map.clone()),
        dns: Arc::new(dns::config(settings)),
        turns: VecDeque::from([Arc::new(Turn { seq: 1, nodes: Vec::new(), users: Vec::new() })]),
        gaps: Gaps::default(),
    }
}
