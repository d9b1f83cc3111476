//! Buffers that go round: read, sealed or opened, sent or written, and back.

/// Room for the largest read: a virtio header and a 64 KiB packet.
pub(crate) const BUFFER_BYTES: usize = 65_536 + 64;

/// Buffers kept; more come from bursts of bursts and are given back to the allocator. 96 × 64 KiB is 6 MiB.
const KEPT: usize = 96;

#[derive(Default)]
pub(crate) struct Pool(Vec<Vec<u8>>);

impl Pool {
    /// An empty buffer with room for a burst.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut buffer = self.take_used();
        buffer.clear();
        buffer
    }

    /// A buffer with room for a burst, and with whatever it held before: whoever writes every byte that it passes on need
    /// not have them zeroed first.
    pub(crate) fn take_used(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a buffer back; small ones are not worth keeping.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() >= BUFFER_BYTES && self.0.len() < KEPT {
            self.0.push(buffer);
        }
    }
}
