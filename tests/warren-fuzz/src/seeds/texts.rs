//! Texts: JSON of the control protocol, policies, words.

use warren_crypto::{DiscoPublic, LockPublic, MachinePublic, NodePublic};

use super::Seeds;

pub(super) fn add(seeds: &mut Seeds) {
    map(seeds);
    requests(seeds);
    policies(seeds);
    words(seeds);
}

fn node_key(byte: u8) -> String {
    NodePublic::from_bytes([byte; 32]).to_string()
}

fn node(id: u8) -> String {
    let (key, disco) = (node_key(id), DiscoPublic::from_bytes([id; 32]));
    format!(
        r#"{{"ID":{id},"StableID":"n{id}","Name":"n{id}.mesh.example.","User":1,"Key":"{key}","DiscoKey":"{disco}","Addresses":["100.64.0.{id}/32","fd7a::{id}/128"],"AllowedIPs":["100.64.0.{id}/32","fd7a::{id}/128"],"Endpoints":["192.0.2.{id}:41641"],"HomeDERP":900,"Cap":113,"Created":"2026-01-02T03:04:05Z","KeyExpiry":"0001-01-01T00:00:00Z","Online":true,"MachineAuthorized":true,"Hostinfo":{{"OS":"linux","Hostname":"n{id}"}},"CapMap":{{"https://tailscale.com/cap/file-sharing":null}}}}"#
    )
}

