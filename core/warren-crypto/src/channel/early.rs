//! The early payload: the first plaintext that a server may send, before HTTP/2 begins.
//!
//! ```text
//! 0                5       9
//! | FF FF FF 'T' 'S' | length | JSON {"nodeKeyChallenge":"chalpub:…"}
//! ```
//!
//! A client reads nine bytes, the size of an HTTP/2 frame header: without the magic they are that header.

use serde::{Deserialize, Serialize};

use crate::keys::ChallengePublic;

pub const MAGIC: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];
/// Magic and length.
pub const HEADER_BYTES: usize = 9;
/// Longest payload that is read; the official Rust client takes no longer one either.
pub const MAX_BYTES: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyPayload {
    #[serde(rename = "nodeKeyChallenge")]
    pub node_key_challenge: ChallengePublic,
}

/// What the first nine bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// No early payload: these bytes belong to HTTP/2.
    Http2,
    /// That many bytes of JSON follow.
    Early(usize),
    /// An early payload longer than [`MAX_BYTES`].
    TooLong(usize),
}

pub fn first(header: &[u8; HEADER_BYTES]) -> First {
    if header[..5] != MAGIC {
        return First::Http2;
    }
    let length = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
    if length > MAX_BYTES { First::TooLong(length) } else { First::Early(length) }
}

impl EarlyPayload {
    pub fn encode(&self) -> Vec<u8> {
        let json = format!("{{\"nodeKeyChallenge\":\"{}\"}}", self.node_key_challenge);
        let length = u32::try_from(json.len()).unwrap_or(0);
        [&MAGIC, length.to_be_bytes().as_slice(), json.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_announces_its_length_and_http2_is_left_alone() {
        let payload = EarlyPayload { node_key_challenge: ChallengePublic::from_bytes([7; 32]) };
        let bytes = payload.encode();
        let header = bytes.first_chunk::<HEADER_BYTES>().unwrap();
        assert_eq!(first(header), First::Early(bytes.len() - HEADER_BYTES));
        assert_eq!(serde_json::from_slice::<EarlyPayload>(&bytes[HEADER_BYTES..]).unwrap(), payload);
        assert_eq!(first(&[0, 0, 18, 4, 0, 0, 0, 0, 0]), First::Http2);
        assert_eq!(first(&[0xff, 0xff, 0xff, b'T', b'S', 0, 0, 5, 0]), First::TooLong(1280));
    }
}
