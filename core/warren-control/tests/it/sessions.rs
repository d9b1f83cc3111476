//! Map streams: what they send, held against the whole map as the oracle.

use std::time::Duration;

use proptest::prelude::*;
use warren_control::{ChannelId, Next, Session, What};
use warren_crypto::{DiscoPublic, UnixTime};
use warren_wire::netmap::{NetMap, equivalent, fold};
use warren_wire::{
    CapabilityVersion, DnsRecord, Hostinfo, MapRequest, MapResponse, Message, NetInfo, NodeId, Piece, RegionId,
};

use crate::world::*;

const VERSION: CapabilityVersion = CapabilityVersion::OLDEST_SERVED;

/// A client at the other end of a stream.
pub struct Client {
    pub session: Session,
    pub version: CapabilityVersion,
    pub held: Option<NetMap>,
}

impl Client {
    pub fn of(world: &mut World, node: NodeId) -> Self {
        world.control.handle_stream_started(node, CHANNEL, world.now);
        world.control.publish();
        Self { session: Session::new(node, world.node(node).node_key, VERSION), version: VERSION, held: None }
    }

    /// Takes what the stream says and checks the law.
    pub fn poll(&mut self, world: &World) -> Option<MapResponse> {
        let snapshot = world.snapshot();
        let message = match self.session.next(&snapshot, world.wall) {
            Next::Map(message) => message.response().expect("a map response"),
            Next::Nothing => MapResponse::keep_alive(),
            Next::Last(message) => {
                let message = message.response().expect("a map response");
                fold(&mut self.held, message, world.wall).expect("a message that folds");
                return None;
            }
            Next::Gone => return None,
            Next::Failed(error, _) => panic!("{error}"),
        };
        for list in [&message.peers, &message.peers_changed] {
            assert!(list.is_sorted_by_key(|peer| peer.id), "trap 36");
        }
        fold(&mut self.held, message.clone(), world.wall).expect("a message that folds");
        let held = self.held.as_ref().expect("a map");
        let truth = snapshot.netmap_for(self.session.node()).expect("a map").as_seen_by(self.version);
        assert!(equivalent(held, &truth), "held {held:#?}\ntruth {truth:#?}");
        Some(message)
    }
}

fn poll_both(world: &World, one: &mut Client, other: &mut Client) {
    one.poll(world);
    other.poll(world);
}

pub fn update(disco: u8, endpoint: &str, home: Option<u32>) -> MapRequest {
    let net_info = home.map(|home| Box::new(NetInfo { preferred_derp: Some(RegionId(home)), ..NetInfo::default() }));
    let mut request = MapRequest {
        version: VERSION,
        disco_key: (disco != 0).then(|| DiscoPublic::from_bytes([disco; 32])),
        hostinfo: Some(Box::new(Hostinfo { os: "linux".to_owned(), net_info, ..Hostinfo::default() })),
        ..MapRequest::default()
    };
    request.endpoints.extend(endpoint.parse::<std::net::SocketAddr>().ok());
    request
}

/// Three machines of ann's.
pub fn three() -> (World, [NodeId; 3]) {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let nodes = [1, 2, 3].map(|machine| world.join(machine, machine + 10, &key).id);
    (world, nodes)
}

#[test]
fn the_first_message_is_a_whole_map_that_a_stock_client_accepts() {
    let (mut world, [a, b, c]) = three();
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    let mut client = Client::of(&mut world, a);
    let message = client.poll(&world).expect("a map");
    let me = message.node.as_ref().expect("the first message has self");
    assert_eq!(me.name, "host-1.mesh.test.");
    assert!(me.machine_authorized && me.online == Some(true) && me.key_expiry.is_none());
    assert_eq!(message.peers.iter().map(|peer| peer.id).collect::<Vec<_>>(), [b, c]);
    assert_eq!(message.peers[0].home_derp, Some(RegionId(900)));
    assert!(message.packet_filters.contains_key("base"));
    assert_eq!(message.user_profiles.len(), 1);
    assert!(message.debug.is_some_and(|debug| debug.disable_log_tail && debug.exit.is_none()));
    assert!(message.dns_config.is_some_and(|dns| dns.proxied && dns.domains == ["mesh.test"]));
    assert_eq!(message.collect_services, Some(false));
}

