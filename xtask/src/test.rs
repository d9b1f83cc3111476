//! `cargo xtask test`: the one command that runs everything this machine can run.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::machine::{self, Machine};
use crate::{faults, floors, sh, tidy};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Quick,
    Usual,
    Long,
}

pub fn run(words: &[&str]) -> Result<()> {
    let depth = match words {
        [] => Depth::Usual,
        ["--quick"] => Depth::Quick,
        ["--long"] => Depth::Long,
        other => bail!("test takes --quick or --long, not {}", other.join(" ")),
    };
    let mut run = Run { started: Instant::now(), skipped: Vec::new(), failed: Vec::new() };

    run.step("floors", floors::check);
    run.step("house rules", tidy::house_rules);
    if depth != Depth::Quick {
        run.step("formatting and lints", tidy::formatting_and_lints);
    }
    run.step("golden", || {
        if golden_dir().is_none() {
            println!("golden: SKIPPED: no folder of golden cases (name one in WARREN_GOLDEN_DIR)");
        }
        Ok(())
    });
    if golden_dir().is_none() {
        run.skipped.push("policy golden cases: WARREN_GOLDEN_DIR names no folder".into());
    }
    // Before all tests: some of those without namespaces use its programs too.
    let machine = (depth != Depth::Quick).then(Machine::prepare);
    let mut built = Vec::new();
    run.step("build the tests and the executables", || {
        built = build()?;
        Ok(())
    });
    let mut skipped = Vec::new();
    run.step("unit, law, golden, fuzz corpus and simulation tests", || pure(&built, depth, &mut skipped));
    run.skipped.extend(skipped);
    let Some(machine) = machine else {
        run.skipped.push("lints, end-to-end tests, planted faults: not in --quick".into());
        return run.finish();
    };
    match &machine.namespaces {
        Ok(()) => {
            if let Err(reason) = &machine.tun {
                run.skipped.push(format!("end-to-end tests with a kernel interface: {reason}"));
            }
            for program in &machine.missing {
                run.skipped.push(format!("end-to-end tests that use {program}: it is not installed"));
            }
            let mut skipped = Vec::new();
            run.step("end to end", || end_to_end(&built, &machine, depth == Depth::Long, &mut skipped));
            run.skipped.extend(skipped);
        }
        Err(reason) => run.skipped.push(format!("all end-to-end tests in namespaces: {reason}")),
    }
    if depth == Depth::Usual {
        run.skipped
            .push("ten pairs of routers, 5,000 lab scenarios, 100,000 packets a law of policies, 40,000 steps of control servers' lives, all but two planted faults of each list: only in --long".into());
    }
    let some: &[&str] = if depth == Depth::Long { &[] } else { &["--only", "2"] };
    run.step("planted faults", || faults::run(faults::LAB, some));
    run.step("planted faults in policies", || faults::run(faults::POLICY, some));
    run.step("planted faults in the control server", || faults::run(faults::CONTROL, some));
    run.finish()
}

pub fn golden() -> Result<()> {
    let Some(dir) = golden_dir() else { bail!("WARREN_GOLDEN_DIR names no folder of golden cases") };
    sh::run(
        sh::cargo()
            .args(["test", "-p", "warren-policy", "--test", "golden", "--", "--nocapture"])
            .env("WARREN_GOLDEN_DIR", dir),
    )
}

fn golden_dir() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("WARREN_GOLDEN_DIR")?);
    let dir = if dir.is_absolute() { dir } else { sh::root().join(dir) };
    dir.is_dir().then_some(dir)
}

/// The end-to-end tests run inside namespaces of their own: what they make vanishes with them, whatever happens.
///
/// What a test says of itself is shown, its figures among it; what it says it skipped is added to `skipped`.
fn end_to_end(built: &[Built], machine: &Machine, long: bool, skipped: &mut Vec<String>) -> Result<()> {
    let binary = built.iter().find(|test| test.package == END_TO_END && test.is_integration);
    let binary = binary.context("the end-to-end tests were not built")?;
    let mut command: Command = machine::unshare();
    command
        .arg(&binary.executable)
        .args(["--test-threads=1", "--show-output"])
        .current_dir(sh::root())
        .env("WARREN_E2E", "1")
        .env("WARREN_BIN_DIR", sh::target_dir()?.join("debug"));
    if machine.tun.is_ok() {
        command.env("WARREN_E2E_TUN", "1");
    }
    if long {
        command.env("WARREN_E2E_LONG", "1");
    }
    match machine::identity_provider() {
        Ok(folder) => drop(command.env("WARREN_E2E_OIDC", folder)),
        Err(reason) => println!("signing in with a real provider: {reason}"),
    }
    show(&mut command, skipped).context("the end-to-end tests")
}

