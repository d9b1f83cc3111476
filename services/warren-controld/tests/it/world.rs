//! A control server in a runtime of its own, so that a test can kill it as a whole.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use url::Url;
use warren_api::admin::{Client as Admin, CreateKey, CreateUser};
use warren_controld::{Admission, Config, Overrides, Registry, Reload, Service};
use warren_crypto::MachinePublic;
use warren_io::listener::{self, Caps};
use warren_store::AuditEntry;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub address: SocketAddr,
    pub key: MachinePublic,
    pub admin: Admin,
    pub admission: Admission,
    pub registry: Registry,
    pub reload: Reload,
    folder: tempfile::TempDir,
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
}

/// A server with usual settings and one person, `ann`.
pub async fn start() -> World {
    let world = start_with(Overrides::default(), Caps::default()).await;
    world.admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect("a new name");
    world
}

pub async fn start_with(said: Overrides, caps: Caps) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder, said, caps).await
}

/// A server on what another left.
pub async fn start_on(folder: tempfile::TempDir, said: Overrides) -> World {
    open(folder, said, Caps::default()).await
}

pub fn config(folder: &Path, said: Overrides) -> Config {
    let usual = Overrides {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        base_domain: Some("mesh.test".into()),
        relay: Some(true),
        ..Overrides::default()
    };
    Config::new(said.over(usual), folder).expect("a valid configuration")
}

async fn open(folder: tempfile::TempDir, said: Overrides, caps: Caps) -> World {
    let mut config = config(folder.path(), said);
    config.executable = std::env::current_exe().ok();
    let socket = config.socket.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let (stop, shutdown) = watch::channel(false);
    let opened = runtime.spawn(async move {
        let port = listener::bind(config.listen)?;
        let address = port.local_addr().expect("bound");
        config.server_url = format!("http://{address}");
        let service = Service::open(&config).await?;
        let (key, admission) = (service.server_key(), service.admission());
        let (registry, reload) = (service.registry().clone(), service.reload());
        let routes = Arc::new(service.routes());
        tokio::spawn(listener::serve(port, routes, None, caps, shutdown.clone()));
        tokio::spawn(service.run(shutdown));
        Ok::<_, warren_controld::StartError>((address, key, admission, registry, reload))
    });
    let (address, key, admission, registry, reload) = opened.await.expect("no panic").expect("a server");
    World { address, key, admin: Admin::new(socket), admission, registry, reload, folder, runtime: Some(runtime), stop }
}

impl World {
    pub fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).expect("an address")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A join key of `ann`'s, as text.
    pub async fn join_key(&self, reusable: bool) -> String {
        let wish = CreateKey { user: "ann".into(), reusable, ..CreateKey::default() };
        self.admin.create_key(&wish).await.expect("a key").key
    }

    /// Kills the server where it stands and starts another on the same state, at another port.
    pub async fn kill_and_start_again(mut self) -> World {
        let runtime = self.runtime.take().expect("alive");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.expect("no panic");
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        open(folder, Overrides::default(), Caps::default()).await
    }

    /// Ends the server as a signal does, and returns its folder.
    pub async fn stop(mut self) -> tempfile::TempDir {
        self.stop.send_replace(true);
        let mut admission = self.admission.clone();
        let ended = async { while admission.changed().await {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the writer ends");
        let runtime = self.runtime.take().expect("alive");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.expect("no panic");
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Stops the server and reads what is written down of what was done, the newest first.
pub async fn audit(world: World) -> Vec<AuditEntry> {
    let folder = world.stop().await;
    let mut store = warren_store::Store::open(&folder.path().join("control.db")).await.expect("a database");
    store.audit(50).await.expect("lines")
}
