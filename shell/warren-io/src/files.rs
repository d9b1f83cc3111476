//! Files that are there whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts `bytes` in place of whatever is at `path`, with this mode: after a crash there is the old content or the new.
///
/// # Errors
/// The operating system's; what was there is still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // of a write that was cut short, perhaps with another mode
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_with_its_mode_whatever_was_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        fs::write(folder.path().join("key.pem.new"), "half").expect("written");
        for (text, mode) in [("one", 0o644), ("two", 0o600)] {
            replace(&path, text.as_bytes(), mode).expect("replaced");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
