//! Bursts of one flow, as a kernel with offloads hands them over and takes them.
//!
//! A TUN device with the virtio-net header on gives and takes up to 64 KiB of one flow as if it were a single packet,
//! with checksums left half done. [`Super`] is such a burst with its facts checked; [`Super::cut_into`] makes the
//! packets that belong on a wire, and [`Joiner`] makes bursts of packets again.
//!
//! ```text
//! one TUN read            |virtio header 10|IP|TCP|payload · · · · · · · · · · · · · ·|
//! Super::from_virtio      the header's claims checked against the packet, the length of headers computed anew
//! cut_into(0), (1), …     |IP|TCP|payload 0|   |IP|TCP|payload 1|   |IP|TCP|rest|      each whole, with checksums
//! Joiner::push, take      the same Super again
//! to_virtio               |virtio header 10| + bytes
//! ```
//!
//! The law that holds the halves together: joining what was cut gives the same burst (see the tests).

mod cut;
mod join;
#[cfg(test)]
mod tests;
mod virtio;

pub use cut::Cutter;
pub use join::Joiner;
pub use virtio::{VIRTIO_HEADER_LEN, VirtioError, VirtioHeader};

use crate::{Flow, Malformed, PacketView};

/// A burst of more segments is an attack on the CPU: 65,535 bytes in segments of the 536 bytes that TCP assumes when it
/// knows nothing (RFC 9293 §3.7.1) are 123, and the rest is room for odd links.
pub const MAX_SEGMENTS: usize = 2048;

/// The longest packet, and so the longest burst, that an IP length field can state.
pub const MAX_PACKET_LEN: usize = 65_535;

/// One packet, or many segments of one flow that share a header.
///
/// Its facts are proven: headers lie within the bytes, and there is at least one and at most [`MAX_SEGMENTS`] segments.
/// Whether a burst of kind [`Offload::None`] or [`Offload::NeedsChecksum`] is IP at all is for [`Super::view`] to say.
#[derive(Clone)]
pub struct Super {
    buffer: Vec<u8>,
    /// Where the packet begins in the buffer: behind a virtio header, or at its start.
    start: usize,
    offload: Offload,
}

/// What remains to be done before the bytes are packets for a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Nothing: one finished packet.
    None,
    /// One packet whose checksum field holds only the pseudo-header's sum. `start`: where summing begins; `offset`: where
    /// the sum is written, from `start`. Both counted from the start of the packet.
    NeedsChecksum {
        start: u16,
        offset: u16,
    },
    Tcp4(Segmenting),
    Tcp6(Segmenting),
    /// UDP of either family.
    Udp(Segmenting),
}

/// How a burst is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmenting {
    /// Where the transport header begins.
    pub transport: u16,
    /// Where the payload begins: what every segment repeats lies before.
    pub payload: u16,
    /// Payload bytes per segment, at least 1; the last may be shorter.
    pub segment: u16,
}

impl Super {
    /// One finished packet.
    pub fn packet(bytes: Vec<u8>) -> Super {
        Super { buffer: bytes, start: 0, offload: Offload::None }
    }

    /// What one TUN read gave: the virtio header and the packet behind it, in one buffer.
    ///
    /// # Errors
    /// See [`VirtioError`]. Only the header's kind, segment size and checksum position are believed, and only after they
    /// agree with the packet.
    pub fn from_virtio(read: Vec<u8>) -> Result<Super, VirtioError> {
        virtio::check(read)
    }

    /// What one TUN write takes: this header, then [`Super::bytes`].
    pub fn to_virtio(&self) -> [u8; VIRTIO_HEADER_LEN] {
        VirtioHeader::of(self.offload).encode()
    }

    /// The packet as the kernel sees it, one header before all payload.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Gives the buffer back, to be read into again. Its contents mean nothing then.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// A look at the headers, which all segments share but for lengths, sequence and checksums.
    ///
    /// # Errors
    /// As [`PacketView::parse`].
    pub fn view(&self) -> Result<PacketView<'_>, Malformed> {
        PacketView::parse(self.bytes())
    }

    /// The flow that all segments belong to; `None` if this is not IP.
    pub fn flow(&self) -> Option<Flow> {
        self.view().ok().map(|view| Flow::of(&view))
    }

    fn segmenting(&self) -> Option<Segmenting> {
        match self.offload {
            Offload::None | Offload::NeedsChecksum { .. } => None,
            Offload::Tcp4(how) | Offload::Tcp6(how) | Offload::Udp(how) => Some(how),
        }
    }
}

impl PartialEq for Super {
    /// The same packet with the same facts, wherever in a buffer it lies.
    fn eq(&self, other: &Super) -> bool {
        self.bytes() == other.bytes() && self.offload == other.offload
    }
}

impl Eq for Super {}

impl std::fmt::Debug for Super {
    /// Shape only: payload is other people's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Super").field("len", &self.bytes().len()).field("offload", &self.offload).finish()
    }
}
