//! [`Lab`]: the cores on their hosts, under one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_control::What;
use warren_crypto::Random;
use warren_node::{AuthKey, Command, Node};
use warren_path::PathStatus;
use warren_simnet::{Arrival, Firewall, Link};
use warren_wire::netmap::equivalent;
use warren_wire::{RegionId, RelayMap};

use crate::control_host::{ControlHost, Crash};
use crate::model::NodeNo;
use crate::node_host::NodeHost;
use crate::relay_host::RelayHost;
use crate::secrets::Secrets;
use crate::step::Step;
use crate::world::World;

/// A map is written to disk at most so long after it came.
const WRITTEN_BY: Duration = Duration::from_secs(6);
/// From a person's wish to sign in anew to the page on which an operator approves.
const PAGE_BY: Duration = Duration::from_secs(2);

/// A crash that was asked for has come and is over.
const CRASHED_BY: Duration = Duration::from_secs(20);

/// A whole world.
pub struct Lab {
    pub world: World,
    control: ControlHost,
    relay: RelayHost,
    nodes: Vec<NodeHost>,
    random: Random,
    /// Who a datagram is from and to, by its number.
    sent: Vec<(NodeNo, NodeNo)>,
    /// The mesh addresses that each machine had first: they are its own for ever.
    addresses: BTreeMap<NodeNo, Vec<IpAddr>>,
    /// Nodes that the server forgot and that are not back. One that was not attached when it happened keeps what it had until a
    /// person lets it in again, and may do nothing with it.
    forgotten: BTreeSet<NodeNo>,
    secrets: Secrets,
}

impl Lab {
    /// `collects_log`: whether everything that goes through the cores is written down, for [`Lab::check_secrets`].
    pub fn new(seed: u64, collects_log: bool) -> Lab {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut random = Random::from_seed(bytes);
        let mut world = World::new(seed, collects_log);
        let relay = RelayHost::new(&mut world, RegionId(900), Link::default(), random.fork());
        let regions = BTreeMap::from([(relay.region, relay.description(&world))]);
        let relay_map = RelayMap { regions, ..RelayMap::default() };
        let control = ControlHost::new(&mut world, relay_map, random.fork());
        let mut lab = Lab {
            world,
            control,
            relay,
            nodes: Vec::new(),
            random,
            sent: Vec::new(),
            addresses: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            secrets: Secrets::default(),
        };
        lab.show_news();
        lab
    }

    fn now(&self) -> Instant {
        self.world.now()
    }

    pub fn elapsed(&self) -> Duration {
        self.world.elapsed()
    }

    /// Makes it happen. What follows from it takes its time ([`Lab::run`]).
    pub fn apply(&mut self, step: &Step, user_of: impl Fn(NodeNo) -> usize) {
        let Lab { world, control, relay, nodes, .. } = self;
        match step {
            Step::Join { .. } => self.join(step),
            Step::Leave(node) => nodes[node.0].command(world, Command::Logout),
            Step::Renew(node) => {
                self.forgotten.remove(node);
                let key = self.join_key(user_of(*node));
                self.nodes[node.0].up(&mut self.world, Some(key));
            }
            Step::Rotate(node) => {
                nodes[node.0].command(world, Command::LoginInteractive);
                self.run(PAGE_BY);
                let target = self.nodes[node.0].node().and_then(Node::control_target);
                if let Some(target) = target {
                    self.control.approve(&mut self.world, target.machine.public(), user_of(*node));
                }
            }
            Step::Kill(node) => {
                self.run(WRITTEN_BY);
                self.nodes[node.0].kill(&mut self.world);
            }
            Step::Start(node) => nodes[node.0].start(world),
            Step::NewDisco(node) => {
                self.run(WRITTEN_BY);
                let Lab { world, nodes, .. } = self;
                let node = &mut nodes[node.0];
                node.kill(world);
                node.replace_disco_key();
                node.start(world);
            }
            Step::Roam(node, place) => {
                let segment = world.segment(*place, node.0);
                world.internet.move_host(nodes[node.0].host, segment);
                nodes[node.0].moved(world);
            }
            Step::Cut(node) => world.internet.host_mut(nodes[node.0].host).link.is_up = false,
            Step::Heal(node) => world.internet.host_mut(nodes[node.0].host).link.is_up = true,
            Step::BlockUdp(node) => world.internet.host_mut(nodes[node.0].host).firewall = Firewall::UdpBlocked,
            Step::AllowUdp(node) => world.internet.host_mut(nodes[node.0].host).firewall = Firewall::Open,
            Step::SetClock(node, hours) => nodes[node.0].set_clock(world, i64::from(*hours) * 3600),
            Step::ControlDown => control.kill(world),
            Step::ControlUp => control.start(world),
            Step::RelayDown => relay.kill(world),
            Step::RelayUp => relay.start(world),
            Step::Expire(node) => {
                let key = nodes[node.0].key();
                let known = control
                    .control()
                    .zip(key)
                    .and_then(|(control, key)| control.registry().node_by_key(&key).map(|node| node.id));
                if let Some(node) = known {
                    control.operate(world, What::ExpireNode { node, at: None });
                }
            }
            Step::Delete { node, crash } => {
                if let Some(id) = self.id_of(*node) {
                    self.operate_through(What::DeleteNode { node: id }, *crash);
                    // Whoever comes next may have them.
                    self.addresses.remove(node);
                    self.forgotten.insert(*node);
                }
            }
            Step::Move { node, user, crash } => {
                if let (Some(id), Some(user)) = (self.id_of(*node), self.control.user(*user)) {
                    self.operate_through(What::MoveNode { node: id, user }, *crash);
                }
            }
            Step::Policy(rules) => drop(control.operate(world, What::ReplacePolicy { text: rules.text() })),
            Step::Wait(time) => self.run(*time),
            Step::Talk(..) => {}
        }
        self.show_news();
    }

