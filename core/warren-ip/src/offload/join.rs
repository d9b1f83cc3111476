//! Joining the segments of a flow into bursts, for a TUN device that takes them whole.
//!
//! The rules are the kernel's for its own receive path: only what could be cut again into the very same packets is
//! joined (but for IPv4 identifications), so a router behind us cannot tell. A packet with a wrong checksum is never
//! joined: the burst's checksum is computed anew and would hide the damage.

use super::cut::{addresses, set_v4_length};
use super::virtio::{TCP_CHECKSUM, UDP_CHECKSUM};
use super::{MAX_PACKET_LEN, Offload, Segmenting, Super};
use crate::checksum::Sum;
use crate::{Fragment, PacketView, Protocol, TcpFlags};

/// How many bursts back a packet looks for its flow. Batches are mostly one flow or a few; an older burst is only left
/// unjoined, never reordered.
const LOOK_BACK: usize = 16;

/// Linux refuses longer UDP bursts (`UDP_MAX_SEGMENTS` was 64 until 6.9).
const MAX_UDP_SEGMENTS: usize = 64;

/// Collects accepted packets of one batch and hands them out as bursts.
///
/// Packets of one flow keep their order, except that a TCP segment that arrived late may join in front of the one that
/// it precedes. Anything that cannot join passes through alone, byte for byte.
#[derive(Default)]
pub struct Joiner {
    items: Vec<Item>,
    spare: Vec<Vec<u8>>,
    joins_udp: bool,
}

struct Item {
    bytes: Vec<u8>,
    /// `None`: nothing may join this one.
    shape: Option<Shape>,
}

/// What decides whether two packets of a flow fit.
#[derive(Clone, Copy)]
struct Shape {
    protocol: Protocol,
    transport: usize,
    payload: usize,
    segment: usize,
    count: usize,
    /// Nothing may follow: a short segment or PSH came.
    is_closed: bool,
}

impl Joiner {
    /// `joins_udp`: the device takes UDP bursts (Linux 6.2 and newer, where USO was granted).
    pub fn new(joins_udp: bool) -> Joiner {
        Joiner { joins_udp, ..Joiner::default() }
    }

    /// Adds one finished packet.
    pub fn push(&mut self, packet: &[u8]) {
        match PacketView::parse(packet) {
            Ok(view) if view.bytes().len() == packet.len() => self.push_view(&view),
            _ => self.keep(packet, None),
        }
    }

    /// Adds one finished packet that was looked at already.
    pub fn push_view(&mut self, view: &PacketView<'_>) {
        let packet = view.bytes();
        let shape = self.shape_of(view);
        if let Some(shape) = shape {
            let newest_of_flow = self.items.iter_mut().rev().take(LOOK_BACK).find(|item| {
                item.shape.is_some_and(|have| have.protocol == shape.protocol)
                    && same_flow(&item.bytes, packet, shape.transport)
            });
            if let Some(item) = newest_of_flow
                && item.join(packet, &shape)
            {
                return;
            }
        }
        self.keep(packet, shape);
    }

    fn keep(&mut self, packet: &[u8], shape: Option<Shape>) {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(packet);
        self.items.push(Item { bytes, shape });
    }

    /// Everything pushed since the last call, as bursts, in order.
    pub fn take(&mut self) -> Vec<Super> {
        self.items.drain(..).map(Item::finish).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Gives a buffer back for a later packet. At most as many are kept as a batch commonly has.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < 128 {
            self.spare.push(buffer);
        }
    }

    /// The shape of a packet that may be part of a burst at all.
    fn shape_of(&self, view: &PacketView<'_>) -> Option<Shape> {
        let plain_header = if view.src().is_ipv4() { 20 } else { 40 };
        let is_candidate = match view.protocol() {
            Protocol::TCP => view.tcp_flags().0 & !TcpFlags::PSH == TcpFlags::ACK,
            Protocol::UDP => {
                self.joins_udp
                    && view.transport_message().len()
                        == usize::from(u16::from_be_bytes([view.transport_message()[4], view.transport_message()[5]]))
            }
            _ => false,
        };
        if !is_candidate
            || view.header_len() != plain_header
            || view.fragment() != Fragment::Whole
            || view.payload().is_empty()
            || !view.checksums_are_valid()
        {
            return None;
        }
        Some(Shape {
            protocol: view.protocol(),
            transport: plain_header,
            payload: view.bytes().len() - view.payload().len(),
            segment: view.payload().len(),
            count: 1,
            is_closed: view.tcp_flags().has(TcpFlags::PSH),
        })
    }
}

