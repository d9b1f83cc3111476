//! What all hosts share: the simulated internet, its clock, and who listens where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_crypto::UnixTime;
use warren_simnet::{Dependence, Firewall, HostId, Internet, Link, Nat, Ports, RouterConfig, Segment, StreamId};

use crate::step::Place;

/// The wall clock of everybody whose clock is right, when a run begins.
const BEGIN: UnixTime = UnixTime::from_secs(1_790_000_000);

/// Of each kind.
const ROUTERS: usize = 2;

pub struct World {
    pub internet: Internet<()>,
    /// Where streams are accepted.
    pub listening: BTreeSet<SocketAddr>,
    segments: BTreeMap<(Place, usize), Segment>,
    begin: Instant,
    /// Debug text of everything that went through the cores, if this run collects it.
    log: Option<String>,
}

impl World {
    pub fn new(seed: u64, collects_log: bool) -> World {
        let mut internet = Internet::new(seed);
        let begin = internet.now();
        let keys = Place::ALL.into_iter().flat_map(|place| (0..ROUTERS).map(move |index| (place, index)));
        let segments = keys.map(|key| (key, segment(&mut internet, key.0))).collect();
        World { internet, listening: BTreeSet::new(), segments, begin, log: collects_log.then(String::new) }
    }

    pub fn now(&self) -> Instant {
        self.internet.now()
    }

    pub fn elapsed(&self) -> Duration {
        self.now() - self.begin
    }

    /// By a clock that is right.
    pub fn wall(&self) -> UnixTime {
        BEGIN.saturating_add(self.elapsed())
    }

    /// Machines share the routers of each kind by turns: the first and the third are neighbours there.
    pub fn segment(&self, place: Place, machine: usize) -> Segment {
        self.segments.get(&(place, machine % ROUTERS)).copied().unwrap_or(Segment::Public)
    }

    /// A stream to whoever listens there; `None`: refused, or no way there.
    pub fn connect(&mut self, from: HostId, to: SocketAddr) -> Option<StreamId> {
        if !self.listening.contains(&to) {
            return None;
        }
        self.internet.open(from, to)
    }

    /// What a shell might log. Secrets are looked for in it.
    pub fn note(&mut self, what: &dyn std::fmt::Debug) {
        if let Some(log) = &mut self.log {
            use std::fmt::Write as _;
            let _ = writeln!(log, "{what:?}"); // a String takes everything
        }
    }

    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

fn segment(internet: &mut Internet<()>, place: Place) -> Segment {
    use Dependence::{AddressAndPortDependent as Port, EndpointIndependent as Any};
    let (nat, firewall) = match place {
        Place::Public => return Segment::Public,
        Place::Firewall => (None, Firewall::STATEFUL),
        Place::PortCone => (Some(Nat::new(Any, Port).with_ports(Ports::Random)), Firewall::STATEFUL),
        Place::Linux => (Some(Nat::new(Port, Port)), Firewall::STATEFUL),
        Place::Symmetric => (Some(Nat::new(Port, Port).with_ports(Ports::Random)), Firewall::STATEFUL),
        Place::Blocked => (Some(Nat::new(Any, Port).with_ports(Ports::Random)), Firewall::UdpBlocked),
    };
    Segment::Behind(internet.add_router(RouterConfig {
        upstream: Segment::Public,
        nat,
        firewall,
        link: Link::default(),
    }))
}
