//! Ours against ours, led through hours in a millisecond.

use std::time::{Duration, Instant};

use warren_crypto::{NodeSecret, UnixTime};
use warren_wireguard::{Event, HandshakeDrop, Kind, NoKeys, kind};

use crate::link::{End, Ours, WALL, address, number, packet, settle, start};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn pair(now: Instant) -> (Ours, Ours) {
    let (a, b) = (NodeSecret::from_seed([1; 32]), NodeSecret::from_seed([2; 32]));
    (Ours::new(&a, b.public(), 1, now), Ours::new(&b, a.public(), 2, now))
}

fn connected(now: Instant) -> (Ours, Ours) {
    let (mut a, mut b) = pair(now);
    let sent = a.send(&packet(0, 64), now);
    let (_, there) = settle(&mut a, &mut b, sent, now);
    assert_eq!(there.len(), 1);
    (a, b)
}

#[track_caller]
fn check_flow(a: &mut Ours, b: &mut Ours, now: Instant) {
    for n in [1, 2] {
        let sent = a.send(&packet(n, 64), now);
        assert_eq!(settle(a, b, sent, now).1.len(), 1, "there");
        let sent = b.send(&packet(n, 64), now);
        assert_eq!(settle(b, a, sent, now).1.len(), 1, "back");
    }
}

#[test]
fn a_day_of_traffic_loses_nothing_and_changes_keys_every_two_minutes() {
    let mut now = start();
    let (mut a, mut b) = connected(now);
    let (mut sent, mut arrived) = (0, 0);
    for second in 0..86_400u32 {
        now += secs(1);
        let due = a.pass(now).into_iter().map(|(_, bytes)| bytes).collect();
        settle(&mut a, &mut b, due, now);
        let due = b.pass(now).into_iter().map(|(_, bytes)| bytes).collect();
        settle(&mut b, &mut a, due, now);
        if second % 7 == 0 {
            let out = a.send(&packet(second, 64), now);
            sent += 1;
            arrived += settle(&mut a, &mut b, out, now).1.len();
        }
        if second % 11 == 0 {
            let out = b.send(&packet(second, 64), now);
            sent += 1;
            arrived += settle(&mut b, &mut a, out, now).1.len();
        }
    }
    assert_eq!(arrived, sent);
    let handshakes = a.wireguard.counters().handshakes_finished + b.wireguard.counters().handshakes_finished;
    assert!((600..760).contains(&handshakes), "{handshakes} handshakes in a day");
}

#[test]
fn half_of_all_datagrams_lost_still_lets_keys_be_made() {
    let mut now = start();
    let (mut a, mut b) = pair(now);
    let mut coin = 0x9e37_79b9u32;
    let mut lost = || {
        coin = coin.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        coin >> 31 == 0
    };
    let mut arrived = 0;
    let mut to_b = a.send(&packet(1, 64), now);
    let mut to_a = Vec::new();
    for _ in 0..300 {
        now += Duration::from_millis(200);
        for datagram in std::mem::take(&mut to_b).into_iter().filter(|_| !lost()).collect::<Vec<_>>() {
            let (out, packets) = b.receive(&datagram, now);
            to_a.extend(out);
            arrived += packets.len();
        }
        for datagram in std::mem::take(&mut to_a).into_iter().filter(|_| !lost()).collect::<Vec<_>>() {
            to_b.extend(a.receive(&datagram, now).0);
        }
        to_b.extend(a.pass(now).into_iter().map(|(_, bytes)| bytes));
        to_a.extend(b.pass(now).into_iter().map(|(_, bytes)| bytes));
        if arrived == 0 {
            to_b.extend(a.send(&packet(2, 64), now));
        }
    }
    assert!(arrived > 0);
}

#[test]
fn an_unanswered_handshake_is_repeated_with_jitter_and_given_up_after_ninety_seconds() {
    let now = start();
    let (mut a, _) = pair(now);
    assert_eq!(a.send(&packet(1, 64), now).len(), 1);
    let retries = a.pass(now + secs(200));
    assert!((16..=18).contains(&retries.len()), "{} retries", retries.len());
    let mut last = now;
    let mut waits = Vec::new();
    for (at, _) in &retries {
        let wait = *at - last;
        assert!(wait >= secs(5) && wait <= Duration::from_millis(5334), "{wait:?}");
        waits.push(wait);
        last = *at;
    }
    waits.dedup();
    assert!(waits.len() > 3, "jitter");
    assert_eq!(a.events, [Event::GaveUp { peer: a.peer }]);
    assert!(a.staging.is_empty());
}

