use warren_policy::Policy;

use super::*;

#[track_caller]
fn refuse(text: &str, expect: &str) {
    let error = Policy::parse(text).expect_err("must be refused").to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn comments_and_trailing_commas_are_read_and_nothing_else_beyond_json() {
    let text = "// head\n{\n  /* hosts */ \"hosts\": {\"db\": \"100.64.0.9\",},\n  \"ACLs\": [{\"Action\": \"accept\", \"SRC\": [\"*\"], \"dst\": [\"db:5432\",],}],\n}\n";
    assert!(!Policy::parse(text).unwrap().allows_all());
    refuse("{acls: []}", "parsing HuJSON");
    refuse("{'acls': []}", "parsing HuJSON");
    refuse("{\"acls\": [] \"hosts\": {}}", "parsing HuJSON");
    refuse("{\"acls\": []} x", "parsing HuJSON");
    refuse("", "the policy is empty");
    refuse("[]", "a policy is an object");
}

#[test]
fn an_error_names_line_column_and_place() {
    let text = "{\n  \"acls\": [\n    {\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"db:ssh\"]},\n  ],\n}";
    let error = Policy::parse(text).unwrap_err();
    assert_eq!((error.0[0].line, error.0[0].column), (3, 48));
    assert_eq!(
        error.to_string(),
        "line 3, column 48: acls[0].dst: dst=\"db:ssh\": port range \"ssh\": invalid first integer"
    );
}

#[test]
fn every_mistake_is_reported_not_only_the_first() {
    let text = r#"{"groups": {"group:a": ["ann"]}, "acls": [{"action": "deny"},
            {"action": "accept", "src": ["group:b"], "dst": ["nohost:22"]}]}"#;
    let error = Policy::parse(text).unwrap_err().to_string();
    for expect in [
        "username must contain @, got: \"ann\"",
        "action=\"deny\" is not supported",
        "group not defined in policy: \"group:b\"",
        "host not defined in policy: \"nohost\"",
    ] {
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn a_name_that_appears_twice_is_refused() {
    refuse(r#"{"acls": [], "ACLS": []}"#, "\"ACLS\" appears twice");
    refuse(r#"{"groups": {"group:a": [], "group:a": []}}"#, "\"group:a\" appears twice");
}

#[test]
fn unknown_fields_are_refused_and_notes_of_editors_are_not() {
    refuse(r#"{"alcs": []}"#, "unknown field: \"alcs\"");
    refuse(r#"{"acls": [{"action": "accept", "source": ["*"]}]}"#, "unknown field: \"source\"");
    assert!(Policy::parse(r##"{"acls": [{"#note": 1, "action": "accept", "src": ["*"], "dst": ["*:*"]}]}"##).is_ok());
}

#[test]
fn parts_that_are_not_built_and_give_nobody_access_are_named() {
    let policy = Policy::parse(
        r#"{"attrConfig": {}, "derpMap": {"Regions": {}}, "nodeAttrs": [{"target": ["*"], "ipPool": ["100.81.0.0/16"]}]}"#,
    );
    assert_eq!(policy.unwrap().not_built(), ["derpMap"]);
}

#[test]
fn saying_nothing_of_access_allows_all_and_an_empty_list_denies_all() {
    assert!(Policy::parse("{}").unwrap().allows_all());
    assert!(Policy::parse(r#"{"acls": null}"#).unwrap().allows_all());
    assert!(!Policy::parse(r#"{"acls": []}"#).unwrap().allows_all());
    assert!(!Policy::parse(r#"{"grants": []}"#).unwrap().allows_all());
}

#[test]
fn ipv6_destinations_are_read_with_and_without_brackets() {
    let with =
        |dst: &str| Policy::parse(&format!(r#"{{"acls": [{{"action": "accept", "src": ["*"], "dst": ["{dst}"]}}]}}"#));
    assert!(with("[fd7a::1]:22").is_ok());
    assert!(with("fd7a::1:22").is_ok());
    assert!(with("fd7a:115c:a1e0::/48:*").is_ok());
    assert!(with("[10.0.0.1]:22").unwrap_err().to_string().contains("square brackets are only valid around IPv6"));
    assert!(with("db").unwrap_err().to_string().contains("hostport must contain a colon"));
}

#[test]
fn specific_ports_are_only_for_protocols_that_have_them() {
    refuse(
        r#"{"acls": [{"action": "accept", "proto": "icmp", "src": ["*"], "dst": ["*:22"]}]}"#,
        "protocol does not support specific ports: \"icmp\", only \"*\" is allowed",
    );
    assert!(
        Policy::parse(r#"{"acls": [{"action": "accept", "proto": "sctp", "src": ["*"], "dst": ["*:22"]}]}"#).is_ok()
    );
}

#[test]
fn yaml_is_read_with_its_places() {
    let text =
        "# köln\nhosts: {db: 100.64.0.9}\nacls:\n- action: accept\n  src: ['ännchen@x', tag:no]\n  dst: ['db:22']\n";
    let error = Policy::parse(text).unwrap_err();
    assert_eq!((error.0.len(), error.0[0].line, error.0[0].column), (1, 5, 22), "{error}");
    assert!(error.to_string().contains("src=tag not found: \"tag:no\""), "{error}");
    assert_eq!((error.0[0].excerpt.as_str(), error.0[0].indent), ("src: ['ännchen@x', tag:no]", 19));
    let grant = "tagOwners: {tag:a: []}\ngrants:\n- {src: [tag:a], dst: [tag:a], ip: [443, 'tcp:22'], app: {example.com/x: [{n: 1, no: no}]}}\n";
    let compiled = world(&["tag:a"]).compile(grant);
    let rules = compiled.filter_for(warren_wire::NodeId(1));
    assert_eq!(rules[0].dst_ports[0].ports.first, 443, "a port needs no quotes");
    assert_eq!(
        serde_json::json!(rules[2].cap_grant[0].cap_map),
        serde_json::json!({"example.com/x": [{"n": 1, "no": "no"}]})
    );
}

#[test]
fn what_yaml_can_do_beyond_a_tree_is_refused() {
    refuse("groups: &g {}\nhosts: *g\n", "anchors are not read");
    refuse("acls: !seq []\n", "tags of YAML are not read");
    refuse("acls: []\n---\nacls: []\n", "a policy is one document");
    refuse("acls: []\nACLs: []\n", "\"ACLs\" appears twice");
    refuse("? [a]\n: b\n", "a name is a word");
    refuse("acls\n", "a policy is an object");
    refuse(&format!("acls: {}", "[".repeat(100_000)), "parsing YAML");
    refuse(&format!("acls:\n{}", "- ".repeat(10_000)), "parsing YAML");
}

#[test]
fn fields_from_memory_are_told_what_they_are_called() {
    let entry = |field: &str| format!("{{\"acls\": [{{\"action\": \"accept\", \"{field}\": []}}]}}");
    for (field, meant) in
        [("source", "src"), ("SRC_POSTURE", "srcPosture"), ("dts", "dst"), ("protcol", ""), ("protocol", "proto")]
    {
        let expect = if meant.is_empty() { format!("unknown field: {field:?}") } else { format!("write {meant:?}") };
        refuse(&entry(field), &expect);
    }
    refuse("{\"alcs\": []}", "unknown field: \"alcs\"; write \"acls\"");
    refuse(
        "{\"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": \"*:*\"}]}",
        "must be a list: write [\"*:*\"]",
    );
}

#[test]
fn an_excerpt_moves_no_cursor_and_stays_short() {
    let text = format!("{{\"acls\": [{}{{\"\u{202e}\x1b[2J\": 1}}]}}", " ".repeat(5000));
    let error = Policy::parse(&text).unwrap_err();
    for diagnostic in error.0 {
        assert!(diagnostic.excerpt.chars().count() <= 100 && diagnostic.indent <= 100);
        let pointed = diagnostic.pointed();
        assert!(!pointed.contains(['\u{202e}', '\x1b']), "{pointed:?}");
    }
}

#[test]
fn deep_nesting_is_refused_without_overflow() {
    refuse(&format!("{{\"acls\": {}", "[".repeat(100_000)), "parsing HuJSON");
}

#[test]
fn a_known_field_that_is_null_is_absent() {
    let rule = r#"{"action": "accept", "proto": null, "src": ["*"], "dst": ["*:22"], "srcPosture": null}"#;
    assert!(Policy::parse(&format!("{{\"acls\": [{rule}]}}")).is_ok());
    assert!(
        Policy::parse(r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "app": null, "via": null}]}"#).is_ok()
    );
    refuse(r#"{"acls": [{"action": null, "src": ["*"], "dst": ["*:22"]}]}"#, "action=\"\" is not supported");
    refuse(r#"{"acls": [{"colour": null, "action": "accept", "src": ["*"], "dst": ["*:22"]}]}"#, "unknown field");
}

#[test]
fn tags_have_the_names_that_a_client_takes() {
    let owners = |tag: &str| format!("{{\"tagOwners\": {{{tag:?}: []}}}}");
    for tag in ["tag:web", "tag:Web-2", "tag:a"] {
        assert!(Policy::parse(&owners(tag)).is_ok(), "{tag}");
    }
    for (tag, expect) in [
        ("web", "tags must start with 'tag:'"),
        ("tag:", "tag names must not be empty"),
        ("tag:1", "tag names must start with a letter, after 'tag:'"),
        ("tag:web_server", "tag names can only contain numbers, letters, or dashes"),
        ("tag:a.b", "tag names can only contain numbers, letters, or dashes"),
        ("tag:x:y", "tag names can only contain numbers, letters, or dashes"),
        ("tag:caf\u{e9}", "tag names can only contain numbers, letters, or dashes"),
    ] {
        refuse(&owners(tag), expect);
    }
}

/// What a program wrote is often one line.
#[test]
fn of_a_long_line_only_what_surrounds_the_place_is_shown() {
    let tests = vec![r#"{"src":"ann@","accept":["100.64.0.9:22"]}"#; 20_000].join(",");
    let text = format!(r#"{{"tests":[{tests}],"acls":[{{"action":"d\u00e9ny"}}]}}"#);
    let error = Policy::parse(&text).unwrap_err();
    let remark = &error.0[0];
    assert_eq!((remark.line, remark.excerpt.chars().count()), (1, 64));
    assert_eq!(remark.column - 1, text.chars().count() - text[text.find("\"d\\").unwrap()..].chars().count());
    assert!(remark.excerpt.chars().skip(remark.indent).collect::<String>().starts_with("\"d\\u00e9ny\""), "{remark:?}");
}

#[test]
fn sets_that_build_on_each_other_are_bounded() {
    let chain = |length: usize| {
        let line = |i: usize| format!("\"ipset:s{i}\": [\"ipset:s{}\", \"10.{}.{}.1\"]", i + 1, i / 250, i % 250);
        let lines: Vec<String> = (0..length).map(line).collect();
        format!("{{\"ipsets\": {{{}, \"ipset:s{length}\": [\"10.255.0.1\"]}}}}", lines.join(", "))
    };
    assert!(Policy::parse(&chain(300)).is_ok());
    refuse(&chain(3000), "the sets hold more than 1000000 ranges together");
}
