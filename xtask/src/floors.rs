//! The walls: dependencies go strictly down, and what lies under the IO line stays pure.
//!
//! Asked of `cargo tree` per crate, because `cargo metadata` unifies features over the workspace and blames clean crates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::sh;

/// What no crate under `core/` may reach, however far down its tree.
const IMPURE: [&str; 12] = [
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "nix",
    "windows-sys",
    "hyper",
    "reqwest",
    "sqlx",
    "rusqlite",
    "getrandom",
    "async-std",
];

/// Banned everywhere in the product: a second cryptographic provider, a second TLS, unsound YAML.
const NEVER: [&str; 5] = ["ring", "openssl-sys", "native-tls", "serde_yml", "serde_yaml"];

struct Crate {
    floor: u64,
    folder: String,
    ours: BTreeSet<String>,
}

pub fn check() -> Result<()> {
    let crates = crates()?;
    let mut wrong = Vec::new();
    for (name, this) in &crates {
        for below in &this.ours {
            let other = crates
                .get(below)
                .with_context(|| format!("{name} depends on {below}, which is not in the workspace"))?;
            if other.floor >= this.floor {
                wrong.push(format!("{name} (floor {}) must not stand on {below} (floor {})", this.floor, other.floor));
            }
        }
        if this.folder == "tests" || this.folder == "xtask" {
            continue;
        }
        let tree = tree_of(name)?;
        let banned: &[&str] = if this.folder == "core" { &IMPURE } else { &[] };
        for name_below in banned.iter().chain(&NEVER) {
            if tree.contains(*name_below) {
                wrong
                    .push(format!("{name} reaches {name_below}: see `cargo tree -p {name} -e normal -i {name_below}`"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!(
        "floors: {} crates, every edge goes down, the {} pure ones are pure",
        crates.len(),
        count(&crates, "core")
    );
    Ok(())
}

fn count(crates: &BTreeMap<String, Crate>, folder: &str) -> usize {
    crates.values().filter(|this| this.folder == folder).count()
}

fn tree_of(name: &str) -> Result<BTreeSet<String>> {
    let text =
        sh::output(sh::cargo().args(["tree", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"]))?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect())
}

fn crates() -> Result<BTreeMap<String, Crate>> {
    let text = sh::output(sh::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let root = sh::root();
    let mut crates = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let floor = package["metadata"]["warren"]["floor"]
            .as_u64()
            .with_context(|| format!("{name} states no floor in [package.metadata.warren]"))?;
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let folder = std::path::Path::new(manifest)
            .strip_prefix(&root)
            .ok()
            .and_then(|path| path.components().next())
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .unwrap_or_default();
        let ours = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|edge| edge["kind"].is_null())
            .filter_map(|edge| edge["name"].as_str())
            .filter(|below| names.contains(below))
            .map(str::to_string)
            .collect();
        crates.insert(name.to_string(), Crate { floor, folder, ours });
    }
    Ok(crates)
}

const BEGIN: &str = "<!-- map: written by `cargo xtask map` -->";
const END: &str = "<!-- end of map -->";

/// Rewrites the diagram in `docs/architecture.md`, so that the picture cannot lie.
pub fn write_map() -> Result<()> {
    let path = sh::root().join("docs/architecture.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let new = with_map(&text, &map()?)?;
    std::fs::write(&path, new).with_context(|| format!("write {}", path.display()))?;
    println!("map: {} is up to date", path.display());
    Ok(())
}

pub fn map_is_current() -> Result<bool> {
    let text = std::fs::read_to_string(sh::root().join("docs/architecture.md"))?;
    Ok(with_map(&text, &map()?)? == text)
}

fn with_map(text: &str, map: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("docs/architecture.md has no place for the map")?;
    let (_, after) = rest.split_once(END).context("docs/architecture.md has no end of the map")?;
    Ok(format!("{before}{BEGIN}\n{map}{END}{after}"))
}

fn map() -> Result<String> {
    let crates = crates()?;
    let mut text = String::from("| floor | crate | stands on |\n|---|---|---|\n");
    let mut rows: Vec<_> = crates.iter().collect();
    rows.sort_by_key(|(name, this)| (this.floor, this.folder.clone(), (*name).clone()));
    for (name, this) in rows {
        let direct: Vec<String> =
            this.ours.iter().map(|below| below.trim_start_matches("warren-").to_string()).collect();
        let below = if direct.is_empty() { "the ground".into() } else { direct.join(", ") };
        writeln!(text, "| {} | `{}/{name}` | {below} |", this.floor, this.folder)?;
    }
    Ok(text)
}
