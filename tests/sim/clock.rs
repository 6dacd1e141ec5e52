//! A clock that goes on only when it is told to.

use std::sync::{Arc, Mutex, MutexGuard};

use wiretape::record::time::Clock;
use wiretape::record::{Timestamp, WallTime};

#[derive(Clone, Debug)]
pub struct SimClock(Arc<Mutex<Timestamp>>);

impl SimClock {
    /// One that has come so far since the run began.
    pub fn new(elapsed_us: u64) -> Self {
        Self(Arc::new(Mutex::new(Timestamp {
            wall: WallTime::from_unix_micros(1_795_348_979_000_000),
            elapsed_us,
        })))
    }

    fn hands(&self) -> MutexGuard<'_, Timestamp> {
        self.0.lock().expect("nobody panics with it")
    }

    pub fn now_us(&self) -> u64 {
        self.hands().elapsed_us
    }

    /// Time passes, by both clocks.
    pub fn pass(&self, us: u64) {
        let mut now = self.hands();
        now.elapsed_us += us;
        now.wall = WallTime::from_unix_micros(now.wall.unix_micros() + us);
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&self, by_us: i64) {
        let mut now = self.hands();
        let wall = now.wall.unix_micros().saturating_add_signed(by_us);
        now.wall = WallTime::from_unix_micros(wall);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        *self.hands()
    }
}
