//! What the host is called and which system it runs.

use std::fs;

use serde::{Deserialize, Serialize};

/// Facts that a node tells its control server about its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsFacts {
    pub hostname: String,
    /// `linux`, as the field writes it.
    pub os: String,
    /// Kernel release, `6.1.0-18-amd64`.
    pub os_version: String,
    /// `ID` of os-release: `debian`.
    pub distro: String,
    /// `VERSION_ID`: `12`.
    pub distro_version: String,
    /// `VERSION_CODENAME`: `bookworm`.
    pub distro_code_name: String,
    /// The machine's architecture as `uname -m` says it.
    pub machine: String,
}

/// A file longer than this is not an os-release.
const MOST_OS_RELEASE_BYTES: u64 = 64 << 10;

impl OsFacts {
    /// Asks the kernel and `/etc/os-release`; what cannot be read stays empty.
    pub fn read() -> Self {
        let uname = nix::sys::utsname::uname().ok();
        let text = |pick: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            uname.as_ref().map(|names| pick(names).to_string_lossy().into_owned()).unwrap_or_default()
        };
        let release = ["/etc/os-release", "/usr/lib/os-release"].into_iter().find_map(read_small).unwrap_or_default();
        Self {
            hostname: text(|names| names.nodename()),
            os: "linux".to_owned(),
            os_version: text(|names| names.release()),
            machine: text(|names| names.machine()),
            distro: os_release_field(&release, "ID"),
            distro_version: os_release_field(&release, "VERSION_ID"),
            distro_code_name: os_release_field(&release, "VERSION_CODENAME"),
        }
    }
}

fn read_small(path: &str) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if size > MOST_OS_RELEASE_BYTES {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// One `KEY=value` or `KEY="value"` line of an os-release file (os-release(5)); empty when absent.
fn os_release_field(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_come_with_and_without_quotes() {
        let text = "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\nID_LIKE=other\n";
        assert_eq!(os_release_field(text, "ID"), "debian");
        assert_eq!(os_release_field(text, "VERSION_ID"), "12");
        assert_eq!(os_release_field(text, "VERSION_CODENAME"), "");
    }

    #[test]
    fn this_host_has_a_name_and_a_kernel() {
        let facts = OsFacts::read();
        assert!(!facts.hostname.is_empty());
        assert!(!facts.os_version.is_empty());
        assert_eq!(facts.os, "linux");
    }
}
