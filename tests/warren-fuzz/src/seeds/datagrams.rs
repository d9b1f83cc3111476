//! Datagrams and packets.

use std::net::{IpAddr, SocketAddr};

use warren_crypto::{NodePublic, Random, SharedBox};
use warren_filter::{RejectReason, Tsmp};
use warren_ip::offload::VirtioHeader;
use warren_ip::{Protocol, build, checksum};
use warren_path::disco::{self, Message, TxId};

use super::Seeds;
use crate::start;
use crate::tunnels::{disco_keys, session, source, tunnel_end};

pub(super) fn add(seeds: &mut Seeds) {
    disco_messages(seeds);
    wireguard(seeds);
    packets(seeds);
    bursts(seeds);
    tsmp(seeds);
}

fn disco_messages(seeds: &mut Seeds) {
    let (own, other) = disco_keys();
    let shared = SharedBox::disco(&other, &own.public()).expect("honest keys");
    let seen = SocketAddr::from(([192, 0, 2, 1], 41641));
    let v6: SocketAddr = "[2001:db8::1]:41641".parse().expect("an address");
    let tx = TxId([7; 12]);
    let messages = [
        ("ping", Message::Ping { tx, node: Some(NodePublic::from_bytes([9; 32])), padding: 0 }),
        ("ping-padded", Message::Ping { tx, node: Some(NodePublic::from_bytes([9; 32])), padding: 1208 }),
        ("ping-ancient", Message::Ping { tx, node: None, padding: 0 }),
        ("pong", Message::Pong { tx, seen }),
        ("call-me-maybe", Message::CallMeMaybe { endpoints: vec![seen, v6] }),
        ("call-nobody", Message::CallMeMaybe { endpoints: Vec::new() }),
        ("unknown", Message::Other { kind: 200 }),
    ];
    for (file, message) in &messages {
        seeds.put("disco-message", file, message.encode());
        let packet = disco::seal(&shared, &mut Random::from_seed([30; 32]), &other.public(), message);
        seeds.put("disco-packet", file, packet);
    }
    seeds.put("disco-message", "call-of-odd-length", [&[3, 0][..], &[1; 19]].concat());
    seeds.put("disco-packet", "magic-only", disco::MAGIC);
}

