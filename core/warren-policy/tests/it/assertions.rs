//! The section `tests`.

use proptest::prelude::*;
use warren_filter::Filter;
use warren_ip::{Flow, Prefix, Protocol};
use warren_policy::{Attribute, Policy};

use super::*;

fn document(rules: &str, test: &str) -> String {
    format!(
        r#"{{"groups": {{"group:g": ["ann@", "bob@"], "group:none": []}},
            "hosts": {{"srv": "100.64.0.5", "far": "10.1.0.7", "net": "10.0.0.0/8"}},
            "tagOwners": {{"tag:x": [], "tag:y": []}}, "postures": {{"posture:ok": ["node:os == 'linux'"]}},
            {rules}, "tests": [{test}]}}"#
    )
}

fn acls(rules: &[&str]) -> String {
    format!(r#""acls": [{}]"#, rules.join(","))
}

fn accept(src: &str, dst: &str) -> String {
    format!(r#"{{"action": "accept", "src": ["{src}"], "dst": ["{dst}"]}}"#)
}

/// `ann-1`, `bob-1`, `tag:x` at 100.64.0.5, `tag:y`.
fn four() -> World {
    world(&["ann-1", "bob-1", "tag:x", "tag:y"])
}

#[track_caller]
fn refuse(test: &str, expect: &str) {
    let error = Policy::parse(&document(&acls(&[]), test)).expect_err("a test that is refused").to_string();
    assert!(error.contains("test(s) failed") && error.contains(expect), "{error}");
}

#[test]
fn a_test_is_one_source_and_single_ports_of_single_hosts() {
    for (test, expect) in [
        (r#"{"src": "ann@"}"#, "test entry must have at least one of \"accept\" or \"deny\""),
        (r#"{"accept": ["srv:22"]}"#, "a test has a src"),
        (r#"{"src": "tag:no", "accept": ["srv:22"]}"#, "failed to resolve source \"tag:no\": tag not found"),
        (r#"{"src": "nohost", "accept": ["srv:22"]}"#, "host not defined in policy: \"nohost\""),
        (r#"{"src": "autogroup:bogus", "accept": ["srv:22"]}"#, "autogroup:bogus"),
        (r#"{"src": "autogroup:self", "accept": ["srv:22"]}"#, "autogroup:self is no source"),
        (r#"{"src": "ann@", "accept": ["srv"]}"#, "hostport must contain a colon"),
        (r#"{"src": "ann@", "accept": ["srv:*"]}"#, "test destination port must be a single port"),
        (r#"{"src": "ann@", "accept": ["srv:22,80"]}"#, "test destination port must be a single port"),
        (r#"{"src": "ann@", "deny": ["srv:22-23"]}"#, "test destination port must be a single port"),
        (r#"{"src": "ann@", "accept": ["srv:-1"]}"#, "tests[0].accept[0]"),
        (r#"{"src": "ann@", "accept": ["srv:70000"]}"#, "70000"),
        (r#"{"src": "ann@", "deny": ["net:22"]}"#, "test destination must be a single host, not a CIDR range"),
        (r#"{"src": "ann@", "deny": ["10.0.0.0/8:22"]}"#, "test destination must be a single host, not a CIDR range"),
        (
            r#"{"src": "ann@", "deny": ["100.64.0.1/32:22"]}"#,
            "test destination must be a single host, not a CIDR range",
        ),
        (
            r#"{"src": "ann@", "deny": ["autogroup:internet:443"]}"#,
            "autogroup:internet not valid as a test destination",
        ),
        (
            r#"{"src": "ann@", "proto": "icmp", "accept": ["srv:22"]}"#,
            "test protocol must be tcp, udp, sctp, or empty: \"icmp\"",
        ),
        (r#"{"src": "ann@", "proto": "icmp", "accept": ["srv:*"]}"#, "test protocol must be tcp, udp, sctp, or empty"),
        (r#"{"src": "ann@", "proto": "carrier", "accept": ["srv:1"]}"#, "carrier"),
    ] {
        refuse(test, expect);
    }
}

#[test]
fn what_holds_passes_and_what_does_not_is_said_as_the_field_says_it() {
    let rules = acls(&[
        &accept("group:g", "tag:x:22"),
        r#"{"action": "accept", "proto": "udp", "src": ["tag:y"], "dst": ["*:53"]}"#,
    ]);
    for (test, expect) in [
        (r#"{"src": "ann@", "accept": ["srv:22", "tag:x:22", "100.64.0.5:22", "[fd7a:115c:a1e0::5]:22"]}"#, ""),
        (r#"{"src": "group:g", "accept": ["srv:22"], "deny": ["srv:23", "tag:y:22"]}"#, ""),
        (r#"{"src": "ann@", "accept": ["srv:23"]}"#, "test(s) failed: ann@ -> srv:23: expected ALLOWED, got DENIED"),
        (r#"{"src": "ann@", "deny": ["srv:22"]}"#, "test(s) failed: ann@ -> srv:22: expected DENIED, got ALLOWED"),
        (r#"{"user": "ann@", "allow": ["srv:23"]}"#, "test(s) failed: ann@ -> srv:23: expected ALLOWED, got DENIED"),
        (r#"{"src": "tag:y", "proto": "udp", "accept": ["srv:53", "far:53"], "deny": ["srv:54"]}"#, ""),
        (r#"{"src": "tag:y", "proto": "tcp", "deny": ["srv:53"]}"#, ""),
        (r#"{"src": "tag:y", "accept": ["srv:53"]}"#, ""),
        (
            r#"{"src": "tag:y", "proto": "tcp", "accept": ["srv:53"]}"#,
            "test(s) failed: tag:y -> srv:53 (tcp): expected ALLOWED, got DENIED",
        ),
        (r#"{"src": "tag:y", "proto": "icmp", "accept": ["srv:0"]}"#, ""),
        (r#"{"src": "ann@", "proto": "sctp", "deny": ["srv:22"]}"#, ""),
        (
            r#"{"src": "group:none", "accept": ["srv:22"]}"#,
            "test(s) failed: group:none: source \"group:none\" resolved to no IP addresses",
        ),
        (
            r#"{"src": "ann@", "deny": ["cat@:22"]}"#,
            "test(s) failed: ann@: error testing \"cat@:22\": destination resolved to no IP addresses: \"cat@:22\"",
        ),
    ] {
        assert_eq!(four().check(&document(&rules, test)), expect, "{test}");
    }
}

#[test]
fn accepted_means_every_source_and_denied_means_none() {
    let rules = acls(&[&accept("ann@", "srv:22")]);
    let said = four().check(&document(
        &rules,
        r#"{"src": "group:g", "accept": ["srv:22"]}, {"src": "group:g", "deny": ["srv:22"]}"#,
    ));
    assert_eq!(
        said,
        "test(s) failed: group:g -> srv:22: expected ALLOWED, got DENIED\n\
         test(s) failed: group:g -> srv:22: expected DENIED, got ALLOWED"
    );
    let both = acls(&[&accept("ann@", "srv:22"), &accept("bob@", "100.64.0.0/24:1-99")]);
    assert_eq!(four().check(&document(&both, r#"{"src": "group:g", "accept": ["srv:22"]}"#)), "");
}

#[test]
fn without_rules_of_access_everything_is_allowed() {
    let test = r#"{"src": "ann@", "accept": ["far:1"]}"#;
    assert_eq!(four().check(&document(r#""randomizeClientPort": false"#, test)), "");
    assert!(!four().check(&document(&acls(&[]), test)).is_empty());
}

#[test]
fn own_devices_and_routers_count_as_filters_let_them() {
    let mut world = world(&["ann-1", "ann-2", "bob-1", "tag:x"]);
    let own = acls(&[&accept("autogroup:member", "autogroup:self:22")]);
    let test = r#"{"src": "ann@", "accept": ["100.64.0.3:22"], "deny": ["100.64.0.3:23", "bob@:22", "tag:x:22"]}"#;
    assert_eq!(world.check(&document(&own, test)), "");
    let via = r#""grants": [{"src": ["ann@"], "dst": ["10.1.0.0/16"], "ip": ["tcp:443"], "via": ["tag:x"]}]"#;
    let test = r#"{"src": "ann@", "accept": ["far:443"]}"#;
    assert!(!world.check(&document(via, test)).is_empty(), "nobody is the way there");
    world.nodes[3].routes = vec!["10.1.0.0/24".parse::<Prefix>().expect("a network")];
    assert_eq!(world.check(&document(via, test)), "");
}

#[test]
fn a_test_may_suppose_what_the_device_is_like() {
    let mut world = world(&["ann-1", "tag:x"]);
    let rules = r#""grants": [{"src": ["ann@"], "dst": ["tag:x"], "ip": ["22"], "srcPosture": ["posture:ok"]}]"#;
    let supposed = |system: &str, word: &str| {
        document(
            rules,
            &format!(r#"{{"src": "ann@", "srcPostureAttrs": {{"node:os": "{system}"}}, "{word}": ["tag:x:22"]}}"#),
        )
    };
    assert_eq!(world.check(&supposed("linux", "accept")), "");
    assert_eq!(world.check(&supposed("windows", "deny")), "");
    let plain = document(rules, r#"{"src": "ann@", "accept": ["tag:x:22"]}"#);
    assert!(!world.check(&plain).is_empty(), "nothing is known of the device");
    world.nodes[0].attributes.insert("node:os".to_owned(), Attribute::Text("linux".to_owned()));
    assert_eq!(world.check(&plain), "");
    assert_eq!(world.check(&supposed("windows", "deny")), "");
}

#[test]
fn a_failure_names_its_place() {
    let world = four();
    let text = "{\"acls\": [],\n  \"tests\": [{\"src\": \"ann@\",\n    \"accept\": [\"bob@:1\",\n      \"bob@:2\"]}]}";
    let tailnet = Tailnet { users: &world.users, nodes: &world.nodes, services: &[] };
    let failures = Policy::parse(text).expect("a policy").admit(&tailnet, &[]).expect_err("failures").0;
    let places: Vec<_> = failures.iter().map(|failure| (failure.line, failure.column, failure.path.as_str())).collect();
    assert_eq!(places, [(3, 16, "tests[0].accept[0]"), (4, 7, "tests[0].accept[1]")]);
}

const NODES: [&str; 6] = ["ann-1", "ann-2", "bob-1", "cat-1", "tag:x", "tag:y"];

fn rule() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| proptest::sample::select(words);
    let sources =
        word(&["*", "ann@", "bob@", "group:g", "tag:x", "autogroup:member", "autogroup:tagged", "100.64.0.0/29"]);
    let destinations = word(&["*", "ann@", "group:g", "tag:y", "autogroup:self", "srv", "100.64.0.0/29"]);
    (sources, destinations, word(&["22", "80", "*"]), word(&["", "tcp", "udp"])).prop_map(
        |(src, dst, port, protocol)| {
            let dst = if dst == "autogroup:self" && ["tag:x", "autogroup:tagged", "100.64.0.0/29"].contains(&src) {
                "*"
            } else {
                dst
            };
            format!(r#"{{"action": "accept", "proto": "{protocol}", "src": ["{src}"], "dst": ["{dst}:{port}"]}}"#)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// What tests say of one node and another is what the filter of the other does with a packet of the one.
    #[test]
    fn tests_agree_with_the_filters(
        rules in proptest::collection::vec(rule(), 0..5),
        from in 0..NODES.len(),
        to in 0..NODES.len(),
        is_udp in any::<bool>(),
        port in proptest::sample::select(&[22_u16, 80, 81][..]),
    ) {
        let world = world(&NODES);
        let rules = acls(&rules.iter().map(String::as_str).collect::<Vec<_>>());
        let (src, dst) = (world.nodes[from].addrs[0], world.nodes[to].addrs[0]);
        let (protocol, word) = if is_udp { (Protocol::UDP, "udp") } else { (Protocol::TCP, "tcp") };
        let compiled = world.compile(&document(&rules, ""));
        let (filter, _) = Filter::compile(&compiled.filter_for(world.nodes[to].id), |_| Vec::new());
        let is_let_in = filter.permits(&Flow { protocol, src: (src, 9).into(), dst: (dst, port).into() });
        let says = |expected: &str| {
            let test = format!(r#"{{"src": "{src}", "proto": "{word}", "{expected}": ["{dst}:{port}"]}}"#);
            world.check(&document(&rules, &test)).is_empty()
        };
        prop_assert_eq!(says("accept"), is_let_in);
        prop_assert_eq!(says("deny"), !is_let_in);
    }
}
