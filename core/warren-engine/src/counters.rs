//! What went through, and why the rest did not.

/// Why a packet, datagram or handshake message went no further in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Not an IP packet, or its lengths contradict each other.
    NotIp,
    /// Outbound, from an address that is not this node's.
    NotOurSource,
    /// Outbound, to an address that no peer has.
    NoPeerForAddress,
    /// To or from a peer whose key has expired.
    PeerExpired,
    /// Outbound, and neither a direct path nor a relay is known.
    NoPath,
    /// Waited for keys and gave way to newer packets, or the handshake was given up.
    StagedTooLong,
    /// The peer's public key is a point that no honest peer has.
    ImpossibleKey,
    /// The peer was removed between two steps.
    PeerGone,
    /// The verdict of the filter; its own counters say why.
    Filter,
    /// A datagram that is no message of any protocol spoken here.
    NotAMessage,
    /// A handshake message that did not authenticate; WireGuard's counters say why.
    BadHandshake,
    /// Sealed under keys that this node does not have, or no longer uses.
    UnknownKeys,
    /// Its tag does not verify.
    Forged,
    /// Its counter was seen, or is too old to tell.
    Replayed,
    /// The inner source is not an address of the peer that sealed it.
    SourceNotOwnedByPeer,
    /// A message between nodes that this build does not know.
    UnknownTsmp,
    /// A disco message of our own inside the tunnel: a loop.
    OwnDisco,
}

const REASONS: usize = DropReason::OwnDisco as usize + 1;

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; REASONS] = [
        Self::NotIp,
        Self::NotOurSource,
        Self::NoPeerForAddress,
        Self::PeerExpired,
        Self::NoPath,
        Self::StagedTooLong,
        Self::ImpossibleKey,
        Self::PeerGone,
        Self::Filter,
        Self::NotAMessage,
        Self::BadHandshake,
        Self::UnknownKeys,
        Self::Forged,
        Self::Replayed,
        Self::SourceNotOwnedByPeer,
        Self::UnknownTsmp,
        Self::OwnDisco,
    ];

    /// A few words for a metric label or a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not-ip",
            Self::NotOurSource => "not-our-source",
            Self::NoPeerForAddress => "no-peer-for-address",
            Self::PeerExpired => "peer-expired",
            Self::NoPath => "no-path",
            Self::StagedTooLong => "staged-too-long",
            Self::ImpossibleKey => "impossible-key",
            Self::PeerGone => "peer-gone",
            Self::Filter => "filter",
            Self::NotAMessage => "not-a-message",
            Self::BadHandshake => "bad-handshake",
            Self::UnknownKeys => "unknown-keys",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::SourceNotOwnedByPeer => "source-not-owned-by-peer",
            Self::UnknownTsmp => "unknown-tsmp",
            Self::OwnDisco => "own-disco",
        }
    }
}

/// Since the engine was born. Outbound drops count packets (a burst is as many as it would be cut into), inbound ones
/// datagrams or inner packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sealed and handed out.
    pub packets_out: u64,
    /// Their bytes, before sealing.
    pub bytes_out: u64,
    /// Inner packets accepted and handed over.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Runs handed out, copies for a second hop included.
    pub runs: u64,
    dropped: [u64; REASONS],
}

impl Counters {
    /// Drops of one reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Drops of all reasons.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub(crate) fn drop(&mut self, reason: DropReason, packets: usize) {
        self.dropped[reason as usize] += packets as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_place_with_its_own_name() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REASONS);
    }
}
