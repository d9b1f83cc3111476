//! Where things are kept, and where a running daemon or server is found.

use std::path::PathBuf;

/// State folder of `what` (`node`, `control`, `relay`): the system's as root, else the person's own.
pub fn state_dir(what: &str) -> PathBuf {
    if is_root() { PathBuf::from("/var/lib/warren").join(what) } else { user_state().join(what) }
}

/// `$XDG_STATE_HOME/warren`, or its default below the home folder.
pub fn user_state() -> PathBuf {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.unwrap_or_else(|| home().join(".local/state")).join("warren")
}

/// Socket `name` (`node.sock`, `control.sock`) of a service whose state is in `state_dir`.
pub fn socket(name: &str, state_dir: &std::path::Path) -> PathBuf {
    if is_root() && state_dir.starts_with("/var/lib/warren") {
        return PathBuf::from("/run/warren").join(name);
    }
    match runtime_dir() {
        Some(dir) if state_dir.starts_with(user_state()) => dir.join("warren").join(name),
        _ => state_dir.join("run").join(name),
    }
}

/// The socket to talk to when nobody named one: the first of the usual places that exists, else the usual place.
pub fn find_socket(name: &str, variable: &str, what: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let mut places = vec![socket(name, &state_dir(what))];
    places.extend(runtime_dir().map(|dir| dir.join("warren").join(name)));
    places.push(user_state().join(what).join("run").join(name));
    places.push(PathBuf::from("/run/warren").join(name));
    let first = places[0].clone();
    places.into_iter().find(|path| path.exists()).unwrap_or(first)
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn home() -> PathBuf {
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    named
        .or_else(|| nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir))
        .unwrap_or_else(|| PathBuf::from("/"))
}

fn runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir())
}
