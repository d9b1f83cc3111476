//! [`Internet`]: hosts, routers and the clock; how a datagram finds its way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::firewall::{Firewall, FirewallState};
use crate::link::{Busy, Link};
use crate::nat::{Nat, NatState};
use crate::random::Dice;
use crate::streams::{StreamEvent, StreamStep, Streams};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub(crate) usize);

/// A piece of network on which everybody reaches everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// The middle of the internet.
    Public,
    /// The inner side of a router.
    Behind(RouterId),
}

/// How a router is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    pub upstream: Segment,
    /// How IPv4 is translated. `None`: inner hosts have public IPv4 addresses.
    pub nat: Option<Nat>,
    /// For what is not translated; [`Firewall::UdpBlocked`] blocks translated UDP too.
    pub firewall: Firewall,
    /// Towards the upstream segment.
    pub link: Link,
}

/// One machine, with whatever runs on it.
#[derive(Debug)]
pub struct Host<T> {
    pub value: T,
    pub link: Link,
    /// Its own firewall, for both families.
    pub firewall: Firewall,
    pub(crate) segment: Segment,
    pub(crate) addrs: Vec<IpAddr>,
    families: Families,
    state: FirewallState,
    busy: [Busy; 2],
}

/// What a host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Families {
    v4: bool,
    v6: bool,
}

impl<T> Host<T> {
    pub fn addrs(&self) -> &[IpAddr] {
        &self.addrs
    }

    pub fn segment(&self) -> Segment {
        self.segment
    }

    pub(crate) fn addr_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addrs.iter().copied().find(|addr| addr.is_ipv4() == other.is_ipv4())
    }
}

#[derive(Debug)]
pub(crate) struct Router {
    pub config: RouterConfig,
    /// Its own address on the upstream segment, if it translates.
    pub outer: Option<IpAddr>,
    nat: NatState,
    firewall: FirewallState,
    busy: [Busy; 2],
    next_host: u16,
}

/// Something reached a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    Datagram { host: HostId, src: SocketAddr, dst: SocketAddr, bytes: Vec<u8> },
    Stream { host: HostId, event: StreamEvent },
}

#[derive(Clone, Debug)]
struct Packet {
    src: SocketAddr,
    dst: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Step {
    /// On a segment, looking for where to go next.
    OnSegment(Segment, Packet),
    /// At the outer side of a router.
    AtRouter(RouterId, Packet),
    AtHost(HostId, Packet),
    Stream(StreamStep),
}

/// IPv4 header and UDP header: what a datagram is more than its payload on a link. For IPv6 20 more.
const HEADERS: usize = 28;

const UP: usize = 0;
const DOWN: usize = 1;

/// The whole simulated world, with a `T` on every host.
#[derive(Debug)]
pub struct Internet<T> {
    now: Instant,
    pub(crate) hosts: Vec<Host<T>>,
    pub(crate) routers: Vec<Router>,
    queue: BTreeMap<(Instant, u64), Step>,
    sequence: u64,
    dice: Dice,
    next_public: u16,
    pub(crate) streams: Streams,
    /// Datagrams that did not arrive, for whatever reason.
    lost: u64,
}

impl<T> Internet<T> {
    /// An empty world. Where its clock begins means nothing; only differences do.
    pub fn new(seed: u64) -> Internet<T> {
        Internet {
            now: crate::beginning(),
            hosts: Vec::new(),
            routers: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            dice: Dice::new(seed),
            next_public: 0,
            streams: Streams::default(),
            lost: 0,
        }
    }

    pub fn add_router(&mut self, config: RouterConfig) -> RouterId {
        let outer = config.nat.map(|_| self.new_v4(config.upstream));
        self.routers.push(Router {
            config,
            outer,
            nat: NatState::default(),
            firewall: FirewallState::default(),
            busy: [Busy::default(); 2],
            next_host: 1,
        });
        RouterId(self.routers.len() - 1)
    }

