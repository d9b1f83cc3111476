//! People by what an identity provider says about them, and nodes that wait for an operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use warren_control::register::RegisterAnswer;
use warren_control::rows::{Node, Owner, Registered, Sealed, SignIn};
use warren_control::{Answer, AuthId, Person, Refusal, Settings, Verdict, What};
use warren_crypto::UnixTime;
use warren_wire::{LOGOUT_EXPIRY, RegisterRequest, UserId};

use crate::world::*;

const ISSUER: &str = "https://id.example";

fn person(subject: &str, email: &str) -> Person {
    Person { issuer: ISSUER.into(), subject: subject.into(), email: email.into(), ..Person::default() }
}

fn visit(world: &mut World, machine: u8, node_key: u8) -> AuthId {
    match world.ask(register(machine, node_key, None, |_| {})) {
        Ok(Answer::Register(RegisterAnswer::Visit(id))) => id,
        other => panic!("{other:?}"),
    }
}

fn enrol_as(world: &mut World, machine: u8, node_key: u8, person: Person) -> Result<Arc<Node>, Refusal> {
    let id = visit(world, machine, node_key);
    let refresh = Some(Sealed(vec![machine; 4]));
    match world.ask(What::Enrol { id, person: Box::new(person), refresh, until: None })? {
        Answer::Node(node) => Ok(node),
        other => panic!("{other:?}"),
    }
}

fn enrol(world: &mut World, machine: u8, node_key: u8, person: Person) -> Arc<Node> {
    enrol_as(world, machine, node_key, person).expect("enrolled")
}

fn refresh(world: &mut World, user: UserId, person: Person) -> Result<Answer, Refusal> {
    let asked = asked(world, user);
    world.ask(What::RefreshPerson { user, person: Box::new(person), refresh: None, asked })
}

fn asked(world: &World, user: UserId) -> Arc<SignIn> {
    Arc::clone(world.control.registry().sign_in(user).expect("signed in"))
}

fn end(world: &mut World, user: UserId, reason: &str) -> Result<Answer, Refusal> {
    let asked = asked(world, user);
    world.ask(What::EndSignIn { user, reason: reason.into(), asked })
}

fn owner(node: &Node) -> UserId {
    node.owner.user().expect("a person's")
}

fn name(world: &World, user: UserId) -> String {
    world.control.registry().user(user).expect("there").name.clone()
}

