//! What a relay has done, disco and other frames apart: "relayed" and "direct" are told from each other by these.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::frame::looks_like_disco;

/// Why a packet did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    UnknownDestination,
    GoneDisconnected,
    /// The receiver's queue was full, its oldest packet went.
    QueueHead,
    TooLarge,
    /// Sent behind a login whose verdict was not there yet.
    BeforeAdmission,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Streams that were accepted, whatever became of them.
    pub accepted: u64,
    /// Logins that were refused.
    pub refused: u64,
    pub disco_frames_forwarded: u64,
    pub disco_bytes_forwarded: u64,
    pub other_frames_forwarded: u64,
    pub other_bytes_forwarded: u64,
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Counters {
    pub(super) fn forwarded(&mut self, packet: &[u8]) {
        let (frames, bytes) = if looks_like_disco(packet) {
            (&mut self.disco_frames_forwarded, &mut self.disco_bytes_forwarded)
        } else {
            (&mut self.other_frames_forwarded, &mut self.other_bytes_forwarded)
        };
        *frames += 1;
        *bytes += packet.len() as u64;
    }

    pub(super) fn dropped_by(&mut self, reason: DropReason, packets: usize) {
        if packets > 0 {
            *self.dropped.entry(reason).or_default() += packets as u64;
        }
    }
}
