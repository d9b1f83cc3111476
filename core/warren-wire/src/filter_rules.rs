//! Packet filter rules as the server sends them: what may come *in*. control-protocol.md §8.8.

use warren_ip::Prefix;

use crate::CapMap;
use crate::object::wire_object;

wire_object! {
    /// Sources that may reach destinations. Either `dst_ports` or `cap_grant` is filled, not both.
    pub struct FilterRule {
        /// `*`, an address, a masked prefix, an inclusive `a-b` range, or `cap:<node capability>`.
        [always] pub src_ips: Vec<String> => "SrcIPs",
        /// Long obsolete. A client that meets it distrusts the whole filter (blocks all inbound); never sent.
        [omit] pub src_bits: Vec<i64> => "SrcBits",
        [omit] pub dst_ports: Vec<NetPortRange> => "DstPorts",
        /// Empty means TCP, UDP and ICMP of both families.
        [omit] pub ip_proto: Vec<i64> => "IPProto",
        [omit] pub cap_grant: Vec<CapGrant> => "CapGrant",
    }
}

wire_object! {
    /// A destination: addresses and ports.
    pub struct NetPortRange {
        /// As [`FilterRule::src_ips`], but without the `cap:` form.
        [always] pub ip: String => "IP",
        /// Long obsolete, as [`FilterRule::src_bits`].
        [omit] pub bits: Option<i64> => "Bits",
        [always] pub ports: PortRange => "Ports",
    }
}

wire_object! {
    /// Ports, both ends included.
    #[derive(Copy, Eq, PartialOrd, Ord, Hash)]
    pub struct PortRange {
        [always] pub first: u16 => "First",
        [always] pub last: u16 => "Last",
    }
}

impl PortRange {
    /// Every port.
    pub const ANY: PortRange = PortRange { first: 0, last: 65535 };

    /// Whether `port` lies within.
    pub fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

wire_object! {
    /// What the sources may ask of applications at the destinations.
    pub struct CapGrant {
        /// Addresses of the node that holds the rule.
        [always_prefixes] pub dsts: Vec<Prefix> => "Dsts",
        [omit] pub caps: Vec<String> => "Caps",
        [caps] pub cap_map: CapMap => "CapMap",
    }
}

impl FilterRule {
    /// Everyone may reach everything that this node has.
    pub fn allow_all() -> FilterRule {
        FilterRule {
            src_ips: vec!["*".into()],
            dst_ports: vec![NetPortRange { ip: "*".into(), bits: None, ports: PortRange::ANY }],
            ..FilterRule::default()
        }
    }
}
