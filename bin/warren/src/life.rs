//! A service's life: its log, who tells it to stop, and with whom it dies.

use std::future::Future;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;
use tracing_subscriber::EnvFilter;

/// Set for a child that shall end with the process of this number, which started it.
pub const PARENT_VARIABLE: &str = "WARREN_PARENT";

/// Filter of the log, in tracing's language: `debug`, `warren_path=trace,info` …
pub const LOG_VARIABLE: &str = "WARREN_LOG";

/// Until a second signal, or this code after it, as shells have it for an interrupt.
const INTERRUPTED: i32 = 130;

/// Begins a service: log to standard error (`usual` filters it where nobody says otherwise), and an end together with
/// the parent if there is one to end with.
///
/// # Errors
/// When the parent is gone already.
pub fn enter(usual: &str) -> Result<()> {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    let is_child = std::env::var_os(PARENT_VARIABLE).is_some();
    // Whoever read the log may be gone, which is no reason to fall over.
    let log = log.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false);
    // A child's lines get their time of arrival from whoever collects them.
    let set = if is_child { log.without_time().try_init() } else { log.try_init() };
    set.map_err(|error| anyhow::anyhow!("start the log: {error}"))?;
    end_with_parent()
}

fn end_with_parent() -> Result<()> {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|text| text.parse().ok()) else { return Ok(()) };
    // A polite signal, so that what we made is undone also when the parent was killed outright.
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("tie this process to its parent")?;
    // Named for `ps` and `top`: started by the link to this program, it would be called "exe".
    let _ = nix::sys::prctl::set_name(c"warren");
    // It may have died before that.
    if getppid() != Pid::from_raw(parent) {
        bail!("the process that started this one has ended");
    }
    Ok(())
}

/// Runs a service on threads of its own until it ends or is told to: the first SIGTERM or SIGINT turns the signal that
/// `service` gets true, the second ends the process at once.
///
/// # Errors
/// The service's.
pub fn run<S>(threads: usize, service: impl FnOnce(watch::Receiver<bool>) -> S) -> Result<()>
where
    S: Future<Output = Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let ended = runtime.block_on(async {
        let shutdown = until_told()?;
        service(shutdown).await
    });
    // Whatever blocks a thread still (a look-up of a name) is not waited for.
    runtime.shutdown_background();
    ended
}

/// Turns true at the first SIGTERM or SIGINT; at the second the process ends. Needs a tokio runtime.
///
/// # Errors
/// When the system has no place for a handler.
pub fn until_told() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        stop.send_replace(true);
        info!("stopping; once more ends it at once");
        next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(shutdown)
}
