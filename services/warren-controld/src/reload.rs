//! Reading files again when the operator says so, instead of when they are next looked at.
//!
//! ```text
//! SIGHUP ──▶ Reload::now ──▶ policy file, relay maps, extra names: each is read, and taken if it is good
//! ```

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock;
use crate::service::Shared;

/// Asks a running server to read its files again: policy, relay maps (of URLs too), extra names. A bad one changes nothing
/// and is named in the log and by `warren control health`.
#[derive(Clone, Debug)]
pub struct Reload(watch::Sender<u64>);

/// Hears of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked(watch::Receiver<u64>);

impl Reload {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Returns at once; what comes of it is in the log.
    pub fn now(&self) {
        self.0.send_modify(|times| *times += 1);
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked(self.0.subscribe())
    }
}

impl Asked {
    /// Returns when somebody has asked since the last return; never, once nobody is left who could. Dropping the future
    /// loses nothing.
    pub(crate) async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Takes the policy file whenever it is asked for, until the server ends. What is wrong with it goes into `problem`.
pub(crate) async fn follow_policy(shared: Arc<Shared>, mut asked: Asked, problem: watch::Sender<Option<String>>) {
    let mut shutdown = shared.shutdown.clone();
    loop {
        tokio::select! {
            () = clock::told(&mut shutdown) => return,
            () = asked.wait() => {}
        }
        match shared.take_policy_file().await {
            Ok(taken) => {
                if let Some(path) = shared.policy_file.as_ref().filter(|_| taken) {
                    tracing::info!(path = %path.display(), "the policy file was read again");
                }
                problem.send_replace(None);
            }
            Err(error) => {
                tracing::warn!(%error, "the policy file was not taken; the last good policy stays in force");
                problem.send_replace(Some(format!("{error}; the last good policy stays in force")));
            }
        }
    }
}
