//! How machines get in: one table over the order of checks, and the races and restarts around it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use warren_control::register::RegisterAnswer;
use warren_control::rows::Owner;
use warren_control::{Actor, Answer, AuthId, Command, Refusal, RegisterRefusal, Staged, What};
use warren_crypto::{MachineSecret, NodeSecret, UnixTime};
use warren_wire::{LOGOUT_EXPIRY, RegisterRequest};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

/// What came of a registration, in a word.
fn word(answer: &Result<Answer, Refusal>) -> String {
    match answer {
        Ok(Answer::Register(RegisterAnswer::Authorized { node, .. })) => format!("in {}", node.id),
        Ok(Answer::Register(RegisterAnswer::KeyExpired { .. })) => "key expired".to_owned(),
        Ok(Answer::Register(RegisterAnswer::Visit(_))) => "visit".to_owned(),
        Ok(Answer::Register(RegisterAnswer::Wait(_))) => "wait".to_owned(),
        Ok(Answer::Register(RegisterAnswer::Over)) => "over".to_owned(),
        Ok(Answer::Register(refused @ RegisterAnswer::TagsRefused(_))) => {
            refused.response("https://control.example").expect("a response").error
        }
        Ok(other) => format!("{other:?}"),
        Err(refusal) => refusal.to_string(),
    }
}

#[track_caller]
fn check(world: &mut World, what: What, expect: &str) {
    assert_eq!(word(&world.ask(what)), expect);
}

/// Node 1 of machine 1 with node key 11, owned by `ann`, joined with a one-off key that is used up by now.
fn ann_is_in() -> (World, String) {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], ONE_OFF);
    world.join(1, 11, &key);
    (world, key)
}

#[test]
fn a_key_lets_a_machine_in_with_both_addresses_and_its_host_name() {
    let (world, _) = ann_is_in();
    let node = world.control.registry().nodes().next().expect("one node");
    assert_eq!((node.id.0, node.name.as_str(), node.stable_id.0.as_str()), (1, "host-1", "1"));
    assert_eq!(node.v4.map(|v4| v4.to_string()).as_deref(), Some("100.64.0.1"));
    assert_eq!(node.v6.map(|v6| v6.to_string()).as_deref(), Some("fd7a:115c:a1e0::1"));
    assert_eq!((node.expiry, node.created), (None, world.wall));
}

#[test]
fn logging_out_comes_before_everything_even_with_a_good_key() {
    let (mut world, _) = ann_is_in();
    let ann = world.control.registry().users().next().expect("ann").id;
    let good = world.key(Some(ann), &[], REUSABLE);
    let past = |request: &mut RegisterRequest| request.expiry = Some(UnixTime::from_secs(LOGOUT_EXPIRY));
    check(&mut world, register(1, 11, Some(&good), past), "key expired");
    let node = world.node(warren_wire::NodeId(1));
    assert_eq!((node.expired, node.expiry), (true, Some(world.wall)), "now, not 1970");
}

#[test]
fn a_restart_without_a_key_changes_nothing() {
    let (mut world, _) = ann_is_in();
    let before = world.node(warren_wire::NodeId(1));
    let revision = world.control.registry().revision();
    world.pass(HOUR);
    check(&mut world, register(1, 11, None, |_| {}), "in 1");
    assert_eq!(world.node(warren_wire::NodeId(1)), before);
    assert_eq!(world.control.registry().revision(), revision);
}

#[test]
fn a_restart_with_the_used_up_key_is_let_in_and_another_node_key_is_not() {
    let (mut world, key) = ann_is_in();
    check(&mut world, register(1, 11, Some(&key), |_| {}), "in 1");
    check(&mut world, register(1, 12, Some(&key), |_| {}), "authkey already used");
    check(&mut world, register(2, 21, Some(&key), |_| {}), "authkey already used");
}

#[test]
fn a_restart_with_a_key_that_was_deleted_since_is_let_in_and_nothing_else_is() {
    let (mut world, key) = ann_is_in();
    let id = world.control.registry().keys().next().expect("there").id;
    world.ask(What::DeleteKey { key: id }).expect("gone");
    check(&mut world, register(1, 11, Some(&key), |_| {}), "in 1");
    check(&mut world, register(1, 12, Some(&key), |_| {}), "invalid pre auth key");
    check(&mut world, register(2, 21, Some(&key), |_| {}), "invalid pre auth key");
    world.ask(What::ExpireNode { node: warren_wire::NodeId(1), at: None }).expect("granted");
    check(&mut world, register(1, 11, Some(&key), |_| {}), "invalid pre auth key");
}