/// Runs tests to their end and shows what they print; what they say that they skipped is added to `skipped`.
fn show(command: &mut Command, skipped: &mut Vec<String>) -> Result<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let mut tests = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {shown}"))?;
    for line in tests.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line.context("read what the tests print")?;
        println!("{line}");
        if let Some(what) = line.trim_start().strip_prefix("SKIPPED") {
            skipped.push(what.trim_start_matches([':', ' ']).to_string());
        }
    }
    let status = tests.wait().with_context(|| format!("wait for {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// The package whose tests need namespaces, and are run inside them.
const END_TO_END: &str = "warren-e2e";

/// A test program that was built, and where cargo would run it.
struct Built {
    package: String,
    folder: PathBuf,
    executable: PathBuf,
    is_integration: bool,
}

/// Builds every test and, with them, every executable: in one go, because cargo chooses features by what is built
/// together and would build the dependencies once more for every other choice of packages.
fn build() -> Result<Vec<Built>> {
    let messages =
        sh::output(sh::cargo().args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]))?;
    let mut built = Vec::new();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let (Some(executable), true) = (message["executable"].as_str(), message["profile"]["test"] == true) else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().context("a test without a manifest")?);
        let folder = manifest.parent().context("a manifest without a folder")?.to_path_buf();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_integration = message["target"]["kind"][0] == "test";
        built.push(Built { package, folder, executable: executable.into(), is_integration });
    }
    if built.is_empty() {
        bail!("cargo named no test program");
    }
    Ok(built)
}

/// Everything that needs no namespace, one program after another, then the examples in the documentation.
fn pure(built: &[Built], depth: Depth, skipped: &mut Vec<String>) -> Result<()> {
    let mut red = Vec::new();
    for test in built.iter().filter(|test| test.package != END_TO_END) {
        let mut program = Command::new(&test.executable);
        // What a passed test says of itself counts too: cases, steps of each kind.
        program.arg("--show-output").current_dir(&test.folder).env("CARGO_MANIFEST_DIR", &test.folder);
        if let Some(dir) = golden_dir() {
            program.env("WARREN_GOLDEN_DIR", dir);
        }
        if depth == Depth::Long {
            program.env("WARREN_LAB_SCENARIOS", "5000").env("WARREN_LAW_PACKETS", "100000");
            program.env("WARREN_LIVES_STEPS", "40000");
        }
        println!("--- {}", test.executable.display());
        if let Err(error) = show(&mut program, skipped) {
            println!("{error:#}");
            red.push(test.package.clone());
        }
    }
    if sh::run(sh::cargo().args(["test", "--workspace", "--doc", "--quiet"])).is_err() {
        red.push("documentation".into());
    }
    if !red.is_empty() {
        bail!("red: {}", red.join(", "));
    }
    Ok(())
}

struct Run {
    started: Instant,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Run {
    /// A failed step does not stop the others: one run shows everything that is wrong.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let begun = Instant::now();
        match work() {
            Ok(()) => println!("=== {name}: ok, {} s", begun.elapsed().as_secs()),
            Err(error) => {
                println!("=== {name}: FAILED, {} s: {error:#}", begun.elapsed().as_secs());
                self.failed.push(name.to_string());
            }
        }
    }

    fn finish(self) -> Result<()> {
        println!("\n=== {} min {} s", self.started.elapsed().as_secs() / 60, self.started.elapsed().as_secs() % 60);
        for reason in &self.skipped {
            println!("SKIPPED {reason}");
        }
        if self.skipped.is_empty() {
            println!("nothing was skipped");
        }
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}
