//! `cargo xtask bench tunnel`: how fast a packet gets through, beside bare cables and other people's tunnels.
//! `cargo xtask bench control`: what a control server needs for thousands of nodes.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::machine::{self, Machine};
use crate::sh;

/// Versions of the other tunnels, from the public registry, built once into `target/bench-tools`.
const OTHERS: [(&str, &str); 2] = [("gotatun-cli", "0.10.2"), ("boringtun-cli", "0.7.1")];

pub fn tunnel(words: &[&str]) -> Result<()> {
    Machine::prepare().tun.map_err(anyhow::Error::msg)?;
    sh::run(sh::cargo().args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "warren",
        "-p",
        "warren-helper",
        "-p",
        "warren-e2e",
    ]))?;
    let metadata = sh::output(sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target =
        PathBuf::from(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?);
    let tools = std::env::var_os("WARREN_BENCH_TOOLS").map_or_else(|| target.join("bench-tools/bin"), PathBuf::from);
    for (name, version) in OTHERS {
        let program = name.trim_end_matches("-cli");
        if tools.join(name).exists() || tools.join(program).exists() || !sh::have("wg") {
            continue;
        }
        let root = target.join("bench-tools");
        let installed =
            sh::run(sh::cargo().args(["install", "--quiet", "--version", version, name, "--root"]).arg(&root));
        if let Err(error) = installed {
            eprintln!("bench: {name} is left out: {error:#}");
        }
    }
    let bin = target.join("release");
    sh::run(
        machine::unshare()
            .arg(bin.join("warren-tunnel-bench"))
            .args(words)
            .env("WARREN_E2E", "1")
            .env("WARREN_E2E_TUN", "1")
            .env("WARREN_BIN_DIR", &bin)
            .env("WARREN_BENCH_TOOLS", &tools),
    )
}

pub fn control(words: &[&str]) -> Result<()> {
    sh::run(sh::cargo().args(["build", "--quiet", "--release", "-p", "warren", "-p", "warren-crowd"]))?;
    let bin = sh::target_dir()?.join("release");
    sh::run(std::process::Command::new(bin.join("warren-crowd")).args(words).env("WARREN_BIN_DIR", &bin))
}
