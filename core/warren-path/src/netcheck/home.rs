//! Which relay region is home. data-plane.md §1.11.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use warren_crypto::NodePublic;
use warren_wire::{RegionId, RelayMap};

use super::report::Report;

/// Latencies count for so long: the lowest seen is the region's.
const HISTORY: Duration = Duration::from_secs(5 * 60 + 5);
const MAX_HISTORY: usize = 64;

/// A new home must be better by this much …
const WORTH_MOVING: Duration = Duration::from_millis(10);
/// A relay that was heard so recently is reachable, whatever the probes say.
const HEARD_RECENTLY: Duration = Duration::from_secs(8);

/// What else matters beside the latencies.
pub(crate) struct HomeFacts<'a> {
    pub relay_map: &'a RelayMap,
    /// Peers learn of a new home only by the control server.
    pub is_control_reachable: bool,
    pub check_started: Instant,
    /// When a frame last came from the present home.
    pub heard_home: Option<Instant>,
    pub node: NodePublic,
}

/// The present home and what the choice rests on.
#[derive(Debug, Default)]
pub(crate) struct Home {
    region: Option<RegionId>,
    history: VecDeque<(Instant, BTreeMap<RegionId, Duration>)>,
}

impl Home {
    pub fn region(&self) -> Option<RegionId> {
        self.region
    }

    /// A home before any measurement, when none could change it; and none that the map does not have.
    pub fn handle_relay_map(&mut self, relay_map: &RelayMap) {
        if self.region.is_some_and(|region| !relay_map.regions.contains_key(&region)) {
            self.region = None;
        }
        let mut eligible = eligible(relay_map);
        if let (None, Some(only), None) = (self.region, eligible.next(), eligible.next()) {
            self.region = Some(only);
        }
    }

    pub fn handle_report(&mut self, report: &Report, facts: &HomeFacts<'_>, now: Instant) {
        self.history.push_back((now, report.region_latency.clone()));
        while self.history.len() > MAX_HISTORY || self.history.front().is_some_and(|(at, _)| now > *at + HISTORY) {
            self.history.pop_front();
        }
        self.region = self.choose(report, facts, now);
    }

    fn choose(&self, report: &Report, facts: &HomeFacts<'_>, now: Instant) -> Option<RegionId> {
        let old = self.region.filter(|region| facts.relay_map.regions.contains_key(region));
        if old.is_some() && !facts.is_control_reachable {
            return old;
        }
        let measured = eligible(facts.relay_map).filter(|region| report.region_latency.contains_key(region));
        let best = measured.filter_map(|region| Some((self.score(region, facts.relay_map)?, region))).min();
        let Some((best_score, best)) = best else { return old.or_else(|| fallback(facts)) };
        match old {
            Some(old) if self.keeps(old, best_score, report, facts, now) => Some(old),
            _ => Some(best),
        }
    }

    fn keeps(&self, old: RegionId, best: Duration, report: &Report, facts: &HomeFacts<'_>, now: Instant) -> bool {
        let is_heard = facts.heard_home.is_some_and(|at| at >= facts.check_started || now <= at + HEARD_RECENTLY);
        let old_now = match report.region_latency.get(&old) {
            Some(latency) => *latency,
            None if is_heard => match self.score(old, facts.relay_map) {
                Some(score) => score,
                None => return true,
            },
            None => return false,
        };
        old_now.saturating_sub(best) < WORTH_MOVING || best > old_now * 2 / 3
    }

    /// The lowest latency in memory, times the factor that the control server gives.
    fn score(&self, region: RegionId, relay_map: &RelayMap) -> Option<Duration> {
        let lowest = self.history.iter().filter_map(|(_, latencies)| latencies.get(&region)).min().copied()?;
        let factor = relay_map.home_params.as_ref().and_then(|params| params.region_score.get(&region)).copied();
        match factor.filter(|factor| factor.is_finite() && *factor > 0.0) {
            Some(factor) => Some(Duration::try_from_secs_f64(lowest.as_secs_f64() * factor).unwrap_or(Duration::MAX)),
            None => Some(lowest),
        }
    }
}

fn eligible(relay_map: &RelayMap) -> impl Iterator<Item = RegionId> {
    let has_relay = |info: &warren_wire::RelayRegion| info.nodes.iter().any(|node| !node.stun_only);
    let regions = relay_map.regions.iter();
    regions
        .filter(move |(_, info)| !info.avoid && !info.no_measure_no_home && has_relay(info))
        .map(|(region, _)| *region)
}

/// Without any measurement: the same region every time, another one for another node.
fn fallback(facts: &HomeFacts<'_>) -> Option<RegionId> {
    let regions: Vec<RegionId> = eligible(facts.relay_map).collect();
    let [.., high, low] = facts.node.as_bytes();
    let pick = usize::from(u16::from_be_bytes([*high, *low])).checked_rem(regions.len())?;
    regions.get(pick).copied()
}

