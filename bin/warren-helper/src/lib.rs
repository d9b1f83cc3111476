//! The privileged requests: a tiny synchronous process.
//!
//! ```text
//! warren-helper run --socket PATH --uid UID   serves one user at a Unix socket (0600, theirs) until SIGTERM
//! warren-helper run --fd N                    serves the one connection a parent process made, until it ends
//!   [--interface NAME]                        the only interface it will touch (warren0)
//!   [--allow PREFIX]…                         address ranges beyond the mesh's own
//! ```
//!
//! It makes the TUN interface, its addresses, routes and guard, and UDP sockets with large buffers, for one user, and undoes all
//! of it when that user's connection ends. It reads no configuration, parses no packet and speaks no network protocol.
//! A library, so that the `warren` executable can be a helper where none is installed.

#![forbid(unsafe_code)]

mod arguments;

use std::fmt::Write as _;
use std::process::ExitCode;

use warren_os::helper::{serve_fd, serve_socket};

use crate::arguments::{Door, Options};

/// Runs the helper with the arguments after the program's name (`run …`), to its end.
///
/// Exit codes: 0 ended in order; 1 could not serve; 2 wrong arguments.
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("warren-helper: {problem}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let served = match options.door {
        Door::Socket { path, uid } => serve_socket(&path, uid, &options.limits),
        Door::Inherited(fd) => serve_fd(fd, &options.limits),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warren-helper: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