/// The pauses before each initiation in whole seconds: jitter is less than one.
fn pauses(out: &[(Instant, Vec<u8>)], since: Instant) -> Vec<u64> {
    let mut last = since;
    let initiations = out.iter().filter(|(_, bytes)| kind(bytes) == Some(Kind::Handshake));
    initiations.map(|(at, _)| at.saturating_duration_since(std::mem::replace(&mut last, *at)).as_secs()).collect()
}

#[test]
fn a_lost_initiation_is_made_anew_as_soon_as_there_is_a_way_and_soon_repeated() {
    let now = start();
    let (mut a, mut b) = pair(now);
    let lost = a.send(&packet(0, 64), now);
    assert_eq!(lost.len(), 1);

    let back = now + Duration::from_millis(1500);
    a.wireguard.path_is_back(&a.peer.clone(), back);
    let anew = a.drain(back);
    assert_eq!(anew.len(), 1);
    assert_ne!(anew, lost, "the same bytes would be a replay");
    a.wireguard.path_is_back(&a.peer.clone(), back + Duration::from_millis(499));
    assert!(a.drain(back).is_empty(), "that one may still be answered");
    assert_eq!(pauses(&a.pass(back + secs(16)), back), [1, 2, 5, 5]);

    let last = back + secs(17);
    a.wireguard.path_is_back(&a.peer.clone(), last);
    let sent = a.drain(last);
    assert_eq!(settle(&mut a, &mut b, sent, last).1.len(), 1, "what waited arrives");
    a.wireguard.path_is_back(&a.peer.clone(), last + secs(1));
    assert!(a.drain(last).is_empty(), "nobody asks for keys any more");
}

#[test]
fn an_initiation_that_may_still_be_answered_is_only_repeated_sooner() {
    let now = start();
    let (mut a, _) = pair(now);
    a.send(&packet(0, 64), now);
    a.wireguard.path_is_back(&a.peer.clone(), now + Duration::from_millis(100));
    assert!(a.drain(now).is_empty());
    assert_eq!(pauses(&a.pass(now + secs(10)), now), [1, 2, 5]);
}

#[test]
fn a_peer_that_speaks_and_never_answers_is_asked_less_and_less() {
    let now = start();
    let (mut a, _) = pair(now);
    a.send(&packet(0, 64), now);
    let mut sent = Vec::new();
    for tenth in 1..200 {
        let at = now + Duration::from_millis(100) * tenth;
        a.wireguard.peer_is_there(&a.peer.clone(), at);
        sent.extend(a.drain(at));
        sent.extend(a.pass(at).into_iter().map(|(_, bytes)| bytes));
    }
    assert!((5..=9).contains(&sent.len()), "{} initiations in twenty seconds", sent.len());
}

#[test]
fn a_listener_sends_a_keepalive_after_ten_seconds_and_silence_asks_for_new_keys_after_fifteen() {
    let now = start();
    let (mut a, mut b) = connected(now);
    let sent = a.send(&packet(1, 64), now);
    let delivered = b.receive(&sent[0], now);
    assert_eq!((delivered.0.len(), delivered.1.len()), (0, 1));
    let due = b.pass(now + secs(14));
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].0, due[0].1.len()), (now + secs(10), 32), "a keepalive");
    // It is lost on the way, so the sender asks for new keys.
    let due = a.pass(now + secs(17));
    assert_eq!(due.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [148]);
    assert!(due[0].0 >= now + secs(15));
}

#[test]
fn keys_are_refused_after_three_minutes_and_wiped_after_nine() {
    let now = start();
    let (mut a, mut b) = connected(now);
    let late = a.send(&packet(5, 64), now + secs(179)).remove(0);
    let Some(Kind::Transport { receiver, .. }) = kind(&late) else { panic!("data") };
    assert!(b.wireguard.inbound_key(receiver, now + secs(179)).is_some());
    assert!(b.wireguard.inbound_key(receiver, now + secs(180)).is_none());
    assert_eq!(a.seal(&packet(6, 64), now + secs(180)), Err(NoKeys::Handshaking));
    b.pass(now + secs(600));
    assert!(b.events.contains(&Event::Erased { peer: b.peer }));
    assert!(b.wireguard.receiving(receiver).is_none());
}

