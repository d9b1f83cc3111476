//! The relay map from files and URLs, while nodes are attached.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use warren_controld::Overrides;
use warren_controld::relay_map::{Relays, Sources};
use warren_wire::RegionId;
use warren_wire::netmap::NetMap;

use crate::client::one_with;

fn region(id: u32, host: &str) -> String {
    format!(
        r#"{{"Regions": {{"{id}": {{"RegionCode": "x", "RegionName": "X", "Nodes": [{{"HostName": "{host}"}}]}}}}}}"#
    )
}

fn hosts(map: &NetMap) -> Vec<(u32, &str)> {
    map.relay_map.regions.iter().map(|(id, region)| (id.0, region.nodes[0].host_name.as_str())).collect()
}

#[tokio::test]
async fn a_file_that_changes_reaches_attached_nodes_as_a_small_message_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("relays.json");
    std::fs::write(&file, region(5, "five")).expect("written");
    let said = Overrides { relay_map_file: Some(file.clone()), relay_in_map: Some(false), ..Overrides::default() };
    let (_world, machine) = one_with(said).await;
    let mut maps = machine.stream().await;
    maps.until("the first map", |_| true).await;
    assert_eq!(hosts(maps.map.as_ref().expect("a map")), [(5, "five")], "our own relay is left out as asked");

    std::fs::write(&file, "{\"Regions\": ").expect("written");
    std::fs::write(folder.path().join("new"), region(6, "six")).expect("written");
    std::fs::rename(folder.path().join("new"), &file).expect("replaced");
    maps.until("other relays", |map| map.relay_map.regions.contains_key(&RegionId(6))).await;
    assert_eq!(hosts(maps.map.as_ref().expect("a map")), [(6, "six")]);
    assert!(maps.last.node.is_none() && maps.last.peers.is_empty() && maps.last.derp_map.is_some());

    std::fs::write(&file, r#"{"Regions": {"7": {"Nodes": []}}}"#).expect("written");
    let again = machine.stream().await.until("a map", |_| true).await.clone();
    assert_eq!(hosts(&again), [(6, "six")], "the last good relays stay");
}

/// Answers every request with what is in `said`; the port is free again when the set is dropped.
async fn publish(said: Arc<Mutex<String>>) -> (url::Url, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/map.json", listener.local_addr().expect("bound"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a reader");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            assert!(head.starts_with(b"GET /map.json HTTP/1.1\r\n"));
            let body = said.lock().expect("no panic").clone();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url::Url::parse(&url).expect("a URL"), tasks)
}

#[tokio::test]
async fn a_url_is_fetched_again_and_outlived() {
    let said = Arc::new(Mutex::new(region(5, "five")));
    let (url, serving) = publish(Arc::clone(&said)).await;
    let overrides = Overrides {
        relay_map_urls: Some(vec![url.to_string()]),
        relay_map_refresh: Some("1s".into()),
        ..Overrides::default()
    };
    let (world, machine) = one_with(overrides).await;
    let mut maps = machine.stream().await;
    let first = maps.until("the first map", |_| true).await;
    assert_eq!(hosts(first), [(5, "five"), (900, "127.0.0.1")]);
    *said.lock().expect("no panic") = region(6, "six");
    maps.until("other relays", |map| hosts(map) == [(6, "six"), (900, "127.0.0.1")]).await;

    drop(serving);
    let sources = Sources { urls: vec![url], ..Sources::default() };
    let relays = Relays::open(sources.clone(), world.folder()).await.expect("its last good answer");
    assert!(relays.map().regions.contains_key(&RegionId(6)));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let relays = Relays::open(sources, elsewhere.path()).await.expect("nothing, but no error");
    assert!(relays.map().regions.is_empty());
}
