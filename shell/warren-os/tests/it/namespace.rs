//! A network namespace for one test: threads have their own, so tests do not see each other.

use std::thread;

/// Runs `test` on a thread in a new, empty network namespace; without rights it says loudly that it did not.
pub fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root for a network namespace and a TUN device");
        return;
    }
    if !has_ip() {
        eprintln!("SKIPPED {name}: needs the ip command (package iproute2)");
        return;
    }
    let worker = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // SAFETY: unshare takes flags by value; it changes this thread's view of the network only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result != 0 || std::fs::metadata("/dev/net/tun").is_err() {
            eprintln!("SKIPPED: no network namespaces or no /dev/net/tun here");
            return;
        }
        test();
    });
    if let Err(panic) = worker.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn has_ip() -> bool {
    std::process::Command::new("ip").arg("-V").stdout(std::process::Stdio::null()).status().is_ok()
}
