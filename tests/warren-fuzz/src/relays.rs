//! DERP, both ends, and STUN.

use std::net::{IpAddr, Ipv4Addr};

use warren_crypto::{NodeSecret, Random, RelaySecret};
use warren_relay::client::Client;
use warren_relay::frame::{Decoder, Treatment};
use warren_relay::server::{Progress, Server, ServerConfig};
use warren_relay::{login, stun};

use crate::{pieces, start};

/// The relay and the client that corpora were made for.
pub fn relay() -> RelaySecret {
    RelaySecret::from_seed([5; 32])
}

pub fn node() -> NodeSecret {
    NodeSecret::from_seed([6; 32])
}

fn treat(kind: u8) -> Treatment {
    if kind < 0x80 { Treatment::Read { most: 512 } } else { Treatment::Skip }
}

/// Frames come out the same however the stream is cut, and no more is held than came.
pub fn derp_frames(bytes: &[u8]) -> bool {
    let frames = |cut: std::slice::Chunks<'_, u8>| {
        let (mut decoder, mut seen) = (Decoder::new(treat), Vec::new());
        for piece in cut {
            decoder.push(piece);
            while let Ok(Some((kind, payload))) = decoder.next_frame() {
                seen.push((kind, payload.to_vec()));
            }
            assert!(decoder.held() <= bytes.len());
        }
        seen
    };
    let whole = frames(bytes.chunks(bytes.len().max(1)));
    assert_eq!(frames(pieces(bytes)), whole);
    !whole.is_empty()
}

/// What a relay says to a client: understood if packets came out.
pub fn derp_client(bytes: &[u8]) -> bool {
    let mut client = Client::new(node(), true, Random::from_seed([7; 32]), start());
    let _ = pieces(bytes).try_for_each(|piece| client.handle_bytes(piece, start()));
    while client.poll_transmit().is_some() {}
    while client.poll_event().is_some() {}
    client.counters().received > 0
}

/// What a client says to a relay that admits everybody who proves a key: understood if a packet came back to it.
pub fn derp_server(bytes: &[u8]) -> bool {
    let mut server = Server::new(relay(), ServerConfig::default(), Random::from_seed([8; 32]));
    let conn = server.connect(IpAddr::V4(Ipv4Addr::LOCALHOST), start());
    for piece in pieces(bytes) {
        let mut progress = server.handle_bytes(conn, piece, start());
        if server.poll_request().is_some() {
            progress = server.admit(conn, true, start());
        }
        while progress == Progress::Crowded {
            progress = server.handle_rest(conn, start());
        }
    }
    let sent = std::iter::from_fn(|| server.poll_transmit(conn)).count();
    assert!(sent <= 3 + 2 * 32 + 64 + bytes.len() / 5, "no more answers than there were questions");
    while server.poll_closed().is_some() {}
    server.counters().logins == 1 && sent > 2
}

pub fn derp_client_info(bytes: &[u8]) -> bool {
    let Ok((key, ..)) = login::decode_client_info(&relay(), bytes) else { return false };
    assert_eq!(bytes[..32], *key.as_bytes());
    true
}

pub fn stun_request(bytes: &[u8]) -> bool {
    let Ok(id) = stun::decode_request(bytes) else { return false };
    assert!(stun::is_stun(bytes));
    assert_eq!(stun::decode_request(&stun::encode_request(id)), Ok(id));
    true
}

pub fn stun_response(bytes: &[u8]) -> bool {
    let Ok((id, addr)) = stun::decode_response(bytes) else { return false };
    let again = stun::decode_response(&stun::encode_response(id, addr)).expect("ours is read");
    assert_eq!((again.0, again.1.ip(), again.1.port()), (id, addr.ip().to_canonical(), addr.port()));
    true
}
