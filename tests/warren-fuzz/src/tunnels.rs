//! Disco and WireGuard: what anybody may send to the data port.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use warren_crypto::{DiscoSecret, NodeSecret, Random, SharedBox, UnixTime};
use warren_path::disco::{Envelope, Message};
use warren_wireguard::message::Handshake;
use warren_wireguard::{Kind, ReceiveKey, SendKey, Source, WireGuard, kind};

use crate::start;

/// The two nodes that corpora were made for and by.
pub fn disco_keys() -> (DiscoSecret, DiscoSecret) {
    (DiscoSecret::from_seed([9; 32]), DiscoSecret::from_seed([10; 32]))
}

/// A node with the other one as its peer: always in the same state.
pub fn tunnel_end(own: u8, peer: u8) -> WireGuard {
    let wall = UnixTime::from_secs(1_800_000_000);
    let mut end = WireGuard::new(NodeSecret::from_seed([own; 32]), Random::from_seed([own; 32]), start(), wall);
    end.add_peer(NodeSecret::from_seed([peer; 32]).public());
    end
}

/// Where the other one is.
pub fn source() -> Source {
    Source::Address(SocketAddr::from(([192, 0, 2, 7], 41641)))
}

pub fn disco_packet(bytes: &[u8]) -> bool {
    static SHARED: OnceLock<SharedBox> = OnceLock::new();
    let Some(envelope) = Envelope::parse(bytes) else { return false };
    let (own, other) = disco_keys();
    let shared = SHARED.get_or_init(|| SharedBox::disco(&own, &other.public()).expect("honest keys agree"));
    shared.open(envelope.sealed).and_then(|plain| Message::parse(&plain)).is_some()
}

pub fn disco_message(bytes: &[u8]) -> bool {
    let Some(message) = Message::parse(bytes) else { return false };
    // Padding behind a key of zeros is counted but belongs to nobody, and is not written again.
    if !matches!(message, Message::Ping { node: None, padding: 1.., .. }) {
        assert_eq!(Message::parse(&message.encode()), Some(message.clone()));
    }
    !matches!(message, Message::Other { .. })
}

/// Fields come apart and together again; only the MACs are not theirs.
pub fn wireguard_message(bytes: &[u8]) -> bool {
    let decoded = Handshake::decode(bytes);
    assert_eq!(decoded.is_some(), kind(bytes) == Some(Kind::Handshake));
    let written = match decoded {
        None => return kind(bytes).is_some(),
        Some(Handshake::Initiation(message)) => message.encode().to_vec(),
        Some(Handshake::Response(message)) => message.encode().to_vec(),
        Some(Handshake::Cookie(message)) => message.encode().to_vec(),
    };
    let fields = if written.len() == 64 { 64 } else { written.len() - 32 };
    assert_eq!(written[..fields], bytes[..fields]);
    true
}

/// A node that has asked its peer for keys meets any handshake message.
pub fn wireguard_handshake(bytes: &[u8]) -> bool {
    let mut end = tunnel_end(11, 12);
    let result = end.handle_handshake(bytes, source(), start());
    while end.poll_transmit().is_some() {}
    while end.poll_event().is_some() {}
    result.is_ok()
}

/// Keys of one session that stands: the peer's to seal with, ours to open with.
pub fn session() -> &'static (Arc<SendKey>, Arc<ReceiveKey>) {
    static SESSION: OnceLock<(Arc<SendKey>, Arc<ReceiveKey>)> = OnceLock::new();
    SESSION.get_or_init(|| {
        let (mut ours, mut theirs) = (tunnel_end(11, 12), tunnel_end(12, 11));
        theirs.initiate(&ours.public(), start());
        let initiation = theirs.poll_transmit().expect("an initiation").bytes;
        let answer = ours.handle_handshake(&initiation, source(), start()).expect("an honest peer");
        theirs.handle_handshake(&answer.reply.expect("a response"), source(), start()).expect("an honest peer");
        let send = theirs.reserve(&ours.public(), 1, start()).expect("keys stand").key;
        let mut probe = vec![0; 32];
        send.seal(0, &mut probe);
        let Some(Kind::Transport { receiver, .. }) = kind(&probe) else { panic!("sealing makes transport messages") };
        (send, ours.inbound_key(receiver, start()).expect("the responder has keys at once").key)
    })
}

pub fn wireguard_transport(bytes: &[u8]) -> bool {
    let mut message = bytes.to_vec();
    let Ok(opened) = session().1.open(&mut message) else { return false };
    assert_eq!(opened.len + 32, bytes.len());
    kind(bytes).is_some()
}
