//! Facts about devices that are set for postures: by whom, of which form, for how long, and what follows.

use std::collections::BTreeMap;
use std::time::Duration;

use warren_control::{Actor, Answer, AttributeValue, AttributeWish, Command, Refusal, SetBy, Staged, What};
use warren_crypto::UnixTime;
use warren_wire::NodeId;

use crate::sessions::{Client, three};
use crate::world::*;

const POLICY: &str = r#"{
    "postures": { "posture:grown": ["custom:tier >= 2"] },
    "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"], "srcPosture": ["posture:grown"] }],
}"#;

fn number(number: i32) -> AttributeValue {
    AttributeValue::Number(f64::from(number).try_into().expect("finite"))
}

fn set(node: NodeId, name: &str, value: AttributeValue) -> What {
    let wish = AttributeWish { value, expiry: None };
    What::SetAttributes { node, changes: [(name.to_owned(), Some(wish))].into(), comment: String::new() }
}

fn remove(node: NodeId, name: &str) -> What {
    What::SetAttributes { node, changes: [(name.to_owned(), None)].into(), comment: String::new() }
}

/// As the machine itself asks.
fn said_by(world: &mut World, seed: u8, what: What) -> Result<Answer, Refusal> {
    let mut staged = Staged::begin(&world.control);
    let actor = Actor::Machine { key: machine(seed), from: None };
    let answer = staged.decide(Command { actor, what }, world.wall, &mut world.random);
    world.finish(staged);
    answer
}

fn attributes(world: &World, node: NodeId) -> BTreeMap<String, (AttributeValue, SetBy)> {
    let row = world.control.registry().node(node).expect("there");
    row.attributes.iter().map(|(name, set)| (name.clone(), (set.value.clone(), set.set_by))).collect()
}

#[test]
fn a_fact_that_a_node_sets_lets_it_through_at_once_and_survives_a_restart() {
    let (mut world, [a, b, _]) = three();
    let mut server = Client::of(&mut world, b);
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    let mut is_seen = |world: &World| {
        server.poll(world);
        server.held.as_ref().expect("a map").peers.contains_key(&a)
    };
    assert!(!is_seen(&world), "nobody is known to be grown");
    said_by(&mut world, 1, set(a, "custom:tier", number(1))).expect("its own");
    assert!(!is_seen(&world));
    said_by(&mut world, 1, set(a, "custom:tier", number(2))).expect("its own");
    assert!(is_seen(&world));
    world.restart();
    assert_eq!(attributes(&world, a)["custom:tier"], (number(2), SetBy::Node));
    assert!(world.control.snapshot().visible_to(b).contains(a));
    said_by(&mut world, 1, remove(a, "custom:tier")).expect("its own");
    assert!(attributes(&world, a).is_empty() && !world.control.snapshot().visible_to(b).contains(a));
}

#[test]
fn a_machine_sets_facts_of_its_own_node_and_not_what_an_operator_said() {
    let (mut world, [a, b, _]) = three();
    let others = said_by(&mut world, 1, set(b, "custom:x", number(1))).expect_err("another's");
    assert!(matches!(others, Refusal::NotFound { kind: "node", .. }), "{others}");
    world.ask(set(a, "custom:x", number(1))).expect("an operator");
    for what in [set(a, "custom:x", number(9)), remove(a, "custom:x")] {
        let refused = said_by(&mut world, 1, what).expect_err("an operator's").to_string();
        assert_eq!(refused, "custom:x was set by an operator, who alone can change it");
    }
    // All or nothing.
    let both = What::SetAttributes {
        node: a,
        changes: [("custom:a", 1), ("custom:x", 2)]
            .map(|(name, value)| (name.to_owned(), Some(AttributeWish { value: number(value), expiry: None })))
            .into(),
        comment: String::new(),
    };
    said_by(&mut world, 1, both).expect_err("one of them is an operator's");
    assert_eq!(attributes(&world, a), [("custom:x".to_owned(), (number(1), SetBy::Operator))].into());
    world.ask(remove(a, "custom:x")).expect("an operator");
    said_by(&mut world, 1, set(a, "custom:x", number(9))).expect("free again");
    world.ask(set(a, "custom:x", number(3))).expect("an operator has the last word");
    assert_eq!(attributes(&world, a)["custom:x"], (number(3), SetBy::Operator));
}

#[test]
fn names_values_and_numbers_of_facts_are_bounded() {
    let (mut world, [a, ..]) = three();
    let text = |text: &str| AttributeValue::Text(text.to_owned());
    let long = format!("custom:{}", "x".repeat(121));
    assert_eq!(long.len(), 128);
    world.ask(set(a, &long, text(&"y".repeat(255)))).expect("as long as it may be");
    for name in
        ["node:os", "ip:country", "custom:", "custom", "custom:a b", "custom:ä", "Custom:a", &format!("{long}x")]
    {
        let refused = world.ask(set(a, name, number(1))).expect_err(name).to_string();
        assert!(refused.contains("cannot be set as an attribute") && refused.len() < 400, "{refused}");
    }
    for bad in ["y".repeat(256), "a\nb".to_owned()] {
        world.ask(set(a, "custom:t", text(&bad))).expect_err("too long, or more than a line");
    }
    world.ask(set(a, "custom:Kind", number(1))).expect("granted");
    let case = world.ask(set(a, "custom:kind", number(1))).expect_err("the same word").to_string();
    assert_eq!(case, "custom:kind is here already, and written custom:Kind");
    let kind = world.ask(set(a, "custom:Kind", text("1"))).expect_err("another kind").to_string();
    assert_eq!(kind, "custom:Kind is a number, and a text cannot take its place: remove it first");
    for number_of in 0..62 {
        world.ask(set(a, &format!("custom:n{number_of}"), number(1))).expect("room");
    }
    world.ask(set(a, "custom:one_more", number(1))).expect_err("64 are there");
    assert!(f64::NAN.try_into().map(AttributeValue::Number).is_err(), "what equals nothing is no value");
}

#[test]
fn a_fact_ends_with_its_time_and_what_says_nothing_new_commits_nothing() {
    let (mut world, [a, b, _]) = three();
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    let until = |at: UnixTime| AttributeWish { value: number(2), expiry: Some(at) };
    let change = |wish| What::SetAttributes {
        node: a,
        changes: [("custom:tier".to_owned(), Some(wish))].into(),
        comment: String::new(),
    };
    world.ask(change(until(world.wall))).expect_err("over already");
    let wish = until(UnixTime::from_secs(world.wall.as_secs() + 60));
    world.ask(change(wish.clone())).expect("for a minute");
    let revision = world.control.registry().revision();
    world.ask(change(wish)).expect("the same");
    world.ask(remove(a, "custom:other")).expect("was never there");
    assert_eq!(world.control.registry().revision(), revision);
    assert!(world.control.snapshot().visible_to(b).contains(a));
    world.pass(Duration::from_secs(59));
    assert!(!attributes(&world, a).is_empty());
    world.pass(Duration::from_secs(6));
    assert!(attributes(&world, a).is_empty() && !world.control.snapshot().visible_to(b).contains(a));
}
