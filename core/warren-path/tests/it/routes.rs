//! By which relay a peer is reached: its home, or the one by which it has just spoken.

use std::time::Instant;

use warren_crypto::{DiscoSecret, NodePublic, Random};
use warren_path::{Event, Hop, Paths, PathsConfig, PeerConfig};
use warren_wire::RegionId;

const OURS: RegionId = RegionId(1);
const ITS_HOME: RegionId = RegionId(2);

/// We are connected to our home only, and the peer, whose home is another, has spoken by ours.
fn spoken_to() -> (Paths, NodePublic, Instant) {
    let now = warren_simnet::beginning();
    let (node, peer) = (NodePublic::from_bytes([1; 32]), NodePublic::from_bytes([2; 32]));
    let config = PathsConfig { node, disco: DiscoSecret::from_seed([3; 32]), random: Random::from_seed([4; 32]) };
    let mut paths = Paths::new(config, now);
    let described =
        PeerConfig { key: peer, disco: None, home: Some(ITS_HOME), endpoints: Vec::new(), mapping_varies: None };
    paths.set_peers(vec![described], now);
    paths.relay_state(OURS, true, now);
    paths.heard_from(&peer, Hop::Relay { region: OURS, peer }, now);
    assert_eq!(region(&mut paths, &peer, now), OURS);
    (paths, peer, now)
}

fn region(paths: &mut Paths, peer: &NodePublic, now: Instant) -> RegionId {
    match paths.hops_for(peer, now).expect("a way").first {
        Hop::Relay { region, .. } => region,
        direct @ Hop::Direct { .. } => panic!("{direct:?}"),
    }
}

#[test]
fn a_peer_that_left_our_relay_is_sent_to_by_its_home() {
    let (mut paths, peer, now) = spoken_to();
    paths.relay_peer_gone(OURS, &peer, now);
    assert_eq!(region(&mut paths, &peer, now), ITS_HOME);
}

#[test]
fn a_connection_that_was_lost_says_nothing_about_who_is_behind_the_next() {
    let (mut paths, peer, now) = spoken_to();
    paths.relay_state(OURS, false, now);
    paths.relay_state(OURS, true, now);
    assert_eq!(region(&mut paths, &peer, now), ITS_HOME);
}

#[test]
fn while_a_peer_is_answered_by_our_relay_its_home_is_wanted_too() {
    let (mut paths, peer, now) = spoken_to();
    region(&mut paths, &peer, now);
    let events: Vec<Event> = std::iter::from_fn(|| paths.poll_event()).collect();
    assert!(events.contains(&Event::WantRelay { region: ITS_HOME }), "{events:?}");
    paths.relay_state(ITS_HOME, true, now);
    assert_eq!(region(&mut paths, &peer, now), ITS_HOME);
}
