//! `warren policy check` and `warren policy test`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use warren_policy::{Diagnostic, Diagnostics, MAX_POLICY_LEN, Policy};

use super::input::{self, World};
use super::{Nodes, Output, print_json};

pub(super) fn check(file: &Path, output: &Output) -> Result<bool> {
    let text = read(file)?;
    let parsed = Policy::parse(&text);
    if output.json {
        return report_json(file, &parsed);
    }
    let answer = Policy::check(&file.display().to_string(), &text);
    match &answer {
        Ok(answer) | Err(answer) => println!("{answer}"),
    }
    for section in parsed.iter().flat_map(Policy::not_built) {
        println!("note: {section} is accepted and has no effect yet");
    }
    Ok(answer.is_ok())
}

pub(super) fn test(file: &Path, nodes: &Nodes, output: &Output, socket: Option<PathBuf>) -> Result<bool> {
    let text = read(file)?;
    let world = match &nodes.nodes_file {
        Some(file) => Some(World::read(file)?),
        None => input::server(socket)?.map(|server| server.world),
    };
    let Some(world) = world else {
        bail!("tests speak of nodes: name a file of them with --nodes, or ask where the control server runs");
    };
    let tested = Policy::parse(&text).and_then(|policy| policy.admit(&world.tailnet(), &[]).map(|_| policy));
    if output.json {
        return report_json(file, &tested);
    }
    match &tested {
        Ok(_) => println!("{} passes its tests.", file.display()),
        Err(problems) => {
            println!("{} does not pass:", file.display());
            problems.0.iter().for_each(|problem| println!("{}", problem.pointed()));
        }
    }
    Ok(tested.is_ok())
}

fn report_json(file: &Path, answer: &Result<Policy, Diagnostics>) -> Result<bool> {
    let remark = |remark: &Diagnostic| json!({"line": remark.line, "column": remark.column, "path": remark.path, "message": remark.message});
    let remarks = |remarks: &[Diagnostic]| remarks.iter().map(remark).collect::<Vec<_>>();
    print_json(&match answer {
        Ok(policy) => {
            json!({"file": file, "ok": true, "notes": remarks(policy.notes()), "withoutEffect": policy.not_built()})
        }
        Err(problems) => json!({"file": file, "ok": false, "problems": remarks(&problems.0)}),
    })?;
    Ok(answer.is_ok())
}

/// Reads a policy file, as far as any policy may go.
pub(super) fn read(file: &Path) -> Result<String> {
    let what = || format!("read the policy {}", file.display());
    let length = std::fs::metadata(file).with_context(what)?.len();
    if length > MAX_POLICY_LEN as u64 {
        bail!("{}: a policy is at most {MAX_POLICY_LEN} bytes long, this is {length}", file.display());
    }
    std::fs::read_to_string(file).with_context(what)
}
