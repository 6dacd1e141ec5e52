//! When something is to be looked at: a connection that may be idle or too old, a session of a replay
//! that may have to be given up.
//!
//! One entry each stands in a heap, and activity does not touch it: what was active since is given a
//! later entry only when its old one comes up. So a hundred thousand connections cost nothing while
//! nothing is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// So few entries are not worth a sweep.
const SWEPT_FROM: usize = 64;

/// Things, named by `K`, by the moment in microseconds at which to look at them.
#[derive(Debug)]
pub struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(u64, K)>>,
}

impl<K: Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    /// `key` is to be looked at, at `due_us`.
    pub fn insert(&mut self, due_us: u64, key: K) {
        self.heap.push(Reverse((due_us, key)));
    }

    /// Drops the entries of what is gone, once they are most of all: those of short connections would
    /// else pile up for as long as their timeout is.
    pub fn sweep(&mut self, live: usize, is_live: impl Fn(K) -> bool) {
        if self.heap.len() > 2 * live + SWEPT_FROM {
            self.heap.retain(|&Reverse((_, key))| is_live(key));
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.heap.len()
    }

    /// The earliest moment at which something may be due.
    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_us, ..))| *due_us)
    }

    /// What is due, once `due` has been asked of what seems to be: it gives the moment that is true
    /// now, or `None` for what is gone. Each entry is told once.
    pub fn expired(&mut self, now_us: u64, due: impl Fn(K) -> Option<u64>) -> Option<K> {
        loop {
            let &Reverse((entry_us, key)) = self.heap.peek()?;
            if entry_us > now_us {
                return None;
            }
            self.heap.pop();
            match due(key) {
                Some(due_us) if due_us <= now_us => return Some(key),
                Some(due_us) => self.insert(due_us, key),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_hundred_thousand_cost_nothing_while_nothing_is_due() {
        const MANY: u64 = 100_000;
        let mut deadlines = Deadlines::default();
        for key in 0..MANY {
            deadlines.insert(1_000_000 + key, key);
        }
        let asked = Cell::new(0u64);
        // All have been active since: each is due a second later than was thought.
        let due = |key| {
            asked.set(asked.get() + 1);
            Some(2_000_000 + key)
        };
        for now_us in 0..1_000_000 {
            assert_eq!(deadlines.expired(now_us, due), None);
        }
        assert_eq!(asked.get(), 0, "something was looked at");
        // When its time comes, each is looked at once, and keeps one entry.
        assert_eq!(deadlines.expired(1_000_000 + MANY, due), None);
        assert_eq!(asked.get(), MANY);
        assert_eq!(deadlines.entries() as u64, MANY);
        assert_eq!(deadlines.next(), Some(2_000_000));
    }

    #[test]
    fn what_is_gone_is_swept_away() {
        let mut deadlines = Deadlines::default();
        for key in 0..1_000u64 {
            deadlines.insert(u64::MAX, key);
            deadlines.sweep(1, |live| live == key);
            assert!(deadlines.entries() <= 2 + SWEPT_FROM);
        }
    }
}
