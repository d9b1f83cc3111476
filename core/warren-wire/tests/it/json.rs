//! Which keys are there, which may be null, and what a stranger may send.

use serde_json::{Value, json};
use warren_crypto::{NodePublic, UnixTime};
use warren_wire::{
    CapabilityVersion, Hostinfo, MapRequest, MapResponse, NetInfo, Node, NodeId, PeerChange, RegionId, RegisterRequest,
    RegisterResponse, RelayMap,
};

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[track_caller]
fn check<T: serde::Serialize>(value: &T, expect: &Value) {
    assert_eq!(serde_json::to_value(value).expect("serialisable"), *expect);
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect(text)
}

#[test]
fn an_empty_register_request_still_has_every_constant_key() {
    check(
        &RegisterRequest { version: CapabilityVersion::OUR_NODE, ..RegisterRequest::default() },
        &json!({
            "Version": 113,
            "NodeKey": format!("nodekey:{ZEROS}"),
            "OldNodeKey": format!("nodekey:{ZEROS}"),
            "NLKey": format!("nlpub:{ZEROS}"),
            "Expiry": "0001-01-01T00:00:00Z",
            "Followup": "",
            "Hostinfo": null,
            "NodeKeySignature": null,
        }),
    );
}

#[test]
fn a_register_response_has_all_seven_keys() {
    check(
        &RegisterResponse::default(),
        &json!({
            "User": {"ID": 0, "DisplayName": ""},
            "Login": {"ID": 0, "Provider": "", "LoginName": "", "DisplayName": ""},
            "NodeKeyExpired": false,
            "MachineAuthorized": false,
            "AuthURL": "",
            "NodeKeySignature": null,
            "Error": "",
        }),
    );
}

