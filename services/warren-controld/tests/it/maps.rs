//! What nodes are told, and when.

use http::StatusCode;
use warren_api::admin::ExpireNode;
use warren_crypto::NodeSecret;
use warren_wire::netmap::NetMap;
use warren_wire::{Endpoint, EndpointKind, MapRequest};

use crate::client::{Machine, peers};
use crate::world::{World, start};

async fn two(world: &World) -> (Machine, Machine) {
    let key = world.join_key(true).await;
    let (a, b) = (Machine::new(world, 1, "a").await, Machine::new(world, 2, "b").await);
    a.join(&key).await;
    b.join(&key).await;
    (a, b)
}

#[tokio::test]
async fn a_node_gets_its_map_and_a_second_node_appears_as_a_delta() {
    let world = start().await;
    let key = world.join_key(true).await;
    let a = Machine::new(&world, 1, "a").await;
    a.join(&key).await;
    let mut maps = a.stream().await;
    let map = maps.until("the first map", |_| true).await;
    assert_eq!(map.self_node.full_name(), "a.mesh.test");
    assert_eq!(map.self_node.addresses.len(), 2);
    assert!(peers(map).is_empty());
    assert_eq!(map.relay_map.regions.len(), 1);

    let b = Machine::new(&world, 2, "b").await;
    b.join(&key).await;
    let map = maps.until("b", |map| peers(map) == ["b"]).await;
    assert_eq!(map.peers.values().next().expect("b").key, b.node.public());
    assert!(maps.last.node.is_none() && maps.last.peers.is_empty(), "not a whole map: {:?}", maps.last);
    let _b_maps = b.stream().await;
    maps.until("b online", |map| map.peers.values().all(|peer| peer.online == Some(true))).await;
}

