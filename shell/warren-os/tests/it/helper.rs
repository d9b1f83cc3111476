use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use warren_os::helper::{Client, ClientError, serve_fd};
use warren_os::{Host, Limits, OsConfig, guard};

use crate::host::config;
use crate::namespace::in_namespace;

/// Runs `caller` against a helper in the same namespace, then waits for the helper to have cleaned up.
fn with_helper(caller: impl FnOnce(UnixStream) + Send) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let limits = Limits::mesh("warren0").unwrap();
    thread::scope(|scope| {
        // A new thread starts in its parent's namespace.
        let helper = scope.spawn(move || serve_fd(OwnedFd::from(theirs), &limits).unwrap());
        caller(ours);
        helper.join().unwrap();
    });
}

#[test]
fn the_helper_makes_an_interface_and_takes_it_back_when_the_caller_goes() {
    in_namespace("helper", || {
        let mut host = Host::open().unwrap();
        with_helper(|stream| {
            let mut client = Client::from_fd(stream.into()).unwrap();
            assert_eq!(client.interface(), "warren0");
            let _tun = client.open_tun(1280).unwrap();
            let applied = client.configure(config(&["100.64.0.2/32", "fd7a:115c:a1e0::2/128"])).unwrap();
            assert!(applied.skipped.is_empty(), "{applied:?}");
            assert_eq!(Host::open().unwrap().our_routes().unwrap().len(), 2);
            assert_eq!(client.open_udp(0).unwrap().len(), 2);
        });
        assert_eq!(host.interface("warren0").unwrap(), None);
        assert!(host.our_routes().unwrap().is_empty());
    });
}

#[test]
fn a_request_beyond_the_limits_is_refused_and_changes_nothing() {
    in_namespace("limits", || {
        with_helper(|stream| {
            let mut client = Client::from_fd(stream.into()).unwrap();
            assert!(matches!(client.configure(config(&[])), Err(ClientError::Refused(_))), "before the interface");
            assert!(matches!(client.open_tun(100), Err(ClientError::Refused(_))));
            assert!(matches!(client.open_udp(53), Err(ClientError::Refused(_))));
            let _tun = client.open_tun(1280).unwrap();
            assert!(matches!(client.configure(config(&["0.0.0.0/0"])), Err(ClientError::Refused(_))));
            assert!(Host::open().unwrap().our_routes().unwrap().is_empty());
        });
    });
}

/// Puts a script in the place of `nft`, for this thread and those that it starts. `false`, and why: not here.
fn replace_nft(what: &str, folder: &Path, script: &str) -> bool {
    let Some(nft) = ["/usr/sbin/nft", "/usr/bin/nft"].into_iter().find(|path| std::fs::exists(path).unwrap()) else {
        eprintln!("SKIPPED {what}: needs nft");
        return false;
    };
    let (ours, real) = (folder.join("nft"), folder.join("real-nft"));
    std::fs::copy(nft, &real).unwrap();
    std::fs::write(&ours, script.replace("REAL", real.to_str().unwrap())).unwrap();
    std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(0o755)).unwrap();
    // SAFETY: as `in_namespace`, for this thread's view of the files.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        eprintln!("SKIPPED {what}: no mount namespaces here");
        return false;
    }
    for words in [["--make-rprivate", "/"].as_slice(), &["--bind", ours.to_str().unwrap(), nft]] {
        assert!(Command::new("mount").args(words).status().unwrap().success());
    }
    true
}

#[test]
fn where_the_kernel_takes_no_tables_the_trouble_ends_with_the_wish_for_a_guard() {
    in_namespace("no tables", || {
        let folder = tempfile::tempdir().unwrap();
        if !replace_nft("no tables", folder.path(), "#!/bin/sh\necho not supported >&2\nexit 1\n") {
            return;
        }
        with_helper(|stream| {
            let mut client = Client::from_fd(stream.into()).unwrap();
            for _ in 0..2 {
                let _tun = client.open_tun(1280).unwrap();
                let mut wanted = OsConfig { guard: true, ..config(&["100.64.0.2/32"]) };
                let skipped = client.configure(wanted.clone()).unwrap().skipped;
                assert!(matches!(&skipped[..], [text] if text.contains("not supported")), "{skipped:?}");
                wanted.guard = false;
                assert_eq!(client.configure(wanted).unwrap().skipped, Vec::<String>::new());
                client.undo().unwrap();
            }
        });
    });
}

#[test]
fn a_guard_goes_with_the_interface_although_nft_was_of_no_use_for_a_while() {
    in_namespace("nft for a while", || {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken");
        let script = format!("#!/bin/sh\n[ -e {} ] && exit 1\nexec REAL \"$@\"\n", broken.display());
        if !replace_nft("nft for a while", folder.path(), &script) {
            return;
        }
        with_helper(|stream| {
            let mut client = Client::from_fd(stream.into()).unwrap();
            let _tun = client.open_tun(1280).unwrap();
            let wanted = OsConfig { guard: true, ..config(&["100.64.0.2/32"]) };
            if let [text, ..] = &client.configure(wanted.clone()).unwrap().skipped[..] {
                eprintln!("SKIPPED nft for a while: {text}");
                return;
            }
            std::fs::write(&broken, "").unwrap();
            assert_eq!(client.configure(wanted).unwrap().skipped.len(), 1, "neither set nor seen");
            std::fs::remove_file(&broken).unwrap();
            client.undo().unwrap();
            assert!(!guard::stands("warren0"), "nobody would take it away any more");
        });
    });
}

#[test]
fn what_a_killed_helper_left_is_swept_by_the_next() {
    in_namespace("sweep", || {
        let mut host = Host::open().unwrap();
        // The daemon still holds the device; the helper that configured it is gone without a word.
        let orphan = warren_os::Tun::open("warren0").unwrap();
        host.claim("warren0", 1280).unwrap();
        host.apply(&config(&["100.64.0.2/32"])).unwrap();
        with_helper(|stream| {
            let mut client = Client::from_fd(stream.into()).unwrap();
            assert!(Host::open().unwrap().our_routes().unwrap().is_empty());
            client.undo().unwrap();
        });
        assert_eq!(host.interface("warren0").unwrap(), None);
        drop(orphan);
    });
}

#[test]
fn garbage_ends_the_conversation_and_nothing_stays() {
    in_namespace("garbage", || {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", &[3, 0, 0, 0, b'{', b'}', b'x'], &[]] {
            with_helper(|mut stream| {
                stream.write_all(bytes).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
        }
        assert_eq!(Host::open().unwrap().interface("warren0").unwrap(), None);
    });
}
