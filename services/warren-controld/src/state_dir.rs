//! The state folder: `noise.key` (mode 0600), the database beside it, the folder itself mode 0700.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use warren_crypto::{MachineSecret, Random};

/// An RSA key of 2048 bits is 1.7 kB as text; anything much longer is something else.
const LARGEST_KEY_FILE: u64 = 8192;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system says no.
    #[error("{what} {}", .path.display())]
    Os {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Changing it silently would lock every client out.
    #[error(
        "{} is not a key; put the right one back, or remove it to make a new one (every client must then log in again)",
        .path.display()
    )]
    CorruptKey {
        /// The file.
        path: PathBuf,
    },
    /// Making another silently would make every token worthless.
    #[error("{} is not a key for tokens; put the right one back, or remove it to make a new one", .path.display())]
    CorruptToken {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else may have read it.
    #[error("{} can be read by others (mode {mode:o}); set it to 600 if nobody has", .path.display())]
    OpenKey {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Makes the folder, or takes it from others' sight.
///
/// # Errors
/// [`StateError`].
pub fn prepare(folder: &Path) -> Result<(), StateError> {
    let os = |what| move |source| StateError::Os { what, path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(os("make state folder"))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(os("close state folder"))
}

/// Reads the server's key, or makes one if there is none. An existing file is never replaced.
///
/// # Errors
/// [`StateError`].
pub fn noise_key(folder: &Path, random: &mut Random) -> Result<MachineSecret, StateError> {
    const FILE: &str = "noise.key";
    let corrupt = || StateError::CorruptKey { path: folder.join(FILE) };
    match read_secret(folder, FILE) {
        Ok(Some(text)) => MachineSecret::from_file_text(text.trim_end()).map_err(|_| corrupt()),
        Ok(None) => {
            let key = MachineSecret::generate(random);
            write_secret(folder, FILE, &format!("{}\n", key.to_file_text().as_str()))?;
            Ok(key)
        }
        Err(StateError::Os { source, .. }) if source.kind() == io::ErrorKind::InvalidData => Err(corrupt()),
        Err(error) => Err(error),
    }
}

/// The text of a file with a secret that nobody else may read; `None` if there is none.
pub(crate) fn read_secret(folder: &Path, name: &str) -> Result<Option<String>, StateError> {
    let path = folder.join(name);
    let os = |source| StateError::Os { what: "read", path: path.clone(), source };
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(os(error)),
    };
    let mode = file.metadata().map_err(os)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::OpenKey { path, mode });
    }
    let mut text = String::new();
    file.take(LARGEST_KEY_FILE).read_to_string(&mut text).map_err(os)?;
    Ok(Some(text))
}

/// Makes such a file, whole or not at all. An existing one is never replaced.
pub(crate) fn write_secret(folder: &Path, name: &str, text: &str) -> Result<(), StateError> {
    let path = folder.join(name);
    let temporary = folder.join(format!("{name}.new"));
    let write = || {
        let _ = fs::remove_file(&temporary); // of a start that was cut short
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, does not replace a key that another process made in the meantime.
        fs::hard_link(&temporary, &path)?;
        fs::remove_file(&temporary)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| StateError::Os { what: "write", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> Random {
        Random::from_seed([5; 32])
    }

    #[test]
    fn a_key_is_made_once_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("deep/state");
        prepare(&state).expect("made");
        let made = noise_key(&state, &mut random()).expect("made").public();
        let mut other = Random::from_seed([6; 32]);
        assert_eq!(noise_key(&state, &mut other).expect("read").public(), made);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("noise.key"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).expect("readable").count(), 1);
    }

    #[test]
    fn a_corrupt_or_open_key_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("noise.key");
        for content in [&b""[..], b"privkey:abc\n", b"mkey:00", &[0xff; 80], &[b'a'; 9000]] {
            fs::write(&path, content).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mine");
            assert!(matches!(noise_key(folder.path(), &mut random()), Err(StateError::CorruptKey { .. })));
            assert_eq!(fs::read(&path).expect("there"), content);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mine");
        assert!(matches!(noise_key(folder.path(), &mut random()), Err(StateError::OpenKey { mode: 0o644, .. })));
    }
}