    fn join(&mut self, step: &Step) {
        let Step::Join { user, place, v4, v6, crash } = step else { return };
        let segment = self.world.segment(*place, self.nodes.len());
        let host = self.world.internet.add_host(segment, *v4, *v6, ());
        let number = u16::try_from(self.nodes.len()).expect("few machines");
        let mut node = NodeHost::new(host, number, self.control.addrs(&self.world), self.random.fork());
        node.start(&mut self.world);
        let key = self.join_key(*user);
        if let Some(crash) = crash {
            self.control.crash_with_next_commit(*crash);
        }
        node.up(&mut self.world, Some(key));
        self.nodes.push(node);
        self.run_until(CRASHED_BY, |lab| !lab.control.is_crashing());
        self.control.do_not_crash();
    }

    fn id_of(&self, node: NodeNo) -> Option<warren_wire::NodeId> {
        let (control, key) = (self.control.control()?, self.nodes[node.0].key()?);
        control.registry().node_by_key(&key).map(|node| node.id)
    }

    /// An operator wants something, and wants it again when the server is back from a crash that it met.
    fn operate_through(&mut self, what: What, crash: Option<Crash>) {
        let Lab { world, control, .. } = self;
        if let Some(crash) = crash {
            if control.operate_into(world, what.clone(), crash) {
                self.run_until(CRASHED_BY, |lab| !lab.control.is_crashing());
            }
            // What was committed and not answered may be done already.
            self.control.try_to_operate(&mut self.world, what);
        } else {
            control.operate(world, what);
        }
    }