#[test]
fn presence_and_endpoints_travel_as_patches() {
    let (mut world, [a, b, _]) = three();
    let mut client = Client::of(&mut world, a);
    client.poll(&world);
    world.control.handle_stream_started(b, CHANNEL, world.now);
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    world.control.publish();
    client.poll(&world);
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.9:41641", None), world.now);
    world.control.publish();
    let message = client.poll(&world).expect("a delta");
    assert_eq!((message.peers_changed.len(), message.peers_changed_patch.len()), (0, 1));
    assert!(message.peers_changed_patch[0].endpoints.is_some());
    let held = client.held.as_ref().expect("a map");
    assert_eq!(held.peers[&b].home_derp, Some(RegionId(900)), "network facts that are not repeated stay");

    assert!(
        !world.control.handle_map_request(b, CHANNEL, &update(0, "192.0.2.9:41641", None), world.now),
        "nothing new"
    );
    assert!(world.control.publish().is_none());
}

#[test]
fn a_short_gap_in_a_stream_is_not_shown_and_a_long_one_is() {
    let (mut world, [a, b, _]) = three();
    let mut client = Client::of(&mut world, a);
    world.control.handle_stream_started(b, CHANNEL, world.now);
    world.control.publish();
    client.poll(&world);
    world.control.handle_stream_ended(b, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(9));
    client.poll(&world);
    assert_eq!(client.held.as_ref().expect("a map").peers[&b].online, Some(true));
    world.control.handle_stream_started(b, CHANNEL, world.now);
    world.control.handle_stream_started(b, CHANNEL, world.now);
    world.control.handle_stream_ended(b, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(60));
    client.poll(&world);
    assert_eq!(client.held.as_ref().expect("a map").peers[&b].online, Some(true), "one stream is still open");
    world.control.handle_stream_ended(b, CHANNEL, world.now, world.wall);
    let left = world.wall;
    world.pass(Duration::from_secs(10));
    client.poll(&world);
    let peer = &client.held.as_ref().expect("a map").peers[&b];
    assert_eq!((peer.online, peer.last_seen), (Some(false), Some(left)));
}

#[test]
fn an_expired_node_is_shown_as_such_to_itself_and_others() {
    let (mut world, [a, b, _]) = three();
    let (mut one, mut other) = (Client::of(&mut world, a), Client::of(&mut world, b));
    poll_both(&world, &mut one, &mut other);
    let at = world.wall.saturating_add(Duration::from_secs(30));
    world.ask(What::ExpireNode { node: b, at: Some(at) }).expect("granted");
    poll_both(&world, &mut one, &mut other);
    assert!(world.snapshot().admits(&node_key(12), world.wall));
    world.pass(Duration::from_secs(31));
    assert!(!world.snapshot().admits(&node_key(12), world.wall));
    poll_both(&world, &mut one, &mut other);
    assert!(one.held.as_ref().expect("a map").peers[&b].expired);
    assert!(!other.held.as_ref().expect("a map").self_node.machine_authorized);
    world.ask(What::DisableExpiry { node: b }).expect("granted");
    poll_both(&world, &mut one, &mut other);
    assert!(other.held.as_ref().expect("a map").self_node.machine_authorized);
}

#[test]
fn a_removed_or_rekeyed_node_ends_its_stream() {
    let (mut world, [a, b, _]) = three();
    let (mut one, mut other) = (Client::of(&mut world, a), Client::of(&mut world, b));
    poll_both(&world, &mut one, &mut other);
    world.ask(What::DeleteNode { node: b }).expect("granted");
    assert!(other.poll(&world).is_none());
    let held = other.held.as_ref().expect("a map");
    assert!(held.peers.is_empty() && held.self_node.expired && !held.self_node.machine_authorized);
    assert!(held.self_node.key_expiry.is_some_and(|expiry| expiry < world.wall), "a client takes this as a logout");
    assert_eq!(one.poll(&world).expect("a delta").peers_removed, [b]);
    let ann = world.control.registry().users().next().expect("ann").id;
    let key = world.key(Some(ann), &[], REUSABLE);
    world.join(1, 77, &key);
    assert!(one.poll(&world).is_none());
    assert!(!one.held.as_ref().expect("a map").self_node.expired, "its own program has the new key");
    assert!(world.snapshot().node_of(&machine(1), &node_key(11)).is_none(), "the old key is nobody's");
}

