//! `cargo xtask lab faults`, `policy faults`, `control faults`: tests that cannot fail prove nothing, so faults are planted and
//! must be found.
//!
//! Each fault in one of the lists is one replaced line in a copy of the project; the named test command must then turn red.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::sh;

struct Fault {
    name: String,
    file: String,
    find: String,
    replace: String,
    test: Vec<String>,
}

/// Faults in the cores that the laboratory runs.
pub const LAB: &str = "tests/warren-lab/faults.toml";

/// Faults in the compiler of policies.
pub const POLICY: &str = "core/warren-policy/faults.toml";

/// Faults in the control server's rules and in its store.
pub const CONTROL: &str = "core/warren-control/faults.toml";

pub fn run(list: &str, words: &[&str]) -> Result<()> {
    let faults = read(&sh::root().join(list))?;
    let faults: Vec<&Fault> = match words {
        [] => faults.iter().collect(),
        ["--only", count] => faults.iter().take(count.parse().context("--only takes a number")?).collect(),
        [name] => faults.iter().filter(|fault| fault.name == *name).collect(),
        other => bail!("faults takes --only N or the name of a fault, not {}", other.join(" ")),
    };
    let copy = sh::target_dir()?.join("faults");
    // A folder of its own for what is built: cargo takes a build of the copy for one of the original, so in the same folder
    // a run that is interrupted would leave a fault in the next `cargo run`.
    let target = sh::target_dir()?.join("faults-built");
    let mut unseen = Vec::new();
    for fault in &faults {
        refresh(&copy)?;
        plant(&copy, fault)?;
        let begun = Instant::now();
        let passes = |more: &[&str]| -> Result<bool> {
            let mut tests = Command::new("cargo");
            tests.current_dir(&copy).arg("test").args(more).args(&fault.test).env("CARGO_TARGET_DIR", &target);
            Ok(tests.stdout(Stdio::null()).stderr(Stdio::null()).status().context("start cargo test")?.success())
        };
        // A fault that does not compile would be red whatever the tests are worth.
        if !passes(&["--no-run"])? {
            bail!("fault {}: the tests do not build with it", fault.name);
        }
        let red = !passes(&[])?;
        let verdict = if red { "found" } else { "NOT FOUND" };
        println!(
            "fault {}: {verdict} by cargo test {}, {} s",
            fault.name,
            fault.test.join(" "),
            begun.elapsed().as_secs()
        );
        if !red {
            unseen.push(fault.name.clone());
        }
    }
    if !unseen.is_empty() {
        bail!("no test noticed: {}", unseen.join(", "));
    }
    println!("faults: {} planted, all found", faults.len());
    Ok(())
}

/// What of the lists could not be planted: a change of the code must not take a fault out of the lists unseen.
pub fn unplantable() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for list in [LAB, POLICY, CONTROL] {
        for fault in read(&sh::root().join(list))? {
            let text = std::fs::read_to_string(sh::root().join(&fault.file)).unwrap_or_default();
            if text.matches(&fault.find).count() != 1 {
                wrong.push(format!(
                    "{list}: {}: {} no longer holds exactly once: {}",
                    fault.name, fault.file, fault.find
                ));
            }
        }
    }
    Ok(wrong)
}

/// Brings the copy back to what git tracks; times of unchanged files are kept, so that little is built again.
fn refresh(copy: &Path) -> Result<()> {
    std::fs::create_dir_all(copy)?;
    let files = sh::output(Command::new("git").args(["ls-files"]).current_dir(sh::root()))?;
    for file in files.lines() {
        let (from, to) = (sh::root().join(file), copy.join(file));
        let Ok(new) = std::fs::read(&from) else { continue };
        if std::fs::read(&to).is_ok_and(|old| old == new) {
            continue;
        }
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&to, new).with_context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}

fn plant(copy: &Path, fault: &Fault) -> Result<()> {
    let path = copy.join(&fault.file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("fault {}: read {}", fault.name, fault.file))?;
    if text.matches(&fault.find).count() != 1 {
        bail!("fault {}: {} no longer holds exactly once: {}", fault.name, fault.file, fault.find);
    }
    std::fs::write(&path, text.replace(&fault.find, &fault.replace))?;
    Ok(())
}

/// Reads the list: `[[fault]]` tables with `name`, `file`, `find`, `replace` as strings and `test` as a line of words.
fn read(path: &Path) -> Result<Vec<Fault>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("parse {}", path.display()))?;
    let rows = table.get("fault").and_then(|rows| rows.as_array()).context("the list holds no [[fault]]")?;
    rows.iter()
        .map(|row| {
            let text = |key: &str| {
                row.get(key)
                    .and_then(|value| value.as_str())
                    .map(str::to_string)
                    .with_context(|| format!("a fault without {key}"))
            };
            Ok(Fault {
                name: text("name")?,
                file: text("file")?,
                find: text("find")?,
                replace: text("replace")?,
                test: text("test")?.split_whitespace().map(str::to_string).collect(),
            })
        })
        .collect()
}
