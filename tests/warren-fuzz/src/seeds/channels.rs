//! Streams: the control channel and relay connections.

use warren_crypto::channel::early::EarlyPayload;
use warren_crypto::{ChallengePublic, NodeSecret, Random, channel::Responder};
use warren_relay::frame::{self, GoneReason};
use warren_relay::login::{ClientInfo, PROTOCOL_VERSION, ServerInfo};
use warren_relay::{login, stun};
use warren_wire::framing;

use super::Seeds;
use crate::control_channel::{client, server, server_random};
use crate::relays::{node, relay};

pub(super) fn add(seeds: &mut Seeds) {
    control(seeds);
    frames(seeds);
    client_side(seeds);
    server_side(seeds);
    stun_messages(seeds);
}

fn control(seeds: &mut Seeds) {
    let (initiator, initiation) = client();
    let accepted = Responder::accept(&server(), &initiation, &mut server_random()).expect("honest");
    let (mut sealer, _) = initiator.finish(&accepted.response).expect("honest").split();
    seeds.put_whole("noise-initiation", initiation);
    seeds.put_whole("noise-response", accepted.response);
    seeds.put("noise-response", "refused", *b"\x03\x00\x08too\x1b old");
    let mut stream = Vec::new();
    for plain in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[7; 300], b""] {
        sealer.seal(plain, &mut stream).expect("a short stream");
    }
    seeds.put("noise-records", "three", stream);
    seeds.put("noise-records", "longest-header", [4, 0x0f, 0xfd]);
    seeds.put("noise-records", "impossible-header", [4, 0xff, 0xff, 0]);

    let early = EarlyPayload { node_key_challenge: ChallengePublic::from_bytes([7; 32]) };
    seeds.put_whole("early-payload", early.encode());
    seeds.put("early-payload", "http2", [0, 0, 18, 4, 0, 0, 0, 0, 0]);
    seeds.put("early-payload", "too-long", *b"\xff\xff\xffTS\x00\x00\x05\x00");

    let framed = |body: &[u8]| [&framing::encode_len(body.len()).expect("not empty"), body].concat();
    let stream = [framed(br#"{"KeepAlive":true}"#), framed(b"x"), framed(&[7; 300])].concat();
    seeds.put_whole("map-frames", stream);
    seeds.put("map-frames", "zero", [0; 4]);
    seeds.put("map-frames", "over-the-cap", [0xff; 8]);
}

fn frames(seeds: &mut Seeds) {
    let key = NodeSecret::from_seed([20; 32]).public();
    let keep_alive = [frame::KEEP_ALIVE, 0, 0, 0, 0];
    let stream = [
        frame::encode_send_packet(&key, b"packet"),
        keep_alive.to_vec(),
        vec![0x90, 0, 0, 0, 3, 1, 2, 3],
        frame::encode_note_preferred(true),
    ];
    seeds.put_whole("derp-frames", stream.concat());
    seeds.put("derp-frames", "over-the-cap", [1, 0, 0, 2, 1]);
    seeds.put("derp-frames", "endless-unknown", [0x90, 0xff, 0xff, 0xff, 0xff, 0]);
}

/// What a relay says, from its key to its end.
fn client_side(seeds: &mut Seeds) {
    let mut random = Random::from_seed([21; 32]);
    let (_, shared) = login::encode_client_info(&node(), &relay().public(), &ClientInfo::default(), &mut random)
        .expect("honest keys");
    let hello = frame::encode_server_key(&relay().public());
    let info = login::encode_server_info(&shared, &ServerInfo { version: 2, ..Default::default() }, &mut random);
    let slow = ServerInfo { version: 2, bytes_per_second: 1, burst_bytes: 1 };
    let slow = login::encode_server_info(&shared, &slow, &mut random);
    let peer = NodeSecret::from_seed([22; 32]).public();
    let packet = frame::encode_recv_packet(&peer, b"packet");
    let ping = [&[frame::PING, 0, 0, 0, 8][..], &[9; 8]].concat();
    let gone = frame::encode_peer_gone(&peer, GoneReason::NotHere);
    let health = [&[frame::HEALTH, 0, 0, 0, 4][..], b"ill!"].concat();
    let restart = [&[frame::RESTARTING, 0, 0, 0, 8][..], &[0, 0, 3, 232, 0, 0, 39, 16]].concat();
    let whole = [&hello[..], &info, &packet, &ping, &gone, &health, &restart].concat();
    seeds.put_whole("derp-client", whole);
    seeds.put("derp-client", "rate-limited", [&hello[..], &slow, &packet].concat());
    seeds.put("derp-client", "no-key-first", packet);
}

/// What a client says, from its key to its last packet.
fn server_side(seeds: &mut Seeds) {
    let mut random = Random::from_seed([23; 32]);
    let info = ClientInfo { version: PROTOCOL_VERSION, can_ack_pings: true, is_prober: false };
    let (hello, _) = login::encode_client_info(&node(), &relay().public(), &info, &mut random).expect("honest keys");
    seeds.put_whole("derp-client-info", &hello[frame::HEADER_BYTES..]);
    let to_self = frame::encode_send_packet(&node().public(), b"packet");
    let to_nobody = frame::encode_send_packet(&NodeSecret::from_seed([24; 32]).public(), b"packet");
    let disco = [&frame::DISCO_MAGIC[..], &[0; 60]].concat();
    let disco = frame::encode_send_packet(&NodeSecret::from_seed([24; 32]).public(), &disco);
    let ping = [&[frame::PING, 0, 0, 0, 8][..], &[9; 8]].concat();
    let whole = [&hello[..], &frame::encode_note_preferred(true), &to_self, &to_nobody, &disco, &ping].concat();
    seeds.put_whole("derp-server", whole);
    let mesh = [&hello[..], &[frame::WATCH_CONNS, 0, 0, 0, 0]].concat();
    seeds.put("derp-server", "asks-what-relays-ask", mesh);
    seeds.put("derp-server", "no-login", to_self);
}

fn stun_messages(seeds: &mut Seeds) {
    let id = stun::TxId([7; 12]);
    seeds.put_whole("stun-request", stun::encode_request(id));
    for (file, addr) in [("v4", "192.0.2.1:41641"), ("v6", "[2001:db8::1]:41641")] {
        let response = stun::encode_response(id, addr.parse().expect("an address"));
        seeds.put("stun-response", file, response);
    }
    let mut response = stun::encode_response(id, ([192, 0, 2, 1], 1).into());
    response[21] = 1;
    seeds.put("stun-response", "mapped-address-in-clear", response.clone());
    response[22..24].copy_from_slice(&[0xff, 0xff]);
    seeds.put("stun-response", "attribute-too-long", response);
}