#[test]
fn two_machines_with_one_state_are_told_and_the_newest_is_believed() {
    let (mut world, [a, b, _]) = three();
    let (mut one, mut other) = (Client::of(&mut world, a), Client::of(&mut world, b));
    let second = ChannelId(2);
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    world.pass(Duration::from_secs(1));
    world.control.handle_stream_started(b, second, world.now);
    for turn in 0..3 {
        world.pass(Duration::from_secs(1));
        world.control.handle_map_request(b, second, &update(3, "198.51.100.3:41641", Some(900)), world.now);
        world.pass(Duration::from_secs(1));
        world.control.handle_map_request(b, CHANNEL, &update(2, &format!("192.0.2.2:{}", 50 + turn), None), world.now);
        world.control.publish();
        poll_both(&world, &mut one, &mut other);
        let peer = &one.held.as_ref().expect("a map").peers[&b];
        assert_eq!(peer.endpoints, ["198.51.100.3:41641".parse().expect("an address")], "no flapping");
        let messages = &other.held.as_ref().expect("a map").health;
        assert!(messages.iter().any(|text| text.starts_with("Two machines use one identity")), "{messages:?}");
    }
    // Nor does the name: only the one that is believed is followed.
    for (channel, hostname) in [(second, "new"), (CHANNEL, "old")] {
        let mut request = update(0, "192.0.2.2:41641", None);
        request.hostinfo.as_mut().expect("set").hostname = hostname.to_owned();
        world.control.handle_map_request(b, channel, &request, world.now);
        world.pass(Duration::from_secs(40));
    }
    assert_eq!(world.node(b).hostname, "new");
    world.control.handle_stream_ended(b, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(700));
    poll_both(&world, &mut one, &mut other);
    assert!(other.held.as_ref().expect("a map").health.is_empty());
    assert!(one.held.as_ref().expect("a map").health.is_empty(), "nobody else's affair");
}

#[test]
fn a_host_name_that_changes_all_the_time_is_followed_now_and_then_and_at_the_end() {
    let (mut world, [a, ..]) = three();
    let before = world.control.registry().revision().0;
    for turn in 0..600 {
        let mut request = update(1, "192.0.2.1:41641", None);
        request.hostinfo.as_mut().expect("set").hostname = format!("name-{turn}");
        world.control.handle_map_request(a, CHANNEL, &request, world.now);
        world.pass(Duration::from_millis(100));
    }
    let commits = world.control.registry().revision().0 - before;
    assert!((1..=3).contains(&commits), "{commits} commits in a minute");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.node(a).name, "name-599");
}

#[test]
fn what_the_server_wanted_and_could_not_commit_is_wanted_still() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], EPHEMERAL);
    let [away, router] = [1, 2].map(|machine| world.join(machine, machine + 10, &key).id);
    let policy = r#"{ "autoApprovers": { "routes": { "10.0.0.0/8": ["ann@"] } } }"#;
    world.ask(What::ReplacePolicy { text: policy.to_owned() }).expect("a policy");
    world.control.handle_stream_started(router, CHANNEL, world.now);
    let mut request = update(1, "192.0.2.1:41641", None);
    request.hostinfo.as_mut().expect("set").routable_ips = networks(1);
    world.control.handle_map_request(router, CHANNEL, &request, world.now);
    world.now += Duration::from_secs(24 * 3600);
    world.control.handle_timeout(world.now, world.wall);
    // The database takes none of it.
    let lost: Vec<_> = std::iter::from_fn(|| world.control.poll_ask()).collect();
    assert!(lost.len() >= 2);
    for command in lost {
        world.control.handle_not_committed(command);
    }
    world.pass(Duration::from_secs(60));
    assert!(world.control.registry().node(away).is_none());
    assert_eq!(world.node(router).approved_routes.len(), 1);
}

