//! The TS2021 control channel: a Noise handshake over an upgraded connection, then records.
//!
//! ```text
//! initiation, 101 bytes                     response, 51 bytes            record
//! 0  2  3  5            37            85    0  1  3            35         0  1  3
//! |v |1 |96| ephemeral | machine+tag | tag| |2 |48| ephemeral | tag |     |4 |n | ciphertext + tag |
//! ```
//!
//! All integers are big-endian. Source: `control/controlbase` of the stock client.

pub mod early;
pub mod handshake;
pub mod record;

pub use handshake::{HandshakeError, INITIATION_BYTES, Initiator, RESPONSE_BYTES, Responder};
pub use record::{Channel, MAX_PLAINTEXT_BYTES, Opener, RecordError, Sealer};
