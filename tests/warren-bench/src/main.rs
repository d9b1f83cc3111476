//! Small measurements of the pure cores, in memory: wall time and allocations.
//!
//! `cargo run --release -p warren-bench [name]` prints one JSON line a figure:
//! `{"bench","subject","case","metric","unit","median","min","max","runs"}`. Wall time on a busy machine lies; compare
//! ratios of one run. Allocations are exact.

mod allocations;
mod engine;
mod packets;

use std::time::Instant;

/// Runs of each figure; the median is what counts.
const RUNS: usize = 5;

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let benches: [(&str, fn()); 3] =
        [("seal_1420", packets::seal_1420), ("lookup", packets::lookup), ("engine", engine::tso_end_to_end)];
    for (name, bench) in benches {
        if name.starts_with(&wanted) {
            bench();
        }
    }
}

/// One figure of several runs, as a JSON line.
struct Figure {
    bench: &'static str,
    case: String,
    metric: &'static str,
    unit: &'static str,
}

impl Figure {
    fn print(&self, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        let Self { bench, case, metric, unit } = self;
        let (Some(min), Some(max)) = (values.first(), values.last()) else { return };
        let median = values[values.len() / 2];
        let runs = values.len();
        println!(
            "{{\"bench\":\"{bench}\",\"subject\":\"warren\",\"case\":\"{case}\",\"metric\":\"{metric}\",\"unit\":\"{unit}\",\
             \"median\":{median:.3},\"min\":{min:.3},\"max\":{max:.3},\"runs\":{runs}}}"
        );
    }
}

/// Nanoseconds per step of `work`, in several runs.
fn nanos_per_step(steps: u64, mut work: impl FnMut(u64)) -> Vec<f64> {
    (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            for step in 0..steps {
                work(step);
            }
            begin.elapsed().as_nanos() as f64 / steps as f64
        })
        .collect()
}
