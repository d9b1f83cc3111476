//! Frames of the map stream: a little-endian `u32` length, then that many bytes. control-protocol.md §6.3.
//!
//! ```text
//! ┌───────────────┬──────────────────────────────────────┐
//! │ length, LE 32 │ JSON of a MapResponse, maybe in zstd │
//! └───────────────┴──────────────────────────────────────┘
//! ```

/// Bytes of the length.
pub const HEADER: usize = 4;

/// Most bytes that our node accepts in one frame: a map of ten thousand peers with everything set is about 16 MiB of JSON.
pub const LARGEST_FRAME: usize = 64 << 20;

/// The header of a frame, or `None` when `body_len` does not fit (or is 0, which clients refuse).
pub fn encode_len(body_len: usize) -> Option<[u8; HEADER]> {
    u32::try_from(body_len).ok().filter(|len| *len != 0).map(u32::to_le_bytes)
}

/// Cuts a byte stream into frames.
pub struct Decoder {
    cap: usize,
    pending: Vec<u8>,
}

/// The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the cap.
    #[error("map frame of {len} bytes is over the cap of {cap}")]
    TooLong {
        /// What the peer announced.
        len: usize,
        /// What we accept.
        cap: usize,
    },
    /// Length zero.
    #[error("map frame of zero bytes")]
    Empty,
}

impl Decoder {
    /// A decoder that refuses bodies longer than `cap`.
    pub fn new(cap: usize) -> Decoder {
        Decoder { cap, pending: Vec::new() }
    }

    /// Takes bytes as they come. Memory grows with bytes received, never with a length announced.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole body, if it has come. Call until `None` after each [`Decoder::push`].
    ///
    /// # Errors
    /// [`FrameError`]: the stream is lost; close it.
    pub fn pull(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(header) = self.pending.first_chunk::<HEADER>() else { return Ok(None) };
        let len = u32::from_le_bytes(*header) as usize;
        if len == 0 {
            return Err(FrameError::Empty);
        }
        if len > self.cap {
            return Err(FrameError::TooLong { len, cap: self.cap });
        }
        if self.pending.len() < HEADER + len {
            return Ok(None);
        }
        let rest = self.pending.split_off(HEADER + len);
        let mut body = std::mem::replace(&mut self.pending, rest);
        body.drain(..HEADER);
        Ok(Some(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_stream_is_cut() {
        let bodies: [&[u8]; 3] = [br#"{"KeepAlive":true}"#, b"x", &[7; 300]];
        let mut stream = Vec::new();
        for body in bodies {
            stream.extend(encode_len(body.len()).expect("short"));
            stream.extend(body);
        }
        assert_eq!(stream[..4], [0x12, 0, 0, 0], "control-protocol.md A.2");
        for chunk in [1, 3, 7, 1000] {
            let mut decoder = Decoder::new(1000);
            let mut seen = Vec::new();
            for piece in stream.chunks(chunk) {
                decoder.push(piece);
                while let Some(body) = decoder.pull().expect("well formed") {
                    seen.push(body);
                }
            }
            assert_eq!(seen, bodies);
        }
    }

    #[test]
    fn a_frame_over_the_cap_is_refused_before_its_body_comes() {
        let mut decoder = Decoder::new(10);
        decoder.push(&[11, 0, 0, 0]);
        assert_eq!(decoder.pull(), Err(FrameError::TooLong { len: 11, cap: 10 }));
    }

    #[test]
    fn an_empty_frame_is_refused() {
        let mut decoder = Decoder::new(10);
        decoder.push(&[0; 4]);
        assert_eq!(decoder.pull(), Err(FrameError::Empty));
        assert_eq!(encode_len(0), None);
    }
}
