//! Which servers to ask, when. data-plane.md §2.5.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

use super::report::Report;
use crate::sockets::{Family, Sockets};

/// A relay map with more regions, or a region with more relays, is cut.
const MAX_REGIONS: usize = 512;
const MAX_NODES: usize = 16;

const FULL_TRIES: u32 = 3;
const FULL_SPACING: Duration = Duration::from_millis(100);
/// Spacing of tries in a region whose latency is not known.
const UNKNOWN_SPACING: Duration = Duration::from_millis(200);
const INCREMENTAL_REGIONS: usize = 3;

/// Where a region answers STUN in one family.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub region: RegionId,
    pub family: Family,
    /// One per relay, at least one.
    pub servers: Vec<SocketAddr>,
    pub avoid: bool,
}

/// Tries at one region in one family, in order of time.
#[derive(Clone, Debug)]
pub(crate) struct ProbeSet {
    pub region: RegionId,
    pub family: Family,
    pub tries: VecDeque<(Instant, SocketAddr)>,
}

/// What can be asked with these sockets, from literal addresses and looked-up names.
pub(crate) fn targets(map: &RelayMap, resolved: &BTreeMap<String, Vec<IpAddr>>, sockets: &Sockets) -> Vec<Target> {
    let mut targets = Vec::new();
    for (region, info) in measured(map) {
        for family in Family::BOTH.into_iter().filter(|family| sockets.can_use(*family)) {
            let nodes = info.nodes.iter().take(MAX_NODES);
            let servers: Vec<SocketAddr> = nodes.filter_map(|node| server(node, family, resolved)).collect();
            if !servers.is_empty() {
                targets.push(Target { region, family, servers, avoid: info.avoid });
            }
        }
    }
    targets
}

/// Names of relays that have no literal address.
pub(crate) fn names(map: &RelayMap) -> BTreeSet<String> {
    let nodes = measured(map).flat_map(|(_, info)| info.nodes.iter().take(MAX_NODES));
    nodes.filter(|node| needs_name(node)).map(|node| node.host_name.clone()).collect()
}

/// Regions that an HTTPS request may measure.
pub(crate) fn https_regions(map: &RelayMap) -> BTreeSet<RegionId> {
    let with_relay = |info: &RelayRegion| info.nodes.iter().any(|node| !node.stun_only);
    measured(map).filter(|(_, info)| !info.avoid && with_relay(info)).map(|(region, _)| region).collect()
}

fn measured(map: &RelayMap) -> impl Iterator<Item = (RegionId, &RelayRegion)> {
    let regions = map.regions.iter().filter(|(_, info)| !info.no_measure_no_home && !info.nodes.is_empty());
    regions.take(MAX_REGIONS).map(|(region, info)| (*region, info))
}

fn needs_name(node: &RelayNode) -> bool {
    let has_literal = |text: &str| text.parse::<IpAddr>().is_ok();
    let literal =
        [&node.stun_test_ip, &node.ipv4, &node.ipv6, &node.host_name].into_iter().any(|text| has_literal(text));
    !literal && node.stun_port().is_some() && !node.host_name.is_empty()
}

fn server(node: &RelayNode, family: Family, resolved: &BTreeMap<String, Vec<IpAddr>>) -> Option<SocketAddr> {
    let port = node.stun_port()?;
    let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    let literal = |text: &str| text.parse::<IpAddr>().ok().filter(of_family);
    let own = match family {
        Family::V4 => &node.ipv4,
        Family::V6 => &node.ipv6,
    };
    let ip = if !node.stun_test_ip.is_empty() {
        literal(&node.stun_test_ip)
    } else if own == "none" {
        None
    } else {
        let looked_up = || resolved.get(&node.host_name)?.iter().copied().find(of_family);
        literal(own).or_else(|| literal(&node.host_name)).or_else(looked_up)
    }?;
    Some(SocketAddr::new(ip, port))
}

/// Every region, three tries a family.
pub(crate) fn full(targets: &[Target], now: Instant) -> Vec<ProbeSet> {
    let spaced = |target| tries(target, FULL_TRIES, now, |index| FULL_SPACING * index);
    targets.iter().map(spaced).collect()
}

/// The fastest regions and home, with more tries where more depends on the answer.
pub(crate) fn incremental(targets: &[Target], last: &Report, home: Option<RegionId>, now: Instant) -> Vec<ProbeSet> {
    let mut ranked: Vec<RegionId> = last.region_latency.keys().copied().collect();
    ranked.sort_by_key(|region| last.region_latency[region]);
    let avoided: BTreeSet<RegionId> =
        targets.iter().filter(|target| target.avoid).map(|target| target.region).collect();
    ranked.retain(|region| !avoided.contains(region) || Some(*region) == home);
    ranked.truncate(INCREMENTAL_REGIONS);
    if let Some(home) = home.filter(|home| !ranked.contains(home)) {
        ranked.push(home);
    }
    let mut sets = Vec::new();
    for (rank, region) in ranked.iter().enumerate() {
        let is_home = Some(*region) == home;
        let count = if is_home {
            4
        } else if rank < 2 {
            2
        } else {
            1
        };
        let spacing = last.region_latency.get(region).map_or(UNKNOWN_SPACING, |latency| *latency * 6 / 5);
        for target in targets.iter().filter(|target| target.region == *region) {
            let is_slower = !is_home && rank >= 2;
            let both_work = last.ipv4 && last.ipv6;
            let other_turn = if rank % 2 == 0 { Family::V6 } else { Family::V4 };
            if is_slower && both_work && target.family == other_turn {
                continue;
            }
            let v6_is_down = target.family == Family::V6 && !last.ipv6;
            if v6_is_down && is_slower {
                continue;
            }
            let count = if v6_is_down { 1 } else { count };
            sets.push(tries(target, count, now, |index| {
                spacing * index + if index > 1 { Duration::from_millis(50) * index } else { Duration::ZERO }
            }));
        }
    }
    sets
}

fn tries(target: &Target, count: u32, now: Instant, delay: impl Fn(u32) -> Duration) -> ProbeSet {
    let servers = target.servers.iter().cycle();
    let tries = (0..count).zip(servers).map(|(index, server)| (now + delay(index), *server)).collect();
    ProbeSet { region: target.region, family: target.family, tries }
}
