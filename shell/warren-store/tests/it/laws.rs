//! `load(commit(staged)) == staged`, over random histories.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use warren_control::rows::{ApiKeyId, KeyId, Revision, ServiceId};
use warren_control::{
    ApiScope, AttributeValue, AttributeWish, Offer, Offered, ServiceChange, ServiceWish, SoftRow, UserRole, What,
};
use warren_crypto::{DiscoPublic, UnixTime};
use warren_store::{CommitError, Store};
use warren_wire::{CapabilityVersion, Endpoint, EndpointKind, Hostinfo, NetInfo, NodeId, RegionId, UserId};

use crate::batches::*;

#[derive(Clone, Debug)]
enum Step {
    What(What),
    Register {
        machine: u8,
        node_key: u8,
        key: usize,
        hostname: String,
    },
    /// Two nodes trade their names in one batch.
    Trade(i64, i64),
    Soft(SoftRow),
    Pass(u64),
    Restart,
}

/// A fact about a device, set or removed.
fn attribute() -> impl Strategy<Value = (String, Option<AttributeWish>)> {
    let value = prop_oneof![
        any::<bool>().prop_map(AttributeValue::Bool),
        prop::num::f64::NORMAL.prop_map(|number| AttributeValue::Number(number.try_into().expect("finite"))),
        "\\PC{0,12}".prop_map(AttributeValue::Text),
    ];
    let expiry = prop::option::of((1_900_000_000_u64..2_000_000_000).prop_map(UnixTime::from_secs));
    let wish = (value, expiry).prop_map(|(value, expiry)| AttributeWish { value, expiry });
    ("custom:[a-c]", prop::option::of(wish))
}

fn step() -> impl Strategy<Value = Step> {
    let node = (1_i64..6).prop_map(NodeId);
    let name = prop::sample::select(vec!["ann", "bob", "cid"]);
    prop_oneof![
        1 => name.clone().prop_map(|name| Step::What(user(name))),
        1 => ((1_i64..4), name).prop_map(|(id, name)| Step::What(What::RenameUser { user: UserId(id), name: name.to_owned() })),
        1 => (1_i64..4, prop::sample::select(UserRole::all().collect::<Vec<_>>()))
            .prop_map(|(id, role)| Step::What(What::SetRole { user: UserId(id), role })),
        1 => (1_i64..4, any::<bool>())
            .prop_map(|(id, with_nodes)| Step::What(What::DeleteUser { user: UserId(id), with_nodes })),
        1 => (node.clone(), 1_i64..4).prop_map(|(node, user)| Step::What(What::MoveNode { node, user: UserId(user) })),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, hide)| Step::What(What::HideEndpoints { node, hide })),
        1 => (node.clone(), attribute()).prop_map(|(node, change)| {
            Step::What(What::SetAttributes { node, changes: [change].into(), comment: String::new() })
        }),
        1 => node.clone().prop_map(|node| Step::What(What::ApproveAnnounced { node })),
        1 => ((1_i64..4), any::<bool>(), any::<bool>())
            .prop_map(|(id, tagged, reusable)| Step::What(key(id, if tagged { &["tag:a", "tag:b"] } else { &[] }, reusable))),
        1 => (1_i64..4).prop_map(|id| Step::What(What::DeleteKey { key: KeyId(id) })),
        3 => (0_u8..5, 0_u8..9, 0_usize..4, ".{0,12}")
            .prop_map(|(machine, node_key, key, hostname)| Step::Register { machine, node_key, key, hostname }),
        1 => node.clone().prop_map(|node| Step::What(What::DeleteNode { node })),
        1 => node.clone().prop_map(|node| Step::What(What::ExpireNode { node, at: None })),
        1 => node.clone().prop_map(|node| Step::What(What::SetRoutes {
            node,
            routes: BTreeSet::from(["10.0.0.0/8".parse().expect("a prefix"), "fd00::/8".parse().expect("a prefix")]),
        })),
        1 => (prop::sample::select(vec!["web", "db"]), any::<bool>()).prop_map(|(name, tagged)| Step::What(What::CreateService {
            name: name.to_owned(),
            wish: wish(tagged),
        })),
        1 => (1_i64..4, any::<bool>())
            .prop_map(|(id, tagged)| Step::What(What::ChangeService { service: ServiceId(id), change: change(tagged) })),
        1 => (1_i64..4).prop_map(|id| Step::What(What::DeleteService { service: ServiceId(id) })),
        1 => (1_i64..4, node.clone(), any::<bool>())
            .prop_map(|(id, node, approved)| Step::What(What::ApproveHost { service: ServiceId(id), node, approved })),
        1 => (prop::sample::subsequence(ApiScope::EVERY.to_vec(), 1..=3), 1_900_000_000_u64..2_000_000_000)
            .prop_map(|(scopes, until)| Step::What(What::CreateApiKey {
                scopes: scopes.into_iter().collect(),
                expiry: UnixTime::from_secs(until),
            })),
        1 => (1_i64..4, 0_u8..3).prop_map(|(id, what)| Step::What(match (what, ApiKeyId(id)) {
            (0, key) => What::ExpireApiKey { key },
            (1, key) => What::DeleteApiKey { key },
            (_, key) => What::SeeApiKey { key },
        })),
        1 => (1_i64..6, 1_i64..6).prop_map(|(a, b)| Step::Trade(a, b)),
        1 => "[ -~]{0,20}".prop_map(|comment| Step::What(What::ReplacePolicy {
            text: format!("// {}\n{{}}", comment.replace(char::is_control, "")),
        })),
        2 => (node, any::<[u8; 4]>(), ".{0,12}").prop_map(|(node, bytes, os)| Step::Soft(soft(node, bytes, os))),
        1 => (1_u64..30).prop_map(Step::Pass),
        1 => Just(Step::What(What::ExpireDue)),
        1 => Just(Step::Restart),
    ]
}

