//! Time as the node sees it: it goes on while a laptop sleeps.
//!
//! `Instant` stands still during suspend on Linux, so a woken node would trust old paths and keys for hours too long.
//! This clock's instants are its birth plus elapsed `CLOCK_BOOTTIME`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

use warren_crypto::UnixTime;

/// Instants that age during suspend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    birth: Instant,
    birth_boottime: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { birth: Instant::now(), birth_boottime: boottime() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.birth + boottime().saturating_sub(self.birth_boottime)
    }

    /// The time of day, as this host believes it to be.
    pub(crate) fn wall() -> UnixTime {
        UnixTime::from_duration(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    /// `instant` of this clock as `CLOCK_BOOTTIME`.
    fn to_boottime(self, instant: Instant) -> Duration {
        self.birth_boottime + instant.saturating_duration_since(self.birth)
    }
}

fn boottime() -> Duration {
    read(libc::CLOCK_BOOTTIME)
}

/// How long this host has slept since it was started.
pub(crate) fn suspended() -> Duration {
    // In this order the difference is never too large.
    let boottime = boottime();
    boottime.saturating_sub(read(libc::CLOCK_MONOTONIC))
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec; both clocks exist since Linux 2.6.39, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// One deadline as a descriptor: readable when it has come, at once after a suspend that it fell into.
pub(crate) struct Alarm {
    fd: OwnedFd,
    set: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: timerfd_create takes numbers only.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, set: None })
    }

    /// Sets the deadline, or none. Nothing happens when it is the one already set.
    pub(crate) fn set(&mut self, clock: &Clock, deadline: Option<Instant>) -> io::Result<()> {
        if self.set == deadline {
            return Ok(());
        }
        // A zero time would disarm, so the first nanosecond after boot stands for it.
        let at = deadline.map_or(Duration::ZERO, |instant| clock.to_boottime(instant).max(Duration::from_nanos(1)));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(at.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: at.subsec_nanos() as libc::c_long,
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: `spec` outlives the call, and no old value is asked for.
        let result = unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut())
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        self.set = deadline;
        Ok(())
    }

    /// Acknowledges that it rang; it must be set again.
    pub(crate) fn acknowledge(&mut self) {
        let mut count = 0u64;
        // SAFETY: reads at most the eight bytes of `count`.
        let _ = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), 8) };
        self.set = None;
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(alarm: &Alarm, patience_ms: i32) -> bool {
        let mut poll = libc::pollfd { fd: alarm.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, patience_ms) == 1 }
    }

    #[test]
    fn an_alarm_rings_for_deadlines_that_have_come_and_for_no_others() {
        let clock = Clock::start();
        let mut alarm = Alarm::new().unwrap();
        assert!(!rings(&alarm, 0));
        alarm.set(&clock, Some(clock.now())).unwrap();
        assert!(rings(&alarm, 5_000));
        alarm.acknowledge();
        assert!(!rings(&alarm, 0));
        alarm.set(&clock, Some(clock.now() + Duration::from_secs(3600))).unwrap();
        assert!(!rings(&alarm, 0));
    }

    #[test]
    fn the_clock_does_not_run_backwards() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
