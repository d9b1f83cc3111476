//! `nothing from X reaches Y`: looks for one rule that names some sender with X and some receiver with Y.

use std::collections::BTreeSet;

use warren_ip::IpRanges;

use crate::analysis::counterexample::{Arrival, Counterexample, Origin, Scene};
use crate::analysis::devices;
use crate::analysis::holders::{Admission, Holder, Person, Population};
use crate::analysis::packet::Packet;
use crate::analysis::passages::of_family;
use crate::analysis::prove::Verdict;
use crate::analysis::space::{Space, literal, pick, whole};
use crate::analysis::statement::Claim;
use crate::analysis::traffic::Traffic;
use crate::rule::Rule;
use crate::selector::{Autogroup, Selector};

/// Looks at every rule. A packet that passes passes by one rule, one of its sources, one of its destinations.
pub(crate) fn prove(population: &Population<'_>, claim: &Claim) -> Verdict {
    let all = [Rule::of_no_policy()];
    let rules = population.policy.rules.as_deref().unwrap_or(&all);
    let mut search = Search { population, space: Space::new(), best: None, doubt: None };
    for rule in rules {
        let traffic = Traffic::of_access(&rule.access).intersection(&claim.traffic);
        if traffic.is_empty() {
            continue;
        }
        for source in &rule.sources {
            for destination in &rule.destinations {
                search.look(claim, &Way { rule, source, destination, traffic: &traffic });
                if search.best.as_ref().is_some_and(|found| found.tags <= 2 && found.admission == Admission::ByPolicy) {
                    return search.verdict();
                }
            }
        }
    }
    search.verdict()
}

/// One source and one destination of one rule, and the packets in question.
struct Way<'a> {
    rule: &'a Rule,
    source: &'a Selector,
    destination: &'a Selector,
    traffic: &'a Traffic,
}

struct Search<'a> {
    population: &'a Population<'a>,
    space: Space,
    best: Option<Found>,
    doubt: Option<String>,
}

struct Found {
    counterexample: Counterexample,
    admission: Admission,
    /// On both nodes together: fewer are easier to believe.
    tags: usize,
}

/// A sender or a receiver in part: where its end of the packet lies, and what words ask of the node.
struct End<'a, P> {
    place: P,
    addrs: IpRanges,
    words: Vec<&'a Selector>,
}

