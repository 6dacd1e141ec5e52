//! When to dial again: after a delay that doubles as long as nothing comes of it.

use fastrand::Rng;

/// The longest delay, unless the first is longer.
pub const LONGEST_US: u64 = 30_000_000;

/// A delay differs from its nominal length by up to this part of it, so that many who lost the same
/// server do not come back in step. The same part as in gRPC's connection backoff protocol.
const JITTER: f64 = 0.2;

/// Delays before the next try, in microseconds.
#[derive(Debug)]
pub struct Backoff {
    first_us: u64,
    next_us: u64,
    random: Rng,
}

impl Backoff {
    /// The first delay; it doubles up to [`LONGEST_US`]. `seed` chooses the jitter.
    pub fn new(first_us: u64, seed: u64) -> Self {
        Self {
            first_us,
            next_us: first_us,
            random: Rng::with_seed(seed),
        }
    }

    /// How long to wait before the next try.
    pub fn delay_us(&mut self) -> u64 {
        let nominal_us = self.next_us;
        self.next_us = (nominal_us.saturating_mul(2)).min(self.first_us.max(LONGEST_US));
        let factor = 1.0 + JITTER * (2.0 * self.random.f64() - 1.0);
        (nominal_us as f64 * factor) as u64
    }

    /// Something has come of it: the next delay is the first again.
    pub fn reset(&mut self) {
        self.next_us = self.first_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(delay_us: u64, nominal_us: u64) {
        let part = delay_us as f64 / nominal_us as f64;
        assert!((0.8..=1.2).contains(&part), "{delay_us} of {nominal_us}");
    }

    #[test]
    fn delays_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(1_000_000, 7);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_near(backoff.delay_us(), seconds * 1_000_000);
        }
        backoff.reset();
        assert_near(backoff.delay_us(), 1_000_000);
    }

    #[test]
    fn a_first_delay_beyond_the_longest_stays() {
        let mut backoff = Backoff::new(60_000_000, 7);
        assert_near(backoff.delay_us(), 60_000_000);
        assert_near(backoff.delay_us(), 60_000_000);
    }

    #[test]
    fn two_do_not_come_back_in_step() {
        let delays = |seed| Backoff::new(1_000_000, seed).delay_us();
        assert_ne!(delays(1), delays(2));
    }
}
