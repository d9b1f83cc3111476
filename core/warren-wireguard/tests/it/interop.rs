//! Against gotatun and boringtun: either may begin, keys change under way, datagrams are lost and overtake each other.

use std::time::Duration;

use warren_crypto::NodeSecret;

use crate::link::{End, Ours, number, packet, settle, start};
use crate::oracles::{Boringtun, Gotatun, Official};

const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];

fn ours() -> Ours {
    let theirs = NodeSecret::from_seed(THEIRS).public();
    Ours::new(&NodeSecret::from_seed(OURS), theirs, 1, start())
}

fn public() -> [u8; 32] {
    *NodeSecret::from_seed(OURS).public().as_bytes()
}

fn others() -> Vec<(&'static str, Box<dyn End>)> {
    vec![
        ("boringtun", Box::new(Boringtun::new(THEIRS, public(), None))),
        ("gotatun", Box::new(Gotatun::new(THEIRS, public(), None))),
        ("ts_tunnel", Box::new(official(None))),
    ]
}

/// Those that change keys when told, by clocks of their own.
fn rekeyed_at_will() -> Vec<(&'static str, Box<dyn End>)> {
    others().into_iter().filter(|(name, _)| *name != "ts_tunnel").collect()
}

fn official(psk: Option<[u8; 32]>) -> Official {
    Official::new(&NodeSecret::from_seed(THEIRS), public(), psk)
}

#[track_caller]
fn check_both_ways(ours: &mut Ours, theirs: &mut dyn End, now: std::time::Instant) {
    for (n, len) in [(1, 24), (2, 33), (3, 1419), (4, 1420)] {
        let sent = ours.send(&packet(n, len), now);
        let (_, there) = settle(ours, theirs, sent, now);
        assert_eq!(there.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [n], "ours to theirs, {len} bytes");
        let sent = theirs.send(&packet(n, len), now);
        let (_, here) = settle(theirs, ours, sent, now);
        assert_eq!(here.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [n], "theirs to ours, {len} bytes");
        assert_eq!(&here[0][..len], &packet(n, len)[..]);
    }
}

#[test]
fn we_begin_and_packets_flow_both_ways() {
    for (name, mut theirs) in others() {
        println!("{name}");
        let (mut ours, now) = (ours(), start());
        check_both_ways(&mut ours, &mut *theirs, now);
        assert_eq!(ours.wireguard.counters().handshakes_finished, 1, "{name}");
    }
}

#[test]
fn they_begin_and_packets_flow_both_ways() {
    for (name, mut theirs) in others() {
        let (mut ours, now) = (ours(), start());
        let sent = theirs.send(&packet(9, 100), now);
        let (_, here) = settle(&mut *theirs, &mut ours, sent, now);
        assert_eq!(here.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [9], "{name}: what they had queued");
        check_both_ways(&mut ours, &mut *theirs, now);
        assert_eq!(ours.wireguard.counters().initiations_answered, 1, "{name}");
    }
}

#[test]
fn keys_change_under_way_and_nothing_is_lost() {
    for (name, mut theirs) in rekeyed_at_will() {
        let (mut ours, mut now) = (ours(), start());
        check_both_ways(&mut ours, &mut *theirs, now);
        for round in 0..4 {
            // Sealed before the keys change, delivered after: old keys still open.
            now += Duration::from_secs(10);
            let late = ours.send(&packet(100 + round, 60), now);
            let theirs_late = theirs.send(&packet(200 + round, 60), now);
            let initiation = if round % 2 == 0 { ours.rekey(now) } else { theirs.rekey(now) };
            now += Duration::from_secs(7);
            if round % 2 == 0 {
                settle(&mut ours, &mut *theirs, initiation, now);
            } else {
                settle(&mut *theirs, &mut ours, initiation, now);
            }
            let (_, there) = settle(&mut ours, &mut *theirs, late, now);
            assert_eq!(there.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [100 + round], "{name}");
            let (_, here) = settle(&mut *theirs, &mut ours, theirs_late, now);
            assert_eq!(here.iter().map(|packet| number(packet)).collect::<Vec<_>>(), [200 + round], "{name}");
            check_both_ways(&mut ours, &mut *theirs, now);
        }
        let counters = ours.wireguard.counters();
        assert_eq!((counters.handshakes_finished, counters.initiations_answered), (3, 2), "{name}");
    }
}

