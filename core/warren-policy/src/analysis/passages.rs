//! A node's compiled filter as a set of packets, for whoever must compare or ask and not enforce.

use warren_ip::{IpRange, IpRanges, Prefix};
use warren_wire::FilterRule;

use crate::analysis::packet::Packet;
use crate::analysis::traffic::Traffic;

/// Whatever comes from `from` to `to` in `traffic`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Passage {
    pub(crate) from: IpRanges,
    pub(crate) to: IpRanges,
    pub(crate) traffic: Traffic,
}

impl Passage {
    fn lets(&self, packet: &Packet) -> bool {
        self.from.contains(packet.src)
            && self.to.contains(packet.dst)
            && self.traffic.contains(packet.protocol, packet.port)
    }
}

/// What a filter lets in. A rule that cannot be read lets nothing in; there is none such among our own.
pub(crate) fn passages(filter: &[FilterRule]) -> Vec<Passage> {
    let mut passages = Vec::new();
    for rule in filter {
        let Some(from) = rule.src_ips.iter().map(|text| ranges(text)).collect::<Option<Vec<_>>>() else { continue };
        let from: IpRanges = from.into_iter().flatten().collect();
        for dst in &rule.dst_ports {
            let Some(to) = ranges(&dst.ip) else { continue };
            passages.push(Passage {
                from: from.clone(),
                to: to.into_iter().collect(),
                traffic: Traffic::of_wire(rule, dst.ports),
            });
        }
    }
    passages
}

/// Whether a filter lets a packet in.
pub(crate) fn lets(passages: &[Passage], packet: &Packet) -> bool {
    passages.iter().any(|passage| passage.lets(packet))
}

/// An entry of a wire rule: `*`, an address, a network or a range.
pub(crate) fn ranges(text: &str) -> Option<Vec<IpRange>> {
    if text == "*" {
        return Some(vec![Prefix::ALL_V4.into(), Prefix::ALL_V6.into()]);
    }
    text.parse::<IpRange>().ok().map(|range| vec![range])
}

/// Cuts a set of addresses into pieces that none of `sets` divides, each with the places of the sets that hold it.
/// Pieces that the same sets hold are one.
pub(crate) fn atoms(whole: &IpRanges, sets: &[&IpRanges]) -> Vec<(IpRanges, Vec<usize>)> {
    let mut pieces: Vec<(IpRanges, Vec<usize>)> = vec![(whole.clone(), Vec::new())];
    for (place, set) in sets.iter().enumerate() {
        let mut next = Vec::with_capacity(pieces.len() + 1);
        for (piece, holders) in pieces {
            let inside = piece.intersection(set);
            if inside.is_empty() {
                next.push((piece, holders));
                continue;
            }
            let mut outside = piece;
            inside.iter().for_each(|range| outside.subtract(range));
            if !outside.is_empty() {
                next.push((outside, holders.clone()));
            }
            let mut holders = holders;
            holders.push(place);
            next.push((inside, holders));
        }
        pieces = next;
    }
    pieces.retain(|(piece, _)| !piece.is_empty());
    pieces
}

/// The part of a set that is of one family.
pub(crate) fn of_family(set: &IpRanges, is_ipv4: bool) -> IpRanges {
    set.iter().filter(|range| range.is_ipv4() == is_ipv4).collect()
}
