//! A server that is broken or means harm: no panic, and the last good map stays.

use proptest::prelude::*;
use proptest::sample::select;
use warren_node::ControlEvent;
use warren_wire::MapResponse;

use crate::rig::{Rig, answer, first_map, map, success};

#[test]
fn a_stream_that_does_not_begin_with_who_we_are_changes_nothing() {
    let mut rig = Rig::joined().restarted();
    let stream = rig.back();
    rig.say(stream, map(r#"{"Peers":[{"ID":9}],"PacketFilters":{"*":null}}"#));
    assert!(rig.reaches("100.64.0.2"));
    assert!(rig.asked().closed);
}

#[test]
fn a_peer_with_our_own_key_or_with_none_is_not_spoken_to() {
    let mut rig = Rig::new();
    let (id, request) = rig.up_with_key();
    rig.say(id, success());
    let (stream, _) = rig.asked().stream.unwrap();
    let text = first_map("").replace(&format!("nodekey:{}", "2b".repeat(32)), &request.node_key.to_string());
    rig.say(stream, map(&text));
    assert!(!rig.reaches("100.64.0.2"));
}

/// Values as a hostile server might put them anywhere.
fn odd_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    select(vec![
        json!(null),
        json!({}),
        json!([]),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(""),
        json!("\u{0}<&>"),
        json!("x".repeat(5000)),
        json!(["0.0.0.0/0", "::/0"]),
        json!([{"ID": 1}]),
        json!([{"ID": 2, "KeyExpiry": "9999-12-31T23:59:59Z"}]),
        json!([{"ID": 2, "KeyExpiry": "1970-01-01T00:00:00Z"}]),
        json!([{"NodeID": 2, "Endpoints": ["0.0.0.0:0", "255.255.255.255:65535"]}]),
        json!({"*": null}),
        json!({"base": null}),
        json!({"2": false}),
        json!({"Regions": {"0": {"RegionID": 0}, "4294967295": null}}),
        json!({"ID": 1}),
        json!({"ID": 1, "Addresses": ["0.0.0.0/0"], "MachineAuthorized": true}),
        json!("9999-12-31T23:59:59Z"),
        json!("1970-01-01T00:00:00Z"),
    ])
}

fn key() -> impl Strategy<Value = &'static str> {
    select(vec![
        "KeepAlive",
        "PingRequest",
        "PopBrowserURL",
        "Node",
        "DERPMap",
        "Peers",
        "PeersChanged",
        "PeersRemoved",
        "PeersChangedPatch",
        "PeerSeenChange",
        "OnlineChange",
        "DNSConfig",
        "Domain",
        "PacketFilter",
        "PacketFilters",
        "UserProfiles",
        "Health",
        "DisplayMessages",
        "SSHPolicy",
        "ControlTime",
        "TKAInfo",
        "Debug",
        "ControlDialPlan",
        "ClientVersion",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_map_response_is_survived(
        messages in prop::collection::vec(prop::collection::btree_map(key(), odd_value(), 0..4), 1..12),
        register in (".{0,20}", ".{0,20}", any::<bool>()),
    ) {
        let mut rig = Rig::joined().restarted();
        let stream = rig.back();
        rig.say(stream, map(&first_map("")));
        for message in messages {
            let object: serde_json::Map<_, _> = message.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            if let Ok(message) = serde_json::from_value::<MapResponse>(object.into()) {
                rig.say(stream, ControlEvent::Map(Box::new(message)));
                rig.node.status(rig.now, rig.wall);
            }
            rig.pass(std::time::Duration::from_millis(200));
        }
        let asked = rig.asked();
        if let Some((id, _)) = asked.register {
            rig.say(id, answer(|answer| {
                answer.error = register.0;
                answer.auth_url = register.1;
                answer.node_key_expired = register.2;
            }));
        }
        rig.pass(std::time::Duration::from_secs(40));
        rig.asked();
        let text = rig.disk.take().expect("written").to_file_text_with_secrets();
        prop_assert!(warren_node::NodeState::from_file_text(&text).is_ok());
    }

    #[test]
    fn any_state_file_is_read_or_refused(text in ".{0,300}") {
        prop_assert!(warren_node::NodeState::from_file_text(&text).is_err());
    }
}