#[test]
fn an_expired_node_must_show_a_key_that_is_good_now() {
    let (mut world, key) = ann_is_in();
    let node = warren_wire::NodeId(1);
    world.ask(What::ExpireNode { node, at: None }).expect("granted");
    check(&mut world, register(1, 11, None, |_| {}), "key expired");
    check(&mut world, register(1, 11, Some(&key), |_| {}), "authkey already used");
    let ann = world.control.registry().users().next().expect("ann").id;
    let good = world.key(Some(ann), &[], ONE_OFF);
    let before = world.node(node);
    check(&mut world, register(1, 12, Some(&good), |request| request.old_node_key = Some(node_key(11))), "in 1");
    let after = world.node(node);
    assert_eq!((after.v4, after.v6, &after.name, after.expired), (before.v4, before.v6, &before.name, false));
    assert_eq!(after.node_key, node_key(12));
}

#[test]
fn what_a_clock_that_ran_ahead_expired_is_good_again_and_what_logged_out_is_not() {
    let mut world = World::with(warren_control::Settings { key_lifetime: Some(24 * HOUR), ..settings() });
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let nodes = [1, 2, 3].map(|machine| world.join(machine, machine + 10, &key).id);
    let right = world.wall;
    world.wall = right.saturating_add(1000 * HOUR);
    world.pass(HOUR);
    assert!(nodes.iter().all(|node| world.node(*node).expired));
    let past = |request: &mut RegisterRequest| request.expiry = Some(UnixTime::from_secs(LOGOUT_EXPIRY));
    check(&mut world, register(2, 12, None, past), "key expired");
    world.ask(What::ExpireNode { node: nodes[2], at: None }).expect("granted");
    world.restart();
    world.wall = right;
    world.pass(HOUR);
    assert_eq!(nodes.map(|node| world.node(node).expired), [false, true, true]);
    check(&mut world, register(1, 11, None, |_| {}), "in 1");
    check(&mut world, register(2, 12, None, |_| {}), "key expired");
}

#[test]
fn a_node_key_is_bound_to_its_machine() {
    let (mut world, key) = ann_is_in();
    let refused = "node exists with a different machine key";
    check(&mut world, register(2, 11, None, |_| {}), refused);
    check(&mut world, register(2, 11, Some(&key), |_| {}), refused);
    let past = |request: &mut RegisterRequest| request.expiry = Some(UnixTime::from_secs(LOGOUT_EXPIRY));
    check(&mut world, register(2, 11, None, past), refused);
    assert!(!world.node(warren_wire::NodeId(1)).expired, "a stranger cannot log it out");
    assert!(world.snapshot().node_of(&machine(2), &node_key(11)).is_none());
    assert!(world.snapshot().node_of(&machine(1), &node_key(11)).is_some());
}

#[test]
fn a_node_cannot_extend_its_own_key() {
    let (mut world, _) = ann_is_in();
    let later = world.wall.saturating_add(HOUR);
    let extend = move |request: &mut RegisterRequest| request.expiry = Some(later);
    check(&mut world, register(1, 11, None, extend), "extending key is not allowed");
}

#[test]
fn forms_that_cannot_be_right_are_refused() {
    let mut world = World::new();
    let ann = world.user("ann");
    let soon = world.wall.saturating_add(HOUR);
    let key = world.key(Some(ann), &[], KeyKind { expiry: Some(soon), ..REUSABLE });
    check(&mut world, register(1, 11, Some("nonsense"), |_| {}), "invalid pre auth key");
    let mut wrong = key.clone();
    wrong.replace_range(key.len() - 1.., if key.ends_with('0') { "1" } else { "0" });
    check(&mut world, register(1, 11, Some(&wrong), |_| {}), "invalid pre auth key");
    check(&mut world, register(1, 11, Some(&key[..key.len() - 1]), |_| {}), "invalid pre auth key");
    let zero = |request: &mut RegisterRequest| request.node_key = warren_crypto::NodePublic::ZERO;
    check(&mut world, register(1, 11, Some(&key), zero), "node key is missing");
    let tags = |request: &mut RegisterRequest| {
        request.hostinfo.as_mut().expect("set").request_tags.push("tag:web".to_owned());
    };
    check(&mut world, register(1, 11, Some(&key), tags), "requested tags [tag:web] are invalid or not permitted");
    let elsewhere = |request: &mut RegisterRequest| request.followup = "https://evil.example/x".to_owned();
    check(&mut world, register(1, 11, None, elsewhere), "invalid followup URL");
    world.pass(HOUR);
    check(&mut world, register(1, 11, Some(&key), |_| {}), "authkey expired");
    assert_eq!(world.control.registry().node_count(), 0);
}