#[test]
fn both_may_begin_at_once() {
    let now = start();
    let (mut a, mut b) = pair(now);
    let from_a = a.send(&packet(1, 64), now);
    let from_b = b.send(&packet(2, 64), now);
    let (answers_b, _) = b.receive(&from_a[0], now);
    let (answers_a, _) = a.receive(&from_b[0], now);
    let mut here = Vec::new();
    let mut there = Vec::new();
    for datagram in answers_b {
        let (out, packets) = a.receive(&datagram, now);
        here.extend(packets);
        let (back, packets) = settle(&mut a, &mut b, out, now);
        here.extend(back);
        there.extend(packets);
    }
    for datagram in answers_a {
        let (out, packets) = b.receive(&datagram, now);
        there.extend(packets);
        let (back, packets) = settle(&mut b, &mut a, out, now);
        there.extend(back);
        here.extend(packets);
    }
    assert_eq!((there.len(), here.len()), (1, 1), "what was staged on both sides");
    check_flow(&mut a, &mut b, now);
}

#[test]
fn a_replayed_packet_is_new_only_once_and_a_forged_one_never() {
    let now = start();
    let (mut a, mut b) = connected(now);
    let datagram = a.send(&packet(1, 64), now).remove(0);
    for byte in 8..datagram.len() {
        let mut forged = datagram.clone();
        forged[byte] ^= 1;
        assert_eq!(b.receive(&forged, now), (vec![], vec![]), "byte {byte}");
    }
    assert_eq!(b.receive(&datagram, now).1.len(), 1, "forgeries did not close the window");
    assert_eq!(b.receive(&datagram, now), (vec![], vec![]));
}

#[test]
fn forged_handshake_messages_change_nothing() {
    let now = start();
    let (mut a, mut b) = pair(now);
    let initiation = a.send(&packet(1, 64), now).remove(0);
    let mut reasons = Vec::new();
    for byte in (4..initiation.len() - 16).step_by(3) {
        let mut forged = initiation.clone();
        forged[byte] ^= 1;
        reasons.push(b.wireguard.handle_handshake(&forged, address(9), now).expect_err("forged"));
    }
    assert!(reasons.iter().all(|reason| *reason == HandshakeDrop::BadMac1), "{reasons:?}");
    let response = b.receive(&initiation, now).0.remove(0);
    for byte in (4..response.len() - 16).step_by(3) {
        let mut forged = response.clone();
        forged[byte] ^= 1;
        a.wireguard.handle_handshake(&forged, address(9), now).expect_err("forged");
    }
    assert_eq!(a.wireguard.counters().handshakes_finished, 0);
    let (out, _) = a.receive(&response, now);
    assert_eq!(settle(&mut a, &mut b, out, now).1.len(), 1, "the true response still counts");
    assert_eq!(a.wireguard.handle_handshake(&response, address(9), now), Err(HandshakeDrop::Unexpected), "but once");
}

#[test]
fn a_replayed_initiation_does_not_disturb_a_running_session() {
    let now = start();
    let (mut a, mut b) = pair(now);
    let sent = a.send(&packet(0, 64), now);
    let initiation = sent[0].clone();
    settle(&mut a, &mut b, sent, now);
    for seconds in [0, 1, 30, 100] {
        let then = now + secs(seconds);
        assert_eq!(b.wireguard.handle_handshake(&initiation, address(9), then), Err(HandshakeDrop::Replayed));
    }
    check_flow(&mut a, &mut b, now + secs(100));
}

