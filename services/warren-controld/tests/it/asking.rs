//! The server asks nodes, follows its files, and moves networks from a silent router to the next.

use bytes::Bytes;
use http::{Method, StatusCode};
use warren_api::admin::AskNode;
use warren_controld::Overrides;
use warren_io::listener::Caps;
use warren_ip::Prefix;
use warren_wire::{Hostinfo, MapRequest};

use crate::client::{Machine, Maps};
use crate::doors::request;
use crate::world::{PATIENCE, World, audit, start, start_with};

/// The path and query of a link of the server's.
pub fn path_of(url: &str) -> String {
    let url = url::Url::parse(url).expect("a URL");
    url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// Reads on until the server asks something.
pub async fn question(maps: &mut Maps) -> warren_wire::PingRequest {
    let asked = async {
        loop {
            let message = maps.next().await.expect("the stream goes on");
            if let Some(question) = message.ping_request.clone() {
                return question;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("in time")
}

async fn only_node(world: &World) -> String {
    world.admin.nodes(None).await.expect("a list").remove(0).id
}

#[tokio::test]
async fn a_node_gives_a_sign_of_life_when_it_is_asked_for_one() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    let id = only_node(&world).await;
    let error = world.admin.ping_node(&id).await.expect_err("nobody there").to_string();
    assert_eq!(error, "the node is not connected");
    let mut maps = machine.stream().await;
    maps.next().await.expect("the map");
    let (sign, ()) = tokio::join!(world.admin.ping_node(&id), async {
        let question = question(&mut maps).await;
        assert!(question.types.is_empty() && !question.url_is_noise);
        let path = path_of(&question.url);
        assert_eq!(request(&world, Method::HEAD, &path, Bytes::new()).await.0, 200);
        assert_eq!(request(&world, Method::HEAD, &path, Bytes::new()).await.0, 404, "once");
    });
    assert!(sign.expect("alive").seconds < PATIENCE.as_secs_f64());
    for (path, status) in [("/machine/ping-response", 400), ("/machine/ping-response?id=0123", 404)] {
        assert_eq!(request(&world, Method::HEAD, path, Bytes::new()).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_node_answers_for_itself_in_its_channel_and_no_other_machine_does() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    let other = Machine::new(&world, 2, "b").await;
    let id = only_node(&world).await;
    let mut maps = machine.stream().await;
    maps.next().await.expect("the map");
    let ask = AskNode { path: "/debug/health".into(), ..AskNode::default() };
    let (said, ()) = tokio::join!(world.admin.ask_node(&id, &ask), async {
        let question = question(&mut maps).await;
        assert_eq!((question.types.as_str(), question.url_is_noise), ("c2n", true));
        let payload = String::from_utf8(question.payload).expect("text");
        assert!(payload.starts_with("GET /debug/health HTTP/1.1\r\n"), "{payload}");
        let path = path_of(&question.url);
        assert_eq!(other.post(&path, &"forged").await.0, StatusCode::NOT_FOUND);
        assert_eq!(machine.post(&path, &"fine").await.0, StatusCode::OK);
    });
    assert_eq!(said.expect("an answer").answer, "\"fine\"");
    let odd = AskNode { path: "/x HTTP/1.1\r\nHost: y".into(), ..AskNode::default() };
    assert!(world.admin.ask_node(&id, &odd).await.is_err(), "a path cannot smuggle a header in");
    let lines = audit(world).await;
    let asked: Vec<&str> = lines.iter().filter(|line| line.action == "ask_node").map(|l| l.detail.as_str()).collect();
    assert_eq!(asked, ["GET /debug/health"]);
}

fn announcing(machine: &Machine, network: &str) -> MapRequest {
    let network: Prefix = network.parse().expect("a prefix");
    let hostinfo = Hostinfo { routable_ips: vec![network], hostname: machine.hostname.clone(), ..Hostinfo::default() };
    MapRequest { stream: true, hostinfo: Some(Box::new(hostinfo)), ..machine.map_request() }
}

#[tokio::test]
async fn a_router_that_falls_silent_is_replaced_while_its_stream_still_looks_open() {
    let said = Overrides {
        ha_probe_interval: Some("1s".to_owned()),
        ha_probe_timeout: Some("1s".to_owned()),
        ..Overrides::default()
    };
    let world = start_with(said, Caps::default()).await;
    let ann = warren_api::admin::CreateUser { name: "ann".into(), ..Default::default() };
    world.admin.create_user(&ann).await.expect("a new name");
    let key = world.join_key(true).await;
    let [viewer, first, second] =
        [Machine::new(&world, 1, "a").await, Machine::new(&world, 2, "r1").await, Machine::new(&world, 3, "r2").await];
    let mut routers = Vec::new();
    for router in [&first, &second] {
        router.join(&key).await;
        let maps = router.stream_with(announcing(router, "10.50.0.0/24")).await;
        routers.push(maps);
        let id = world.admin.nodes(None).await.expect("a list").pop().expect("one").id;
        world.admin.approve_routes(&id, &["10.50.0.0/24".to_owned()]).await.expect("approved");
    }
    viewer.join(&key).await;
    let mut maps = viewer.stream().await;
    let serves = |map: &warren_wire::netmap::NetMap, name: &str| {
        map.peers.values().any(|peer| peer.short_name() == name && !peer.primary_routes.is_empty())
    };
    maps.until("the first router", |map| serves(map, "r1") && !serves(map, "r2")).await;
    // The first says nothing more; the second answers whatever it is asked.
    let mut answering = routers.pop().expect("two");
    let answers = async {
        loop {
            let question = question(&mut answering).await;
            request(&world, Method::HEAD, &path_of(&question.url), Bytes::new()).await;
        }
    };
    tokio::select! {
        _ = maps.until("the second router", |map| serves(map, "r2") && !serves(map, "r1")) => {}
        () = answers => {}
    }
    let serving: Vec<_> =
        world.admin.nodes(None).await.expect("a list").into_iter().map(|node| node.subnet_routes).collect();
    assert_eq!(serving, [vec![], vec!["10.50.0.0/24".to_owned()], vec![]]);
}

#[tokio::test]
async fn the_file_of_extra_names_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("names.json");
    let write = |text: &str| std::fs::write(&file, text).expect("writable");
    write(r#"[{"name":"a.mesh.test","type":"A","value":"100.64.0.9"}]"#);
    let said = Overrides { dns_extra_records_file: Some(file.clone()), ..Overrides::default() };
    let world = start_with(said, Caps::default()).await;
    let ann = warren_api::admin::CreateUser { name: "ann".into(), ..Default::default() };
    world.admin.create_user(&ann).await.expect("a new name");
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    let mut maps = machine.stream().await;
    let values = |map: &warren_wire::netmap::NetMap| {
        map.dns.extra_records.iter().map(|record| record.value.clone()).collect::<Vec<_>>()
    };
    maps.until("the first name", |map| values(map) == ["100.64.0.9"]).await;
    write(r#"[{"name":"a.mesh.test","type":"A","value":"100.64.0.10"}]"#);
    maps.until("the second name", |map| values(map) == ["100.64.0.10"]).await;
}
