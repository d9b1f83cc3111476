//! What single messages mean, one row of the protocol's table each.

use warren_crypto::{NodePublic, UnixTime};
use warren_wire::netmap::{FoldError, NetMap, fold};
use warren_wire::{MapResponse, NodeId, RegionId};

const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

/// A map with self 1 and the offline peer 2, folded from JSON, then each message in turn.
fn after(messages: &[&str]) -> NetMap {
    let first = r#"{"Node":{"ID":1,"Name":"me.tail.example.","Addresses":["100.64.0.1/32"]},
        "Peers":[{"ID":2,"Name":"p.tail.example.","Addresses":["100.64.0.2/32"],"DERP":"127.3.3.40:900","Online":false,
                  "LastSeen":"2026-01-01T00:00:00Z","Capabilities":["old-cap"],"KeyExpiry":"2030-01-01T00:00:00Z"}],
        "PacketFilters":{"base":[{"SrcIPs":["*"]}]},"Health":["hot"],"Domain":"example"}"#;
    let mut map = None;
    for message in std::iter::once(&first).chain(messages) {
        fold(&mut map, serde_json::from_str(message).expect(message), NOW).expect(message);
    }
    map.expect("the first message has a node")
}

#[test]
fn a_stream_must_begin_with_who_we_are() {
    let mut map = None;
    let change = fold(&mut map, MapResponse::keep_alive(), NOW).expect("a sign of life may come first");
    assert!(change.keep_alive && map.is_none());
    let delta = serde_json::from_str(r#"{"PeersRemoved":[1]}"#).unwrap();
    assert_eq!(fold(&mut map, delta, NOW), Err(FoldError::FirstLacksNode));
    assert!(map.is_none());
}

#[test]
fn old_spellings_are_brought_into_the_present_one() {
    let map = after(&[]);
    let peer = &map.peers[&NodeId(2)];
    assert_eq!(peer.home_derp, Some(RegionId(900)));
    assert_eq!(peer.allowed_ips.as_deref(), Some(&peer.addresses[..]));
    assert!(peer.cap_map.contains_key("old-cap") && peer.capabilities.is_empty());
    assert_eq!(map.dns_suffix(), "tail.example");
}

#[test]
fn a_peer_without_signature_gets_no_more_than_its_addresses() {
    let map = after(&[
        r#"{"PeersChanged":[{"ID":3,"Addresses":["100.64.0.3/32"],"AllowedIPs":["0.0.0.0/0"],"UnsignedPeerAPIOnly":true}]}"#,
    ]);
    assert_eq!(map.peers[&NodeId(3)].routed(), &["100.64.0.3/32".parse().unwrap()]);
}

#[test]
fn an_empty_list_of_peers_changes_nothing_and_a_full_one_replaces_all() {
    assert_eq!(after(&[r#"{"Peers":[]}"#]).peers.len(), 1);
    let map = after(&[r#"{"Peers":[{"ID":7}],"PeersRemoved":[7],"OnlineChange":{"7":true}}"#]);
    assert_eq!(map.peers.keys().copied().collect::<Vec<_>>(), [NodeId(7)]);
    assert_eq!(map.peers[&NodeId(7)].online, None, "the rest of the message is ignored beside a full list");
}

#[test]
fn removal_comes_before_change_before_presence_before_patches() {
    let map = after(&[
        r#"{"PeersRemoved":[2],"PeersChanged":[{"ID":2,"Name":"new."}],"PeerSeenChange":{"2":true},"OnlineChange":{"2":false},
           "PeersChangedPatch":[{"NodeID":2,"Online":true,"DERPRegion":901}]}"#,
    ]);
    let peer = &map.peers[&NodeId(2)];
    assert_eq!((peer.name.as_str(), peer.online, peer.last_seen), ("new.", Some(true), Some(NOW)));
    assert_eq!(peer.home_derp, Some(RegionId(901)));
}

#[test]
fn a_patch_says_only_what_it_says() {
    let key = format!("nodekey:{}", "ab".repeat(32));
    let patch = format!(
        r#"{{"PeersChangedPatch":[{{"NodeID":2,"Key":"{key}","KeyExpiry":"0001-01-01T00:00:00Z"}},{{"NodeID":99}}]}}"#
    );
    let map = after(&[&patch]);
    let peer = &map.peers[&NodeId(2)];
    assert_eq!((peer.key, peer.key_expiry), (NodePublic::from_bytes([0xab; 32]), None));
    assert_eq!((peer.online, peer.home_derp), (Some(false), Some(RegionId(900))));
}

#[test]
fn self_is_never_a_peer_and_no_patch_touches_it() {
    let map = after(&[r#"{"PeersChanged":[{"ID":1,"Name":"evil."}],"PeersChangedPatch":[{"NodeID":1,"Cap":5}]}"#]);
    assert!(!map.peers.contains_key(&NodeId(1)));
    assert_eq!((map.self_node.name.as_str(), map.self_node.cap.0), ("me.tail.example.", 0));
}

#[test]
fn filter_chunks_are_named_and_a_star_clears_them() {
    let joined = after(&[r#"{"PacketFilters":{"a":[{"SrcIPs":["192.0.2.1"]}],"zero":[]}}"#]);
    assert_eq!(joined.filter_rules().len(), 2);
    assert_eq!(joined.filter_rules()[0].src_ips, ["192.0.2.1"], "joined in order of name");
    assert_eq!(after(&[r#"{"PacketFilters":{}}"#]).filter_rules().len(), 1);
    assert_eq!(after(&[r#"{"PacketFilters":{"base":null}}"#]).filter_rules().len(), 0);
    let cleared = after(&[r#"{"PacketFilters":{"*":null,"a":[{"SrcIPs":["192.0.2.1"]}]}}"#]);
    assert_eq!(cleared.filters.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(after(&[r#"{"PacketFilter":[]}"#]).filter_rules().len(), 0);
}

#[test]
fn health_and_domain_follow_their_rules() {
    assert_eq!(after(&[r#"{"Domain":""}"#]).domain, "example");
    assert_eq!(after(&[r#"{}"#]).health, ["hot"]);
    assert!(after(&[r#"{"Health":[]}"#]).health.is_empty());
    let messages = after(&[
        r#"{"DisplayMessages":{"a":{"Title":"A"},"b":{"Title":"B"}}}"#,
        r#"{"DisplayMessages":{"a":null}}"#,
        r#"{"DisplayMessages":{}}"#,
    ]);
    assert_eq!(messages.display_messages.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn relay_updates_keep_what_they_do_not_name() {
    let regions =
        r#"{"DERPMap":{"Regions":{"900":{"RegionID":900},"901":null},"HomeParams":{"RegionScore":{"900":0.5}}}}"#;
    let scored = after(&[regions, r#"{"DERPMap":{"HomeParams":{}}}"#]);
    assert_eq!(scored.relay_map.regions.len(), 1);
    assert_eq!(scored.relay_map.home_params.unwrap().region_score[&RegionId(900)], 0.5);
    let cleared = after(&[regions, r#"{"DERPMap":{"HomeParams":{"RegionScore":{}}}}"#]);
    assert!(cleared.relay_map.home_params.unwrap().region_score.is_empty());
    let replaced = after(&[regions, r#"{"DERPMap":{"Regions":{}}}"#]);
    assert!(replaced.relay_map.regions.is_empty());
}

#[test]
fn a_keep_alive_carries_pings_and_nothing_else() {
    let mut map = None;
    fold(&mut map, serde_json::from_str(r#"{"Node":{"ID":1}}"#).unwrap(), NOW).unwrap();
    let message = r#"{"KeepAlive":true,"PingRequest":{"URL":"https://c/ping"},"ControlTime":"2026-03-01T12:00:00Z","Domain":"no"}"#;
    let change = fold(&mut map, serde_json::from_str(message).unwrap(), NOW).unwrap();
    assert_eq!(change.effects.ping_request.unwrap().url, "https://c/ping");
    assert!(change.effects.control_time.is_some());
    assert_eq!(map.unwrap().domain, "");
}