fn map(seeds: &mut Seeds) {
    let relays = r#"{"Regions":{"900":{"RegionID":900,"RegionCode":"own","RegionName":"Own","Nodes":[{"Name":"900a","RegionID":900,"HostName":"192.0.2.1","IPv4":"192.0.2.1","IPv6":"none","DERPPort":8080,"STUNPort":3478,"InsecureForTests":true}]}},"OmitDefaultRegions":true}"#;
    let dns = r#"{"Resolvers":[{"Addr":"192.0.2.53"}],"Routes":{"mesh.example.":[]},"Domains":["mesh.example"],"Proxied":true}"#;
    let filter = r#"{"base":[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]}"#;
    let first = format!(
        r#"{{"Node":{},"DERPMap":{relays},"Peers":[],"DNSConfig":{dns},"Domain":"mesh.example","PacketFilters":{filter},"ControlTime":"2026-01-02T03:04:05.5Z"}}"#,
        node(1)
    );
    let small = format!(r#"{{"Node":{},"Peers":[{}]}}"#, node(1), node(2));
    let patch = format!(
        r#"{{"PeersChangedPatch":[{{"NodeID":2,"DERPRegion":901,"Endpoints":["192.0.2.9:1"],"Key":"{}","Online":false}},{{"NodeID":9}}]}}"#,
        node_key(9)
    );
    seeds.put("map-responses", "first", first);
    seeds.put("map-responses", "patched", [&small, patch.as_str()].join("\n"));
    seeds.put("map-responses", "peer-comes", format!("{small}\n{{\"PeersChanged\":[{}]}}", node(3)));
    let go = [&small, r#"{"PeersRemoved":[2],"OnlineChange":{"2":true},"PeerSeenChange":{"2":false}}"#].join("\n");
    seeds.put("map-responses", "peer-goes", go);
    let said = [
        &small,
        r#"{"UserProfiles":[{"ID":1,"LoginName":"ann@example.com","DisplayName":"Ann"}],"Health":["ill"],"PacketFilters":{"*":null,"late":[]},"DERPMap":{"Regions":{"900":null}}}"#,
    ];
    seeds.put("map-responses", "profiles-and-health", said.join("\n"));
    seeds.put("map-responses", "alive-before-the-map", "{\"KeepAlive\":true}\n{\"Peers\":null}");
    seeds.put("map-responses", "nulls", r#"{"Node":null,"Peers":null,"PacketFilter":null,"Hostinfo":null}"#);
}

fn requests(seeds: &mut Seeds) {
    let machine = MachinePublic::from_bytes([3; 32]);
    let disco = DiscoPublic::from_bytes([2; 32]);
    let map = format!(
        r#"{{"Version":130,"Compress":"zstd","KeepAlive":true,"NodeKey":"{}","DiscoKey":"{disco}","Stream":true,"Hostinfo":{{"OS":"linux","Hostname":"n1","NetInfo":{{"PreferredDERP":900,"DERPLatency":{{"900-v4":0.01}},"MappingVariesByDestIP":false}},"RoutableIPs":["10.0.0.0/8"],"Services":[{{"Proto":"tcp","Port":22}}]}},"Endpoints":["192.0.2.1:41641","[2001:db8::1]:41641"],"EndpointTypes":[1,2]}}"#,
        node_key(1)
    );
    seeds.put_whole("map-request", map);
    seeds.put("map-request", "nulls", r#"{"Version":1,"Hostinfo":null,"Endpoints":null}"#);
    let register = format!(
        r#"{{"Version":130,"NodeKey":"{}","OldNodeKey":"{}","Auth":{{"AuthKey":"key"}},"Expiry":"2026-01-02T03:04:05Z","Followup":"","Hostinfo":{{"Hostname":"n1","RequestTags":["tag:web"]}},"Ephemeral":true,"NLKey":"{}"}}"#,
        node_key(1),
        NodePublic::ZERO,
        LockPublic::from_bytes([4; 32])
    );
    seeds.put_whole("register-request", register);
    seeds.put("register-request", "nulls", r#"{"Version":130,"Auth":null,"Hostinfo":null}"#);
    let answer = r#"{"User":{"ID":1,"DisplayName":"Ann"},"Login":{"ID":1,"Provider":"local","LoginName":"ann"},"NodeKeyExpired":false,"MachineAuthorized":true,"AuthURL":"","Error":""}"#;
    seeds.put_whole("register-response", answer);
    seeds.put(
        "register-response",
        "visit",
        r#"{"AuthURL":"http://192.0.2.1:8080/register/x","MachineAuthorized":false}"#,
    );
    seeds.put("server-keys", "keys", format!(r#"{{"legacyPublicKey":"{machine}","publicKey":"{machine}"}}"#));
    seeds.put("server-keys", "no-legacy", format!(r#"{{"legacyPublicKey":null,"publicKey":"{machine}"}}"#));
    seeds.put("server-keys", "may-it", format!(r#"{{"NodePublic":"{}","Source":"192.0.2.1"}}"#, node_key(1)));
    seeds.put("server-keys", "not-an-object", format!("[\"{machine}\"]"));
    seeds.put("server-keys", "wrong-kind", format!(r#"{{"publicKey":"{}","NodePublic":"{machine}"}}"#, node_key(1)));
}

fn policies(seeds: &mut Seeds) {
    seeds.put(
        "policy",
        "groups",
        r#"{
  // who is who
  "groups": {"group:admins": ["ann@example.com"],},
  "hosts": {"printer": "192.0.2.9", "lab": "10.0.0.0/8"},
  "tagOwners": {"tag:web": ["group:admins"]},
  "acls": [
    {"action": "accept", "src": ["group:admins"], "dst": ["*:*"]},
    {"action": "accept", "proto": "tcp", "src": ["autogroup:member"], "dst": ["tag:web:80,443", "printer:631"]},
    /* everybody their own */
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
  ],
}"#,
    );
    seeds.put("policy", "everyone", r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}"#);
    seeds.put("policy", "routes", r#"{"tagOwners":{"tag:web":[]},"autoApprovers":{"routes":{"10.0.0.0/8":["tag:web"]},"exitNode":["tag:web"]},"randomizeClientPort":true}"#);
    seeds.put("policy", "numbers", r#"{"acls":[{"action":"accept","proto":"47","src":["100.64.0.0/10","fd7a::/48"],"dst":["100.64.0.1:22-1,65536","[fd7a::1]:22"]}]}"#);
    seeds.put("policy", "empty", "{}");
    seeds.put("policy", "unknown-word", r#"{"grants":[],"acls":null,"Groups":{}}"#);
    seeds.put("policy", "nested", "[".repeat(1500));
    seeds.put(
        "filter-rules",
        "everything",
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#,
    );
    seeds.put("filter-rules", "ranges", r#"[{"SrcIPs":["100.64.0.1-100.64.0.9","fd7a::/48","cap:x"],"DstPorts":[{"IP":"100.64.0.1","Ports":{"First":22,"Last":22}}],"IPProto":[6,17,256]}]"#);
    seeds.put(
        "filter-rules",
        "grant",
        r#"[{"SrcIPs":["100.64.0.1"],"CapGrant":[{"Dsts":["100.64.0.2/32"],"CapMap":{"example.com/cap":[{"a":1}]}}]}]"#,
    );
    seeds.put("filter-rules", "obsolete", r#"[{"SrcIPs":["100.64.0.0"],"SrcBits":[10],"DstPorts":[{"IP":"*","Bits":null,"Ports":{"First":9,"Last":1}}]}]"#);
    seeds.put("filter-rules", "empty", "[]");
}

fn words(seeds: &mut Seeds) {
    for (file, text) in [
        ("v4", "10.0.0.0/8"),
        ("v6", "fd7a:115c:a1e0::/48"),
        ("host", "192.0.2.1/32"),
        ("all", "::/0"),
        ("host-bits", "10.0.0.1/8"),
        ("too-long", "10.0.0.0/33"),
        ("range", "10.0.0.3-10.0.1.9"),
        ("range6", "fd7a::3-fd7a::ffff:0"),
        ("zone", "fe80::1%eth0/64"),
    ] {
        seeds.put("prefixes", file, text);
    }
    seeds.put("keys", "machine", format!("\"{}\"", MachinePublic::from_bytes([0xab; 32])));
    seeds.put("keys", "node", format!("\"{}\"", node_key(1)));
    seeds.put("keys", "disco", format!("\"{}\"", DiscoPublic::from_bytes([2; 32])));
    seeds.put("keys", "lock", format!("\"{}\"", LockPublic::from_bytes([2; 32])));
    seeds.put("keys", "short", "\"nodekey:00\"");
    for (file, text) in [
        ("plain", "laptop-1"),
        ("spaces", "Ann's Laptop.local"),
        ("unicode", "Füße 🦔"),
        ("dashes", "---"),
        ("long", "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz"),
        ("escapes", "a\"b\\c\n"),
    ] {
        seeds.put("names", file, text);
    }
    for (file, text) in [
        ("utc", "2026-01-02T03:04:05Z"),
        ("fraction", "2026-01-02T03:04:05.123456789+01:30"),
        ("never", "0001-01-01T00:00:00Z"),
        ("leap", "2024-02-29T23:59:60Z"),
        ("last", "9999-12-31T23:59:59-23:59"),
    ] {
        seeds.put("dates", file, text);
    }
}
