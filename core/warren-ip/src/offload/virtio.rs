//! The virtio-net header of a TUN device and what of it may be believed.
//!
//! ```text
//! |flags 1|gso type 1|header length 2|gso size 2|checksum start 2|checksum offset 2|   integers in the machine's order
//! ```
//!
//! Virtio 1.2 §5.1.6; Linux `struct virtio_net_hdr`.

use super::{MAX_SEGMENTS, Offload, Segmenting, Super};
use crate::{Fragment, Malformed, PacketView, Protocol};

pub const VIRTIO_HEADER_LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP kind when the burst carries congestion marks; cutting keeps CWR on the first segment anyway.
const GSO_ECN: u8 = 0x80;

/// Where the checksum field lies in a TCP and in a UDP header.
pub(super) const TCP_CHECKSUM: u16 = 16;
pub(super) const UDP_CHECKSUM: u16 = 6;

/// The header as it stands in memory. Nothing in it is to be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VirtioHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_len: u16,
    pub gso_size: u16,
    pub checksum_start: u16,
    pub checksum_offset: u16,
}

/// Why a TUN read is not a burst that we can carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VirtioError {
    #[error("shorter than a virtio header")]
    Short,
    #[error("segmentation of kind {0} was never asked for")]
    UnknownKind(u8),
    #[error("segmentation without a segment size")]
    NoSegmentSize,
    #[error("{0} segments in one burst")]
    TooManySegments(usize),
    #[error("checksum lies outside the packet")]
    ChecksumOutside,
    #[error("the header speaks of another packet than the one behind it")]
    Contradiction,
    #[error("burst is {0}")]
    Malformed(#[from] Malformed),
}

impl VirtioHeader {
    pub fn decode(bytes: &[u8; VIRTIO_HEADER_LEN]) -> VirtioHeader {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VirtioHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    pub fn encode(&self) -> [u8; VIRTIO_HEADER_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.header_len, self.gso_size, self.checksum_start, self.checksum_offset];
        for (at, word) in words.into_iter().enumerate() {
            bytes[2 + at * 2..4 + at * 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn of(offload: Offload) -> VirtioHeader {
        let segmented = |gso_type, how: Segmenting, checksum_offset| VirtioHeader {
            flags: NEEDS_CHECKSUM,
            gso_type,
            header_len: how.payload,
            gso_size: how.segment,
            checksum_start: how.transport,
            checksum_offset,
        };
        match offload {
            Offload::None => VirtioHeader::default(),
            Offload::NeedsChecksum { start, offset } => VirtioHeader {
                flags: NEEDS_CHECKSUM,
                checksum_start: start,
                checksum_offset: offset,
                ..VirtioHeader::default()
            },
            Offload::Tcp4(how) => segmented(GSO_TCP4, how, TCP_CHECKSUM),
            Offload::Tcp6(how) => segmented(GSO_TCP6, how, TCP_CHECKSUM),
            Offload::Udp(how) => segmented(GSO_UDP_L4, how, UDP_CHECKSUM),
        }
    }
}

pub(super) fn check(mut read: Vec<u8>) -> Result<Super, VirtioError> {
    let (header, packet) = read.split_first_chunk::<VIRTIO_HEADER_LEN>().ok_or(VirtioError::Short)?;
    let header = VirtioHeader::decode(header);
    let needs_checksum = header.flags & NEEDS_CHECKSUM != 0;
    if header.gso_type == GSO_NONE {
        let offload = if needs_checksum { unsegmented(&header, packet)? } else { Offload::None };
        return Ok(Super { buffer: read, start: VIRTIO_HEADER_LEN, offload });
    }
    let (wants_v4, wanted) = match header.gso_type {
        GSO_UDP_L4 => (None, Protocol::UDP),
        kind => match kind & !GSO_ECN {
            GSO_TCP4 => (Some(true), Protocol::TCP),
            GSO_TCP6 => (Some(false), Protocol::TCP),
            _ => return Err(VirtioError::UnknownKind(kind)),
        },
    };
    let view = PacketView::parse(packet)?;
    let is_v4 = view.src().is_ipv4();
    if view.protocol() != wanted || view.fragment() != Fragment::Whole || wants_v4.is_some_and(|v4| v4 != is_v4) {
        return Err(VirtioError::Contradiction);
    }
    // The stated header length is wrong on forwarded traffic (data-plane notes on TUN reads), so it is never read; the
    // checksum's start is right or the burst is not what it says.
    let transport = view.header_len();
    if needs_checksum && usize::from(header.checksum_start) != transport {
        return Err(VirtioError::Contradiction);
    }
    if header.gso_size == 0 {
        return Err(VirtioError::NoSegmentSize);
    }
    let payload = view.bytes().len() - view.payload().len();
    let segments = view.payload().len().div_ceil(usize::from(header.gso_size));
    if segments > MAX_SEGMENTS {
        return Err(VirtioError::TooManySegments(segments));
    }
    let how = Segmenting { transport: transport as u16, payload: payload as u16, segment: header.gso_size };
    let offload = match (wanted, is_v4) {
        (Protocol::UDP, _) => Offload::Udp(how),
        (_, true) => Offload::Tcp4(how),
        (_, false) => Offload::Tcp6(how),
    };
    let len = VIRTIO_HEADER_LEN + view.bytes().len();
    read.truncate(len);
    Ok(Super { buffer: read, start: VIRTIO_HEADER_LEN, offload })
}

fn unsegmented(header: &VirtioHeader, packet: &[u8]) -> Result<Offload, VirtioError> {
    let (start, offset) = (header.checksum_start, header.checksum_offset);
    let end = usize::from(start) + usize::from(offset) + 2;
    if end > packet.len() {
        return Err(VirtioError::ChecksumOutside);
    }
    Ok(Offload::NeedsChecksum { start, offset })
}
