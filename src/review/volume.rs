//! How much came when: a fixed number of bins over any length of time.

use crate::record::WallTime;

/// Bins. Whenever time reaches beyond the last, two become one.
const BINS: usize = 1024;

/// What a bin is wide at first, in microseconds.
const FINEST_US: u64 = 1000;

/// Bytes over time.
#[derive(Clone, Debug)]
pub struct Volume {
    /// When the first bin begins; none has been filled where there is none.
    start_us: Option<u64>,
    width_us: u64,
    bins: Vec<u64>,
}

impl Default for Volume {
    fn default() -> Self {
        Self {
            start_us: None,
            width_us: FINEST_US,
            bins: Vec::new(),
        }
    }
}

impl Volume {
    /// So many bytes came or went at this time.
    pub fn add(&mut self, at: WallTime, bytes: u64) {
        let at_us = at.unix_micros();
        let start_us = self.reach(at_us);
        let nth = ((at_us - start_us) / self.width_us) as usize;
        if nth >= self.bins.len() {
            self.bins.resize(nth + 1, 0);
        }
        self.bins[nth] = self.bins[nth].saturating_add(bytes);
    }

    /// Makes room for this time, and says when the first bin begins then.
    fn reach(&mut self, at_us: u64) -> u64 {
        let mut start_us = *self.start_us.get_or_insert(at_us);
        loop {
            if at_us >= start_us {
                if (at_us - start_us) / self.width_us < BINS as u64 {
                    break;
                }
            } else {
                // The clock was set back, or the captures are not in the order of their times.
                let before = (start_us - at_us).div_ceil(self.width_us);
                if before <= (BINS - self.bins.len()) as u64 {
                    let zeros = std::iter::repeat_n(0, before as usize);
                    self.bins.splice(0..0, zeros);
                    start_us = start_us.saturating_sub(before * self.width_us);
                    break;
                }
            }
            let pairs = self.bins.chunks(2);
            self.bins = pairs
                .map(|pair| {
                    pair.iter()
                        .fold(0, |sum: u64, bin| sum.saturating_add(*bin))
                })
                .collect();
            self.width_us *= 2;
        }
        self.start_us = Some(start_us);
        start_us
    }

    /// The time from `from` to `to` in so many columns, and what came in each of them a second.
    pub fn rates(&self, from: WallTime, to: WallTime, columns: usize) -> Vec<f64> {
        let mut bytes = vec![0.0; columns];
        let Some(start_us) = self.start_us else {
            return bytes;
        };
        let from_us = from.unix_micros();
        let span_us = to.unix_micros().saturating_sub(from_us).max(1) as f64;
        let column_us = span_us / columns as f64;
        for (nth, &bin) in self.bins.iter().enumerate() {
            if bin == 0 {
                continue;
            }
            // A bin lies in a column, or over some: each has the share that it covers.
            let begin = (start_us + nth as u64 * self.width_us) as f64 - from_us as f64;
            let end = (begin + self.width_us as f64).min(span_us);
            let begin = begin.clamp(0.0, span_us);
            let column = |at: f64| ((at / column_us) as usize).min(columns - 1);
            let (first, last) = (column(begin), column(end));
            let len = (end - begin).max(f64::MIN_POSITIVE);
            for (nth, column) in bytes.iter_mut().enumerate().take(last + 1).skip(first) {
                let within =
                    (end.min((nth + 1) as f64 * column_us)) - begin.max(nth as f64 * column_us);
                let share = if first == last { 1.0 } else { within / len };
                *column += bin as f64 * share.clamp(0.0, 1.0);
            }
        }
        let seconds = column_us / 1e6;
        bytes.into_iter().map(|bytes| bytes / seconds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> WallTime {
        WallTime::from_unix_micros(us)
    }

    #[test]
    fn nothing_is_lost_however_time_goes() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let mut volume = Volume::default();
            let (mut total, mut low, mut high) = (0, u64::MAX, 0);
            let mut now: u64 = 1 << 50;
            for _ in 0..random.usize(1..300) {
                let longest = 1 << random.u32(1..42);
                let step = random.u64(0..longest);
                now = match random.u8(0..8) {
                    0 => now.saturating_sub(step),
                    _ => now + step,
                };
                let bytes = random.u64(0..10_000);
                volume.add(at(now), bytes);
                total += bytes;
                (low, high) = (low.min(now), high.max(now));
                assert!(volume.bins.len() <= BINS);
            }
            assert_eq!(volume.bins.iter().sum::<u64>(), total);
            let columns = random.usize(1..200);
            let rates = volume.rates(at(low), at(high), columns);
            let seconds = (high - low).max(1) as f64 / 1e6 / columns as f64;
            let shown: f64 = rates.iter().map(|rate| rate * seconds).sum();
            assert!(
                (shown - total as f64).abs() <= total as f64 / 1e6 + 1e-3,
                "{shown} of {total}"
            );
        }
    }

    #[test]
    fn a_burst_stands_where_it_was() {
        let mut volume = Volume::default();
        volume.add(at(0), 10);
        volume.add(at(7_500_000), 1000);
        let rates = volume.rates(at(0), at(10_000_000), 10);
        let filled: Vec<usize> = (0..10).filter(|&nth| rates[nth] > 0.0).collect();
        assert_eq!(filled, [0, 7]);
        assert!((rates[7] - 1000.0).abs() < 1e-6, "{rates:?}");
    }
}
