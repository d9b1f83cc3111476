//! A node with a real interface, in a network namespace of the test's own. It needs root and says so when it skips.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_driver::{Driver, HelperDoor, Mode};
use warren_os::helper::serve_fd;
use warren_os::{Host, Limits};

use crate::control::Control;
use crate::mesh::{PATIENCE, config, echo, sees_peers, there_and_back, up};

/// Runs `test` in a new network namespace with loopback and one link that has addresses.
fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    let worker = thread::spawn(move || {
        let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
        if !unshared || std::fs::metadata("/dev/net/tun").is_err() {
            return false;
        }
        let setup = [
            "link set lo up",
            "link add under0 type veth peer name under1",
            "address add 192.0.2.1/24 dev under0",
            "link set under0 up",
            "link set under1 up",
        ];
        let ready = setup
            .iter()
            .all(|line| Command::new("ip").args(line.split(' ')).status().is_ok_and(|status| status.success()));
        if ready {
            test();
        }
        ready
    });
    match worker.join() {
        Ok(true) => {}
        Ok(false) => eprintln!("SKIPPED {name}: needs root, network namespaces, /dev/net/tun and the ip command"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn programs_of_the_host_reach_a_peer_through_the_interface_and_a_stop_takes_it_away() {
    in_namespace("interface", || {
        // Threads of the runtime are born here, so they live in this namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Limits::mesh("warren0").unwrap();
        let helper = thread::spawn(move || serve_fd(OwnedFd::from(theirs), &limits));
        runtime.block_on(reach_a_peer(ours));
        helper.join().unwrap().unwrap();
    });
}

async fn reach_a_peer(helper: UnixStream) {
    let (control, folder_a, folder_b) =
        (Control::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config_a = config(folder_a.path());
    config_a.mode = Mode::Interface(HelperDoor::Inherited(helper.into()));
    let a = Driver::start(config_a).await.unwrap();
    let b = Driver::start(config(folder_b.path())).await.unwrap();
    up(&a, &control).await;
    up(&b, &control).await;
    sees_peers(&a, 1).await;
    sees_peers(&b, 1).await;
    let addresses: Vec<IpAddr> = b.status().await.unwrap().addresses;
    assert_eq!(addresses.len(), 2, "{addresses:?}");

    let service = echo().await;
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n * 5) as u8).collect();
    for address in addresses {
        let stream = timeout(PATIENCE, connect(address, service.port())).await.expect("the peer is reached");
        assert_eq!(timeout(PATIENCE, there_and_back(stream, &data)).await.unwrap(), data);
    }
    let problem = a.facts().await.unwrap().host_problem;
    assert!(problem.as_ref().is_none_or(|text| text.contains("no program nft")), "{problem:?}");

    a.shutdown().await;
    b.shutdown().await;
    assert_eq!(Host::open().unwrap().interface("warren0").unwrap(), None);
    assert!(Host::open().unwrap().our_routes().unwrap().is_empty());
}

/// Connects as any program would; until the interface is configured there is no route, which is told at once.
async fn connect(address: IpAddr, port: u16) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect((address, port)).await {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}
