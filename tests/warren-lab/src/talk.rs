//! What node and control server say to each other over a stream of the simulated internet.
//!
//! ```text
//! length, LE 32 │ tag │ request, BE 64 │ JSON of warren-wire
//! ```
//!
//! It stands in for HTTP over Noise: the first message names the machine, as the handshake would have proved it.

use warren_crypto::MachinePublic;
use warren_wire::framing;

pub const HELLO: u8 = 0;
pub const REGISTER: u8 = 1;
pub const STREAM: u8 = 2;
pub const UPDATE: u8 = 3;
/// Answer to `REGISTER`.
pub const REGISTERED: u8 = 4;
/// The headers of a map stream.
pub const OPENED: u8 = 5;
pub const MAP: u8 = 6;
/// The map stream is over; the body is a status in decimal digits, or nothing.
pub const ENDED: u8 = 7;
/// Answer to `UPDATE`.
pub const DONE: u8 = 8;

/// More than any message of a network of this size.
pub const CAP: usize = 1 << 20;

const HEAD: usize = 9;

#[derive(Debug)]
pub struct Message {
    pub tag: u8,
    pub request: u64,
    pub body: Vec<u8>,
}

pub fn encode(tag: u8, request: u64, body: &[u8]) -> Vec<u8> {
    let len = framing::encode_len(HEAD + body.len()).expect("messages of the lab are short");
    [&len[..], &[tag], &request.to_be_bytes(), body].concat()
}

pub fn encode_json(tag: u8, request: u64, body: &impl serde::Serialize) -> Vec<u8> {
    encode(tag, request, &serde_json::to_vec(body).expect("wire messages serialise"))
}

/// Takes a frame apart; `None`: shorter than its head.
pub fn decode(frame: &[u8]) -> Option<Message> {
    let (tag, rest) = frame.split_first()?;
    let (request, body) = rest.split_first_chunk::<8>()?;
    Some(Message { tag: *tag, request: u64::from_be_bytes(*request), body: body.to_vec() })
}

pub fn machine_of(body: &[u8]) -> Option<MachinePublic> {
    Some(MachinePublic::from_bytes(body.try_into().ok()?))
}
