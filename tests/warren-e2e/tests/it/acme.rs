//! A certificate from a test authority (pebble), its renewal, and what happens while the authority is away.
//!
//! The authority runs beside the server and asks at the real ports 443 and 80; a name server for its tests answers every name
//! with 127.0.0.1. Its certificates live for a minute, so that two thirds of a life pass while one watches.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use warren_e2e::service::PATIENCE;
use warren_e2e::{Machine, Process, executable, hold, till};

const NAME: &str = "vpn.lab.test";
/// Seconds that a certificate of the authority is good.
const LIFE: u64 = 60;

fn have(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

/// Key and certificate of the authority's own web server.
fn certify_authority(machine: &Machine) {
    let folder = machine.folder();
    let script = "set -e; exec 2>&1
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=root -keyout root.key -out ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=authority -keyout ca.key -out authority.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > leaf.ext
        openssl x509 -req -in authority.csr -CA ca.pem -CAkey root.key -days 2 -extfile leaf.ext -out authority.pem";
    machine.sh(script);
    let config = serde_json::json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": folder.join("authority.pem"),
        "privateKey": folder.join("ca.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "certificateValidityPeriod": LIFE,
    }});
    std::fs::write(folder.join("pebble.json"), config.to_string()).expect("write");
}

fn authority(machine: &Machine) -> Process {
    let config = machine.folder().join("pebble.json").display().to_string();
    // It refuses some good requests on purpose unless told otherwise; clients must live with that, so it may.
    let words = ["PEBBLE_VA_NOSLEEP=1", "pebble", "-config", &config, "-dnsserver", "127.0.0.1:8053"];
    let process = machine.start("pebble", "env", &words);
    till(PATIENCE, "the authority", || {
        let out = machine.try_sh("curl -ksSf --noproxy '*' https://127.0.0.1:14000/dir");
        out.status.success().then_some(()).ok_or_else(|| process.log())
    });
    process
}

/// Serial number of the certificate that the server shows for its name.
fn shown(machine: &Machine) -> Result<String, String> {
    let got = machine.try_sh(&format!(
        "openssl s_client -connect 127.0.0.1:443 -servername {NAME} -alpn http/1.1 </dev/null 2>/dev/null \
         | openssl x509 -noout -serial -ext subjectAltName"
    ));
    let text = String::from_utf8_lossy(&got.stdout).into_owned();
    if got.status.success() && text.contains(NAME) {
        Ok(text.lines().next().unwrap_or_default().to_owned())
    } else {
        Err(format!("{text}{}", String::from_utf8_lossy(&got.stderr)))
    }
}

fn health(machine: &Machine) -> String {
    let text = machine.sh("curl -sS --noproxy '*' http://127.0.0.1:80/health");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    answer["status"].as_str().unwrap_or_default().to_owned()
}

fn server(machine: &Machine, challenge: &str) -> Process {
    let folder = machine.folder();
    let config = folder.join("control.toml");
    std::fs::write(
        &config,
        format!(
            "server_url = \"https://{NAME}\"\nbase_domain = \"mesh.test\"\n\n[acme]\nchallenge = \"{challenge}\"\n\
             directory = \"https://127.0.0.1:14000/dir\"\n"
        ),
    )
    .expect("write");
    let state = folder.join("state");
    let words = [
        format!("SSL_CERT_FILE={}", folder.join("ca.pem").display()),
        executable("warren").display().to_string(),
        "control".into(),
        "serve".into(),
        "--config".into(),
        config.display().to_string(),
        "--state".into(),
        state.display().to_string(),
        "--socket".into(),
        state.join("control.sock").display().to_string(),
    ];
    machine.start("control", "env", &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn a_certificate_comes_is_renewed_and_outlives_its_authority() {
    if !warren_e2e::inside() {
        return;
    }
    for program in ["pebble", "pebble-challtestsrv", "openssl", "curl"] {
        if !have(program) {
            println!("SKIPPED: certificates by ACME: no {program} (apt-get install pebble openssl curl)");
            return;
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new("acme", folder.path());
    certify_authority(&machine);
    let silent = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-dns01", "127.0.0.1:8053"];
    let _names = machine.start("names", "pebble-challtestsrv", &silent);
    let pebble = authority(&machine);

    for challenge in ["tls-alpn-01", "http-01"] {
        let _ = std::fs::remove_dir_all(machine.folder().join("state"));
        let control = server(&machine, challenge);
        let (first, took) = till(3 * PATIENCE, "a first certificate", || {
            shown(&machine).map_err(|error| format!("{error}\n{}", control.log()))
        });
        println!("acme: {challenge} brought a certificate within {took:?}");
        assert_eq!(health(&machine), "pass");
        let state = machine.folder().join("state");
        assert_eq!((mode(&state.join("acme.pem")), mode(&state.join("acme-account.json"))), (0o600, 0o600));
        if challenge == "http-01" {
            assert_eq!(control.stop().code(), Some(0));
            // A start finds what is there and needs no authority for it.
            let control = server(&machine, challenge);
            till(PATIENCE, "the kept certificate", || {
                let now = shown(&machine).map_err(|error| format!("{error}\n{}", control.log()))?;
                if now == first { Ok(()) } else { Err(now) }
            });
            break;
        }
        let (_, took) = till(Duration::from_secs(LIFE), "its renewal", || match shown(&machine) {
            Ok(serial) if serial != first => Ok(()),
            other => Err(format!("{other:?}\n{}", control.log())),
        });
        println!("acme: renewed after {took:?} of a life of {LIFE} s");
    }
    renewal_fails_and_recovers(&machine, pebble);
}

fn renewal_fails_and_recovers(machine: &Machine, pebble: Process) {
    let _ = std::fs::remove_dir_all(machine.folder().join("state"));
    let control = server(machine, "tls-alpn-01");
    let (kept, _) =
        till(3 * PATIENCE, "a certificate", || shown(machine).map_err(|error| format!("{error}\n{}", control.log())));
    assert_eq!(pebble.stop_by(Signal::SIGKILL).code(), None);
    till(Duration::from_secs(2 * LIFE), "health to say so", || {
        let status = health(machine);
        if status == "warn" { Ok(()) } else { Err(format!("{status}\n{}", control.log())) }
    });
    hold(Duration::from_secs(5), "the old certificate in force", || {
        let now = shown(machine)?;
        if now == kept { Ok(()) } else { Err(now) }
    });
    let socket = machine.folder().join("state").join("control.sock").display().to_string();
    let words = machine.warren(&["control", "--socket", &socket, "health"]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("certificate") && words.contains("127.0.0.1:14000"), "{words}");

    // An authority that comes back has forgotten everybody's account, as a new one would.
    let _pebble = authority(machine);
    let (_, took) = till(Duration::from_secs(240), "the renewal after all", || match shown(machine) {
        Ok(serial) if serial != kept && health(machine) == "pass" => Ok(()),
        other => Err(format!("{other:?}\n{}", control.log())),
    });
    println!("acme: with the authority back, renewed {took:?} later");
}
