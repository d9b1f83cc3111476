//! What the control server's rules mean: control-protocol.md §8.8, data-plane.md §6.1.

use std::net::IpAddr;

use warren_ip::{Flow, IpRange, IpRanges, Prefix, Protocol};
use warren_wire::{CapMap, FilterRule, PortRange};

/// Compiled rules. The default lets nothing in.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    rules: Vec<Rule>,
    grants: Vec<Grant>,
}

/// A rule that means nothing to us and was left out; the others stand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("filter rule {index}: {what}")]
pub struct RuleProblem {
    /// Which of the rules given, from 0.
    pub index: usize,
    pub what: String,
}

#[derive(Clone, PartialEq, Debug)]
struct Rule {
    sources: IpRanges,
    destinations: Vec<(IpRange, PortRange)>,
    protocols: ProtocolSet,
}

#[derive(Clone, PartialEq, Debug)]
struct Grant {
    sources: IpRanges,
    destinations: Vec<Prefix>,
    capabilities: CapMap,
}

/// One bit per protocol number.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct ProtocolSet([u64; 4]);

impl Filter {
    /// Makes a filter of wire rules. `holders_of` names the addresses of known peers that hold a node capability, for
    /// sources of the form `cap:<name>`.
    ///
    /// Access fails closed: a rule with anything in it that cannot be read is left out whole and returned as a problem.
    pub fn compile(rules: &[FilterRule], holders_of: impl Fn(&str) -> Vec<Prefix>) -> (Filter, Vec<RuleProblem>) {
        let mut filter = Filter::default();
        let mut problems = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            if let Err(what) = filter.add(rule, &holders_of) {
                problems.push(RuleProblem { index, what });
            }
        }
        (filter, problems)
    }

    fn add(&mut self, rule: &FilterRule, holders_of: &impl Fn(&str) -> Vec<Prefix>) -> Result<(), String> {
        if !rule.src_bits.is_empty() || rule.dst_ports.iter().any(|dst| dst.bits.is_some()) {
            return Err("speaks an obsolete form (SrcBits, Bits)".to_owned());
        }
        let mut sources = Vec::new();
        for text in &rule.src_ips {
            match text.strip_prefix("cap:") {
                Some(capability) => sources.extend(holders_of(capability).into_iter().map(IpRange::from)),
                None => sources.extend(addresses(text)?),
            }
        }
        let sources: IpRanges = sources.into_iter().collect();
        let mut destinations = Vec::with_capacity(rule.dst_ports.len());
        for dst in &rule.dst_ports {
            if dst.ports.first > dst.ports.last {
                return Err(format!("ports {}-{} are in the wrong order", dst.ports.first, dst.ports.last));
            }
            destinations.extend(addresses(&dst.ip)?.into_iter().map(|range| (range, dst.ports)));
        }
        if sources.is_empty() {
            return Ok(());
        }
        for grant in &rule.cap_grant {
            let mut capabilities = grant.cap_map.clone();
            for name in &grant.caps {
                capabilities.entry(name.clone()).or_default();
            }
            self.grants.push(Grant { sources: sources.clone(), destinations: grant.dsts.clone(), capabilities });
        }
        if !destinations.is_empty() {
            self.rules.push(Rule { sources, destinations, protocols: ProtocolSet::of(&rule.ip_proto) });
        }
        Ok(())
    }

    /// Whether no rule lets anything in.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule lets `flow.src` open this flow. The port of ICMP and of protocols without ports does not count:
    /// ICMP goes wherever anything may go, and the others need a rule for all ports.
    pub fn permits(&self, flow: &Flow) -> bool {
        let (src, dst, port) = (flow.src.ip(), flow.dst.ip(), flow.dst.port());
        self.rules.iter().any(|rule| {
            let fits = |ports: &PortRange| {
                if flow.protocol.is_icmp() {
                    return true;
                }
                rule.protocols.contains(flow.protocol)
                    && if flow.protocol.has_ports() { ports.contains(port) } else { *ports == PortRange::ANY }
            };
            rule.sources.contains(src)
                && rule.destinations.iter().any(|(range, ports)| range.contains(dst) && fits(ports))
        })
    }

    /// What `src` may ask of applications on the node whose own addresses are `own`: the union over all grants, their
    /// arguments one after another. A grant counts if it names the first own address of the source's family (data-plane.md §6.4).
    pub fn capabilities(&self, src: IpAddr, own: &[IpAddr]) -> CapMap {
        let mut all = CapMap::new();
        let Some(us) = own.iter().find(|addr| addr.is_ipv4() == src.is_ipv4()) else { return all };
        for grant in &self.grants {
            if grant.sources.contains(src) && grant.destinations.iter().any(|dst| dst.contains(*us)) {
                for (name, arguments) in &grant.capabilities {
                    all.entry(name.clone()).or_default().extend(arguments.iter().cloned());
                }
            }
        }
        all
    }
}

