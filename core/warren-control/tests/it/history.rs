//! Laws over random histories of commands: invariants hold, and what was committed is what is loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use warren_control::rows::{ApiKeyId, KeyId, ServiceId};
use warren_control::{ApiScope, AttributeValue, AttributeWish, Control, ServiceWish, What};
use warren_crypto::UnixTime;
use warren_wire::{NodeId, UserId};

use crate::world::*;

/// Commands over few ids and names, so that they meet.
fn command() -> impl Strategy<Value = Plan> {
    let node = (1_i64..8).prop_map(NodeId);
    let user = (1_i64..4).prop_map(UserId);
    let name = prop::sample::select(vec!["ann", "bob", "web", "web-1", "Bad Name", ""]);
    prop_oneof![
        name.clone().prop_map(|name| Plan::What(What::CreateUser {
            name: name.to_owned(),
            display_name: String::new(),
            email: String::new(),
            picture_url: String::new(),
        })),
        (user.clone(), name.clone())
            .prop_map(|(user, name)| Plan::What(What::RenameUser { user, name: name.to_owned() })),
        (user.clone(), prop::sample::select(warren_control::UserRole::all().collect::<Vec<_>>()))
            .prop_map(|(user, role)| Plan::What(What::SetRole { user, role })),
        (user.clone(), any::<bool>()).prop_map(|(user, with_nodes)| Plan::What(What::DeleteUser { user, with_nodes })),
        (node.clone(), user.clone()).prop_map(|(node, user)| Plan::What(What::MoveNode { node, user })),
        (node.clone(), any::<bool>()).prop_map(|(node, hide)| Plan::What(What::HideEndpoints { node, hide })),
        node.clone().prop_map(|node| Plan::What(What::ApproveAnnounced { node })),
        (node.clone(), "custom:[a-cA-C]", prop::option::of(any::<bool>())).prop_map(|(node, name, value)| {
            let wish = value.map(|value| AttributeWish { value: AttributeValue::Bool(value), expiry: None });
            Plan::What(What::SetAttributes { node, changes: [(name, wish)].into(), comment: String::new() })
        }),
        Just(Plan::What(What::ReplacePolicy {
            text: r#"{ "autoApprovers": { "exitNode": ["ann@"], "routes": { "10.0.0.0/8": ["autogroup:member"] } } }"#
                .to_owned(),
        })),
        (user.clone(), any::<[bool; 3]>())
            .prop_map(|(user, [tagged, reusable, ephemeral])| { Plan::Key { user, tagged, reusable, ephemeral } }),
        (1_i64..6).prop_map(|key| Plan::What(What::ExpireKey { key: KeyId(key) })),
        (1_i64..6).prop_map(|key| Plan::What(What::DeleteKey { key: KeyId(key) })),
        (0_u8..5, 0_u8..12, 0_usize..6).prop_map(|(machine, node_key, key)| Plan::Register { machine, node_key, key }),
        (0_u8..5, 0_u8..12, 0_usize..6).prop_map(|(machine, node_key, key)| Plan::Register { machine, node_key, key }),
        (0_u8..5, 0_u8..12).prop_map(|(machine, node_key)| Plan::Wait { machine, node_key }),
        (0_usize..4, user.clone()).prop_map(|(nth, user)| Plan::Approve { nth, user }),
        (node.clone(), name.clone())
            .prop_map(|(node, name)| Plan::What(What::RenameNode { node, name: name.to_owned() })),
        (node.clone(), name)
            .prop_map(|(node, name)| Plan::What(What::FollowHostname { node, hostname: name.to_owned() })),
        node.clone().prop_map(|node| Plan::What(What::DeleteNode { node })),
        node.clone().prop_map(|node| Plan::What(What::ExpireNode { node, at: None })),
        node.clone().prop_map(|node| Plan::What(What::DisableExpiry { node })),
        node.clone().prop_map(|node| Plan::What(What::SetTags { node, tags: tag_set(&["tag:a"]) })),
        node.prop_map(|node| Plan::What(What::SetRoutes { node, routes: BTreeSet::from([warren_ip::Prefix::ALL_V4]) })),
        prop::sample::select(vec!["web", "svc:db", "ann", "Bad Name"])
            .prop_map(|name| Plan::What(What::CreateService { name: name.to_owned(), wish: ServiceWish::default() })),
        (1_i64..4).prop_map(|id| Plan::What(What::DeleteService { service: ServiceId(id) })),
        (1_i64..4, (1_i64..8).prop_map(NodeId), any::<bool>())
            .prop_map(|(id, node, approved)| Plan::What(What::ApproveHost { service: ServiceId(id), node, approved })),
        (prop::sample::subsequence(ApiScope::EVERY.to_vec(), 0..=2), 0_u64..90).prop_map(|(scopes, after)| {
            let expiry = UnixTime::from_secs(1_790_000_000 + after);
            Plan::What(What::CreateApiKey { scopes: scopes.into_iter().collect(), expiry })
        }),
        (1_i64..4, 0_u8..3).prop_map(|(id, what)| {
            Plan::What(match (what, ApiKeyId(id)) {
                (0, key) => What::ExpireApiKey { key },
                (1, key) => What::DeleteApiKey { key },
                (_, key) => What::SeeApiKey { key },
            })
        }),
        Just(Plan::What(What::ExpireDue)),
        Just(Plan::Restart),
    ]
}

