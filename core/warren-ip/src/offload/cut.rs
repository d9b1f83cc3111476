//! Cutting a burst into the packets that a wire carries.

use super::virtio::{TCP_CHECKSUM, UDP_CHECKSUM};
use super::{Offload, Segmenting, Super};
use crate::checksum::{self, Sum};
use crate::{Protocol, TcpFlags};

impl Super {
    /// How many packets this burst is, at least 1.
    pub fn segment_count(&self) -> usize {
        match self.segmenting() {
            None => 1,
            Some(how) => (self.bytes().len() - usize::from(how.payload)).div_ceil(usize::from(how.segment)).max(1),
        }
    }

    /// Length of packet `index`; 0 if there is none.
    pub fn segment_len(&self, index: usize) -> usize {
        if index >= self.segment_count() {
            return 0;
        }
        match self.segmenting() {
            None => self.bytes().len(),
            Some(how) => usize::from(how.payload) + self.piece(how, index).len(),
        }
    }

    /// Length of all packets together.
    pub fn segments_len(&self) -> usize {
        match self.segmenting() {
            None => self.bytes().len(),
            Some(how) => self.bytes().len() + (self.segment_count() - 1) * usize::from(how.payload),
        }
    }

    /// Writes packet `index` to the front of `out`, whole: lengths, IPv4 identification, sequence number, flags and all
    /// checksums. Returns its length, which is [`Super::segment_len`]; 0, with `out` untouched, if there is no such packet
    /// or `out` is shorter than it.
    ///
    /// IPv4 identification counts up from the burst's; FIN and PSH stay on the last packet only, CWR on the first (what
    /// Linux's own segmentation does; RFC 3168 §6.1.2 for CWR).
    pub fn cut_into(&self, index: usize, out: &mut [u8]) -> usize {
        let len = self.segment_len(index);
        if len == 0 || out.len() < len {
            return 0;
        }
        let out = &mut out[..len];
        match self.offload {
            Offload::None => out.copy_from_slice(self.bytes()),
            Offload::NeedsChecksum { start, offset } => {
                out.copy_from_slice(self.bytes());
                complete_checksum(out, start, offset);
            }
            Offload::Tcp4(how) | Offload::Tcp6(how) | Offload::Udp(how) => {
                let header = usize::from(how.payload);
                out[..header].copy_from_slice(&self.bytes()[..header]);
                out[header..].copy_from_slice(self.piece(how, index));
                let is_last = index + 1 == self.segment_count();
                finish_segment(out, how, self.offload, index, is_last);
            }
        }
        len
    }

    /// The finished packets one after another, each in a buffer of its own.
    pub fn packets(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        (0..self.segment_count()).map(|index| {
            let mut packet = vec![0; self.segment_len(index)];
            self.cut_into(index, &mut packet);
            packet
        })
    }

    /// Gives the packets up one after another where they lie, for whoever needs each only once and the burst no more:
    /// nothing is copied but headers.
    pub fn into_cutter(self) -> Cutter {
        let count = self.segment_count();
        let mut header = [0; PLAIN_HEADERS];
        let mut long_header = Vec::new();
        if let Some(how) = self.segmenting() {
            let bytes = &self.bytes()[..usize::from(how.payload)];
            match header.get_mut(..bytes.len()) {
                Some(place) => place.copy_from_slice(bytes),
                None => long_header = bytes.to_vec(),
            }
        }
        Cutter { burst: self, count, next: 0, header, long_header }
    }

    fn piece(&self, how: Segmenting, index: usize) -> &[u8] {
        let payload = &self.bytes()[usize::from(how.payload)..];
        let from = (index * usize::from(how.segment)).min(payload.len());
        let to = (from + usize::from(how.segment)).min(payload.len());
        &payload[from..to]
    }
}

/// Any IPv4 and TCP header, and IPv6 without long extensions.
const PLAIN_HEADERS: usize = 128;