/// `*`, an address, a network or a range.
fn addresses(text: &str) -> Result<Vec<IpRange>, String> {
    if text == "*" {
        return Ok(vec![Prefix::ALL_V4.into(), Prefix::ALL_V6.into()]);
    }
    text.parse::<IpRange>().map(|range| vec![range]).map_err(|error| error.to_string())
}

impl ProtocolSet {
    /// An empty list means TCP, UDP and ICMP. Numbers that no protocol can have are ignored, and do not make the list empty.
    fn of(numbers: &[i64]) -> ProtocolSet {
        let mut set = ProtocolSet::default();
        if numbers.is_empty() {
            [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6].into_iter().for_each(|p| set.insert(p));
        }
        numbers.iter().filter_map(|number| u8::try_from(*number).ok()).for_each(|number| set.insert(Protocol(number)));
        set
    }

    fn insert(&mut self, protocol: Protocol) {
        self.0[usize::from(protocol.0 >> 6)] |= 1 << (protocol.0 & 63);
    }

    fn contains(self, protocol: Protocol) -> bool {
        self.0[usize::from(protocol.0 >> 6)] & (1 << (protocol.0 & 63)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(rules: serde_json::Value) -> (Filter, Vec<RuleProblem>) {
        let rules: Vec<FilterRule> = serde_json::from_value(rules).expect("wire rules");
        Filter::compile(
            &rules,
            |name| if name == "trusted" { vec!["100.64.0.9/32".parse().unwrap()] } else { Vec::new() },
        )
    }

    #[track_caller]
    fn check(rules: serde_json::Value, cases: &[(u8, &str, &str, bool)]) {
        let (filter, problems) = compile(rules);
        assert_eq!(problems, []);
        for (protocol, src, dst, expected) in cases {
            let flow = Flow { protocol: Protocol(*protocol), src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            assert_eq!(filter.permits(&flow), *expected, "{flow}");
        }
    }

    #[test]
    fn a_rule_without_protocols_means_tcp_udp_and_icmp() {
        check(
            json!([{"SrcIPs": ["100.64.0.1"], "DstPorts": [{"IP": "100.64.0.2", "Ports": {"First": 80, "Last": 90}}]}]),
            &[
                (6, "100.64.0.1:1", "100.64.0.2:80", true),
                (17, "100.64.0.1:1", "100.64.0.2:90", true),
                (6, "100.64.0.1:1", "100.64.0.2:91", false),
                (6, "100.64.0.1:1", "100.64.0.3:80", false),
                (6, "100.64.0.3:1", "100.64.0.2:80", false),
                (132, "100.64.0.1:1", "100.64.0.2:80", false),
                (1, "100.64.0.1:0", "100.64.0.2:0", true),
                (47, "100.64.0.1:0", "100.64.0.2:0", false),
            ],
        );
    }

    #[test]
    fn a_protocol_without_ports_needs_its_name_and_all_ports() {
        check(
            json!([{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}], "IPProto": [47, 300, -1]},
                   {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 1, "Last": 65535}}], "IPProto": [50]}]),
            &[
                (47, "100.64.0.1:0", "100.64.0.2:0", true),
                (47, "[fd7a::1]:0", "[fd7a::2]:0", true),
                (50, "100.64.0.1:0", "100.64.0.2:0", false),
                (6, "100.64.0.1:0", "100.64.0.2:0", false),
                (58, "[fd7a::1]:0", "[fd7a::2]:0", true),
            ],
        );
    }

    #[test]
    fn numbers_that_no_protocol_has_do_not_fall_back_to_the_usual_ones() {
        check(
            json!([{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}], "IPProto": [256]}]),
            &[(6, "100.64.0.1:0", "100.64.0.2:80", false)],
        );
    }

    #[test]
    fn ranges_networks_and_capabilities_name_sources() {
        check(
            json!([{"SrcIPs": ["100.64.0.1-100.64.0.3", "10.0.0.0/8", "cap:trusted", "cap:unknown"],
                    "DstPorts": [{"IP": "100.64.1.0/24", "Ports": {"First": 0, "Last": 65535}}]}]),
            &[
                (6, "100.64.0.3:1", "100.64.1.7:5", true),
                (6, "100.64.0.4:1", "100.64.1.7:5", false),
                (6, "10.9.9.9:1", "100.64.1.7:5", true),
                (6, "100.64.0.9:1", "100.64.1.7:5", true),
            ],
        );
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_left_out_and_the_others_stand() {
        let all = json!({"IP": "*", "Ports": {"First": 0, "Last": 65535}});
        let (filter, problems) = compile(json!([
            {"SrcIPs": ["100.64.0.1", "nonsense"], "DstPorts": [all]},
            {"SrcIPs": ["100.64.0.2"], "SrcBits": [32], "DstPorts": [all]},
            {"SrcIPs": ["100.64.0.3"], "DstPorts": [{"IP": "cap:trusted", "Ports": {"First": 0, "Last": 65535}}]},
            {"SrcIPs": ["100.64.0.4"], "DstPorts": [{"IP": "*", "Ports": {"First": 9, "Last": 8}}]},
            {"SrcIPs": ["10.0.0.1/8"], "DstPorts": [all]},
            {"SrcIPs": ["100.64.0.5"], "DstPorts": [all]},
        ]));
        assert_eq!(problems.iter().map(|problem| problem.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        for last in 1..=5u8 {
            let flow = Flow {
                protocol: Protocol::TCP,
                src: format!("100.64.0.{last}:1").parse().unwrap(),
                dst: "100.64.9.9:1".parse().unwrap(),
            };
            assert_eq!(filter.permits(&flow), last == 5, "{flow}");
        }
    }

    #[test]
    fn capabilities_of_all_matching_grants_add_up_for_the_first_address_of_a_family() {
        let (filter, problems) = compile(json!([
            {"SrcIPs": ["100.64.0.1"], "CapGrant": [{"Dsts": ["100.64.0.2/32"], "CapMap": {"example.com/a": [1]}}]},
            {"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["100.64.0.2/32", "fd7a::2/128"], "CapMap": {"example.com/a": [2], "example.com/b": null}}]},
            {"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["100.64.0.3/32"], "Caps": ["example.com/c"]}]},
        ]));
        assert_eq!(problems, []);
        let own: Vec<IpAddr> =
            ["100.64.0.2", "100.64.0.3", "fd7a::2"].iter().map(|text| text.parse().unwrap()).collect();
        let show = |src: &str| serde_json::to_value(filter.capabilities(src.parse().unwrap(), &own)).unwrap();
        assert_eq!(show("100.64.0.1"), json!({"example.com/a": [1, 2], "example.com/b": []}));
        assert_eq!(show("fd7a::9"), json!({"example.com/a": [2], "example.com/b": []}));
        assert!(filter.is_empty(), "a capability lets no packet in");
    }
}
