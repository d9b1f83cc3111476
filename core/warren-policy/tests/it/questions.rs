//! Explaining, comparing and proving, one case at a time.

use warren_ip::Protocol;
use warren_policy::Policy;
use warren_policy::analysis::{Answer, Packet, Verdict, diff, explain, imagine, prove, read_statements};

use super::{World, world};

/// What `prove` says of a statement, in short.
#[track_caller]
fn verdict(policy: &str, statement: &str) -> String {
    let policy = Policy::parse(policy).unwrap_or_else(|error| panic!("{error}"));
    let statements = read_statements(statement).unwrap();
    show(&prove(&policy, &[], &statements[0]))
}

fn show(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Proved { is_vacuous: true, .. } => "vacuous".to_owned(),
        Verdict::Proved { assuming, .. } if assuming.is_empty() => "proved".to_owned(),
        Verdict::Proved { assuming, .. } => format!("proved, assuming that {}", assuming.join("; ")),
        Verdict::Disproved(counterexample) => counterexample.to_string(),
        Verdict::Undecided(reason) => format!("undecided: {reason}"),
    }
}

/// `expect`: all of these parts stand in the verdict.
#[track_caller]
fn check(policy: &str, statement: &str, expect: &[&str]) {
    let verdict = verdict(policy, statement);
    let is_plain = expect.len() == 1 && expect[0] == "proved";
    assert!(if is_plain { verdict == "proved" } else { expect.iter().all(|part| verdict.contains(part)) }, "{verdict}");
}

#[test]
fn a_node_may_wear_two_tags_that_one_person_owns() {
    let policy = r#"{"tagOwners": {"tag:guest": ["group:it"], "tag:web": ["group:it"], "tag:db": ["group:it"]},
        "groups": {"group:it": ["ann@example.com"]},
        "acls": [{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}]}"#;
    check(
        policy,
        "nothing from tag:guest reaches tag:db",
        &["passes", "from a node with tag:guest and tag:web", "5432"],
    );
    check(policy, "nothing from tag:guest reaches tag:db on 22", &["proved"]);
    check(policy, "nothing from autogroup:member reaches tag:db", &["proved"]);
}

#[test]
fn a_node_does_not_wear_two_tags_that_no_one_person_owns() {
    let policy = r#"{"tagOwners": {"tag:guest": ["ann@example.com"], "tag:web": ["bob@example.com"], "tag:db": ["bob@example.com"]},
        "acls": [{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}]}"#;
    let expect = ["proved, assuming that no operator gives one node tag:guest and tag:web"];
    check(policy, "nothing from tag:guest reaches tag:db", &expect);
}

#[test]
fn a_tag_without_owners_is_an_operators_to_give_beside_others() {
    let policy = r#"{"tagOwners": {"tag:guest": [], "tag:web": ["bob@example.com"], "tag:db": []},
        "acls": [{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}]}"#;
    check(policy, "nothing from tag:guest reaches tag:db", &["passes", "tag:guest and tag:web"]);
}

