//! Bursts from a device with offloads to a device with offloads.

use crate::net::{Net, tcp_burst, udp};
use warren_engine::Delivery;

/// What a pair of engines makes of a stream: all of it, in order, in bursts.
fn check_stream(mtu: u16, burst_payload: usize, total: usize) {
    let mut net = Net::with(Delivery::Joined { udp: false }, mtu);
    net.send(0, udp(&net, 0, 1, b"hello"));
    assert_eq!(net.take_delivered(1).len(), 1);
    let (src, dst) = (net.sides[0].addr, net.sides[1].addr);
    let mss = mtu - 40;
    let (mut sequence, mut expected, mut received, mut bursts) = (1u32, 1u32, 0usize, 0usize);
    let mut payload = vec![0; burst_payload];
    net.log = Some(Vec::new());
    while received < total {
        for (place, byte) in payload.iter_mut().enumerate() {
            *byte = (place as u32).wrapping_add(sequence).wrapping_mul(0x9e37_79b1).to_be_bytes()[0];
        }
        net.send_bursts(0, vec![tcp_burst(src, dst, sequence, &payload, mss)]);
        let mut at = 0;
        for delivery in std::mem::take(&mut net.sides[1].delivered) {
            bursts += 1;
            let view = delivery.view().expect("IP");
            let got_sequence = u32::from_be_bytes(view.transport_message()[4..8].try_into().expect("four bytes"));
            assert_eq!(got_sequence, expected, "in order");
            assert_eq!(view.payload(), &payload[at..at + view.payload().len()]);
            at += view.payload().len();
            expected = expected.wrapping_add(view.payload().len() as u32);
            net.sides[1].engine.recycle(delivery.into_buffer());
        }
        assert_eq!(at, payload.len(), "nothing is missing");
        sequence = sequence.wrapping_add(payload.len() as u32);
        received += at;
        for (_, hop, segment, len) in net.log.as_mut().expect("kept").drain(..) {
            assert!(len <= 65_507 && len.div_ceil(segment) <= 64, "{len} bytes in segments of {segment} to {hop:?}");
        }
    }
    assert!(bursts <= total.div_ceil(burst_payload) * 2, "joined again: {bursts} bursts");
}

#[test]
fn two_hundred_megabytes_arrive_in_order_as_bursts() {
    check_stream(1420, 64_000, 200_000_000);
}

#[test]
fn bursts_that_do_not_fit_one_send_are_sent_as_two() {
    check_stream(1280, 65_400, 2_000_000);
    check_stream(576, 65_000, 1_000_000);
}
