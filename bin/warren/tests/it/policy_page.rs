//! The page on questions to policies shows what the executable really answers: its examples are run and compared.

use std::path::Path;
use std::process::Command;

const PAGE: &str = include_str!("../../../../docs/operators/policy.md");

/// The nodes of the page's examples.
const NODES: &str = r#"[
  {"id": "1", "givenName": "laptop", "ipAddresses": ["100.64.0.1", "fd7a:115c:a1e0::1"],
   "user": {"id": "2", "name": "bob", "email": "bob@example.com"}},
  {"id": "2", "givenName": "phone", "ipAddresses": ["100.64.0.2", "fd7a:115c:a1e0::2"],
   "user": {"id": "3", "name": "cat", "email": "cat@example.com"}},
  {"id": "3", "givenName": "web1", "ipAddresses": ["100.64.0.3", "fd7a:115c:a1e0::3"], "tags": ["tag:web"]},
  {"id": "4", "givenName": "db1", "ipAddresses": ["100.64.0.4", "fd7a:115c:a1e0::4"], "tags": ["tag:db"]}
]"#;

fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let start = format!("```{language}\n");
    PAGE.match_indices(&start)
        .map(|(at, mark)| &PAGE[at + mark.len()..])
        .map(|rest| &rest[..rest.find("```").unwrap()])
        .collect::<Vec<_>>()
        .into_iter()
}

/// The answer and the exit code.
fn warren(folder: &Path, line: &str) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_warren"))
        .args(line.split(' ').skip(1))
        .current_dir(folder)
        .env("WARREN_CONTROL_SOCKET", folder.join("none.sock"))
        .output()
        .expect("run warren");
    (String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(), output.status.code())
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let policy = blocks("jsonc").next().expect("the page's policy");
    let statements = blocks("text").find(|block| block.starts_with('#')).expect("the page's statements");
    let files = [
        ("policy.hujson", policy.to_owned()),
        ("new.hujson", policy.replace(r#""tag:web:80,443""#, r#""tag:web:443", "tag:db:5432""#)),
        ("bad.hujson", policy.replace("80,443\"]", "https\"]")),
        ("statements.txt", statements.to_owned()),
        ("nodes.json", NODES.to_owned()),
    ];
    files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
    folder
}

#[test]
fn the_page_shows_what_is_answered() {
    let folder = folder();
    let mut tried = 0;
    for block in blocks("text").filter(|block| block.starts_with('$')) {
        for example in block.trim_end().split("$ ").skip(1) {
            let (line, shown) = example.split_once('\n').unwrap_or((example, ""));
            let (answer, _) = warren(folder.path(), line);
            assert_eq!(answer.trim_end(), shown.trim_end(), "{line}");
            tried += 1;
        }
    }
    assert!(tried >= 9, "{tried} examples");
}

#[test]
fn exit_codes_tell_fine_from_not() {
    let folder = folder();
    std::fs::write(folder.path().join("true.txt"), "group:dev reaches every tag:web on tcp 443\n").unwrap();
    std::fs::write(folder.path().join("unclear.txt"), "bob talks to tag:web\n").unwrap();
    for (line, code) in [
        ("warren policy check policy.hujson", 0),
        ("warren policy check bad.hujson", 1),
        ("warren policy check bad.hujson --json", 1),
        ("warren policy test policy.hujson --nodes nodes.json", 0),
        ("warren policy test new.hujson --nodes nodes.json", 1),
        ("warren policy diff policy.hujson policy.hujson --nodes nodes.json", 0),
        ("warren policy diff policy.hujson new.hujson --nodes nodes.json --json", 1),
        ("warren policy explain laptop web1 443 --policy policy.hujson --nodes nodes.json", 0),
        ("warren policy explain laptop web1 443/udp --policy policy.hujson --nodes nodes.json --json", 0),
        ("warren policy explain laptop nobody 443 --policy policy.hujson --nodes nodes.json", 1),
        ("warren policy prove true.txt --policy policy.hujson", 0),
        ("warren policy prove unclear.txt --policy policy.hujson", 1),
        ("warren policy prove statements.txt --policy policy.hujson --json", 1),
        ("warren policy prove true.txt", 1),
    ] {
        let (answer, found) = warren(folder.path(), line);
        assert_eq!(found, Some(code), "{line}: {answer}");
        if line.ends_with("--json") {
            serde_json::from_str::<serde_json::Value>(&answer)
                .unwrap_or_else(|error| panic!("{line}: {error}: {answer}"));
        }
    }
}
