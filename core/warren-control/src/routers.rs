//! Which node serves a network that several announce, or answers for a service that several host, and whether it still
//! does.
//!
//! The one that serves keeps serving while it can: changing it breaks connections that are open. Where it cannot, the
//! healthy candidate with the lowest id takes over. A router may lose its cable without its stream being noticed for a
//! minute and a half, so where there is a choice all candidates are asked for a sign of life every few seconds.
//!
//! ```text
//!   every 10 s ──ask──▶ all candidates ──answer within 5 s──▶ healthy
//!                                       └─ silence ─────────▶ unhealthy: another is elected, if one is healthy
//! ```
//!
//! control-protocol.md §11.7.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use warren_ip::Prefix;
use warren_wire::NodeId;

use crate::routes::{Served, Serving};
use crate::rows::ServiceId;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Routers {
    candidates: BTreeMap<NodeId, Candidate>,
    primaries: BTreeMap<Office, NodeId>,
    unhealthy: BTreeSet<NodeId>,
    /// Who was asked, and by when an answer must be here.
    asked: BTreeMap<NodeId, Instant>,
    /// Whom to ask now.
    to_ask: VecDeque<NodeId>,
    next_round: Option<Instant>,
    /// Something changed since the last election.
    is_stale: bool,
}

/// How signs of life are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// From one round to the next; zero asks nobody.
    pub every: Duration,
    /// For an answer.
    pub answer_within: Duration,
}

impl Default for Probing {
    /// 10 s and 5 s, as in the field: a lost primary is replaced within 15 s.
    fn default() -> Self {
        Self { every: Duration::from_secs(10), answer_within: Duration::from_secs(5) }
    }
}

/// What one node at a time is elected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Office {
    Network(Prefix),
    Service(ServiceId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    duties: Duties,
    is_online: bool,
}

/// What a node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duties {
    /// Networks, announced and approved, in order.
    pub(crate) networks: Vec<Prefix>,
    /// Services, offered and approved, in order.
    pub(crate) services: Vec<ServiceId>,
}

impl Duties {
    fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.services.is_empty()
    }

    /// Default routes are no office: every exit node offers its own.
    fn offices(&self) -> impl Iterator<Item = Office> {
        let networks = self.networks.iter().filter(|prefix| !prefix.is_default_route());
        networks.map(|prefix| Office::Network(*prefix)).chain(self.services.iter().map(|id| Office::Service(*id)))
    }
}

impl Routers {
    /// What a node serves now (nothing: it is no router and no host), and whether it is there. Returns whether what it
    /// serves has changed.
    pub(crate) fn set(&mut self, node: NodeId, duties: Duties, is_online: bool) -> bool {
        let old = self.candidates.get(&node);
        if duties.is_empty() && old.is_none() {
            return false;
        }
        let new = Candidate { duties, is_online };
        if old == Some(&new) {
            return false;
        }
        let duties_changed = old.is_none_or(|old| old.duties != new.duties);
        if !is_online || new.duties.is_empty() {
            // It gets the benefit of the doubt when it is back.
            self.unhealthy.remove(&node);
            self.asked.remove(&node);
        }
        if new.duties.is_empty() {
            self.candidates.remove(&node);
        } else {
            self.candidates.insert(node, new);
        }
        self.is_stale = true;
        duties_changed
    }

    /// Elects where something changed. Returns what is served now if that is new.
    pub(crate) fn elect(&mut self, probing: Probing, now: Instant) -> Option<Serving> {
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        let running = self.running();
        let is_healthy = |node: &&NodeId| !self.unhealthy.contains(*node);
        let elected = |(office, nodes): (&Office, &BTreeSet<NodeId>)| {
            let present = self.primaries.get(office).filter(|node| nodes.contains(*node));
            let healthy = present.filter(is_healthy).or_else(|| nodes.iter().find(is_healthy));
            // A missed sign of life is no reason to leave a network to nobody.
            let keeps = healthy.or(present).or_else(|| nodes.first());
            keeps.map(|node| (*office, *node))
        };
        self.primaries = running.iter().filter_map(elected).collect();
        let has_whom = !probing.every.is_zero() && !self.to_be_asked(&running).is_empty();
        self.next_round = match self.next_round {
            Some(at) if has_whom => Some(at),
            None if has_whom => Some(now + probing.every),
            _ => None,
        };
        let mut serving = Serving::default();
        for (node, candidate) in &self.candidates {
            let holds = |office: Office| self.primaries.get(&office) == Some(node);
            let primary = |prefix: &&Prefix| holds(Office::Network(**prefix));
            let (networks, services) = (&candidate.duties.networks, &candidate.duties.services);
            let routes = || networks.iter().filter(|prefix| !prefix.is_default_route());
            let served = Served {
                primary: routes().filter(primary).copied().collect(),
                exits: networks.iter().filter(|prefix| prefix.is_default_route()).copied().collect(),
                standby: routes().filter(|prefix| !primary(prefix)).copied().collect(),
                hosted: services.clone(),
                answers_for: services.iter().copied().filter(|id| holds(Office::Service(*id))).collect(),
                is_online: candidate.is_online,
                is_healthy: candidate.is_online && !self.unhealthy.contains(node),
            };
            serving.by_node.insert(*node, served);
        }
        Some(serving)
    }