    fn join_key(&mut self, user: usize) -> AuthKey {
        let text = self.control.one_off_key(&mut self.world, user);
        self.secrets.add_join_key(&text);
        AuthKey::new(&text)
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until something is so, at most for `time`. Returns whether it is.
    pub fn run_until(&mut self, time: Duration, is_so: impl Fn(&Lab) -> bool) -> bool {
        let limit = self.now() + time;
        loop {
            if is_so(self) {
                return true;
            }
            let next = [self.next_timeout(), self.world.internet.next_at()].into_iter().flatten().min();
            let next = next.unwrap_or(limit).min(limit);
            if let Some(arrival) = self.world.internet.advance(next) {
                self.arrive(arrival);
                self.show_news();
                continue;
            }
            let was_due = self.fire(next);
            self.show_news();
            if next >= limit && !was_due && self.world.internet.next_at().is_none_or(|at| at > limit) {
                return is_so(self);
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let nodes = self.nodes.iter().filter_map(NodeHost::poll_timeout);
        nodes.chain(self.control.poll_timeout()).chain(self.relay.poll_timeout()).min()
    }

    /// Does what is due; returns whether anything was.
    fn fire(&mut self, now: Instant) -> bool {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut any = false;
        for node in &mut self.nodes {
            if is_due(node.poll_timeout()) {
                any = true;
                node.handle_timeout(&mut self.world);
            }
        }
        if is_due(self.control.poll_timeout()) {
            any = true;
            self.control.handle_timeout(&mut self.world);
        }
        if is_due(self.relay.poll_timeout()) {
            any = true;
            self.relay.handle_timeout(&mut self.world);
        }
        any
    }

    fn arrive(&mut self, arrival: Arrival) {
        let Lab { world, control, relay, nodes, .. } = self;
        let host = match &arrival {
            Arrival::Datagram { host, .. } | Arrival::Stream { host, .. } => *host,
        };
        let node = nodes.iter_mut().find(|node| node.host == host);
        match (arrival, node) {
            (Arrival::Datagram { src, bytes, .. }, Some(node)) => node.handle_datagram(world, src, bytes),
            (Arrival::Stream { event, .. }, Some(node)) => node.handle_stream(world, event),
            (Arrival::Stream { event, .. }, None) if host == control.host => control.handle_stream(world, event),
            (Arrival::Datagram { src, dst, bytes, .. }, None) if relay.is(host) => {
                relay.handle_datagram(world, host, src, dst, &bytes);
            }
            (Arrival::Stream { event, .. }, None) if relay.is(host) => relay.handle_stream(world, event),
            _ => {}
        }
    }

    /// What the control server publishes reaches the relay at once.
    fn show_news(&mut self) {
        if let Some(snapshot) = self.control.take_news() {
            self.relay.handle_snapshot(&mut self.world, snapshot);
        }
    }

    /// Sends one datagram from a program on one host to a port of another; its number finds it again.
    pub fn send(&mut self, from: NodeNo, to: NodeNo, port: u16) -> u64 {
        let number = self.sent.len() as u64;
        self.sent.push((from, to));
        self.learn_addresses();
        // The same two programs talk every time, so that a rule taken away meets a flow that runs.
        let own_port = 40_000 + u16::try_from(from.0 * 100 + to.0).unwrap_or(0);
        if let Some(target) = self.addresses.get(&to).and_then(|addrs| addrs.first().copied()) {
            self.nodes[from.0].ask(&mut self.world, own_port, target, port, number);
        }
        number
    }

    fn ends(&self, number: u64) -> Option<(NodeNo, NodeNo)> {
        usize::try_from(number).ok().and_then(|index| self.sent.get(index)).copied()
    }

    pub fn was_received(&self, number: u64) -> bool {
        self.ends(number).is_some_and(|(_, to)| self.nodes[to.0].times_received(number, false) > 0)
    }

    pub fn was_echoed(&self, number: u64) -> bool {
        self.ends(number).is_some_and(|(from, _)| self.nodes[from.0].times_received(number, true) > 0)
    }

    /// By which way `a` reaches `b` now.
    pub fn path(&self, a: NodeNo, b: NodeNo) -> Option<PathStatus> {
        let (node, peer) = (self.nodes[a.0].node()?, self.nodes[b.0].key()?);
        Some(node.engine().paths().path_of(&peer, self.now()))
    }

    pub fn direct_path_possible(&self, a: NodeNo, b: NodeNo) -> bool {
        self.world.internet.direct_path_possible(self.nodes[a.0].host, self.nodes[b.0].host)
    }

    /// The peers that a node's engine has, by number. `None`: the node is not up, has no stream to its server, or has a
    /// peer that is nobody's.
    pub fn peers_of(&self, node: NodeNo) -> Option<BTreeSet<NodeNo>> {
        let (host, control) = (&self.nodes[node.0], self.control.control()?);
        let id = control.registry().node_by_key(&host.key()?)?.id;
        if host.mesh_addrs.is_empty() || control.presence().get(id).is_none_or(|present| !present.online) {
            return None;
        }
        let running = host.node()?;
        let keys = running.net_map()?.peers.values().map(|peer| peer.key);
        let in_engine = keys.filter(|key| running.engine().peer_stats(key, self.now()).is_some());
        // A key of the past belongs to nobody: it must not be in the engine at all.
        in_engine.map(|key| self.nodes.iter().position(|other| other.key() == Some(key)).map(NodeNo)).collect()
    }

    /// Whether a node holds exactly the map that the control server would make for it now. `None`: one of them is dead.
    pub fn holds_its_map(&self, node: NodeNo) -> Option<bool> {
        let (control, host) = (self.control.control()?, &self.nodes[node.0]);
        let snapshot = control.snapshot();
        let id = snapshot.registry().node_by_key(&host.key()?)?.id;
        let truth = snapshot.netmap_for(id).ok()?;
        let held = host.node()?.net_map()?;
        let truth = truth.as_seen_by(warren_wire::CapabilityVersion::OUR_NODE);
        Some(equivalent(held, &truth))
    }

    /// What a node shows its person.
    pub fn says(&self, node: NodeNo) -> String {
        let host = &self.nodes[node.0];
        let status = host.node().map(|node| node.status(self.world.now(), host.wall(&self.world)));
        status.map_or_else(|| "nothing, it does not run".to_owned(), |status| format!("{status:?}"))
    }

    /// Whether the control server knows at which relay a node listens.
    pub fn home_is_told(&self, node: NodeNo) -> bool {
        let (Some(control), Some(key)) = (self.control.control(), self.nodes[node.0].key()) else { return false };
        let id = control.registry().node_by_key(&key).map(|node| node.id);
        id.and_then(|id| control.presence().get(id)).is_some_and(|present| present.home().is_some())
    }

    /// The first addresses of each machine, which must stay.
    fn learn_addresses(&mut self) {
        let forgotten = &self.forgotten;
        let is_in =
            |(index, host): &(usize, &NodeHost)| !host.mesh_addrs.is_empty() && !forgotten.contains(&NodeNo(*index));
        for (index, host) in self.nodes.iter().enumerate().filter(is_in) {
            self.addresses.entry(NodeNo(index)).or_insert_with(|| host.mesh_addrs.clone());
        }
    }

    // Checks that need no model.

    /// A node that was deleted, could learn of it, and shows its addresses still. `can_learn`: it can reach the server.
    pub fn clings_to_addresses(&mut self, can_learn: impl Fn(NodeNo) -> bool) -> Option<NodeNo> {
        let nodes = &self.nodes;
        // Who has given them up is a node like any other again: what it gets next is its own.
        self.forgotten.retain(|node| !nodes[node.0].mesh_addrs.is_empty());
        self.forgotten.iter().copied().find(|node| can_learn(*node))
    }

    /// Addresses are one's own, and stay. Nodes that do not know yet that they were deleted are left out
    /// ([`Lab::clings_to_addresses`]).
    ///
    /// # Errors
    /// In words.
    pub fn check_addresses(&mut self) -> Result<(), String> {
        self.learn_addresses();
        let forgotten = &self.forgotten;
        let is_in =
            |(index, host): &(usize, &NodeHost)| !host.mesh_addrs.is_empty() && !forgotten.contains(&NodeNo(*index));
        for (index, host) in self.nodes.iter().enumerate().filter(is_in) {
            let known = self.addresses.get(&NodeNo(index));
            if known != Some(&host.mesh_addrs) {
                return Err(format!("node {index} had {known:?} and has {:?}", host.mesh_addrs));
            }
        }
        let all: Vec<IpAddr> = self.addresses.values().flatten().copied().collect();
        if all.iter().collect::<BTreeSet<_>>().len() != all.len() {
            return Err(format!("two nodes share an address: {:?}", self.addresses));
        }
        Ok(())
    }

    /// No datagram came twice, no packet of a stranger's address was accepted, and what is counted adds up.
    ///
    /// # Errors
    /// In words.
    pub fn check_counters(&self) -> Result<(), String> {
        for (index, host) in self.nodes.iter().enumerate() {
            if let Some((received, times)) = host.repeated() {
                return Err(format!("node {index} was given {received:?} {times} times"));
            }
            let Some(node) = host.node() else { continue };
            let counters = node.engine().counters();
            use warren_engine::DropReason as Reason;
            for never in [Reason::NotIp, Reason::SourceNotOwnedByPeer, Reason::OwnDisco, Reason::NotAMessage] {
                if counters.dropped(never) > 0 {
                    return Err(format!("node {index} dropped packets for {}: {counters:?}", never.name()));
                }
            }
            if counters.bytes_in < counters.packets_in * 20 || counters.bytes_out < counters.packets_out * 20 {
                return Err(format!("node {index} counts bytes that do not fit its packets: {counters:?}"));
            }
        }
        self.relay.check()
    }

    /// Nothing secret stands in anything that a program could have logged.
    ///
    /// # Errors
    /// What it was, without the secret.
    pub fn check_secrets(&mut self) -> Result<(), String> {
        if self.world.log().is_none() {
            return Ok(());
        }
        for host in &self.nodes {
            if let Some(disk) = host.disk() {
                self.secrets.add_state_file(disk);
            }
            if let Some(node) = host.node() {
                self.world.note(&node.status(self.world.now(), host.wall(&self.world)));
                self.world.note(&node.engine().counters());
            }
        }
        if let Some(control) = self.control.control() {
            self.world.note(control);
            self.world.note(&control.snapshot());
        }
        self.world.note(&self.control.store());
        self.secrets.find_in(self.world.log().unwrap_or_default())
    }

    /// What people at the machines were told went wrong.
    pub fn errors(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|node| node.errors.iter().cloned()).collect()
    }
}
