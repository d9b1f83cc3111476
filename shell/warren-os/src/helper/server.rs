//! The privileged end: one caller at a time, judged, served, and cleaned up after.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::channel;
use super::request::{HelperReply, HelperRequest, VERSION, parse_request};
use crate::guard::{self, GuardError};
use crate::{Host, Limits, Tun, udp};

/// Why a helper ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("ask the kernel for what serving needs")]
    Kernel(#[source] io::Error),
}

/// Serves one user at `path` until SIGTERM or SIGINT, one connection at a time.
///
/// The socket belongs to `uid` with mode 0600; callers other than `uid` and root are turned away by their credentials
/// as well. What a killed predecessor left is swept first; whatever a connection made is undone when it ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve_socket(path: &Path, uid: u32, limits: &Limits) -> Result<(), ServeError> {
    let stop = Stop::new().map_err(ServeError::Kernel)?;
    sweep(limits);
    let listener = listen(path, uid)?;
    let _file = SocketFile(path);
    while stop.wait_for(listener.as_fd()).map_err(ServeError::Kernel)? {
        let Ok((stream, _)) = listener.accept() else { continue };
        if !may_ask(&stream, uid) {
            continue;
        }
        if !Session::new(limits).serve(&stream, &stop) {
            break;
        }
    }
    Ok(())
}

/// Serves the one connection that a parent process made, until it ends.
///
/// # Errors
/// When the kernel gives no signal descriptor.
pub fn serve_fd(fd: OwnedFd, limits: &Limits) -> Result<(), ServeError> {
    let stop = Stop::new().map_err(ServeError::Kernel)?;
    sweep(limits);
    Session::new(limits).serve(&UnixStream::from(fd), &stop);
    Ok(())
}

/// Removes what a helper that was killed left behind.
fn sweep(limits: &Limits) {
    if let Ok(mut host) = Host::open() {
        // A foreign interface of that name stays; opening ours will say so.
        let _ = host.remove(&limits.interface);
    }
    let _ = guard::remove(&limits.interface);
}

fn listen(path: &Path, uid: u32) -> Result<UnixListener, ServeError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            let _ = fs::remove_file(path);
        }
        Ok(_) => return Err(ServeError::NotASocket(path.to_owned())),
        Err(_) => {}
    }
    let error = |source| ServeError::Listen { path: path.to_owned(), source };
    // Nobody may connect between bind and chown, so the file is born with no rights for others.
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(old);
    let listener = listener.map_err(error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(error)?;
    std::os::unix::fs::chown(path, Some(uid), None).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// Removes the socket's file when serving ends.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

fn may_ask(stream: &UnixStream, uid: u32) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == uid || peer.uid() == 0)
}

/// SIGTERM and SIGINT as something to poll, so that a wait for a caller ends in order and is cleaned up after.
struct Stop {
    signals: SignalFd,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        Ok(Self { signals: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)? })
    }

    /// Waits for `fd` to be readable. False when told to stop.
    fn wait_for(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            if fds[1].any().unwrap_or(true) {
                return Ok(false);
            }
            if fds[0].any().unwrap_or(true) {
                return Ok(true);
            }
        }
    }
}

/// One caller's connection, and what was made for it.
struct Session<'a> {
    limits: &'a Limits,
    greeted: bool,
    made_interface: bool,
    made_guard: bool,
}