#[test]
fn what_arrives_late_or_not_at_all_does_not_stop_the_rest() {
    for (name, mut theirs) in others() {
        let (mut ours, now) = (ours(), start());
        check_both_ways(&mut ours, &mut *theirs, now);
        let mut outbound: Vec<_> = (0..300).flat_map(|n| ours.send(&packet(n, 64), now)).collect();
        let mut inbound: Vec<_> = (0..300).flat_map(|n| theirs.send(&packet(n, 64), now)).collect();
        for datagrams in [&mut outbound, &mut inbound] {
            // Not further than the smallest window of these implementations, which holds 128.
            datagrams.chunks_mut(60).for_each(<[_]>::reverse);
            let mut place = 0;
            datagrams.retain(|_| {
                place += 1;
                place % 3 != 0
            });
            let again = datagrams[..50].to_vec();
            datagrams.extend(again);
        }
        let (_, there) = settle(&mut ours, &mut *theirs, outbound, now);
        let (_, here) = settle(&mut *theirs, &mut ours, inbound, now);
        assert_eq!((there.len(), here.len()), (200, 200), "{name}: two thirds arrive, once each");
    }
}

#[test]
fn a_preshared_key_counts_from_the_next_handshake() {
    let psk = [7; 32];
    for (name, mut theirs) in [
        ("boringtun", Box::new(Boringtun::new(THEIRS, public(), Some(psk))) as Box<dyn End>),
        ("gotatun", Box::new(Gotatun::new(THEIRS, public(), Some(psk)))),
        ("ts_tunnel", Box::new(official(Some(psk)))),
    ] {
        let (mut ours, now) = (ours(), start());
        let sent = ours.send(&packet(1, 64), now);
        let (_, there) = settle(&mut ours, &mut *theirs, sent, now);
        assert!(there.is_empty(), "{name}: without the key");
        assert_eq!(ours.wireguard.counters().forged, 1, "{name}");
        let peer = ours.peer;
        assert!(ours.wireguard.set_psk(&peer, warren_wireguard::Psk::new(psk)));
        let later = now + Duration::from_secs(6);
        let retry = ours.pass(later).into_iter().map(|(_, bytes)| bytes).collect();
        let (_, there) = settle(&mut ours, &mut *theirs, retry, later);
        assert_eq!(there.len(), 1, "{name}: what was staged arrives");
        check_both_ways(&mut ours, &mut *theirs, later);
    }
}

#[test]
fn an_hour_with_the_official_tunnel_changes_keys_from_either_side_and_loses_nothing() {
    for we_begin in [true, false] {
        let (mut ours, mut theirs, mut now) = (ours(), official(None), start());
        let first = if we_begin { ours.send(&packet(0, 64), now) } else { theirs.send(&packet(0, 64), now) };
        if we_begin {
            settle(&mut ours, &mut theirs, first, now);
        } else {
            settle(&mut theirs, &mut ours, first, now);
        }
        let (mut there, mut here) = (0, 0);
        for second in 1..=3600u32 {
            now += Duration::from_secs(1);
            let due = ours.pass(now).into_iter().map(|(_, bytes)| bytes).collect();
            settle(&mut ours, &mut theirs, due, now);
            let due = theirs.pass(now);
            settle(&mut theirs, &mut ours, due, now);
            if second % 3 == 0 {
                let sent = ours.send(&packet(second, 64), now);
                there += settle(&mut ours, &mut theirs, sent, now).1.len();
                let sent = theirs.send(&packet(second, 64), now);
                here += settle(&mut theirs, &mut ours, sent, now).1.len();
            }
        }
        assert_eq!((there, here), (1200, 1200), "we begin: {we_begin}");
        let counters = ours.wireguard.counters();
        let handshakes = counters.handshakes_finished + counters.initiations_answered;
        assert!((25..=40).contains(&handshakes), "{handshakes} handshakes in an hour");
    }
}
