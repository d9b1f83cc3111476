//! A daemon's life: state folder, sockets, node; then answers until told to stop; then nothing is left.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use warren_driver::{Driver, DriverConfig, DriverHandle, Mode, StartError};
use warren_io::local_socket::{self, BindError, LocalListener, OpenTo};
use warren_node::{Command, Notice, PrefsEdit};
use warren_wire::CapabilityVersion;

use crate::backend::NodeBackend;
use crate::config::{AutoLogin, Config};
use crate::local_api;

/// Why a daemon did not start. What had been started is undone.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("make the folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Socket(#[from] BindError),
    #[error("start the node")]
    Node(#[from] StartError),
    #[error("join {url}")]
    Login {
        url: String,
        #[source]
        source: warren_driver::AskError,
    },
}

/// Runs a node daemon until `shutdown` turns true. Call it inside a tokio runtime.
///
/// `ready` is told once LocalAPI answers. When this returns, sockets, interface and routes are gone.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    config: Config,
    ready: impl FnOnce() + Send,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    make_folder(&config.state, 0o700)?;
    // The sockets first: whoever else runs here is found before anything is touched.
    let mut listeners = Vec::new();
    for path in std::iter::once(&config.socket).chain(&config.more_sockets) {
        listeners.push(listen(path).await?);
    }
    let handle = Driver::start(DriverConfig {
        state_file: config.state.join("node.json"),
        mode: config.helper.map_or(Mode::Userspace, Mode::Interface),
        listen_port: config.port,
        socks5: config.socks5,
        http_proxy: config.http_proxy,
        mtu: config.mtu,
        version: config.version.clone(),
    })
    .await?;
    if let Some(login) = config.login
        && let Err(source) = log_in(&handle, &login).await
    {
        handle.shutdown().await;
        return Err(RunError::Login { url: login.url, source });
    }
    let backend = NodeBackend::new(handle.clone(), config.version);
    let mut serving = JoinSet::new();
    for listener in listeners {
        info!(socket = %listener.path().display(), "LocalAPI answers");
        serving.spawn(local_api::serve(listener, backend.clone(), CapabilityVersion::OUR_NODE.0, shutdown.clone()));
    }
    serving.spawn(write_news(handle.clone()));
    ready();
    let _ = shutdown.wait_for(|stop| *stop).await;
    handle.shutdown().await;
    // Their sockets' files go with them.
    serving.shutdown().await;
    Ok(())
}

async fn listen(path: &Path) -> Result<LocalListener, RunError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        make_folder(folder, 0o755)?;
    }
    Ok(local_socket::bind(path, OpenTo::Everyone).await?)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), RunError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| RunError::Folder { path: path.to_owned(), source })
}

/// Joins, unless the node has joined that network before: then it only goes up.
async fn log_in(handle: &DriverHandle, login: &AutoLogin) -> Result<(), warren_driver::AskError> {
    let status = handle.status().await?;
    let known = status.have_node_key && status.control_url == login.url;
    let edit = PrefsEdit {
        control_url: Some(login.url.clone()),
        // A pin of an earlier start stays where none is given; that of another server does not.
        control_key: login.server_key.clone().or_else(|| (status.control_url != login.url).then(String::new)),
        want_running: Some(true),
        hostname: login.hostname.clone(),
        ..PrefsEdit::default()
    };
    let auth_key = if known { None } else { login.key.clone() };
    handle.command(Command::Start { auth_key, prefs: edit }).await.map(drop)
}

/// What an operator reads in the log: states, and what went wrong.
async fn write_news(handle: DriverHandle) {
    while let Ok(mut news) = handle.watch().await {
        while let Some(notice) = news.recv().await {
            match notice {
                Notice::State(state) => info!(?state, "the node's state"),
                Notice::BrowseToUrl(url) => info!(%url, "a person must sign in"),
                Notice::Retrying(text) => warn!(%text, "the control server; trying again"),
                Notice::Error(text) => error!(%text, "the control server"),
                Notice::Health(items) => {
                    for item in items.iter().filter(|item| item.impacts_connectivity) {
                        warn!(code = %item.code, text = %item.text, "health");
                    }
                }
                _ => {}
            }
        }
    }
}
