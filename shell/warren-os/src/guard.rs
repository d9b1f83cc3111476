//! Keeping others out of the mesh's address ranges, by a table of nftables.
//!
//! Programs and firewalls of a host trust a mesh address because the tunnel has checked it. A packet that comes by another
//! interface was checked by nobody: without this any neighbour could send from a peer's address. So before anything else
//! looks at it, a packet with a source in the mesh ranges is dropped, if it came neither by the mesh's interface nor by
//! loopback, and
//!
//! - what this host would send to that source leaves by another interface than the one the packet came by (so it is for
//!   every peer, and for this node's own addresses); or
//! - it came by an interface with a default route that has no address in the ranges itself: a neighbour made it up.
//!
//! What is let through are networks that have addresses in these ranges by right: a provider's shared address space
//! (100.64.0.0/10, RFC 6598) on the uplink itself, containers, another mesh on the same host. Hosts whose uplink leads to
//! such addresses without having one (resolvers of some clouds) have to do without this guard.
//!
//! `nft` does the work: the kernel has no other interface to its tables that is as stable.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use warren_ip::Prefix;

use crate::config::mesh_ranges;
use crate::uplinks::uplinks_outside;

/// Where systems keep `nft`. A search path comes from whoever started us, and this runs with rights.
const PLACES: [&str; 5] =
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft", "/run/current-system/sw/bin/nft"];

/// One transaction takes milliseconds; one that hangs must not hold the helper.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a person is shown of `nft`'s complaint.
const MOST_COMPLAINT_BYTES: u64 = 200;

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("there is no program nft here (package nftables)")]
    NoProgram,
    #[error("run {program}")]
    Run {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nft did not end within {} s", PATIENCE.as_secs())]
    Hangs,
    #[error("nft refused: {0}")]
    Refused(String),
    #[error("ask the kernel for the interfaces that lead outwards")]
    Netlink(#[source] io::Error),
}

/// The table of the guard for `interface`, as `nft list tables` shows it (family `inet`).
pub fn table(interface: &str) -> String {
    format!("warren-{interface}")
}

/// Puts the guard for `interface` in place, or anew.
///
/// # Errors
/// Then the guard is as it was before.
pub fn set(interface: &str) -> Result<(), GuardError> {
    let ranges = mesh_ranges();
    let uplinks = uplinks_outside(&ranges, interface).map_err(GuardError::Netlink)?;
    run(&rules(interface, &ranges, uplinks))
}

/// Takes the guard for `interface` away. Absent is fine, and so is a system that could not have one.
///
/// # Errors
/// When `nft` would not.
pub fn remove(interface: &str) -> Result<(), GuardError> {
    match run(&removal(interface)) {
        Err(GuardError::NoProgram) => Ok(()),
        result => result,
    }
}

/// Whether a guard for `interface` is in place.
pub fn stands(interface: &str) -> bool {
    // Listing changes nothing; a failure is the answer no.
    run(&format!("list table inet {}\n", table(interface))).is_ok()
}

/// Makes it first, so that removing never fails for want of it.
fn removal(interface: &str) -> String {
    let table = table(interface);
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// One transaction: the kernel takes all of it or nothing. `interface` is a name that [`crate::Limits`] let through.
fn rules(interface: &str, ranges: &[Prefix], uplinks: impl IntoIterator<Item = u32>) -> String {
    let mut text = removal(interface);
    let _ = write!(
        text,
        "table inet {} {{\n\
         \tchain elsewhere {{\n\
         \t\tfib saddr . iif oif missing drop\n",
        table(interface)
    );
    // By number: a name may contain anything.
    let uplinks: Vec<String> = uplinks.into_iter().map(|index| index.to_string()).collect();
    if !uplinks.is_empty() {
        let _ = writeln!(text, "\t\tiif {{ {} }} drop", uplinks.join(", "));
    }
    let _ = write!(
        text,
        "\t}}\n\
         \tchain prerouting {{\n\
         \t\ttype filter hook prerouting priority raw; policy accept;\n\
         \t\tiifname {{ \"{interface}\", \"lo\" }} accept\n"
    );
    for range in ranges {
        let family = if range.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(text, "\t\t{family} saddr {range} jump elsewhere");
    }
    text.push_str("\t}\n}\n");
    text
}

fn run(script: &str) -> Result<(), GuardError> {
    let program = PLACES.iter().map(Path::new).find(|path| path.exists()).ok_or(GuardError::NoProgram)?;
    let failed = |source| GuardError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(["-f", "-"]).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // Less than a pipe holds; whoever does not read it says why below.
        let _ = input.write_all(script.as_bytes());
    }
    let ended = wait(&mut child).map_err(failed);
    let success = match ended {
        Ok(Some(success)) => success,
        other => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(other.err().unwrap_or(GuardError::Hangs));
        }
    };
    if success {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Some(output) = child.stderr.take() {
        let _ = output.take(MOST_COMPLAINT_BYTES).read_to_end(&mut complaint);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    Err(GuardError::Refused(complaint.lines().next().unwrap_or("without a reason").to_owned()))
}

/// Whether it succeeded; `None`: it is not going to end.
fn wait(child: &mut Child) -> io::Result<Option<bool>> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_own_interface_the_ranges_and_the_uplinks_by_number() {
        let text = rules("warren0", &mesh_ranges(), [2, 7]);
        assert!(text.starts_with("table inet warren-warren0\ndelete table inet warren-warren0\ntable inet"));
        for line in [
            "iifname { \"warren0\", \"lo\" } accept",
            "ip saddr 100.64.0.0/10 jump elsewhere",
            "ip6 saddr fd7a:115c:a1e0::/48 jump elsewhere",
            "fib saddr . iif oif missing drop",
            "iif { 2, 7 } drop",
        ] {
            assert!(text.lines().any(|found| found.trim() == line), "{line} is not in\n{text}");
        }
        assert!(!rules("warren0", &mesh_ranges(), []).contains("iif {"), "an empty set is none");
    }
}