#[test]
fn other_extra_records_reach_running_clients_alone() {
    let (mut world, [a, ..]) = three();
    let mut client = Client::of(&mut world, a);
    client.poll(&world);
    let record = DnsRecord { name: "grafana.mesh.test".into(), kind: "A".into(), value: "100.64.0.3".into() };
    world.control.set_extra_records(vec![record.clone()]);
    world.control.publish();
    let message = client.poll(&world).expect("a delta");
    assert_eq!(message.dns_config.expect("names").extra_records, std::slice::from_ref(&record));
    assert!(message.node.is_none() && message.packet_filters.is_empty());
    world.control.set_extra_records(vec![record]);
    assert!(world.control.publish().is_none(), "the same again is no news");
}

#[test]
fn a_node_that_hides_is_met_through_relays_only() {
    let (mut world, [a, b, _]) = three();
    let mut client = Client::of(&mut world, a);
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    world.control.publish();
    client.poll(&world);
    let endpoints = |client: &Client| client.held.as_ref().expect("a map").peers[&b].endpoints.len();
    assert_eq!(endpoints(&client), 1);
    for (hide, shown) in [(true, 0), (false, 1)] {
        world.ask(What::HideEndpoints { node: b, hide }).expect("granted");
        client.poll(&world);
        assert_eq!(endpoints(&client), shown);
    }
}

#[test]
fn a_stream_that_fell_far_behind_is_sent_a_whole_map() {
    let (mut world, [a, b, c]) = three();
    let mut client = Client::of(&mut world, a);
    client.poll(&world);
    let first = world.snapshot();
    world.ask(What::DeleteNode { node: b }).expect("granted");
    world.ask(What::DeleteNode { node: c }).expect("granted");
    for n in 0..1100 {
        world.control.handle_map_request(a, CHANNEL, &update(1, &format!("192.0.2.1:{}", n + 1), None), world.now);
        world.control.publish();
    }
    let message = client.poll(&world).expect("a map");
    assert!(message.derp_map.is_some(), "a whole map");
    assert_eq!(message.peers_removed, [b, c], "an empty list of peers would say nothing");
    assert!(client.held.as_ref().expect("a map").peers.is_empty());
    assert!(matches!(client.session.next(&first, world.wall), Next::Nothing), "older pictures say nothing");
}

#[test]
fn what_a_stream_missed_takes_shells_and_messages_away_too() {
    for version in [VERSION, CapabilityVersion::DISPLAY_MESSAGES] {
        let (mut world, [a, ..]) = three();
        let shells =
            r#"{ "ssh": [{ "action": "accept", "src": ["ann@"], "dst": ["autogroup:self"], "users": ["root"] }] }"#;
        world.ask(What::ReplacePolicy { text: shells.to_owned() }).expect("a policy");
        world.control.handle_stream_started(a, CHANNEL, world.now);
        world.control.handle_stream_started(a, ChannelId(2), world.now);
        world.pass(Duration::from_secs(150));
        let mut client = Client { session: Session::new(a, world.node(a).node_key, version), version, held: None };
        client.poll(&world);
        let told = |client: &Client| {
            let held = client.held.as_ref().expect("a map");
            let rules = held.ssh_policy.as_ref().map_or(0, |policy| policy.rules.len());
            (rules, held.health.len() + held.display_messages.len())
        };
        assert_eq!(told(&client), (1, 1));
        world.ask(What::ReplacePolicy { text: "{}".to_owned() }).expect("a policy");
        world.control.handle_stream_ended(a, CHANNEL, world.now, world.wall);
        world.pass(Duration::from_secs(700));
        for n in 0..1100 {
            world.control.handle_map_request(
                a,
                ChannelId(2),
                &update(1, &format!("192.0.2.1:{}", n + 1), None),
                world.now,
            );
            world.control.publish();
        }
        client.poll(&world);
        assert_eq!(told(&client), (0, 0));
    }
}

