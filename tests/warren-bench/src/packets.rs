//! What one packet costs in the lowest floors.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use warren_crypto::{NodeSecret, Random, UnixTime};
use warren_ip::{Prefix, PrefixMap};
use warren_wireguard::message::OVERHEAD;
use warren_wireguard::{Kind, Reserved, Source, WireGuard, kind};

use crate::{Figure, nanos_per_step};

/// Sealing in place and out of place, and opening, of one 1420-byte packet.
pub fn seal_1420() {
    const LEN: usize = 1420;
    let (mut a, mut b, now) = connected();
    let peer = b.public();
    let Reserved { key, counters } = a.reserve(&peer, 10_000_000, now).expect("keys");
    let mut counter = counters.start;
    let mut message = vec![7; LEN + OVERHEAD];
    let figure = |case: &str| Figure { bench: "seal_1420", case: case.into(), metric: "time", unit: "ns/packet" };
    figure("in-place").print(nanos_per_step(200_000, |_| {
        key.seal(counter, black_box(&mut message));
        counter += 1;
    }));
    let packet = vec![7; LEN];
    figure("apart").print(nanos_per_step(200_000, |_| {
        key.seal_from(counter, black_box(&packet), black_box(&mut message));
        counter += 1;
    }));
    let Some(Kind::Transport { receiver, .. }) = kind(&message) else { return };
    let Some(inbound) = b.inbound_key(receiver, now) else { return };
    let mut copy = message.clone();
    figure("open").print(nanos_per_step(200_000, |_| {
        copy.copy_from_slice(&message);
        black_box(inbound.key.open(black_box(&mut copy))).expect("authentic");
    }));
}

/// Longest match among ten thousand hosts and a few networks.
pub fn lookup() {
    let hosts = (0..10_000u32).map(|n| (Prefix::host(IpAddr::from((0x6440_0000 + n * 7).to_be_bytes())), n));
    let networks = (0..64u32)
        .filter_map(|n| Some((Prefix::masked(IpAddr::from((0x0a00_0000 + (n << 16)).to_be_bytes()), 16)?, n)));
    let map: PrefixMap<u32> = hosts.chain(networks).collect();
    Figure { bench: "lookup", case: "10k-hosts".into(), metric: "time", unit: "ns/lookup" }.print(nanos_per_step(
        2_000_000,
        |step| {
            let addr = IpAddr::from((0x6440_0000 + (step as u32).wrapping_mul(2_654_435_761) % 70_000).to_be_bytes());
            black_box(map.lookup(black_box(addr)));
        },
    ));
}

fn connected() -> (WireGuard, WireGuard, Instant) {
    let now = Instant::now();
    let wall = UnixTime::from_secs(1_790_000_000);
    let (one, two) = (NodeSecret::from_seed([1; 32]), NodeSecret::from_seed([2; 32]));
    let mut a = WireGuard::new(one, Random::from_seed([1; 32]), now, wall);
    let mut b = WireGuard::new(two, Random::from_seed([2; 32]), now, wall);
    a.add_peer(b.public());
    b.add_peer(a.public());
    a.initiate(&b.public(), now);
    let source = Source::Address(([192, 0, 2, 1], 1).into());
    let initiation = a.poll_transmit().expect("an initiation").bytes;
    let response = b.handle_handshake(&initiation, source, now).expect("answered").reply.expect("a response");
    a.handle_handshake(&response, source, now).expect("finished");
    (a, b, now)
}
