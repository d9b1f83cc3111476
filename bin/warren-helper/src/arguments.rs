//! The command line, by hand: a parser library would be most of this program.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use warren_ip::Prefix;
use warren_os::{DEFAULT_INTERFACE, Limits, helper};

pub(crate) const USAGE: &str =
    "usage: warren-helper run (--socket PATH --uid UID | --fd N) [--interface NAME] [--allow PREFIX]...";

/// Where the caller comes in.
pub(crate) enum Door {
    Socket { path: PathBuf, uid: u32 },
    Inherited(OwnedFd),
}

pub(crate) struct Options {
    pub(crate) door: Door,
    pub(crate) limits: Limits,
}

impl Options {
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let words = Words::read(args)?;
        let mut limits = Limits::mesh(words.interface.as_deref().unwrap_or(DEFAULT_INTERFACE))
            .map_err(|problem| problem.to_string())?;
        limits.prefixes.extend(words.allow);
        let door = match (words.socket, words.uid, words.fd) {
            (Some(path), Some(uid), None) => Door::Socket { path, uid },
            (None, None, Some(number)) => {
                Door::Inherited(helper::inherited_fd(number).ok_or_else(|| format!("descriptor {number} is not open"))?)
            }
            _ => return Err("give either --socket with --uid, or --fd".to_owned()),
        };
        Ok(Self { door, limits })
    }
}

/// The flags as they were written.
#[derive(Default)]
struct Words {
    socket: Option<PathBuf>,
    uid: Option<u32>,
    fd: Option<i32>,
    interface: Option<String>,
    allow: Vec<Prefix>,
}

impl Words {
    fn read(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = args.into_iter();
        match args.next().as_deref() {
            Some("run") => {}
            Some(other) => return Err(format!("unknown command {other:?}")),
            None => return Err("no command given".to_owned()),
        }
        let mut words = Self::default();
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--socket" => words.socket = Some(PathBuf::from(value)),
                "--uid" => words.uid = Some(number(&flag, &value)?),
                "--fd" => words.fd = Some(number(&flag, &value)?),
                "--interface" => words.interface = Some(value),
                "--allow" => words.allow.push(number(&flag, &value)?),
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(words)
    }
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} cannot be {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_socket_needs_its_user_and_excludes_a_descriptor() {
        let options = parse("run --socket /run/h.sock --uid 7 --allow 10.1.0.0/16").unwrap();
        assert!(matches!(options.door, Door::Socket { uid: 7, .. }));
        assert_eq!(options.limits.interface, "warren0");
        assert!(options.limits.prefixes.contains(&"10.1.0.0/16".parse().unwrap()));
        for line in [
            "",
            "serve",
            "run",
            "run --socket /x",
            "run --uid 7",
            "run --socket /x --uid 7 --fd 0",
            "run --socket /x --uid root",
            "run --fd 9999",
            "run --socket /x --uid 7 --interface a/b",
            "run --socket /x --uid 7 --allow 10.1.2.3/16",
            "run --socket",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
