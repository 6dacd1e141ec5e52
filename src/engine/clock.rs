//! The clocks. Read here and nowhere else.

use std::time::{Instant, SystemTime};

use crate::record::Timestamp;
use crate::record::time::Clock;

/// Reads the wall clock and the monotonic one, which counts from when this was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp {
            wall: SystemTime::now().into(),
            elapsed_us: u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}
