//! `X reaches every Y`: looks for a sender that X names and a receiver that Y names, as small as can be, between which
//! some packet is let through by no rule.

use warren_ip::{IpRange, IpRanges};

use crate::analysis::counterexample::{Arrival, Origin, Scene};
use crate::analysis::devices;
use crate::analysis::holders::{Holder, Person, Population};
use crate::analysis::packet::Packet;
use crate::analysis::passages::{atoms, of_family};
use crate::analysis::prove::Verdict;
use crate::analysis::space::{Space, literal, pick, whole};
use crate::analysis::statement::Claim;
use crate::analysis::traffic::Traffic;
use crate::rule::Rule;
use crate::selector::{Autogroup, Selector};
use crate::sources::internet;

/// More looks than this at a rule are not a question for a command line.
const MAX_LOOKS: usize = 50_000_000;

pub(crate) fn prove(population: &Population<'_>, claim: &Claim) -> Verdict {
    let all = [Rule::of_no_policy()];
    let rules = population.policy.rules.as_deref().unwrap_or(&all);
    let search = Search { population, rules, space: Space::new() };
    let (senders, receivers) = (search.senders(claim), search.receivers(claim));
    if senders.len().saturating_mul(receivers.len()).saturating_mul(rules.len()) > MAX_LOOKS {
        return Verdict::Undecided(format!(
            "{} kinds of sender, {} kinds of receiver and {} rules are too many; name them more closely",
            senders.len(),
            receivers.len(),
            rules.len()
        ));
    }
    for sender in &senders {
        for receiver in &receivers {
            if let Some(verdict) = search.look(claim, sender, receiver) {
                return verdict;
            }
        }
    }
    let is_vacuous = senders.is_empty() || receivers.is_empty();
    Verdict::Proved { assuming: Vec::new(), is_vacuous }
}

struct Search<'a> {
    population: &'a Population<'a>,
    rules: &'a [Rule],
    space: Space,
}

/// A kind of sender or receiver, and the addresses that packets may have there.
#[derive(Clone, Debug)]
struct End<P> {
    place: P,
    /// Nobody in particular for what lies behind a node.
    holder: Option<Holder>,
    addrs: IpRanges,
}

/// What one rule lets through between two kinds of node.
struct Passage {
    from: IpRanges,
    to: IpRanges,
    traffic: Traffic,
    /// Of the rule; empty for what lies behind a sender, which no posture is asked of.
    postures: Vec<String>,
}