#[test]
fn of_two_machines_in_one_batch_one_gets_the_one_off_key() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], ONE_OFF);
    let answers = world.batch(vec![register(1, 11, Some(&key), |_| {}), register(2, 21, Some(&key), |_| {})]);
    let words: Vec<String> = answers.iter().map(word).collect();
    assert_eq!(words, ["in 1", "authkey already used"]);
    assert_eq!(world.control.registry().node_count(), 1);
}

#[test]
fn two_machines_in_one_batch_get_different_names_and_addresses() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let called = |request: &mut RegisterRequest| request.hostinfo.as_mut().expect("set").hostname = "pc".to_owned();
    world.batch(vec![register(1, 11, Some(&key), called), register(2, 21, Some(&key), called)]);
    let nodes: Vec<_> = world.control.registry().nodes().map(|node| (node.name.clone(), node.v4)).collect();
    assert_eq!((nodes[0].0.as_str(), nodes[1].0.as_str()), ("pc", "pc-1"));
    assert_ne!(nodes[0].1, nodes[1].1);
}

#[test]
fn a_refused_command_leaves_the_batch_as_it_was() {
    let mut world = World::with(warren_control::Settings {
        v4_range: Some("10.9.0.0/30".parse().expect("a prefix")),
        ..settings()
    });
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let join = |machine| register(machine, machine + 10, Some(&key), |_| {});
    let answers =
        world.batch(vec![join(1), join(2), join(3), What::DeleteNode { node: warren_wire::NodeId(1) }, join(4)]);
    let words: Vec<String> = answers.iter().map(word).collect();
    assert_eq!(words, ["in 1", "in 2", "no address left in 10.9.0.0/30", "Done", "in 3"]);
}

#[test]
fn another_person_on_the_same_machine_gets_a_second_node_with_a_key_of_its_own() {
    let (mut world, _) = ann_is_in();
    let bob = world.user("bob");
    let key = world.key(Some(bob), &[], ONE_OFF);
    // Still with ann's node key: the client is told to make another, and the one-off key is not used up by that.
    check(&mut world, register(1, 11, Some(&key), |_| {}), "key expired");
    check(&mut world, register(1, 12, Some(&key), |request| request.old_node_key = Some(node_key(11))), "in 2");
    assert_eq!(world.node(warren_wire::NodeId(1)).node_key, node_key(11), "ann's stays");
}

#[test]
fn a_tagged_key_takes_the_node_from_its_user_and_ends_its_expiry() {
    let lifetime = Some(Duration::from_secs(86_400));
    let mut world = World::with(warren_control::Settings { key_lifetime: lifetime, ..settings() });
    let ann = world.user("ann");
    let plain = world.key(Some(ann), &[], REUSABLE);
    assert_eq!(world.join(1, 11, &plain).expiry, world.wall.checked_add(HOUR * 24));
    let tagged = world.key(None, &["tag:web"], ONE_OFF);
    let node = world.join(1, 11, &tagged);
    assert_eq!((node.id.0, &node.owner, node.expiry), (1, &Owner::Tags(tag_set(&["tag:web"])), None));
}