fn wireguard(seeds: &mut Seeds) {
    let (mut ours, mut theirs) = (tunnel_end(11, 12), tunnel_end(12, 11));
    theirs.initiate(&ours.public(), start());
    let initiation = theirs.poll_transmit().expect("an initiation").bytes;
    let response = ours.handle_handshake(&initiation, source(), start()).expect("honest").reply.expect("a response");
    let cookie = [&[3, 0, 0, 0][..], &[5; 60]].concat();
    let mut transport = vec![0; 32 + 64];
    session().0.seal(5, &mut transport);
    let mut keepalive = vec![0; 32];
    session().0.seal(6, &mut keepalive);
    let messages = [
        ("initiation", initiation),
        ("response", response),
        ("cookie", cookie),
        ("transport", transport),
        ("keepalive", keepalive),
        ("unknown", vec![5, 0, 0, 0, 1, 2, 3, 4]),
    ];
    for (file, message) in messages {
        seeds.put("wireguard-message", file, message.clone());
        match file {
            "initiation" | "response" | "cookie" => seeds.put("wireguard-handshake", file, message),
            _ => seeds.put("wireguard-transport", file, message),
        }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A TCP segment with its checksum.
fn tcp(src: &str, dst: &str, ports: (u16, u16), sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&ports.0.to_be_bytes());
    message.extend_from_slice(&ports.1.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    message.extend_from_slice(payload);
    let sum = checksum::transport(addr(src), addr(dst), Protocol::TCP, &message);
    message[16..18].copy_from_slice(&sum.to_be_bytes());
    build::ip(addr(src), addr(dst), Protocol::TCP, &message).expect("one family")
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn packets(seeds: &mut Seeds) {
    let udp4 = build::udp("100.64.0.2:53".parse().expect(""), "100.64.0.1:9".parse().expect(""), b"hello").expect("");
    let udp6 = build::udp("[fd7a::2]:53".parse().expect(""), "[fd7a::1]:9".parse().expect(""), b"hello").expect("");
    let mut fragment = udp4.clone();
    fragment[6..8].copy_from_slice(&[0x20, 0x00]);
    let mut later = udp4.clone();
    later[6..8].copy_from_slice(&[0x00, 0x20]);
    let mut extended = udp6.clone();
    extended[6] = 0;
    extended.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    extended[5] += 8;
    let unreachable = build::ip(addr("100.64.0.2"), addr("100.64.0.1"), Protocol::ICMP, &[3, 1, 0, 0, 0, 0, 0, 0]);
    let all = [
        ("udp4", udp4.clone()),
        ("udp6", udp6),
        ("tcp-opens-ssh", tcp("100.64.0.2", "100.64.0.1", (40000, 22), 1, SYN, b"")),
        ("tcp-opens-web", tcp("100.64.0.2", "100.64.0.1", (40000, 80), 1, SYN, b"")),
        ("tcp6-data", tcp("fd7a::2", "fd7a::1", (40000, 22), 1, ACK, b"data")),
        ("echo4", build::echo_request(addr("100.64.0.2"), addr("100.64.0.1"), 1, 2, b"ping").expect("one family")),
        ("cut-short", udp4[..24].to_vec()),
        ("echo6", build::echo_reply(addr("fd7a::2"), addr("fd7a::1"), 1, 2, b"ping").expect("one family")),
        ("unreachable", unreachable.expect("one family")),
        ("first-fragment", fragment),
        ("later-fragment", later),
        ("hop-by-hop", extended),
    ];
    for (file, packet) in all {
        seeds.put("ip-packet", file, packet.clone());
        seeds.put("filtered-packet", file, packet);
    }
}

fn bursts(seeds: &mut Seeds) {
    let header = |gso_type, header_len, gso_size, checksum_start, checksum_offset| {
        let flags = u8::from(checksum_start > 0);
        VirtioHeader { flags, gso_type, header_len, gso_size, checksum_start, checksum_offset }.encode().to_vec()
    };
    let tcp4 = tcp("100.64.0.2", "100.64.0.1", (1, 2), 9, ACK, &[7; 1000]);
    let tcp6 = tcp("fd7a::2", "fd7a::1", (1, 2), 9, ACK, &[7; 1000]);
    let udp = build::udp("100.64.0.2:1".parse().expect(""), "100.64.0.1:2".parse().expect(""), &[7; 1000]).expect("");
    seeds.put("virtio-cut", "tcp4", [header(1, 40, 300, 20, 16), tcp4.clone()].concat());
    seeds.put("virtio-cut", "tcp6", [header(4, 60, 300, 40, 16), tcp6].concat());
    seeds.put("virtio-cut", "udp4", [header(5, 28, 300, 20, 6), udp.clone()].concat());
    seeds.put("virtio-cut", "one-byte-segments", [header(1, 40, 1, 20, 16), tcp4.clone()].concat());
    seeds.put("virtio-cut", "checksum-only", [header(0, 0, 0, 20, 6), udp].concat());
    seeds.put("virtio-cut", "finished", [header(0, 0, 0, 0, 0), tcp4.clone()].concat());
    seeds.put("virtio-cut", "no-segment-size", [header(1, 40, 0, 20, 16), tcp4].concat());
    let listed = |packets: &[Vec<u8>]| {
        packets
            .iter()
            .flat_map(|packet| [&(packet.len() as u16).to_be_bytes(), &packet[..]].concat())
            .collect::<Vec<u8>>()
    };
    let segment = |at: u32, len| tcp("100.64.0.2", "100.64.0.1", (1, 2), at, ACK, &vec![7; len]);
    seeds.put("virtio-join", "in-order", listed(&[segment(0, 200), segment(200, 200), segment(400, 50)]));
    seeds.put("virtio-join", "late", listed(&[segment(200, 200), segment(0, 200), segment(400, 200)]));
    let datagram =
        |len| build::udp("[fd7a::2]:1".parse().expect(""), "[fd7a::1]:2".parse().expect(""), &vec![7; len]).expect("");
    seeds.put("virtio-join", "udp6", listed(&[datagram(100), datagram(100), datagram(30)]));
    seeds.put("virtio-join", "alone", listed(&[segment(0, 200)]));
    seeds.put("virtio-join", "two-flows", listed(&[segment(0, 100), datagram(100), segment(100, 100), datagram(100)]));
}

fn tsmp(seeds: &mut Seeds) {
    let refused = |is_tentative| Tsmp::Rejected {
        protocol: Protocol::TCP,
        reason: RejectReason::Policy,
        src_port: 40000,
        dst_port: 80,
        is_tentative,
    };
    seeds.put("tsmp", "refused", refused(false).encode());
    seeds.put("tsmp", "refused-perhaps", refused(true).encode());
    seeds.put("tsmp", "ping", Tsmp::Ping([1; 8]).encode());
    seeds.put("tsmp", "pong", Tsmp::Pong { data: [1; 8], peer_api_port: 80 }.encode());
    seeds.put("tsmp", "disco-key", Tsmp::DiscoKey([3; 32]).encode());
    seeds.put("tsmp", "unknown", *b"?what");
}
