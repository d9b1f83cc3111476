//! The helper as an executable of its own, for packages: less code runs as root.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    warren_helper::run(std::env::args().skip(1))
}
