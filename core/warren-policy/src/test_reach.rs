//! Whether what the entries of `tests` say holds.
//!
//! The rules decide here as sets of addresses, before anything is cut down to single nodes, so that a test may speak of
//! addresses that no node has yet. An assertion that something is accepted holds if every source reaches the destination
//! (at one of its addresses); one that something is denied holds if no source reaches any of it.

use warren_ip::{IpRange, IpRanges, Protocol};

use crate::compile::Compiled;
use crate::diagnostics::Diagnostic;
use crate::policy::Policy;
use crate::policy_tests::{FAILED, PolicyTest, Target};
use crate::resolved::{Destination, Resolved};
use crate::rule::{Access, Rule};
use crate::selector::Selector;
use crate::sources::{Resolver, everywhere, internet};
use crate::tailnet::Tailnet;

/// Everything that judging one test after another needs.
pub(crate) struct Judge<'j, 'a> {
    pub(crate) policy: &'j Policy,
    pub(crate) compiled: &'j Compiled,
    pub(crate) tailnet: &'j Tailnet<'j>,
    pub(crate) resolver: &'j mut Resolver<'a>,
}

impl Judge<'_, '_> {
    /// Adds what of the test does not hold.
    pub(crate) fn run(&mut self, test: &PolicyTest, failures: &mut Vec<Diagnostic>) {
        let word = &test.word;
        // The attributes of the test, not those of the devices, are what postures are asked of.
        let sources = self.resolver.sources(std::slice::from_ref(&test.source), &[]).ranges;
        if sources.is_empty() {
            failures
                .push(test.place.complain(format!("{FAILED}: {word}: source {word:?} resolved to no IP addresses")));
            return;
        }
        for (targets, is_expected) in [(&test.accept, true), (&test.deny, false)] {
            for target in targets {
                let to = self.ranges_of(&target.destination);
                let error = if to.is_empty() {
                    let place = &target.word;
                    Some(format!("{word}: error testing {place:?}: destination resolved to no IP addresses: {place:?}"))
                } else {
                    self.contradiction(test, &sources, target, &to, is_expected)
                };
                failures.extend(error.map(|error| target.place.complain(format!("{FAILED}: {error}"))));
            }
        }
    }

    fn contradiction(
        &mut self,
        test: &PolicyTest,
        sources: &IpRanges,
        target: &Target,
        to: &IpRanges,
        is_expected: bool,
    ) -> Option<String> {
        let refused = self.refused(test, sources, target, to);
        let (wanted, found) = match is_expected {
            true if refused.is_empty() => return None,
            true => ("ALLOWED", "DENIED"),
            false if refused == *sources => return None,
            false => ("DENIED", "ALLOWED"),
        };
        let protocol = test.protocol.map(|protocol| format!(" ({protocol})")).unwrap_or_default();
        Some(format!("{} -> {}{protocol}: expected {wanted}, got {found}", test.word, target.word))
    }

    /// The sources that do not reach the destination.
    fn refused(&mut self, test: &PolicyTest, sources: &IpRanges, target: &Target, to: &IpRanges) -> IpRanges {
        let mut refused = sources.clone();
        for resolved in &self.compiled.resolved {
            let rule = &self.compiled.rules[resolved.rule];
            if refused.is_empty() || !rule.access.iter().any(|access| passes(access, test.protocol, target.port)) {
                continue;
            }
            let from = match &test.attributes {
                None => self.compiled.sources[resolved.sources].ranges.clone(),
                Some(attributes) if rule.postures.is_empty() || self.policy.meets_any(&rule.postures, attributes) => {
                    self.resolver.sources(&rule.sources, &[]).ranges
                }
                Some(_) => continue,
            };
            let is_reached = |destination: &Destination| self.is_reached(resolved, destination, to);
            if resolved.destinations.iter().any(is_reached) {
                from.iter().for_each(|range| refused.subtract(range));
            }
            if has_selves(rule) {
                self.own(&from, to).iter().for_each(|range| refused.subtract(range));
            }
        }
        refused
    }

    /// Whether a destination of a rule is, at least in part, the one of the test.
    fn is_reached(&self, resolved: &Resolved, destination: &Destination, to: &IpRanges) -> bool {
        let ranges = match destination {
            Destination::Everything => &everywhere(),
            Destination::Nodes { ranges, .. } | Destination::Service { ranges, .. } => ranges,
            Destination::Networks(ranges) => ranges,
            Destination::Internet => &internet(),
            Destination::Selves | Destination::Nothing => return false,
        };
        let Some(routers) = &resolved.routers else { return ranges.overlaps_any(to) };
        let wanted = ranges.intersection(to);
        let ways = self.tailnet.nodes.iter().enumerate().filter(|(place, _)| routers.contains(*place));
        let serves = |route: warren_ip::Prefix| wanted.overlaps(route.into());
        ways.map(|(_, node)| node).any(|node| node.subnet_routes().any(serves))
    }

    /// The devices among `from` whose owner also has one at `to`.
    fn own(&self, from: &IpRanges, to: &IpRanges) -> IpRanges {
        let people = self.resolver.owners().values();
        let addrs = |places: &[usize]| self.resolver.addresses_of(places);
        people
            .map(|places| addrs(places))
            .filter(|own| own.overlaps_any(to))
            .flat_map(|own| all(&own.intersection(from)))
            .collect()
    }

    /// Where a test connects to; for `*` wherever there is something.
    fn ranges_of(&mut self, destination: &Selector) -> IpRanges {
        match self.resolver.destination(destination).0 {
            Destination::Everything => self.resolver.sources(&[Selector::Everyone], &[]).ranges,
            Destination::Nodes { ranges, .. } | Destination::Service { ranges, .. } => IpRanges::clone(&ranges),
            Destination::Networks(ranges) => IpRanges::clone(&ranges),
            Destination::Internet | Destination::Selves | Destination::Nothing => IpRanges::new(),
        }
    }
}

fn all(ranges: &IpRanges) -> Vec<IpRange> {
    ranges.iter().collect()
}

fn has_selves(rule: &Rule) -> bool {
    use crate::selector::Autogroup;
    rule.destinations.contains(&Selector::Autogroup(Autogroup::Selves))
}

/// What clients use where nothing is said.
const DEFAULT: [Protocol; 4] = [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6];

/// Whether the access lets the connection of a test pass: any protocol of the default ones if the test names none.
fn passes(access: &Access, protocol: Option<Protocol>, port: u16) -> bool {
    let is_wanted = |allowed: Protocol| protocol.map_or(DEFAULT.contains(&allowed), |wanted| wanted == allowed);
    // Whoever may send anything may send echo requests.
    if matches!(protocol, Some(Protocol::ICMP | Protocol::ICMPV6)) {
        return true;
    }
    let is_allowed = access.protocol.map_or_else(|| DEFAULT.into_iter().any(is_wanted), is_wanted);
    is_allowed && access.ports.iter().any(|range| range.contains(port))
}
