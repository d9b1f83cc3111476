//! The section `nodeAttrs`.

use serde_json::json;
use warren_ip::Prefix;
use warren_policy::Policy;
use warren_wire::{CapMap, NodeId};

use super::*;

fn document(entries: &str) -> String {
    format!(
        r#"{{"groups": {{"group:g": ["bob@"]}}, "hosts": {{"srv": "100.64.0.1", "net": "100.64.0.0/30"}},
            "tagOwners": {{"tag:x": []}}, "nodeAttrs": [{entries}]}}"#
    )
}

fn shown(caps: &CapMap) -> String {
    caps.iter().map(|(name, arguments)| format!("{name}{}", json!(arguments))).collect::<Vec<_>>().join(" ")
}

fn own(compiled: &Compiled, nodes: usize) -> Vec<String> {
    (1..=nodes as i64).map(|node| shown(&compiled.cap_map_for(NodeId(node)))).collect()
}

#[test]
fn attributes_are_told_to_whom_they_are_targeted_at() {
    let world = world(&["ann-1", "bob-1", "tag:x"]);
    for (target, expected) in [
        (r#""*""#, ["a[]", "a[]", "a[]"]),
        (r#""ann@""#, ["a[]", "", ""]),
        (r#""group:g", "tag:x""#, ["", "a[]", "a[]"]),
        (r#""tag:x""#, ["", "", "a[]"]),
        (r#""autogroup:member""#, ["a[]", "a[]", ""]),
        (r#""autogroup:tagged""#, ["", "", "a[]"]),
        (r#""srv""#, ["a[]", "", ""]),
        (r#""net""#, ["a[]", "a[]", ""]),
        (r#""100.64.0.3""#, ["", "a[]", ""]),
        (r#""user:*@example.com""#, ["a[]", "a[]", ""]),
        ("", ["", "", ""]),
    ] {
        let compiled = world.compile(&document(&format!(r#"{{"target": [{target}], "attr": ["a"]}}"#)));
        assert_eq!(own(&compiled, 3), expected, "{target}");
        assert_eq!(compiled.cap_map_for(NodeId(9)), CapMap::new());
    }
}

#[test]
fn what_several_entries_say_is_joined() {
    let world = world(&["ann-1", "tag:x"]);
    let compiled = world.compile(&document(
        r#"{"target": ["*"], "attr": ["a", "b"]}, {"target": ["tag:x"], "attr": ["a", "nextdns:abc"]},
           {"target": ["tag:x"], "app": {"example.com/cap": [{"n": 1}], "a": null}},
           {"target": ["autogroup:tagged"], "app": {"example.com/cap": ["two"]}}, {"target": ["tag:x"]}, {"attr": ["lost"]}"#,
    ));
    assert_eq!(own(&compiled, 2), ["a[] b[]", r#"a[] b[] example.com/cap[{"n":1},"two"] nextdns:abc[]"#]);
}

#[test]
fn the_port_is_random_for_all_or_for_some() {
    let world = world(&["ann-1", "tag:x"]);
    let all = world.compile(r#"{"randomizeClientPort": true}"#);
    assert_eq!(own(&all, 2), ["randomize-client-port[]", "randomize-client-port[]"]);
    let some = world.compile(&document(r#"{"target": ["tag:x"], "attr": ["randomize-client-port"]}"#));
    assert_eq!(own(&some, 2), ["", "randomize-client-port[]"]);
}

#[test]
fn peers_are_told_what_they_read_of_each_other_and_of_an_exit_only_once_it_is_one() {
    let mut world = world(&["ann-1", "tag:x"]);
    let text = document(r#"{"target": ["*"], "attr": ["suggest-exit-node", "dns-subdomain-resolve", "drive:share"]}"#);
    world.nodes[1].routes = vec![Prefix::ALL_V4, Prefix::ALL_V6];
    let compiled = world.compile(&text);
    assert_eq!(shown(&compiled.peer_cap_map_for(NodeId(1))), "dns-subdomain-resolve[]");
    assert_eq!(shown(&compiled.peer_cap_map_for(NodeId(2))), "dns-subdomain-resolve[] suggest-exit-node[]");
    world.nodes[1].routes.pop();
    assert_eq!(shown(&world.compile(&text).peer_cap_map_for(NodeId(2))), "dns-subdomain-resolve[]");
}

#[test]
fn targets_and_pools_that_cannot_be_meant_are_refused() {
    for (entry, expect) in [
        (r#"{"target": ["%bogus%"], "attr": ["a"]}"#, "\"%bogus%\": invalid address"),
        (r#"{"target": ["tag:no"], "attr": ["a"]}"#, "tag not found: \"tag:no\""),
        (r#"{"target": ["group:no"], "attr": ["a"]}"#, "group not defined in policy: \"group:no\""),
        (
            r#"{"target": ["autogroup:self"], "attr": ["a"]}"#,
            "nodeAttrs target does not support this autogroup: \"autogroup:self\"",
        ),
        (r#"{"target": ["autogroup:internet"], "attr": ["a"]}"#, "does not support this autogroup"),
        (r#"{"target": ["svc:web"], "attr": ["a"]}"#, "is a service"),
        (r#"{"target": ["*"], "app": {"a.b/c": 1}}"#, "must be a list"),
        (r#"{"target": ["*"], "colour": 1}"#, "unknown field: \"colour\""),
        (
            r#"{"target": ["*"], "ipPool": ["100.100.100.0/24"]}"#,
            "IPPool(100.100.100.0/24): network within reserved range",
        ),
        (r#"{"target": ["*"], "ipPool": ["100.115.92.16/28"]}"#, "network within reserved range"),
        (r#"{"target": ["*"], "ipPool": ["100.64.0.0/10"]}"#, "network within reserved range"),
        (r#"{"target": ["*"], "ipPool": ["10.0.0.0/8"]}"#, "nodeAttrs ipPool must be within 100.64.0.0/10"),
        (r#"{"target": ["*"], "ipPool": ["100.0.0.0/8"]}"#, "nodeAttrs ipPool must be within 100.64.0.0/10"),
    ] {
        let error = Policy::parse(&document(entry)).expect_err(entry).to_string();
        assert!(error.contains(expect), "{error}");
    }
    let pool = document(r#"{"target": ["autogroup:tagged"], "ipPool": ["100.81.0.0/16"]}"#);
    let policy = Policy::parse(&pool).expect("a pool");
    let pools = |tags: &[&str]| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        policy.ip_pools(&[], &PolicyNode { tags, ..PolicyNode::default() })
    };
    assert_eq!(pools(&["tag:a"]), ["100.81.0.0/16".parse().expect("a prefix")]);
    assert!(pools(&[]).is_empty());
}
