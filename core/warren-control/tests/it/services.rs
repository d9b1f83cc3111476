//! Services with addresses of their own: who hosts them, who finds them, what everybody is told.

use std::time::Duration;

use warren_control::rows::{Service, ServiceId};
use warren_control::{Answer, Offered, Refusal, ServiceChange, ServiceWish, What};
use warren_wire::{Hostinfo, MapRequest, NodeId, VipService, VipServices};

use crate::sessions::{Client, three, update};
use crate::world::*;

const V4: &str = "100.64.0.4/32";
const V6: &str = "fd7a:115c:a1e0::4/128";

fn create(world: &mut World, name: &str) -> Service {
    let wish = ServiceWish { ports: vec!["tcp:443".to_owned()], ..ServiceWish::default() };
    match world.ask(What::CreateService { name: name.to_owned(), wish }) {
        Ok(Answer::Service(service)) => Service::clone(&service),
        other => panic!("{other:?}"),
    }
}

fn saying(hash: &str) -> MapRequest {
    let mut request = update(2, "192.0.2.2:41641", Some(900));
    request.hostinfo = Some(Box::new(Hostinfo { services_hash: hash.to_owned(), ..Hostinfo::default() }));
    request
}

/// The node says that it offers these, and is asked which.
fn offer(world: &mut World, node: NodeId, names: &[&str]) {
    let hash = names.join("+");
    world.control.handle_stream_started(node, CHANNEL, world.now);
    world.control.handle_map_request(node, CHANNEL, &saying(&hash), world.now);
    world.pass(Duration::from_millis(100));
    let asked = std::iter::from_fn(|| world.control.poll_question()).collect::<Vec<_>>();
    assert_eq!(asked, if names.is_empty() { vec![] } else { vec![node] }, "only a list that is new is asked for");
    for _ in asked {
        let service = |name: &&str| VipService { name: (*name).to_owned(), active: true, ..VipService::default() };
        let answer = VipServices { vip_services: names.iter().map(service).collect(), services_hash: hash.clone() };
        world.control.handle_offered(node, Offered::from_answer(&answer), world.now);
    }
    world.pass(Duration::ZERO);
}

fn approve(world: &mut World, service: ServiceId, node: NodeId) {
    world.ask(What::ApproveHost { service, node, approved: true }).expect("granted");
}

