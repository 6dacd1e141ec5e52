//! A timer that the poll waits for: to the microsecond, where epoll's own timeout is in milliseconds. And one that
//! a thread sleeps on until another needs it.

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

/// Wakes the thread that waits for it, without another thread having to be awake by then.
#[derive(Debug)]
pub(super) struct Alarm {
    #[cfg(target_os = "linux")]
    fd: std::os::fd::OwnedFd,
    #[cfg(not(target_os = "linux"))]
    never: std::convert::Infallible,
}

#[cfg(target_os = "linux")]
mod sys {
    use super::{Alarm, Duration, Interest, Registry, Source, Timer, Token, io};

    use std::os::fd::AsRawFd;

    use mio::unix::SourceFd;
    use rustix::io::{read, retry_on_intr};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    fn once(delay: Duration) -> Itimerspec {
        Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: delay.as_secs() as _,
                tv_nsec: delay.subsec_nanos() as _,
            },
        }
    }

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
                let left = Duration::from_micros(at_us.map_or(0, |at| at - now_us));
                timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once(left))?;
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

    impl Alarm {
        pub(in super::super) fn new() -> io::Result<Self> {
            let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
            Ok(Self { fd })
        }

        /// Has it go off in this time, and at no other.
        pub(in super::super) fn set(&self, delay: Duration) {
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once(delay))
                .expect("it is a timer, and that is a time");
        }

        /// Has it stay silent.
        pub(in super::super) fn clear(&self) {
            self.set(Duration::ZERO);
        }

        /// Sleeps until it goes off.
        pub(in super::super) fn wait(&self) {
            let mut count = [0; 8];
            retry_on_intr(|| read(&self.fd, &mut count)).expect("it is a timer");
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

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set(&self, _: Duration) {
        match self.never {}
    }

    pub(super) fn clear(&self) {
        match self.never {}
    }

    pub(super) fn wait(&self) {
        match self.never {}
    }
}