#[test]
fn owners_of_two_tags_may_be_one_person_by_two_words() {
    let policy = |owner: &str| {
        format!(
            r#"{{"tagOwners": {{"tag:guest": ["ann@"], "tag:web": ["{owner}"], "tag:db": []}},
            "acls": [{{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:1"]}}]}}"#
        )
    };
    check(&policy("boss@example.com"), "nothing from tag:guest reaches tag:db", &["passes"]);
    check(&policy("bob@"), "nothing from tag:guest reaches tag:db", &["proved, assuming"]);
}

#[test]
fn every_is_every_port_protocol_and_node() {
    let policy = r#"{"tagOwners": {"tag:server": [], "tag:web": []}, "acls": [
        {"action": "accept", "src": ["ann@example.com"], "dst": ["tag:server:20-30"]},
        {"action": "accept", "proto": "tcp", "src": ["autogroup:member"], "dst": ["tag:web:80,443"]}]}"#;
    check(policy, "ann@example.com reaches every tag:server on 22", &["proved"]);
    check(policy, "ann@example.com reaches every tag:server on 22,31", &["tcp 31 is refused"]);
    check(policy, "ann@example.com reaches every tag:server on icmp", &["proved"]);
    check(policy, "bob@example.com reaches every tag:server on 22", &["is refused", "of bob@example.com"]);
    check(policy, "autogroup:member reaches every tag:web on tcp 443", &["proved"]);
    check(policy, "autogroup:member reaches every tag:web on 443", &["udp 443 is refused"]);
    check(policy, "autogroup:tagged reaches every tag:web on tcp 443", &["is refused", "with tag:"]);
}

#[test]
fn rules_cover_what_is_said_only_together() {
    let policy = r#"{"tagOwners": {"tag:a": [], "tag:b": []}, "acls": [
        {"action": "accept", "src": ["autogroup:member"], "dst": ["tag:a:1-100"]},
        {"action": "accept", "src": ["autogroup:member", "autogroup:tagged"], "dst": ["tag:a:101-65535"]},
        {"action": "accept", "src": ["tag:a", "tag:b"], "dst": ["tag:a:*"]}]}"#;
    check(policy, "100.64.0.9 reaches every tag:a on tcp 1-65535", &["proved"]);
    check(policy, "100.64.0.9 reaches every tag:a on tcp *", &["tcp 0 is refused"]);
    check(policy, "* reaches every tag:a on tcp 443", &["is refused", "serving 10."]);
}

#[test]
fn devices_of_ones_own_are_of_one_owner() {
    let policy = r#"{"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}"#;
    check(policy, "autogroup:member reaches every autogroup:self", &["proved"]);
    check(policy, "nothing from ann@example.com reaches bob@example.com", &["proved"]);
    check(policy, "nothing from ann@example.com reaches ann@example.com", &["passes"]);
    check(policy, "ann@example.com reaches every ann@example.com", &["proved"]);
    check(policy, "autogroup:member reaches every autogroup:member", &["is refused"]);
    // A login and an address may be one person's; two addresses are not.
    check(policy, "nothing from ann@ reaches bob@example.com", &["passes"]);
}

#[test]
fn networks_are_reached_behind_whatever_node_serves_them() {
    let policy = r#"{"tagOwners": {"tag:router": []}, "groups": {"group:c": ["cat@example.com"]}, "grants": [
        {"src": ["group:c"], "dst": ["10.1.0.0/16"], "ip": ["tcp:443"], "via": ["tag:router"]},
        {"src": ["ann@example.com"], "dst": ["10.0.0.0/8"], "ip": ["22"]},
        {"src": ["bob@example.com"], "dst": ["autogroup:internet"], "ip": ["*"]}]}"#;
    check(policy, "nothing from group:c reaches 10.0.0.0/8 on tcp 22", &["proved"]);
    check(policy, "nothing from group:c reaches 10.0.0.0/8", &["passes", "tcp 443", "with tag:router"]);
    check(policy, "group:c reaches every 10.1.0.0/16 on tcp 443", &["is refused", "into a node of somebody"]);
    check(policy, "ann@example.com reaches every 10.0.0.0/8 on 22", &["proved"]);
    check(policy, "bob@example.com reaches every autogroup:internet on 443", &["proved"]);
    check(policy, "nothing from bob@example.com reaches 192.168.0.0/16", &["proved"]);
}

#[test]
fn an_exit_node_is_told_of_public_networks_only() {
    let policy = r#"{"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["8.0.0.0/5:*"]}]}"#;
    // The network holds 10.0.0.0/8 as well, so exit nodes are not told of it.
    check(policy, "ann@example.com reaches every 8.8.8.0/24 on 443", &["is refused", "serving 0.0.0.0/0, ::/0"]);
    let policy = r#"{"acls": [{"action": "accept", "src": ["ann@example.com"], "dst": ["8.0.0.0/7:*"]}]}"#;
    check(policy, "ann@example.com reaches every 8.8.8.0/24 on 443", &["proved"]);
}

