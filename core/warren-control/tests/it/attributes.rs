//! What the policy says of nodes beside who reaches whom: attributes, shells, resolvers.

use warren_control::What;
use warren_wire::netmap::NetMap;
use warren_wire::{NodeId, cap};

use crate::sessions::{Client, three, update};
use crate::world::*;

const POLICY: &str = r#"{
    "tagOwners": { "tag:srv": ["ann@"] },
    "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],
    "ssh": [{ "action": "accept", "src": ["ann@"], "dst": ["tag:srv"], "users": ["root"] }],
    "nodeAttrs": [
        { "target": ["ann@"], "attr": ["drive:share", "relay-only"] },
        { "target": ["tag:srv"], "attr": ["disable-ipv4"] },
    ],
}"#;

#[test]
fn attributes_and_shell_rules_reach_nodes_and_go_with_the_policy() {
    let (mut world, [a, b, c]) = three();
    world.ask(What::SetTags { node: c, tags: tag_set(&["tag:srv"]) }).expect("granted");
    world.control.handle_map_request(b, CHANNEL, &update(2, "192.0.2.2:41641", Some(900)), world.now);
    let (mut one, mut server) = (Client::of(&mut world, a), Client::of(&mut world, c));
    for text in [POLICY, "{}", POLICY] {
        world.ask(What::ReplacePolicy { text: text.to_owned() }).expect("a policy");
        one.poll(&world);
        server.poll(&world);
        let says = text == POLICY;
        let map = |client: &Client| -> NetMap { client.held.clone().expect("a map") };
        let (one, server) = (map(&one), map(&server));
        assert_eq!(one.self_node.cap_map.contains_key("drive:share"), says);
        assert_eq!(one.self_node.cap_map.contains_key(cap::SSH), says, "no switch for a server that nobody may use");
        assert_eq!(one.peers[&b].endpoints.is_empty(), says, "relay-only");
        let has_v4 = |node: &warren_wire::Node| node.addresses.iter().any(|address| address.is_ipv4());
        assert_eq!((has_v4(&one.peers[&c]), has_v4(&server.self_node)), (!says, !says));
        let rules = |map: &NetMap| map.ssh_policy.as_ref().map_or(0, |policy| policy.rules.len());
        assert_eq!((rules(&one), rules(&server)), (0, usize::from(says)));
    }
}

#[test]
fn a_resolver_of_nextdns_is_told_which_device_asks_unless_it_must_not_be() {
    let mut settings = settings();
    settings.dns.resolvers = vec!["https://dns.nextdns.io/abc".to_owned(), "1.1.1.1".to_owned()];
    settings.dns.override_local = true;
    let mut world = World::with(settings);
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let node = world.join(1, 11, &key).id;
    let mut client = Client::of(&mut world, node);
    let mut first = |world: &mut World, attributes: &str| {
        let text = format!(r#"{{ "nodeAttrs": [{{ "target": ["ann@"], "attr": [{attributes}] }}] }}"#);
        world.ask(What::ReplacePolicy { text }).expect("a policy");
        client.poll(world);
        client.held.as_ref().expect("a map").dns.resolvers[0].addr.clone()
    };
    let about = "?device_name=host-1&device_ip=100.64.0.1";
    assert_eq!(first(&mut world, r#""drive:share""#), format!("https://dns.nextdns.io/abc{about}"));
    assert_eq!(first(&mut world, r#""nextdns:xyz""#), format!("https://dns.nextdns.io/xyz{about}"));
    assert_eq!(first(&mut world, r#""nextdns:xyz", "nextdns:no-device-info""#), "https://dns.nextdns.io/xyz");
    assert!(world.control.registry().node(NodeId(1)).is_some());
}

#[test]
fn a_new_node_gets_its_address_from_the_pool_that_the_policy_names_for_it() {
    let mut world = World::new();
    let (ann, bob) = (world.user("ann"), world.user("bob"));
    let policy = r#"{
        "tagOwners": { "tag:a": ["ann@"] },
        "nodeAttrs": [
            { "target": ["bob@"], "ipPool": ["100.90.0.8/31"] },
            { "target": ["tag:a"], "ipPool": ["100.91.0.0/16"] },
            { "target": ["bob@"], "ipPool": ["100.92.7.0/24"] },
        ],
    }"#;
    world.ask(What::ReplacePolicy { text: policy.to_owned() }).expect("a policy");
    let keys = [(Some(ann), vec![]), (Some(bob), vec![]), (None, vec!["tag:a"])]
        .map(|(user, tags)| world.key(user, &tags, REUSABLE));
    let mut join = |machine: u8, key: &str| world.join(machine, machine + 10, key).v4.expect("an address").to_string();
    let bobs: Vec<String> = [1, 2, 3].map(|machine| join(machine, &keys[1])).into();
    assert_eq!(bobs, ["100.90.0.8", "100.90.0.9", "100.92.7.0"], "the next pool when the first is full");
    assert_eq!((join(4, &keys[0]), join(5, &keys[2])), ("100.64.0.1".to_owned(), "100.91.0.0".to_owned()));
    let full = r#"{ "nodeAttrs": [{ "target": ["*"], "ipPool": ["100.90.0.8/31"] }] }"#;
    world.ask(What::ReplacePolicy { text: full.to_owned() }).expect("a policy");
    let late = world.join(6, 16, &keys[1]);
    assert_eq!(late.v4.expect("an address").to_string(), "100.64.0.2", "a full pool turns nobody away");
    assert_eq!(
        world.join(1, 21, &keys[1]).v4.expect("an address").to_string(),
        "100.90.0.8",
        "known nodes keep theirs"
    );
}
