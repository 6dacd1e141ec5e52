//! The addresses of a name, tried one after another and side by side: Happy Eyeballs, as RFC 8305 has it.
//!
//! The first is tried at once. Where it has not answered within a moment, the next is tried beside it;
//! where one fails, the next at once. Whichever connects first is taken.

/// How long an attempt is alone before the next begins: RFC 8305, section 8, "Connection Attempt Delay".
pub const ATTEMPT_DELAY_US: u64 = 250_000;

/// What is tried when. Times are microseconds on any clock; addresses are numbered from 0.
#[derive(Debug)]
pub struct Race {
    addresses: usize,
    begun: usize,
    under_way: usize,
    /// When the next attempt begins, if none fails before.
    next_us: u64,
    until_us: u64,
}

impl Race {
    /// Between so many addresses, until then.
    pub fn new(addresses: usize, until_us: u64, now_us: u64) -> Self {
        Self {
            addresses,
            begun: 0,
            under_way: 0,
            next_us: now_us,
            until_us,
        }
    }

    /// The address to be tried now, if it is time for one. It is then under way.
    pub fn poll(&mut self, now_us: u64) -> Option<usize> {
        let is_due = self.under_way == 0 || now_us >= self.next_us;
        if !is_due || self.begun == self.addresses || now_us >= self.until_us {
            return None;
        }
        self.next_us = now_us.saturating_add(ATTEMPT_DELAY_US);
        self.begun += 1;
        self.under_way += 1;
        Some(self.begun - 1)
    }

    /// An attempt failed: the next begins now, whatever else is under way.
    pub fn handle_failed(&mut self, now_us: u64) {
        self.under_way -= 1;
        self.next_us = now_us;
    }

    /// Whether nothing is left to hope for: every address has failed, or time is up.
    pub fn is_lost(&self, now_us: u64) -> bool {
        now_us >= self.until_us || (self.begun == self.addresses && self.under_way == 0)
    }

    /// When to look again, if no attempt is decided before.
    pub fn due_us(&self) -> u64 {
        match self.begun < self.addresses {
            true => self.next_us.min(self.until_us),
            false => self.until_us,
        }
    }
}

/// Puts addresses in the order in which they are tried: as the resolver gave them, families alternating
/// (RFC 8305, section 4), so that one family that leads nowhere costs one attempt.
pub fn alternate<A>(addresses: Vec<A>, is_first_family: impl Fn(&A) -> bool) -> Vec<A> {
    let (first, second): (Vec<A>, Vec<A>) = addresses.into_iter().partition(is_first_family);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair.iter().all(Option::is_none) {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        /// At this millisecond these are begun.
        At(u64, &'static [usize]),
        Failed,
        Due(u64),
        Lost(bool),
    }
    use Step::{At, Due, Failed, Lost};

    fn check(addresses: usize, script: &[Step]) {
        let mut race = Race::new(addresses, 1_000_000, 0);
        let mut now_us = 0;
        for step in script {
            match *step {
                At(ms, expected) => {
                    now_us = ms * 1000;
                    let begun: Vec<usize> = std::iter::from_fn(|| race.poll(now_us)).collect();
                    assert_eq!(begun, expected, "at {ms} ms");
                }
                Failed => race.handle_failed(now_us),
                Due(ms) => assert_eq!(race.due_us(), ms * 1000),
                Lost(is_lost) => assert_eq!(race.is_lost(now_us), is_lost),
            }
        }
    }

    #[test]
    fn a_silent_address_gets_company_after_a_moment() {
        check(
            3,
            &[
                At(0, &[0]),
                Due(250),
                At(249, &[]),
                At(250, &[1]),
                At(500, &[2]),
                Due(1000),
                At(999, &[]),
                Lost(false),
                At(1000, &[]),
                Lost(true),
            ],
        );
    }

    #[test]
    fn a_failure_brings_the_next_at_once() {
        check(2, &[At(0, &[0]), Failed, At(0, &[1]), Failed, Lost(true)]);
        // Beside one that is still under way, too.
        check(
            3,
            &[
                At(0, &[0]),
                At(250, &[1]),
                At(300, &[]),
                Failed,
                Due(300),
                At(300, &[2]),
                Failed,
                Lost(false),
                Failed,
                Lost(true),
            ],
        );
    }

    #[test]
    fn nothing_begins_when_time_is_up_or_there_is_no_address() {
        check(3, &[At(1000, &[]), Lost(true)]);
        check(0, &[At(0, &[]), Lost(true)]);
    }

    #[test]
    fn families_alternate() {
        fn order(families: &str) -> String {
            let first = families.chars().next();
            let numbered: Vec<(char, usize)> =
                families.chars().enumerate().map(|(n, c)| (c, n)).collect();
            let order = alternate(numbered, |(family, _)| Some(*family) == first);
            order.into_iter().map(|(c, n)| format!("{c}{n}")).collect()
        }
        assert_eq!(order("66644"), "6043614462");
        assert_eq!(order("4"), "40");
        assert_eq!(order(""), "");
    }
}