#[test]
fn postures_are_met_or_not_as_the_statement_fares_worst() {
    let policy = |more: &str| {
        format!(
            r#"{{"postures": {{"posture:new": ["node:tsVersion >= '1.40'", "node:os IN ['linux', 'macos']"],
                              "posture:never": ["node:os == 'linux'", "node:os == 'macos'"]}},
            "tagOwners": {{"tag:db": []}}, "acls": [
            {{"action": "accept", "src": ["ann@example.com"], "dst": ["tag:db:22"], "srcPosture": ["posture:new"]}}{more}]}}"#
        )
    };
    check(
        &policy(""),
        "nothing from ann@example.com reaches tag:db",
        &["passes", "node:os = 'linux'", "node:tsVersion = '1.40'"],
    );
    check(&policy(""), "ann@example.com reaches every tag:db on 22", &["is refused"]);
    let never =
        r#", {"action": "accept", "src": ["bob@example.com"], "dst": ["tag:db:22"], "srcPosture": ["posture:never"]}"#;
    check(&policy(never), "nothing from bob@example.com reaches tag:db", &["undecided", "posture:never"]);
}

#[test]
fn statements_about_nobody_or_nothing_known_are_told_apart() {
    let policy = r#"{"groups": {"group:empty": []}, "acls": []}"#;
    check(policy, "nothing from group:empty reaches *", &["vacuous"]);
    check(policy, "nothing from group:none reaches *", &["undecided: group not defined in policy"]);
    check(policy, "nothing from tag:none reaches *", &["undecided: tag not found"]);
    check(policy, "nothing from * reaches *", &["proved"]);
    check("{}", "nothing from * reaches *", &["passes"]);
    check("{}", "* reaches every *", &["proved"]);
    check("{}", "* reaches every * on gre", &["47 is refused"]);
}

#[test]
fn people_who_are_known_are_those_and_nobody_else() {
    let World { mut users, .. } = world(&[]);
    let policy = Policy::parse(
        r#"{"tagOwners": {"tag:db": []}, "acls": [{"action": "accept", "src": ["bob@example.com"], "dst": ["tag:db:*"]}]}"#,
    )
    .unwrap();
    let ask = |users: &[_], text: &str| show(&prove(&policy, users, &read_statements(text).unwrap()[0]));
    // Of a login nobody can say whose address it goes with, until people are known.
    assert!(ask(&[], "nothing from ann@ reaches tag:db").contains("passes"));
    assert_eq!(ask(&users, "nothing from ann@ reaches tag:db"), "proved");
    assert!(ask(&users, "nothing from bob@ reaches tag:db").contains("passes"));
    users[0].email = "bob@example.com".to_owned();
    assert!(ask(&users, "nothing from bob@example.com reaches tag:db").contains("means more than one person"));
}

const SMALL: &str = r#"{
  "groups": {"group:dev": ["ann@example.com"]},
  "tagOwners": {"tag:db": [], "tag:web": []},
  "acls": [
    {"action": "accept", "src": ["group:dev"], "dst": ["tag:db:5432"]},
      {"action": "accept", "proto": "tcp", "src": ["tag:web"], "dst": ["tag:db:80,443", "100.64.0.1:22"]},
  ],
}"#;

#[track_caller]
fn ask(nodes: &[&str], from: usize, to: usize, port: u16) -> String {
    let World { users, nodes } = world(nodes);
    let policy = Policy::parse(SMALL).unwrap();
    let packet = Packet { src: nodes[from].addrs[0], dst: nodes[to].addrs[0], protocol: Protocol::TCP, port };
    let tailnet = warren_policy::Tailnet { users: &users, nodes: &nodes, services: &[] };
    explain(&policy, SMALL, &tailnet, packet).to_string()
}

#[test]
fn the_rule_that_lets_a_packet_pass_is_told_with_its_place() {
    let told = ask(&["ann-a", "tag:db"], 0, 1, 5432);
    assert!(told.contains("passes\n  by acls[0].dst[0] at 5:5: {\"action\":\"accept\""), "{told}");
}

