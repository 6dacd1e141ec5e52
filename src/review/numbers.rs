//! The numbers of a run: which record is to come next, and whether it has come.

use super::finding::Flaw;

/// Follows `seq` and `elapsed_us` along a run.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The number that is to come; unknown where what came before is.
    next: Option<u64>,
    /// Behind a number that did not fit: the one that would come if it was only written wrongly.
    otherwise: Option<u64>,
    elapsed_us: u64,
}

/// Which numbers are to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holes {
    /// All of them.
    Missing,
    /// Any: the others stand in other files.
    Elsewhere,
}

impl Numbers {
    /// Nothing is known of what comes.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Records from `first` on are to come.
    pub(super) fn expect(&mut self, first: u64) {
        self.next = Some(first);
    }

    /// Whether `seq` is the number that is to come.
    pub(super) fn fits(&self, seq: u64) -> bool {
        self.next == Some(seq)
    }

    /// A record with this number stands for `used` of them. Says what does not fit.
    pub(super) fn handle(&mut self, seq: u64, used: u64, holes: Holes) -> Option<Flaw> {
        let behind = seq.saturating_add(used);
        let otherwise = self.otherwise.take();
        let expected = self.next.replace(behind)?;
        if seq == expected || otherwise == Some(seq) {
            return None;
        }
        if seq > expected && holes == Holes::Elsewhere {
            return None;
        }
        self.otherwise = Some(expected.saturating_add(used));
        Some(if seq > expected {
            Flaw::Missing {
                first: expected,
                last: seq - 1,
            }
        } else {
            Flaw::Back {
                expected,
                found: seq,
            }
        })
    }

    /// A record that was seen at this time of the run.
    pub(super) fn handle_time(&mut self, elapsed_us: u64) -> Option<Flaw> {
        let before = std::mem::replace(&mut self.elapsed_us, elapsed_us);
        (elapsed_us < before).then_some(Flaw::TimeBack {
            before,
            found: elapsed_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that come, from 0 on, and what is found.
    fn check(seqs: &[u64], expected: &[&str]) {
        let mut numbers = Numbers::default();
        numbers.expect(0);
        let flaws = seqs
            .iter()
            .filter_map(|&seq| numbers.handle(seq, 1, Holes::Missing));
        let flaws: Vec<_> = flaws.map(|flaw| flaw.to_string()).collect();
        assert_eq!(flaws, expected, "{seqs:?}");
    }

    #[test]
    fn one_thing_wrong_is_found_once() {
        check(&[0, 1, 2, 3], &[]);
        check(&[0, 2, 3], &["record 1 is missing"]);
        check(&[0, 5, 6], &["records 1 to 4 are missing"]);
        // A digit is wrong: higher, and lower.
        check(&[0, 1, 902, 3, 4], &["records 2 to 901 are missing"]);
        check(&[0, 1, 2, 0, 4], &["record 0 where 3 was to come"]);
        // Another capture, or the same one again.
        check(&[0, 1, 2, 0, 1, 2], &["record 0 where 3 was to come"]);
        check(&[0, 1, 1, 2], &["record 1 where 2 was to come"]);
    }
}
