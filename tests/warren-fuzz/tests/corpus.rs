//! What is committed under `corpus/` is replayed, whole and in thousands of seeded changes.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use warren_crypto::Random;
use warren_fuzz::{TARGETS, Target, corpus_dir, mutation};

const MUTATIONS_PER_FILE: usize = 2000;
/// Each of their inputs costs a dozen key agreements; all the others cost next to nothing.
const SLOW: [&str; 3] = ["noise-response", "noise-records", "derp-server"];
const MUTATIONS_OF_SLOW: usize = 400;
const MOST_FILES: usize = 12;
const MOST_BYTES: usize = 2048;

/// The corpus of a target, in order of file names.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(corpus_dir(name)) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a readable file"))
        })
        .collect();
    files.sort();
    files
}

/// Runs the target; a panic names the input, so that it can become a corpus file.
fn check((name, run): &Target, file: &str, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(bytes)))
        .unwrap_or_else(|_| panic!("{name} on (a change of) {file}: {}", bytes.escape_ascii()))
}

fn names_in(dir: &str) -> BTreeSet<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let entries = fs::read_dir(path).expect("the folder is there");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_corpus_and_an_entry_point_and_nothing_is_left_over() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "two targets of one name");
    assert_eq!(names_in("corpus"), targets);
    let entry_points =
        names_in("fuzz/fuzz_targets").iter().map(|file| file.trim_end_matches(".rs").to_owned()).collect();
    assert_eq!(targets, entry_points);
    let manifest = include_str!("../fuzz/Cargo.toml");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
        let files = corpus(name);
        assert!(files.len() > 1 && files.len() <= MOST_FILES, "{name} has {} files", files.len());
        assert!(files.iter().all(|(_, bytes)| bytes.len() < MOST_BYTES), "{name} has a file that is too long");
    }
}

#[test]
fn every_corpus_holds_something_that_is_understood_and_something_that_is_not() {
    let one_sided: Vec<_> = TARGETS
        .iter()
        .map(|target| (target.0, corpus(target.0).iter().map(|(file, bytes)| check(target, file, bytes)).collect()))
        .filter(|(_, understood): &(_, BTreeSet<bool>)| understood.len() != 2)
        .collect();
    assert!(one_sided.is_empty(), "{one_sided:?}");
}

#[test]
fn no_change_of_a_known_input_does_harm() {
    // Two halves at once: the machines that run this have two processors or more.
    let harmed: Vec<&str> = std::thread::scope(|scope| {
        let half =
            |half| scope.spawn(move || TARGETS.iter().skip(half).step_by(2).filter(|target| harms(target)).collect());
        let halves: [std::thread::ScopedJoinHandle<'_, Vec<&Target>>; 2] = [half(0), half(1)];
        halves.into_iter().flat_map(|half| half.join().expect("panics are caught")).map(|target| target.0).collect()
    });
    assert!(harmed.is_empty(), "{harmed:?}; their inputs are above");
}

fn harms(target: &Target) -> bool {
    let begun = std::time::Instant::now();
    let files = corpus(target.0);
    let mut random = Random::from_seed(*b"the same changes in every run   ");
    let rounds = if SLOW.contains(&target.0) { MUTATIONS_OF_SLOW } else { MUTATIONS_PER_FILE };
    let mut understood = 0;
    for (file, bytes) in &files {
        for _ in 0..rounds {
            let other = &files[random.below(files.len() as u64) as usize].1;
            let changed = mutation::mutate(bytes, other, &mut random);
            match catch_unwind(|| check(target, file, &changed)) {
                Ok(answer) => understood += usize::from(answer),
                Err(_) => return true,
            }
        }
    }
    println!("{}: {understood} of {} understood, {:?}", target.0, files.len() * rounds, begun.elapsed());
    false
}
