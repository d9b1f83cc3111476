//! What this machine has, and what can be added to it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sh;

/// Programs that tests use, and the Debian package that brings each.
const PROGRAMS: [(&str, &str); 13] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("curl", "curl"),
    ("faketime", "faketime"),
    ("wg", "wireguard-tools"),
    ("unshare", "util-linux"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("chromium", "chromium"),
    ("pebble", "pebble"),
    ("openssl", "openssl"),
];

pub struct Machine {
    /// Programs that are absent and could not be installed.
    pub missing: Vec<&'static str>,
    /// Namespaces with virtual cables can be made: as root, or in a user namespace of our own.
    pub namespaces: Result<(), String>,
    /// A kernel tunnel interface can be made inside such a namespace.
    pub tun: Result<(), String>,
}

impl Machine {
    /// Installs what is missing when it may (root on a Debian machine), then looks at what there is.
    pub fn prepare() -> Machine {
        let absent = |()| PROGRAMS.iter().filter(|(program, _)| !sh::have(program)).collect::<Vec<_>>();
        let wanted = absent(());
        if !wanted.is_empty() && is_root() && sh::have("apt-get") {
            let packages: Vec<&str> = wanted.iter().map(|(_, package)| *package).collect();
            println!("xtask: installing {}", packages.join(" "));
            quietly(Command::new("apt-get").args(["update", "-q"]));
            if !install(&packages) {
                // One package that this release lacks must not keep the others away.
                for package in packages {
                    install(&[package]);
                }
            }
        }
        let missing = absent(()).iter().map(|(program, _)| *program).collect::<Vec<_>>();
        let namespaces = if missing.contains(&"ip") || missing.contains(&"nft") || missing.contains(&"unshare") {
            Err(format!("these programs are missing: {} (apt-get install iproute2 nftables)", missing.join(" ")))
        } else {
            in_namespace("ip link add warren-try type veth peer name warren-yrt && nft add table inet warren-try")
                .map_err(|reason| format!("no network namespace with cables and nftables can be made: {reason}"))
        };
        let tun = namespaces.clone().and_then(|()| {
            in_namespace("ip tuntap add warren-try mode tun")
                .map_err(|reason| format!("no TUN interface can be made ({reason}); is the device /dev/net/tun there?"))
        });
        Machine { missing, namespaces, tun }
    }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// `unshare` with everything that a namespace laboratory needs; the whole laboratory vanishes with its last process.
pub fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

fn in_namespace(script: &str) -> Result<(), String> {
    if !Path::new("/proc/self/ns/net").exists() {
        return Err("the kernel has no network namespaces".into());
    }
    let output = unshare()
        .args(["sh", "-c", script])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
    }
}

/// The identity provider of the sign-in tests, fetched by npm into a folder outside of the checkout; the reason if not.
///
/// The folder's name changes with the locked versions and with the scripts beside them, so it is fetched once.
pub fn identity_provider() -> Result<PathBuf, String> {
    let source = sh::root().join("tests/warren-e2e/oidc");
    let files = ["package.json", "package-lock.json", "provider.mjs", "browser.mjs"];
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(source.join(file)).map_err(|error| format!("read {file}: {error}"))?.hash(&mut hasher);
    }
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let folder = home.ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let folder = folder.join(format!("warren-e2e-oidc-{:016x}", hasher.finish()));
    let done = folder.join("fetched");
    if done.exists() {
        return Ok(folder);
    }
    if !sh::have("npm") {
        return Err("npm is not installed".into());
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    for file in files {
        std::fs::copy(source.join(file), folder.join(file)).map_err(|error| format!("copy {file}: {error}"))?;
    }
    println!("xtask: fetching the identity provider into {}", folder.display());
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
    let output = npm.output().map_err(|error| format!("start npm: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("npm ci: {}", said.lines().last().unwrap_or("it says nothing")));
    }
    std::fs::write(&done, "").map_err(|error| format!("write {}: {error}", done.display()))?;
    Ok(folder)
}

/// Whether all of them are there now.
fn install(packages: &[&str]) -> bool {
    quietly(
        Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn quietly(command: &mut Command) -> bool {
    let done = command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !done {
        eprintln!("xtask: {command:?} failed; what needs it is skipped below");
    }
    done
}