#[test]
fn hidden_endpoints_are_shown_to_nobody() {
    let mut world = World::with(warren_control::Settings { hide_endpoints: true, ..settings() });
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let (a, b) = (world.join(1, 11, &key).id, world.join(2, 12, &key).id);
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    let mut client = Client::of(&mut world, a);
    let message = client.poll(&world).expect("a map");
    let text = serde_json::to_string(&message).expect("JSON");
    assert!(!text.contains("192.0.2.2"), "{text}");
}

#[test]
fn soft_facts_survive_a_restart_once_they_were_taken() {
    let (mut world, [a, b, _]) = three();
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    let soft = world.control.take_soft();
    assert!(world.control.take_soft().is_empty());
    let rows = warren_control::Rows { soft, ..world.tables.rows() };
    world.control = warren_control::Control::from_rows(&rows, settings(), world.now).expect("rows");
    let mut client = Client::of(&mut world, a);
    client.poll(&world);
    let peer = &client.held.as_ref().expect("a map").peers[&b];
    assert_eq!((peer.home_derp, peer.disco_key.is_some(), peer.online), (Some(RegionId(900)), true, Some(false)));
}

#[test]
fn a_host_with_an_odd_name_spoils_no_map() {
    let (mut world, [a, b, _]) = three();
    let mut request = update(2, "192.0.2.2:41641", None);
    request.hostinfo.as_mut().expect("set").hostname = "a\"b\\c\u{0}".to_owned();
    request.hostinfo.as_mut().expect("set").backend_log_id = "secret-log-id".to_owned();
    request.hostinfo.as_mut().expect("set").app_connector = Some(true);
    world.control.handle_map_request(b, CHANNEL, &request, world.now);
    world.pass(Duration::ZERO);
    let mut client = Client::of(&mut world, a);
    let text = serde_json::to_string(&client.poll(&world).expect("a map")).expect("JSON");
    assert!(!text.contains('\\') && !text.contains("secret-log-id"), "{text}");
    assert!(text.contains(r#""AppConnector":true"#), "peers ask an app connector for names: {text}");
}

#[test]
fn numbers_that_some_clients_cannot_read_are_shown_to_nobody() {
    let (mut world, [a, b, _]) = three();
    let mut request = update(2, "192.0.2.2:41641", Some(u32::MAX));
    request.version = CapabilityVersion(u32::MAX);
    world.control.handle_map_request(b, CHANNEL, &request, world.now);
    world.control.publish();
    let shown = |world: &mut World| {
        let mut client = Client::of(world, a);
        client.poll(world);
        let peer = &client.held.as_ref().expect("a map").peers[&b];
        (peer.cap.0, peer.home_derp)
    };
    let readable = (i32::MAX as u32, None);
    assert_eq!(shown(&mut world), readable);
    let mut soft = world.control.take_soft();
    let row = soft.iter_mut().find(|row| row.node == b).expect("b's facts");
    row.capability = request.version; // as a server that did not look wrote it
    row.hostinfo = request.hostinfo.map(|hostinfo| std::sync::Arc::from(*hostinfo)).expect("set");
    let rows = warren_control::Rows { soft, ..world.tables.rows() };
    world.control = warren_control::Control::from_rows(&rows, settings(), world.now).expect("rows");
    assert_eq!(shown(&mut world), readable);
}

#[test]
fn what_many_are_told_is_written_once_and_is_the_same_for_all_of_them() {
    let (mut world, [a, b, c]) = three();
    let mut clients = [a, b, c].map(|node| Client::of(&mut world, node));
    clients.iter_mut().for_each(|client| drop(client.poll(&world)));
    world.control.handle_map_request(c, CHANNEL, &update(3, "192.0.2.3:41641", Some(900)), world.now);
    world.control.publish();
    let snapshot = world.snapshot();
    let mut said = |at: usize| match clients[at].session.next(&snapshot, world.wall) {
        Next::Map(message) => message,
        other => panic!("{other:?}"),
    };
    let [one, other] = [said(0), said(1)];
    let shared = |message: &Message| match message.pieces() {
        [Piece::Shared { written, .. }] => std::sync::Arc::as_ptr(written),
        pieces => panic!("not one piece that is shared: {pieces:?}"),
    };
    assert_eq!(shared(&one), shared(&other));
    assert_eq!(one.response().expect("JSON").peers_changed.len(), 1);
    let later = world.wall.saturating_add(Duration::from_secs(60));
    let late = Session::new(a, node_key(11), VERSION).next(&snapshot, later);
    assert!(matches!(late, Next::Map(_)), "a new stream is not told of changes but of all");
}

/// All, nothing, one direction, a port more, own devices.
const POLICIES: [&str; 6] = [
    "{}",
    r#"{ "acls": [] }"#,
    r#"{ "tagOwners": { "tag:x": ["ann@"] }, "acls": [{ "action": "accept", "src": ["ann@"], "dst": ["tag:x:22"] }] }"#,
    r#"{ "tagOwners": { "tag:x": ["ann@"] }, "acls": [{ "action": "accept", "src": ["*"], "dst": ["tag:x:22,80"] }] }"#,
    r#"{ "acls": [{ "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"] }],
         "randomizeClientPort": true }"#,
    r#"{ "tagOwners": { "tag:x": ["ann@"] }, "acls": [{ "action": "accept", "src": ["tag:x"], "dst": ["10.0.0.0/25:*"] }],
         "autoApprovers": { "routes": { "10.0.0.0/23": ["tag:x"] }, "exitNode": ["ann@"] } }"#,
];

