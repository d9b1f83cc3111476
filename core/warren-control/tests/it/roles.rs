//! Offices of people, and what follows from them at once.

use warren_control::register::RegisterAnswer;
use warren_control::{Answer, Refusal, Role, RowsError, UserRole, What};
use warren_wire::UserId;

use crate::sessions::{Client, three};
use crate::world::*;

const OWNER: UserRole = UserRole::OWNER;
const ADMIN: UserRole = UserRole::Office(Role::Admin);
const AUDITOR: UserRole = UserRole::Office(Role::Auditor);
const MEMBER: UserRole = UserRole::Member;

const POLICY: &str = r#"{
    "tagOwners": { "tag:srv": ["autogroup:admin"] },
    "acls": [{ "action": "accept", "src": ["autogroup:admin"], "dst": ["tag:srv:22"] }],
    "ssh": [{ "action": "accept", "src": ["autogroup:admin"], "dst": ["tag:srv"], "users": ["root"] }],
}"#;

fn set(world: &mut World, user: UserId, role: UserRole) -> Result<UserRole, Refusal> {
    match world.ask(What::SetRole { user, role })? {
        Answer::User(user) => Ok(user.role),
        other => panic!("{other:?}"),
    }
}

fn role(world: &World, user: UserId) -> UserRole {
    world.control.registry().user(user).expect("there").role
}

#[test]
fn a_role_changes_peers_filters_and_shells_at_once() {
    let (mut world, [a, b, server]) = three();
    let ann = world.control.registry().users().next().expect("ann").id;
    world.ask(What::SetTags { node: server, tags: tag_set(&["tag:srv"]) }).expect("granted");
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    let mut clients = [a, b, server].map(|node| Client::of(&mut world, node));
    for (role, is_admin) in [(MEMBER, false), (ADMIN, true), (AUDITOR, false), (OWNER, true), (MEMBER, false)] {
        assert_eq!(set(&mut world, ann, role), Ok(role));
        // Each poll compares what the client holds with what it must hold.
        clients.iter_mut().for_each(|client| drop(client.poll(&world)));
        let [one, _, srv] = clients.each_ref().map(|client| client.held.as_ref().expect("a map"));
        assert_eq!((one.peers.len(), srv.peers.len()), if is_admin { (1, 2) } else { (0, 0) }, "{role}");
        assert_eq!(world.snapshot().filter_of(server).is_empty(), !is_admin, "{role}");
        let rules = srv.ssh_policy.as_ref().map_or(0, |policy| policy.rules.len());
        assert_eq!(rules, usize::from(is_admin), "{role}");
    }
}

#[test]
fn a_network_has_one_owner_at_most() {
    let mut world = World::new();
    let [ann, bob] = ["ann", "bob"].map(|name| world.user(name));
    assert_eq!((role(&world, ann), set(&mut world, ann, OWNER)), (MEMBER, Ok(OWNER)));
    let refused = set(&mut world, bob, OWNER).expect_err("ann is");
    let text = "user ann is the owner, and there is only one; give that one another role first";
    assert_eq!(refused.to_string(), text);
    assert_eq!(set(&mut world, ann, OWNER), Ok(OWNER), "she is already");
    world.restart();
    assert_eq!((role(&world, ann), role(&world, bob)), (OWNER, MEMBER));
    // In one batch, one after the other.
    let roles = [(bob, OWNER), (ann, ADMIN), (bob, OWNER)];
    let answers = world.batch(roles.map(|(user, role)| What::SetRole { user, role }).to_vec());
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!((role(&world, ann), role(&world, bob)), (ADMIN, OWNER));
    world.ask(What::DeleteUser { user: bob, with_nodes: false }).expect("gone");
    assert_eq!(set(&mut world, ann, OWNER), Ok(OWNER), "the office is free");
    let gone = set(&mut world, bob, ADMIN).expect_err("gone");
    assert!(matches!(gone, Refusal::NotFound { kind: "user", .. }));
}

#[test]
fn a_role_lets_its_holder_give_the_tags_that_it_owns_and_survives_renaming() {
    let mut world = World::new();
    world.ask(What::ReplacePolicy { text: POLICY.to_owned() }).expect("a policy");
    let ann = world.user("ann");
    let joins = |world: &mut World, machine: u8| {
        let asks = register(machine, machine + 10, None, |request| {
            request.hostinfo.as_mut().expect("set").request_tags.push("tag:srv".to_owned());
        });
        let Ok(Answer::Register(RegisterAnswer::Visit(id))) = world.ask(asks) else { panic!("in") };
        world.ask(What::ApproveRegistration { id, user: ann })
    };
    assert!(matches!(joins(&mut world, 1), Ok(Answer::Refused(_)) | Err(Refusal::Register(_))));
    set(&mut world, ann, ADMIN).expect("granted");
    world.ask(What::RenameUser { user: ann, name: "anna".into() }).expect("renamed");
    let Ok(Answer::Node(node)) = joins(&mut world, 2) else { panic!("refused") };
    assert_eq!(node.owner.tags(), Some(&tag_set(&["tag:srv"])));
}

#[test]
fn rows_with_two_owners_are_refused() {
    let mut world = World::new();
    let [ann, bob] = ["ann", "bob"].map(|name| world.user(name));
    set(&mut world, ann, OWNER).expect("granted");
    let mut rows = world.tables.rows();
    let second = rows.users.iter_mut().find(|user| user.id == bob).expect("bob");
    std::sync::Arc::make_mut(second).role = OWNER;
    let refused = warren_control::Control::from_rows(&rows, settings(), world.now).expect_err("two");
    assert_eq!(refused, RowsError::SharedBy("users", "role of owner"));
}
