//! The executable as a person meets it, without a node daemon.

mod operating;
mod policy_page;

use std::process::{Command, Output};

fn warren(words: &[&str]) -> Output {
    let nowhere = std::env::temp_dir().join("warren-no-such-socket");
    Command::new(env!("CARGO_BIN_EXE_warren"))
        .args(words)
        .env("WARREN_SOCKET", &nowhere)
        .env_remove("RUST_LOG")
        .output()
        .expect("run warren")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_what_people_look_for_and_succeeds() {
    let output = warren(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for command in ["quickstart", "up", "status", "ping", "control", "doctor"] {
        assert!(help.contains(command), "{command} is missing in:\n{help}");
    }
}

#[test]
fn an_unknown_command_is_refused_with_a_word_on_what_to_do() {
    let output = warren(&["statsu"]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("status"), "no near command in:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_policy_file_that_does_not_exist_is_named_in_one_line() {
    let output = warren(&["policy", "check", "/no/such/policy.hujson"]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("/no/such/policy.hujson"), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}