#[test]
fn a_policy_hides_peers_and_changes_filters_at_once() {
    let (mut world, [a, b, c]) = three();
    world.ask(What::SetTags { node: c, tags: tag_set(&["tag:x"]) }).expect("granted");
    let (mut one, mut tagged) = (Client::of(&mut world, a), Client::of(&mut world, c));
    poll_both(&world, &mut one, &mut tagged);
    world.ask(What::ReplacePolicy { text: POLICIES[2].to_owned() }).expect("a policy");
    let message = one.poll(&world).expect("a delta");
    assert_eq!(message.peers_removed, [b]);
    assert_eq!(one.held.as_ref().expect("a map").filter_rules(), []);
    tagged.poll(&world);
    let rules = tagged.held.as_ref().expect("a map").filter_rules();
    assert_eq!((rules.len(), rules[0].dst_ports[0].ports.first), (1, 22));
    world.ask(What::ReplacePolicy { text: POLICIES[1].to_owned() }).expect("a policy");
    poll_both(&world, &mut one, &mut tagged);
    assert!(one.held.as_ref().expect("a map").peers.is_empty());
    assert!(tagged.held.as_ref().expect("a map").filter_rules().is_empty());
    world.restart();
    assert_eq!(world.snapshot().netmap_for(a).expect("a map").peers.len(), 0, "the policy was committed");
}

#[test]
fn a_policy_that_cannot_be_read_is_refused_with_its_place_and_the_old_one_stays() {
    let (mut world, [a, ..]) = three();
    let text = "{\n  \"acls\": [{ \"action\": \"accept\", \"src\": [\"group:nobody\"], \"dst\": [\"*:*\"] }]\n}";
    let refusal = world.ask(What::ReplacePolicy { text: text.to_owned() }).expect_err("refused").to_string();
    assert!(refusal.contains("line 2"), "{refusal}");
    assert_eq!(world.snapshot().check_policy(text).expect_err("refused").to_string(), refusal);
    assert!(world.control.registry().policy().is_none());
    assert_eq!(world.snapshot().netmap_for(a).expect("a map").peers.len(), 2);
}

#[test]
fn a_policy_may_not_be_written_with_a_word_that_names_two_people() {
    let (mut world, _) = three();
    // Addresses are one person's each; what is no address but looks like a name is the way to two that is left.
    for (name, email) in [("x", ""), ("y", "x@")] {
        let email = email.to_owned();
        let (display_name, picture_url) = (String::new(), String::new());
        world.ask(What::CreateUser { name: name.to_owned(), display_name, email, picture_url }).expect("a user");
    }
    let text = "{\n  \"acls\": [{ \"action\": \"accept\", \"src\": [\"x@\"], \"dst\": [\"*:*\"] }]\n}";
    let refusal = world.ask(What::ReplacePolicy { text: text.to_owned() }).expect_err("refused").to_string();
    assert!(refusal.contains("line 2") && refusal.contains("multiple users found: token x@"), "{refusal}");
    assert_eq!(world.snapshot().check_policy(text).expect_err("refused").to_string(), refusal);
}

