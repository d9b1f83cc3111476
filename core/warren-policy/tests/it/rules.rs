use warren_policy::{Policy, Tailnet};
use warren_wire::NodeId;

use super::*;

#[test]
fn the_worked_example_compiles_as_the_reference_prints_it() {
    let world = world(&["ann-laptop", "tag:web", "tag:db"]);
    let compiled = world.compile(
        r#"{
          "groups": {"group:dev": ["ann@example.com"]},
          "tagOwners": {"tag:web": ["group:dev"], "tag:db": ["group:dev"]},
          "hosts": {"db1": "100.64.0.5"},
          "acls": [
            {"action": "accept", "src": ["group:dev"], "dst": ["tag:web:80,443", "db1:5432"]},
            {"action": "accept", "proto": "icmp", "src": ["tag:web"], "dst": ["tag:db:*"]},
          ],
        }"#,
    );
    assert_eq!(show(&compiled, 1), "");
    assert_eq!(show(&compiled, 2), "100.64.0.1 -> 100.64.0.3:80-80 100.64.0.3:443-443");
    assert_eq!(show(&compiled, 3), "100.64.0.1 -> 100.64.0.5:5432-5432\n100.64.0.3 -> 100.64.0.5:0-65535 [1]");
    assert_eq!((peers(&compiled, 1), peers(&compiled, 2), peers(&compiled, 3)), (vec![2, 3], vec![1, 3], vec![1, 2]));
    assert!(compiled.may_reach(NodeId(1), NodeId(2)) && !compiled.may_reach(NodeId(2), NodeId(1)));
}

#[test]
fn no_policy_lets_everyone_reach_everything() {
    let world = world(&["ann-laptop", "tag:web"]);
    let compiled = Policy::allow_all().compile(&Tailnet { users: &world.users, nodes: &world.nodes, services: &[] });
    assert_eq!(show(&compiled, 2), "100.115.94.0-100.127.255.255 100.64.0.0-100.115.91.255 -> *:0-65535");
    assert_eq!(peers(&compiled, 1), [2]);
    assert!(compiled.visible(NodeId(2), NodeId(1)));
}

#[test]
fn everyone_is_everyone_also_where_an_operator_gives_out_other_addresses() {
    let mut world = world(&["ann-laptop", "tag:web"]);
    world.nodes[0].addrs = vec!["10.88.0.1".parse().unwrap()];
    let compiled = world.compile(r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]}"#);
    let sources = &compiled.filter_for(NodeId(2))[0].src_ips;
    assert!(sources.contains(&"10.88.0.1".to_owned()), "{sources:?}");
}

#[test]
fn nodes_that_no_rule_connects_do_not_see_each_other() {
    let world = world(&["ann-a", "bob-b", "cat-c"]);
    let compiled = world.compile(r#"{"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["bob@:22"]}]}"#);
    assert_eq!((peers(&compiled, 1), peers(&compiled, 2), peers(&compiled, 3)), (vec![2], vec![1], vec![]));
    assert!(!compiled.visible(NodeId(1), NodeId(3)));
}

#[test]
fn a_member_reaches_only_its_own_devices() {
    let world = world(&["ann-a1", "ann-a2", "bob-b1", "tag:web"]);
    let compiled = world.compile(
        r#"{"tagOwners": {"tag:web": []},
            "acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}"#,
    );
    assert_eq!(show(&compiled, 1), "100.64.0.1 100.64.0.3 -> 100.64.0.1:0-65535");
    assert_eq!(show(&compiled, 4), "");
    assert_eq!((peers(&compiled, 1), peers(&compiled, 3), peers(&compiled, 4)), (vec![2], vec![], vec![]));
}

#[test]
fn rules_with_the_same_sources_merge_at_the_place_of_the_first_even_if_it_is_anothers() {
    let world = world(&["ann-a", "bob-b", "tag:x", "tag:y"]);
    let compiled = world.compile(
        r#"{"tagOwners": {"tag:x": [], "tag:y": []}, "acls": [
            {"action": "accept", "src": ["ann@"], "dst": ["tag:y:1"]},
            {"action": "accept", "src": ["bob@"], "dst": ["tag:x:2"]},
            {"action": "accept", "src": ["ann@"], "dst": ["tag:x:3"]}]}"#,
    );
    assert_eq!(show(&compiled, 3), "100.64.0.1 -> 100.64.0.5:3-3\n100.64.0.3 -> 100.64.0.5:2-2");
}

