//! What this process may do, and giving it up: as root a helper is started first, then the rest runs as somebody else.
//!
//! ```text
//! root ── /dev/net/tun works ──▶ start helper (keeps rights) ──▶ become the person behind sudo, else user "warren"
//! person ── a helper is installed ──▶ ask it;   none ──▶ everything in user space
//! ```

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Gid, Uid, User, chown, setgid, setgroups, setuid};

use crate::places;

/// This very program, also where its path cannot be read or the file has been replaced.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Where an installed helper listens.
pub const INSTALLED_HELPER: &str = "/run/warren/helper.sock";

/// Where sockets are when root started it: everybody finds them there.
const SYSTEM_RUN: &str = "/run/warren";
const SYSTEM_STATE: &str = "/var/lib/warren";

/// Whom services run as where root started them and nobody is behind sudo.
const SERVICE_USER: &str = "warren";

/// Stands in the list of users beside a user that we made: only such a one is ours to remove.
const MADE_BY_US: &str = "Warren services (made by warren itself)";

/// Where things are kept, and how an interface is to be had.
pub struct Standing {
    /// Folder of all state; a service's is below.
    pub state: PathBuf,
    pub helper: Option<Helper>,
    /// As whom this process runs now.
    pub user: String,
    /// Why there is no interface; empty when there is one.
    pub why_userspace: String,
    /// Root started this.
    is_system: bool,
}

/// Where a helper is found.
pub enum Helper {
    Installed(PathBuf),
    Started(StartedHelper),
}

/// A helper that this process started. It undoes everything and ends when every copy of `door` is closed.
pub struct StartedHelper {
    pub child: Child,
    pub door: OwnedFd,
}

impl Standing {
    /// Where the socket of service `what` is: the system's place where root started it, else the person's.
    pub fn socket(&self, name: &str, what: &str) -> PathBuf {
        if self.is_system { Path::new(SYSTEM_RUN).join(name) } else { places::socket(name, &self.state.join(what)) }
    }
}

/// Where state is for whoever calls, without changing anything.
pub fn state_folder() -> PathBuf {
    if !places::is_root() {
        return places::user_state();
    }
    behind_sudo().map_or_else(|| PathBuf::from(SYSTEM_STATE), |person| person.dir.join(".local/state/warren"))
}

/// Starts a helper if this is root and the machine lets it, then gives up root's rights for good.
///
/// Call it before the first thread starts.
///
/// # Errors
/// When rights cannot be given up, or the folders made: going on as root is not an answer.
pub fn settle() -> Result<Standing> {
    if !places::is_root() {
        return Ok(as_person());
    }
    let (helper, why_userspace) = match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => (Some(Helper::Started(start_helper(None)?)), String::new()),
        Err(error) => (None, format!("this machine gives no network interface (/dev/net/tun: {error})")),
    };
    let state = state_folder();
    let user = match behind_sudo() {
        Some(person) => person,
        None => service_user()?,
    };
    make_for(Path::new(SYSTEM_RUN), &user, 0o755)?;
    if state == Path::new(SYSTEM_STATE) {
        make_for(&state, &user, 0o700)?;
    }
    become_user(&user)?;
    Ok(Standing { state, helper, user: user.name, why_userspace, is_system: true })
}

fn as_person() -> Standing {
    let user = User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name).unwrap_or_default();
    let is_installed = UnixStream::connect(INSTALLED_HELPER).is_ok();
    let why_userspace =
        if is_installed { String::new() } else { "this is not root, and no helper is installed".to_owned() };
    let helper = is_installed.then(|| Helper::Installed(INSTALLED_HELPER.into()));
    Standing { state: places::user_state(), helper, user, why_userspace, is_system: false }
}

/// Starts this program as a helper for one connection.
///
/// # Errors
/// When the system does not let it.
pub fn start_helper(interface: Option<&str>) -> Result<StartedHelper> {
    let (ours, theirs) = UnixStream::pair().context("make a connection to the helper")?;
    // Only for the moment of the start: nobody else shall inherit it.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).context("hand the connection over")?;
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("warren").args(["helper", "run", "--fd", &theirs.as_raw_fd().to_string()]);
    if let Some(name) = interface {
        command.args(["--interface", name]);
    }
    // A group of its own: Ctrl-C is for us, and we let it go in order.
    let child = command.stdin(Stdio::null()).process_group(0).spawn().context("start the helper")?;
    Ok(StartedHelper { child, door: ours.into() })
}

/// The person who called sudo, unless that is root as well.
fn behind_sudo() -> Option<User> {
    let uid = std::env::var("SUDO_UID").ok()?.parse().ok().filter(|uid| *uid != 0)?;
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}

fn service_user() -> Result<User> {
    let find = || User::from_name(SERVICE_USER).context("read the list of users");
    if let Some(user) = find()? {
        return Ok(user);
    }
    let made = Command::new("useradd")
        .args([
            "--system",
            "--comment",
            MADE_BY_US,
            "--user-group",
            "--home-dir",
            SYSTEM_STATE,
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            SERVICE_USER,
        ])
        .stdin(Stdio::null())
        .output();
    match made {
        Ok(output) if output.status.success() => {}
        Ok(output) => bail!("make the system user {SERVICE_USER}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => bail!("make the system user {SERVICE_USER}: useradd: {error}"),
    }
    find()?.with_context(|| format!("useradd made no user {SERVICE_USER}"))
}

/// Removes the system user if we made it and nothing is kept for it any more. Says whether it did.
///
/// # Errors
/// When the system does not let us.
pub fn remove_service_user() -> Result<bool> {
    let user = User::from_name(SERVICE_USER).context("read the list of users")?;
    let is_ours = user.is_some_and(|user| user.gecos.to_bytes() == MADE_BY_US.as_bytes());
    if !is_ours || !places::is_root() || Path::new(SYSTEM_STATE).exists() {
        return Ok(false);
    }
    // A folder whose owner is gone belongs to whoever gets the number next. Only if nothing else is in it.
    let _ = std::fs::remove_dir(SYSTEM_RUN);
    let removed = Command::new("userdel").arg(SERVICE_USER).stdin(Stdio::null()).output();
    match removed {
        Ok(output) if output.status.success() => Ok(true),
        Ok(output) => {
            bail!("remove the system user {SERVICE_USER}: {}", String::from_utf8_lossy(&output.stderr).trim())
        }
        Err(error) => bail!("remove the system user {SERVICE_USER}: userdel: {error}"),
    }
}

fn make_for(folder: &Path, user: &User, mode: u32) -> Result<()> {
    let named = || format!("make {} for user {}", folder.display(), user.name);
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder).with_context(named)?;
    chown(folder, Some(user.uid), Some(user.gid)).with_context(named)
}

fn become_user(user: &User) -> Result<()> {
    let named = || format!("give up root's rights for user {}", user.name);
    // Group first: afterwards there is no right to.
    setgroups(&[] as &[Gid]).with_context(named)?;
    setgid(user.gid).with_context(named)?;
    setuid(user.uid).with_context(named)?;
    if setuid(Uid::from_raw(0)).is_ok() {
        bail!("root's rights came back after being given up");
    }
    Ok(())
}
