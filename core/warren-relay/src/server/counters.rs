//! What a relay counts. Disco and other packets apart: a direct path shows as other packets that do not move.

use serde::Serialize;

use crate::queue::Kind;

/// Packets and their bytes (keys and frame headers not counted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub frames: u64,
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

/// One kind of packet, from the sender's arrival to the receiver's socket or a drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PacketCounters {
    pub received: Traffic,
    pub sent: Traffic,
    /// Nobody here has the destination's key.
    pub dropped_unknown_destination: u64,
    /// The receiver was too slow; the oldest packet gave way.
    pub dropped_queue_head: u64,
    /// The receiver left with packets waiting.
    pub dropped_gone: u64,
}

/// Everything since the relay started, and what is true now (`connections`, `clients`, `homes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub disco: PacketCounters,
    pub other: PacketCounters,
    pub connections: u64,
    pub clients: u64,
    /// Clients that call this relay their home.
    pub homes: u64,
    pub accepted: u64,
    pub logins: u64,
    /// Keys that the owner did not admit.
    pub refused: u64,
    /// Connections that were ended because their key lost its right to be here.
    pub revoked: u64,
    /// Logins that were not one: garbage, forged, too long.
    pub malformed: u64,
    pub login_timeouts: u64,
    pub peer_gone_disconnected: u64,
    pub peer_gone_not_here: u64,
    pub pings: u64,
    pub keepalives: u64,
}

impl Counters {
    pub(super) fn received(&mut self, kind: Kind, bytes: usize) {
        self.of(kind).received.add(bytes);
    }

    pub(super) fn sent(&mut self, kind: Kind, bytes: usize) {
        self.of(kind).sent.add(bytes);
    }

    pub(super) fn of(&mut self, kind: Kind) -> &mut PacketCounters {
        match kind {
            Kind::Disco => &mut self.disco,
            Kind::Other => &mut self.other,
        }
    }
}
