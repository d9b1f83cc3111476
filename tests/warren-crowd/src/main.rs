//! `cargo xtask bench control`: see the library.
//!
//! `WARREN_BIN_DIR` names the folder of the `warren` that is measured.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use warren_crowd::crowd::{Crowd, Plan};
use warren_crowd::figures::{self, Figure, quantile};
use warren_crowd::server::Server;

/// How long the server is watched when nothing happens.
const IDLE: Duration = Duration::from_secs(20);

/// Until what the last change set off has ended.
const SETTLING: Duration = Duration::from_secs(3);

struct Words {
    plan: Plan,
    as_json: bool,
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let done = read(&given).and_then(|words| {
        allow_files(words.plan.nodes)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(measure(&words))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(given: &[String]) -> Result<Words> {
    let usual =
        Plan { nodes: 0, visible: None, moves: 40, returns: 10, policies: 10, patience: Duration::from_secs(600) };
    let mut words = Words { plan: usual, as_json: false };
    let mut rest = given.iter();
    while let Some(word) = rest.next() {
        let mut number = || {
            let value = rest.next().with_context(|| format!("{word} takes a number"))?;
            value.parse::<usize>().with_context(|| format!("{word} takes a number, not {value}"))
        };
        match word.as_str() {
            "--nodes" => words.plan.nodes = number()?,
            "--visible" => words.plan.visible = Some(number()?),
            "--json" => words.as_json = true,
            "--db" => match rest.next().map(String::as_str) {
                Some("sqlite") => {}
                other => bail!("--db {}: only sqlite is built", other.unwrap_or_default()),
            },
            other => bail!("{other} means nothing here: use --nodes N [--visible M] [--db sqlite] [--json]"),
        }
    }
    let Plan { nodes, visible, .. } = words.plan;
    if nodes < 2 || visible.is_some_and(|visible| visible == 0 || visible >= nodes) {
        bail!("--nodes N must be at least 2, and --visible M from 1 to N - 1");
    }
    Ok(words)
}

/// A descriptor for each node here, and one at the server, which inherits the limit.
fn allow_files(nodes: usize) -> Result<()> {
    let wanted = nodes as u64 + 1000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).with_context(|| {
            format!("{nodes} nodes need {wanted} open files, the limit is {hard}; raise it: ulimit -n")
        })?;
    }
    Ok(())
}

async fn measure(words: &Words) -> Result<()> {
    let programs =
        std::env::var_os("WARREN_BIN_DIR").context("WARREN_BIN_DIR names no folder: use cargo xtask bench")?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&PathBuf::from(programs).join("warren"), folder.path()).await?;
    let measured = with(words, &server).await;
    if measured.is_err() {
        let log = server.log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("the server said last:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    measured
}

async fn with(words: &Words, server: &Server) -> Result<()> {
    let plan = words.plan;
    let mut crowd = Crowd::new(plan, &server.place().await?, server.admin());
    let keys = crowd.prepare().await?;
    let before = server.cpu();
    let join = crowd.join(&keys).await?;
    let (cpu, after_join) = (server.cpu() - before, crowd.sent());
    eprintln!(
        "joined in {join:?}; server {cpu:.2} s of CPU, {:.0} MiB; a node was sent {:.0} bytes, {:.1} whole maps, {:.1} deltas",
        server.peak_mib(),
        after_join.bytes,
        after_join.whole_maps,
        after_join.deltas
    );
    let joined_mib = server.peak_mib();
    tokio::time::sleep(SETTLING).await;
    let before = server.cpu();
    tokio::time::sleep(IDLE).await;
    let idle = (server.cpu() - before) / IDLE.as_secs_f64() * 100.0;
    let before = server.cpu();
    let mut changes = crowd.moves().await?;
    let change_cpu = (server.cpu() - before) / changes.len().max(1) as f64;
    changes.extend(crowd.returns().await?);
    let before = server.cpu();
    let policies = crowd.policies().await?;
    let policy_cpu = (server.cpu() - before) / policies.len().max(1) as f64;
    let case = match plan.visible {
        None => format!("all-{}", plan.nodes),
        Some(visible) => format!("visible-{visible}-of-{}", plan.nodes),
    };
    let figure = |metric, unit, value| Figure { metric, unit, value };
    let figures = [
        figure("join", "s", join.as_secs_f64()),
        figure("cpu", "s", cpu),
        figure("rss", "MiB", server.peak_mib()),
        figure("rss_joined", "MiB", joined_mib),
        figure("bytes_per_node", "B", after_join.bytes),
        figure("deltas_per_node", "messages", after_join.deltas),
        figure("change_p50", "s", quantile(&changes, 0.5)),
        figure("change_p99", "s", quantile(&changes, 0.99)),
        figure("change_cpu", "s", change_cpu),
        figure("policy_p50", "s", quantile(&policies, 0.5)),
        figure("policy_p99", "s", quantile(&policies, 0.99)),
        figure("policy_cpu", "s", policy_cpu),
        figure("idle_cpu", "%", idle),
    ];
    figures::print(&case, &figures, words.as_json);
    Ok(())
}