fn register_says(world: &mut World, machine: u8, node_key: u8, key: Option<&str>) -> String {
    match world.ask(register(machine, node_key, key, |_| {})) {
        Ok(Answer::Register(RegisterAnswer::Authorized { node, .. })) if node.approved => "in".to_owned(),
        Ok(Answer::Register(RegisterAnswer::Authorized { .. })) => "waits".to_owned(),
        Ok(Answer::Register(RegisterAnswer::KeyExpired { .. })) => "log in again".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn whoever_signs_in_owns_the_machine_and_comes_back_as_the_same_person() {
    let mut world = World::new();
    let node = enrol(&mut world, 1, 11, person("42", "Ann@Example.net"));
    assert_eq!((node.registered, node.approved), (Registered::SignIn, true));
    assert_eq!(name(&world, owner(&node)), "ann@example.net");
    assert_eq!(register_says(&mut world, 1, 11, None), "in");
    world.restart();
    let second = enrol(&mut world, 2, 21, person("42", "ann@example.net"));
    assert_eq!(owner(&second), owner(&node));
    assert_eq!(world.control.registry().users().count(), 1);
}

#[test]
fn a_device_that_asks_for_a_tag_that_its_person_may_not_give_hears_so() {
    let mut world = World::new();
    let tags = |request: &mut RegisterRequest| {
        request.hostinfo.as_mut().expect("set").request_tags.push("tag:db".to_owned());
    };
    let Ok(Answer::Register(RegisterAnswer::Visit(id))) = world.ask(register(1, 11, None, tags)) else { panic!("in") };
    let what = What::Enrol { id, person: Box::new(person("42", "ann@example.net")), refresh: None, until: None };
    let text = "requested tags [tag:db] are invalid or not permitted";
    match world.ask(what) {
        Ok(Answer::Refused(refusal)) => assert_eq!(refusal.to_string(), text),
        other => panic!("{other:?}"),
    }
    let after = What::FollowUp { machine: machine(1), node_key: node_key(11), id };
    assert_eq!(world.ask(after).expect_err("refused").to_string(), text);
}

#[test]
fn a_link_serves_once_and_says_what_became_of_it() {
    let mut world = World::new();
    let id = visit(&mut world, 1, 11);
    let enrol = |refresh| What::Enrol { id, person: Box::new(person("42", "")), refresh, until: None };
    let Ok(Answer::Node(node)) = world.ask(enrol(None)) else { panic!("refused") };
    assert!(matches!(world.ask(enrol(None)), Err(Refusal::NotFound { kind: "registration", .. })));
    let verdict = world.control.waiting(id, world.wall).and_then(|waiting| waiting.verdict.clone());
    assert_eq!(verdict, Some(Verdict::Approved(node.id)));
    world.pass(Duration::from_secs(15 * 60));
    assert!(world.control.waiting(id, world.wall).is_none());
}

#[test]
fn another_subject_never_becomes_somebody_who_is_here() {
    let mut world = World::new();
    let ann = owner(&enrol(&mut world, 1, 11, person("42", "ann@example.net")));
    let refused = enrol_as(&mut world, 2, 21, person("43", "ANN@example.net")).expect_err("ann's address");
    let text =
        "ANN@example.net is the address of user ann@example.net here; an operator must rename or delete that one first";
    assert_eq!(refused.to_string(), text);
    // The same number at another provider is somebody else.
    let other = Person { issuer: "https://other.example".into(), ..person("42", "bob@example.net") };
    assert_ne!(owner(&enrol(&mut world, 3, 31, other)), ann);
    assert_eq!(world.control.registry().users().count(), 2);
}

#[test]
fn names_are_not_taken_over_and_a_login_never_looks_like_an_address() {
    let mut world = World::new();
    let local = world.user("root");
    let login = |subject: &str, login: &str| Person { login: login.into(), ..person(subject, "") };
    let second = owner(&enrol(&mut world, 1, 11, login("1", "root")));
    let posed = owner(&enrol(&mut world, 2, 21, login("2", "boss@example.net")));
    let odd = owner(&enrol(&mut world, 3, 31, login("3", "<b>☠</b>")));
    let names = [local, second, posed, odd].map(|user| name(&world, user));
    assert_eq!(names, ["root", "root-1", "boss-example.net", "b----b"]);
    let nameless = owner(&enrol(&mut world, 4, 41, login("4", "☠")));
    assert_eq!(name(&world, nameless), format!("person-{}", nameless.0));
}

#[test]
fn a_name_that_somebody_chose_gives_no_reach_until_an_operator_gives_it() {
    let mut world = World::new();
    let text = r#"{ "tagOwners": { "tag:web": ["alice@"] },
        "acls": [{ "action": "accept", "src": ["alice@"], "dst": ["tag:web:22"] }] }"#;
    world.ask(What::ReplacePolicy { text: text.to_owned() }).expect("a policy");
    let web = world.key(None, &["tag:web"], ONE_OFF);
    let web = world.join(9, 91, &web);
    let login = |subject: &str| Person { login: "alice".into(), ..person(subject, "") };
    let posing = enrol(&mut world, 1, 11, login("1"));
    let sees = |world: &World, node: &Node| world.snapshot().visible_to(web.id).contains(node.id);
    assert_eq!(name(&world, owner(&posing)), "alice");
    assert!(!sees(&world, &posing) && world.snapshot().filter_of(web.id).is_empty());
    // Nor does a refresh, an address that comes later, or a restart make a word of it.
    refresh(&mut world, owner(&posing), login("1")).expect("fresh");
    refresh(&mut world, owner(&posing), person("1", "al@example.net")).expect("with an address");
    world.restart();
    assert!(name(&world, owner(&posing)) == "alice" && !sees(&world, &posing));
    // An operator may say that it is theirs, even without changing it.
    world.ask(What::RenameUser { user: owner(&posing), name: "alice".into() }).expect("given");
    assert!(sees(&world, &posing));
    world.ask(What::RenameUser { user: owner(&posing), name: "al".into() }).expect("renamed");
    assert!(!sees(&world, &posing));
    // Whom an operator made is called so, whoever else would like to be.
    let alice = world.user("alice");
    let key = world.key(Some(alice), &[], REUSABLE);
    let laptop = world.join(2, 21, &key);
    let late = enrol(&mut world, 3, 31, login("3"));
    assert!(sees(&world, &laptop) && !sees(&world, &late));
}

#[test]
fn somebody_with_an_address_is_not_called_by_what_they_chose_themselves() {
    let mut world = World::new();
    let posing = |subject: &str, email: &str| Person { login: "alice".into(), ..person(subject, email) };
    for (machine, email, expect) in [(1, "x+1@example.net", "x+1@example.net"), (2, "ä@example.net", "person-2")] {
        let user = owner(&enrol(&mut world, machine, machine + 10, posing(&machine.to_string(), email)));
        assert_eq!(name(&world, user), expect);
    }
}

#[test]
fn a_changed_address_stays_with_the_person_and_takes_the_name_along() {
    let mut world = World::new();
    let ann = owner(&enrol(&mut world, 1, 11, person("42", "ann@example.net")));
    refresh(&mut world, ann, person("42", "ann@example.org")).expect("a new address");
    let user = world.control.registry().user(ann).expect("there").clone();
    assert_eq!((user.email.as_str(), user.name.as_str()), ("ann@example.org", "ann@example.org"));
    // So whoever gets the old address gets none of her rights.
    let new = owner(&enrol(&mut world, 2, 21, person("50", "ann@example.net")));
    assert_ne!(new, ann);
    let kept = refresh(&mut world, new, person("50", "ann@example.org"));
    assert!(matches!(&kept, Ok(Answer::Kept(reason)) if reason.contains("is the address of user")), "{kept:?}");
    assert_eq!(name(&world, new), "ann@example.net", "the address is ann's now, and nobody is logged out for it");
    // However it was written.
    refresh(&mut world, ann, person("42", "Ann@Example.com")).expect("capitals");
    refresh(&mut world, ann, person("42", "ann@example.info")).expect("and another");
    assert_eq!(name(&world, ann), "ann@example.info");
    // Capitals alone make no other address of it, whichever way: she keeps the word by which policies mean her.
    for email in ["Ann@example.info", "ann@Example.info", "ann@example.info"] {
        refresh(&mut world, ann, person("42", email)).expect("capitals alone");
        let user = world.control.registry().user(ann).expect("there");
        assert_eq!((user.name.as_str(), user.email.as_str(), user.self_named), ("ann@example.info", email, false));
    }
    // A name that an operator chose stays.
    world.ask(What::RenameUser { user: ann, name: "ann".into() }).expect("renamed");
    refresh(&mut world, ann, person("42", "ann@third.example")).expect("again");
    assert_eq!(name(&world, ann), "ann");
}

#[test]
fn a_refresh_speaks_of_nobody_else() {
    let mut world = World::new();
    let ann = owner(&enrol(&mut world, 1, 11, person("42", "")));
    let other_issuer = Person { issuer: "https://other.example".into(), ..person("42", "") };
    for wrong in [person("43", ""), other_issuer] {
        assert!(matches!(refresh(&mut world, ann, wrong), Err(Refusal::Conflict(_))));
    }
}

#[test]
fn what_the_provider_said_before_somebody_signed_in_anew_is_old() {
    let mut world = World::new();
    let node = enrol(&mut world, 1, 11, person("42", "ann@example.net"));
    let (ann, asked) = (owner(&node), asked(&world, owner(&node)));
    // The question is under way, the token is used up, and meanwhile she signs in.
    enrol(&mut world, 2, 21, person("42", "ann@example.net"));
    let gone = What::EndSignIn { user: ann, reason: "invalid_grant".into(), asked: Arc::clone(&asked) };
    assert!(matches!(world.ask(gone), Err(Refusal::Conflict(_))));
    let (person, refresh) = (Box::new(person("42", "old@example.net")), Some(Sealed(vec![9; 4])));
    let old = What::RefreshPerson { user: ann, person, refresh, asked };
    assert!(matches!(world.ask(old), Err(Refusal::Conflict(_))));
    let now = world.control.registry().sign_in(ann).expect("there");
    assert_eq!((now.ended, now.refresh.clone()), (false, Some(Sealed(vec![2; 4]))));
    assert!(!world.node(node.id).expired && name(&world, ann) == "ann@example.net");
}

#[test]
fn an_operator_gives_nobody_anothers_address() {
    let mut world = World::new();
    let ann = owner(&enrol(&mut world, 1, 11, person("42", "ann@example.net")));
    world.ask(What::RenameUser { user: ann, name: "ann".into() }).expect("renamed");
    let create = |name: &str, email: &str| What::CreateUser {
        name: name.into(),
        display_name: String::new(),
        email: email.into(),
        picture_url: String::new(),
    };
    assert!(matches!(world.ask(create("bob", "Ann@example.net")), Err(Refusal::Conflict(_))));
    assert!(matches!(world.ask(create("ann@example.net", "")), Err(Refusal::Taken { .. })));
    let bob = world.user("bob");
    let taken = world.ask(What::RenameUser { user: bob, name: "ANN@example.net".into() });
    assert!(matches!(taken, Err(Refusal::Taken { .. })));
    world.ask(What::RenameUser { user: ann, name: "ann@example.net".into() }).expect("her own");
}

#[test]
fn somebody_who_was_removed_is_logged_out_and_their_keys_let_nobody_in() {
    let mut world = World::new();
    let node = enrol(&mut world, 1, 11, person("42", "ann@example.net"));
    let (ann, bob) = (owner(&node), world.user("bob"));
    let (anns, bobs) = (world.key(Some(ann), &[], REUSABLE), world.key(Some(bob), &[], REUSABLE));
    let tagged = world.key(Some(ann), &["tag:web"], REUSABLE);
    world.join(2, 21, &bobs);
    end(&mut world, ann, "invalid_grant").expect("ended");
    assert!(world.node(node.id).expired);
    assert_eq!(register_says(&mut world, 1, 11, None), "log in again");
    assert_eq!(register_says(&mut world, 3, 31, Some(&anns)), "authkey revoked");
    assert_eq!(register_says(&mut world, 2, 21, None), "in");
    assert_eq!(register_says(&mut world, 4, 41, Some(&tagged)), "authkey revoked", "nor as a machine of nobody's");
    let sign_in = world.control.registry().sign_in(ann).expect("there").clone();
    assert!(sign_in.ended && sign_in.refresh.is_none());
    world.restart();
    // A refresh that was under way undoes nothing; signing in does.
    refresh(&mut world, ann, person("42", "ann@example.net")).expect("an answer that came late");
    assert_eq!(register_says(&mut world, 3, 31, Some(&anns)), "authkey revoked");
    let back = enrol(&mut world, 1, 12, person("42", "ann@example.net"));
    assert_eq!((back.id, back.v4, back.expired), (node.id, node.v4, false));
    assert_eq!(register_says(&mut world, 3, 31, Some(&anns)), "in");
}

#[test]
fn a_token_that_was_exchanged_while_its_person_signed_in_without_another_is_kept() {
    let mut world = World::new();
    let ann = owner(&enrol(&mut world, 1, 11, person("42", "ann@example.net")));
    let before = asked(&world, ann);
    world.wall = world.wall.saturating_add(Duration::from_secs(1));
    let id = visit(&mut world, 2, 21);
    let what = What::Enrol { id, person: Box::new(person("42", "ann@example.net")), refresh: None, until: None };
    world.ask(what).expect("enrolled");
    assert_eq!(asked(&world, ann).refresh, before.refresh, "the provider gave no other");
    let late = |refresh: &[u8]| What::RefreshPerson {
        user: ann,
        person: Box::new(person("42", "old@example.net")),
        refresh: Some(Sealed(refresh.to_vec())),
        asked: Arc::clone(&before),
    };
    world.ask(late(b"R2")).expect("kept");
    let sign_in = asked(&world, ann);
    assert_eq!(sign_in.refresh, Some(Sealed(b"R2".to_vec())), "the one before is used up");
    assert_eq!(world.control.registry().user(ann).expect("there").email, "ann@example.net", "the rest is old");
    assert!(world.ask(late(b"R3")).is_err(), "that one belongs to a sign-in that is over");
    assert_eq!(asked(&world, ann).refresh, sign_in.refresh);
}

#[test]
fn people_whom_an_operator_made_have_no_sign_in_to_end() {
    let mut world = World::new();
    let bob = world.user("bob");
    let asked = SignIn { user: bob, groups: BTreeSet::new(), refresh: None, checked: world.wall, ended: false };
    assert!(world.ask(What::EndSignIn { user: bob, reason: String::new(), asked: Arc::new(asked) }).is_err());
    let local = Person { issuer: "local".into(), ..person("1", "") };
    assert!(matches!(enrol_as(&mut world, 1, 11, local), Err(Refusal::Invalid(_))));
}

#[test]
fn a_sign_in_bounds_the_key_and_an_old_one_lets_nobody_in() {
    let mut world = World::with(Settings { key_lifetime: Some(Duration::from_secs(7200)), ..settings() });
    let id = visit(&mut world, 1, 11);
    let until = |seconds| Some(world.wall.saturating_add(Duration::from_secs(seconds)));
    let (soon, late) = (until(3600), until(9000));
    let what = |id, until| What::Enrol { id, person: Box::new(person("42", "")), refresh: None, until };
    let past = Some(world.wall);
    assert!(world.ask(what(id, past)).expect_err("over").to_string().contains("sign in again"));
    let Ok(Answer::Node(node)) = world.ask(what(id, soon)) else { panic!("refused") };
    assert_eq!(node.expiry, soon);
    let id = visit(&mut world, 2, 21);
    let Ok(Answer::Node(node)) = world.ask(what(id, late)) else { panic!("refused") };
    assert_eq!(node.expiry, world.wall.checked_add(Duration::from_secs(7200)));
    // A machine that asks for a time in the past has no say in when the sign-in ends.
    let asks_past = register(3, 31, None, |request| request.expiry = Some(UnixTime::from_secs(9)));
    let Ok(Answer::Register(RegisterAnswer::Visit(id))) = world.ask(asks_past) else { panic!("refused") };
    let Ok(Answer::Node(node)) = world.ask(what(id, soon)) else { panic!("refused") };
    assert_eq!(node.expiry, soon);
}

#[test]
fn groups_are_kept_as_the_provider_says_them_last() {
    let mut world = World::new();
    let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let with = |names: &[&str]| Person { groups: groups(names), ..person("42", "") };
    let ann = owner(&enrol(&mut world, 1, 11, with(&["dev", "ops\n", ""])));
    let kept = |world: &World| world.control.registry().sign_in(ann).expect("there").groups.clone();
    assert_eq!(kept(&world), groups(&["dev", "ops"]));
    refresh(&mut world, ann, with(&["dev"])).expect("fresh");
    assert_eq!(kept(&world), groups(&["dev"]));
    let sign_in = world.control.registry().sign_in(ann).expect("there");
    assert_eq!(sign_in.refresh, Some(Sealed(vec![1; 4])), "a refresh that brings no new token keeps the old one");
}

#[test]
fn a_group_of_the_provider_is_a_source_in_the_policy_from_one_refresh_to_the_next() {
    let mut world = World::new();
    let text = r#"{ "tagOwners": { "tag:web": [] },
        "acls": [{ "action": "accept", "src": ["group:dev@oidc"], "dst": ["tag:web:22"] }] }"#;
    world.ask(What::ReplacePolicy { text: text.to_owned() }).expect("a policy");
    let web = world.key(None, &["tag:web"], ONE_OFF);
    let web = world.join(9, 91, &web);
    let with = |groups: &[&str]| Person {
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..person("42", "ann@example.net")
    };
    let laptop = enrol(&mut world, 1, 11, with(&["dev"]));
    let sees = |world: &World| world.snapshot().visible_to(web.id).contains(laptop.id);
    assert!(sees(&world) && !world.snapshot().filter_of(web.id).is_empty());
    refresh(&mut world, owner(&laptop), with(&["ops"])).expect("fresh");
    assert!(!sees(&world) && world.snapshot().filter_of(web.id).is_empty());
    refresh(&mut world, owner(&laptop), with(&["dev"])).expect("fresh");
    assert!(sees(&world));
    end(&mut world, owner(&laptop), "gone").expect("ended");
    assert!(!sees(&world));
}

