//! Records: the channel's byte stream, cut into sealed frames of at most 4096 bytes.
//!
//! The nonce is four zero bytes and a big-endian counter per direction (Noise itself counts little-endian).

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

const TYPE_RECORD: u8 = 4;
const HEADER_BYTES: usize = 3;
const TAG_BYTES: usize = 16;
const MAX_FRAME_BYTES: usize = 4096;
/// Most plaintext in one record.
pub const MAX_PLAINTEXT_BYTES: usize = MAX_FRAME_BYTES - HEADER_BYTES - TAG_BYTES;

/// The channel is dead: nothing that follows can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a frame of type {0} where a record should be")]
    Type(u8),
    #[error("a record of {0} bytes, which is shorter or longer than one can be")]
    Length(usize),
    #[error("a record that the other side did not seal, or that was lost or repeated on its way")]
    Forged,
    #[error("this channel has sent all records that it may")]
    Exhausted,
}

/// An established channel; see [`Channel::split`].
pub struct Channel {
    sealer: Sealer,
    opener: Opener,
    version: u16,
}

impl Channel {
    pub(crate) fn new(send: Zeroizing<[u8; 32]>, receive: Zeroizing<[u8; 32]>, version: u16) -> Option<Self> {
        let key = |bytes: &[u8; 32]| UnboundKey::new(&CHACHA20_POLY1305, bytes).ok().map(LessSafeKey::new);
        Some(Channel {
            sealer: Sealer { key: key(&send)?, counter: 0 },
            opener: Opener { key: key(&receive)?, counter: 0, buffer: Vec::new(), dead: None },
            version,
        })
    }

    /// The capability version that both sides bound into the handshake.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The two directions, which need nothing of each other.
    pub fn split(self) -> (Sealer, Opener) {
        (self.sealer, self.opener)
    }
}

/// Seals what goes out.
pub struct Sealer {
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    /// Appends `plain` to `out`, as one record or, if it is longer than [`MAX_PLAINTEXT_BYTES`], as several.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`] after 2^64 − 1 records.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let mut rest = plain;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(MAX_PLAINTEXT_BYTES));
            self.seal_one(piece, out)?;
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn seal_one(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        let nonce = next(&mut self.counter)?;
        let length = u16::try_from(piece.len() + TAG_BYTES).map_err(|_| RecordError::Length(piece.len()))?;
        out.push(TYPE_RECORD);
        out.extend_from_slice(&length.to_be_bytes());
        let begin = out.len();
        out.extend_from_slice(piece);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[begin..])
            .map_err(|_| RecordError::Length(piece.len()))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens what comes in, from a byte stream that is cut anywhere. Holds at most one incomplete record.
pub struct Opener {
    key: LessSafeKey,
    counter: u64,
    buffer: Vec<u8>,
    dead: Option<RecordError>,
}

impl Opener {
    /// Takes bytes and appends to `out` the plaintext of every record that they complete.
    ///
    /// # Errors
    /// [`RecordError`], the same from then on: a channel does not recover.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        self.take(bytes, out).inspect_err(|error| self.dead = Some(error.clone()))
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        loop {
            let wanted = self.wanted()?;
            let missing = wanted - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(missing));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() < wanted {
                return Ok(());
            }
            if wanted > HEADER_BYTES {
                self.open_one(out)?;
            }
        }
    }

    /// How many bytes the buffer must hold for the next step: a header, then the whole frame.
    fn wanted(&self) -> Result<usize, RecordError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(HEADER_BYTES) };
        if header[0] != TYPE_RECORD {
            return Err(RecordError::Type(header[0]));
        }
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        if !(TAG_BYTES..=MAX_FRAME_BYTES - HEADER_BYTES).contains(&length) {
            return Err(RecordError::Length(length));
        }
        Ok(HEADER_BYTES + length)
    }

    fn open_one(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let nonce = next(&mut self.counter)?;
        let sealed = &mut self.buffer[HEADER_BYTES..];
        let plain = self.key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| RecordError::Forged)?;
        out.extend_from_slice(plain);
        self.buffer.clear();
        Ok(())
    }

    /// Whether the stream stands between two records: only there may it end.
    pub fn is_at_boundary(&self) -> bool {
        self.buffer.is_empty()
    }
}

fn next(counter: &mut u64) -> Result<Nonce, RecordError> {
    if *counter == u64::MAX {
        return Err(RecordError::Exhausted);
    }
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    *counter += 1;
    Ok(Nonce::assume_unique_for_key(nonce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Sealer, Opener) {
        let channel = |send: u8, receive: u8| {
            Channel::new(Zeroizing::new([send; 32]), Zeroizing::new([receive; 32]), 113).unwrap()
        };
        (channel(1, 2).split().0, channel(2, 1).split().1)
    }

    #[test]
    fn a_repeated_record_kills_the_channel() {
        let (mut sealer, mut opener) = pair();
        let (mut record, mut out) = (Vec::new(), Vec::new());
        sealer.seal(b"x", &mut record).unwrap();
        opener.push(&record, &mut out).unwrap();
        assert_eq!(opener.push(&record, &mut out), Err(RecordError::Forged));
        assert_eq!(opener.push(&[], &mut out), Err(RecordError::Forged));
        assert_eq!(out, b"x");
    }

    #[test]
    fn impossible_headers_are_refused_before_anything_is_held() {
        for (bytes, error) in [
            (&[9, 0, 20][..], RecordError::Type(9)),
            (&[4, 0, 15], RecordError::Length(15)),
            (&[4, 0xff, 0xff], RecordError::Length(0xffff)),
        ] {
            assert_eq!(pair().1.push(bytes, &mut Vec::new()), Err(error));
        }
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_gives_the_same_bytes(
            plain in prop::collection::vec(any::<u8>(), 0..10_000),
            cuts in prop::collection::vec(1_usize..700, 1..40),
        ) {
            let (mut sealer, mut opener) = pair();
            let mut stream = Vec::new();
            sealer.seal(&plain, &mut stream).unwrap();
            let (mut out, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                opener.push(piece, &mut out).unwrap();
                rest = after;
            }
            prop_assert_eq!(out, plain);
            prop_assert!(opener.is_at_boundary());
        }

        #[test]
        fn no_bytes_make_the_opener_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = pair().1.push(&bytes, &mut Vec::new());
        }
    }
}
