//! A laboratory of network namespaces: real executables, real kernels, other people's clients.
//!
//! After every test, in the drops of its machines, each of them must be as it was found.
//!
//! Everything lives inside the namespaces that `cargo xtask test` starts the tests in, so nothing outlives them: cables,
//! rules and processes end with the first process of the laboratory. Set by that task: `WARREN_E2E` (we are inside),
//! `WARREN_E2E_TUN` (kernel interfaces can be made), `WARREN_E2E_LONG`, `WARREN_BIN_DIR` (where the executables are).

pub mod internet;
pub mod machine;
pub mod nat;
pub mod service;
pub mod wait;

pub use internet::{Families, Internet};
pub use machine::{Machine, Process, kill9_all};
pub use nat::Nat;
pub use wait::{hold, till};

use std::path::PathBuf;

/// Whether the tests run inside namespaces of their own; without them every test here says that it did nothing.
pub fn inside() -> bool {
    std::env::var_os("WARREN_E2E").is_some()
}

pub fn can_make_tun() -> bool {
    std::env::var_os("WARREN_E2E_TUN").is_some()
}

pub fn long() -> bool {
    std::env::var_os("WARREN_E2E_LONG").is_some()
}

/// The executable `name` of this build.
pub fn executable(name: &str) -> PathBuf {
    let dir = std::env::var_os("WARREN_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| "target/debug".into());
    dir.join(name)
}

/// The same for a program that another user runs: whoever built it may keep the folder it lies in to themselves.
pub fn executable_for_anybody(name: &str, machine: &Machine) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let (from, to) = (executable(name), machine.folder().join(name));
    if !to.exists() {
        std::fs::hard_link(&from, &to)
            .or_else(|_| std::fs::copy(&from, &to).map(drop))
            .unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
        for path in [machine.folder(), &to] {
            let mode = std::fs::metadata(path).expect("it is there").permissions().mode();
            let open = std::fs::Permissions::from_mode(mode | 0o755);
            std::fs::set_permissions(path, open).expect("let anybody in");
        }
    }
    to
}
