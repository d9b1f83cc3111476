//! Project tasks. `cargo xtask` without arguments says what there is.

mod bench;
mod dist;
mod faults;
mod floors;
mod machine;
mod playground;
mod sh;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <task>

  test [--quick | --long]   every test that this machine can run; says what it skipped and why
                            --quick: cores and shells only, about three minutes
                            --long:  also what does not fit a continuous build (5,000 lab scenarios, ten NAT cells, all faults)
  lab <nat> <nat>           two routers of these kinds, two nodes behind them, two shells for you to play in
                            kinds: none easy keep full cone hard symmetric blocked
  lab faults [--only N]     plants one-line faults in a copy of the cores; each must turn the tests red
  policy faults [--only N]  the same for the compiler of policies and the laws that hold it
  control faults [--only N] the same for the control server and its store, and the random lives that hold them
  bench tunnel [--quick] [--json]
                            goodput, CPU per gigabyte, idle ping and memory of bare veth, Warren and other people's tunnels
  bench control --nodes N [--visible M] [--db sqlite] [--json]
                            simulated nodes at a control server: time to join, CPU, memory, time from a change to the last node
  floors                    dependencies go strictly down, and the pure floors stay pure
  map                       rewrites the diagram in docs/architecture.md from `cargo metadata`
  tidy                      formatting, lints, house rules
  golden                    the policy golden cases (WARREN_GOLDEN_DIR)
  dist                      a release executable, static where the target allows, with its SHA-256";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => test::run(rest),
        ["lab", "faults", rest @ ..] => faults::run(faults::LAB, rest),
        ["policy", "faults", rest @ ..] => faults::run(faults::POLICY, rest),
        ["control", "faults", rest @ ..] => faults::run(faults::CONTROL, rest),
        ["lab", rest @ ..] => playground::run(rest),
        ["bench", "tunnel", rest @ ..] => bench::tunnel(rest),
        ["bench", "control", rest @ ..] => bench::control(rest),
        ["floors"] => floors::check(),
        ["map"] => floors::write_map(),
        ["tidy"] => tidy::check(),
        ["golden"] => test::golden(),
        ["dist"] => dist::run(),
        _ => {
            println!("{USAGE}");
            return if words.is_empty() || words == ["help"] || words == ["--help"] {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
