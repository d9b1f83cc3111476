//! `cargo xtask lab <nat> <nat>`: a small internet for a person to play in.

use anyhow::{Result, bail};

use crate::machine::{self, Machine};
use crate::sh;

pub fn run(words: &[&str]) -> Result<()> {
    let [left, right] = words else {
        bail!("lab takes two kinds of router, for example: cargo xtask lab cone symmetric")
    };
    Machine::prepare().namespaces.map_err(anyhow::Error::msg)?;
    sh::run(sh::cargo().args(["build", "-p", "warren", "-p", "warren-helper", "-p", "warren-e2e"]))?;
    let metadata = sh::output(sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let bin = std::path::Path::new(metadata["target_directory"].as_str().unwrap_or("target")).join("debug");
    sh::run(
        machine::unshare()
            .arg(bin.join("warren-playground"))
            .args([left, right])
            .env("WARREN_E2E", "1")
            .env("WARREN_BIN_DIR", &bin),
    )
}
