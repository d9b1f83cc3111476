//! What people are to the policy: offices, the provider's groups, names that were given and names that were chosen.

use serde_json::json;
use warren_api::admin::{CreateKey, CreateUser};
use warren_controld::Overrides;
use warren_io::listener::Caps;

use crate::browser::Browser;
use crate::client::Machine;
use crate::signing_in::{self, both};
use crate::world::{World, audit, start, start_on, start_with};

async fn person(world: &World, name: &str) -> String {
    let wish = CreateUser { name: name.into(), ..CreateUser::default() };
    world.admin.create_user(&wish).await.expect("a new name").id
}

#[tokio::test]
async fn an_office_that_an_operator_gives_is_shown_kept_and_in_maps_at_once() {
    let world = start().await;
    let policy = r#"{ "tagOwners": { "tag:srv": [] },
        "acls": [{ "action": "accept", "src": ["autogroup:admin"], "dst": ["tag:srv:22"] }] }"#;
    world.admin.set_policy(policy).await.expect("a policy");
    let laptop = Machine::new(&world, 1, "laptop").await;
    laptop.join(&world.join_key(true).await).await;
    let tagged = CreateKey { acl_tags: vec!["tag:srv".into()], ..CreateKey::default() };
    let tagged = world.admin.create_key(&tagged).await.expect("a key").key;
    Machine::new(&world, 2, "srv").await.join(&tagged).await;
    let mut maps = laptop.stream().await;
    maps.until("a map without peers", |map| map.peers.is_empty()).await;

    let ann = world.admin.user("ann").await.expect("ann");
    assert_eq!(ann.role, "member");
    let bob = person(&world, "bob").await;
    assert_eq!(world.admin.set_role(&ann.id, "owner").await.expect("granted").role, "owner");
    maps.until("the server", |map| map.peers.len() == 1).await;
    let error = world.admin.set_role(&bob, "owner").await.expect_err("ann is").to_string();
    assert_eq!(error, "user ann is the owner, and there is only one; give that one another role first");
    let error = world.admin.set_role(&bob, "king").await.expect_err("no role").to_string();
    assert!(error.starts_with("\"king\" is no role; there are owner, admin, it-admin, "), "{error}");
    world.admin.set_role(&bob, "it-admin").await.expect("granted");
    world.admin.set_role(&ann.id, "auditor").await.expect("granted");
    maps.until("nobody", |map| map.peers.is_empty()).await;
    let of_node = &world.admin.nodes(Some("ann")).await.expect("a list")[0].user;
    assert_eq!(of_node.role, "auditor");

    let world = start_on(world.stop().await, Overrides::default()).await;
    let shown = world.admin.users().await.expect("a list");
    let roles: Vec<_> = shown.iter().map(|user| (user.name.as_str(), user.role.as_str())).collect();
    assert_eq!(roles, [("ann", "auditor"), ("bob", "it-admin")]);
    let last = audit(world).await.remove(0);
    assert!(last.actor.starts_with("uid ") && last.actor.ends_with(" by admin socket"), "{}", last.actor);
    assert_eq!((last.action.as_str(), last.detail.as_str()), ("set_role", "owner to auditor"));
}

#[tokio::test]
async fn what_the_provider_claims_of_people_is_shown_and_a_name_of_their_choice_reaches_nothing() {
    let (provider, world) = both(|said| said.oidc_email_verified_required = Some(false)).await;
    provider.state().person = json!({ "sub": "42", "preferred_username": "alice", "groups": ["dev", "ops"] });
    let policy = r#"{ "tagOwners": { "tag:srv": [] },
        "acls": [{ "action": "accept", "src": ["alice@"], "dst": ["tag:srv:22"] }] }"#;
    world.admin.set_policy(policy).await.expect("a policy");
    let tagged = CreateKey { acl_tags: vec!["tag:srv".into()], ..CreateKey::default() };
    let tagged = world.admin.create_key(&tagged).await.expect("a key").key;
    Machine::new(&world, 2, "srv").await.join(&tagged).await;
    let mut device = signing_in::enrol(&world, &mut Browser::default(), 1).await;
    // That it was her choice is still known after a restart.
    let said = Overrides { oidc_email_verified_required: Some(false), ..signing_in::settings(&provider) };
    let world = start_on(world.stop().await, said).await;
    device.machine.reconnect(&world).await;
    let mut maps = device.machine.stream().await;
    maps.until("a map without peers", |map| map.peers.is_empty()).await;
    // Whoever came first may have taken the name of the alice whom the operator knows.
    let refused = "user 1 chose the name alice at the identity provider and need not be the one you mean";
    let by_key = CreateKey { user: "alice".into(), ..CreateKey::default() };
    for error in [
        world.admin.user("alice").await.expect_err("to give her a role"),
        world.admin.create_key(&by_key).await.map(drop).expect_err("a key that lets in as her"),
        world.admin.move_node("1", "alice").await.map(drop).expect_err("a device"),
    ] {
        assert!(error.to_string().starts_with(refused), "{error}");
    }
    let shown = world.admin.user("1").await.expect("by number");
    assert_eq!((shown.self_named, shown.groups.join(" ").as_str()), (true, "dev ops"));
    let again = world.admin.set_policy(policy).await.expect("the same");
    let warned = again.warnings.iter().any(|line| line.contains("users rename 1 alice"));
    assert!(warned, "{:?}", again.warnings);
    // An operator says that she is who is meant.
    let given = world.admin.rename_user(&shown.id, "alice").await.expect("given");
    assert!(!given.self_named && given.groups == shown.groups);
    maps.until("the server", |map| map.peers.len() == 1).await;
}

#[tokio::test]
async fn nodes_get_addresses_of_a_family_that_came_later() {
    let only_v4 = Overrides { ipv6_range: Some("none".into()), ..Overrides::default() };
    let world = start_with(only_v4, Caps::default()).await;
    person(&world, "ann").await;
    Machine::new(&world, 1, "a").await.join(&world.join_key(true).await).await;
    assert!(world.admin.backfill_addresses().await.expect("granted").is_empty());
    let world = start_on(world.stop().await, Overrides::default()).await;
    let changes = world.admin.backfill_addresses().await.expect("granted");
    assert_eq!(changes, ["node 1 (a): 100.64.0.1, fd7a:115c:a1e0::1"]);
    assert!(world.admin.backfill_addresses().await.expect("granted").is_empty());
}
