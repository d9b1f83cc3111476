//! The helper as a process, in a network namespace of each test's own. They need root and say so when they skip.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use warren_os::helper::Client;
use warren_os::{Host, OsConfig};

/// The owner of the socket in these tests: a user who exists nowhere.
const UID: u32 = 4242;

fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root for a network namespace and a TUN device");
        return;
    }
    let worker = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() || fs::metadata("/dev/net/tun").is_err() {
            eprintln!("SKIPPED: no network namespaces or no /dev/net/tun here");
            return;
        }
        test();
    });
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A helper process that does not outlive its test.
struct Helper(Child);

impl Helper {
    fn start(socket: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_warren-helper"))
            .args(["run", "--uid", &UID.to_string(), "--socket"])
            .arg(socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let helper = Self(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Client::connect(socket).is_err() {
            assert!(Instant::now() < deadline, "the helper does not answer");
            thread::yield_now();
        }
        helper
    }

    fn signal(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config() -> OsConfig {
    OsConfig {
        interface: "warren0".into(),
        mtu: 1280,
        up: true,
        addrs: vec!["100.64.0.1".parse().unwrap()],
        routes: vec!["100.64.0.2/32".parse().unwrap()],
        guard: true,
    }
}

#[test]
fn told_to_stop_it_leaves_neither_interface_nor_socket() {
    in_namespace("stop", || {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("helper.sock");
        let mut helper = Helper::start(&socket);
        let facts = fs::metadata(&socket).unwrap();
        assert_eq!((facts.uid(), facts.permissions().mode() & 0o777), (UID, 0o600));

        let mut client = Client::connect(&socket).unwrap();
        let _tun = client.open_tun(1280).unwrap();
        client.configure(config()).unwrap();
        assert_eq!(Host::open().unwrap().interface("warren0").unwrap(), Some(true));

        assert_eq!(helper.signal(Signal::SIGTERM), Some(0));
        assert_eq!(Host::open().unwrap().interface("warren0").unwrap(), None);
        assert!(!socket.exists());
    });
}

#[test]
fn killed_outright_it_is_swept_by_its_successor() {
    in_namespace("killed", || {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("helper.sock");
        let mut helper = Helper::start(&socket);
        let mut client = Client::connect(&socket).unwrap();
        let tun = client.open_tun(1280).unwrap();
        client.configure(config()).unwrap();

        helper.signal(Signal::SIGKILL);
        // The caller still holds the device, so the interface and its routes live on …
        assert_eq!(Host::open().unwrap().our_routes().unwrap().len(), 1);
        // … until the next helper starts.
        let _next = Helper::start(&socket);
        assert_eq!(Host::open().unwrap().interface("warren0").unwrap(), None);
        assert!(Host::open().unwrap().our_routes().unwrap().is_empty());
        drop(tun);
    });
}
