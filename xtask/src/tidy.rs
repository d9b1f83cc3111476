//! House rules that a compiler does not know.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{faults, floors, sh};

pub fn check() -> Result<()> {
    house_rules()?;
    formatting_and_lints()
}

pub fn formatting_and_lints() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
    sh::run(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
}

/// What must hold in the text of the project.
pub fn house_rules() -> Result<()> {
    let root = sh::root();
    let mut wrong = Vec::new();
    for file in tracked(&root)? {
        let shown = file.display().to_string();
        let Ok(text) = std::fs::read_to_string(root.join(&file)) else { continue };
        if shown.ends_with("/src/lib.rs") || shown.ends_with("/src/main.rs") {
            let pure = ["core/", "services/", "bin/"].iter().any(|folder| shown.starts_with(folder));
            if pure && !text.contains("#![forbid(unsafe_code)]") {
                wrong.push(format!("{shown}: says nothing about unsafe code; add #![forbid(unsafe_code)]"));
            }
            if !text.starts_with("//!") {
                wrong.push(format!("{shown}: begins without saying what it is"));
            }
        }
        if shown.ends_with(".rs") && !shown.starts_with("xtask/") {
            for (number, line) in text.lines().enumerate() {
                if line.contains("#[ignore") {
                    wrong.push(format!("{shown}:{}: an ignored test; assert what is true today instead", number + 1));
                }
                if line.contains("AssertSqlSafe") && !shown.starts_with("shell/warren-store/") {
                    wrong.push(format!("{shown}:{}: SQL that is not a literal", number + 1));
                }
            }
        }
    }
    let rules = std::fs::read_to_string(root.join("core/clippy.toml"))?;
    for ban in ["Instant::now", "SystemTime::now", "thread::spawn", "env::var"] {
        if !rules.contains(ban) {
            wrong.push(format!("core/clippy.toml no longer bans {ban}"));
        }
    }
    wrong.extend(faults::unplantable()?);
    if !floors::map_is_current()? {
        wrong.push("docs/architecture.md: the map is out of date; run `cargo xtask map`".into());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("tidy: the house rules hold");
    Ok(())
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let text = sh::output(std::process::Command::new("git").args(["ls-files"]).current_dir(root))?;
    Ok(text.lines().map(PathBuf::from).collect())
}