#[test]
fn a_word_that_means_two_people_means_nobody_and_is_reported() {
    let mut world = world(&["ann-a", "bob-b", "cat-c"]);
    world.users[1].email = "ann@example.com".into();
    let compiled =
        world.compile(r#"{"acls": [{"action": "accept", "src": ["ann@example.com", "zoe@"], "dst": ["cat@:*"]}]}"#);
    assert_eq!(show(&compiled, 3), "");
    assert_eq!(compiled.problems(), ["multiple users found: token ann@example.com", "no user found: token zoe@"]);
}

#[test]
fn a_name_that_somebody_chose_at_the_provider_is_no_word_for_them_and_takes_nobody_elses() {
    let mut world = world(&["ann-a", "bob-b", "cat-c"]);
    world.users[1] =
        PolicyUser { name: "ann".into(), email: String::new(), self_named: true, ..world.users[1].clone() };
    let policy = r#"{"acls": [{"action": "accept", "src": ["ann@"], "dst": ["cat@:*"]}]}"#;
    let compiled = world.compile(policy);
    assert_eq!((show(&compiled, 3).as_str(), compiled.problems()), ("100.64.0.1 -> 100.64.0.5:0-65535", &[][..]));
    // Nor is it theirs where nobody else is called so, unless an operator says it.
    world.users[0].name = "anna".into();
    let compiled = world.compile(policy);
    assert_eq!((show(&compiled, 3), compiled.problems().len()), (String::new(), 1));
    world.users[1].self_named = false;
    assert_eq!(show(&world.compile(policy), 3), "100.64.0.3 -> 100.64.0.5:0-65535");
}

#[test]
fn networks_behind_a_node_count_for_filter_and_visibility_once_they_are_served() {
    let mut world = world(&["ann-a", "tag:router", "bob-b"]);
    let policy = r#"{"tagOwners": {"tag:router": []}, "acls": [{"action": "accept", "src": ["ann@"], "dst": ["10.1.0.0/16:443"]}]}"#;
    assert!(peers(&world.compile(policy), 1).is_empty());
    world.nodes[1].routes = vec!["10.0.0.0/8".parse().unwrap()];
    let compiled = world.compile(policy);
    assert_eq!(show(&compiled, 2), "100.64.0.1 -> 10.1.0.0/16:443-443");
    assert_eq!((peers(&compiled, 1), peers(&compiled, 3)), (vec![2], vec![]));
}

#[test]
fn exit_nodes_alone_are_told_of_the_internet() {
    let mut world = world(&["ann-a", "tag:exit", "bob-b"]);
    world.nodes[1].routes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let compiled = world.compile(
        r#"{"tagOwners": {"tag:exit": []}, "acls": [{"action": "accept", "src": ["ann@"], "dst": ["autogroup:internet:*"]}]}"#,
    );
    assert!(show(&compiled, 2).starts_with("100.64.0.1 -> 0.0.0.0-9.255.255.255:0-65535 11.0.0.0-"));
    assert_eq!(show(&compiled, 3), "");
    assert_eq!((peers(&compiled, 1), peers(&compiled, 3)), (vec![2], vec![]));
}

#[test]
fn tags_are_owned_through_groups_and_other_tags_and_circles_end() {
    let world = world(&[]);
    let policy = Policy::parse(
        r#"{"groups": {"group:dev": ["ann@"]},
            "tagOwners": {"tag:a": ["group:dev"], "tag:b": ["tag:a", "tag:c"], "tag:c": ["tag:b"], "tag:d": ["bob@example.com"]}}"#,
    )
    .unwrap();
    let owns = |user: usize, tag: &str| policy.owns_tag(&world.users, &world.users[user], tag);
    assert!(owns(0, "tag:a") && owns(0, "tag:b") && owns(0, "tag:c"));
    assert!(!owns(0, "tag:d") && owns(1, "tag:d") && !owns(1, "tag:c") && !owns(0, "tag:none"));
}

#[test]
fn routes_approve_themselves_where_the_policy_says_so() {
    let world = world(&["ann-a", "tag:router"]);
    let policy = Policy::parse(
        r#"{"tagOwners": {"tag:router": []}, "autoApprovers": {
            "routes": {"10.0.0.0/8": ["tag:router"], "0.0.0.0/0": ["tag:router"]}, "exitNode": ["ann@"]}}"#,
    )
    .unwrap();
    let approves =
        |node: usize, route: &str| policy.approves_route(&world.users, &world.nodes[node], route.parse().unwrap());
    assert!(approves(1, "10.0.0.0/8") && approves(1, "10.9.0.0/16"));
    // A default route as a key stands for every network but itself.
    assert!(approves(1, "192.168.0.0/16") && !approves(1, "fd00::/64") && !approves(1, "0.0.0.0/0"));
    assert!(!approves(0, "10.9.0.0/16") && !approves(0, "192.168.0.0/16"));
    assert!(approves(0, "0.0.0.0/0") && approves(0, "::/0"));
}