#[test]
fn an_ephemeral_node_goes_when_it_logs_out_and_when_it_stays_away() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], EPHEMERAL);
    let first = world.join(1, 11, &key);
    let past = |request: &mut RegisterRequest| request.expiry = Some(UnixTime::from_secs(LOGOUT_EXPIRY));
    check(&mut world, register(1, 11, None, past), "key expired");
    assert!(world.control.registry().node(first.id).is_none());

    let second = world.join(2, 21, &key);
    world.control.handle_stream_started(second.id, CHANNEL, world.now);
    world.pass(HOUR);
    assert!(world.control.registry().node(second.id).is_some(), "connected nodes stay");
    world.control.handle_stream_ended(second.id, CHANNEL, world.now, world.wall);
    world.pass(Duration::from_secs(30 * 60));
    assert!(world.control.registry().node(second.id).is_some(), "half an hour and the grace are not over");
    world.pass(Duration::from_secs(11));
    assert!(world.control.registry().node(second.id).is_none());

    // Whom an operator keeps out is not forgotten, until they let it in again and it still does not come.
    let kept_out = world.join(4, 41, &key).id;
    world.ask(What::ApproveNode { node: kept_out, approved: false }).expect("granted");
    world.pass(HOUR);
    assert!(world.control.registry().node(kept_out).is_some());
    world.ask(What::ApproveNode { node: kept_out, approved: true }).expect("granted");
    world.pass(HOUR);
    assert!(world.control.registry().node(kept_out).is_none());

    let third = world.join(3, 31, &key);
    world.restart();
    world.pass(Duration::from_secs(30 * 60 + 11));
    assert!(world.control.registry().node(third.id).is_none(), "the server starts the clock again");
}

