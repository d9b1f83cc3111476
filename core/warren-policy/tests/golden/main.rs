//! The policy engine against recorded answers of the reference service.
//!
//! The cases lie outside the project, in the folder that `WARREN_GOLDEN_DIR` names (any folder of that shape), and are read
//! from there only. What a category compares stands in a file of its name; a difference that no exception names fails.

// Reading cases from a folder that is named from outside is all that this test is about.
#![allow(clippy::disallowed_methods)]

mod attributes;
mod case;
mod filters;
mod routes;
mod ssh;

use std::fs;
use std::path::Path;

use warren_policy::Policy;

use crate::case::{Case, World};

struct Category {
    name: &'static str,
    /// Compares what was recorded of an accepted policy.
    compare: fn(&World<'_>) -> Result<(), String>,
    /// How a refusal is to read.
    refusal: Refusal,
    /// How many cases must pass at least; `None`: all. The others belong to parts of the language that are yet to come.
    floor: Option<usize>,
}

#[derive(PartialEq)]
enum Refusal {
    /// With the recorded message in it.
    InWords,
    Anyhow,
}

const CATEGORIES: [Category; 7] = [
    Category { name: "acl", compare: filters::compare, refusal: Refusal::InWords, floor: None },
    Category { name: "grant", compare: filters::compare, refusal: Refusal::InWords, floor: None },
    Category { name: "routes", compare: routes::compare, refusal: Refusal::InWords, floor: None },
    Category { name: "ssh", compare: ssh::compare, refusal: Refusal::InWords, floor: None },
    Category { name: "nodeattrs", compare: attributes::compare, refusal: Refusal::Anyhow, floor: None },
    Category { name: "policytest", compare: accepted, refusal: Refusal::InWords, floor: None },
    Category { name: "sshtest", compare: accepted, refusal: Refusal::InWords, floor: None },
];

/// Where the reference service sends something that only makes sense inside it, by case and with the reason. An exception
/// never hides a difference in who may reach whom.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "ssh-e1",
    "who published the recording replaced the domain in the policy, but not in the answer, where it stands in capitals",
)];

/// Its own `main`, because the harness would swallow what a passing test prints, and a skipped one must be seen.
fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("golden: test");
        return;
    }
    let Some(folder) = std::env::var_os("WARREN_GOLDEN_DIR") else {
        eprintln!("golden: SKIPPED (set WARREN_GOLDEN_DIR)");
        return;
    };
    let mut failures = Vec::new();
    for category in CATEGORIES {
        let path = Path::new(&folder).join(category.name);
        if !path.is_dir() {
            println!("golden: {} has no folder", category.name);
            continue;
        }
        let (mut passed, mut total, mut notes) = (0, 0, Vec::new());
        for case in read_cases(&path) {
            total += 1;
            match run(&category, &case) {
                Ok(()) => passed += 1,
                Err(why) => match EXCEPTIONS.iter().find(|(id, _)| *id == case.id) {
                    Some((id, reason)) => {
                        passed += 1;
                        println!("golden: exception {id}: {reason}");
                    }
                    None => notes.push(format!("{}: {why}", case.id)),
                },
            }
        }
        println!("golden: {} {passed}/{total}", category.name);
        assert!(total > 0, "no cases of {} in {}", category.name, Path::new(&folder).display());
        let least = category.floor.unwrap_or(total);
        if passed < least {
            let notes = notes.join("\n  ");
            failures.push(format!("{}: {passed} of {total} pass, {least} must\n  {notes}", category.name));
        } else if std::env::var_os("WARREN_GOLDEN_VERBOSE").is_some() {
            notes.iter().for_each(|note| println!("  {note}"));
        }
    }
    if !failures.is_empty() {
        eprintln!("golden: FAILED\n{}", failures.join("\n"));
        std::process::exit(1);
    }
}

fn read_cases(folder: &Path) -> Vec<Case> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    files.sort();
    let read = |file: std::path::PathBuf| {
        let text = fs::read_to_string(&file).expect("a readable case");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    files.into_iter().filter(|file| file.extension().is_some_and(|name| name == "json")).map(read).collect()
}

fn run(category: &Category, case: &Case) -> Result<(), String> {
    let error = match Policy::parse(&case.policy_text()) {
        Err(error) => error,
        Ok(policy) => {
            let world = World::new(case, &policy);
            match world.check() {
                Err(error) => error,
                Ok(()) if case.accepted => return (category.compare)(&world),
                Ok(()) => return Err(format!("accepted, but must be refused: {:?}", case.error_message)),
            }
        }
    };
    let message = case.error_message.as_deref().unwrap_or_default();
    if case.accepted {
        Err(format!("refused: {error}"))
    } else if category.refusal == Refusal::Anyhow || error.to_string().contains(message) {
        Ok(())
    } else {
        Err(format!("refused with {error}, not with {message}"))
    }
}

/// Nothing was recorded but that the policy is accepted.
fn accepted(_world: &World<'_>) -> Result<(), String> {
    Ok(())
}
