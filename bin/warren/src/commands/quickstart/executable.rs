//! What the page says of the executable that other machines fetch: its SHA-256, and the C library that it needs.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What is read at a time.
const PIECE: usize = 1 << 20;

/// The name of a symbol version of glibc, before its number.
const GLIBC: &[u8] = b"GLIBC_2.";

/// Longest text looked for: [`GLIBC`] and two digits.
const OVERLAP: usize = GLIBC.len() + 2;

/// An executable as others need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// In hex.
    pub(super) sha256: String,
    /// `linux-x86_64`
    pub(super) name: String,
    /// The oldest glibc 2.x that it runs with; `None` if it needs none.
    pub(super) glibc: Option<u32>,
}

/// Reads the whole of `path`.
pub(super) fn look(path: &Path) -> Result<Facts> {
    let mut file = File::open(path).context("open this program")?;
    let (mut hash, mut glibc) = (Sha256::new(), None);
    let mut window = Vec::with_capacity(PIECE + OVERLAP);
    loop {
        let kept = window.len().min(OVERLAP);
        window.drain(..window.len() - kept);
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut window).context("read this program")?;
        if read == 0 {
            break;
        }
        hash.update(&window[kept..]);
        glibc = glibc.max(newest_glibc(&window));
    }
    let name = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    // A static program has such names only as text, if at all.
    let glibc = glibc.filter(|_| cfg!(all(target_env = "gnu", not(target_feature = "crt-static"))));
    Ok(Facts { sha256: hex::encode(hash.finalize()), name, glibc })
}

fn newest_glibc(bytes: &[u8]) -> Option<u32> {
    let minor = |rest: &[u8]| {
        let digits = rest.iter().take(2).take_while(|byte| byte.is_ascii_digit());
        digits.fold(None, |number: Option<u32>, digit| Some(number.unwrap_or(0) * 10 + u32::from(digit - b'0')))
    };
    bytes
        .windows(GLIBC.len())
        .enumerate()
        .filter(|(_, text)| *text == GLIBC)
        .filter_map(|(at, _)| minor(&bytes[at + GLIBC.len()..]))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_version_says_which_glibc_is_needed() {
        assert_eq!(newest_glibc(b"GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE"), Some(34));
        assert_eq!(newest_glibc(b"nothing of the kind"), None);
        assert_eq!(newest_glibc(b"GLIBC_2."), None);
    }

    #[test]
    fn names_across_two_pieces_are_seen_and_the_sum_is_that_of_the_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut content = vec![0; PIECE - 5];
        content.extend_from_slice(b"GLIBC_2.39\0");
        std::fs::write(file.path(), &content).expect("writable");
        let facts = look(file.path()).expect("readable");
        assert_eq!(facts.sha256, hex::encode(Sha256::digest(&content)));
        if cfg!(all(target_env = "gnu", not(target_feature = "crt-static"))) {
            assert_eq!(facts.glibc, Some(39));
        }
    }
}
