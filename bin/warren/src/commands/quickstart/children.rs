//! Services as children of this process: the same executable, lines of their logs with a prefix, an end with ours.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::life;
use crate::rights::THIS_PROGRAM;

/// Between two looks whether something has come up.
const LOOK: Duration = Duration::from_millis(50);

/// One child. Dropping it kills it.
pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    /// The last line that it wrote, which says why it ended if it did.
    last: Arc<Mutex<String>>,
}

impl Child {
    /// Starts this program with `words`. `door` is a connection that only this child gets, as `--helper-fd`.
    pub(super) fn start(name: &'static str, words: &[String], door: Option<OwnedFd>) -> Result<Self> {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("warren").args(words);
        if let Some(door) = &door {
            fcntl(door, FcntlArg::F_SETFD(FdFlag::empty())).context("hand the helper's connection over")?;
            command.arg(format!("--helper-fd={}", door.as_raw_fd()));
        }
        command.env(life::PARENT_VARIABLE, std::process::id().to_string());
        if std::env::var_os(life::LOG_VARIABLE).is_none() {
            command.env(life::LOG_VARIABLE, "warn");
        }
        // A group of its own: Ctrl-C is for us, and we stop the children in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("start {name}"))?;
        let last = Arc::new(Mutex::new(String::new()));
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(prefix(name, stdout, Arc::clone(&last)));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(prefix(name, stderr, Arc::clone(&last)));
        }
        Ok(Self { name, process, last })
    }

    fn why(&self, status: std::process::ExitStatus) -> Error {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.strip_prefix("warren: ") {
            Some(reason) => anyhow!("{}: {reason}", self.name),
            None => anyhow!("{} ended by itself ({status})", self.name),
        }
    }

    /// Asks it to end, and makes it end if it has not within `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok()) else { return };
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }
}

async fn prefix(name: &'static str, stream: impl AsyncRead + Unpin, last: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{name:>7} | {line}");
        *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}

/// Waits until `holds`.
///
/// # Errors
/// When it does not within `patience`, or a child ends first.
pub(super) async fn until(
    patience: Duration,
    children: &mut [Child],
    what: &str,
    holds: impl AsyncFn() -> bool,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    while !holds().await {
        if let Some(error) = ended(children) {
            // Its last words may still be on their way.
            tokio::time::sleep(LOOK).await;
            return Err(self::ended(children).unwrap_or(error));
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(anyhow!("gave up waiting until {what}"));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Why a child has ended, if one has.
pub(super) fn ended(children: &mut [Child]) -> Option<Error> {
    children.iter_mut().find_map(|child| match child.process.try_wait() {
        Ok(Some(status)) => Some(child.why(status)),
        _ => None,
    })
}

/// Waits until one of them ends, and says why.
pub(super) async fn first_to_end(children: &mut [Child]) -> Error {
    loop {
        if ended(children).is_some() {
            tokio::time::sleep(LOOK).await;
            if let Some(error) = ended(children) {
                return error;
            }
        }
        tokio::time::sleep(LOOK * 4).await;
    }
}