#[derive(Clone, Debug)]
enum Plan {
    What(What),
    Key { user: UserId, tagged: bool, reusable: bool, ephemeral: bool },
    Register { machine: u8, node_key: u8, key: usize },
    Wait { machine: u8, node_key: u8 },
    Approve { nth: usize, user: UserId },
    Restart,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The batch itself checks the registry's invariants (unique names, keys and addresses; owners exist) in debug
    /// builds, and loading checks most of them again.
    #[test]
    fn committed_rows_load_to_the_same_registry(plans in prop::collection::vec(prop::collection::vec(command(), 1..5), 1..25)) {
        let lifetime = Some(Duration::from_secs(50));
        let mut world = World::with(warren_control::Settings { key_lifetime: lifetime, ..settings() });
        let mut keys: Vec<String> = Vec::new();
        let mut bound = std::collections::BTreeMap::new();
        for batch in plans {
            let mut commands = Vec::new();
            for plan in batch {
                match plan {
                    Plan::What(what) => commands.push(what),
                    Plan::Key { user, tagged, reusable, ephemeral } => {
                        let tags = if tagged { tag_set(&["tag:k"]) } else { BTreeSet::new() };
                        let what = What::CreateKey { user: Some(user), tags, reusable, ephemeral, preapproved: false, expiry: None };
                        if let Ok(warren_control::Answer::Key { secret: Some(secret), .. }) = world.ask(what) {
                            keys.push(secret.reveal().to_owned());
                        }
                    }
                    Plan::Register { machine, node_key, key } => {
                        if let Some(key) = keys.get(key) {
                            commands.push(register(machine, node_key + 10, Some(key), |request| {
                                let routes = ["10.1.0.0/16", "0.0.0.0/0"].map(|text| text.parse().expect("a prefix"));
                                request.hostinfo.as_mut().expect("set").routable_ips = routes.to_vec();
                            }));
                        }
                    }
                    Plan::Wait { machine, node_key } => commands.push(register(machine, node_key + 10, None, |_| {})),
                    Plan::Approve { nth, user } => {
                        if let Some((id, _)) = world.control.all_waiting(world.wall).get(nth) {
                            commands.push(What::ApproveRegistration { id: *id, user });
                        }
                    }
                    Plan::Restart => world.restart(),
                }
            }
            let before = world.control.registry().revision();
            world.batch(commands);
            let after = world.control.registry().revision();
            prop_assert!(after.0 - before.0 <= 1, "a batch is one revision");
            world.pass(Duration::from_secs(7));

            let rows = world.tables.rows();
            prop_assert_eq!(&world.control.registry().to_rows(), &rows);
            let loaded = Control::from_rows(&rows, world.settings.clone(), world.now);
            prop_assert!(loaded.is_ok(), "{:?}", loaded.err());
            let of_services = rows.services.iter().flat_map(|service| service.addresses());
            let addresses: Vec<_> = rows.nodes.iter().flat_map(|node| node.addresses()).chain(of_services).collect();
            prop_assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
            for node in &rows.nodes {
                // A record is one machine's for life, and keeps its addresses.
                let what = (node.machine_key, node.v4, node.v6, node.created);
                prop_assert_eq!(bound.entry(node.id).or_insert(what), &what);
            }
        }
    }
}

#[test]
fn a_batch_on_an_older_state_is_not_applied() {
    let mut world = World::new();
    let staged = warren_control::Staged::begin(&world.control);
    let mut other = staged;
    let what = What::CreateUser {
        name: "ann".to_owned(),
        display_name: String::new(),
        email: String::new(),
        picture_url: String::new(),
    };
    other.decide(warren_control::Command::by_server(what), world.wall, &mut world.random).expect("granted");
    world.user("bob");
    let stale = world.control.apply(other.finish(), world.now);
    assert!(stale.is_err());
    assert_eq!(world.control.registry().users().count(), 1);
}

#[test]
fn rows_that_no_server_wrote_are_refused_with_a_reason() {
    let mut world = World::new();
    let ann = world.user("ann");
    let key = world.key(Some(ann), &[], REUSABLE);
    world.join(1, 11, &key);
    world.join(2, 12, &key);
    let rows = world.tables.rows();
    let change = |change: &dyn Fn(&mut warren_control::rows::Node)| {
        let mut rows = rows.clone();
        let mut node = (*rows.nodes[1]).clone();
        change(&mut node);
        rows.nodes[1] = node.into();
        Control::from_rows(&rows, settings(), world.now).map(drop).expect_err("refused").to_string()
    };
    assert_eq!(change(&|node| node.node_key = node_key(11)), "nodes 1 and 2 have the same node key");
    assert_eq!(change(&|node| node.name = "host-1".to_owned()), "nodes 1 and 2 have the same name");
    assert_eq!(change(&|node| node.v4 = "100.64.0.1".parse().ok()), "nodes 1 and 2 have the same address");
    let owner = warren_control::rows::Owner::User(UserId(9));
    assert_eq!(change(&|node| node.owner = owner.clone()), "node 2 belongs to user 9, who does not exist");
    assert_eq!(change(&|node| node.id = NodeId(3)), "node 3 exists, but the next one would be 3");
}
