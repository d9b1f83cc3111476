//! The node's state on disk: one JSON file, replaced whole, never half.
//!
//! ```text
//! save: write NAME.new (0600) ─▶ fsync ─▶ rename over NAME ─▶ fsync the folder
//! load: NAME → its text;   absent → none;   unreadable, locked or absurdly long → an error, and the file stays untouched
//! ```
//!
//! A lock on `NAME.lock` keeps a second daemon off the same state.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

/// A cached map of ten thousand peers is some 16 MiB of JSON; beyond this a file is not ours.
const MOST_BYTES: u64 = 128 << 20;

/// Why state could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenStateError {
    /// The disk is full, or the folder cannot be written.
    #[error("write node state {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    #[error("make the state folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read node state {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("node state {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("node state {path} is {bytes} bytes long, which no state of ours is")]
    TooLong { path: PathBuf, bytes: u64 },
}

/// An open state file, locked while this lives.
pub(crate) struct StateFile {
    path: PathBuf,
    _lock: File,
}

impl StateFile {
    /// Locks `path` and reads what is there. What the text means is for the node to say.
    ///
    /// # Errors
    /// See [`OpenStateError`].
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Zeroizing<String>>), OpenStateError> {
        let folder = folder_of(path);
        let make = |source| OpenStateError::Folder { path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(make)?;
        let lock = lock(path)?;
        let file = Self { path: path.to_owned(), _lock: lock };
        let text = file.read()?;
        file.try_to_write()?;
        Ok((file, text))
    }

    /// A node that cannot keep its keys would log in anew after every restart: better not to start.
    fn try_to_write(&self) -> Result<(), OpenStateError> {
        let trial = beside(&self.path, ".trial");
        let written = fs::write(&trial, vec![0; ROOM]).and_then(|()| File::open(&trial)?.sync_all());
        let _ = fs::remove_file(&trial);
        written.map_err(|source| OpenStateError::Write { path: self.path.clone(), source })
    }

    fn read(&self) -> Result<Option<Zeroizing<String>>, OpenStateError> {
        let error = |source| OpenStateError::Read { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(error(other)),
        };
        let bytes = file.metadata().map_err(error)?.len();
        if bytes > MOST_BYTES {
            return Err(OpenStateError::TooLong { path: self.path.clone(), bytes });
        }
        // Room for all of it, so that no half-copy with keys in it is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(bytes as usize + 1));
        file.take(MOST_BYTES).read_to_string(&mut text).map_err(error)?;
        Ok(Some(text))
    }

    /// Replaces the file with `text`; after a crash there is the old one or the new one.
    ///
    /// # Errors
    /// The old file stands then, and the half-written one is removed.
    pub(crate) fn save(&self, text: &[u8]) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let result = self.replace(&new, text);
        if result.is_err() {
            let _ = fs::remove_file(&new);
        }
        result
    }

    fn replace(&self, new: &Path, text: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(new, &self.path)?;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

fn lock(path: &Path) -> Result<File, OpenStateError> {
    let lock_path = beside(path, ".lock");
    let error = |source| OpenStateError::Read { path: lock_path.clone(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path).map_err(error)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(source)) => return Err(error(source)),
        }
    }
    Err(OpenStateError::InUse { path: path.to_owned() })
}

// A first state with its cached map fits.
const ROOM: usize = 64 << 10;

// A predecessor that is just ending, or a child that it forked and that has not yet become its program, holds the lock a
// moment longer.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn open(path: &Path) -> Result<(StateFile, Option<Zeroizing<String>>), OpenStateError> {
        StateFile::open(path)
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_the_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.json");
        let (file, state) = open(&path).unwrap();
        assert!(state.is_none());
        file.save(br#"{"format":1,"x":2}"#).unwrap();
        file.save(br#"{"format":1,"x":3}"#).unwrap();
        drop(file);
        let (_file, state) = open(&path).unwrap();
        assert_eq!(*state.unwrap(), r#"{"format":1,"x":3}"#);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside(&path, ".new").exists());
    }

    #[test]
    fn a_file_that_is_not_text_is_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, b"\x7fELF\xff").unwrap();
        assert!(matches!(open(&path), Err(OpenStateError::Read { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"\x7fELF\xff");
    }

    #[test]
    fn one_state_serves_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(OpenStateError::InUse { .. })));
        drop(first);
        assert!(open(&path).is_ok());
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let (file, _) = open(&path).unwrap();
        file.save(br#"{"format":1}"#).unwrap();
        // A folder where the new file should be written: opening it for writing fails even for root.
        fs::create_dir(beside(&path, ".new")).unwrap();
        assert!(file.save(br#"{"format":1,"x":1}"#).is_err());
        assert_eq!(fs::read(&path).unwrap(), br#"{"format":1}"#);
    }
}
