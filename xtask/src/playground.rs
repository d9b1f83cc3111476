//! `cargo xtask lab <nat> <nat>`: a small internet for a person to play in.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::machine::{self, Machine};
use crate::sh;

pub fn run(words: &[&str]) -> Result<()> {
    let [left, right] = words else {
        bail!("lab takes two kinds of router, for example: cargo xtask lab cone symmetric")
    };
    let machine = Machine::prepare();
    machine.namespaces.map_err(anyhow::Error::msg)?;
    // The same choice of packages as the tests, which would otherwise build all dependencies once more.
    sh::run(sh::cargo().args(["test", "--workspace", "--no-run"]))?;
    let metadata = sh::output(sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = Path::new(metadata["target_directory"].as_str().unwrap_or("target")).to_path_buf();
    let bin = target.join("debug");
    let shells = target.join("lab");
    std::fs::create_dir_all(&shells).with_context(|| format!("make the folder {}", shells.display()))?;
    let mut laboratory = machine::unshare();
    match machine.tun {
        Ok(()) => _ = laboratory.env("WARREN_E2E_TUN", "1"),
        Err(reason) => println!("the nodes run in user-space mode: {reason}"),
    }
    let laboratory = laboratory
        .arg(bin.join("warren-playground"))
        .args([left, right])
        .env("WARREN_E2E", "1")
        .env("WARREN_BIN_DIR", &bin)
        .env("WARREN_LAB_SHELLS", &shells)
        .spawn()
        .context("start the laboratory")?;
    let status = attend(laboratory, &shells)?;
    if status.success() { Ok(()) } else { bail!("the laboratory ended with {status}") }
}

/// Writes the entrance and waits for the laboratory's end; then its folder goes.
fn attend(mut laboratory: Child, shells: &Path) -> Result<ExitStatus> {
    let entrance = write_entrance(shells, laboratory.id());
    if entrance.is_err() {
        // Nobody could get in: what may still be starting goes with it.
        let _ = laboratory.kill();
    }
    let status = laboratory.wait()?;
    std::fs::remove_dir_all(shells).with_context(|| format!("remove the folder {}", shells.display()))?;
    entrance?;
    Ok(status)
}

/// Writes `enter`: it goes into the namespaces from another terminal and opens the shell on b (or on the machine that its
/// argument names).
fn write_entrance(shells: &Path, unshare: u32) -> Result<()> {
    // The namespaces belong to what `unshare` started, not to itself.
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let inner = (0..100)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse::<u32>().ok()
        })
        .context("the laboratory did not begin within 2 s")?;
    let user = if machine::is_root() { "" } else { "--user --preserve-credentials " };
    let file = shells.join("enter");
    let text = format!(
        "#!/bin/sh\nexec nsenter --target {inner} {user}--net --mount --pid '{}'/\"${{1:-b}}\"\n",
        shells.join("inside").display()
    );
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laboratory_that_does_not_begin_is_ended_and_its_folder_removed() {
        let shells = std::env::temp_dir().join(format!("warren-lab-{}", std::process::id()));
        std::fs::create_dir(&shells).unwrap();
        // It has no child, so there is nothing to go into; and it does not end by itself.
        let stuck = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = format!("/proc/{}", stuck.id());
        let error = attend(stuck, &shells).unwrap_err();
        assert!(error.to_string().contains("did not begin"), "{error}");
        assert!(!Path::new(&process).exists() && !shells.exists());
    }
}