impl<'a> Session<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { limits, greeted: false, made_interface: false, made_guard: false }
    }

    /// Serves until the connection ends (true) or the helper is told to stop (false).
    fn serve(mut self, stream: &UnixStream, stop: &Stop) -> bool {
        if stream.set_nonblocking(false).is_err() {
            return true;
        }
        loop {
            match stop.wait_for(stream.as_fd()) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => return true,
            }
            // A half-sent message must not hold the helper for ever against SIGTERM or the next caller.
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
            // Descriptors a caller sends are closed unseen.
            let Ok(Some((bytes, _))) = channel::receive(stream) else { return true };
            let (reply, fds) = match parse_request(&bytes) {
                Ok(request) => self.answer(request),
                Err(reason) => (HelperReply::Refused { reason }, Vec::new()),
            };
            let Ok(bytes) = serde_json::to_vec(&reply) else { return true };
            if channel::send(stream, &bytes, &fds).is_err() {
                return true;
            }
        }
    }

    fn answer(&mut self, request: HelperRequest) -> (HelperReply, Vec<OwnedFd>) {
        let greeting = matches!(request, HelperRequest::Hello { .. });
        if !self.greeted && !greeting {
            return refused("say hello first");
        }
        match request {
            HelperRequest::Hello { .. } => {
                self.greeted = true;
                let interface = self.limits.interface.clone();
                (HelperReply::Hello { version: VERSION, interface }, Vec::new())
            }
            HelperRequest::OpenTun { mtu } => self.open_tun(mtu),
            HelperRequest::Configure(config) => self.configure(&config),
            HelperRequest::OpenUdp { port } => open_udp(port),
            HelperRequest::Undo {} => match self.undo() {
                Ok(()) => (HelperReply::Undone {}, Vec::new()),
                Err(error) => failed(&*error),
            },
        }
    }

    fn open_tun(&mut self, mtu: u16) -> (HelperReply, Vec<OwnedFd>) {
        if let Err(problem) = self.limits.check_mtu(mtu) {
            return refused(&problem.to_string());
        }
        match self.make_tun(mtu) {
            Ok(tun) => {
                let reply = HelperReply::Tun { interface: self.limits.interface.clone(), offloads: tun.offloads() };
                (reply, vec![tun.into_fd()])
            }
            Err(error) => failed(&*error),
        }
    }

    fn make_tun(&mut self, mtu: u16) -> Result<Tun, Box<dyn Error>> {
        let name = &self.limits.interface;
        let mut host = Host::open()?;
        // An interface of ours that lives on belongs to a caller that is gone.
        host.remove(name)?;
        let tun = Tun::open(name)?;
        self.made_interface = true;
        host.claim(name, mtu)?;
        Ok(tun)
    }

    fn configure(&mut self, config: &crate::OsConfig) -> (HelperReply, Vec<OwnedFd>) {
        if let Err(problem) = self.limits.check(config) {
            return refused(&problem.to_string());
        }
        if !self.made_interface {
            return refused("open the interface first");
        }
        let applied = Host::open().map_err(Box::<dyn Error>::from).and_then(|mut host| Ok(host.apply(config)?));
        match applied {
            Ok(mut applied) => {
                applied.skipped.extend(self.set_guard(config.guard));
                (HelperReply::Configured { skipped: applied.skipped }, Vec::new())
            }
            Err(error) => failed(&*error),
        }
    }

    /// Puts the guard in place or takes it away; why not, in words. A host without it works, so that is no failure.
    fn set_guard(&mut self, wanted: bool) -> Option<String> {
        let interface = &self.limits.interface;
        if !wanted {
            return self.remove_guard().err().map(|error| with_causes(&error));
        }
        let Err(error) = guard::set(interface) else {
            self.made_guard = true;
            return None;
        };
        // One from before may stand, also where the answer to that is lost. Where there was none, and can be none at all,
        // there is nothing to take away later.
        self.made_guard |= guard::stands(interface);
        Some(format!(
            "packets that others send from mesh addresses are not dropped: {}; or do without: \
             warren set --netfilter-mode=off",
            with_causes(&error)
        ))
    }

    fn remove_guard(&mut self) -> Result<(), GuardError> {
        if self.made_guard {
            guard::remove(&self.limits.interface)?;
            self.made_guard = false;
        }
        Ok(())
    }

    fn undo(&mut self) -> Result<(), Box<dyn Error>> {
        if self.made_interface {
            Host::open()?.remove(&self.limits.interface)?;
            self.made_interface = false;
        }
        // Last: as long as there is an interface, it is guarded. One that will not go keeps nobody from coming back; it is
        // tried again when the connection ends.
        let _ = self.remove_guard();
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

fn open_udp(port: u16) -> (HelperReply, Vec<OwnedFd>) {
    // Ports below 1024 belong to services of the host.
    if (1..1024).contains(&port) {
        return refused("port below 1024");
    }
    match udp::open_pair(port) {
        Ok(sockets) => (HelperReply::Udp {}, sockets),
        Err(error) => failed(&error),
    }
}

fn refused(reason: &str) -> (HelperReply, Vec<OwnedFd>) {
    (HelperReply::Refused { reason: reason.to_owned() }, Vec::new())
}

fn failed(error: &dyn Error) -> (HelperReply, Vec<OwnedFd>) {
    (HelperReply::Failed { reason: with_causes(error) }, Vec::new())
}

fn with_causes(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    reason
}
