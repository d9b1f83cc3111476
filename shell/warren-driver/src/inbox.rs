//! The one way from tokio's world to the packet thread: a bounded queue and a bell that epoll hears.
//!
//! Full means wait (`send`) or say so (`try_send`); the packet thread itself never waits. The bell rings once however
//! many inputs come before it is answered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

/// Where tokio's side puts inputs.
pub(crate) struct Inbox<T> {
    sender: mpsc::Sender<T>,
    bell: Arc<Bell>,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }
}

/// The packet thread's end.
pub(crate) struct Outlet<T> {
    receiver: mpsc::Receiver<T>,
    bell: Arc<Bell>,
}

/// The packet thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
pub struct Stopped;

pub(crate) fn inbox<T>(room: usize) -> io::Result<(Inbox<T>, Outlet<T>)> {
    let bell = Arc::new(Bell::new()?);
    let (sender, receiver) = mpsc::channel(room);
    Ok((Inbox { sender, bell: Arc::clone(&bell) }, Outlet { receiver, bell }))
}

impl<T> Inbox<T> {
    /// Waits for room. Dropping the future drops the input.
    pub(crate) async fn send(&self, input: T) -> Result<(), Stopped> {
        self.sender.send(input).await.map_err(|_| Stopped)?;
        self.bell.ring();
        Ok(())
    }

    /// Waits for room, on a thread of its own (never on a task or the packet thread).
    pub(crate) fn send_blocking(&self, input: T) -> Result<(), Stopped> {
        self.sender.blocking_send(input).map_err(|_| Stopped)?;
        self.bell.ring();
        Ok(())
    }

    /// False when there is no room or nobody there: the input is gone.
    pub(crate) fn try_send(&self, input: T) -> bool {
        let sent = self.sender.try_send(input).is_ok();
        self.bell.ring();
        sent
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}

impl<T> Outlet<T> {
    /// The next input, if any. Answer the bell before the first.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

/// An eventfd that is written only when it is not already ringing.
pub(crate) struct Bell {
    fd: OwnedFd,
    ringing: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes numbers only.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, ringing: AtomicBool::new(false) })
    }

    /// Wakes the packet thread. Cheap when it is already awake to it.
    pub(crate) fn ring(&self) {
        if !self.ringing.swap(true, Ordering::AcqRel) {
            let one = 1u64;
            // SAFETY: writes the eight bytes of `one`. It can fail only when the counter is full, that is, ringing.
            let _ = unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Stops the ringing. What is put in afterwards rings again; so answer first, then look.
    pub(crate) fn answer(&self) {
        let mut count = 0u64;
        // SAFETY: reads at most the eight bytes of `count`.
        let _ = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
        self.ringing.store(false, Ordering::Release);
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Bell) -> bool {
        let mut poll = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn an_input_rings_until_answered_and_a_later_one_rings_again() {
        let (inbox, mut outlet) = inbox::<u8>(4).unwrap();
        assert!(!rings(outlet.bell()));
        assert!(inbox.try_send(1) && inbox.try_send(2));
        assert!(rings(outlet.bell()));
        outlet.bell().answer();
        assert!(!rings(outlet.bell()));
        assert_eq!((outlet.take(), outlet.take(), outlet.take()), (Some(1), Some(2), None));
        assert!(inbox.try_send(3));
        assert!(rings(outlet.bell()));
    }

    #[test]
    fn a_full_inbox_says_so_and_a_stopped_node_too() {
        let (inbox, outlet) = inbox::<u8>(1).unwrap();
        assert!(inbox.try_send(1));
        assert!(!inbox.try_send(2));
        drop(outlet);
        assert!(!inbox.try_send(3));
    }
}
