//! The stack's idea of a cable: one packet in, a bounded queue of packets out.

use std::collections::VecDeque;

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Packets that wait to be taken; with that many, TCP holds back (the field's link queue).
pub(crate) const QUEUE_PACKETS: usize = 512;

pub(crate) struct Cable {
    mtu: usize,
    pub(crate) inbound: Option<Vec<u8>>,
    pub(crate) outbound: VecDeque<Vec<u8>>,
}

impl Cable {
    pub(crate) fn new(mtu: usize) -> Self {
        Cable { mtu, inbound: None, outbound: VecDeque::new() }
    }
}

pub(crate) struct In(Vec<u8>);
pub(crate) struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(In, Out<'_>)> {
        self.inbound.take().map(|packet| (In(packet), Out(&mut self.outbound)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Out<'_>> {
        (self.outbound.len() < QUEUE_PACKETS).then_some(Out(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Packets come out of an authenticated tunnel; whatever was damaged on the peer's side is still checked.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.tcp = Checksum::Both;
        capabilities
    }
}
