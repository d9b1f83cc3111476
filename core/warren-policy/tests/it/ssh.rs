//! The section `ssh`: what is refused, and what nodes are told.

use std::time::Duration;

use warren_policy::{CheckPeriod, Policy, PolicyUser, Tailnet};
use warren_wire::{NodeId, UserId};

use super::*;

fn document(rules: &str) -> String {
    format!(
        r#"{{"groups": {{"group:g": ["ann@", "bob@"], "group:none": []}}, "hosts": {{"srv": "100.64.0.1"}},
            "tagOwners": {{"tag:x": [], "tag:y": [], "tag:rec": []}}, "postures": {{"posture:ok": ["node:os == 'linux'"]}},
            "acls": [], "ssh": [{rules}]}}"#
    )
}

#[track_caller]
fn refuse(rule: &str, expect: &str) {
    let error = Policy::parse(&document(rule)).expect_err("a rule that is refused").to_string();
    assert!(error.contains(expect), "{error}");
}

/// The rules of a node in short: `principals as users verb`, a rule a line. IPv6 is left out.
fn told(compiled: &Compiled, node: i64) -> String {
    let rules = compiled.ssh_policy_for(NodeId(node), "https://control.test/").rules;
    let lines = rules.iter().map(|rule| {
        let from: Vec<&str> =
            rule.principals.iter().map(|who| who.node_ip.as_str()).filter(|ip| !ip.contains(':')).collect();
        let users: Vec<String> = rule.ssh_users.iter().map(|(asked, local)| format!("{asked}={local}")).collect();
        let action = rule.action.as_ref().expect("an action");
        let verb = if action.accept { "accept" } else { "check" };
        format!("{} as {} {verb}", from.join(" "), users.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_a_rule_must_say_is_asked_for_in_the_fields_words() {
    let rule = |fields: &str| format!(r#"{{"src": ["ann@"], "dst": ["tag:x"], {fields}}}"#);
    for (fields, expect) in [
        (r#""users": ["root"]"#, "action must be specified"),
        (r#""action": "", "users": ["root"]"#, "action must be specified"),
        (r#""action": "deny", "users": ["root"]"#, "\"deny\" is not a valid action"),
        (r#""action": "Accept", "users": ["root"]"#, "\"Accept\" is not a valid action"),
        (r#""action": "accept""#, "users must be specified"),
        (r#""action": "accept", "users": null"#, "users must be specified"),
        (r#""action": "accept", "users": []"#, "users must be specified"),
        (r#""action": "accept", "users": ["root", ""]"#, "user \"\" is not valid"),
        (r#""action": "accept", "users": ["*"]"#, "user \"*\" is not valid"),
        (r#""action": "accept", "users": ["root"], "acceptEnv": ["A", ""]"#, "acceptEnv values cannot be empty"),
        (
            r#""action": "accept", "users": ["root"], "checkPeriod": "1h""#,
            "checkPeriod is only valid with action \"check\"",
        ),
        (r#""action": "check", "users": ["root"], "checkPeriod": "abc""#, "time: invalid duration \"abc\""),
        (
            r#""action": "check", "users": ["root"], "checkPeriod": "-1m""#,
            "checkPeriod -1m0s must be a positive duration",
        ),
        (
            r#""action": "check", "users": ["root"], "checkPeriod": "168h0m1s""#,
            "checkPeriod 168h0m1s is above the max (168h)",
        ),
        (r#""action": "accept", "users": ["root"], "srcPosture": ["posture:no"]"#, "posture:no"),
        (r#""action": "accept", "users": ["root"], "recorder": ["ann@"]"#, "a recorder is a tag, a host or an address"),
        (r#""action": "accept", "users": ["root"], "colour": "red""#, "unknown field: \"colour\""),
    ] {
        refuse(&rule(fields), expect);
    }
}

#[test]
fn sources_and_destinations_are_people_and_tags() {
    let rule =
        |src: &str, dst: &str| format!(r#"{{"action": "accept", "src": [{src}], "dst": [{dst}], "users": ["root"]}}"#);
    for (src, dst, expect) in [
        (r#""*""#, r#""tag:x""#, "alias not supported for SSH source: \"*\""),
        (r#""srv""#, r#""tag:x""#, "alias not supported for SSH source"),
        (r#""100.64.0.1""#, r#""tag:x""#, "alias not supported for SSH source"),
        (r#""tag:no""#, r#""tag:x""#, "tag not found: \"tag:no\""),
        (r#""group:no""#, r#""tag:x""#, "group not defined in policy: \"group:no\""),
        (r#""autogroup:internet""#, r#""tag:x""#, "autogroup not supported for SSH sources: \"autogroup:internet\""),
        (r#""ann@""#, r#""*""#, "wildcard (*) is not supported as SSH destination"),
        (r#""ann@""#, r#""srv""#, "invalid dst \"srv\""),
        (r#""ann@""#, r#""netblock""#, "invalid dst \"netblock\""),
        (r#""ann@""#, r#""tag:no""#, "tag not found: \"tag:no\""),
        (r#""ann@""#, r#""group:g""#, "alias not supported for SSH destination"),
        (r#""ann@""#, r#""100.64.0.1""#, "alias not supported for SSH destination"),
        (r#""ann@""#, r#""autogroup:internet""#, "autogroup not supported for SSH destinations"),
        (r#""ann@""#, r#""bob@""#, "user destination requires source to contain only that same user \"bob@\""),
        (r#""group:g""#, r#""ann@""#, "user destination requires source to contain only that same user"),
        (r#""tag:x""#, r#""ann@""#, "tags in SSH source cannot access user-owned devices (ann@)"),
        (r#""tag:x""#, r#""autogroup:member""#, "tags in SSH source cannot access autogroup:member"),
        (r#""autogroup:tagged""#, r#""autogroup:self""#, "autogroup:self destination requires source to contain only"),
    ] {
        refuse(&rule(src, dst), expect);
    }
    for (src, dst) in [("", r#""tag:x""#), (r#""ann@""#, ""), (r#"" ann@ ""#, r#""tag:x "#), (r#""ann@""#, r#""ann@""#)]
    {
        let dst = if dst.ends_with(' ') { format!("{dst}\"") } else { dst.to_owned() };
        Policy::parse(&document(&rule(src, &dst))).unwrap_or_else(|error| panic!("{src} {dst}: {error}"));
    }
}

#[test]
fn a_destination_is_told_of_every_source_in_one_rule() {
    let world = world(&["bob-1", "ann-1", "tag:x", "tag:y"]);
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["group:g", "tag:y"], "dst": ["tag:x"], "users": ["root", "ubuntu"]}"#,
    ));
    // By the user, then what has tags.
    assert_eq!(told(&compiled, 3), "100.64.0.3 100.64.0.1 100.64.0.7 as root=root ubuntu=ubuntu accept");
    for other in [1, 2, 4, 99] {
        assert_eq!(told(&compiled, other), "", "{other}");
    }
    assert!(compiled.has_ssh() && !world.compile(&document("")).has_ssh());
}

#[test]
fn a_node_with_several_tags_is_named_as_often_as_it_has_tags() {
    let mut world = world(&["tag:x", "tag:y"]);
    world.nodes[1].tags.push("tag:x".to_owned());
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["autogroup:tagged"], "dst": ["tag:x"], "users": ["root"]}"#,
    ));
    assert_eq!(told(&compiled, 1), "100.64.0.1 100.64.0.3 100.64.0.3 as root=root accept");
}

#[test]
fn self_is_the_devices_of_the_same_person() {
    let world = world(&["ann-1", "ann-2", "bob-1", "tag:x"]);
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}"#,
    ));
    assert_eq!(told(&compiled, 1), "100.64.0.1 100.64.0.3 as root=root accept");
    assert_eq!(told(&compiled, 2), told(&compiled, 1));
    assert_eq!(told(&compiled, 3), "100.64.0.5 as root=root accept");
    assert_eq!(told(&compiled, 4), "");
}

#[test]
fn what_checks_comes_before_what_only_accepts() {
    let world = world(&["ann-1", "bob-1", "tag:x"]);
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"]},
           {"action": "check", "src": ["bob@"], "dst": ["tag:x"], "users": ["one"]},
           {"action": "check", "checkPeriod": "always", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"]}"#,
    ));
    assert_eq!(
        told(&compiled, 3),
        "100.64.0.3 as one=one root= check\n100.64.0.1 as root=root check\n100.64.0.1 as root=root accept"
    );
    let rules = compiled.ssh_policy_for(NodeId(3), "https://control.test/").rules;
    let action = rules[0].action.as_ref().expect("an action");
    let asks = "https://control.test/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER";
    assert_eq!((action.hold_and_delegate.as_str(), action.accept, action.reject), (asks, false, false));
}

#[test]
fn a_check_holds_as_long_as_the_rule_that_lets_the_session_in_says() {
    let world = world(&["ann-1", "bob-1", "tag:x"]);
    let compiled = world.compile(&document(
        r#"{"action": "check", "checkPeriod": "1h30m", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"]},
           {"action": "check", "checkPeriod": "always", "src": ["ann@"], "dst": ["tag:x"], "users": ["autogroup:nonroot"]},
           {"action": "check", "src": ["bob@"], "dst": ["tag:x"], "users": ["root"]},
           {"action": "accept", "src": ["bob@"], "dst": ["tag:x"], "users": ["ubuntu"]}"#,
    ));
    let period = |from: i64, user: &str| compiled.ssh_check(NodeId(from), NodeId(3), user).map(|check| check.period);
    assert_eq!(period(1, "root"), Some(CheckPeriod::For(Duration::from_secs(5400))));
    assert_eq!(period(1, "www"), Some(CheckPeriod::Always));
    assert_eq!(period(2, "root"), Some(CheckPeriod::DEFAULT));
    assert_eq!(
        (period(2, "ubuntu"), period(2, "www"), period(3, "root"), period(99, "root")),
        (None, None, None, None)
    );
    let accept = compiled.ssh_check(NodeId(1), NodeId(3), "root").expect("a check").accept;
    assert!(accept.accept && accept.allow_agent_forwarding && accept.hold_and_delegate.is_empty());
}

#[test]
fn a_local_part_is_a_rule_for_each_person_and_is_told_to_sources_too() {
    let mut world = world(&["ann-1", "bob-1", "tag:x", "tag:y"]);
    world.users[1].email = "bob@elsewhere.test".to_owned();
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["autogroup:member", "tag:y"], "dst": ["tag:x"],
            "users": ["localpart:*@example.com", "ubuntu"]}"#,
    ));
    let ann = "100.64.0.1 as root= ubuntu=ubuntu accept\n100.64.0.1 as ann=ann accept";
    let bob = "100.64.0.3 as root= ubuntu=ubuntu accept";
    let tagged = "100.64.0.7 as root= ubuntu=ubuntu accept";
    assert_eq!(told(&compiled, 3), format!("{ann}\n{bob}\n{tagged}"));
    assert_eq!((told(&compiled, 1).as_str(), told(&compiled, 2).as_str()), (ann, bob));
    assert_eq!(told(&compiled, 4), tagged);
}

#[test]
fn nobody_becomes_root_by_the_name_of_a_mailbox() {
    let mut world = world(&["ann-1", "tag:x"]);
    world.users[0].email = "root@example.com".to_owned();
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["ann@"], "dst": ["tag:x"], "users": ["localpart:*@example.com"]}"#,
    ));
    assert_eq!(told(&compiled, 2), "100.64.0.1 as root= accept");
}

#[test]
fn a_domain_names_its_people_and_must_be_this_networks() {
    let mut world = world(&["ann-1", "bob-1", "tag:x"]);
    world.users[1].email = "bob@elsewhere.test".to_owned();
    let text = |domain: &str, user: &str| {
        document(&format!(
            r#"{{"action": "accept", "src": ["user:*@{domain}"], "dst": ["tag:x"], "users": ["{user}"]}}"#
        ))
    };
    assert_eq!(told(&world.compile(&text("elsewhere.test", "root")), 3), "100.64.0.3 as root=root accept");
    let check = |text: &str, domains: &[&str]| {
        let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
        let tailnet = Tailnet { users: &world.users, nodes: &world.nodes, services: &[] };
        let checked = Policy::parse(text).expect("a policy").admit(&tailnet, &domains);
        checked.err().map(|failures| failures.to_string()).unwrap_or_default()
    };
    assert_eq!(check(&text("example.com", "root"), &["example.com"]), "");
    assert_eq!(check(&text("elsewhere.test", "root"), &[]), "");
    for (text, place) in [
        (text("elsewhere.test", "root"), "ssh[0].src"),
        (text("example.com", "localpart:*@elsewhere.test"), "ssh[0].users"),
    ] {
        let error = check(&text, &["example.com"]);
        let words = "[ssh] elsewhere.test is not associated with this Tailnet and cannot be used in user:*@<domain> expressions";
        assert!(error.contains(words) && error.contains(place), "{error}");
    }
    assert!(check(&text("EXAMPLE.com", "root"), &["example.com"]).contains("EXAMPLE.com is not associated"));
}

#[test]
fn recorders_are_told_as_sockets_and_only_enforced_ones_refuse() {
    let world = world(&["ann-1", "tag:x", "tag:rec"]);
    let action = |more: &str| {
        let rule = format!(
            r#"{{"action": "accept", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"], "acceptEnv": ["GIT_*"], {more}}}"#
        );
        let mut rules = world.compile(&document(&rule)).ssh_policy_for(NodeId(2), "https://control.test").rules;
        assert_eq!(rules[0].accept_env, ["GIT_*"]);
        rules.remove(0).action.expect("an action")
    };
    let kept = action(r#""recorder": ["tag:rec", "srv"]"#);
    assert_eq!(kept.recorders, ["100.64.0.5:80", "[fd7a:115c:a1e0::5]:80", "100.64.0.1:80"]);
    assert_eq!(kept.on_recording_failure, None);
    let enforced = action(r#""recorder": ["tag:rec"], "enforceRecorder": true"#);
    assert!(!enforced.on_recording_failure.expect("a refusal").reject_session_with_message.is_empty());
    assert_eq!(action(r#""enforceRecorder": true"#).on_recording_failure, None);
}

#[test]
fn a_source_that_does_not_meet_the_posture_is_not_named() {
    let mut world = world(&["ann-1", "ann-2", "tag:x"]);
    world.nodes[1].attributes.insert("node:os".to_owned(), warren_policy::Attribute::Text("linux".to_owned()));
    let compiled = world.compile(&document(
        r#"{"action": "accept", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"], "srcPosture": ["posture:ok"]}"#,
    ));
    assert_eq!(told(&compiled, 3), "100.64.0.3 as root=root accept");
}

#[test]
fn a_word_for_two_people_opens_nothing() {
    let mut world = world(&["ann-1", "tag:x"]);
    world.users.push(PolicyUser { id: UserId(9), name: "ann".to_owned(), ..PolicyUser::default() });
    let compiled =
        world.compile(&document(r#"{"action": "accept", "src": ["ann@"], "dst": ["tag:x"], "users": ["root"]}"#));
    assert_eq!(told(&compiled, 2), "");
    assert_eq!(compiled.problems(), ["multiple users found: token ann@"]);
}
