//! A key that ends, ends then: no restart, outage or clock lengthens its life.

use std::time::Duration;

use warren_crypto::UnixTime;
use warren_node::BackendState;

use crate::rig::{NOON, Rig, map, map_with, success};

const HOUR: Duration = Duration::from_secs(3600);
/// One hour after the control server's time in the rig's map.
const IN_AN_HOUR: &str = r#","KeyExpiry":"2026-09-21T15:13:20Z""#;

fn joined_with(self_extra: &str, peer_extra: &str) -> Rig {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&map_with(self_extra, peer_extra)));
    rig
}

#[test]
fn the_rigs_noon_is_the_servers_time() {
    assert_eq!(UnixTime::parse_rfc3339("2026-09-21T14:13:20Z").unwrap(), NOON);
}

#[test]
fn a_peer_is_cut_at_the_second_of_its_expiry() {
    let mut rig = joined_with("", IN_AN_HOUR);
    rig.pass(HOUR - Duration::from_secs(1));
    assert!(rig.reaches("100.64.0.2"));
    rig.pass(Duration::from_secs(1));
    assert!(!rig.reaches("100.64.0.2"));
    assert!(rig.node.status(rig.now, rig.wall).peers[0].is_expired);
}

#[test]
fn our_own_end_cuts_everyone_and_asks_for_a_login() {
    let mut rig = joined_with(IN_AN_HOUR, "");
    assert!(rig.node.health(rig.now, rig.wall).iter().any(|item| item.code == "key-expires-soon"));
    rig.pass(HOUR);
    assert_eq!(rig.state(), BackendState::NeedsLogin);
    assert!(!rig.reaches("100.64.0.2"));
}

#[test]
fn a_clock_a_day_ahead_at_a_start_costs_neither_key_nor_login() {
    let mut rig = joined_with(IN_AN_HOUR, "");
    rig.asked();
    let key = rig.node.node_secret().public();
    let mut rig = rig.restarted_at(NOON.saturating_add(HOUR * 24));
    assert_eq!(rig.state(), BackendState::NeedsLogin, "as far as it knows, its key has ended");
    let (id, request) = rig.asked().register.expect("a registration");
    assert_eq!(request.node_key, key, "the server knows better whether it has");
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.expect("a poll");
    rig.say(stream, map(&map_with(IN_AN_HOUR, "")));
    assert_eq!(rig.state(), BackendState::Running);
    assert!(rig.reaches("100.64.0.2"));
}

#[test]
fn neither_an_outage_nor_restarts_nor_a_clock_set_back_lengthen_a_life() {
    let mut rig = joined_with(IN_AN_HOUR, "");
    rig.asked();
    // The control server is gone from here on. Half an hour later the node is killed and started with the clock a day back.
    rig.pass(HOUR / 2);
    let mut rig = rig.restarted_at(NOON.saturating_sub(HOUR * 24));
    assert!(rig.reaches("100.64.0.2"), "the cached map is in use");
    rig.pass(HOUR / 2 + Duration::from_secs(601));
    assert!(!rig.reaches("100.64.0.2"), "late by no more than the time between two checkpoints");
    assert_eq!(rig.state(), BackendState::NeedsLogin);
    let rig = rig.restarted_at(NOON.saturating_sub(HOUR * 24));
    assert!(!rig.reaches("100.64.0.2"));
}

#[test]
fn a_clock_that_is_wrong_by_a_day_changes_nothing_once_the_server_has_spoken() {
    for wrong in [NOON.saturating_sub(HOUR * 24), NOON.saturating_add(HOUR * 24)] {
        let mut rig = Rig::new();
        rig.wall = wrong;
        let (id, _) = rig.up_with_key();
        rig.say(id, success());
        let (stream, _) = rig.asked().stream.unwrap();
        rig.say(stream, map(&map_with("", IN_AN_HOUR)));
        assert!(rig.reaches("100.64.0.2"));
        assert!(rig.node.health(rig.now, rig.wall).iter().any(|item| item.code == "clock-skew"));
        rig.pass(HOUR - Duration::from_secs(1));
        assert!(rig.reaches("100.64.0.2"));
        rig.pass(Duration::from_secs(1));
        assert!(!rig.reaches("100.64.0.2"));
    }
}

#[test]
fn an_expiry_that_the_server_lifts_lets_the_node_back_in() {
    let mut rig = Rig::new();
    let (id, _) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    rig.say(stream, map(&map_with(r#","Expired":true"#, "")));
    assert_eq!(rig.state(), BackendState::NeedsLogin);
    rig.say(stream, map(&map_with("", "")));
    assert_eq!(rig.state(), BackendState::Running);
}
