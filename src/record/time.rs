//! Time as it is recorded: a wall clock for people, a monotonic one for replay.
//!
//! Nothing here reads a clock; the engine does, and hands the value in.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z, by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

/// The last microsecond that RFC 3339 has room for: 9999-12-31T23:59:59.999999Z.
const LAST_WALL_TIME: u64 = 253_402_300_799_999_999;

impl WallTime {
    /// Takes microseconds since the Unix epoch; a time past the year 9999 becomes its last moment,
    /// because RFC 3339 cannot write a later one.
    pub fn from_unix_micros(micros: u64) -> Self {
        Self(micros.min(LAST_WALL_TIME))
    }

    /// Microseconds since the Unix epoch.
    pub fn unix_micros(self) -> u64 {
        self.0
    }

    /// Reads RFC 3339 in UTC (`2026-11-22T12:02:59.907656Z`); what is finer than a microsecond is
    /// dropped. `None` where the text is something else, or before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        humantime::parse_rfc3339(text).ok().map(Self::from)
    }
}

impl From<SystemTime> for WallTime {
    /// A clock set before 1970 reads as 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for WallTime {
    /// RFC 3339, UTC, six decimals always, so that the strings sort as the times do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_micros(self.0);
        humantime::format_rfc3339_micros(time).fmt(f)
    }
}

/// When something was seen: by the wall clock, and since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// The wall clock. It can step; nothing is paced by it.
    pub wall: WallTime,
    /// Monotonic microseconds since the run's `start`.
    pub elapsed_us: u64,
}

impl Timestamp {
    /// The time since the start of the run.
    pub fn elapsed(self) -> Duration {
        Duration::from_micros(self.elapsed_us)
    }
}

/// A duration as the monotonic clock counts: in microseconds, as many as there is room for.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Tells the time. The engine has the one that reads the machine's clocks; who is handed one knows
/// nothing of them, and a test hands it any time it likes.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
}

/// Renders [`WallTime`]s one after another and keeps the last: the date is written again only when
/// the second changes, the six decimals only when the microsecond does.
#[derive(Debug)]
pub struct WallTimeText {
    time: WallTime,
    text: [u8; WALL_TIME_LEN],
}

/// Bytes of `2026-11-22T12:02:59.907656Z`.
pub const WALL_TIME_LEN: usize = 27;
const DECIMALS: std::ops::Range<usize> = 20..26;
const MICROS: u64 = 1_000_000;

impl Default for WallTimeText {
    fn default() -> Self {
        Self {
            time: WallTime(0),
            text: *b"1970-01-01T00:00:00.000000Z",
        }
    }
}

impl WallTimeText {
    /// The text of `time`, as its `Display` writes it.
    pub fn render(&mut self, time: WallTime) -> &[u8; WALL_TIME_LEN] {
        if time != self.time {
            if time.0 / MICROS != self.time.0 / MICROS {
                let text = time.to_string();
                self.text.copy_from_slice(text.as_bytes());
            }
            let mut micros = time.0 % MICROS;
            for digit in self.text[DECIMALS].iter_mut().rev() {
                *digit = b'0' + (micros % 10) as u8;
                micros /= 10;
            }
            self.time = time;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(micros: u64, text: &str) {
        let time = WallTime::from_unix_micros(micros);
        assert_eq!(time.to_string(), text);
        assert_eq!(WallTime::parse(text), Some(time));
    }

    #[test]
    fn wall_time_is_rfc_3339_with_six_decimals() {
        check(0, "1970-01-01T00:00:00.000000Z");
        check(1_795_348_979_907_656, "2026-11-22T12:02:59.907656Z");
        check(LAST_WALL_TIME, "9999-12-31T23:59:59.999999Z");
        assert_eq!(WallTime::from_unix_micros(u64::MAX).0, LAST_WALL_TIME);
    }

    #[test]
    fn kept_text_equals_text_written_afresh() {
        let mut kept = WallTimeText::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut micros = 1_795_348_979_907_656;
        for _ in 0..20_000 {
            // Forwards within a second, over seconds and days, and backwards, as a clock that steps.
            micros = match random.u8(0..5) {
                0 => micros,
                1 => micros + random.u64(0..1000),
                2 => micros + random.u64(0..3 * MICROS),
                3 => random.u64(0..LAST_WALL_TIME),
                _ => micros.saturating_sub(random.u64(0..MICROS)),
            };
            let time = WallTime::from_unix_micros(micros);
            assert_eq!(kept.render(time).as_slice(), time.to_string().as_bytes());
        }
    }
}
