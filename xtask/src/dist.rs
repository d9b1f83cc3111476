//! `cargo xtask dist`: the one executable that a person installs.

use std::process::Command;

use anyhow::{Context, Result};

use crate::sh;

const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

pub fn run() -> Result<()> {
    let installed = Command::new("rustc").args(["--print", "target-libdir", "--target", STATIC_TARGET]).output();
    let has_target = installed.is_ok_and(|out| {
        out.status.success() && std::path::Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir()
    });
    let can_static = has_target && sh::have("musl-gcc");
    let mut build = sh::cargo();
    build.args(["build", "--release", "-p", "warren", "-p", "warren-helper"]);
    let folder = if can_static {
        build.args(["--target", STATIC_TARGET]);
        format!("{STATIC_TARGET}/release")
    } else {
        println!("dist: not static: that needs `rustup target add {STATIC_TARGET}` and `apt-get install musl-tools`;");
        println!("dist: this executable needs the C library of this machine or a newer one");
        "release".to_string()
    };
    sh::run(&mut build)?;
    let metadata = sh::output(sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    for name in ["warren", "warren-helper"] {
        let path = format!("{target}/{folder}/{name}");
        print!("{}", sh::output(Command::new("sha256sum").arg(&path))?);
    }
    Ok(())
}
