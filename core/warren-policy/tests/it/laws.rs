use proptest::prelude::*;
use warren_filter::Filter;
use warren_ip::{Flow, Protocol};
use warren_policy::Policy;
use warren_wire::NodeId;

use super::*;

const NODES: [&str; 7] = ["ann-1", "ann-2", "bob-1", "bob-2", "cat-1", "tag:x", "tag:y"];
const SOURCES: [&str; 9] =
    ["*", "ann@", "group:g", "tag:x", "tag:y", "autogroup:member", "autogroup:tagged", "host", "100.64.0.0/29"];
const DESTINATIONS: [&str; 10] = [
    "*",
    "ann@",
    "group:g",
    "tag:x",
    "tag:y",
    "autogroup:member",
    "autogroup:tagged",
    "host",
    "100.64.0.0/29",
    "autogroup:self",
];

fn rule() -> impl Strategy<Value = String> {
    let some = |from: usize| proptest::collection::vec(0..from, 1..3);
    (some(SOURCES.len()), some(DESTINATIONS.len()), any::<bool>()).prop_map(|(sources, destinations, is_tcp)| {
        let sources: Vec<&str> = sources.into_iter().map(|place| SOURCES[place]).collect();
        let may_have_selves =
            sources.iter().all(|source| matches!(*source, "*" | "ann@" | "group:g" | "autogroup:member"));
        let words = destinations
            .into_iter()
            .map(|place| DESTINATIONS[place])
            .filter(|word| may_have_selves || *word != "autogroup:self");
        let words: Vec<String> = words.map(|word| format!("{word}:22")).collect();
        let protocol = if is_tcp { "tcp" } else { "" };
        format!(r#"{{"action": "accept", "proto": "{protocol}", "src": {sources:?}, "dst": {words:?}}}"#)
    })
}

fn document(rules: &[String]) -> String {
    format!(
        r#"{{"groups": {{"group:g": ["bob@", "cat@"]}}, "hosts": {{"host": "100.64.0.5"}},
            "tagOwners": {{"tag:x": [], "tag:y": []}}, "acls": [{}]}}"#,
        rules.join(",")
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The two halves of a compiled policy agree: nodes see each other exactly if the filter of one lets the other in.
    #[test]
    fn a_node_sees_exactly_whom_a_filter_lets_through(rules in proptest::collection::vec(rule(), 0..6)) {
        let world = world(&NODES);
        let compiled = world.compile(&document(&rules));
        let filters: Vec<Filter> = world.nodes.iter().map(|node| {
            let (filter, problems) = Filter::compile(&compiled.filter_for(node.id), |_| Vec::new());
            assert_eq!(problems, [], "our own rules are readable");
            filter
        }).collect();
        let lets_in = |from: usize, to: usize| {
            world.nodes[from].addrs.iter().zip(&world.nodes[to].addrs).any(|(src, dst)| {
                filters[to].permits(&Flow { protocol: Protocol::TCP, src: (*src, 9).into(), dst: (*dst, 22).into() })
            })
        };
        for (a, name_a) in NODES.iter().enumerate() {
            let peers: Vec<NodeId> = compiled.peers_of(world.nodes[a].id).collect();
            for (b, name_b) in NODES.iter().enumerate() {
                let (id_a, id_b) = (world.nodes[a].id, world.nodes[b].id);
                let expected = a != b && (lets_in(a, b) || lets_in(b, a));
                prop_assert_eq!(compiled.visible(id_a, id_b), expected, "{} {}", name_a, name_b);
                prop_assert_eq!(peers.contains(&id_b), expected);
                prop_assert_eq!(compiled.may_reach(id_a, id_b), a != b && lets_in(a, b));
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,80}", rules in proptest::collection::vec(rule(), 0..3), cut in any::<proptest::sample::Index>()) {
        let _ = Policy::parse(&text);
        let mut document = document(&rules);
        let at = cut.index(document.len());
        if document.is_char_boundary(at) {
            document.truncate(at);
            prop_assert!(Policy::parse(&document).is_err());
            document.push_str(&text);
            let _ = Policy::parse(&document);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// What people's YAML is made of, in any order: read or refused with a place, never more.
    #[test]
    fn arbitrary_yaml_never_panics(words in proptest::collection::vec(proptest::sample::select(vec![
        "acls", "groups", ":", ": ", "- ", "-", "\n", "\n  ", " ", "[", "]", "{", "}", ",", "'", "\"", "*", "&a", "*a", "!", "!!str ", "|",
        ">", "|\n", "#", "%", "---", "...", "?", "? ", "~", "src", "tag:a", "group:x", "0", "-1.5e3", "é", "\t", "\r", "\u{feff}", "<<",
    ]), 0..40)) {
        if let Err(error) = Policy::parse(&words.concat()) {
            prop_assert!(!error.0.is_empty());
            for diagnostic in &error.0 {
                prop_assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
            }
        }
    }
}

/// A thousand rules over thousands of nodes stay a matter of sets: this takes a second or two unoptimised, and minutes if
/// anything walks over pairs of nodes for each rule.
#[test]
fn a_large_network_compiles_by_sets() {
    let mut world = world(&[]);
    let names: Vec<String> = (0..4000).map(|index| format!("tag:t{}", index % 200)).collect();
    world.nodes = super::world(&names.iter().map(String::as_str).collect::<Vec<_>>()).nodes;
    let owners: Vec<String> = (0..200).map(|tag| format!(r#""tag:t{tag}": []"#)).collect();
    let rules: Vec<String> = (0..1000)
        .map(|index| {
            format!(
                r#"{{"action": "accept", "src": ["tag:t{}"], "dst": ["tag:t{}:{}"]}}"#,
                index % 200,
                (index * 7 + 1) % 200,
                index + 1
            )
        })
        .collect();
    let compiled =
        world.compile(&format!(r#"{{"tagOwners": {{{}}}, "acls": [{}]}}"#, owners.join(","), rules.join(",")));
    let total: usize = world.nodes.iter().step_by(10).map(|node| compiled.peers_of(node.id).count()).sum();
    // Each tag reaches one to five others of 20 nodes each and is reached by as many.
    assert!((400 * 20..=400 * 200).contains(&total), "{total}");
    assert!(!compiled.filter_for(world.nodes[0].id).is_empty());
}
