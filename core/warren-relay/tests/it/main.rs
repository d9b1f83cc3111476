//! A relay and its clients in memory, under a clock that the test owns.

mod room;

use std::time::Duration;

use room::{Room, disco_packet, key};
use warren_relay::client::{ClientError, Event};
use warren_relay::frame::GoneReason;
use warren_relay::server::CloseReason;

#[test]
fn two_clients_exchange_packets_and_the_relay_counts_disco_apart() {
    let mut room = Room::new();
    let (a, b) = (room.join(1), room.join(2));
    room.send(a, 2, b"hello");
    room.send(b, 1, &disco_packet());
    room.settle();
    assert_eq!(room.events(b), [Event::Packet { src: key(1), bytes: b"hello".to_vec() }]);
    assert_eq!(room.events(a), [Event::Packet { src: key(2), bytes: disco_packet() }]);
    let counters = room.server.counters();
    assert_eq!((counters.other.sent.frames, counters.other.sent.bytes), (1, 5));
    assert_eq!((counters.disco.received.frames, counters.disco.sent.bytes), (1, 62));
}

#[test]
fn a_packet_of_the_greatest_size_passes_and_a_longer_one_does_not_leave() {
    let mut room = Room::new();
    let (a, b) = (room.join(1), room.join(2));
    room.send(a, 2, &vec![7; 65_536]);
    room.send(a, 2, &vec![7; 65_537]);
    room.settle();
    assert_eq!(room.events(b).len(), 1);
    assert_eq!(room.client(a).counters().dropped_size, 1);
}

#[test]
fn a_key_that_is_not_admitted_learns_nothing_and_is_closed() {
    let mut room = Room::new();
    room.refuse(9);
    let stranger = room.dial(9, false);
    room.settle();
    assert_eq!(room.events(stranger), []);
    assert_eq!(room.closed(stranger), Some(CloseReason::Refused));
    assert_eq!(room.server.counters().refused, 1);
}

#[test]
fn what_a_client_sends_before_it_is_admitted_is_delivered_after() {
    let mut room = Room::new();
    let b = room.join(2);
    room.hold_admission = true;
    let a = room.dial(1, false);
    room.send(a, 2, b"early");
    room.settle();
    assert_eq!(room.events(b), []);
    room.answer_held();
    room.settle();
    assert_eq!(room.events(b), [Event::Packet { src: key(1), bytes: b"early".to_vec() }]);
}

#[test]
fn a_slow_receiver_loses_its_oldest_packets_and_delays_nobody() {
    let mut room = Room::new();
    let (a, slow, b) = (room.join(1), room.join(2), room.join(3));
    room.stall(slow);
    for byte in 0..100_u8 {
        room.send(a, 2, &[byte]);
        room.settle();
    }
    room.send(a, 3, b"through");
    room.settle();
    assert_eq!(room.events(b).len(), 1);
    assert_eq!(room.server.counters().other.dropped_queue_head, 68);
    room.resume(slow);
    room.settle();
    let first = room.events(slow).into_iter().next();
    assert_eq!(first, Some(Event::Packet { src: key(1), bytes: vec![68] }));
}

#[test]
fn a_burst_longer_than_the_queue_passes_whole_when_the_receiver_has_its_turns() {
    let mut room = Room::new();
    let (a, b) = (room.join(1), room.join(2));
    let burst: Vec<u8> =
        (0..100_u8).flat_map(|byte| warren_relay::frame::encode_send_packet(&key(2), &[byte])).collect();
    room.raw_with_turns(a, &burst, b);
    room.settle();
    assert_eq!(room.events(b).len(), 100);
    assert_eq!(room.server.counters().other.dropped_queue_head, 0);
}

#[test]
fn those_who_heard_from_a_client_learn_that_it_left_and_others_do_not() {
    let mut room = Room::new();
    let (a, b, c) = (room.join(1), room.join(2), room.join(3));
    room.send(a, 2, b"hello");
    room.settle();
    room.leave(a);
    room.settle();
    let gone = Event::PeerGone { key: key(1), reason: GoneReason::Disconnected };
    assert_eq!(room.events(b).last(), Some(&gone));
    assert_eq!(room.events(c), []);
}

#[test]
fn disco_to_an_absent_key_is_answered_three_times_and_data_never() {
    let mut room = Room::new();
    let a = room.join(1);
    for _ in 0..10 {
        room.send(a, 9, &disco_packet());
        room.send(a, 9, b"data");
        room.settle();
    }
    let gone = Event::PeerGone { key: key(9), reason: GoneReason::NotHere };
    assert_eq!(room.events(a), vec![gone; 3]);
    room.advance(Duration::from_secs(2));
    for _ in 0..10 {
        room.send(a, 9, &disco_packet());
        room.settle();
    }
    assert_eq!(room.events(a).len(), 2);
    assert_eq!(room.server.counters().other.dropped_unknown_destination, 10);
}

