//! `grants`: capabilities, `via`, every form of `ip`; and the selectors that only they made interesting.

use std::net::IpAddr;

use warren_policy::{Attribute, Policy, PolicyService, Role, RouteUse, Tailnet};
use warren_wire::{FilterRule, NodeId};

use super::*;

#[track_caller]
fn refuse(text: &str, expect: &str) {
    let error = Policy::parse(text).expect_err("must be refused").to_string();
    assert!(error.contains(expect), "{error}");
}

/// One grant, with two tags that may be used in it.
fn grant(rest: &str) -> String {
    format!(r#"{{"tagOwners": {{"tag:a": [], "tag:b": []}}, "grants": [{{{rest}}}]}}"#)
}

/// Capabilities in short: `sources -> prefixes cap cap`, IPv6 left out.
fn show_caps(rules: &[FilterRule]) -> String {
    let lines = rules.iter().filter(|rule| !rule.cap_grant.is_empty()).map(|rule| {
        let sources: Vec<&str> = rule.src_ips.iter().filter(|ip| !ip.contains(':')).map(String::as_str).collect();
        let grants = rule.cap_grant.iter().map(|grant| {
            let at: Vec<String> = grant.dsts.iter().filter(|at| at.is_ipv4()).map(ToString::to_string).collect();
            let caps: Vec<String> =
                grant.cap_map.iter().map(|(name, values)| format!("{name}={}", serde_json::json!(values))).collect();
            format!("{} {}", at.join(" "), caps.join(" "))
        });
        format!("{} -> {}", sources.join(" "), grants.collect::<Vec<_>>().join(" + "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_form_of_ip_is_read() {
    let world = world(&["tag:a", "tag:b"]);
    let compiled = world.compile(&grant(
        r#""src": ["tag:a"], "dst": ["tag:b"], "ip": ["443", "80, 8000-8080", "tcp:22", "udp:*", "icmp:*", "47:*", "*"]"#,
    ));
    assert_eq!(
        show(&compiled, 2),
        "100.64.0.1 -> 100.64.0.3:443-443 100.64.0.3:80-80 100.64.0.3:8000-8080 100.64.0.3:0-65535\n\
         100.64.0.1 -> 100.64.0.3:22-22 [6]\n\
         100.64.0.1 -> 100.64.0.3:0-65535 [17]\n\
         100.64.0.1 -> 100.64.0.3:0-65535 [1]\n\
         100.64.0.1 -> 100.64.0.3:0-65535 [47]"
    );
}

#[test]
fn a_grant_that_cannot_be_is_refused_in_the_fields_words() {
    let ip = |ip: &str| grant(&format!(r#""src": ["tag:a"], "dst": ["tag:b"], "ip": ["{ip}"]"#));
    refuse(&ip("icmp"), "port range \"icmp\": invalid first integer");
    refuse(&ip("0"), "port range \"0\": first port must be >0, or use '*' for wildcard");
    refuse(&ip("icmp:22"), "protocol does not support specific ports: \"icmp\", only \"*\" is allowed");
    refuse(&ip("tcp:1:2"), "expected only one colon in Internet protocol and port type, got: \"tcp:1:2\"");
    refuse(&grant(r#""src": ["*"], "dst": ["*"]"#), "ip and app can not both be empty");
    refuse(&grant(r#""src": ["*"], "dst": ["*"], "ip": [], "app": {}"#), "ip and app can not both be empty");
    let app = |name: &str, dst: &str| grant(&format!(r#""src": ["*"], "dst": ["{dst}"], "app": {{"{name}": [{{}}]}}"#));
    refuse(&app("plain", "*"), "capability name must have the form {domain}/{path}");
    refuse(&app("https://example.com/cap", "*"), "capability name must have the form {domain}/{path}");
    refuse(&app("tailscale.com/cap/funnel", "*"), "capability name must not be in the tailscale.com domain");
    refuse(&app("example.com/cap", "autogroup:internet"), "cannot use app grants with autogroup:internet");
    refuse(
        &app("example.com/cap", "::/0"),
        "dst \"::/0\": to allow all IP addresses, use \"*\" or \"autogroup:internet\"",
    );
    refuse(&app("example.com/cap", "autogroup:danger-all"), "cannot use autogroup:danger-all as a dst");
    refuse(
        &app("example.com/cap", "autogroup:self"),
        "autogroup:self can only be used with users, groups, or supported autogroups",
    );
    let via = |via: &str| grant(&format!(r#""src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": ["{via}"]"#));
    refuse(&via("tag:c"), "tag \"tag:c\" not found");
    refuse(&via("group:c"), "via can only be a tag");
}

#[test]
fn capabilities_are_told_to_the_node_that_has_them_and_their_companions_to_the_other_end() {
    let world = world(&["tag:a", "tag:b"]);
    let compiled = world.compile(&grant(
        r#""src": ["tag:a"], "dst": ["tag:b"], "app": {"example.com/x": [{"n": 1}], "tailscale.com/cap/drive": []}"#,
    ));
    let caps = |node: i64| show_caps(&compiled.filter_for(NodeId(node)));
    assert_eq!(caps(2), "100.64.0.1 -> 100.64.0.3/32 example.com/x=[{\"n\":1}] tailscale.com/cap/drive=[]");
    assert_eq!(caps(1), "100.64.0.3 -> 100.64.0.1/32 tailscale.com/cap/drive-sharer=[]");
    assert_eq!(peers(&compiled, 1), [2]);
}

#[test]
fn a_rule_with_via_opens_nothing_but_its_routers_and_steers_whom_it_speaks_of() {
    let mut world = world(&["ann-1", "bob-1", "tag:a", "tag:b", "tag:a"]);
    for router in 2..5 {
        world.nodes[router].routes = vec!["10.0.0.0/16".parse().unwrap()];
    }
    let compiled =
        world.compile(&grant(r#""src": ["ann@"], "dst": ["10.0.0.0/16"], "ip": ["tcp:80"], "via": ["tag:a"]"#));
    assert_eq!(show(&compiled, 3), "100.64.0.1 -> 10.0.0.0/16:80-80 [6]");
    assert_eq!(show(&compiled, 4), "");
    assert_eq!((peers(&compiled, 1), peers(&compiled, 2), peers(&compiled, 3)), (vec![3, 5], vec![], vec![1]));
    let route = "10.0.0.0/16".parse().unwrap();
    let used = |viewer: i64, peer: i64| compiled.route_use(NodeId(viewer), NodeId(peer), route);
    assert_eq!(used(1, 3), RouteUse::FirstOf(vec![NodeId(3), NodeId(5)]));
    assert_eq!((used(1, 4), used(2, 3)), (RouteUse::Never, RouteUse::Never));
    assert_eq!(used(4, 3), RouteUse::IfPrimary, "whoever serves the network too is told of its primary");

    let both = grant(
        r#""src": ["ann@"], "dst": ["10.0.0.0/16"], "ip": ["80"], "via": ["tag:a"]}, {"src": ["ann@"], "dst": ["10.0.0.0/8"], "ip": ["81"]"#,
    );
    let compiled = world.compile(&both);
    assert_eq!(compiled.route_use(NodeId(1), NodeId(4), route), RouteUse::IfPrimary);
}

#[test]
fn sets_of_addresses_are_built_in_order_and_from_each_other() {
    let world = world(&["ann-1", "tag:a"]);
    let policy = |sets: &str| {
        format!(
            r#"{{"hosts": {{"nas": "100.64.0.1"}}, "ipsets": {{{sets}}},
                "acls": [{{"action": "accept", "src": ["ipset:all"], "dst": ["ipset:all:22"]}}]}}"#
        )
    };
    let compiled = world.compile(&policy(
        r#""ipset:all": ["add 100.64.0.0/29", "ipset:few", "remove ipset:one"], "ipset:few": ["nas", "10.0.0.1-10.0.0.4"], "ipset:one": ["100.64.0.2"]"#,
    ));
    assert_eq!(show(&compiled, 1), "10.0.0.1-10.0.0.4 100.64.0.0/31 100.64.0.3-100.64.0.7 -> 100.64.0.0/31:22-22");
    refuse(&policy(r#""ipset:all": ["ipset:b"], "ipset:b": ["ipset:all"]"#), "the set is made of itself");
    refuse(&policy(r#""ipset:all": ["ipset:b"]"#), "ipset not defined in policy: \"ipset:b\"");
    refuse(&policy(r#""ipset:all": ["tag:a"]"#), "invalid target \"tag:a\"");
    refuse(&policy(r#""ipset:all": ["minus 10.0.0.1"]"#), "invalid operation \"minus\"");
}

#[test]
fn only_devices_that_meet_a_posture_count_as_sources() {
    let mut world = world(&["ann-1", "ann-2", "tag:b"]);
    let text = |value: &str| Attribute::Text(value.to_owned());
    world.nodes[0].attributes =
        [("node:os".to_owned(), text("linux")), ("node:tsVersion".to_owned(), text("1.80.2"))].into();
    let policy = |postures: &str, rest: &str| {
        format!(
            r#"{{"tagOwners": {{"tag:b": []}}, "postures": {{"posture:p": {postures}}},
                "acls": [{{"action": "accept", "src": ["*"], "dst": ["tag:b:22"], {rest}}}]}}"#
        )
    };
    let admits = |assertion: &str| {
        let compiled = world.compile(&policy(&format!("[\"{assertion}\"]"), r#""srcPosture": ["posture:p"]"#));
        (compiled.may_reach(NodeId(1), NodeId(3)), compiled.may_reach(NodeId(2), NodeId(3)))
    };
    for assertion in [
        "node:os == 'linux'",
        "node:os IN ['macos', 'linux']",
        "node:os NOT IN ['macos']",
        "node:os != 'macos'",
        "node:os IS SET",
        "node:tsVersion >= '1.80'",
        "node:tsVersion < '1.100'",
    ] {
        assert_eq!(admits(assertion), (true, false), "{assertion}");
    }
    assert_eq!(admits("node:os NOT SET"), (false, true));
    assert_eq!(admits("custom:tier"), (false, false));
    refuse(&policy(r#"["os == 'linux'"]"#, r#""srcPosture": []"#), "invalid attribute \"os\"");
    refuse(&policy(r#"["node:os > 'linux'"]"#, r#""srcPosture": []"#), "> compares numbers and versions only");
    refuse(&policy("[]", r#""srcPosture": []"#), "a posture needs at least one assertion");
    refuse(&policy(r#"["node:os"]"#, r#""srcPosture": ["posture:q"]"#), "posture not defined in policy: \"posture:q\"");
}

#[test]
fn a_default_posture_is_for_rules_that_name_none() {
    let world = world(&["ann-1", "tag:b"]);
    let policy = |rest: &str| {
        format!(
            r#"{{"tagOwners": {{"tag:b": []}}, "postures": {{"posture:no": ["node:os == 'none'"], "posture:yes": ["node:os NOT SET"]}},
                "defaultSrcPosture": ["posture:no"], "acls": [{{"action": "accept", "src": ["ann@"], "dst": ["tag:b:22"]{rest}}}]}}"#
        )
    };
    assert!(!world.compile(&policy("")).may_reach(NodeId(1), NodeId(2)));
    assert!(world.compile(&policy(r#", "srcPosture": ["posture:yes"]"#)).may_reach(NodeId(1), NodeId(2)));
}

#[test]
fn people_are_named_by_role_domain_and_the_providers_groups() {
    let mut world = world(&["ann-1", "bob-1", "cat-1", "tag:b"]);
    world.users[0].roles = vec![Role::Owner];
    world.users[1].groups = vec!["ops".to_owned(), "sre@example.com".to_owned()];
    world.users[2].email = "cat@example.org".to_owned();
    let from = |source: &str| {
        let compiled = world.compile(&grant(&format!(r#""src": ["{source}"], "dst": ["tag:b"], "ip": ["22"]"#)));
        let reaches = |node: &i64| compiled.may_reach(NodeId(*node), NodeId(4));
        [1, 2, 3].into_iter().filter(reaches).collect::<Vec<i64>>()
    };
    assert_eq!(from("autogroup:owner"), [1]);
    assert_eq!(from("autogroup:admin"), [1], "who owns the network administers it");
    assert!(from("autogroup:auditor").is_empty());
    assert_eq!(from("user:*@example.com"), [1, 2]);
    let unheld = grant(r#""src": ["autogroup:auditor", "user:*@no.example"], "dst": ["tag:b"], "ip": ["22"]"#);
    let problems = ["no user found: autogroup:auditor", "no user found: user:*@no.example"];
    assert_eq!(world.compile(&unheld).problems(), problems);
    assert_eq!(from("group:ops@oidc"), [2]);
    assert_eq!(from("group:ops@example.com"), [2]);
    assert!(from("group:ops@example.org").is_empty());
    assert_eq!(from("group:sre@example.com"), [2]);
    assert!(from("autogroup:shared").is_empty());
    refuse(
        &grant(r#""src": ["group:ops"], "dst": ["tag:b"], "ip": ["22"]"#),
        "group not defined in policy: \"group:ops\"",
    );
    refuse(
        &grant(r#""src": ["autogroup:nobody"], "dst": ["tag:b"], "ip": ["22"]"#),
        "invalid autogroup: \"autogroup:nobody\"",
    );
}

#[test]
fn a_word_that_means_two_people_is_refused_where_a_policy_is_written() {
    let mut world = world(&[]);
    world.users[1].email = "ann@example.com".into();
    world.users[1].provider_id = Some("https://id.example/7".into());
    let text =
        "{\"acls\": [\n  {\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"ann@example.com:22\", \"cat@:22\"]}]}";
    let error = Policy::check_people(text, &world.users).unwrap_err();
    assert_eq!((error.0.len(), error.0[0].line, error.0[0].column), (1, 2, 46));
    let message = error.to_string();
    assert!(message.contains("multiple users found: token ann@example.com"), "{message}");
    assert!(message.contains("user 2 (bob, ann@example.com, https://id.example/7)"), "{message}");
    world.users[1].email = "bob@example.com".into();
    assert_eq!(Policy::check_people(text, &world.users), Ok(()));
}

#[test]
fn a_service_is_reached_at_its_own_addresses_through_its_hosts() {
    let world = world(&["ann-1", "tag:a", "tag:b"]);
    let policy = Policy::parse(&grant(r#""src": ["ann@"], "dst": ["svc:web"], "ip": ["443"]"#)).unwrap();
    let addr: IpAddr = "100.64.9.9".parse().unwrap();
    let services = [PolicyService { name: "svc:web".to_owned(), addrs: vec![addr], hosts: vec![NodeId(2)] }];
    let compiled = policy.compile(&Tailnet { users: &world.users, nodes: &world.nodes, services: &services });
    assert_eq!(show(&compiled, 2), "100.64.0.1 -> 100.64.9.9:443-443");
    assert_eq!((show(&compiled, 3), peers(&compiled, 1)), (String::new(), vec![2]));
    let compiled = policy.compile(&Tailnet { users: &world.users, nodes: &world.nodes, services: &[] });
    assert_eq!(compiled.problems(), ["no service found: svc:web"]);
    refuse(&grant(r#""src": ["svc:web"], "dst": ["*"], "ip": ["443"]"#), "not valid on the src side of a rule");
}

#[test]
fn services_approve_themselves_where_the_policy_says_so() {
    let world = world(&["tag:a", "tag:b"]);
    let policy = Policy::parse(
        r#"{"tagOwners": {"tag:a": [], "tag:b": []},
            "autoApprovers": {"services": {"svc:web": ["tag:a"], "tag:b": ["tag:b"]}}}"#,
    )
    .unwrap();
    let approves = |node: usize, service: &str, tags: &[&str]| {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        policy.approves_service(&world.users, &world.nodes[node], service, &tags)
    };
    assert!(approves(0, "svc:web", &[]) && !approves(1, "svc:web", &[]) && !approves(0, "svc:db", &[]));
    assert!(approves(1, "svc:db", &["tag:b"]) && !approves(0, "svc:db", &["tag:b"]));
}

#[test]
fn rules_of_acls_come_after_those_of_grants() {
    let world = world(&["ann-1", "bob-1", "tag:b"]);
    let compiled = world.compile(
        r#"{"tagOwners": {"tag:b": []}, "acls": [{"action": "accept", "src": ["ann@"], "dst": ["tag:b:22"]}],
            "grants": [{"src": ["bob@"], "dst": ["tag:b"], "ip": ["80"]}]}"#,
    );
    assert_eq!(show(&compiled, 3), "100.64.0.3 -> 100.64.0.5:80-80\n100.64.0.1 -> 100.64.0.5:22-22");
}

#[test]
fn any_protocol_may_be_written_and_none_may_not() {
    let grant = |ip: &str| format!("{{\"grants\": [{{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [{ip:?}]}}]}}");
    for ip in ["*:443", "*:*", "443"] {
        assert!(Policy::parse(&grant(ip)).is_ok(), "{ip}");
    }
    refuse(&grant(":80"), "empty protocol");
}
