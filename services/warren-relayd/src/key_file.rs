//! The relay's own key, in the form that stock relays keep it: `{"PrivateKey":"privkey:<hex>"}`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use warren_crypto::{Random, RelaySecret};
use zeroize::Zeroizing;

/// A key file is not longer; a longer one is something else.
const MAX_BYTES: u64 = 4096;

/// Why there is no key. What is there is left alone.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("read relay key {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write relay key {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a relay key; move it away to get a new one")]
    Content { path: PathBuf },
}

/// The key in `path`, made and kept there if there is none.
///
/// # Errors
/// [`KeyFileError`]
pub fn load_or_make(path: &Path, random: &mut Random) -> Result<RelaySecret, KeyFileError> {
    let read = |source| KeyFileError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(facts) if facts.len() > MAX_BYTES => return Err(KeyFileError::Content { path: path.to_owned() }),
        Ok(_) => return parse(&Zeroizing::new(std::fs::read(path).map_err(read)?), path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(read(error)),
    }
    let secret = RelaySecret::generate(random);
    let text = Zeroizing::new(format!("{{\"PrivateKey\":\"{}\"}}\n", *secret.to_file_text()));
    let new = path.with_extension("new");
    let save = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    save().map_err(|source| KeyFileError::Write { path: path.to_owned(), source })?;
    Ok(secret)
}

fn parse(bytes: &[u8], path: &Path) -> Result<RelaySecret, KeyFileError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "PrivateKey")]
        private_key: String,
    }
    let content = || KeyFileError::Content { path: path.to_owned() };
    let file: File = serde_json::from_slice(bytes).map_err(|_| content())?;
    let text = Zeroizing::new(file.private_key);
    RelaySecret::from_file_text(&text).map_err(|_| content())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.key");
        let made = load_or_make(&path, &mut Random::from_seed([1; 32])).unwrap();
        let again = load_or_make(&path, &mut Random::from_seed([2; 32])).unwrap();
        assert_eq!(made.public(), again.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_key_is_reported_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.key");
        for content in ["", "{}", r#"{"PrivateKey":"privkey:00"}"#, &"x".repeat(5000)] {
            std::fs::write(&path, content).unwrap();
            let error = load_or_make(&path, &mut Random::from_seed([1; 32])).unwrap_err();
            assert!(matches!(error, KeyFileError::Content { .. }));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }
}