    /// A host with an address of each wanted family.
    pub fn add_host(&mut self, segment: Segment, v4: bool, v6: bool, value: T) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host {
            value,
            link: Link::default(),
            firewall: Firewall::Open,
            segment,
            addrs: Vec::new(),
            families: Families { v4, v6 },
            state: FirewallState::default(),
            busy: [Busy::default(); 2],
        });
        self.move_host(id, segment);
        id
    }

    /// Plugs a host in somewhere else: new addresses, every stream broken.
    pub fn move_host(&mut self, id: HostId, segment: Segment) {
        let families = self.hosts[id.0].families;
        let v4 = families.v4.then(|| self.new_v4(segment));
        let v6 = families.v6.then(|| self.new_v6(segment));
        let host = &mut self.hosts[id.0];
        (host.segment, host.addrs) = (segment, v4.into_iter().chain(v6).collect());
        host.state = FirewallState::default();
        self.break_streams(id);
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn host(&self, id: HostId) -> &Host<T> {
        &self.hosts[id.0]
    }

    pub fn host_mut(&mut self, id: HostId) -> &mut Host<T> {
        &mut self.hosts[id.0]
    }

    pub fn host_ids(&self) -> impl Iterator<Item = HostId> + use<T> {
        (0..self.hosts.len()).map(HostId)
    }

    pub fn router_link_mut(&mut self, id: RouterId) -> &mut Link {
        &mut self.routers[id.0].config.link
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Sends a datagram from the host's address of the destination's family. If it has none, nothing is sent.
    pub fn send(&mut self, from: HostId, src_port: u16, dst: SocketAddr, bytes: Vec<u8>) {
        let now = self.now;
        let host = &mut self.hosts[from.0];
        let Some(src) = host.addr_like(dst.ip()).map(|ip| SocketAddr::new(ip, src_port)) else {
            self.lost += 1;
            return;
        };
        let packet = Packet { src, dst, bytes };
        let leaves = host.state.lets_out(host.firewall, src, dst, now);
        let arrives =
            if leaves { host.link.carry(&mut host.busy[UP], size(&packet), &mut self.dice, now) } else { None };
        let segment = host.segment;
        self.schedule(arrives, Step::OnSegment(segment, packet));
    }

    /// When something happens next in the network.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Runs until something reaches a host, at most until `limit`; the clock stands at that moment then.
    pub fn advance(&mut self, limit: Instant) -> Option<Arrival> {
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > limit {
                break;
            }
            let step = entry.remove();
            self.now = self.now.max(at);
            if let Some(arrival) = self.step(step) {
                return Some(arrival);
            }
        }
        self.now = self.now.max(limit);
        None
    }

    fn step(&mut self, step: Step) -> Option<Arrival> {
        match step {
            Step::OnSegment(segment, packet) => self.forward(segment, packet),
            Step::AtRouter(router, packet) => self.enter(router, packet),
            Step::AtHost(host, packet) => return self.deliver(host, packet),
            Step::Stream(step) => return self.step_stream(step),
        }
        None
    }

    /// A host here, a router that leads down to the destination, or else up.
    fn forward(&mut self, segment: Segment, packet: Packet) {
        let now = self.now;
        let is_here = |host: &Host<T>| host.segment == segment && host.addrs.contains(&packet.dst.ip());
        if let Some(index) = self.hosts.iter().position(is_here) {
            let host = &mut self.hosts[index];
            let arrives = host.link.carry(&mut host.busy[DOWN], size(&packet), &mut self.dice, now);
            self.schedule(arrives, Step::AtHost(HostId(index), packet));
            return;
        }
        if let Some(router) = self.router_down(segment, packet.dst.ip()) {
            let Router { config, busy, .. } = &mut self.routers[router.0];
            let arrives = config.link.carry(&mut busy[DOWN], size(&packet), &mut self.dice, now);
            self.schedule(arrives, Step::AtRouter(router, packet));
            return;
        }
        match segment {
            Segment::Public => self.lost += 1,
            Segment::Behind(router) => self.leave(router, packet),
        }
    }

    /// The router on this segment that the address belongs to, or that the host with this address is behind.
    fn router_down(&self, segment: Segment, ip: IpAddr) -> Option<RouterId> {
        let here = |router: &Router| router.config.upstream == segment;
        if let Some(index) = self.routers.iter().position(|router| here(router) && router.outer == Some(ip)) {
            return Some(RouterId(index));
        }
        let host = self.hosts.iter().find(|host| host.addrs.contains(&ip))?;
        let mut at = host.segment;
        while let Segment::Behind(router) = at {
            let config = &self.routers[router.0].config;
            if ip.is_ipv4() && config.nat.is_some() {
                return None;
            }
            if config.upstream == segment {
                return Some(router);
            }
            at = config.upstream;
        }
        None
    }

    /// From the inner side of a router to its outer one.
    fn leave(&mut self, id: RouterId, mut packet: Packet) {
        let now = self.now;
        let router = &mut self.routers[id.0];
        if router.config.firewall == Firewall::UdpBlocked {
            self.lost += 1;
            return;
        }
        match (router.config.nat, router.outer) {
            (Some(nat), Some(outer)) if packet.dst.is_ipv4() => {
                let is_hairpin = packet.dst.ip() == outer;
                if is_hairpin && !nat.hairpin {
                    self.lost += 1;
                    return;
                }
                packet.src = router.nat.outbound(&nat, outer, packet.src, packet.dst, &mut self.dice, now);
                if is_hairpin {
                    self.enter(id, packet);
                    return;
                }
            }
            _ => {
                router.firewall.lets_out(router.config.firewall, packet.src, packet.dst, now);
            }
        }
        let upstream = router.config.upstream;
        let arrives = router.config.link.carry(&mut router.busy[UP], size(&packet), &mut self.dice, now);
        self.schedule(arrives, Step::OnSegment(upstream, packet));
    }

    /// From the outer side of a router to its inner one.
    fn enter(&mut self, id: RouterId, mut packet: Packet) {
        let now = self.now;
        let router = &mut self.routers[id.0];
        let enters = match (router.config.nat, router.config.firewall) {
            (_, Firewall::UdpBlocked) => false,
            (Some(nat), _) if packet.dst.is_ipv4() => {
                let inside = router.nat.inbound(&nat, packet.src, packet.dst.port(), now);
                packet.dst = inside.unwrap_or(packet.dst);
                inside.is_some()
            }
            (_, rule) => router.firewall.lets_in(rule, packet.src, packet.dst, now),
        };
        if enters {
            self.schedule(Some(now), Step::OnSegment(Segment::Behind(id), packet));
        } else {
            self.lost += 1;
        }
    }

    fn deliver(&mut self, id: HostId, packet: Packet) -> Option<Arrival> {
        let host = &mut self.hosts[id.0];
        // It may have moved while the packet was under way.
        let is_here = host.addrs.contains(&packet.dst.ip());
        if !is_here || !host.state.lets_in(host.firewall, packet.src, packet.dst, self.now) {
            self.lost += 1;
            return None;
        }
        Some(Arrival::Datagram { host: id, src: packet.src, dst: packet.dst, bytes: packet.bytes })
    }

    fn schedule(&mut self, at: Option<Instant>, step: Step) {
        match at {
            Some(at) => {
                self.sequence += 1;
                self.queue.insert((at, self.sequence), step);
            }
            None => self.lost += 1,
        }
    }

    pub(crate) fn schedule_stream(&mut self, at: Instant, step: StreamStep) {
        self.schedule(Some(at), Step::Stream(step));
    }

    fn new_v4(&mut self, segment: Segment) -> IpAddr {
        match segment {
            Segment::Behind(router) if self.routers[router.0].config.nat.is_some() => {
                let [high, low] = u16::try_from(router.0).unwrap_or(u16::MAX).to_be_bytes();
                let host = self.next_behind(router);
                IpAddr::V4(Ipv4Addr::new(10, high, low, u8::try_from(host).unwrap_or(u8::MAX)))
            }
            Segment::Public | Segment::Behind(_) => {
                self.next_public += 1;
                let [high, low] = self.next_public.to_be_bytes();
                // 198.18.0.0/15 is set aside for measurements between networks (RFC 2544).
                IpAddr::V4(Ipv4Addr::new(198, 18, high, low))
            }
        }
    }

    fn new_v6(&mut self, segment: Segment) -> IpAddr {
        let (net, host) = match segment {
            Segment::Public => {
                self.next_public += 1;
                (0, self.next_public)
            }
            Segment::Behind(router) => (u16::try_from(router.0 + 1).unwrap_or(u16::MAX), self.next_behind(router)),
        };
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host))
    }

    fn next_behind(&mut self, router: RouterId) -> u16 {
        let next = &mut self.routers[router.0].next_host;
        *next += 1;
        *next
    }

    /// How long a packet takes from one host to another, if the links between them are up.
    pub(crate) fn latency(&self, a: HostId, b: HostId) -> Option<Duration> {
        let (up_a, up_b) = (self.way_up(a), self.way_up(b));
        let common = up_a.iter().find(|(segment, _)| up_b.iter().any(|(other, _)| other == segment))?.0;
        let sum = |way: &[(Segment, Option<Duration>)]| -> Option<Duration> {
            let links = way.iter().take_while(|(segment, _)| *segment != common).map(|(_, latency)| *latency);
            let last = way.iter().find(|(segment, _)| *segment == common)?.1;
            links.chain([last]).sum()
        };
        Some(sum(&up_a)? + sum(&up_b)?)
    }

    /// The segments from a host up, each with the latency of the link by which it is reached (`None`: cut).
    fn way_up(&self, host: HostId) -> Vec<(Segment, Option<Duration>)> {
        let up = |link: &Link| link.is_up.then_some(link.latency);
        let host = &self.hosts[host.0];
        let mut way = vec![(host.segment, up(&host.link))];
        let mut at = host.segment;
        while let Segment::Behind(router) = at {
            let config = &self.routers[router.0].config;
            way.push((config.upstream, up(&config.link)));
            at = config.upstream;
        }
        way
    }
}