impl Search<'_> {
    fn look(&mut self, claim: &Claim, way: &Way<'_>) {
        let selves = Selector::Autogroup(Autogroup::Selves);
        let is_own = *way.destination == selves || claim.to == selves;
        let vias: Vec<Selector> = way.rule.via.iter().cloned().map(Selector::Tag).collect();
        for to in self.arrivals(claim, way, &vias) {
            for from in self.origins(claim, way) {
                if is_own && (from.place != Origin::Own || to.place != Arrival::Own) {
                    continue;
                }
                for (sender, receiver) in self.holders(&from.words, &to.words, is_own) {
                    self.try_with(way, &from, &to, (sender, receiver), is_own);
                }
            }
        }
    }

    fn origins<'w>(&self, claim: &'w Claim, way: &Way<'w>) -> Vec<End<'w, Origin>> {
        let words = [&claim.from, way.source];
        let mut addrs = whole();
        for set in words.iter().filter_map(|word| literal(self.population.policy, word)) {
            addrs = addrs.intersection(&set);
        }
        let names: Vec<&Selector> = words.into_iter().filter(|word| self.population.smallest(word).is_some()).collect();
        let mut ends = Vec::new();
        if names.is_empty() {
            let addrs = addrs.intersection(&self.space.outside);
            ends.push(End { place: Origin::Behind, addrs, words: Vec::new() });
        }
        ends.insert(0, End { place: Origin::Own, addrs: addrs.intersection(&self.space.overlay), words: names });
        ends
    }

    fn arrivals<'w>(&self, claim: &'w Claim, way: &Way<'w>, vias: &'w [Selector]) -> Vec<End<'w, Arrival>> {
        let words = [&claim.to, way.destination];
        let mut addrs = whole();
        for set in words.iter().filter_map(|word| literal(self.population.policy, word)) {
            addrs = addrs.intersection(&set);
        }
        let names: Vec<&Selector> = words.into_iter().filter(|word| self.population.smallest(word).is_some()).collect();
        let has = |wanted: &dyn Fn(&Selector) -> bool| words.iter().any(|word| wanted(word));
        let is_own = has(&|word| *word == Selector::Autogroup(Autogroup::Selves));
        let is_public = has(&|word| *word == Selector::Autogroup(Autogroup::Internet));
        let services: BTreeSet<&String> = words
            .iter()
            .filter_map(|word| if let Selector::Service(name) = word { Some(name) } else { None })
            .collect();
        let (overlay, outside) = (addrs.intersection(&self.space.overlay), addrs.intersection(&self.space.outside));
        // With `via` only what a rule names in addresses or nodes is opened, at a node with one of the tags.
        let is_steered = !vias.is_empty();
        if is_steered
            && (matches!(way.destination, Selector::Everyone | Selector::Service(_))
                || is_own && *way.destination == Selector::Autogroup(Autogroup::Selves))
        {
            return Vec::new();
        }
        let steps: Vec<Option<&Selector>> = if is_steered { vias.iter().map(Some).collect() } else { vec![None] };
        let mut ends = Vec::new();
        for via in steps {
            if services.is_empty() && !is_public {
                let words = names.iter().copied().chain(via).collect();
                ends.push(End { place: Arrival::Own, addrs: overlay.clone(), words });
            }
            if names.is_empty() && services.is_empty() && !is_own {
                let is_exit = is_steered && *way.destination == Selector::Autogroup(Autogroup::Internet);
                let place = if is_exit { Arrival::Exit } else { Arrival::Router };
                ends.push(End { place, addrs: outside.clone(), words: via.into_iter().collect() });
            }
        }
        if names.is_empty() && !is_own && !is_public && !is_steered && services.len() < 2 {
            let name = services.first().map(|name| (*name).clone());
            ends.push(End { place: Arrival::Service(name), addrs: overlay, words: Vec::new() });
        }
        ends
    }

    /// Senders and receivers that have all that is asked of them; people whom one word means are one person.
    fn holders(&self, from: &[&Selector], to: &[&Selector], is_own: bool) -> Vec<(Option<Holder>, Option<Holder>)> {
        let joint = || {
            let words: Vec<&Selector> = from.iter().chain(to).copied().collect();
            let people = self.population.smallest_of_all(&words).into_iter();
            let people = people.map(|holder| holder.unwrap_or(Holder::Person(Person::nobody())));
            let people = people.filter(|holder| matches!(holder, Holder::Person(_)));
            people.map(|holder| (Some(holder.clone()), Some(holder))).collect::<Vec<_>>()
        };
        if is_own {
            return joint();
        }
        let receivers = self.population.smallest_of_all(to);
        let mut pairs = Vec::new();
        for sender in self.population.smallest_of_all(from) {
            for receiver in &receivers {
                match (&sender, receiver) {
                    (Some(a), Some(b)) if a != b && self.population.must_be_one(a, b) => pairs.extend(joint()),
                    _ => pairs.push((sender.clone(), receiver.clone())),
                }
            }
        }
        pairs
    }

    fn try_with(
        &mut self,
        way: &Way<'_>,
        from: &End<'_, Origin>,
        to: &End<'_, Arrival>,
        (sender, receiver): (Option<Holder>, Option<Holder>),
        is_own: bool,
    ) {
        let tags = |holder: &Option<Holder>| match holder {
            Some(Holder::Tagged(tags)) => tags.clone(),
            _ => BTreeSet::new(),
        };
        let worn = [tags(&sender), tags(&receiver)];
        let by_policy = worn.iter().all(|tags| self.population.admission(tags) == Admission::ByPolicy);
        let admission = if by_policy { Admission::ByPolicy } else { Admission::ByOperator };
        let count = worn.iter().map(BTreeSet::len).sum();
        let is_better = |found: &Found| {
            (admission == Admission::ByOperator, count) < (found.admission == Admission::ByOperator, found.tags)
        };
        if !self.best.as_ref().is_none_or(is_better) {
            return;
        }
        let Some(packet) = a_packet(&from.addrs, &to.addrs, way.traffic) else { return };
        let attributes = match from.place {
            Origin::Behind => Some(devices::Attributes::new()),
            Origin::Own => devices::meeting_one(self.population.policy, &way.rule.postures),
        };
        let Some(attributes) = attributes else {
            let postures = way.rule.postures.join(", ");
            self.doubt = Some(format!(
                "{} lets it pass if some device meets {postures}; none was found that does",
                way.rule.origin
            ));
            return;
        };
        let lives = match &to.place {
            // A service is behind its host's own address only in rules that spell out both.
            Arrival::Service(_) => {
                literal(self.population.policy, way.destination).map(|set| set.intersection(&self.space.overlay))
            }
            _ => None,
        };
        let scene = Scene {
            origin: from.place,
            sender,
            attributes,
            arrival: to.place.clone(),
            receiver,
            is_own,
            packet,
            receiver_lives: lives.as_ref(),
            serves_own: !way.rule.via.is_empty(),
        };
        match scene.play(self.population, &self.space) {
            Some(counterexample) if counterexample.is_allowed => {
                self.best = Some(Found { counterexample, admission, tags: count });
            }
            // A host's one address cannot be a service's as well.
            _ if matches!(to.place, Arrival::Service(_)) && lives.is_some() => {}
            _ => {
                self.doubt =
                    Some(format!("{} seems to let {packet} pass, and the compiled filter does not", way.rule.origin))
            }
        }
    }

    fn verdict(self) -> Verdict {
        match (self.best, self.doubt) {
            (Some(Found { counterexample, admission: Admission::ByPolicy, .. }), _) => {
                Verdict::Disproved(Box::new(counterexample))
            }
            (_, Some(doubt)) => Verdict::Undecided(doubt),
            (None, None) => Verdict::Proved { assuming: Vec::new(), is_vacuous: false },
            (Some(found), None) => {
                Verdict::Proved { assuming: vec![assumption(&found.counterexample)], is_vacuous: false }
            }
        }
    }
}

/// What an operator must not do.
fn assumption(counterexample: &Counterexample) -> String {
    let several = counterexample.nodes.iter().filter(|node| node.tags.len() > 1);
    let tags: Vec<String> = several.map(|node| node.tags.join(" and ")).collect();
    format!(
        "no operator gives one node {}, which nobody owns together; then {} would pass",
        tags.join(", or one "),
        counterexample.packet
    )
}

/// A packet between two different addresses of one family.
fn a_packet(from: &IpRanges, to: &IpRanges, traffic: &Traffic) -> Option<Packet> {
    [true, false].into_iter().find_map(|is_ipv4| {
        let (protocol, port) = traffic.first(is_ipv4)?;
        let (from, to) = (of_family(from, is_ipv4), of_family(to, is_ipv4));
        // The set with fewer addresses chooses first.
        let dst = pick(&to, is_ipv4, &[])?;
        let (src, dst) = match pick(&from, is_ipv4, &[dst]) {
            Some(src) => (src, dst),
            None => {
                let src = pick(&from, is_ipv4, &[])?;
                (src, pick(&to, is_ipv4, &[src])?)
            }
        };
        Some(Packet { src, dst, protocol, port })
    })
}