#[test]
fn a_tag_that_a_machine_asks_for_must_be_the_persons_to_give() {
    let mut world = World::new();
    let text = r#"{ "tagOwners": { "tag:web": ["ann@example.net"] } }"#.to_owned();
    world.ask(What::ReplacePolicy { text }).expect("a policy");
    let tagged = |machine, node_key| {
        register(machine, node_key, None, |request| {
            request.hostinfo.as_mut().expect("set").request_tags.push("tag:web".to_owned());
        })
    };
    let mut ask = |machine: u8, subject: &str, email: &str| {
        let Ok(Answer::Register(RegisterAnswer::Visit(id))) = world.ask(tagged(machine, machine + 10)) else {
            panic!()
        };
        world.ask(What::Enrol { id, person: Box::new(person(subject, email)), refresh: None, until: None })
    };
    assert!(matches!(ask(1, "1", "bob@example.net"), Ok(Answer::Refused(_))));
    let Ok(Answer::Node(node)) = ask(2, "2", "ann@example.net") else { panic!("refused") };
    assert_eq!(node.owner, Owner::Tags(tag_set(&["tag:web"])));
}

#[test]
fn a_node_that_waits_for_an_operator_sees_nobody_and_is_seen_by_nobody() {
    for policy in [None, Some(r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }"#)] {
        let mut world = World::with(Settings { device_approval: true, ..settings() });
        if let Some(text) = policy {
            world.ask(What::ReplacePolicy { text: text.to_owned() }).expect("a policy");
        }
        let ann = world.user("ann");
        let (plain, spared) =
            (world.key(Some(ann), &[], REUSABLE), world.key(Some(ann), &[], KeyKind { preapproved: true, ..REUSABLE }));
        let first = world.join(1, 11, &spared);
        assert_eq!(register_says(&mut world, 2, 21, Some(&plain)), "waits");
        let second = world.control.registry().node_by_key(&node_key(21)).expect("there").clone();
        let peers = |world: &World, node| world.snapshot().netmap_for(node).expect("a map").peers.len();
        assert_eq!((peers(&world, first.id), peers(&world, second.id)), (0, 0));
        let map = world.snapshot().netmap_for(second.id).expect("a map");
        assert!(!map.self_node.machine_authorized && map.filters.values().all(Vec::is_empty));
        assert!(!world.snapshot().admits(&second.node_key, world.wall));

        world.restart();
        world.ask(What::ApproveNode { node: second.id, approved: true }).expect("let in");
        assert_eq!((peers(&world, first.id), peers(&world, second.id)), (1, 1));
        assert!(world.snapshot().admits(&second.node_key, world.wall));
        assert_eq!(register_says(&mut world, 2, 22, Some(&plain)), "in", "once let in, a new key is no new device");

        world.ask(What::ApproveNode { node: second.id, approved: false }).expect("kept out");
        assert_eq!((peers(&world, first.id), peers(&world, second.id)), (0, 0));
        assert_eq!(
            register_says(&mut world, 2, 23, Some(&plain)),
            "waits",
            "a key that spares nothing changes nothing"
        );
    }
}

