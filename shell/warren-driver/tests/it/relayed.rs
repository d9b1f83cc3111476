//! Two nodes whose direct ways are forbidden, and a real relay between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::sync::watch;
use tokio::time::timeout;
use warren_driver::{Driver, DriverHandle};
use warren_io::certificates::Source;
use warren_io::listener::Caps;
use warren_io::web_socket::Origins;
use warren_node::Command;
use warren_relayd::RelayConfig;
use warren_relayd::service::{Prepared, Who, prepare};
use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

use crate::control::Control;
use crate::mesh::{PATIENCE, config, echo, there_and_back, up};

const REGION: RegionId = RegionId(900);

async fn relay(folder: &std::path::Path, listen: SocketAddr) -> Prepared {
    let config = RelayConfig {
        listen,
        stun: Some("127.0.0.1:0".parse().unwrap()),
        state: folder.to_owned(),
        certificate: Source::SelfMade { folder: folder.to_owned(), names: vec!["127.0.0.1".into()] },
        http_listen: None,
        who: Who::Everyone,
        origins: Origins::default(),
        caps: Caps::default(),
    };
    prepare(config).await.unwrap()
}

fn map_of(relay: &Prepared) -> RelayMap {
    let node = RelayNode {
        name: "900a".into(),
        region_id: REGION,
        host_name: "127.0.0.1".into(),
        cert_name: format!("sha256-raw:{}", hex::encode(relay.pin().unwrap())),
        ipv4: "127.0.0.1".into(),
        ipv6: "none".into(),
        stun_port_raw: i32::from(relay.stun_address().unwrap().port()),
        derp_port_raw: i32::from(relay.address().unwrap().port()),
        ..RelayNode::default()
    };
    let region =
        RelayRegion { region_id: REGION, region_code: "test".into(), nodes: vec![node], ..RelayRegion::default() };
    RelayMap { regions: BTreeMap::from([(REGION, region)]), ..RelayMap::default() }
}

/// A node that may use the relay only.
async fn relayed_node(folder: &std::path::Path, control: &Control) -> DriverHandle {
    let node = Driver::start(config(folder)).await.unwrap();
    node.ask(|node, _, _| node.engine_mut().paths_mut().set_direct_allowed(false)).await.unwrap();
    up(&node, control).await;
    node
}

async fn sees_a_home(node: &DriverHandle) {
    let mut news = node.watch().await.unwrap();
    let seen = async {
        while !node.status().await.unwrap().peers.iter().any(|peer| peer.node.home_derp.is_some()) {
            news.recv().await.expect("news until the peer's home is seen");
        }
    };
    timeout(PATIENCE, seen).await.expect("the peer's home relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_direct_way_talk_by_the_relay_and_again_after_it_was_restarted() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let prepared = relay(folders[0].path(), "127.0.0.1:0".parse().unwrap()).await;
    let listen = prepared.address().unwrap();
    let control = Control::with_relays(map_of(&prepared)).await;
    let handle = prepared.relay().clone();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(prepared.run(stopped));

    let a = relayed_node(folders[1].path(), &control).await;
    let b = relayed_node(folders[2].path(), &control).await;
    sees_a_home(&a).await;
    sees_a_home(&b).await;
    let b_addr = b.status().await.unwrap().addresses[0].to_string();
    let service = echo().await;
    let data: Vec<u8> = (0..500_000u32).map(|n| (n * 3) as u8).collect();
    let stream = timeout(PATIENCE, a.dial(&b_addr, service.port())).await.unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, there_and_back(stream, &data)).await.unwrap(), data);
    let carried = handle.counters().other.received.bytes;
    assert!(carried >= 2 * data.len() as u64, "the relay carried {carried} bytes");

    // The relay goes and comes back at the same port: the nodes return by themselves.
    stop.send(true).unwrap();
    running.await.unwrap();
    let again = relay(folders[0].path(), listen).await;
    let handle = again.relay().clone();
    let (_stop, stopped) = watch::channel(false);
    let running = tokio::spawn(again.run(stopped));
    let stream = timeout(PATIENCE, a.dial(&b_addr, service.port())).await.unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, there_and_back(stream, &data)).await.unwrap(), data);

    // Who leaves the network leaves its relays as well.
    assert_eq!(handle.counters().clients, 2);
    a.command(Command::Logout).await.unwrap();
    let left = async {
        while handle.counters().clients != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, left).await.expect("the end of the link");

    a.shutdown().await;
    b.shutdown().await;
    running.abort();
}