fn wish(tagged: bool) -> ServiceWish {
    let tags = if tagged { ["tag:a".to_owned()].into() } else { BTreeSet::new() };
    ServiceWish { ports: vec!["tcp:443".to_owned()], comment: format!("tagged: {tagged}"), tags }
}

fn change(tagged: bool) -> ServiceChange {
    ServiceChange { tags: Some(wish(tagged).tags), comment: Some(wish(tagged).comment), ports: None }
}

fn soft(node: NodeId, [a, b, c, d]: [u8; 4], os: String) -> SoftRow {
    let net_info = NetInfo { preferred_derp: Some(RegionId(900 + u32::from(c))), ..NetInfo::default() };
    let hostinfo = Hostinfo { os, net_info: Some(Box::new(net_info)), ..Hostinfo::default() };
    let addr = if d % 2 == 0 { format!("192.0.2.{b}:4{c}") } else { format!("[2001:db8::{b:x}]:4{c}") };
    SoftRow {
        node,
        disco: (a > 99).then(|| DiscoPublic::from_bytes([a; 32])),
        endpoints: vec![Endpoint { addr: addr.parse().expect("an address"), kind: EndpointKind(d % 6) }],
        hostinfo: Arc::new(hostinfo),
        capability: CapabilityVersion(113),
        offered: Arc::new(Offered {
            hash: format!("h{b}"),
            services: [("svc:a".to_owned(), Offer { ports: vec!["tcp:443".to_owned()], is_active: c % 2 == 0 })].into(),
        }),
        last_seen: (b > 99).then(|| UnixTime::from_secs(1_790_000_000 + u64::from(c))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_committed_is_what_is_loaded(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("control.db");
            let mut store = open(&path).await;
            let mut server = Server::on(&store.load().await.expect("an empty registry"));
            let mut soft_rows = std::collections::BTreeMap::new();
            for step in steps {
                match step {
                    Step::What(what) => drop(server.commit(&mut store, vec![what]).await),
                    Step::Register { machine, node_key, key, hostname } => {
                        if let Some(secret) = server.keys.get(key).cloned() {
                            server.commit(&mut store, vec![register(machine, node_key + 10, &secret, &hostname)]).await;
                        }
                    }
                    Step::Trade(a, b) => {
                        let names = [a, b].map(|id| server.control.registry().node(NodeId(id)).map(|n| n.name.clone()));
                        if let [Some(name_a), Some(name_b)] = names {
                            let rename = |id, name: &str| What::RenameNode { node: NodeId(id), name: name.to_owned() };
                            let trade = vec![rename(a, "between"), rename(b, &name_a), rename(a, &name_b)];
                            server.commit(&mut store, trade).await;
                        }
                    }
                    Step::Soft(row) => {
                        store.save_soft(std::slice::from_ref(&row)).await.expect("saved");
                        soft_rows.insert(row.node, row);
                    }
                    Step::Pass(seconds) => {
                        server.wall = server.wall.saturating_add(std::time::Duration::from_secs(seconds));
                    }
                    Step::Restart => {
                        drop(store);
                        store = open(&path).await;
                        let keys = server.keys.clone();
                        let wall = server.wall;
                        server = Server { keys, wall, ..Server::on(&store.load().await.expect("a registry")) };
                    }
                }
                soft_rows.retain(|node, _| server.control.registry().node(*node).is_some());
                let mut loaded = store.load().await.expect("a registry");
                let soft = std::mem::take(&mut loaded.soft);
                prop_assert_eq!(loaded, server.control.registry().to_rows());
                prop_assert_eq!(soft, soft_rows.values().cloned().collect::<Vec<_>>());
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn audit_lines_and_changes_come_with_the_commit() {
    let (_folder, _path, mut server, mut store) = with_one_node().await;
    let before = server.control.registry().revision();
    let rename = What::RenameNode { node: NodeId(1), name: "new".to_owned() };
    server.commit(&mut store, vec![rename, user("bob")]).await;
    assert_eq!(server.control.registry().revision(), Revision(before.0 + 1));
    let audit = store.audit(2).await.expect("lines");
    let lines: Vec<_> =
        audit.iter().map(|line| (line.action.as_str(), line.target.as_str(), line.detail.as_str())).collect();
    assert_eq!(lines, [("create_user", "user:2", "bob"), ("rename_node", "node:1", "host to new")]);
    assert!(audit.iter().all(|line| line.revision == Revision(before.0 + 1) && line.actor == "server"));
    let changed = store.changes_since(before).await.expect("changes").expect("known");
    let kinds: Vec<_> = changed.iter().map(|(kind, id)| (kind.as_str(), *id)).collect();
    assert_eq!(kinds, [("facts", 0), ("node", 1), ("user", 2)]);
    let all: String = store.audit(100).await.expect("lines").iter().map(|line| format!("{line:?}")).collect();
    assert!(server.keys.iter().all(|secret| !all.contains(secret)), "no secret in the audit table");
}

#[tokio::test]
async fn no_secret_of_a_join_key_is_in_the_files() {
    let (folder, _path, server, store) = with_one_node().await;
    store.close().await.expect("closed");
    let secret = server.keys[0].rsplit('-').next().expect("a secret part").as_bytes().to_vec();
    for file in std::fs::read_dir(folder.path().join("state")).expect("files") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("bytes");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn a_batch_decided_on_another_revision_is_not_committed() {
    let (_folder, _path, mut server, mut store) = with_one_node().await;
    let (_, late) = server.decide(vec![user("late")]);
    server.commit(&mut store, vec![user("bob")]).await;
    let refused = store.commit(&late).await;
    assert!(matches!(refused, Err(CommitError::Stale { .. })), "{refused:?}");
    assert_eq!(store.load().await.expect("a registry"), server.control.registry().to_rows());
}

#[tokio::test]
async fn a_hundred_joins_are_one_commit() {
    let (_folder, _path, mut server, mut store) = with_one_node().await;
    let secret = server.keys[0].clone();
    let before = server.control.registry().revision();
    let joins = (20..120).map(|n| register(n, n, &secret, "pc")).collect();
    let answers = server.commit(&mut store, joins).await;
    assert!(answers.iter().all(is_in));
    assert_eq!(server.control.registry().revision(), Revision(before.0 + 1));
    assert_eq!(store.load().await.expect("a registry").nodes.len(), 101);
}

#[tokio::test]
async fn a_commit_waits_for_the_disk() {
    let (_folder, path, _server, store) = with_one_node().await;
    drop(store);
    // What the store set is the connection's own affair, but the log is the file's.
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(bytes[18..20], [2, 2], "write-ahead log, as the file format has it");
    let _: Store = open(&path).await;
}