/// Same version, addresses and ports. `transport` is where the packet's transport header begins; the other's is the same
/// when the versions are, because only plain headers get here.
fn same_flow(item: &[u8], packet: &[u8], transport: usize) -> bool {
    let addresses = if transport == 20 { 12..20 } else { 8..40 };
    item[0] >> 4 == packet[0] >> 4
        && item[addresses.clone()] == packet[addresses]
        && item[transport..transport + 4] == packet[transport..transport + 4]
}

/// Everything in the headers that a burst's segments must share, beyond the flow.
fn same_headers(item: &[u8], packet: &[u8], have: &Shape, new: &Shape) -> bool {
    if have.payload != new.payload {
        return false;
    }
    let ip_is_same = if new.transport == 20 {
        // TOS; flags (DF and the reserved bit; fragments never get here); TTL.
        item[1] == packet[1] && item[6] == packet[6] && item[8] == packet[8]
    } else {
        // Version, traffic class, flow label; hop limit.
        item[..4] == packet[..4] && item[7] == packet[7]
    };
    let at = new.transport;
    ip_is_same
        && (new.protocol == Protocol::UDP
            // Acknowledgement; data offset and reserved bits; window; urgent pointer and options.
            || (item[at + 8..at + 13] == packet[at + 8..at + 13]
                && item[at + 14..at + 16] == packet[at + 14..at + 16]
                && item[at + 18..new.payload] == packet[at + 18..new.payload]))
}

impl Item {
    /// Takes `packet` in if it fits behind or before; says whether it did.
    fn join(&mut self, packet: &[u8], new: &Shape) -> bool {
        let Some(have) = &mut self.shape else { return false };
        if !same_headers(&self.bytes, packet, have, new) || self.bytes.len() + new.segment > MAX_PACKET_LEN {
            return false;
        }
        let payload = &packet[new.payload..];
        if new.protocol == Protocol::UDP {
            if have.is_closed || have.count == MAX_UDP_SEGMENTS || new.segment > have.segment {
                return false;
            }
            self.bytes.extend_from_slice(payload);
            have.count += 1;
            have.is_closed = new.segment < have.segment;
            return true;
        }
        let sequence = |bytes: &[u8]| {
            let at = new.transport + 4;
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let carried = (self.bytes.len() - have.payload) as u32;
        let has_push = new.is_closed;
        if sequence(packet) == sequence(&self.bytes).wrapping_add(carried) {
            if have.is_closed || new.segment > have.segment {
                return false;
            }
            self.bytes.extend_from_slice(payload);
            have.count += 1;
            have.is_closed = has_push || new.segment < have.segment;
            if has_push {
                self.bytes[new.transport + 13] |= TcpFlags::PSH;
            }
            return true;
        }
        if sequence(packet).wrapping_add(new.segment as u32) == sequence(&self.bytes) {
            // In front: only a full segment may precede others, and PSH may not stand in the middle.
            if has_push || new.segment < have.segment || (new.segment > have.segment && have.count > 1) {
                return false;
            }
            let is_shorter = have.segment < new.segment;
            self.bytes.splice(have.payload..have.payload, payload.iter().copied());
            // The first segment's sequence and identification are the burst's.
            self.bytes[new.transport + 4..new.transport + 8]
                .copy_from_slice(&packet[new.transport + 4..new.transport + 8]);
            if new.transport == 20 {
                self.bytes[4..6].copy_from_slice(&packet[4..6]);
            }
            have.count += 1;
            have.segment = new.segment;
            have.is_closed |= is_shorter;
            return true;
        }
        false
    }

    fn finish(mut self) -> Super {
        let Some(shape) = self.shape.filter(|shape| shape.count > 1) else {
            return Super::packet(self.bytes);
        };
        let (transport, len) = (shape.transport, self.bytes.len());
        if transport == 20 {
            set_v4_length(&mut self.bytes, transport);
        } else {
            self.bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        let how =
            Segmenting { transport: transport as u16, payload: shape.payload as u16, segment: shape.segment as u16 };
        let (offload, field) = match (shape.protocol, transport) {
            (Protocol::UDP, _) => {
                self.bytes[transport + 4..transport + 6].copy_from_slice(&((len - transport) as u16).to_be_bytes());
                (Offload::Udp(how), UDP_CHECKSUM)
            }
            (_, 20) => (Offload::Tcp4(how), TCP_CHECKSUM),
            (_, _) => (Offload::Tcp6(how), TCP_CHECKSUM),
        };
        // The kernel finishes from the pseudo-header's sum over the whole burst.
        let (src, dst) = addresses(&self.bytes);
        let partial = Sum::pseudo_header(src, dst, shape.protocol, len - transport).partial();
        let at = transport + usize::from(field);
        self.bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        Super { buffer: self.bytes, start: 0, offload }
    }
}
