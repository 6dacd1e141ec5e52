//! When connections are due to be closed: for being idle, or too old.
//!
//! One entry a connection stands in a heap, and reading does not touch it: a connection that was
//! active since is given a later entry only when its old one comes up. So a hundred thousand
//! connections cost nothing while nothing is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Slot;
use crate::record::ConnId;

/// So few entries are not worth a sweep.
const SWEPT_FROM: usize = 64;

/// Connections by the moment, in microseconds since the start of the run, at which to look at them.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, Slot, ConnId)>>,
}

impl Deadlines {
    pub(super) fn insert(&mut self, due_us: u64, slot: Slot, conn: ConnId) {
        self.heap.push(Reverse((due_us, slot, conn)));
    }

    /// Drops the entries of connections that are gone, once they are most of all: those of short
    /// connections would else pile up for as long as their timeout is.
    pub(super) fn sweep(&mut self, live: usize, is_live: impl Fn(Slot, ConnId) -> bool) {
        if self.heap.len() > 2 * live + SWEPT_FROM {
            self.heap
                .retain(|&Reverse((_, slot, conn))| is_live(slot, conn));
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest moment at which something may be due.
    pub(super) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_us, ..))| *due_us)
    }

    /// A connection that is due, once `due` has been asked of those that seem to be: it gives the
    /// moment that is true now, or `None` for one that is gone. Each is told once.
    pub(super) fn expired(
        &mut self,
        now_us: u64,
        due: impl Fn(Slot, ConnId) -> Option<u64>,
    ) -> Option<Slot> {
        loop {
            let &Reverse((entry_us, slot, conn)) = self.heap.peek()?;
            if entry_us > now_us {
                return None;
            }
            self.heap.pop();
            match due(slot, conn) {
                Some(due_us) if due_us <= now_us => return Some(slot),
                Some(due_us) => self.insert(due_us, slot, conn),
                None => {}
            }
        }
    }
}
