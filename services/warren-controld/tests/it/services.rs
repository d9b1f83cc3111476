//! Services over the wire: an operator makes one, a node says that it offers it and is asked which, a client finds it.

use warren_api::admin::{ChangeService, CreateService};
use warren_wire::netmap::NetMap;
use warren_wire::{Hostinfo, MapRequest};

use crate::asking::{path_of, question};
use crate::client::Machine;
use crate::world::start;

fn offering(machine: &Machine, hash: &str) -> MapRequest {
    let hostinfo =
        Hostinfo { services_hash: hash.to_owned(), hostname: machine.hostname.clone(), ..Hostinfo::default() };
    MapRequest { stream: true, hostinfo: Some(Box::new(hostinfo)), ..machine.map_request() }
}

#[tokio::test]
async fn a_node_is_asked_what_it_offers_and_clients_find_it_once_an_operator_approves() {
    let world = start().await;
    let wish = CreateService { name: "web".into(), ports: vec!["tcp:443".into()], ..CreateService::default() };
    let service = world.admin.create_service(&wish).await.expect("a new name");
    assert_eq!(
        (service.name.as_str(), &service.addrs[..]),
        ("svc:web", &["100.64.0.1", "fd7a:115c:a1e0::1"].map(String::from)[..])
    );
    let error = world.admin.create_service(&wish).await.expect_err("taken").to_string();
    assert_eq!(error, "service name \"web\" is taken");
    let key = world.join_key(true).await;
    let [viewer, host] = [Machine::new(&world, 1, "a").await, Machine::new(&world, 2, "h").await];
    viewer.join(&key).await;
    host.join(&key).await;
    let mut hosts = host.stream_with(offering(&host, "one")).await;
    let asked = question(&mut hosts).await;
    let payload = String::from_utf8(asked.payload).expect("text");
    assert!(asked.types == "c2n" && payload.starts_with("GET /vip-services HTTP/1.1\r\n"), "{payload}");
    let list = r#"{"VIPServices":[{"Name":"svc:web","Ports":["tcp:443"],"Active":true}],"ServicesHash":"one"}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{list}\n");
    assert_eq!(host.say(http::Method::POST, &path_of(&asked.url), answer.into_bytes()).await.0, 200);
    let mut maps = viewer.stream().await;
    maps.until("the host", |map| map.peers.len() == 1).await;
    // The answer is on its way through the writer: until the list shows it, there is nothing to approve it for.
    let found = loop {
        let found = world.admin.service("svc:web").await.expect("there").hosts;
        if found.iter().any(|host| host.offered) {
            break found;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((found.len(), found[0].name.as_str(), found[0].approved, found[0].answers), (1, "h", false, false));
    let shown = world.admin.approve_host("web", &found[0].node_id, true).await.expect("approved");
    assert!(shown.hosts[0].approved);
    let answers = |map: &NetMap| {
        let has = |prefix: &warren_ip::Prefix| prefix.to_string() == "100.64.0.1/32";
        map.peers.values().any(|peer| peer.short_name() == "h" && peer.routed().iter().any(has))
    };
    let map = maps.until("the service's address at its host", answers).await;
    assert!(map.dns.extra_records.iter().any(|record| record.name == "web.mesh.test" && record.value == "100.64.0.1"));
    let told = hosts.until("what to answer for", |map| map.self_node.cap_map.contains_key("service-host")).await;
    assert_eq!(told.self_node.cap_map["service-host"][0]["svc:web"][1], "fd7a:115c:a1e0::1");
    let change = ChangeService { comment: Some("ours".into()), ..ChangeService::default() };
    let changed = world.admin.change_service("svc:web", &change).await.expect("changed");
    assert_eq!((changed.comment.as_str(), &changed.ports[..]), ("ours", &["tcp:443".to_owned()][..]));
    // All of it outlives the server.
    drop((maps, hosts));
    let world = world.kill_and_start_again().await;
    let again = world.admin.services().await.expect("a list").remove(0);
    assert_eq!((again.addrs, again.comment.as_str()), (service.addrs, "ours"));
    assert!(again.hosts[0].approved);
    world.admin.delete_service("svc:web").await.expect("deleted");
    assert!(world.admin.services().await.expect("a list").is_empty());
}