    /// Whether an election might change something.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// A sign of life: an answer, or a stream that begins. What was asked over a stream that broke is not waited for.
    pub(crate) fn handle_answer(&mut self, node: NodeId) {
        self.asked.remove(&node);
        self.is_stale |= self.unhealthy.remove(&node);
    }

    pub(crate) fn handle_timeout(&mut self, probing: Probing, now: Instant) {
        let silent: Vec<NodeId> = self.asked.iter().filter(|(_, by)| **by <= now).map(|(node, _)| *node).collect();
        for node in silent {
            self.asked.remove(&node);
            self.is_stale |= self.unhealthy.insert(node);
        }
        if self.next_round.is_some_and(|at| at <= now) {
            let running = self.running();
            let whom = self.to_be_asked(&running);
            self.next_round = (!whom.is_empty()).then_some(now + probing.every);
            for node in whom {
                self.asked.entry(node).or_insert(now + probing.answer_within);
                self.to_ask.push_back(node);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.asked.values().copied().chain(self.next_round).min()
    }

    /// A node that must show a sign of life.
    pub(crate) fn poll_probe(&mut self) -> Option<NodeId> {
        self.to_ask.pop_front()
    }

    /// Where there is a choice, all; and whoever fell silent, so that it is heard when it speaks again.
    fn to_be_asked(&self, running: &BTreeMap<Office, BTreeSet<NodeId>>) -> BTreeSet<NodeId> {
        let contested = running.values().filter(|nodes| nodes.len() > 1).flatten();
        let silent = running.values().flatten().filter(|node| self.unhealthy.contains(*node));
        contested.chain(silent).copied().collect()
    }

    /// All offices, with the nodes that are there to hold them.
    fn running(&self) -> BTreeMap<Office, BTreeSet<NodeId>> {
        let mut running: BTreeMap<Office, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, candidate) in self.candidates.iter().filter(|(_, candidate)| candidate.is_online) {
            for office in candidate.duties.offices() {
                running.entry(office).or_default().insert(*node);
            }
        }
        running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBING: Probing = Probing { every: Duration::from_secs(10), answer_within: Duration::from_secs(5) };

    #[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn start() -> (Routers, Instant) {
        (Routers::default(), Instant::now())
    }

    fn routes(texts: &[&str]) -> Duties {
        Duties { networks: texts.iter().map(|text| net(text)).collect(), ..Duties::default() }
    }

    fn net(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    /// Who serves 10.0.0.0/24 after an election.
    fn primary(routers: &mut Routers, now: Instant) -> Option<i64> {
        routers.is_stale = true;
        let serving = routers.elect(PROBING, now).expect("it was stale");
        let found = serving.by_node.iter().find(|(_, served)| served.primary.contains(&net("10.0.0.0/24")));
        found.map(|(node, _)| node.0)
    }

    /// The nodes that are asked in a round.
    fn asked(routers: &mut Routers) -> Vec<i64> {
        std::iter::from_fn(|| routers.poll_probe()).map(|node| node.0).collect()
    }

    #[test]
    fn who_serves_keeps_serving_until_it_is_gone() {
        let (mut routers, now) = start();
        routers.set(NodeId(5), routes(&["10.0.0.0/24"]), true);
        assert_eq!(primary(&mut routers, now), Some(5));
        routers.set(NodeId(2), routes(&["10.0.0.0/24"]), true);
        assert_eq!(primary(&mut routers, now), Some(5), "a lower id does not take it away");
        routers.set(NodeId(5), routes(&["10.0.0.0/24"]), false);
        assert_eq!(primary(&mut routers, now), Some(2));
        routers.set(NodeId(5), routes(&["10.0.0.0/24"]), true);
        assert_eq!(primary(&mut routers, now), Some(2), "nor does one that comes back");
        routers.set(NodeId(2), Duties::default(), true);
        routers.set(NodeId(5), routes(&["10.0.0.0/24"]), false);
        assert_eq!(primary(&mut routers, now), None);
    }

    #[test]
    fn a_silent_primary_is_replaced_within_fifteen_seconds_and_a_lone_one_is_never_asked() {
        let (mut routers, now) = start();
        routers.set(NodeId(1), routes(&["10.0.0.0/24"]), true);
        primary(&mut routers, now);
        assert_eq!(routers.poll_timeout(), None, "there is no choice");
        routers.set(NodeId(2), routes(&["10.0.0.0/24"]), true);
        assert_eq!(primary(&mut routers, now), Some(1));
        let round = routers.poll_timeout().expect("a round");
        assert_eq!(round, now + Duration::from_secs(10));
        routers.handle_timeout(PROBING, round);
        assert_eq!(asked(&mut routers), [1, 2]);
        routers.handle_answer(NodeId(2));
        let late = round + Duration::from_secs(5);
        routers.handle_timeout(PROBING, late);
        assert!(routers.is_stale());
        assert_eq!(primary(&mut routers, late), Some(2));
        routers.handle_timeout(PROBING, round + Duration::from_secs(10));
        assert_eq!(asked(&mut routers), [1, 2], "an unhealthy one is asked again");
        routers.handle_answer(NodeId(1));
        assert_eq!(primary(&mut routers, late), Some(2), "healthy again, and no reason to change back");
    }

    #[test]
    fn a_silent_router_serves_alone_when_the_others_go_and_is_asked_on() {
        let (mut routers, now) = start();
        for node in [1, 2] {
            routers.set(NodeId(node), routes(&["10.0.0.0/24"]), true);
        }
        primary(&mut routers, now);
        let round = now + Duration::from_secs(10);
        routers.handle_timeout(PROBING, round);
        routers.handle_answer(NodeId(2));
        routers.handle_timeout(PROBING, round + Duration::from_secs(5));
        assert_eq!(primary(&mut routers, round), Some(2), "the first missed one sign of life");
        asked(&mut routers);
        routers.set(NodeId(2), Duties::default(), true);
        assert_eq!(primary(&mut routers, round), Some(1), "better than nobody");
        routers.handle_timeout(PROBING, round + Duration::from_secs(10));
        assert_eq!(asked(&mut routers), [1]);
        routers.handle_answer(NodeId(1));
        primary(&mut routers, round);
        assert_eq!(routers.poll_timeout(), None, "and not any more once it has answered");
    }

    #[test]
    fn a_router_that_serves_again_is_not_held_to_what_it_missed() {
        let (mut routers, now) = start();
        for node in [1, 2] {
            routers.set(NodeId(node), routes(&["10.0.0.0/24"]), true);
        }
        primary(&mut routers, now);
        let round = now + Duration::from_secs(10);
        routers.handle_timeout(PROBING, round);
        routers.handle_answer(NodeId(2));
        routers.handle_timeout(PROBING, round + Duration::from_secs(5));
        routers.set(NodeId(1), Duties::default(), true);
        routers.set(NodeId(1), routes(&["10.0.0.0/24"]), true);
        let serving = routers.elect(PROBING, round).expect("it was stale");
        assert!(serving.of(NodeId(1)).expect("a router").is_healthy);
    }

    #[test]
    fn where_nobody_answers_the_primary_stays() {
        let (mut routers, now) = start();
        for node in [1, 2] {
            routers.set(NodeId(node), routes(&["10.0.0.0/24"]), true);
        }
        assert_eq!(primary(&mut routers, now), Some(1));
        routers.handle_timeout(PROBING, now + Duration::from_secs(10));
        routers.handle_timeout(PROBING, now + Duration::from_secs(15));
        assert_eq!(primary(&mut routers, now), Some(1));
    }

    #[test]
    fn every_exit_node_offers_its_default_routes_even_while_it_is_away() {
        let (mut routers, now) = start();
        for (node, is_online) in [(1, true), (2, false)] {
            routers.set(NodeId(node), routes(&["0.0.0.0/0", "::/0"]), is_online);
        }
        let serving = routers.elect(PROBING, now).expect("new");
        assert!(serving.by_node.values().all(|served| served.exits.len() == 2 && served.primary.is_empty()));
        assert_eq!((serving.by_node.len(), routers.poll_timeout()), (2, None));
    }

    #[test]
    fn a_service_has_one_host_that_answers_and_others_that_stand_by() {
        let (mut routers, now) = start();
        let host = || Duties { services: vec![ServiceId(7)], ..Duties::default() };
        routers.set(NodeId(1), host(), true);
        assert!(routers.set(NodeId(2), host(), true), "it serves something new");
        let answers = |routers: &mut Routers| {
            let serving = routers.elect(PROBING, now).expect("new");
            assert!(
                serving.by_node.values().all(|served| served.hosted == [ServiceId(7)] && served.primary.is_empty())
            );
            let of = |node| serving.by_node[&NodeId(node)].answers_for.len();
            (of(1), of(2))
        };
        assert_eq!(answers(&mut routers), (1, 0));
        routers.handle_timeout(PROBING, now + Duration::from_secs(10));
        assert_eq!(asked(&mut routers), [1, 2], "there is a choice, so both are asked for signs of life");
        routers.handle_answer(NodeId(2));
        routers.handle_timeout(PROBING, now + Duration::from_secs(15));
        assert_eq!(answers(&mut routers), (0, 1));
        routers.set(NodeId(2), host(), false);
        assert_eq!(answers(&mut routers), (1, 0));
    }
}