#[cfg(test)]
mod tests {
    use warren_wire::{HomeParams, RelayNode, RelayRegion};

    use super::*;

    fn map(regions: &[u32]) -> RelayMap {
        let region = |id: &u32| {
            let node = RelayNode { name: id.to_string(), ..RelayNode::default() };
            (RegionId(*id), RelayRegion { region_id: RegionId(*id), nodes: vec![node], ..RelayRegion::default() })
        };
        RelayMap { regions: regions.iter().map(region).collect(), ..RelayMap::default() }
    }

    fn facts(relay_map: &RelayMap, now: Instant) -> HomeFacts<'_> {
        HomeFacts {
            relay_map,
            is_control_reachable: true,
            check_started: now,
            heard_home: None,
            node: NodePublic::from_bytes([3; 32]),
        }
    }

    fn report(latencies: &[(u32, u64)], now: Instant) -> Report {
        let region_latency =
            latencies.iter().map(|(region, millis)| (RegionId(*region), Duration::from_millis(*millis))).collect();
        Report { region_latency, ..Report::empty(now) }
    }

    /// Reports one after the other, ten minutes apart so that none remembers the one before.
    #[track_caller]
    fn check(reports: &[&[(u32, u64)]], expect: u32) {
        let relay_map = map(&[1, 2, 3]);
        let mut home = Home::default();
        let mut now = warren_simnet::beginning();
        for latencies in reports {
            now += Duration::from_secs(600);
            home.handle_report(&report(latencies, now), &facts(&relay_map, now), now);
        }
        assert_eq!(home.region(), Some(RegionId(expect)));
    }

    #[test]
    fn the_nearest_region_is_home() {
        check(&[&[(1, 80), (2, 30), (3, 50)]], 2);
    }

    #[test]
    fn home_stays_unless_another_is_a_third_and_ten_milliseconds_better() {
        check(&[&[(1, 30), (2, 40)], &[(1, 30), (2, 21)]], 1);
        check(&[&[(1, 90), (2, 100)], &[(1, 90), (2, 65)]], 1);
        check(&[&[(1, 90), (2, 100)], &[(1, 90), (2, 50)]], 2);
    }

    #[test]
    fn a_home_that_no_longer_answers_is_left() {
        check(&[&[(1, 30), (2, 90)], &[(2, 90)]], 2);
    }

    #[test]
    fn a_home_that_is_heard_though_it_answers_no_probe_stays() {
        let (relay_map, now) = (map(&[1, 2]), warren_simnet::beginning());
        let mut home = Home::default();
        home.handle_report(&report(&[(1, 30), (2, 35)], now), &facts(&relay_map, now), now);
        let heard = HomeFacts { heard_home: Some(now), ..facts(&relay_map, now) };
        home.handle_report(&report(&[(2, 25)], now), &heard, now);
        assert_eq!(home.region(), Some(RegionId(1)));
    }

    #[test]
    fn nobody_moves_while_the_control_server_cannot_tell_peers() {
        let (relay_map, now) = (map(&[1, 2]), warren_simnet::beginning());
        let mut home = Home::default();
        home.handle_report(&report(&[(1, 300), (2, 350)], now), &facts(&relay_map, now), now);
        let alone = HomeFacts { is_control_reachable: false, ..facts(&relay_map, now) };
        home.handle_report(&report(&[(2, 1)], now), &alone, now);
        assert_eq!(home.region(), Some(RegionId(1)));
    }

    #[test]
    fn without_any_answer_the_home_is_the_same_every_time() {
        let (relay_map, now) = (map(&[1, 2, 3]), warren_simnet::beginning());
        let choose = || {
            let mut home = Home::default();
            home.handle_report(&report(&[], now), &facts(&relay_map, now), now);
            home.region()
        };
        assert!(choose().is_some());
        assert_eq!(choose(), choose());
    }

    #[test]
    fn the_only_region_is_home_before_anything_is_measured() {
        let mut home = Home::default();
        home.handle_relay_map(&map(&[1, 2]));
        assert_eq!(home.region(), None);
        home.handle_relay_map(&map(&[900]));
        assert_eq!(home.region(), Some(RegionId(900)));
        home.handle_relay_map(&map(&[]));
        assert_eq!(home.region(), None);
    }

    #[test]
    fn a_region_score_repels() {
        let now = warren_simnet::beginning();
        let region_score = BTreeMap::from([(RegionId(1), 3.0)]);
        let relay_map = RelayMap { home_params: Some(HomeParams { region_score }), ..map(&[1, 2]) };
        let mut home = Home::default();
        home.handle_report(&report(&[(1, 20), (2, 50)], now), &facts(&relay_map, now), now);
        assert_eq!(home.region(), Some(RegionId(2)));
    }
}