#[test]
fn a_policy_that_its_own_tests_contradict_is_refused_and_the_old_one_stays() {
    let (mut world, [a, b, _]) = three();
    let addr = world.control.registry().node(b).expect("a node").addresses()[0].addr();
    let text = |word: &str| {
        format!(
            r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["*:*"]}}],
                "tests": [{{"src": "*", "{word}": ["{addr}:22"]}}]}}"#
        )
    };
    let refusal = world.ask(What::ReplacePolicy { text: text("deny") }).expect_err("refused").to_string();
    assert!(refusal.contains("test(s) failed") && refusal.contains("expected DENIED, got ALLOWED"), "{refusal}");
    assert_eq!(world.snapshot().check_policy(&text("deny")).expect_err("refused").to_string(), refusal);
    assert!(world.control.registry().policy().is_none());
    assert_eq!(world.snapshot().netmap_for(a).expect("a map").peers.len(), 2);
    world.ask(What::ReplacePolicy { text: text("accept") }).expect("what holds is accepted");
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Remove(u8),
    Rename(u8, u8),
    Tag(u8),
    Expire(u8),
    Unexpire(u8),
    Rekey(u8),
    Update(u8, u8, u8),
    Start(u8),
    End(u8),
    RenameUser(u8),
    Pass(u8),
    Policy(u8),
    /// Announces some of [`NETWORKS`].
    Announce(u8, u8),
    /// Has some of them approved.
    Approve(u8, u8),
    Silent(u8),
    Look(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1_u8..7;
    prop_oneof![
        3 => node.clone().prop_map(Step::Join),
        1 => node.clone().prop_map(Step::Remove),
        1 => (node.clone(), 0_u8..4).prop_map(|(n, name)| Step::Rename(n, name)),
        1 => node.clone().prop_map(Step::Tag),
        1 => node.clone().prop_map(Step::Expire),
        1 => node.clone().prop_map(Step::Unexpire),
        1 => node.clone().prop_map(Step::Rekey),
        3 => (node.clone(), 0_u8..4, 0_u8..4).prop_map(|(n, x, y)| Step::Update(n, x, y)),
        2 => node.clone().prop_map(Step::Start),
        2 => node.prop_map(Step::End),
        1 => (0_u8..3).prop_map(Step::RenameUser),
        1 => (0_u8..30).prop_map(Step::Pass),
        2 => (0_u8..6).prop_map(Step::Policy),
        2 => (node_again(), any::<u8>()).prop_map(|(n, which)| Step::Announce(n, which)),
        2 => (node_again(), any::<u8>()).prop_map(|(n, which)| Step::Approve(n, which)),
        1 => node_again().prop_map(Step::Silent),
        4 => (0_u8..4).prop_map(Step::Look),
    ]
}

fn node_again() -> std::ops::Range<u8> {
    1..7
}

const NETWORKS: [&str; 4] = ["10.0.0.0/24", "10.0.1.0/24", "0.0.0.0/0", "::/0"];