impl Search<'_> {
    fn senders(&self, claim: &Claim) -> Vec<End<Origin>> {
        if let Some(holders) = self.population.smallest(&claim.from) {
            let end = |holder| End { place: Origin::Own, holder: Some(holder), addrs: self.space.overlay.clone() };
            return holders.into_iter().map(end).collect();
        }
        let set = literal(self.population.policy, &claim.from).unwrap_or_else(whole);
        let own = set.intersection(&self.space.overlay);
        let end = |holder| End { place: Origin::Own, holder: Some(holder), addrs: own.clone() };
        let behind = End { place: Origin::Behind, holder: None, addrs: set.intersection(&self.space.outside) };
        self.anybody().map(end).chain([behind]).filter(|end| !end.addrs.is_empty()).collect()
    }

    fn receivers(&self, claim: &Claim) -> Vec<End<Arrival>> {
        let overlay = &self.space.overlay;
        if let Some(holders) = self.population.smallest(&claim.to) {
            let end = |holder| End { place: Arrival::Own, holder: Some(holder), addrs: overlay.clone() };
            return holders.into_iter().map(end).collect();
        }
        match &claim.to {
            Selector::Autogroup(Autogroup::Selves) => {
                return vec![End { place: Arrival::Own, holder: None, addrs: overlay.clone() }];
            }
            Selector::Service(name) => {
                let place = Arrival::Service(Some(name.clone()));
                return vec![End { place, holder: None, addrs: overlay.clone() }];
            }
            _ => {}
        }
        let set = literal(self.population.policy, &claim.to).unwrap_or_else(whole);
        let own = set.intersection(overlay);
        let outside = set.intersection(&self.space.outside);
        let public = outside.intersection(&internet());
        let end = |holder| End { place: Arrival::Own, holder: Some(holder), addrs: own.clone() };
        let mut ends: Vec<End<Arrival>> = self.anybody().map(end).collect();
        ends.push(End { place: Arrival::Router, holder: None, addrs: outside });
        ends.push(End { place: Arrival::Exit, holder: None, addrs: public });
        ends.retain(|end| !end.addrs.is_empty());
        ends
    }

    /// The smallest holders of all.
    fn anybody(&self) -> impl Iterator<Item = Holder> {
        let tagged = self.population.smallest(&Selector::Autogroup(Autogroup::Tagged)).unwrap_or_default();
        std::iter::once(Holder::Person(Person::nobody())).chain(tagged)
    }

    /// `None` if every packet between the two passes.
    fn look(&self, claim: &Claim, sender: &End<Origin>, receiver: &End<Arrival>) -> Option<Verdict> {
        let mut receiver = receiver.clone();
        let mut is_own = claim.to == Selector::Autogroup(Autogroup::Selves);
        if is_own {
            receiver.holder = sender.holder.clone();
        }
        if let (Some(a), Some(b)) = (&sender.holder, &receiver.holder) {
            is_own |= self.population.must_be_one(a, b);
        }
        let passages = self.passages(sender, &receiver, is_own);
        if passages.iter().all(|passage| passage.postures.is_empty()) {
            let packet = gap(&sender.addrs, &receiver.addrs, &claim.traffic, &passages.iter().collect::<Vec<_>>())?;
            return Some(self.confirm(sender, &receiver, is_own, devices::Attributes::new(), packet));
        }
        // Devices that meet no posture at all would be the hardest; whether there can be one depends on the postures.
        let bare: Vec<&Passage> = passages.iter().filter(|passage| passage.postures.is_empty()).collect();
        let hardest = gap(&sender.addrs, &receiver.addrs, &claim.traffic, &bare)?;
        for attributes in devices::awkward(self.population.policy) {
            let meets = |passage: &&Passage| self.population.policy.meets_any(&passage.postures, &attributes);
            let met: Vec<&Passage> = passages.iter().filter(meets).collect();
            if let Some(packet) = gap(&sender.addrs, &receiver.addrs, &claim.traffic, &met) {
                return Some(self.confirm(sender, &receiver, is_own, attributes, packet));
            }
        }
        Some(Verdict::Undecided(format!(
            "{hardest} passes for devices that meet some posture; whether every device meets one was not found out"
        )))
    }

    fn confirm(
        &self,
        sender: &End<Origin>,
        receiver: &End<Arrival>,
        is_own: bool,
        attributes: devices::Attributes,
        packet: Packet,
    ) -> Verdict {
        let lives = self.away_from_literals();
        let is_exit = receiver.place == Arrival::Exit;
        let scene = Scene {
            origin: sender.place,
            sender: sender.holder.clone(),
            attributes,
            arrival: receiver.place.clone(),
            receiver: receiver.holder.clone(),
            is_own,
            packet,
            receiver_lives: (is_exit || matches!(receiver.place, Arrival::Service(_))).then_some(&lives),
            serves_own: false,
        };
        match scene.play(self.population, &self.space) {
            Some(counterexample) if !counterexample.is_allowed => Verdict::Disproved(Box::new(counterexample)),
            _ => Verdict::Undecided(format!("no rule seems to let {packet} pass, and yet a compiled filter does")),
        }
    }

    /// Own addresses for exit nodes and hosts of services, at which no rule speaks to them as a node.
    fn away_from_literals(&self) -> IpRanges {
        let mut left = self.space.overlay.clone();
        let words = self.rules.iter().flat_map(|rule| &rule.destinations);
        for range in words
            .filter_map(|word| literal(self.population.policy, word))
            .flat_map(|set| set.iter().collect::<Vec<_>>())
        {
            if !self.holds_a_family(alone(range)) {
                left.subtract(range);
            }
        }
        left
    }

    /// Whether every node has an address in the set.
    fn holds_a_family(&self, set: IpRanges) -> bool {
        [true, false].into_iter().any(|is_ipv4| set.covers_all(&of_family(&self.space.overlay, is_ipv4)))
    }

    fn passages(&self, sender: &End<Origin>, receiver: &End<Arrival>, is_own: bool) -> Vec<Passage> {
        let mut passages = Vec::new();
        // A rule with `via` opens nothing at nodes without its tags that serve nothing, and those are among the kinds.
        for rule in self.rules.iter().filter(|rule| rule.via.is_empty() && rule.passes_packets()) {
            let from = union(rule.sources.iter().map(|word| self.from(word, sender)));
            let to = union(rule.destinations.iter().map(|word| self.to(word, receiver, sender, is_own)));
            if from.is_empty() || to.is_empty() {
                continue;
            }
            let postures = if sender.place == Origin::Own { rule.postures.clone() } else { Vec::new() };
            passages.push(Passage { from, to, traffic: Traffic::of_access(&rule.access), postures });
        }
        passages
    }

    /// The sender's addresses that a source word names.
    fn from(&self, word: &Selector, sender: &End<Origin>) -> IpRanges {
        if let Some(set) = literal(self.population.policy, word) {
            return set.intersection(&sender.addrs);
        }
        let is_named = match word {
            Selector::Everyone | Selector::Autogroup(Autogroup::DangerAll) => true,
            _ => sender.holder.as_ref().is_some_and(|holder| self.population.names(word, holder)),
        };
        if is_named { sender.addrs.clone() } else { IpRanges::new() }
    }

    /// The receiver's addresses that a destination word names.
    fn to(&self, word: &Selector, receiver: &End<Arrival>, sender: &End<Origin>, is_own: bool) -> IpRanges {
        if let Some(set) = literal(self.population.policy, word) {
            return match &receiver.place {
                Arrival::Own | Arrival::Router => set.intersection(&receiver.addrs),
                // An exit node is told of what is public, and of what it has an address in.
                Arrival::Exit => {
                    let public = internet();
                    let told = set.iter().filter(|range| public.covers(*range) || self.holds_a_family(alone(*range)));
                    told.collect::<IpRanges>().intersection(&receiver.addrs)
                }
                Arrival::Service(_) => {
                    let told = set.iter().filter(|range| self.holds_a_family(alone(*range)));
                    told.collect::<IpRanges>().intersection(&receiver.addrs)
                }
            };
        }
        let is_named = match word {
            Selector::Everyone => true,
            Selector::Service(name) => receiver.place == Arrival::Service(Some(name.clone())),
            Selector::Autogroup(Autogroup::Selves) => {
                is_own && sender.place == Origin::Own && matches!(receiver.holder, Some(Holder::Person(_)))
            }
            _ => receiver.holder.as_ref().is_some_and(|holder| self.population.names(word, holder)),
        };
        if is_named { receiver.addrs.clone() } else { IpRanges::new() }
    }
}

