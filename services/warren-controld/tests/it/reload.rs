//! Files that a running server reads again when it is told to: each takes effect without a restart, and a bad one changes
//! nothing.
//!
//! Relay maps and extra names are looked at by themselves when they change. Here they change behind the file system's back
//! (same file, length and time), so that only the word of the operator can make them known.

use std::path::Path;

use warren_api::admin::CreateUser;
use warren_controld::Overrides;
use warren_io::listener::Caps;
use warren_wire::netmap::NetMap;

use crate::client::{Machine, peers};
use crate::world::{World, start_with};

const ALL: &str = r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }"#;
const NONE: &str = r#"{ "acls": [] }"#;

fn relays(name: &str) -> String {
    format!(r#"{{"Regions": {{"5": {{"RegionCode": "x", "RegionName": "X", "Nodes": [{{"HostName": "{name}"}}]}}}}}}"#)
}

fn names(address: &str) -> String {
    format!(r#"[{{"name": "wiki.mesh.test", "type": "A", "value": "{address}"}}]"#)
}

/// Other bytes of the same length, at the same time.
fn write_unseen(path: &Path, text: &str) {
    let before = std::fs::metadata(path).expect("there");
    assert_eq!(before.len(), text.len() as u64, "else the change would be seen");
    std::fs::write(path, text).expect("written");
    let file = std::fs::File::options().write(true).open(path).expect("ours");
    file.set_modified(before.modified().expect("a time")).expect("set back");
}

fn facts(map: &NetMap) -> (usize, String, String) {
    let relay = map.relay_map.regions.values().map(|region| region.nodes[0].host_name.clone()).collect();
    let names = map.dns.extra_records.iter().map(|record| record.value.clone()).collect();
    (peers(map).len(), relay, names)
}

/// Asks until the server names `count` things that are wrong, and returns them.
async fn warnings(world: &World, count: usize) -> Vec<String> {
    let wait = async {
        loop {
            let found = world.admin.health().await.expect("an answer").warnings;
            if found.len() == count {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, wait).await.expect("all of them are named")
}

#[tokio::test]
async fn files_are_read_again_when_the_operator_says_so_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let [policy, map, extra] = ["policy.hujson", "relays.json", "names.json"].map(|name| folder.path().join(name));
    std::fs::write(&policy, ALL).expect("written");
    std::fs::write(&map, relays("one")).expect("written");
    std::fs::write(&extra, names("192.0.2.1")).expect("written");
    let said = Overrides {
        policy_file: Some(policy.clone()),
        relay_map_file: Some(map.clone()),
        relay_in_map: Some(false),
        dns_extra_records_file: Some(extra.clone()),
        ..Overrides::default()
    };
    let world = start_with(said, Caps::default()).await;
    world.admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect("new");
    let key = world.join_key(true).await;
    let (a, b) = (Machine::new(&world, 1, "a").await, Machine::new(&world, 2, "b").await);
    a.join(&key).await;
    b.join(&key).await;
    let mut maps = a.stream().await;
    let first = maps.until("b", |map| peers(map) == ["b"]).await;
    assert_eq!(facts(first), (1, "one".into(), "192.0.2.1".into()));

    std::fs::write(&policy, NONE).expect("written");
    write_unseen(&map, &relays("two"));
    write_unseen(&extra, &names("192.0.2.2"));
    world.reload.now();
    maps.until("all three", |map| facts(map) == (0, "two".into(), "192.0.2.2".into())).await;
    assert_eq!(world.admin.policy().await.expect("one").policy, NONE);
    assert!(warnings(&world, 0).await.is_empty());

    std::fs::write(&policy, r#"{ "acls": [{ "action": "accept", "src": ["group:nobody"], "dst": ["*:*"] }] }"#)
        .expect("written");
    write_unseen(&map, &relays("two").replace("\"Regions\"", "\"Regionen"));
    write_unseen(&extra, &names("192.0.2.X"));
    world.reload.now();
    let told = warnings(&world, 3).await;
    for (file, stays) in
        [("policy.hujson", "policy stays"), ("relays.json", "relays stay"), ("names.json", "ones stay")]
    {
        assert!(told.iter().any(|line| line.contains(file) && line.contains(stays)), "{file}: {told:?}");
    }
    let again = b.stream().await.until("a map", |_| true).await.clone();
    assert_eq!(facts(&again), (0, "two".into(), "192.0.2.2".into()), "the last good ones stay in force");
    assert_eq!(world.admin.policy().await.expect("one").policy, NONE);

    std::fs::write(&policy, ALL).expect("written");
    std::fs::write(&map, relays("three")).expect("written");
    std::fs::write(&extra, names("192.0.2.3")).expect("written");
    world.reload.now();
    maps.until("what was mended", |map| facts(map) == (1, "three".into(), "192.0.2.3".into())).await;
    assert!(warnings(&world, 0).await.is_empty(), "what is mended is not complained about");
}
