//! Seeded scenarios: 200 in CI, as many as `WARREN_LAB_SCENARIOS` says for a long run, one with `WARREN_LAB_SEED`.

mod stories;

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use warren_lab::{Choices, Failure, Outcome, run};

const SCENARIOS: u64 = 200;
/// Decisions in one scenario: some twenty steps.
const CHOICES: usize = 220;

#[test]
fn whole_tailnets_end_in_the_models_answer_whatever_happens() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")));
    let seeds: Vec<u64> = match number("WARREN_LAB_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("WARREN_LAB_SCENARIOS").unwrap_or(SCENARIOS)).collect(),
    };
    // Each scenario runs in one thread; several of them at once.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push((*seed, one(*seed)));
        }
        results
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(u64, Result<Outcome, Failure>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a core panicked; its seed is printed above"))
            .collect()
    });
    report(&results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect::<Vec<_>>());
    let failures: Vec<String> = results
        .iter()
        .filter_map(|(seed, result)| {
            Some(format!("seed {seed} (again: WARREN_LAB_SEED={seed}):\n{}", result.as_ref().err()?))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} scenarios failed\n{}", failures.len(), seeds.len(), failures.join("\n"));
}

fn one(seed: u64) -> Result<Outcome, Failure> {
    std::panic::catch_unwind(|| run(seed, Choices::seeded(seed, CHOICES))).unwrap_or_else(|panic| {
        println!("lab: seed {seed} panicked (again: WARREN_LAB_SEED={seed})");
        std::panic::resume_unwind(panic)
    })
}

fn report(outcomes: &[&Outcome]) {
    let mut steps: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in outcomes.iter().flat_map(|outcome| &outcome.steps) {
        *steps.entry(kind).or_default() += count;
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|outcome| of(outcome)).sum::<u64>();
    println!(
        "lab: {} scenarios, {} steps, {} simulated hours",
        outcomes.len(),
        steps.values().sum::<u64>(),
        sum(|o| o.seconds) / 3600
    );
    for (kind, count) in &steps {
        println!("lab: {count:6} {kind}");
    }
    println!(
        "lab: {} arrived, {} rightly did not, {} left open; {} found a direct path, {} rightly stayed relayed",
        sum(|o| o.arrived),
        sum(|o| o.never),
        sum(|o| o.perhaps),
        sum(|o| o.direct),
        sum(|o| o.relayed),
    );
}
