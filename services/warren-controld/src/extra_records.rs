//! The file of extra names: read at the start, looked at every few seconds, and in force while it can be read.
//!
//! A JSON list, as headscale has it: `[{"name": "grafana.mesh.example", "type": "A", "value": "100.64.0.3"}]`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use warren_wire::DnsRecord;

use crate::clock;
use crate::registry::Registry;
use crate::reload::Asked;

/// How soon a change is seen.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Every node is told all of them.
const MOST_RECORDS: usize = 10_000;

/// Largest file.
const LARGEST: u64 = 4 << 20;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    value: String,
}

/// Reads the whole file.
///
/// # Errors
/// What is wrong, in a line.
pub(crate) fn read(path: &Path) -> Result<Vec<DnsRecord>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; the most is {LARGEST}"));
    }
    parse(&std::fs::read(path).map_err(|error| error.to_string())?)
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<DnsRecord>, String> {
    let lines: Vec<Line> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if lines.len() > MOST_RECORDS {
        return Err(format!("{} names; the most is {MOST_RECORDS}", lines.len()));
    }
    lines.into_iter().map(record).collect()
}

/// Clients take A and AAAA and nothing else; a record that they would pass over in silence is refused here, aloud.
fn record(line: Line) -> Result<DnsRecord, String> {
    let Line { name, kind, value } = line;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    if !is_name {
        return Err(format!("{name:?} is not a name"));
    }
    let address: IpAddr = value.parse().map_err(|_| format!("{name}: {value:?} is not an address"))?;
    let fits = match kind.as_str() {
        "" => true,
        "A" => address.is_ipv4(),
        "AAAA" => address.is_ipv6(),
        _ => return Err(format!("{name}: type {kind:?} is not A or AAAA, which is what clients know")),
    };
    if fits { Ok(DnsRecord { name, kind, value }) } else { Err(format!("{name}: {value} is no value for {kind}")) }
}

/// Letters, digits, hyphens and underscores, so that nothing in it needs an escape anywhere.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Follows the file until `shutdown` turns true, and reads it when it is `asked` for. A file that cannot be read leaves the
/// last good one in force, and `problem` says why.
pub(crate) async fn follow(
    path: PathBuf,
    registry: Registry,
    mut asked: Asked,
    problem: watch::Sender<Option<String>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut seen = stamp(&path);
    loop {
        let is_asked = tokio::select! {
            () = clock::told(&mut shutdown) => return,
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = asked.wait() => true,
        };
        let now = stamp(&path);
        if now == seen && !is_asked {
            continue;
        }
        let file = path.clone();
        match tokio::task::spawn_blocking(move || read(&file)).await {
            Ok(Ok(records)) => {
                tracing::info!(path = %path.display(), records = records.len(), "extra names were read again");
                registry.set_extra_records(records).await;
                problem.send_replace(None);
            }
            Ok(Err(reason)) => {
                tracing::warn!(path = %path.display(), %reason, "extra names cannot be read; the last ones stay in force");
                problem.send_replace(Some(format!("{}: {reason}; the last ones stay in force", path.display())));
            }
            Err(_) => continue,
        }
        seen = now;
    }
}

/// What changes when the file does: its time, its length, and which file it is.
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: &str) {
        let said = match parse(json.as_bytes()) {
            Ok(records) => {
                records.iter().map(|r| format!("{} {} {}", r.name, r.kind, r.value)).collect::<Vec<_>>().join("; ")
            }
            Err(reason) => reason,
        };
        assert!(said.starts_with(expect), "{json}: {said}");
    }

    #[test]
    fn records_are_checked_before_every_node_is_told() {
        check(r#"[{"name":"Grafana.mesh.test.","type":"A","value":"100.64.0.3"}]"#, "grafana.mesh.test A 100.64.0.3");
        check(r#"[{"name":"a.b","value":"fd00::1"}]"#, "a.b  fd00::1");
        check(r#"[{"name":"a.b","type":"A","value":"fd00::1"}]"#, "a.b: fd00::1 is no value for A");
        check(r#"[{"name":"a.b","type":"CNAME","value":"c.d"}]"#, "a.b: \"c.d\" is not an address");
        check(r#"[{"name":"a.b","type":"TXT","value":"10.0.0.1"}]"#, "a.b: type \"TXT\"");
        check(r#"[{"name":"a b","value":"10.0.0.1"}]"#, "\"a b\" is not a name");
        check(r#"[{"name":"a.b"}]"#, "missing field");
        check("[", "EOF");
        check("{}", "invalid type: map");
    }
}
