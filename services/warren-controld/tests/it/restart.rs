//! What was answered survives, and what cannot be started says why.

use std::sync::Arc;

use warren_control::rows::{PolicyRow, Revision, RowChange};
use warren_controld::{Overrides, Service};
use warren_crypto::UnixTime;
use warren_io::listener;
use warren_store::Store;

use crate::client::{Machine, peers};
use crate::world::{config, start};

#[tokio::test]
async fn after_a_kill_everything_that_was_answered_is_there() {
    let world = start().await;
    let (one_off, reusable) = (world.join_key(false).await, world.join_key(true).await);
    let (mut a, b) = (Machine::new(&world, 1, "a").await, Machine::new(&world, 2, "b").await);
    a.join(&one_off).await;
    b.join(&reusable).await;
    let mut maps = a.stream().await;
    let before = maps.until("b", |map| peers(map) == ["b"]).await.self_node.addresses.clone();
    world
        .admin
        .set_policy(r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:80"] }] }"#)
        .await
        .expect("taken");
    let key = world.key;

    let world = world.kill_and_start_again().await;
    assert_eq!(world.key, key);
    assert_eq!(world.admin.nodes(None).await.expect("a list").len(), 2);
    assert!(world.admin.policy().await.expect("one").policy.contains(":80"));
    a.reconnect(&world).await;
    // A daemon that starts again says the same again, its used-up key included, and nothing changes.
    a.join(&one_off).await;
    let mut maps = a.stream().await;
    let map = maps.until("b", |map| peers(map) == ["b"]).await;
    assert_eq!(map.self_node.addresses, before);
    let c = Machine::new(&world, 3, "c").await;
    let refused = c.register(&c.register_request(Some(&one_off))).await;
    assert_eq!(refused.error, "authkey already used");
}

#[tokio::test]
async fn a_server_that_is_stopped_leaves_no_socket_and_starts_again() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(true).await).await;
    let mut maps = machine.stream().await;
    maps.until("the first map", |_| true).await;
    let folder = world.stop().await;
    while maps.next().await.is_some() {}
    assert!(!folder.path().join("run/control.sock").exists());
    let service = Service::open(&config(folder.path(), Overrides::default())).await.expect("nobody else has it");
    assert_eq!(service.registry().snapshot().registry().node_count(), 1);
}

#[tokio::test]
async fn a_stored_policy_that_cannot_be_read_gives_way_to_a_good_file_and_to_nothing_else() {
    let folder = start().await.stop().await;
    let mut store = Store::open(&folder.path().join("control.db")).await.expect("nobody else has it");
    let rows = store.load().await.expect("loaded");
    let text = r#"{ "from": "the future" "#.to_owned();
    let policy = RowChange::PutPolicy(Arc::new(PolicyRow { text, updated: UnixTime::from_secs(1) }));
    let mut open = store.begin(rows.revision).await.expect("alone");
    open.write(Revision(rows.revision.0 + 1), &[policy], &[]).await.expect("written");
    open.finish().await.expect("committed");
    store.close().await.expect("closed");

    let file = folder.path().join("policy.hujson");
    let from = |text: &str| {
        std::fs::write(&file, text).expect("writable");
        config(folder.path(), Overrides { policy_file: Some(file.clone()), ..Overrides::default() })
    };
    let alone = config(folder.path(), Overrides::default());
    for config in [alone, from("{ \"acls\": 3 }")] {
        assert!(Service::open(&config).await.is_err(), "nobody knows who may reach whom");
    }
    let good = r#"{ "acls": [] }"#;
    let service = Service::open(&from(good)).await.expect("the file says it");
    let snapshot = service.registry().snapshot();
    assert_eq!(snapshot.registry().policy().expect("one").text, good);
}

#[tokio::test]
async fn what_stands_in_the_way_is_named() {
    let world = start().await;
    let taken = listener::bind(world.address).expect_err("in use").to_string();
    assert!(taken.contains("another program listens there"), "{taken}");
    let error = async |said: Overrides| match Service::open(&config(world.folder(), said)).await {
        Ok(_) => panic!("two servers on one state"),
        Err(error) => error.to_string(),
    };
    assert!(error(Overrides::default()).await.contains("in use by another control server"));

    let other = tempfile::tempdir().expect("a folder");
    let policy = other.path().join("policy.hujson");
    std::fs::write(&policy, "{ \"acls\": 3 }").expect("writable");
    let error =
        match Service::open(&config(other.path(), Overrides { policy_file: Some(policy), ..Overrides::default() }))
            .await
        {
            Ok(_) => panic!("a policy that is none"),
            Err(error) => error.to_string(),
        };
    assert!(error.contains("policy.hujson"), "{error}");
}
