//! What happened, in numbers. Drops are never logged; they are counted here and returned.

/// Handshake messages and their fate since birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Initiations sent, retries included.
    pub initiations_sent: u64,
    /// Initiations answered with a response.
    pub initiations_answered: u64,
    /// Responses that gave keys.
    pub handshakes_finished: u64,
    /// Cookie replies sent while under load.
    pub cookies_sent: u64,
    /// Cookie replies accepted.
    pub cookies_received: u64,
    /// Handshake messages that are none, or for nobody here.
    pub malformed: u64,
    /// MAC1 wrong: the sender does not know our public key.
    pub bad_mac1: u64,
    /// Under load, from a source that exceeds its share.
    pub rate_limited: u64,
    /// The noise did not verify.
    pub forged: u64,
    /// A proper initiation by somebody who is no peer.
    pub unknown_peer: u64,
    /// An initiation with a stamp that was seen, or too soon after the last.
    pub replayed_initiations: u64,
    /// Handshakes given up after 90 s.
    pub given_up: u64,
}
