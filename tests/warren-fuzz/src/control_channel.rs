//! The TS2021 channel of both ends, and the frames of the map stream.

use std::sync::OnceLock;

use warren_crypto::channel::early::{EarlyPayload, First, HEADER_BYTES, first};
use warren_crypto::channel::{INITIATION_BYTES, Initiator, Responder};
use warren_crypto::{MachineSecret, Random};
use warren_wire::framing;

use crate::pieces;

/// The server that corpora were made for.
pub fn server() -> MachineSecret {
    MachineSecret::from_seed([1; 32])
}

/// The client that corpora were made by: the same messages every time.
pub fn client() -> (Initiator, [u8; INITIATION_BYTES]) {
    let machine = MachineSecret::from_seed([2; 32]);
    Initiator::new(&machine, &server().public(), 113, &mut Random::from_seed([3; 32])).expect("honest keys agree")
}

/// What the server answers its clients with, here.
pub fn server_random() -> Random {
    Random::from_seed([4; 32])
}

pub fn noise_initiation(bytes: &[u8]) -> bool {
    Responder::accept(&server(), bytes, &mut server_random()).is_ok()
}

pub fn noise_response(bytes: &[u8]) -> bool {
    client().0.finish(bytes).is_ok()
}

/// Records as a server's opener meets them: what comes out is never longer than what went in.
pub fn noise_records(bytes: &[u8]) -> bool {
    static INITIATION: OnceLock<[u8; INITIATION_BYTES]> = OnceLock::new();
    let initiation = INITIATION.get_or_init(|| client().1);
    let accepted = Responder::accept(&server(), initiation, &mut server_random()).expect("an honest client");
    let (_, mut opener) = accepted.channel.split();
    let mut plain = Vec::new();
    let all_open = pieces(bytes).all(|piece| opener.push(piece, &mut plain).is_ok());
    assert!(plain.len() <= bytes.len());
    all_open && !plain.is_empty()
}

pub fn early_payload(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return false };
    let First::Early(length) = first(header) else { return false };
    let Some(Ok(payload)) = rest.get(..length).map(serde_json::from_slice::<EarlyPayload>) else { return false };
    let again = payload.encode();
    assert_eq!(serde_json::from_slice::<EarlyPayload>(&again[HEADER_BYTES..]).ok(), Some(payload));
    true
}

/// Frames come out the same however the stream is cut, up to the place where it is lost.
pub fn map_frames(bytes: &[u8]) -> bool {
    let frames = |cut: std::slice::Chunks<'_, u8>| {
        let (mut decoder, mut bodies) = (framing::Decoder::new(1000), Vec::new());
        for piece in cut {
            decoder.push(piece);
            loop {
                match decoder.pull() {
                    Ok(Some(body)) => bodies.push(body),
                    Ok(None) => break,
                    Err(error) => return (bodies, Some(error)),
                }
            }
        }
        (bodies, None)
    };
    let whole = frames(bytes.chunks(bytes.len().max(1)));
    assert_eq!(frames(pieces(bytes)), whole);
    !whole.0.is_empty()
}