fn link(answer: Result<Answer, Refusal>) -> (AuthId, String) {
    match answer {
        Ok(Answer::Register(visit @ RegisterAnswer::Visit(id))) => {
            (id, visit.response("https://control.example").expect("a response").auth_url)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operator_lets_a_waiting_machine_in() {
    let mut world = World::new();
    let ann = world.user("ann");
    let (id, url) = link(world.ask(register(1, 11, None, |_| {})));
    let follow = |request: &mut RegisterRequest| request.followup = url.clone();
    assert!(url.starts_with("https://control.example/register/wkey-req-"));
    assert_eq!(id.to_string().parse(), Ok(id));
    check(&mut world, register(1, 11, None, follow), "wait");
    assert_eq!(world.control.all_waiting(world.wall).len(), 1);
    world.ask(What::ApproveRegistration { id, user: ann }).expect("granted");
    check(&mut world, register(1, 11, None, follow), "in 1");
    assert!(world.control.all_waiting(world.wall).is_empty());
    let again = world.ask(What::ApproveRegistration { id, user: ann });
    assert!(matches!(again, Err(Refusal::NotFound { .. })), "{again:?}");
    world.restart();
    check(&mut world, register(1, 11, None, follow), "in 1");
}

#[test]
fn a_person_may_ask_for_a_tag_that_the_policy_gives_them() {
    let mut world = World::new();
    let (ann, bob) = (world.user("ann"), world.user("bob"));
    let text = r#"{ "tagOwners": { "tag:web": ["ann@"] } }"#.to_owned();
    world.ask(What::ReplacePolicy { text }).expect("a policy");
    let tags = |request: &mut RegisterRequest| {
        request.hostinfo.as_mut().expect("set").request_tags.push("tag:web".to_owned());
    };
    let (id, _) = link(world.ask(register(1, 11, None, tags)));
    let refused = world.ask(What::ApproveRegistration { id, user: bob }).expect_err("not bob's tag");
    assert_eq!(refused, Refusal::Register(RegisterRefusal::Tags(tag_set(&["tag:web"]))));
    let Ok(Answer::Node(node)) = world.ask(What::ApproveRegistration { id, user: ann }) else { panic!("refused") };
    assert_eq!(node.owner, Owner::Tags(tag_set(&["tag:web"])));
}

#[test]
fn a_node_that_is_in_may_ask_for_a_tag_of_its_person_and_for_no_other() {
    let (mut world, _) = ann_is_in();
    let text = r#"{ "tagOwners": { "tag:web": ["ann@"], "tag:db": ["bob@"] } }"#.to_owned();
    world.user("bob");
    world.ask(What::ReplacePolicy { text }).expect("a policy");
    let asks = |tag: &'static str| {
        move |request: &mut RegisterRequest| {
            request.hostinfo.as_mut().expect("set").request_tags = vec![tag.to_owned()];
        }
    };
    let refused = |tag: &str| format!("requested tags [{tag}] are invalid or not permitted");
    check(&mut world, register(1, 11, None, asks("tag:db")), &refused("tag:db"));
    check(&mut world, register(1, 11, None, asks("we\u{1b}b")), &refused("we?b"));
    assert!(world.node(warren_wire::NodeId(1)).owner.tags().is_none(), "a refusal changes nothing");
    check(&mut world, register(1, 11, None, asks("tag:web")), "in 1");
    assert_eq!(world.node(warren_wire::NodeId(1)).owner, Owner::Tags(tag_set(&["tag:web"])));
    check(&mut world, register(1, 11, None, asks("tag:db")), &refused("tag:db"));
    // What it asked for before, it may go on asking for at each start, whatever became of its tags.
    let tags = tag_set(&["tag:db"]);
    world.ask(What::SetTags { node: warren_wire::NodeId(1), tags: tags.clone() }).expect("an operator may");
    check(&mut world, register(1, 11, None, asks("tag:web")), "in 1");
    assert_eq!(world.node(warren_wire::NodeId(1)).owner, Owner::Tags(tags));
}

#[test]
fn a_node_that_repeats_its_wish_for_a_refused_tag_stays_in_and_is_told_why_it_has_no_tag() {
    let (mut world, _) = ann_is_in();
    let node = warren_wire::NodeId(1);
    let told = |world: &World| {
        let map = world.snapshot().netmap_for(node).expect("a map");
        map.display_messages.get("tags-refused").map(|message| message.text.clone())
    };
    let asks = |tags: &'static [&'static str]| {
        move |request: &mut RegisterRequest| {
            request.hostinfo.as_mut().expect("set").request_tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        }
    };
    let refused = "requested tags [tag:x] are invalid or not permitted";
    check(&mut world, register(1, 11, None, asks(&["tag:x"])), refused);
    assert_eq!(told(&world), None, "the person has the error before them");
    check(&mut world, register(1, 11, None, asks(&["tag:x"])), "in 1");
    assert!(world.node(node).owner.tags().is_none(), "it stays what it was");
    assert!(told(&world).is_some_and(|text| text.contains("tag:x")));
    world.pass(std::time::Duration::from_secs(3600));
    check(&mut world, register(1, 11, None, asks(&["tag:x"])), "in 1");
    assert!(told(&world).is_some(), "a restart of the client changes nothing");
    check(&mut world, register(1, 11, None, asks(&["tag:y"])), &refused.replace("tag:x", "tag:y"));
    check(&mut world, register(1, 11, None, asks(&[])), "in 1");
    assert_eq!(told(&world), None, "it asks for none any more");
    // A new key must earn what it asks for.
    let ann = world.control.registry().users().next().expect("ann").id;
    let key = world.key(Some(ann), &[], REUSABLE);
    for _ in 0..3 {
        check(&mut world, register(1, 12, Some(&key), asks(&["tag:x"])), refused);
    }
}

#[test]
fn a_tag_that_was_refused_is_given_when_it_is_the_persons_to_give_and_the_node_asks_again() {
    let (mut world, _) = ann_is_in();
    let asks = |request: &mut RegisterRequest| {
        request.hostinfo.as_mut().expect("set").request_tags = vec!["tag:x".to_owned()];
    };
    check(&mut world, register(1, 11, None, asks), "requested tags [tag:x] are invalid or not permitted");
    check(&mut world, register(1, 11, None, asks), "in 1");
    let text = r#"{ "tagOwners": { "tag:x": ["ann@"] } }"#.to_owned();
    world.ask(What::ReplacePolicy { text }).expect("a policy");
    check(&mut world, register(1, 11, None, asks), "in 1");
    let node = warren_wire::NodeId(1);
    assert_eq!(world.node(node).owner, Owner::Tags(tag_set(&["tag:x"])));
    assert!(world.snapshot().netmap_for(node).expect("a map").display_messages.is_empty());
}

#[test]
fn an_operator_turns_a_machine_away() {
    let mut world = World::new();
    let (id, url) = link(world.ask(register(1, 11, None, |_| {})));
    let follow = |request: &mut RegisterRequest| request.followup = url.clone();
    world.ask(What::RejectRegistration { id }).expect("granted");
    check(&mut world, register(1, 11, None, follow), "registration was rejected");
    let ann = world.user("ann");
    assert!(world.ask(What::ApproveRegistration { id, user: ann }).is_err());
}

#[test]
fn whoever_waits_asks_after_its_link_and_for_nothing_more() {
    let mut world = World::new();
    let ann = world.user("ann");
    let (id, _) = link(world.ask(register(1, 11, None, |_| {})));
    let ask = |seed: u8, key: u8| What::FollowUp { machine: machine(seed), node_key: node_key(key), id };
    check(&mut world, ask(1, 11), "wait");
    check(&mut world, ask(2, 21), "over");
    check(&mut world, ask(1, 12), "over");
    world.ask(What::ApproveRegistration { id, user: ann }).expect("granted");
    check(&mut world, ask(1, 11), "in 1");
    check(&mut world, ask(2, 11), "node exists with a different machine key");
    check(&mut world, ask(2, 21), "over");
    world.ask(What::DeleteNode { node: warren_wire::NodeId(1) }).expect("granted");
    check(&mut world, ask(1, 11), "over");
    assert!(world.control.all_waiting(world.wall).is_empty(), "asking makes no link");
}

#[test]
fn a_link_is_good_for_its_machine_and_for_fifteen_minutes() {
    let mut world = World::new();
    let (id, url) = link(world.ask(register(1, 11, None, |_| {})));
    let follow = |request: &mut RegisterRequest| request.followup = url.clone();
    check(&mut world, register(2, 21, None, follow), "visit");
    check(&mut world, register(1, 11, None, follow), "wait");
    world.pass(Duration::from_secs(15 * 60));
    check(&mut world, register(1, 11, None, follow), "visit");
    assert!(world.control.waiting(id, world.wall).is_none());
    let (_, url) = link(world.ask(register(1, 11, None, |_| {})));
    world.restart();
    let follow = |request: &mut RegisterRequest| request.followup = url.clone();
    check(&mut world, register(1, 11, None, follow), "visit");
}

#[test]
fn a_link_that_was_asked_for_with_an_older_key_is_void() {
    let mut world = World::new();
    let ann = world.user("ann");
    let join = world.key(Some(ann), &[], REUSABLE);
    let (first, _) = link(world.ask(register(1, 11, None, |_| {})));
    let (second, url) = link(world.ask(register(1, 12, None, |_| {})));
    let (other, _) = link(world.ask(register(2, 21, None, |_| {})));
    assert!(world.control.waiting(first, world.wall).is_none(), "the machine waits with another key");
    check(&mut world, register(1, 13, Some(&join), |_| {}), "in 1");
    assert!(world.control.waiting(second, world.wall).is_none(), "approved, it would take the node's key away");
    assert!(world.control.waiting(other, world.wall).is_some());
    // Whoever waits there is told to ask anew.
    let follow = |request: &mut RegisterRequest| request.followup = url.clone();
    check(&mut world, register(1, 12, None, follow), "visit");
}

#[test]
fn waiting_machines_are_bounded_and_one_cannot_push_out_the_others() {
    let mut world = World::new();
    let (patient, _) = link(world.ask(register(1, 11, None, |_| {})));
    for _ in 0..100 {
        world.pass(Duration::from_millis(1));
        world.ask(register(2, 21, None, |_| {})).expect("a link");
    }
    assert!(world.control.waiting(patient, world.wall).is_some());
    assert_eq!(world.control.all_waiting(world.wall).len(), 17);
}

#[test]
fn a_source_with_many_machine_keys_cannot_push_out_the_others() {
    let mut world = World::new();
    let mut comes_from = |number: u32, from: IpAddr| {
        world.pass(Duration::from_millis(1));
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let key = MachineSecret::from_seed(seed).public();
        let What::Register { request, .. } = register(1, 11, None, |_| {}) else { panic!("a registration") };
        let mut request = RegisterRequest::clone(&request);
        request.node_key = NodeSecret::from_seed(seed).public();
        let what = What::Register { machine: key, request: Arc::new(request) };
        let actor = Actor::Machine { key, from: Some(from) };
        let mut staged = Staged::begin(&world.control);
        let id = link(staged.decide(Command { actor, what }, world.wall, &mut world.random)).0;
        world.control.apply(staged.finish(), world.now).expect("one batch at a time");
        id
    };
    let patient = comes_from(0, [192, 0, 2, 1].into());
    for number in 1..=1500 {
        comes_from(number, [192, 0, 2, 9].into());
    }
    for number in 2000..4000_u32 {
        // One household, whatever its devices are called.
        let host = Ipv6Addr::from(0x2001_0db8_0000_0001_0000_0000_0000_0000 + u128::from(number));
        comes_from(number, host.into());
    }
    for number in 5000..7000_u32 {
        comes_from(number, Ipv4Addr::from(0xc633_6400 + number % 5).into());
    }
    let waiting = world.control.all_waiting(world.wall);
    assert_eq!(waiting.len(), 1024);
    assert!(waiting.iter().any(|(id, _)| *id == patient));
    let mut counts = BTreeMap::<_, usize>::new();
    waiting.iter().for_each(|(_, waiting)| *counts.entry(waiting.source).or_default() += 1);
    assert_eq!(counts.len(), 8, "{counts:?}");
    assert!(counts.values().all(|count| *count <= 256), "{counts:?}");
}

#[test]
fn a_users_texts_in_answers_name_the_owner() {
    let mut world = World::new();
    let ann = world.user("ann@example.net");
    let key = world.key(Some(ann), &[], REUSABLE);
    let Ok(Answer::Register(answer)) = world.ask(register(1, 11, Some(&key), |_| {})) else { panic!("refused") };
    let response = answer.response("https://control.example").expect("a response");
    assert_eq!(response.login.login_name, "ann@example.net");
    assert!(response.machine_authorized && response.user.id == ann);
    let tagged = world.key(Some(ann), &["tag:web"], REUSABLE);
    let Ok(Answer::Register(answer)) = world.ask(register(2, 21, Some(&tagged), |_| {})) else { panic!("refused") };
    let response = answer.response("https://control.example").expect("a response");
    assert_eq!((response.user.id.0, response.login.login_name.as_str()), (2_147_455_555, "tagged-devices"));
}

#[test]
fn operators_are_refused_what_cannot_be() {
    let (mut world, _) = ann_is_in();
    let ann = world.control.registry().users().next().expect("ann").id;
    let node = warren_wire::NodeId(1);
    let missing = warren_wire::NodeId(99);
    let rename = |name: &str| What::RenameNode { node, name: name.to_owned() };
    for (what, text) in [
        (What::DeleteUser { user: ann, with_nodes: false }, "user ann still has 1 node(s); delete them first"),
        (What::DeleteNode { node: missing }, "no such node: 99"),
        (rename("Web"), "\"Web\" cannot be a node's name: 1 to 63 of a-z, 0-9 and -, no hyphen at either end"),
        (What::SetTags { node, tags: tag_set(&["web"]) }, "\"web\" is not a tag: write tag: and a name"),
        (What::RemoveAway { node }, "node 1 is not an ephemeral node that is away"),
        (
            What::CreateKey {
                user: None,
                tags: tag_set(&[]),
                reusable: false,
                ephemeral: false,
                preapproved: false,
                expiry: None,
            },
            "a join key needs a user or tags",
        ),
    ] {
        assert_eq!(world.ask(what).expect_err("refused").to_string(), text);
    }
    let refusal: Refusal = RegisterRefusal::InvalidKey.into();
    assert_eq!(warren_control::register::refused(&refusal).error, "invalid pre auth key");
}

#[test]
fn a_family_that_is_enabled_later_reaches_the_nodes_that_are_there() {
    let mut world = World::with(warren_control::Settings { v6_range: None, ..settings() });
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let nodes = [1, 2].map(|machine| world.join(machine, machine + 10, &key).id);
    let mut client = crate::sessions::Client::of(&mut world, nodes[0]);
    client.poll(&world);
    assert!(matches!(world.ask(What::BackfillAddresses), Ok(Answer::Changes(changes)) if changes.is_empty()));
    world.settings = settings();
    world.restart();
    world.join(3, 13, &key);
    let Ok(Answer::Changes(changes)) = world.ask(What::BackfillAddresses) else { panic!("refused") };
    assert_eq!(
        changes,
        ["node 1 (host-1): 100.64.0.1, fd7a:115c:a1e0::2", "node 2 (host-2): 100.64.0.2, fd7a:115c:a1e0::3"]
    );
    let mut client = crate::sessions::Client::of(&mut world, nodes[0]);
    client.poll(&world);
    let map = client.held.as_ref().expect("a map");
    assert!(map.self_node.addresses.len() == 2 && map.peers[&nodes[1]].addresses.len() == 2);
    world.restart();
    assert!(matches!(world.ask(What::BackfillAddresses), Ok(Answer::Changes(changes)) if changes.is_empty()));
}

#[test]
fn a_chosen_name_stays_and_a_derived_one_follows_the_host() {
    let (mut world, key) = ann_is_in();
    let node = warren_wire::NodeId(1);
    let follow = |hostname: &str| What::FollowHostname { node, hostname: hostname.to_owned() };
    world.ask(follow("New Host.local")).expect("granted");
    assert_eq!(world.node(node).name, "new-host");
    world.ask(What::RenameNode { node, name: "fixed".to_owned() }).expect("granted");
    world.ask(follow("other")).expect("granted");
    assert_eq!((world.node(node).name.as_str(), world.node(node).hostname.as_str()), ("fixed", "other"));
    check(&mut world, register(1, 11, Some(&key), |_| {}), "in 1");
    assert_eq!(world.node(node).name, "fixed");
}

#[test]
fn a_person_is_forgotten_with_their_nodes_when_that_is_said() {
    let (mut world, _) = ann_is_in();
    let ann = world.control.registry().users().next().expect("ann").id;
    let bob = world.user("bob");
    let key = world.key(Some(bob), &[], REUSABLE);
    world.join(2, 21, &key);
    world.ask(What::DeleteUser { user: ann, with_nodes: true }).expect("granted");
    let left: Vec<_> = world.control.registry().nodes().map(|node| node.owner.clone()).collect();
    assert_eq!(left, [Owner::User(bob)]);
    assert!(world.control.registry().keys().all(|key| key.user == Some(bob)));
    world.restart();
    assert_eq!(world.control.registry().users().count(), 1);
}

#[test]
fn a_node_that_was_put_out_stays_out_when_it_is_given_to_a_person() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(None, &["tag:srv"], REUSABLE);
    let node = world.join(1, 11, &key).id;
    world.ask(What::ExpireNode { node, at: None }).expect("granted");
    let ended = world.node(node).expiry;
    world.ask(What::MoveNode { node, user: ann }).expect("granted");
    let row = world.node(node);
    assert!(row.expired && row.expiry == ended && ended.is_some(), "{row:?}");
    world.ask(What::DisableExpiry { node }).expect("granted");
    assert!(!world.node(node).expired, "and an operator can let it in again");
}

