//! A timer that the poll waits for: to the microsecond, where epoll's own timeout is in milliseconds.

use std::io;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

/// Wakes the poll at a given time.
#[derive(Debug)]
pub(super) struct Timer {
    #[cfg(target_os = "linux")]
    fd: std::os::fd::OwnedFd,
    /// When it goes off.
    at_us: Option<u64>,
}

#[cfg(target_os = "linux")]
mod sys {
    use super::{Duration, Interest, Registry, Source, Timer, Token, io};

    use std::os::fd::AsRawFd;

    use mio::unix::SourceFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    impl Timer {
        pub(in super::super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            SourceFd(&fd.as_raw_fd()).register(registry, token, Interest::READABLE)?;
            Ok(Self { fd, at_us: None })
        }

        /// Sets it to go off at `at_us`, if that is not what it does already, and tells how long the
        /// poll may wait beside it.
        pub(in super::super) fn set(
            &mut self,
            at_us: Option<u64>,
            now_us: u64,
        ) -> io::Result<Option<Duration>> {
            if at_us.is_some_and(|at| at <= now_us) {
                return Ok(Some(Duration::ZERO));
            }
            if at_us != self.at_us {
                let left = at_us.map_or(0, |at| at - now_us);
                let value = Timespec {
                    tv_sec: (left / 1_000_000) as _,
                    tv_nsec: (left % 1_000_000 * 1000) as _,
                };
                let once = Itimerspec {
                    it_interval: Timespec::default(),
                    it_value: value,
                };
                timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
                self.at_us = at_us;
            }
            Ok(None)
        }

        /// It has gone off.
        pub(in super::super) fn handle_expired(&mut self) {
            // What it counts does not matter, only that it is silent again; setting it anew does
            // that.
            self.at_us = None;
        }
    }
}

/// Elsewhere the poll's own timeout serves.
#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(super) fn new(_: &Registry, _: Token) -> io::Result<Self> {
        Ok(Self { at_us: None })
    }

    pub(super) fn set(&mut self, at_us: Option<u64>, now_us: u64) -> io::Result<Option<Duration>> {
        self.at_us = at_us;
        Ok(at_us.map(|at| Duration::from_micros(at.saturating_sub(now_us))))
    }

    pub(super) fn handle_expired(&mut self) {}
}