#[test]
fn a_restart_with_a_clock_a_day_behind_is_heard_at_the_latest_when_the_old_keys_expire() {
    let now = start();
    let (a, b) = (NodeSecret::from_seed([1; 32]), NodeSecret::from_seed([2; 32]));
    let mut ahead = Ours::at(&a, b.public(), 1, now, UnixTime::from_secs(WALL + 86_400));
    let mut other = Ours::new(&b, a.public(), 2, now);
    let sent = ahead.send(&packet(0, 64), now);
    assert_eq!(settle(&mut ahead, &mut other, sent, now).1.len(), 1);

    // The node restarts with the right clock: its stamps are a day smaller than the last.
    let mut restarted = Ours::new(&a, b.public(), 3, now + secs(1));
    let sent = restarted.send(&packet(1, 64), now + secs(1));
    assert!(settle(&mut restarted, &mut other, sent, now + secs(1)).1.is_empty(), "it looks like a replay");
    let mut heard_after = None;
    for second in 2..200 {
        let then = now + secs(second);
        let mut due: Vec<_> = restarted.pass(then).into_iter().map(|(_, bytes)| bytes).collect();
        due.extend(restarted.send(&packet(2, 64), then));
        if !settle(&mut restarted, &mut other, due, then).1.is_empty() {
            heard_after = Some(second);
            break;
        }
    }
    assert!(heard_after.is_some_and(|seconds| seconds <= 186), "{heard_after:?}");
    check_flow(&mut restarted, &mut other, now + secs(190));

    // And at once, if the other side has something to say.
    let mut again = Ours::new(&a, b.public(), 4, now + secs(200));
    let from_other = other.rekey(now + secs(200));
    settle(&mut other, &mut again, from_other, now + secs(206));
    check_flow(&mut other, &mut again, now + secs(206));
}

#[test]
fn under_load_a_stranger_gets_a_cookie_and_a_peer_that_repeats_it_gets_in() {
    let now = start();
    let (mut a, mut b) = pair(now);
    let stranger = NodeSecret::from_seed([3; 32]);
    // Another node's initiations, each with a right MAC1, until load is felt.
    let mut flood = Ours::new(&stranger, a.peer, 3, now);
    let knock = flood.send(&packet(1, 64), now).remove(0);
    let mut cookies = 0;
    for _ in 0..1000 {
        let answer = b.wireguard.handle_handshake(&knock, address(66), now);
        cookies += usize::from(answer.is_ok());
    }
    assert_eq!(b.wireguard.counters().unknown_peer, 128);
    assert_eq!(cookies, 872);

    let initiation = a.send(&packet(1, 64), now).remove(0);
    let (reply, _) = b.receive(&initiation, now);
    assert_eq!(reply[0].len(), 64, "a cookie, not a response");
    let cookies_before = a.wireguard.counters().cookies_received;
    assert!(a.receive(&reply[0], now).0.is_empty());
    assert_eq!(a.wireguard.counters().cookies_received, cookies_before + 1);
    // Still under load when it tries again.
    let then = now + secs(6);
    for _ in 0..1000 {
        let _ = b.wireguard.handle_handshake(&knock, address(66), then);
    }
    let retry: Vec<_> = a.pass(then).into_iter().map(|(_, bytes)| bytes).collect();
    let (_, there) = settle(&mut a, &mut b, retry, then);
    assert_eq!(there.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [1]);
}

#[test]
fn removing_a_peer_kills_its_keys_and_adding_it_again_begins_anew() {
    let now = start();
    let (mut a, mut b) = connected(now);
    let datagram = a.send(&packet(1, 64), now).remove(0);
    let Some(Kind::Transport { receiver, .. }) = kind(&datagram) else { panic!("data") };
    let peer = b.peer;
    assert!(b.wireguard.remove_peer(&peer));
    assert!(b.wireguard.inbound_key(receiver, now).is_none());
    assert_eq!(b.seal(&packet(1, 64), now), Err(NoKeys::UnknownPeer));
    assert_eq!(b.wireguard.poll_timeout(), None, "nothing of it is left to fall due");
    assert!(b.wireguard.add_peer(peer));
    let sent = b.send(&packet(2, 64), now);
    assert_eq!(settle(&mut b, &mut a, sent, now).1.len(), 1);
}

#[test]
fn a_peer_that_restarted_is_found_again_by_the_silence() {
    let now = start();
    let (mut a, b) = connected(now);
    drop(b);
    let mut reborn = Ours::new(&NodeSecret::from_seed([2; 32]), a.wireguard.public(), 9, now + secs(5));
    let lost = a.send(&packet(1, 64), now + secs(5));
    assert!(settle(&mut a, &mut reborn, lost, now + secs(5)).1.is_empty());
    let then = now + secs(21);
    let (_, initiation) = a.pass(then).pop().expect("silence for fifteen seconds");
    settle(&mut a, &mut reborn, vec![initiation], then);
    check_flow(&mut a, &mut reborn, then);
}
