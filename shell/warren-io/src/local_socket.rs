//! Unix sockets on which a service listens for people on the same machine, and the kernel's word for who calls.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Who may open the socket. Whoever opens it is still asked by the kernel who they are ([`Caller`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenTo {
    /// Mode 0600: the service's own user and root.
    Owner,
    /// Mode 0666: every user of the machine.
    Everyone,
}

/// A caller as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, for logs.
    pub pid: Option<i32>,
}

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("{path}: another process answers there already; stop it or choose another socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The file is not a socket, so it is not removed.
    #[error("{path} exists and is not a socket; remove it or choose another socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Longer than the system allows.
    #[error("{path}: the path of a socket has at most 107 bytes, this one has {length}")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// The operating system says no.
    #[error("open socket {path}")]
    Os {
        /// The socket.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// A socket that is listened on; its file goes when this is dropped.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our own file: another process may have replaced it meanwhile.
    file: (u64, u64),
}

/// Opens `path` for callers. The folder must exist; a socket file that nobody listens on is replaced.
///
/// The file gets its name only after it has its mode, so at no moment can somebody else connect. Needs a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub async fn bind(path: &Path, open_to: OpenTo) -> Result<LocalListener, BindError> {
    let os = |source| BindError::Os { path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let length = temporary.as_os_str().len();
    if length > 107 {
        return Err(BindError::TooLong { path: path.to_owned(), length });
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(os(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(os(error)),
            _ => return Err(BindError::InUse { path: path.to_owned() }),
        },
    }
    // A process of our number that died while binding may have left one.
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(os)?;
    let mode = match open_to {
        OpenTo::Owner => 0o600,
        OpenTo::Everyone => 0o666,
    };
    let placed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::symlink_metadata(&temporary))
        .and_then(|made| std::fs::rename(&temporary, path).map(|()| (made.dev(), made.ino())));
    match placed {
        Ok(file) => Ok(LocalListener { listener, path: path.to_owned(), file }),
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            Err(os(error))
        }
    }
}

impl LocalListener {
    /// The next caller. Dropping the future loses nobody. A caller whose credentials the kernel does not tell is sent away.
    ///
    /// # Errors
    /// The system's, for example too many open files; calling again later is right.
    pub async fn accept(&self) -> io::Result<(UnixStream, Caller)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if let Ok(credentials) = stream.peer_cred() {
                let caller = Caller { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
                return Ok((stream, caller));
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|found| found == self.file) {
            let _ = std::fs::remove_file(&self.path); // nothing could be done about it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_names_its_caller_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        for (open_to, expect) in [(OpenTo::Owner, 0o600), (OpenTo::Everyone, 0o666)] {
            let listener = bind(&path, open_to).await.expect("free");
            assert_eq!(mode(&path), expect);
            let (accepted, connected) = tokio::join!(listener.accept(), UnixStream::connect(&path));
            connected.expect("listening");
            let (_, caller) = accepted.expect("somebody called");
            assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
            assert_eq!(caller.pid, i32::try_from(std::process::id()).ok());
            drop(listener);
            assert!(!path.exists());
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("free")); // leaves its file, like a killed process
        let first = bind(&path, OpenTo::Owner).await.expect("stale file replaced");
        assert!(matches!(bind(&path, OpenTo::Owner).await, Err(BindError::InUse { .. })));
        drop(first);
        std::fs::write(&path, "keep me").expect("writable");
        assert!(matches!(bind(&path, OpenTo::Owner).await, Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).expect("there"), b"keep me");
    }

    #[tokio::test]
    async fn impossible_places_are_named() {
        let long = PathBuf::from("/tmp").join("x".repeat(120));
        assert!(matches!(bind(&long, OpenTo::Owner).await, Err(BindError::TooLong { .. })));
        let missing = Path::new("/nonexistent-folder/a.sock");
        assert!(matches!(bind(missing, OpenTo::Owner).await, Err(BindError::Os { .. })));
    }
}