/// A packet between two different addresses that no passage lets through.
fn gap(from: &IpRanges, to: &IpRanges, traffic: &Traffic, passages: &[&Passage]) -> Option<Packet> {
    [true, false].into_iter().find_map(|is_ipv4| {
        let (from, to) = (of_family(from, is_ipv4), of_family(to, is_ipv4));
        let froms: Vec<&IpRanges> = passages.iter().map(|passage| &passage.from).collect();
        for (srcs, lets) in atoms(&from, &froms) {
            let here: Vec<&&Passage> = lets.iter().filter_map(|place| passages.get(*place)).collect();
            let tos: Vec<&IpRanges> = here.iter().map(|passage| &passage.to).collect();
            for (dsts, lets) in atoms(&to, &tos) {
                let mut passing = Traffic::default();
                lets.iter()
                    .filter_map(|place| here.get(*place))
                    .for_each(|passage| passing.union_with(&passage.traffic));
                let Some((protocol, port)) = traffic.minus(&passing).first(is_ipv4) else { continue };
                let Some(src) = pick(&srcs, is_ipv4, &[]) else { continue };
                let pair = match pick(&dsts, is_ipv4, &[src]) {
                    Some(dst) => Some((src, dst)),
                    None => pick(&dsts, is_ipv4, &[]).and_then(|dst| Some((pick(&srcs, is_ipv4, &[dst])?, dst))),
                };
                if let Some((src, dst)) = pair {
                    return Some(Packet { src, dst, protocol, port });
                }
            }
        }
        None
    })
}

fn union(sets: impl Iterator<Item = IpRanges>) -> IpRanges {
    sets.flat_map(|set| set.iter().collect::<Vec<_>>()).collect()
}

fn alone(range: IpRange) -> IpRanges {
    [range].into_iter().collect()
}