#[test]
fn the_nearest_rule_is_told_with_what_it_misses() {
    let nodes = ["ann-a", "tag:db", "bob-b", "tag:web"];
    let told = |from, to, port| ask(&nodes, from, to, port);
    assert!(told(0, 1, 22).ends_with("missing: port 22 is not in 5432"), "{}", told(0, 1, 22));
    assert!(told(2, 1, 5432).ends_with("missing: bob@example.com is not in group:dev"), "{}", told(2, 1, 5432));
    assert!(told(3, 1, 22).contains("nearest is acls[1].dst[0] at 6:7"), "{}", told(3, 1, 22));
    assert!(told(0, 3, 5432).ends_with("missing: dst has tag:web, the rule names tag:db"), "{}", told(0, 3, 5432));
}

#[test]
fn a_packet_for_no_node_goes_nowhere() {
    let World { users, nodes } = world(&["ann-a"]);
    let policy = Policy::parse(SMALL).unwrap();
    let dst = "10.0.0.1".parse().unwrap();
    let packet = Packet { src: nodes[0].addrs[0], dst, protocol: Protocol::TCP, port: 22 };
    let tailnet = warren_policy::Tailnet { users: &users, nodes: &nodes, services: &[] };
    assert_eq!(explain(&policy, SMALL, &tailnet, packet).answer, Answer::NoReceiver);
}

#[test]
fn nodes_are_made_up_where_none_are_known() {
    let policy = Policy::parse(SMALL).unwrap();
    let passes = |src: &str, dst: &str, port| {
        let made = imagine(&policy, &[], src, dst).unwrap();
        let tailnet = warren_policy::Tailnet { users: &made.users, nodes: &made.nodes, services: &made.services };
        let packet = Packet { src: made.src, dst: made.dst, protocol: Protocol::TCP, port };
        explain(&policy, SMALL, &tailnet, packet).answer.is_allowed()
    };
    assert!(passes("ann@example.com", "tag:db", 5432) && passes("group:dev", "tag:db", 5432));
    assert!(!passes("bob@example.com", "tag:db", 5432) && !passes("autogroup:member", "tag:db", 5432));
    assert!(passes("tag:web", "100.64.0.1", 22) && !passes("tag:web", "100.64.0.2", 22));
    assert!(imagine(&policy, &[], "tag:none", "tag:db").is_err());
}

#[test]
fn a_change_is_told_with_who_gains_what() {
    let World { users, nodes } = world(&["ann-a", "ann-b", "bob-c", "tag:x", "tag:y"]);
    let policy = |ports: &str| {
        let text = format!(
            r#"{{"tagOwners": {{"tag:x": [], "tag:y": []}},
                "acls": [{{"action": "accept", "proto": "tcp", "src": ["ann@example.com"], "dst": ["tag:x:{ports}", "tag:y:{ports}"]}}]}}"#
        );
        Policy::parse(&text).unwrap()
    };
    let tailnet = warren_policy::Tailnet { users: &users, nodes: &nodes, services: &[] };
    assert_eq!(diff(&policy("22,80"), &policy("22,80"), &tailnet), []);
    assert_eq!(diff(&policy("1-10"), &policy("1-5,6-10"), &tailnet), [], "said differently, and the same");
    let changes = diff(&policy("22,80"), &policy("22,443"), &tailnet);
    let told: Vec<String> = changes
        .iter()
        .map(|change| {
            format!("{} {:?} {:?} {} {}", change.is_gain, change.from, change.to, change.traffic, change.witness)
        })
        .collect();
    assert_eq!(
        told,
        [
            "true [Node(NodeId(1)), Node(NodeId(2))] [Node(NodeId(4)), Node(NodeId(5))] tcp 443 100.64.0.1 -> 100.64.0.7 tcp 443",
            "false [Node(NodeId(1)), Node(NodeId(2))] [Node(NodeId(4)), Node(NodeId(5))] tcp 80 100.64.0.1 -> 100.64.0.7 tcp 80",
        ]
    );
}
