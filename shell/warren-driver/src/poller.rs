//! epoll, level-triggered: what is not finished in one turn is simply ready again in the next.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a descriptor stands for in the packet thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Source {
    Bell = 0,
    Alarm = 1,
    Udp4 = 2,
    Udp6 = 3,
    Tun = 4,
    Watch = 5,
}

impl Source {
    const ALL: [Self; 6] = [Self::Bell, Self::Alarm, Self::Udp4, Self::Udp6, Self::Tun, Self::Watch];
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Interest {
    pub(crate) const READ: Self = Self { read: true, write: false };

    fn bits(self) -> u32 {
        let read = if self.read { libc::EPOLLIN } else { 0 };
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (read | write) as u32
    }
}

pub(crate) struct Poller {
    fd: OwnedFd,
    /// What each source waits for now, so that asking again costs no system call.
    interests: [Option<Interest>; Source::ALL.len()],
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes a number only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, interests: [None; Source::ALL.len()] })
    }

    /// Waits for `source` as stated; remove it with [`Poller::remove`] before its descriptor closes.
    pub(crate) fn set(&mut self, source: Source, fd: RawFd, interest: Interest) -> io::Result<()> {
        let slot = &mut self.interests[source as usize];
        if *slot == Some(interest) {
            return Ok(());
        }
        let operation = if slot.is_some() { libc::EPOLL_CTL_MOD } else { libc::EPOLL_CTL_ADD };
        control(&self.fd, operation, fd, source, interest)?;
        *slot = Some(interest);
        Ok(())
    }

    pub(crate) fn remove(&mut self, source: Source, fd: RawFd) {
        if self.interests[source as usize].take().is_some() {
            let _ = control(&self.fd, libc::EPOLL_CTL_DEL, fd, source, Interest::READ);
        }
    }

    /// Sleeps until something is ready; gives all that is.
    pub(crate) fn wait(&self) -> io::Result<Vec<Source>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; Source::ALL.len()];
        // SAFETY: the kernel writes at most `events.len()` entries.
        let count =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, -1) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        };
        let sources = events[..count].iter().filter_map(|event| {
            let token = event.u64;
            Source::ALL.into_iter().find(|source| *source as u64 == token)
        });
        Ok(sources.collect())
    }
}

fn control(epoll: &OwnedFd, operation: libc::c_int, fd: RawFd, source: Source, interest: Interest) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest.bits(), u64: source as u64 };
    // SAFETY: `event` outlives the call; a descriptor that is not open is an error, not undefined.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
