//! The section `sshTests`.

use proptest::prelude::*;
use warren_policy::Policy;
use warren_wire::NodeId;

use super::*;

fn document(rules: &str, tests: &str) -> String {
    format!(
        r#"{{"groups": {{"group:g": ["ann@", "bob@"], "group:none": []}}, "hosts": {{"srv": "100.64.0.5", "net": "10.0.0.0/8"}},
            "tagOwners": {{"tag:x": [], "tag:y": []}}, "acls": [], "ssh": [{rules}], "sshTests": [{tests}]}}"#
    )
}

fn rule(action: &str, src: &str, dst: &str, users: &str) -> String {
    format!(r#"{{"action": "{action}", "src": ["{src}"], "dst": ["{dst}"], "users": [{users}]}}"#)
}

/// `ann-1`, `bob-1`, `tag:x` at 100.64.0.5, `tag:y`.
fn four() -> World {
    world(&["ann-1", "bob-1", "tag:x", "tag:y"])
}

#[test]
fn what_a_test_cannot_speak_of_is_refused() {
    for (test, expect) in [
        (r#"{"src": "ann@", "dst": ["tag:x"]}"#, "no accept, deny, or check assertions specified"),
        (r#"{"dst": ["tag:x"], "accept": ["root"]}"#, "sshTest 0: SSH tests entry must have a non-empty src"),
        (
            r#"{"src": " ", "dst": ["tag:x"], "accept": ["root"]}"#,
            "sshTest 0: SSH tests entry must have a non-empty src",
        ),
        (r#"{"src": "ann@", "accept": ["root"]}"#, "sshTest 0: SSH tests entry must have at least one dst"),
        (r#"{"src": "tag:no", "dst": ["tag:x"], "accept": ["root"]}"#, "failed to resolve source \"tag:no\""),
        (r#"{"src": "autogroup:self", "dst": ["tag:x"], "accept": ["root"]}"#, "autogroup:self names no nodes"),
        (
            r#"{"src": "ann@", "dst": ["tag:x:22"], "accept": ["root"]}"#,
            "SSH tests dst contains unknown tag \"tag:x:22\"",
        ),
        (
            r#"{"src": "ann@", "dst": ["srv:22"], "accept": ["root"]}"#,
            "SSH tests dst contains disallowed element \"srv:22\"",
        ),
        (
            r#"{"src": "ann@", "dst": ["10.0.0.0/8"], "accept": ["root"]}"#,
            "SSH tests dst contains disallowed element \"10.0.0.0/8\"",
        ),
        (r#"{"src": "ann@", "dst": ["net"], "accept": ["root"]}"#, "SSH tests dst contains disallowed element \"net\""),
        (
            r#"{"src": "ann@", "dst": ["autogroup:internet"], "deny": ["root"]}"#,
            "SSH tests dst contains disallowed element \"autogroup:internet\"",
        ),
        (r#"{"src": "ann@", "dst": ["*"], "deny": ["root"]}"#, "SSH tests dst contains disallowed element \"*\""),
        (
            r#"{"src": "ann@", "dst": ["group:g"], "deny": ["root"]}"#,
            "SSH tests dst contains disallowed element \"group:g\"",
        ),
        (r#"{"src": "ann@", "dst": ["tag:x"], "accept": "root"}"#, "must be a list"),
        ("null", "must be an object"),
        (r#"{"src": "ann@", "dst": ["tag:x"], "accept": [""]}"#, "user \"\" is not valid"),
        (r#"{"src": "ann@", "dst": ["tag:x"], "check": ["*"]}"#, "user \"*\" is not valid"),
    ] {
        let error = Policy::parse(&document("", test)).expect_err(test).to_string();
        assert!(error.contains("test(s) failed") && error.contains(expect), "{error}");
    }
}

#[test]
fn what_holds_passes_and_what_does_not_is_said() {
    let rules = [
        rule("accept", "group:g", "tag:x", r#""root", "autogroup:nonroot""#),
        rule("check", "ann@", "tag:y", r#""ubuntu""#),
        rule("accept", "autogroup:member", "autogroup:self", r#""root""#),
    ];
    for (test, expect) in [
        (r#"{"src": "ann@", "dst": ["tag:x"], "accept": ["root", "www"]}"#, ""),
        (r#"{"src": "ann@", "dst": ["srv", "100.64.0.5", "fd7a:115c:a1e0::5"], "accept": ["root"]}"#, ""),
        (r#"{"src": "100.64.0.1", "dst": ["tag:x"], "accept": ["root"]}"#, ""),
        (
            r#"{"src": "ann@", "dst": ["tag:y"], "check": ["ubuntu"], "accept": ["ubuntu"], "deny": ["root", "www"]}"#,
            "",
        ),
        (r#"{"src": "bob@", "dst": ["tag:y"], "deny": ["ubuntu"]}"#, ""),
        (r#"{"src": "group:g", "dst": ["autogroup:self"], "accept": ["root"], "deny": ["www"]}"#, ""),
        (r#"{"src": "ann@", "dst": ["bob@"], "deny": ["root"]}"#, ""),
        (r#"{"src": "10.9.9.9", "dst": ["tag:x"], "deny": ["root"]}"#, ""),
        (
            r#"{"src": "ann@", "dst": ["tag:x"], "check": ["root"]}"#,
            "ann@/root -> 100.64.0.5: expected ALLOWED via check, got ALLOWED via accept",
        ),
        (
            r#"{"src": "bob@", "dst": ["tag:y"], "check": ["ubuntu"]}"#,
            "bob@/ubuntu -> 100.64.0.7: expected ALLOWED via check, got DENIED",
        ),
        (
            r#"{"src": "group:g", "dst": ["tag:y"], "accept": ["ubuntu"]}"#,
            "group:g/ubuntu -> 100.64.0.7: expected ALLOWED, got DENIED",
        ),
        (
            r#"{"src": "group:g", "dst": ["tag:y"], "deny": ["ubuntu"]}"#,
            "group:g/ubuntu -> 100.64.0.7: expected DENIED, got ALLOWED",
        ),
        (
            r#"{"src": "10.9.9.9", "dst": ["tag:x"], "accept": ["root"]}"#,
            "10.9.9.9/root -> 100.64.0.5: expected ALLOWED, got DENIED",
        ),
        (
            r#"{"src": "group:none", "dst": ["tag:x"], "deny": ["root"]}"#,
            "group:none: source \"group:none\" resolved to no IP addresses",
        ),
        (r#"{"src": "ann@", "dst": ["cat@"], "deny": ["root"]}"#, "ann@: dst alias \"cat@\" resolved to no nodes"),
    ] {
        let expect = if expect.is_empty() { String::new() } else { format!("test(s) failed: {expect}") };
        assert_eq!(four().check(&document(&rules.join(","), test)), expect, "{test}");
    }
}

#[test]
fn a_node_that_may_only_reach_itself_does_not_speak_for_its_like() {
    // A source that is no destination is told the rule for itself where users are personal.
    let world = world(&["tag:y", "tag:y", "tag:x"]);
    let rules = rule("accept", "tag:y", "tag:x", r#""www", "localpart:*@example.com""#);
    let said = world.check(&document(&rules, r#"{"src": "tag:y", "dst": ["tag:y"], "accept": ["www"]}"#));
    assert!(said.contains("expected ALLOWED, got DENIED"), "{said}");
}

const NODES: [&str; 6] = ["ann-1", "ann-2", "bob-1", "cat-1", "tag:x", "tag:y"];

fn some_rule() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| proptest::sample::select(words);
    let sources = word(&["ann@", "bob@", "group:g", "tag:x", "autogroup:member", "autogroup:tagged"]);
    let destinations = word(&["tag:x", "tag:y", "autogroup:self", "autogroup:member", "autogroup:tagged"]);
    let users = word(&[
        r#""root""#,
        r#""www""#,
        r#""autogroup:nonroot""#,
        r#""localpart:*@example.com""#,
        r#""www", "localpart:*@example.com""#,
    ]);
    (word(&["accept", "check"]), sources, destinations, users).prop_map(|(action, src, dst, users)| {
        let is_tagged = ["tag:x", "autogroup:tagged"].contains(&src);
        let dst = if is_tagged && ["autogroup:self", "autogroup:member"].contains(&dst) { "tag:y" } else { dst };
        rule(action, src, dst, users)
    })
}

/// How a client reads its rules: the first that names the source and maps the user to somebody decides.
fn naive(compiled: &Compiled, from: &PolicyNode, to: NodeId, user: &str) -> Option<&'static str> {
    let rules = compiled.ssh_policy_for(to, "https://control.test").rules;
    let rule = rules.iter().find(|rule| {
        let names = |ip: &str| from.addrs.iter().any(|addr| addr.to_string() == ip);
        let local = rule.ssh_users.get(user).or_else(|| rule.ssh_users.get("*"));
        rule.principals.iter().any(|principal| names(&principal.node_ip))
            && local.is_some_and(|local| !local.is_empty())
    })?;
    Some(if rule.action.as_ref().is_some_and(|action| action.accept) { "accept" } else { "check" })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// What tests say of all sources and all destinations is what clients would do by the rules that they are told, and a
    /// check is asked for exactly where they would ask.
    #[test]
    fn tests_agree_with_the_rules_that_nodes_are_told(
        rules in proptest::collection::vec(some_rule(), 0..5),
        src in proptest::sample::select(&["ann@", "group:g", "autogroup:member", "autogroup:tagged", "tag:x", "100.64.0.3"][..]),
        dst in proptest::sample::select(&["tag:x", "autogroup:tagged", "autogroup:member", "bob@"][..]),
        user in proptest::sample::select(&["root", "www", "ann", "bob"][..]),
    ) {
        let world = world(&NODES);
        let rules = rules.join(",");
        let compiled = world.compile(&document(&rules, ""));
        let places = |word: &str| -> Vec<usize> {
            let is_meant = |name: &str| match word {
                "ann@" => name.starts_with("ann"),
                "bob@" => name.starts_with("bob"),
                "group:g" => name.starts_with("ann") || name.starts_with("bob"),
                "autogroup:member" => !name.starts_with("tag:"),
                "autogroup:tagged" => name.starts_with("tag:"),
                "100.64.0.3" => name == "ann-2",
                _ => name == word,
            };
            NODES.iter().enumerate().filter(|(_, name)| is_meant(name)).map(|(place, _)| place).collect()
        };
        let mut found = Vec::new();
        for from in places(src) {
            for to in places(dst) {
                let (from, to) = (&world.nodes[from], world.nodes[to].id);
                let verb = naive(&compiled, from, to, user);
                prop_assert_eq!(compiled.ssh_check(from.id, to, user).is_some(), verb == Some("check"));
                found.push(verb);
            }
        }
        let says = |expected: &str| {
            let test = format!(r#"{{"src": "{src}", "dst": ["{dst}"], "{expected}": ["{user}"]}}"#);
            world.check(&document(&rules, &test)).is_empty()
        };
        prop_assert_eq!(says("accept"), found.iter().all(Option::is_some));
        prop_assert_eq!(says("check"), found.iter().all(|verb| *verb == Some("check")));
        prop_assert_eq!(says("deny"), found.iter().all(Option::is_none));
    }
}

/// A machine a person, and users that depend on the person: what is asked of all pairs must not be asked of each.
#[test]
fn a_test_over_many_people_asks_of_kinds_and_not_of_pairs() {
    let mut world = world(&[]);
    for id in 1..=2000 {
        let name = format!("p{id}");
        let email = format!("{name}@example.com");
        world.users.push(PolicyUser { id: UserId(id), name, email, ..PolicyUser::default() });
        let addrs = vec![std::net::Ipv4Addr::from_bits(0x6440_0000 + id as u32).into()];
        world.nodes.push(PolicyNode { id: NodeId(id), user: Some(UserId(id)), addrs, ..PolicyNode::default() });
    }
    let rules = rule("accept", "autogroup:member", "autogroup:member", r#""localpart:*@example.com", "guest""#);
    let admits = |test: &str| {
        let policy = Policy::parse(&document(&rules, test)).unwrap();
        policy.admit(&Tailnet { users: &world.users, nodes: &world.nodes, services: &[] }, &[]).map(|_| ())
    };
    let all = r#"{"src": "autogroup:member", "dst": ["autogroup:member"]"#;
    assert_eq!(admits(&format!("{all}, \"accept\": [\"guest\"], \"deny\": [\"root\"]}}")), Ok(()));
    // p7 may be p7 everywhere, and nobody else may.
    assert_eq!(admits(r#"{"src": "p7@", "dst": ["autogroup:member"], "accept": ["p7"], "deny": ["p8"]}"#), Ok(()));
    assert!(admits(&format!("{all}, \"accept\": [\"p7\"]}}")).is_err());
    assert!(admits(&format!("{all}, \"deny\": [\"p7\"]}}")).is_err());
}
