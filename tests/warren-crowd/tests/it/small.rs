use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warren_api::admin::Client as Admin;
use warren_controld::{Config, Overrides, Service};
use warren_crowd::crowd::{Crowd, Plan};
use warren_crowd::server;
use warren_io::listener::{self, Caps};

const PLAN: Plan =
    Plan { nodes: 140, visible: None, moves: 5, returns: 2, policies: 2, patience: Duration::from_secs(60) };

/// A server in this process that ends with the test's runtime.
async fn serve(folder: &std::path::Path) -> (SocketAddr, Admin, watch::Sender<bool>) {
    let port = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = port.local_addr().expect("bound");
    let said = Overrides {
        listen: Some(address),
        server_url: Some(format!("http://{address}")),
        base_domain: Some("mesh.test".to_owned()),
        relay: Some(false),
        ..Overrides::default()
    };
    let config = Config::new(said, folder).expect("a valid configuration");
    let service = Service::open(&config).await.expect("a server");
    let (stop, shutdown) = watch::channel(false);
    let routes = Arc::new(service.routes());
    tokio::spawn(listener::serve(port, routes, None, Caps::default(), shutdown.clone()));
    tokio::spawn(service.run(shutdown));
    (address, Admin::new(config.socket), stop)
}

async fn all_of_it(plan: Plan) {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, admin, _stop) = serve(folder.path()).await;
    let place = server::place(address).await.expect("a key");
    let mut crowd = Crowd::new(plan, &place, admin);
    let keys = crowd.prepare().await.expect("keys");
    crowd.join(&keys).await.expect("all join");
    assert_eq!(crowd.lacking(), 0);
    let joined = crowd.sent();
    assert!(joined.whole_maps == 1.0 && joined.bytes > 0.0, "{joined:?}");
    assert_eq!(crowd.moves().await.expect("all hear").len(), plan.moves);
    assert_eq!(crowd.returns().await.expect("all hear").len(), plan.returns);
    assert_eq!(crowd.policies().await.expect("all hear").len(), plan.policies);
    let whole_maps = crowd.sent().whole_maps * plan.nodes as f64;
    assert_eq!(whole_maps.round() as usize, plan.nodes + plan.returns, "nobody but who came back is sent a whole map");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_see_each_other_hold_what_they_should_after_every_change() {
    all_of_it(PLAN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_in_groups_hold_their_group_and_nobody_else() {
    all_of_it(Plan { visible: Some(9), ..PLAN }).await;
}
