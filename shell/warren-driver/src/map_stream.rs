//! The map stream's bytes as map responses: frames, decompression, JSON, each with its cap.
//!
//! A network map is the largest thing that a control server can make us hold, so a frame is refused by its stated
//! length, and decompression stops at its own cap: forty bytes of zstd can claim gigabytes.

use std::io::Read;

use warren_wire::framing::{Decoder, FrameError, LARGEST_FRAME};
use warren_wire::{MapRequest, MapResponse};

/// How the server was asked to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Zstd,
}

impl Compression {
    pub(crate) fn asked_by(request: &MapRequest) -> Self {
        if request.compress == "zstd" { Self::Zstd } else { Self::None }
    }
}

/// Why a map stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapStreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("map message does not decompress")]
    Compressed(#[source] std::io::Error),
    #[error("map message of more than {LARGEST_FRAME} bytes when decompressed")]
    TooLong,
    #[error("map message is not what the protocol says")]
    Json(#[source] serde_json::Error),
}

/// Turns the stream's bytes into messages.
pub(crate) struct MapStream {
    frames: Decoder,
    compression: Compression,
}

impl MapStream {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { frames: Decoder::new(LARGEST_FRAME), compression }
    }

    /// Takes bytes as they come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next whole message; call until `None` after each push.
    ///
    /// # Errors
    /// [`MapStreamError`]: the stream is lost.
    pub(crate) fn pull(&mut self) -> Result<Option<MapResponse>, MapStreamError> {
        let Some(frame) = self.frames.pull()? else { return Ok(None) };
        let text = match self.compression {
            Compression::None => frame,
            Compression::Zstd => decompress(&frame, LARGEST_FRAME)?,
        };
        serde_json::from_slice(&text).map(Some).map_err(MapStreamError::Json)
    }
}

/// Reads one or more zstd frames, giving up past `cap` bytes.
fn decompress(frame: &[u8], cap: usize) -> Result<Vec<u8>, MapStreamError> {
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(MapStreamError::Compressed)?;
    let mut text = Vec::new();
    decoder.take(cap as u64 + 1).read_to_end(&mut text).map_err(MapStreamError::Compressed)?;
    if text.len() > cap { Err(MapStreamError::TooLong) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_wire::framing::encode_len;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&encode_len(body.len()).unwrap()[..], body].concat()
    }

    fn squeezed(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 1).unwrap()
    }

    #[test]
    fn messages_come_out_whole_compressed_or_not() {
        let text = br#"{"KeepAlive":true}"#;
        let two_frames = [squeezed(b"{\"KeepAlive\""), squeezed(b":true}")].concat();
        for (compression, body) in
            [(Compression::None, text.to_vec()), (Compression::Zstd, squeezed(text)), (Compression::Zstd, two_frames)]
        {
            let mut stream = MapStream::new(compression);
            let bytes = framed(&body);
            let (head, tail) = bytes.split_at(bytes.len() - 1);
            stream.push(head);
            assert!(stream.pull().unwrap().is_none());
            stream.push(tail);
            assert!(stream.pull().unwrap().expect("one message").keep_alive);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = squeezed(&vec![b' '; 1 << 20]);
        assert!(bomb.len() < 1000);
        assert!(matches!(decompress(&bomb, 1000), Err(MapStreamError::TooLong)));
        assert_eq!(decompress(&bomb, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn garbage_is_an_error_and_not_a_message() {
        for (compression, body) in [
            (Compression::Zstd, &b"not zstd at all"[..]),
            (Compression::None, b"[]"),
            (Compression::None, b"{\"Peers\":7}"),
            (Compression::None, b"\x00"),
        ] {
            let mut stream = MapStream::new(compression);
            stream.push(&framed(body));
            assert!(stream.pull().is_err(), "{body:?}");
        }
    }
}