/// A burst being used up from front to back ([`Super::into_cutter`]).
///
/// ```text
/// |headers|payload 0      |payload 1      |        the burst
/// |headers|payload 0      |                        packet 0, finished where it lies
///                 |headers|payload 1      |        packet 1: its headers over the end of packet 0, which is gone by then
/// ```
pub struct Cutter {
    burst: Super,
    count: usize,
    next: usize,
    /// The burst's headers as they came: packets overwrite the originals.
    header: [u8; PLAIN_HEADERS],
    /// Headers that are longer than that.
    long_header: Vec<u8>,
}

impl Cutter {
    /// The next packet, as [`Super::cut_into`] would write it; `None` after the last.
    pub fn next_packet(&mut self) -> Option<&[u8]> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let offload = self.burst.offload;
        let bytes = &mut self.burst.buffer[self.burst.start..];
        match offload {
            Offload::None => Some(bytes),
            Offload::NeedsChecksum { start, offset } => {
                complete_checksum(bytes, start, offset);
                Some(bytes)
            }
            Offload::Tcp4(how) | Offload::Tcp6(how) | Offload::Udp(how) => {
                let header_len = usize::from(how.payload);
                let at = index * usize::from(how.segment);
                let end = (at + header_len + usize::from(how.segment)).min(bytes.len());
                let packet = &mut bytes[at..end];
                let header = self.header.get(..header_len).unwrap_or(&self.long_header);
                packet[..header_len].copy_from_slice(header);
                finish_segment(packet, how, offload, index, index + 1 == self.count);
                Some(packet)
            }
        }
    }

    /// Gives the buffer back. Its contents mean nothing then.
    pub fn into_buffer(self) -> Vec<u8> {
        self.burst.buffer
    }
}

/// The field holds the pseudo-header's sum already, so summing from `start` over it gives the right answer. The kernel
/// leaves it to us whether a UDP checksum that comes out as 0 is written as 0xffff.
fn complete_checksum(packet: &mut [u8], start: u16, offset: u16) {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    let mut sum = Sum::default().plus(&packet[start..]).finish();
    if sum == 0 && offset == UDP_CHECKSUM {
        sum = 0xffff;
    }
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn finish_segment(out: &mut [u8], how: Segmenting, offload: Offload, index: usize, is_last: bool) {
    let transport = usize::from(how.transport);
    finish_ip(out, transport, index);
    let (protocol, field) = match offload {
        Offload::Udp(_) => {
            let len = (out.len() - transport) as u16;
            out[transport + 4..transport + 6].copy_from_slice(&len.to_be_bytes());
            (Protocol::UDP, UDP_CHECKSUM)
        }
        _ => {
            let sequence = read_u32(out, transport + 4).wrapping_add(index as u32 * u32::from(how.segment));
            out[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut out[transport + 13];
            if !is_last {
                *flags &= !(TcpFlags::FIN | TcpFlags::PSH);
            }
            if index > 0 {
                *flags &= !TcpFlags::CWR;
            }
            (Protocol::TCP, TCP_CHECKSUM)
        }
    };
    let at = transport + usize::from(field);
    out[at..at + 2].fill(0);
    let (src, dst) = addresses(out);
    let sum = checksum::transport(src, dst, protocol, &out[transport..]);
    out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Length, identification and checksum of the IP header in front of one segment.
fn finish_ip(out: &mut [u8], header_len: usize, index: usize) {
    if out[0] >> 4 == 6 {
        let len = (out.len() - 40) as u16;
        out[4..6].copy_from_slice(&len.to_be_bytes());
        return;
    }
    let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
    out[4..6].copy_from_slice(&id.to_be_bytes());
    set_v4_length(out, header_len);
}

/// Sets an IPv4 packet's total length to its real one and its header checksum to match.
pub(super) fn set_v4_length(packet: &mut [u8], header_len: usize) {
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum::internet(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Source and destination of a packet whose IP header was checked before.
pub(super) fn addresses(packet: &[u8]) -> (std::net::IpAddr, std::net::IpAddr) {
    fn v4(packet: &[u8], at: usize) -> std::net::IpAddr {
        let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
        std::net::IpAddr::from(octets)
    }
    fn v6(packet: &[u8], at: usize) -> std::net::IpAddr {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
        std::net::IpAddr::from(octets)
    }
    if packet[0] >> 4 == 6 { (v6(packet, 8), v6(packet, 24)) } else { (v4(packet, 12), v4(packet, 16)) }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
