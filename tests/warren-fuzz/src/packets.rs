//! What comes out of the tunnel and out of the kernel.

use std::net::IpAddr;

use warren_filter::{DropReason, Filter, Guarded, Tsmp, Verdict, rejection_of};
use warren_ip::offload::{Joiner, Super};
use warren_ip::{Flow, PacketView, Prefix, PrefixSet};
use warren_wire::{FilterRule, NetPortRange, PortRange};

use crate::start;

/// Every look at a packet that parsed is safe, and its parts lie within it.
pub fn ip_packet(bytes: &[u8]) -> bool {
    let Ok(view) = PacketView::parse(bytes) else { return false };
    assert!(view.bytes().len() <= bytes.len() && view.header_len() <= view.bytes().len());
    assert!(view.payload().len() <= view.transport_message().len());
    let _ = (view.tcp_flags(), view.icmp(), view.echo_request(), view.echo_reply(), view.is_icmp_error());
    let _ = view.checksums_are_valid();
    let flow = Flow::of(&view);
    assert_eq!(flow.reversed().reversed(), flow);
    PacketView::parse(view.bytes()).expect("the trimmed packet is the same packet");
    true
}

/// A TUN read is refused, or cut into packets of the lengths that were announced.
pub fn virtio_cut(bytes: &[u8]) -> bool {
    let Ok(burst) = Super::from_virtio(bytes.to_vec()) else { return false };
    let mut total = 0;
    for index in 0..burst.segment_count() {
        let mut out = vec![0; burst.segment_len(index)];
        assert_eq!(burst.cut_into(index, &mut out), out.len());
        assert!(burst.segment_count() == 1 || PacketView::parse(&out).is_ok());
        total += out.len();
    }
    assert_eq!(total, burst.segments_len());
    burst.segment_count() > 1
}

/// Packets, each behind its length in two bytes, are joined into bursts that the kernel would take and that cut again into as
/// many packets.
pub fn virtio_join(bytes: &[u8]) -> bool {
    let (mut joiner, mut pushed, mut rest) = (Joiner::new(true), 0, bytes);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (packet, left) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        joiner.push(packet);
        (pushed, rest) = (pushed + 1, left);
    }
    let bursts = joiner.take();
    assert_eq!(bursts.iter().map(Super::segment_count).sum::<usize>(), pushed);
    for burst in bursts.iter().filter(|burst| burst.segment_count() > 1) {
        let read = Super::from_virtio([&burst.to_virtio(), burst.bytes()].concat()).expect("ours is taken back");
        assert_eq!(&read, burst);
    }
    bursts.len() < pushed
}

/// A node at 100.64.0.1 and fd7a::1 whose rule opens TCP 22 and all of UDP to two peers.
fn guard() -> (Guarded, PrefixSet) {
    let own = ["100.64.0.1", "fd7a::1"].map(|addr| Prefix::host(addr.parse::<IpAddr>().expect("an address")));
    let opens = |proto, first, last| FilterRule {
        src_ips: vec!["100.64.0.2".into(), "fd7a::2".into()],
        dst_ports: vec![NetPortRange { ip: "*".into(), ports: PortRange { first, last }, ..Default::default() }],
        ip_proto: vec![proto],
        ..Default::default()
    };
    let (filter, problems) = Filter::compile(&[opens(6, 22, 22), opens(17, 0, 65535)], |_| Vec::new());
    assert!(problems.is_empty());
    let mut guard = Guarded::new();
    guard.set_filter(filter);
    (guard, own.into_iter().collect())
}

/// What is refused may be answered, and the answer is a packet; what comes from nowhere is never accepted.
pub fn filtered_packet(bytes: &[u8]) -> bool {
    let Ok(view) = PacketView::parse(bytes) else { return false };
    let (mut guard, own) = guard();
    match guard.inbound(&view, &own, start()) {
        Verdict::Accept => assert!(own.contains(view.dst())),
        Verdict::Drop(reason) => {
            let answer = rejection_of(&view, reason).or_else(|| rejection_of(&view, DropReason::NoRule));
            assert!(answer.is_none_or(|packet| PacketView::parse(&packet).is_ok()), "our answer is a packet");
        }
    }
    guard.outbound(&view, start()) == Verdict::Accept
}

pub fn tsmp(bytes: &[u8]) -> bool {
    let Some(message) = Tsmp::parse(bytes) else { return false };
    assert_eq!(Tsmp::parse(&message.encode()), Some(message));
    true
}
