//! The filter and the flows that run beside it: one verdict per packet.

use std::net::IpAddr;
use std::time::Instant;

use warren_ip::{Flow, PacketView, PrefixSet, Protocol};
use warren_wire::CapMap;

use crate::flows::{Flows, State};
use crate::rules::Filter;
use crate::verdict::{Counters, DropReason, Verdict};

/// Judges every packet that crosses a node. Born closed: before the first [`Guarded::set_filter`] nothing comes in but
/// answers.
#[derive(Debug, Default)]
pub struct Guarded {
    filter: Filter,
    is_shielded: bool,
    /// UDP and SCTP flows that this node opened, seen from the peer.
    ours: Flows,
    /// Flows that a rule let a peer open.
    theirs: Flows,
    counters: Counters,
}

impl Guarded {
    pub fn new() -> Guarded {
        Guarded::default()
    }

    /// A packet of the local host for a peer. Only nonsense is dropped; flows are noted so that answers pass.
    pub fn outbound(&mut self, packet: &PacketView<'_>, now: Instant) -> Verdict {
        let verdict = self.judge_outbound(packet, now);
        match verdict {
            Verdict::Accept => self.counters.accepted_outbound += 1,
            Verdict::Drop(reason) => self.counters.count_drop(reason),
        }
        verdict
    }

    /// A packet of a peer whose inner source was found to be that peer's. `local`: this node's addresses and the networks
    /// behind it.
    pub fn inbound(&mut self, packet: &PacketView<'_>, local: &PrefixSet, now: Instant) -> Verdict {
        let verdict = self.judge_inbound(packet, local, now);
        match verdict {
            Verdict::Accept => self.counters.accepted_inbound += 1,
            Verdict::Drop(reason) => self.counters.count_drop(reason),
        }
        verdict
    }

    /// Replaces the rules and judges every flow that a peer opened again: what no rule permits any more is cut, what is
    /// permitted again runs again. Flows that this node opened are untouched.
    pub fn set_filter(&mut self, filter: Filter) {
        self.filter = filter;
        self.judge_flows();
    }

    /// While shielded nobody opens anything towards this node, whatever the rules say; running flows of theirs are cut.
    pub fn set_shields_up(&mut self, is_shielded: bool) {
        self.is_shielded = is_shielded;
        self.judge_flows();
    }

    /// What this source may ask of applications here; `own` are this node's addresses, first of each family first.
    pub fn capabilities(&self, src: IpAddr, own: &[IpAddr]) -> CapMap {
        self.filter.capabilities(src, own)
    }

    /// Whether a rule lets this flow be opened towards us now.
    pub fn permits(&self, flow: &Flow) -> bool {
        !self.is_shielded && self.filter.permits(flow)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many flows are remembered, ours and theirs.
    pub fn tracked_flows(&self) -> usize {
        self.ours.len() + self.theirs.len()
    }

    fn judge_flows(&mut self) {
        let (filter, is_shielded) = (&self.filter, self.is_shielded);
        self.theirs.judge(|flow| !is_shielded && filter.permits(flow));
    }

    fn judge_outbound(&mut self, packet: &PacketView<'_>, now: Instant) -> Verdict {
        if let Some(reason) = beyond_the_overlay(packet.dst()) {
            return Verdict::Drop(reason);
        }
        if packet.protocol() == Protocol::TSMP {
            return Verdict::Drop(DropReason::TsmpFromHost);
        }
        if packet.is_fragment() {
            return Verdict::Accept;
        }
        let answer = Flow::of(packet).reversed();
        match packet.protocol() {
            Protocol::UDP | Protocol::SCTP => self.note_datagram(answer, now),
            Protocol::TCP if packet.tcp_flags().opens() => self.theirs.forget(&answer),
            // A connection that was cut is cut both ways: a sender on our side would go on into the peer's open window.
            Protocol::TCP if self.theirs.touch(&answer, now) == Some(State::Cut) => {
                return Verdict::Drop(DropReason::FlowCut);
            }
            _ => {}
        }
        Verdict::Accept
    }

    /// Answering a flow of theirs opens nothing, or a cut flow would live on through our own answers.
    fn note_datagram(&mut self, answer: Flow, now: Instant) {
        if self.theirs.touch(&answer, now).is_none() && self.ours.touch(&answer, now).is_none() {
            self.ours.note(answer, now);
        }
    }

    fn judge_inbound(&mut self, packet: &PacketView<'_>, local: &PrefixSet, now: Instant) -> Verdict {
        if let Some(reason) = beyond_the_overlay(packet.dst()) {
            return Verdict::Drop(reason);
        }
        if !local.contains(packet.dst()) {
            return Verdict::Drop(DropReason::NotLocal);
        }
        if packet.is_fragment() {
            return Verdict::Accept;
        }
        let flow = Flow::of(packet);
        match packet.protocol() {
            Protocol::TSMP => Verdict::Accept,
            Protocol::ICMP | Protocol::ICMPV6 if packet.is_icmp_error() || packet.echo_reply().is_some() => {
                Verdict::Accept
            }
            Protocol::TCP if packet.tcp_flags().opens() => self.open(flow, now),
            Protocol::TCP => match self.theirs.touch(&flow, now) {
                Some(State::Cut) => Verdict::Drop(DropReason::FlowCut),
                // Not in the table: we opened it, or we were restarted under it.
                Some(State::Live) | None => Verdict::Accept,
            },
            Protocol::UDP | Protocol::SCTP => self.datagram(flow, now),
            _ if self.permits(&flow) => Verdict::Accept,
            _ => Verdict::Drop(self.refusal()),
        }
    }

    fn datagram(&mut self, flow: Flow, now: Instant) -> Verdict {
        match self.theirs.state(&flow, now) {
            // Only what our side sends keeps the memory of the cut; a peer that goes on sending does not.
            Some(State::Cut) => Verdict::Drop(DropReason::FlowCut),
            Some(State::Live) => {
                self.theirs.touch(&flow, now);
                Verdict::Accept
            }
            None if self.ours.touch(&flow, now).is_some() => Verdict::Accept,
            None => self.open(flow, now),
        }
    }

    fn open(&mut self, flow: Flow, now: Instant) -> Verdict {
        if !self.permits(&flow) {
            return Verdict::Drop(self.refusal());
        }
        self.theirs.note(flow, now);
        Verdict::Accept
    }

    fn refusal(&self) -> DropReason {
        if self.is_shielded { DropReason::ShieldsUp } else { DropReason::NoRule }
    }
}

/// Destinations that no tunnel carries, in either direction. 169.254.169.254 is where clouds answer DNS and metadata
/// questions, and a node may serve it as a route.
fn beyond_the_overlay(dst: IpAddr) -> Option<DropReason> {
    let (is_multicast, is_link_local) = match dst {
        IpAddr::V4(v4) => (v4.is_multicast(), v4.is_link_local() && v4.octets() != [169, 254, 169, 254]),
        IpAddr::V6(v6) => (v6.is_multicast(), v6.is_unicast_link_local()),
    };
    match (is_multicast, is_link_local) {
        (true, _) => Some(DropReason::Multicast),
        (_, true) => Some(DropReason::LinkLocal),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests;