#[test]
fn whoever_was_kept_out_comes_in_by_an_operator_alone() {
    for device_approval in [false, true] {
        let mut world = World::with(Settings { device_approval, ..settings() });
        let ann = world.user("ann");
        let bob = world.user("bob");
        let spares = KeyKind { preapproved: true, ephemeral: true, ..REUSABLE };
        let (anns, bobs) = (world.key(Some(ann), &[], spares), world.key(Some(bob), &[], spares));
        let node = world.join(1, 11, &anns);
        world.ask(What::ApproveNode { node: node.id, approved: false }).expect("kept out");
        world.restart();
        for (node_key, key) in [(11, None), (12, Some(anns.as_str())), (13, Some(bobs.as_str()))] {
            assert_eq!(register_says(&mut world, 1, node_key, key), "waits", "{device_approval} {node_key}");
        }
        let past = |request: &mut RegisterRequest| request.expiry = Some(UnixTime::from_secs(LOGOUT_EXPIRY));
        world.ask(register(1, 12, None, past)).expect("logged out");
        world.pass(Duration::from_secs(24 * 3600));
        assert_eq!(register_says(&mut world, 1, 14, Some(&anns)), "waits", "it was not forgotten");
        world.ask(What::ApproveNode { node: node.id, approved: true }).expect("let in");
        assert_eq!(register_says(&mut world, 1, 14, None), "in");
        world.ask(What::ApproveNode { node: node.id, approved: false }).expect("kept out");
        let id = visit(&mut world, 1, 15);
        world.ask(What::ApproveRegistration { id, user: ann }).expect("let in");
        assert_eq!(register_says(&mut world, 1, 15, None), "in");
    }
}

#[test]
fn an_operator_who_names_the_owner_has_approved_and_a_sign_in_has_not() {
    let mut world = World::with(Settings { device_approval: true, ..settings() });
    let ann = world.user("ann");
    let id = visit(&mut world, 1, 11);
    world.ask(What::ApproveRegistration { id, user: ann }).expect("let in");
    assert_eq!(register_says(&mut world, 1, 11, None), "in");
    assert!(!enrol(&mut world, 2, 21, person("42", "")).approved);
    assert_eq!(register_says(&mut world, 2, 21, None), "waits");
}

#[test]
fn a_key_that_an_operator_ended_says_so() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    let id = world.control.registry().keys().next().expect("there").id;
    world.ask(What::ExpireKey { key: id }).expect("ended");
    world.restart();
    assert_eq!(register_says(&mut world, 1, 11, Some(&key)), "authkey revoked");
    world.ask(What::DeleteKey { key: id }).expect("gone");
    assert_eq!(register_says(&mut world, 1, 11, Some(&key)), "invalid pre auth key");
}
