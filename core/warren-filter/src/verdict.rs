//! What becomes of a packet, and how often.

/// The decision on one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    Accept,
    Drop(DropReason),
}

/// Why a packet goes no further.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// To a multicast group; the overlay has none.
    Multicast,
    /// To a link-local address; the overlay is not a link.
    LinkLocal,
    /// To an address that is neither this node's nor behind it.
    NotLocal,
    /// No rule lets this source open this flow.
    NoRule,
    /// The user lets nobody open anything.
    ShieldsUp,
    /// The flow was allowed once and no longer is.
    FlowCut,
    /// A message between nodes came from the local host, which has no business sending one.
    TsmpFromHost,
}

impl DropReason {
    pub const ALL: [DropReason; 7] = [
        DropReason::Multicast,
        DropReason::LinkLocal,
        DropReason::NotLocal,
        DropReason::NoRule,
        DropReason::ShieldsUp,
        DropReason::FlowCut,
        DropReason::TsmpFromHost,
    ];

    /// A few words for a metric label or a table.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Multicast => "multicast",
            DropReason::LinkLocal => "link-local",
            DropReason::NotLocal => "not-local",
            DropReason::NoRule => "no-rule",
            DropReason::ShieldsUp => "shields-up",
            DropReason::FlowCut => "flow-cut",
            DropReason::TsmpFromHost => "tsmp-from-host",
        }
    }
}

/// Verdicts given so far. A burst counts once: it is one verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub accepted_inbound: u64,
    pub accepted_outbound: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Verdicts of this reason, in either direction.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_of_its_own() {
        let mut counters = Counters::default();
        DropReason::ALL.into_iter().for_each(|reason| counters.count_drop(reason));
        assert!(DropReason::ALL.into_iter().all(|reason| counters.dropped(reason) == 1));
        assert_eq!(counters.dropped_in_all(), 7);
    }
}