/// The networks whose bits are set.
fn networks(which: u8) -> Vec<warren_ip::Prefix> {
    let chosen = NETWORKS.iter().enumerate().filter(|(bit, _)| which & (1 << bit) != 0);
    chosen.map(|(_, text)| text.parse().expect("a prefix")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several streams, looking at different times, hold what the picture shows: deltas never drift from the oracle.
    #[test]
    fn folding_what_a_stream_sends_gives_the_map(steps in prop::collection::vec(step(), 1..80)) {
        let (mut world, nodes) = three();
        let ann = world.control.registry().users().next().expect("ann").id;
        let key = world.key(Some(ann), &[], REUSABLE);
        // The last of these lies on another page of records than those to whom things happen.
        let far = (20..82).map(|n| world.join(n, n, &key).id).last().expect("some");
        assert!(far.0 > 63);
        let of = [nodes[0], nodes[1], far];
        let mut clients: Vec<Client> = of.iter().map(|node| Client::of(&mut world, *node)).collect();
        let mut next_key = 100_u8;
        for step in steps {
            let row = |world: &World, n: u8| {
                world.control.registry().nodes_of_machine(&machine(n)).next().cloned()
            };
            match step {
                Step::Join(n) => {
                    if row(&world, n).is_none() {
                        next_key = next_key.wrapping_add(1);
                        let _ = world.ask(register(n, next_key, Some(&key), |_| {}));
                    }
                }
                Step::Rekey(n) => {
                    next_key = next_key.wrapping_add(1);
                    let _ = world.ask(register(n, next_key, Some(&key), |_| {}));
                }
                Step::Look(3) => clients[2] = Client::of(&mut world, far),
                Step::Look(n) => {
                    let Some(client) = clients.get_mut(usize::from(n)) else { continue };
                    let node = client.session.node();
                    if client.poll(&world).is_none() && world.control.registry().node(node).is_some() {
                        *client = Client::of(&mut world, node);
                    }
                }
                Step::RenameUser(n) => {
                    let _ = world.ask(What::RenameUser { user: ann, name: format!("ann{n}") });
                }
                Step::Policy(n) => {
                    let text = POLICIES[usize::from(n)].to_owned();
                    world.ask(What::ReplacePolicy { text }).expect("a policy that compiles");
                }
                Step::Pass(seconds) => world.pass(Duration::from_secs(seconds.into())),
                Step::Remove(n) | Step::Rename(n, _) | Step::Tag(n) | Step::Expire(n) | Step::Unexpire(n)
                | Step::Update(n, ..) | Step::Start(n) | Step::End(n) | Step::Announce(n, _) | Step::Approve(n, _)
                | Step::Silent(n) => {
                    let Some(row) = row(&world, n) else { continue };
                    let node = row.id;
                    match step {
                        Step::Remove(_) => drop(world.ask(What::DeleteNode { node })),
                        Step::Rename(_, name) => {
                            drop(world.ask(What::RenameNode { node, name: format!("name-{name}") }));
                        }
                        Step::Tag(_) => drop(world.ask(What::SetTags { node, tags: tag_set(&["tag:x"]) })),
                        Step::Expire(_) => drop(world.ask(What::ExpireNode { node, at: None })),
                        Step::Unexpire(_) => drop(world.ask(What::DisableExpiry { node })),
                        Step::Update(_, x, y) => {
                            let home = (y > 1).then(|| 900 + u32::from(y));
                            world.control.handle_map_request(node, CHANNEL, &update(x, &format!("192.0.2.{y}:1"), home), world.now);
                        }
                        Step::Announce(_, which) => {
                            let mut request = update(1, "192.0.2.1:1", None);
                            request.hostinfo.as_mut().expect("set").routable_ips = networks(which);
                            world.control.handle_map_request(node, CHANNEL, &request, world.now);
                        }
                        Step::Approve(_, which) => {
                            let routes = networks(which).into_iter().collect();
                            drop(world.ask(What::SetRoutes { node, routes }));
                        }
                        // Whoever is asked for a sign of life gives one, but for this node.
                        Step::Silent(_) => {
                            world.pass(Duration::from_secs(10));
                            while let Some(asked) = world.control.poll_probe() {
                                if asked != node {
                                    world.control.handle_probe_answer(asked);
                                }
                            }
                            world.pass(Duration::from_secs(5));
                        }
                        Step::Start(_) => world.control.handle_stream_started(node, CHANNEL, world.now),
                        Step::End(_) => world.control.handle_stream_ended(node, CHANNEL, world.now, world.wall),
                        _ => {}
                    }
                    world.control.publish();
                }
            }
        }
        for client in &mut clients {
            client.poll(&world);
        }
        prop_assert!(world.wall > UnixTime::from_secs(0));
    }
}
