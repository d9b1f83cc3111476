//! Keys, sealed boxes, Noise handshakes and record channels.
//!
//! - [`keys`]: one type per purpose; secrets cannot print
//! - [`seed`]: randomness as a value
//! - [`time`]: dates as values
//! - [`sealed_box`]: the NaCl box of disco and relay logins
//! - [`channel`]: the TS2021 control channel, both ends

#![forbid(unsafe_code)]

pub mod channel;
pub mod keys;
mod noise;
pub mod sealed_box;
pub mod seed;
pub mod time;

pub use keys::{
    ChallengePublic, DiscoPublic, DiscoSecret, LockPublic, LockSecret, MachinePublic, MachineSecret, NodePublic,
    NodeSecret, ParseKeyError, RelayPublic, RelaySecret,
};
pub use sealed_box::SharedBox;
pub use seed::Random;
pub use time::{ParseTimeError, UnixTime};

use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

/// Whether two byte strings are equal, in time that depends on their lengths only.
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}