/// What `viewer` sends to `peer` beside the peer's own addresses.
fn behind(viewer: &mut Client, world: &World, peer: NodeId) -> String {
    viewer.poll(world);
    let map = viewer.held.as_ref().expect("a map");
    let me = Some(&map.self_node).filter(|me| me.id == peer);
    let Some(peer) = me.or_else(|| map.peers.get(&peer)) else { return String::new() };
    assert!(peer.primary_routes.is_empty(), "an address of a service is no route");
    let own = |prefix: &&warren_ip::Prefix| !peer.addresses.contains(prefix);
    peer.routed().iter().filter(own).map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn both() -> String {
    format!("{V4} {V6}")
}

#[test]
fn a_service_is_found_once_a_node_offers_it_and_may() {
    let (mut world, [a, h, _]) = three();
    let service = create(&mut world, "svc:web");
    assert_eq!(service.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(), [V4, V6]);
    let (mut client, mut host) = (Client::of(&mut world, a), Client::of(&mut world, h));
    offer(&mut world, h, &["svc:web", "svc:unheard-of"]);
    assert_eq!(behind(&mut client, &world, h), "", "nobody has approved it");
    approve(&mut world, service.id, h);
    assert_eq!(behind(&mut client, &world, h), both());
    assert_eq!(behind(&mut host, &world, h), both(), "it is told of itself");
    let map = host.held.as_ref().expect("a map");
    let told = serde_json::to_string(&map.self_node.cap_map["service-host"]).expect("JSON");
    assert_eq!(told, r#"[{"svc:web":["100.64.0.4","fd7a:115c:a1e0::4"]}]"#);
    let map = client.held.as_ref().expect("a map");
    assert!(!map.self_node.cap_map.contains_key("service-host"));
    let told = serde_json::to_string(&map.self_node.cap_map["services/web"]).expect("JSON");
    let details = r#"[{"Addrs":["100.64.0.4","fd7a:115c:a1e0::4"],"Name":"svc:web","Ports":["tcp:443"]}]"#;
    assert_eq!(told, details);
    let names: Vec<_> = map.dns.extra_records.iter().map(|record| (&record.name[..], &record.value[..])).collect();
    assert_eq!(names, [("web.mesh.test", "100.64.0.4"), ("web.mesh.test", "fd7a:115c:a1e0::4")]);
    // As after a crash: what the node offered was soft, and it says the same hash again.
    let soft = world.control.take_soft();
    assert!(soft.iter().any(|row| row.node == h && row.offered.active().eq(["svc:unheard-of", "svc:web"])));
    offer(&mut world, h, &[]);
    assert_eq!(behind(&mut client, &world, h), "", "an empty hash takes it back at once");
    offer(&mut world, h, &["svc:web"]);
    assert_eq!(behind(&mut client, &world, h), both());
    world.ask(What::DeleteService { service: service.id }).expect("granted");
    assert_eq!((behind(&mut client, &world, h), behind(&mut host, &world, h)), (String::new(), String::new()));
    let map = client.held.as_ref().expect("a map");
    assert!(map.dns.extra_records.is_empty() && !map.self_node.cap_map.contains_key("services/web"));
    assert_eq!(create(&mut world, "db").addresses()[0].to_string(), V4, "its addresses are free again");
}

#[test]
fn another_host_answers_when_the_first_is_lost() {
    let (mut world, [a, first, second]) = three();
    let service = create(&mut world, "web");
    let mut client = Client::of(&mut world, a);
    for host in [first, second] {
        offer(&mut world, host, &["svc:web"]);
        approve(&mut world, service.id, host);
    }
    assert_eq!((behind(&mut client, &world, first), behind(&mut client, &world, second)), (both(), String::new()));
    let mut standing_by = Client::of(&mut world, second);
    assert_eq!(behind(&mut standing_by, &world, second), both(), "who stands by is ready");
    world.control.handle_stream_ended(first, CHANNEL, world.now, world.wall);
    world.control.handle_stream_ended(first, CHANNEL, world.now, world.wall); // `offer` begins one stream a call
    world.pass(Duration::from_secs(10));
    assert_eq!((behind(&mut client, &world, first), behind(&mut client, &world, second)), (String::new(), both()));
    world.ask(What::ApproveHost { service: service.id, node: second, approved: false }).expect("granted");
    assert_eq!(behind(&mut client, &world, second), "", "an operator's word counts at once");
    world.ask(What::DeleteNode { node: first }).expect("granted");
    assert!(world.control.registry().service(service.id).expect("there").approved.is_empty());
}

const POLICY: &str = r#"{
    "tagOwners": { "tag:web": ["ann@"] },
    "grants": [
        { "src": ["bob@"], "dst": ["svc:web"], "ip": ["tcp:443"] },
        { "src": ["ann@"], "dst": ["tag:web"], "ip": ["tcp:22"] },
    ],
    "autoApprovers": { "services": { "svc:web": ["tag:web"] } },
}"#;

#[test]
fn the_policy_approves_hosts_and_says_who_finds_the_service() {
    let (mut world, [a, h, _]) = three();
    let bob = world.user("bob");
    let key = world.key(Some(bob), &[], REUSABLE);
    let b = world.join(7, 17, &key).id;
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    offer(&mut world, h, &["svc:web"]);
    let service = create(&mut world, "web");
    assert!(service.approved.is_empty(), "ann's own device is no host");
    world.ask(What::SetTags { node: h, tags: tag_set(&["tag:web"]) }).expect("granted");
    let approved = |world: &World| world.control.registry().service(service.id).expect("there").approved.clone();
    assert_eq!(approved(&world), [h].into(), "as soon as it has the tag");
    let (mut anns, mut bobs) = (Client::of(&mut world, a), Client::of(&mut world, b));
    let addresses = service.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(behind(&mut bobs, &world, h), addresses);
    assert_eq!(behind(&mut anns, &world, h), "", "she may use the host, not the service");
    let records = |client: &Client| client.held.as_ref().expect("a map").dns.extra_records.len();
    assert_eq!((records(&bobs), records(&anns)), (2, 0));
    let filter = Client::of(&mut world, h).poll(&world).expect("a map").packet_filters;
    let filter = serde_json::to_string(&filter["base"]).expect("JSON");
    assert!(filter.contains(&service.v4.expect("an address").to_string()), "the host lets it in: {filter}");
    // An operator's word stands until the node offers something else.
    world.ask(What::ApproveHost { service: service.id, node: h, approved: false }).expect("granted");
    offer(&mut world, h, &["svc:db"]);
    assert!(approved(&world).is_empty());
    offer(&mut world, h, &["svc:db", "svc:web"]);
    assert_eq!(approved(&world), [h].into());
    world.ask(What::ExpireNode { node: h, at: Some(world.wall) }).expect("granted");
    assert_eq!(behind(&mut bobs, &world, h), "", "an expired node hosts nothing");
}

#[test]
fn the_policy_approves_a_host_that_logs_in_with_the_right_role() {
    let (mut world, [_, h, _]) = three();
    world.user("bob");
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    let tagged = world.key(None, &["tag:db"], REUSABLE);
    let machine = world.node(h).machine_key;
    let own = (1..9).find(|seed| self::machine(*seed) == machine).expect("one of three");
    let db = world.join(own, 40, &tagged).id;
    offer(&mut world, db, &["svc:web"]);
    let service = create(&mut world, "web");
    let approved = |world: &World| world.control.registry().service(service.id).expect("there").approved.clone();
    assert!(approved(&world).is_empty());
    let web = world.key(None, &["tag:web"], REUSABLE);
    let again = world.ask(register(own, 41, Some(&web), |request| request.old_node_key = Some(node_key(40))));
    assert!(again.is_ok());
    assert_eq!(world.node(db).owner.tags(), Some(&tag_set(&["tag:web"])), "the same node");
    assert_eq!(approved(&world), [db].into(), "though it offers what it offered before");
}

#[test]
fn what_two_operators_change_of_a_service_is_both_changed() {
    let (mut world, _) = three();
    let service = create(&mut world, "web").id;
    let ports = ServiceChange { ports: Some(vec!["tcp:80".to_owned()]), ..ServiceChange::default() };
    let tags = ServiceChange { tags: Some(tag_set(&["tag:web"])), ..ServiceChange::default() };
    let both = [ports, tags].map(|change| What::ChangeService { service, change });
    assert!(world.batch(both.into()).iter().all(Result::is_ok));
    let service = world.control.registry().service(service).expect("there");
    assert_eq!((&service.ports[..], &service.tags), (&["tcp:80".to_owned()][..], &tag_set(&["tag:web"])));
}

#[test]
fn nodes_and_services_share_one_set_of_names() {
    let (mut world, [a, ..]) = three();
    create(&mut world, "web");
    let wish = ServiceWish::default;
    let ask = |world: &mut World, name: &str, wish| {
        world.ask(What::CreateService { name: name.to_owned(), wish }).expect_err("refused").to_string()
    };
    assert_eq!(ask(&mut world, "svc:web", wish()), "service name \"web\" is taken");
    assert!(ask(&mut world, "host-1", wish()).starts_with("a node is called host-1"));
    assert!(ask(&mut world, "svc:wpad", wish()).contains("programs ask for"));
    assert!(ask(&mut world, "Web_1", wish()).contains("cannot be a service's name"));
    let bad = ServiceWish { ports: vec!["https".to_owned()], ..wish() };
    assert!(ask(&mut world, "db", bad).starts_with("\"https\" is not a port"));
    let rename = What::RenameNode { node: a, name: "web".to_owned() };
    assert!(matches!(world.ask(rename), Err(Refusal::Taken { .. })));
    let ann = world.control.registry().user_by_name("ann").expect("there").id;
    let key = world.key(Some(ann), &[], REUSABLE);
    let joined = world.ask(register(9, 19, Some(&key), |request| {
        request.hostinfo.as_mut().expect("set").hostname = "web".to_owned();
    }));
    assert!(joined.is_ok());
    assert!(world.control.registry().node_by_name("web-1").is_some());
}
