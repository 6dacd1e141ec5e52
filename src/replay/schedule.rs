//! When: from the times of a recording to positions in it, and from those to when a step is due.

use std::str::FromStr;
use std::time::Duration;

use crate::record::time::micros;

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded: above zero, and finite.
    Times(f64),
    /// As fast as the target takes it.
    Max,
}

impl Speed {
    /// When a step at this position is due, in microseconds since the replay began.
    pub fn due_us(self, at_us: u64) -> u64 {
        match self {
            // A float counts microseconds exactly for 285 years.
            Self::Times(times) => (at_us as f64 / times) as u64,
            Self::Max => 0,
        }
    }
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.strip_suffix(['x', '×']).unwrap_or(text).parse() {
            Ok(times) if (1e-6..=1e6).contains(&times) => Ok(Self::Times(times)),
            _ => Err("a speed is a factor, as in 2 or 0.5, or `max`"),
        }
    }
}

/// Positions in what is played: microseconds from its first record, with long silences cut and runs
/// one behind the other. Never goes back.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    max_gap_us: Option<u64>,
    last_us: Option<u64>,
    at_us: u64,
}

impl Schedule {
    /// No silence is longer than `max_gap`.
    pub fn new(max_gap: Option<Duration>) -> Self {
        Self {
            max_gap_us: max_gap.map(micros),
            ..Self::default()
        }
    }

    /// The position of something that happened `elapsed_us` after the start of its run.
    pub fn place(&mut self, elapsed_us: u64) -> u64 {
        let last_us = self.last_us.unwrap_or(elapsed_us);
        let gap = elapsed_us.saturating_sub(last_us);
        let gap = self.max_gap_us.map_or(gap, |most| gap.min(most));
        self.at_us = self.at_us.saturating_add(gap);
        self.last_us = Some(last_us.max(elapsed_us));
        self.at_us
    }

    /// Another run begins: it follows at once, because no clock tells what lay between.
    pub fn begin_run(&mut self) {
        self.last_us = None;
    }

    /// The position of what was placed last.
    pub fn at_us(&self) -> u64 {
        self.at_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(max_gap_ms: Option<u64>, runs: &[&[u64]], expected: &[u64]) {
        let mut schedule = Schedule::new(max_gap_ms.map(Duration::from_millis));
        let mut places = Vec::new();
        for run in runs {
            schedule.begin_run();
            places.extend(run.iter().map(|ms| schedule.place(ms * 1000) / 1000));
        }
        assert_eq!(places, expected);
    }

    #[test]
    fn positions_count_from_the_first_record_and_never_go_back() {
        check(None, &[], &[]);
        check(None, &[&[5000, 5010, 5010, 7000]], &[0, 10, 10, 2000]);
        check(None, &[&[10, 5, 12]], &[0, 0, 2]);
        check(None, &[&[10, 20], &[400, 401]], &[0, 10, 10, 11]);
        check(Some(100), &[&[0, 100, 201, 90_000]], &[0, 100, 200, 300]);
        check(Some(0), &[&[0, 100, 201]], &[0, 0, 0]);
    }

    #[test]
    fn a_speed_is_a_factor_or_max() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("2".parse(), Ok(Speed::Times(2.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for bad in ["", "0", "-1", "inf", "nan", "fast", "1e-9"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
        assert_eq!(Speed::Times(4.0).due_us(4_000_000), 1_000_000);
        assert_eq!(Speed::Times(0.5).due_us(3), 6);
        assert_eq!(Speed::Max.due_us(4_000_000), 0);
    }
}