#[tokio::test]
async fn frames_are_compressed_for_those_who_ask() {
    let world = start().await;
    let (a, _) = two(&world).await;
    let packed = MapRequest { stream: true, compress: "zstd".into(), ..a.map_request() };
    let mut maps = a.stream_with(packed).await;
    assert_eq!(peers(maps.until("the first map", |_| true).await), ["b"]);
    let odd = MapRequest { stream: true, compress: "lzma".into(), ..a.map_request() };
    assert_eq!(a.post("/machine/map", &odd).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_update_is_answered_at_once_and_reaches_the_peers() {
    let world = start().await;
    let (a, b) = two(&world).await;
    let mut maps = a.stream().await;
    let mut update = MapRequest { omit_peers: true, ..b.map_request() };
    let endpoint = Endpoint { addr: "192.0.2.9:41641".parse().expect("an address"), kind: EndpointKind::STUN };
    update.set_endpoints(&[endpoint]);
    let (status, body) = b.post("/machine/map", &update).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    let map = maps.until("b's endpoint", |map| map.peers.values().any(|peer| peer.endpoints == [endpoint.addr])).await;
    assert_eq!(map.peers.values().next().expect("b").disco_key, update.disco_key);
}

#[tokio::test]
async fn a_request_without_stream_gets_one_whole_map() {
    let world = start().await;
    let (a, _) = two(&world).await;
    let mut maps = a.stream_with(a.map_request()).await;
    assert_eq!(peers(maps.until("a map", |_| true).await), ["b"]);
    assert!(maps.next().await.is_none());
}

#[tokio::test]
async fn a_policy_takes_peers_away_and_gives_them_back() {
    let world = start().await;
    let (a, _) = two(&world).await;
    let mut maps = a.stream().await;
    maps.until("b", |map| peers(map) == ["b"]).await;
    world.admin.set_policy(r#"{ "acls": [] }"#).await.expect("accepted");
    maps.until("nobody", |map| peers(map).is_empty() && map.filter_rules().is_empty()).await;
    let policy = r#"{
        // whoever is ann may reach all that is hers
        "acls": [{ "action": "accept", "src": ["ann@"], "dst": ["ann@:22"] }],
    }"#;
    world.admin.set_policy(policy).await.expect("accepted");
    let map = maps.until("b again", |map| peers(map) == ["b"] && !map.filter_rules().is_empty()).await;
    let ports = map.filter_rules()[0].dst_ports[0].ports;
    assert_eq!((ports.first, ports.last), (22, 22));
    assert_eq!(world.admin.policy().await.expect("one").policy, policy);
}

#[tokio::test]
async fn a_node_that_is_deleted_sees_its_stream_end_and_its_peers_forget_it() {
    let world = start().await;
    let (a, b) = two(&world).await;
    let (mut of_a, mut of_b) = (a.stream().await, b.stream().await);
    of_a.until("b", |map| peers(map) == ["b"]).await;
    of_b.until("a", |map| peers(map) == ["a"]).await;
    let id = of_b.map.as_ref().expect("seen").self_node.id.to_string();
    world.admin.delete_node(&id).await.expect("gone");
    of_a.until("nobody", |map| peers(map).is_empty()).await;
    while of_b.next().await.is_some() {}
    let again = MapRequest { stream: true, ..b.map_request() };
    assert_eq!(b.post("/machine/map", &again).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_whose_key_has_expired_is_told_of_itself_alone_until_it_logs_in_again() {
    let world = start().await;
    let (a, mut b) = two(&world).await;
    let (mut of_a, mut of_b) = (a.stream().await, b.stream().await);
    of_b.until("a", |map| peers(map) == ["a"] && !map.filter_rules().is_empty()).await;
    let id = of_b.map.as_ref().expect("seen").self_node.id.to_string();
    world.admin.expire_node(&id, &ExpireNode::default()).await.expect("expired");
    let is_alone = |map: &NetMap| map.peers.is_empty() && map.filter_rules().is_empty() && map.dns.domains.is_empty();
    of_b.until("itself alone", |map| map.self_node.expired && is_alone(map)).await;
    of_a.until("b expired", |map| map.peers.values().all(|peer| peer.expired)).await;
    // Nor does it help to ask anew.
    let mut map = b.stream().await;
    map.until("a map", |_| true).await;
    assert!(map.map.as_ref().is_some_and(is_alone) && map.last.peers.is_empty());

    let key = world.join_key(true).await;
    b.node = NodeSecret::from_seed([99; 32]);
    b.join(&key).await;
    let mut of_b = b.stream().await;
    of_b.until("a", |map| peers(map) == ["a"] && !map.filter_rules().is_empty() && !map.self_node.expired).await;
    of_a.until("b again", |map| map.peers.values().all(|peer| !peer.expired && peer.key == b.node.public())).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_and_catches_up() {
    let world = start().await;
    let (a, b) = two(&world).await;
    let (mut lazy, mut keen) = (a.stream().await, b.stream().await);
    let id = world.admin.nodes(None).await.expect("a list")[0].id.clone();
    for round in 0..40 {
        let name = format!("a{round}");
        world.admin.rename_node(&id, &name).await.expect("renamed");
        keen.until(&name, |map| peers(map) == [name.as_str()]).await;
    }
    lazy.until("the last name", |map| map.self_node.full_name() == "a39.mesh.test").await;
}

#[tokio::test]
async fn what_is_not_built_says_so_inside_the_channel() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    for (path, expect) in [
        ("/machine/whoami", StatusCode::OK),
        // They speak for a node that this machine does not have.
        ("/machine/update-health", StatusCode::NOT_FOUND),
        ("/machine/set-dns", StatusCode::NOT_FOUND),
        ("/machine/id-token", StatusCode::NOT_FOUND),
        ("/machine/audit-log", StatusCode::NOT_FOUND),
        ("/machine/c2n/0123", StatusCode::NOT_FOUND),
        ("/machine/tka/init/begin", StatusCode::NOT_FOUND),
        ("/key", StatusCode::NOT_FOUND),
        ("/api/v1/node", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(machine.post(path, &serde_json::json!({})).await.0, expect, "{path}");
    }
    for path in ["/machine/register", "/machine/map"] {
        assert_eq!(machine.post(path, &"nonsense").await.0, StatusCode::BAD_REQUEST, "{path}");
        let long = "x".repeat((1 << 20) + 1);
        assert_eq!(machine.post(path, &long).await.0, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        assert_eq!(machine.ask(http::Method::GET, path, &()).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}
