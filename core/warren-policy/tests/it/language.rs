use warren_policy::Policy;

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
    let policy =
        Policy::parse(r#"{"ssh": [{"action": "accept"}], "tests": [], "nodeAttrs": [{"target": ["*"]}]}"#).unwrap();
    assert_eq!(policy.not_built(), ["ssh", "nodeAttrs"]);
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
fn deep_nesting_is_refused_without_overflow() {
    refuse(&format!("{{\"acls\": {}", "[".repeat(100_000)), "parsing HuJSON");
}
