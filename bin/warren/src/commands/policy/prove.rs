//! `warren policy prove`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use warren_policy::Tailnet;
use warren_policy::analysis::{
    Answer, Counterexample, RulePlace, Statement, Verdict, explain_at, prove, read_statements,
};

use super::diff::packet_json;
use super::input::{Document, subject};
use super::{Nodes, Output, print_json};

/// Longest file of statements that is read, in bytes.
const MAX_STATEMENTS_FILE: u64 = 4 << 20;

pub(super) fn run(
    statements: &Path,
    policy: Option<&Path>,
    nodes: &Nodes,
    output: &Output,
    socket: Option<PathBuf>,
) -> Result<bool> {
    let what = || format!("read the statements {}", statements.display());
    if std::fs::metadata(statements).with_context(what)?.len() > MAX_STATEMENTS_FILE {
        bail!("{}: more than {MAX_STATEMENTS_FILE} bytes", statements.display());
    }
    let text = std::fs::read_to_string(statements).with_context(what)?;
    let read = read_statements(&text).map_err(|error| anyhow!("{}: {error}", statements.display()))?;
    if read.is_empty() {
        bail!("{} holds no statement", statements.display());
    }
    let (document, world) = subject(policy, nodes, socket)?;
    let known = world.map(|world| world.users).unwrap_or_default();
    let verdicts: Vec<(&Statement, Verdict)> =
        read.iter().map(|statement| (statement, prove(&document.policy, &known, statement))).collect();
    if output.json {
        print_json(&verdicts.iter().map(|(statement, verdict)| as_json(statement, verdict)).collect::<Vec<_>>())?;
    } else {
        verdicts.iter().for_each(|(statement, verdict)| print!("{}", shown(&document, statement, verdict)));
    }
    Ok(verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Proved { .. })))
}

fn shown(document: &Document, statement: &Statement, verdict: &Verdict) -> String {
    let Statement { line, text, .. } = statement;
    match verdict {
        Verdict::Proved { is_vacuous: true, .. } => {
            format!("proved     {line}: {text}\n  there can be nobody of whom it speaks\n")
        }
        Verdict::Proved { assuming, .. } => {
            let mut shown = format!("proved     {line}: {text}\n");
            assuming.iter().for_each(|what| shown.push_str(&format!("  assuming that {what}\n")));
            shown
        }
        Verdict::Disproved(counterexample) => {
            let shown = counterexample.to_string();
            let indented: Vec<String> = shown.lines().map(|line| format!("  {line}\n")).collect();
            let by = rule_of(document, counterexample).map(|rule| format!("    by {rule}\n")).unwrap_or_default();
            format!("DISPROVED  {line}: {text}\n{}{by}", indented.concat())
        }
        Verdict::Undecided(reason) => format!("REFUSED    {line}: {text}\n  {reason}\n"),
    }
}

/// The rule that lets a counterexample's packet pass.
fn rule_of(document: &Document, counterexample: &Counterexample) -> Option<RulePlace> {
    let Counterexample { users, nodes, services, packet, .. } = counterexample;
    let receiver = nodes.last()?.id;
    let tailnet = Tailnet { users, nodes, services };
    match explain_at(&document.policy, &document.text, &tailnet, *packet, receiver).answer {
        Answer::Allowed(rule) => Some(rule),
        Answer::NoPolicy | Answer::Refused(_) | Answer::NoReceiver => None,
    }
}

fn as_json(statement: &Statement, verdict: &Verdict) -> Value {
    let mut shown = json!({"line": statement.line, "statement": statement.text});
    let more = match verdict {
        Verdict::Proved { assuming, is_vacuous } => {
            json!({"verdict": "proved", "assuming": assuming, "vacuous": is_vacuous})
        }
        Verdict::Disproved(counterexample) => {
            json!({"verdict": "disproved", "counterexample": counterexample_json(counterexample)})
        }
        Verdict::Undecided(reason) => json!({"verdict": "refused", "reason": reason}),
    };
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

fn counterexample_json(counterexample: &Counterexample) -> Value {
    let users = counterexample.users.iter();
    let users: Vec<Value> = users
        .map(|user| {
            let roles: Vec<String> = user.roles.iter().map(|role| format!("{role:?}")).collect();
            json!({"id": user.id.to_string(), "name": user.name, "email": user.email, "groups": user.groups, "roles": roles})
        })
        .collect();
    let nodes = counterexample.nodes.iter().zip(["sends", "receives"]);
    let nodes: Vec<Value> = nodes
        .map(|(node, role)| {
            let attributes = node.attributes.iter().map(|(name, value)| (name.clone(), json!(format!("{value:?}"))));
            json!({
                "role": role,
                "owner": node.user.map(|user| user.to_string()),
                "tags": node.tags,
                "addresses": node.addrs,
                "routes": node.routes,
                "attributes": attributes.collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    let services = counterexample.services.iter();
    let services: Vec<Value> =
        services.map(|service| json!({"name": service.name, "addresses": service.addrs})).collect();
    json!({
        "allowed": counterexample.is_allowed,
        "packet": packet_json(&counterexample.packet),
        "users": users,
        "nodes": nodes,
        "services": services,
    })
}