#[test]
fn a_second_connection_of_a_key_takes_over_and_the_first_takes_back_by_speaking() {
    let mut room = Room::new();
    let (old, b) = (room.join(1), room.join(2));
    let new = room.join(1);
    room.send(b, 1, b"to the new");
    room.settle();
    assert_eq!((room.events(old).len(), room.events(new).len()), (0, 1));
    room.send(old, 2, b"still here");
    room.settle();
    room.send(b, 1, b"to the old");
    room.settle();
    assert_eq!((room.events(old).len(), room.events(new).len()), (1, 0));
    room.leave(old);
    room.settle();
    assert!(!room.events(b).iter().any(|event| matches!(event, Event::PeerGone { .. })));
}

#[test]
fn keepalives_reach_a_silent_client_in_time_for_ever() {
    let mut room = Room::new();
    let a = room.join(1);
    for _ in 0..100 {
        room.advance(Duration::from_secs(30));
        let now = room.now();
        assert_eq!(room.client(a).handle_timeout(now), Ok(()));
    }
    assert!(room.server.counters().keepalives >= 33);
}

#[test]
fn a_relay_that_falls_silent_is_given_up_after_two_minutes() {
    let mut room = Room::new();
    let a = room.join(1);
    let later = room.now() + Duration::from_secs(120);
    assert_eq!(room.client(a).handle_timeout(later), Err(ClientError::Silent));
}

#[test]
fn a_connection_that_never_logs_in_is_closed_after_ten_seconds() {
    let mut room = Room::new();
    let id = room.server.connect([192, 0, 2, 1].into(), room.now());
    room.advance(Duration::from_secs(10));
    assert_eq!(room.server.poll_closed(), Some((id, CloseReason::LoginTimeout)));
    assert_eq!(room.server.counters().connections, 0);
}

#[test]
fn the_relay_counts_homes_and_answers_pings() {
    let mut room = Room::new();
    let a = room.dial(1, true);
    room.settle();
    room.events(a);
    assert_eq!(room.server.counters().homes, 1);
    room.raw(a, &[&[0x12, 0, 0, 0, 8][..], b"are you?"].concat());
    assert_eq!(room.server.poll_transmit(a), Some([&[0x13, 0, 0, 0, 8][..], b"are you?"].concat()));
    room.client(a).note_preferred(false);
    room.settle();
    assert_eq!(room.server.counters().homes, 0);
    room.leave(a);
    assert_eq!((room.server.counters().homes, room.server.counters().clients), (0, 0));
}

#[test]
fn a_key_that_is_revoked_is_cut_off_on_every_connection_and_others_stay() {
    let mut room = Room::new();
    let (a, again, b) = (room.join(1), room.join(1), room.join(2));
    room.server.revoke(&key(1));
    room.settle();
    assert_eq!((room.closed(a), room.closed(again)), (Some(CloseReason::Revoked), Some(CloseReason::Revoked)));
    assert_eq!(room.closed(b), None);
}

#[test]
fn frames_that_only_relays_may_send_end_the_connection() {
    for (kind, length) in [(0x10_u8, 0_u8), (0x11, 32), (0x0a, 64)] {
        let mut room = Room::new();
        let a = room.join(1);
        room.raw(a, &[&[kind, 0, 0, 0, length][..], &vec![0; length.into()]].concat());
        room.settle();
        assert_eq!(room.closed(a), Some(CloseReason::MeshOnly));
    }
}

#[test]
fn frames_of_a_later_version_are_passed_over_and_malformed_ones_are_not() {
    let mut room = Room::new();
    let (a, b) = (room.join(1), room.join(2));
    room.raw(a, &[&[0x77, 0, 0, 0x10, 0][..], &[0; 0x1000]].concat());
    room.send(a, 2, b"after");
    room.settle();
    assert_eq!(room.events(b).len(), 1);
    room.raw(a, &[0x07, 0, 0, 0, 2, 1, 1]);
    room.settle();
    assert_eq!(room.closed(a), Some(CloseReason::Malformed { kind: 0x07, length: 2 }));
}

proptest::proptest! {
    #[test]
    fn no_bytes_of_a_stranger_or_a_member_make_the_relay_panic(
        bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..400),
        is_member in proptest::arbitrary::any::<bool>(),
    ) {
        let mut room = Room::new();
        let bystander = room.join(2);
        let a = if is_member { room.join(1) } else { room.dial_mute() };
        room.raw(a, &bytes);
        room.settle();
        let c = room.join(3);
        room.send(c, 2, b"still works");
        room.settle();
        proptest::prop_assert!(!room.events(bystander).is_empty());
    }
}