#[test]
fn a_node_moves_between_people_and_tags_and_keeps_its_place() {
    let lifetime = Some(Duration::from_secs(86_400));
    let mut world = World::with(warren_control::Settings { key_lifetime: lifetime, ..settings() });
    let (ann, bob) = (world.user("ann"), world.user("bob"));
    let key = world.key(Some(ann), &[], REUSABLE);
    let before = world.join(1, 11, &key);
    let node = before.id;
    world.ask(What::SetTags { node, tags: tag_set(&["tag:web"]) }).expect("granted");
    world.pass(HOUR);
    world.ask(What::MoveNode { node, user: bob }).expect("granted");
    let after = world.node(node);
    assert_eq!((after.v4, &after.name, after.node_key), (before.v4, &before.name, before.node_key));
    assert_eq!((&after.owner, after.expiry), (&Owner::User(bob), world.wall.checked_add(HOUR * 24)), "a person's rule");
    world.pass(HOUR);
    world.ask(What::MoveNode { node, user: ann }).expect("granted");
    assert_eq!(world.node(node).expiry, after.expiry, "from person to person its time stays");
    // The same machine is in for bob too: ann's node cannot become a second one of his.
    let key = world.key(Some(bob), &[], REUSABLE);
    world.join(1, 12, &key);
    let refused = world.ask(What::MoveNode { node, user: bob }).expect_err("refused").to_string();
    assert_eq!(refused, "bob has a node on the same machine already: host-1-1");
    check(&mut world, register(1, 11, None, |_| {}), "in 1");
}

#[test]
fn an_operators_time_and_no_nodes_own_decides_when_a_key_ends() {
    let (mut world, key) = ann_is_in();
    let node = warren_wire::NodeId(1);
    let at = world.wall.saturating_add(HOUR);
    world.ask(What::ExpireNode { node, at: Some(at) }).expect("granted");
    // Neither a restart, with or without the key that it came in by, nor a word of its own moves it.
    check(&mut world, register(1, 11, None, |_| {}), "in 1");
    check(&mut world, register(1, 11, Some(&key), |_| {}), "in 1");
    let later = move |request: &mut RegisterRequest| request.expiry = Some(at.saturating_add(HOUR));
    check(&mut world, register(1, 11, None, later), "extending key is not allowed");
    assert_eq!(world.node(node).expiry, Some(at));
    world.pass(HOUR);
    check(&mut world, register(1, 11, None, |_| {}), "key expired");
    world.ask(What::DisableExpiry { node }).expect("granted");
    check(&mut world, register(1, 11, None, |_| {}), "in 1");
}