#[test]
fn a_keep_alive_is_the_eighteen_bytes_that_clients_remember() {
    assert_eq!(serde_json::to_string(&MapResponse::keep_alive()).unwrap(), r#"{"KeepAlive":true}"#);
}

#[test]
fn a_node_distinguishes_no_routes_from_routes_left_out() {
    let omitted: Node = read(r#"{"ID":1,"Addresses":["100.64.0.1/32"]}"#);
    let null: Node = read(r#"{"ID":1,"Addresses":["100.64.0.1/32"],"AllowedIPs":null}"#);
    let none: Node = read(r#"{"ID":1,"Addresses":["100.64.0.1/32"],"AllowedIPs":[]}"#);
    assert_eq!(omitted, null);
    assert_eq!(omitted.routed(), &omitted.addresses[..]);
    assert_eq!(none.routed(), &[]);
    assert!(serde_json::to_value(&omitted).unwrap().get("AllowedIPs").is_none());
    assert_eq!(serde_json::to_value(&none).unwrap()["AllowedIPs"], json!([]));
}

#[test]
fn zero_keys_and_times_of_year_one_mean_none() {
    let request: MapRequest = read(&format!(r#"{{"DiscoKey":"discokey:{ZEROS}","NodeKey":"nodekey:{ZEROS}"}}"#));
    assert_eq!(request.disco_key, None);
    let node: Node = read(r#"{"KeyExpiry":"0001-01-01T00:00:00Z","LastSeen":"2026-03-01T09:41:00Z"}"#);
    assert_eq!(node.key_expiry, None);
    assert!(node.last_seen.is_some());
}

#[test]
fn a_patch_can_clear_the_expiry_of_a_key() {
    let silent: PeerChange = read(r#"{"NodeID":3}"#);
    let clears: PeerChange = read(r#"{"NodeID":3,"KeyExpiry":"0001-01-01T00:00:00Z"}"#);
    assert_eq!((silent.key_expiry, clears.key_expiry), (None, Some(None)));
    check(&clears, &json!({"NodeID": 3, "KeyExpiry": "0001-01-01T00:00:00Z"}));
}

#[test]
fn null_reads_as_empty_everywhere() {
    let message: MapResponse = read(
        r#"{"Node":null,"Peers":null,"PeersChanged":null,"PeersRemoved":null,"PacketFilter":null,"PacketFilters":null,
            "DNSConfig":null,"Health":null,"DERPMap":null,"UserProfiles":null,"ControlTime":null,"SSHPolicy":null,
            "OnlineChange":null,"Domain":null,"KeepAlive":null,"Debug":null,"Seq":null}"#,
    );
    assert_eq!(message, MapResponse::default());
    let node: Node =
        read(r#"{"Name":null,"Tags":null,"CapMap":{"x":null},"Hostinfo":null,"Endpoints":null,"HomeDERP":null}"#);
    assert_eq!(node.cap_map["x"], Vec::<Value>::new());
}

#[test]
fn the_case_of_keys_does_not_matter_as_the_official_rust_client_expects() {
    let text =
        r#"{"Version":130,"HostInfo":{"Hostname":"a","NetInfo":{"PreferredDerp":900,"DerpLatency":{"900-v4":0.1}}}}"#;
    let request: MapRequest = serde_json::from_str(text).expect("a map request");
    let net = request.hostinfo.expect("host facts").net_info.expect("network facts");
    assert_eq!((net.preferred_derp, net.derp_latency.len()), (Some(RegionId(900)), 1));
}

#[test]
fn unknown_keys_are_skipped_whatever_they_hold() {
    let info: Hostinfo = read(r#"{"Hostname":"web","Novelty":{"a":[1,{"b":null}]},"Other":"x"}"#);
    check(&info, &json!({"Hostname": "web"}));
}

#[test]
fn a_list_that_is_empty_is_never_written_as_null() {
    let message: MapResponse = read(r#"{"DNSConfig":{"Routes":{"64.100.in-addr.arpa":null}},"Node":{}}"#);
    let value = serde_json::to_value(&message).unwrap();
    assert_eq!(value["DNSConfig"]["Routes"]["64.100.in-addr.arpa"], json!([]));
    assert_eq!(value["Node"]["Addresses"], json!([]));
}

#[test]
fn maps_keyed_by_number_have_decimal_string_keys() {
    let message: MapResponse =
        read(r#"{"OnlineChange":{"12":true},"DERPMap":{"Regions":{"900":{"RegionID":900},"7":null}}}"#);
    assert!(message.online_change[&NodeId(12)]);
    let mut relays = RelayMap::default();
    relays.merge(message.derp_map.unwrap());
    assert_eq!(relays.regions.keys().copied().collect::<Vec<_>>(), [RegionId(900)], "a null region is dropped");
    check(&relays, &json!({"Regions": {"900": {"RegionID": 900, "RegionCode": "", "RegionName": "", "Nodes": []}}}));
}

#[test]
fn ampersands_and_umlauts_are_written_without_escapes() {
    let info = Hostinfo { os: "A&B <ü>".into(), ..Hostinfo::default() };
    assert_eq!(serde_json::to_string(&info).unwrap(), r#"{"OS":"A&B <ü>"}"#);
}

#[test]
fn opt_bools_keep_their_third_state() {
    let info: NetInfo =
        read(r#"{"WorkingUDP":false,"WorkingIPv6":null,"PreferredDERP":0,"DERPLatency":{"900-v4":0.02}}"#);
    assert_eq!((info.working_udp, info.working_ipv6, info.preferred_derp), (Some(false), None, None));
    check(&info, &json!({"WorkingUDP": false, "DERPLatency": {"900-v4": 0.02}}));
}

#[test]
fn an_auth_key_goes_over_the_wire_and_not_into_a_log() {
    let request: RegisterRequest = read(r#"{"Auth":{"AuthKey":"secret-123"}}"#);
    assert!(!format!("{request:?}").contains("secret-123"));
    assert_eq!(serde_json::to_value(&request).unwrap()["Auth"]["AuthKey"], "secret-123");
}

#[test]
fn a_key_of_another_kind_is_refused() {
    assert!(serde_json::from_str::<Node>(&format!(r#"{{"Key":"mkey:{ZEROS}"}}"#)).is_err());
    assert!(serde_json::from_str::<Node>(r#"{"Key":"nodekey:12"}"#).is_err());
}

#[test]
fn a_full_node_survives_the_wire() {
    let text = format!(
        r#"{{"ID":3,"StableID":"3","Name":"gw.tail.example.","User":2147455555,"Key":"nodekey:{key}","Machine":"mkey:{key}",
            "KeyExpiry":"2027-01-02T03:04:05.678Z","KeySignature":"AQID","DiscoKey":"discokey:{key}",
            "Addresses":["100.64.0.3/32","fd7a:115c:a1e0::3/128"],"AllowedIPs":["10.20.0.0/16"],
            "Endpoints":["198.51.100.77:41641","[2001:db8::7]:41641"],"HomeDERP":900,
            "Hostinfo":{{"OS":"linux","Services":[{{"Proto":"peerapi4","Port":42001}}]}},"Cap":138,"Tags":["tag:router"],
            "Online":true,"CapMap":{{"default-auto-update":[false],"x":[]}}}}"#,
        key = "1f".repeat(32),
    );
    let node: Node = read(&text);
    assert_eq!(node.key, NodePublic::from_bytes([0x1f; 32]));
    assert_eq!(node.key_signature, [1, 2, 3]);
    assert!(node.key_expiry > Some(UnixTime::from_secs(1_798_000_000)));
    assert_eq!(read::<Node>(&serde_json::to_string(&node).unwrap()), node);
    assert_eq!((node.short_name(), node.full_name()), ("gw", "gw.tail.example"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = serde_json::from_slice::<MapResponse>(&bytes);
        let _ = serde_json::from_slice::<RegisterRequest>(&bytes);
    }
}
