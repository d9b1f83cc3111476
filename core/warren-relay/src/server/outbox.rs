//! What waits to be written to one connection.

use std::collections::VecDeque;

use warren_crypto::NodePublic;

use crate::frame::{self, GoneReason};
use crate::queue::{Kind, PacketQueues};

/// "Gone" notices that may wait; the oldest gives way. They are hints, so losing one costs a retry.
const GONE_DEPTH: usize = 256;

pub(super) struct Outbox {
    login: VecDeque<Vec<u8>>,
    gone: VecDeque<(NodePublic, GoneReason)>,
    /// One answer at a time: further pings are passed over while it waits.
    pong: Option<[u8; 8]>,
    keepalive: bool,
    pub(super) packets: PacketQueues,
}

impl Outbox {
    pub(super) fn new(depth: usize) -> Self {
        Self {
            login: VecDeque::new(),
            gone: VecDeque::new(),
            pong: None,
            keepalive: false,
            packets: PacketQueues::new(depth),
        }
    }

    pub(super) fn push_login(&mut self, frame: Vec<u8>) {
        self.login.push_back(frame);
    }

    pub(super) fn push_gone(&mut self, key: NodePublic, reason: GoneReason) {
        if self.gone.len() >= GONE_DEPTH {
            self.gone.pop_front();
        }
        self.gone.push_back((key, reason));
    }

    /// Whether there was room for this answer.
    pub(super) fn push_pong(&mut self, data: [u8; 8]) -> bool {
        let is_free = self.pong.is_none();
        self.pong.get_or_insert(data);
        is_free
    }

    pub(super) fn push_keepalive(&mut self) {
        self.keepalive = true;
    }

    /// The next frame; with its kind if it is a packet.
    pub(super) fn pop(&mut self) -> Option<(Option<Kind>, Vec<u8>)> {
        if let Some(frame) = self.login.pop_front() {
            return Some((None, frame));
        }
        if let Some((key, reason)) = self.gone.pop_front() {
            return Some((None, frame::encode_peer_gone(&key, reason)));
        }
        if let Some(data) = self.pong.take() {
            return Some((None, frame::encode(frame::PONG, &[&data])));
        }
        if std::mem::take(&mut self.keepalive) {
            return Some((None, frame::encode(frame::KEEP_ALIVE, &[])));
        }
        let (kind, frame) = self.packets.pop()?;
        Some((Some(kind), frame))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.login.is_empty()
            && self.gone.is_empty()
            && self.pong.is_none()
            && !self.keepalive
            && self.packets.is_empty()
    }
}