fn size(packet: &Packet) -> usize {
    packet.bytes.len() + HEADERS + if packet.dst.is_ipv6() { 20 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Dependence;

    const CONE: Nat = Nat::new(Dependence::EndpointIndependent, Dependence::AddressAndPortDependent);

    fn router(upstream: Segment, nat: Option<Nat>, firewall: Firewall) -> RouterConfig {
        RouterConfig { upstream, nat, firewall, link: Link::default() }
    }

    fn next(internet: &mut Internet<()>) -> Option<(HostId, SocketAddr, Duration)> {
        let begin = internet.now();
        match internet.advance(begin + Duration::from_secs(1))? {
            Arrival::Datagram { host, src, .. } => Some((host, src, internet.now() - begin)),
            Arrival::Stream { .. } => None,
        }
    }

    fn at<T>(internet: &Internet<T>, host: HostId, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(internet.host(host).addrs()[family], port)
    }

    #[test]
    fn a_host_behind_a_router_is_seen_by_the_routers_address_and_can_be_answered() {
        let mut internet = Internet::new(1);
        let home = internet.add_router(router(Segment::Public, Some(CONE), Firewall::STATEFUL));
        let inside = internet.add_host(Segment::Behind(home), true, false, ());
        let server = internet.add_host(Segment::Public, true, false, ());
        let dst = at(&internet, server, 0, 3478);
        internet.send(inside, 41641, dst, vec![1]);
        let (host, seen, took) = next(&mut internet).expect("an arrival");
        assert_eq!((host, took), (server, Duration::from_millis(15)));
        assert_ne!(seen.ip(), internet.host(inside).addrs()[0]);

        internet.send(server, 3478, seen, vec![2]);
        assert_eq!(next(&mut internet).expect("an answer").0, inside);
        internet.send(server, 9, seen, vec![2]);
        assert_eq!(next(&mut internet), None, "another port was not asked");
        internet.send(server, 3478, at(&internet, inside, 0, 41641), vec![2]);
        assert_eq!(next(&mut internet), None, "an inner address means nothing outside");
    }

    #[test]
    fn ipv6_reaches_inside_only_as_an_answer() {
        let mut internet = Internet::new(1);
        let home = internet.add_router(router(Segment::Public, Some(CONE), Firewall::STATEFUL));
        let inside = internet.add_host(Segment::Behind(home), false, true, ());
        let server = internet.add_host(Segment::Public, false, true, ());
        let (there, here) = (at(&internet, server, 0, 5), at(&internet, inside, 0, 6));
        internet.send(server, 5, here, vec![1]);
        assert_eq!(next(&mut internet), None);
        internet.send(inside, 6, there, vec![1]);
        assert_eq!(next(&mut internet).map(|(host, src, _)| (host, src)), Some((server, here)));
        internet.send(server, 5, here, vec![1]);
        assert_eq!(next(&mut internet).map(|(host, ..)| host), Some(inside));
    }

    #[test]
    fn two_routers_in_a_row_translate_twice() {
        let mut internet = Internet::new(1);
        let outer = internet.add_router(router(Segment::Public, Some(CONE), Firewall::STATEFUL));
        let inner = internet.add_router(router(Segment::Behind(outer), Some(CONE), Firewall::STATEFUL));
        let inside = internet.add_host(Segment::Behind(inner), true, false, ());
        let server = internet.add_host(Segment::Public, true, false, ());
        let dst = at(&internet, server, 0, 3478);
        internet.send(inside, 41641, dst, vec![1]);
        let (_, seen, took) = next(&mut internet).expect("an arrival");
        assert_eq!((Some(seen.ip()), took), (internet.routers[outer.0].outer, Duration::from_millis(20)));
        internet.send(server, 3478, seen, vec![2]);
        assert_eq!(next(&mut internet).expect("an answer").0, inside);
    }

    #[test]
    fn a_moved_host_has_other_addresses_and_what_was_under_way_is_lost() {
        let mut internet = Internet::new(1);
        let home = internet.add_router(router(Segment::Public, Some(CONE), Firewall::STATEFUL));
        let roamer = internet.add_host(Segment::Public, true, true, ());
        let server = internet.add_host(Segment::Public, true, true, ());
        let dst = at(&internet, roamer, 0, 1);
        internet.send(server, 5, dst, vec![1]);
        internet.move_host(roamer, Segment::Behind(home));
        assert_eq!(next(&mut internet), None);
        assert_eq!(internet.lost(), 1);
    }

    /// Two hosts behind one translator of an operator, each behind a router of its own.
    #[track_caller]
    fn check_behind_one_operator(hairpin: bool, expect: bool) {
        let mut internet = Internet::new(1);
        let operator = Nat { hairpin, ..CONE };
        let shared = internet.add_router(router(Segment::Public, Some(operator), Firewall::STATEFUL));
        let mut at_home = || {
            let home = internet.add_router(router(Segment::Behind(shared), Some(CONE), Firewall::STATEFUL));
            internet.add_host(Segment::Behind(home), true, false, ())
        };
        let (a, b) = (at_home(), at_home());
        assert_eq!(internet.direct_path_possible(a, b), expect);
    }

    #[test]
    fn behind_one_operator_only_a_hairpin_helps() {
        check_behind_one_operator(true, true);
        check_behind_one_operator(false, false);
    }

    #[test]
    fn hosts_on_one_segment_always_meet_unless_one_speaks_no_udp_or_another_family() {
        let mut internet = Internet::new(1);
        let home = internet.add_router(router(Segment::Public, Some(CONE), Firewall::UdpBlocked));
        let here = Segment::Behind(home);
        let [a, b, c] =
            [(true, true), (true, false), (false, true)].map(|(v4, v6)| internet.add_host(here, v4, v6, ()));
        assert!(internet.direct_path_possible(a, b));
        assert!(internet.direct_path_possible(a, c));
        assert!(!internet.direct_path_possible(b, c));
        internet.host_mut(a).firewall = Firewall::UdpBlocked;
        assert!(!internet.direct_path_possible(a, b));
    }
}
