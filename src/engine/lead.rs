//! How far the sockets run ahead of outputs that keep up.
//!
//! What is on its way is memory that is soon used again, and lies in the processor's caches as long as it
//! is not much; the whole buffer, gone through in a circle, lies in none. So the sockets wait for outputs
//! that work, though there is room, and run ahead only of those that are slow, or stand.

use crate::record::batch::BatchPool;

/// Outputs that have given nothing back for this long are not as fast as memory: all the buffer is theirs.
pub const PATIENCE_US: u64 = 5_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Lead {
    /// Batches that may be on their way.
    batches: usize,
    /// It is waited until half of them have come back: a wait for each of them would cost more.
    is_waiting: bool,
    /// Batches that had come back when that was looked at last, and since when no other has.
    returned: u64,
    since_us: u64,
}

impl Lead {
    pub(super) fn of(batches: usize) -> Self {
        Self {
            batches,
            is_waiting: false,
            returned: 0,
            since_us: 0,
        }
    }

    /// Until when the next batch is to wait, if it is; the bell rings when it need not.
    pub(super) fn until_us(&mut self, pool: &BatchPool, now_us: u64) -> Option<u64> {
        let most = pool.batch_charge().saturating_mul(self.batches);
        let few = most / 2;
        self.is_waiting = pool.charged() > if self.is_waiting { few } else { most };
        let until_us = self.is_waiting.then(|| self.given_up_us(pool, now_us));
        let until_us = until_us.filter(|&until_us| now_us < until_us);
        // Who does not wait for this may wait for any memory at all.
        pool.ring_at(until_us.map_or(usize::MAX, |_| few));
        until_us
    }

    fn given_up_us(&mut self, pool: &BatchPool, now_us: u64) -> u64 {
        let returned = pool.returned();
        if self.returned != returned {
            (self.returned, self.since_us) = (returned, now_us);
        }
        self.since_us.saturating_add(PATIENCE_US)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::record::Framing;
    use crate::record::batch::Batch;
    use crate::record::doorbell::Doorbell;

    const ARENA: usize = 4096;

    fn take(pool: &BatchPool, count: usize) -> Vec<Batch> {
        let batches = std::iter::repeat_with(|| pool.acquire().expect("there is room"));
        batches.take(count).collect()
    }

    #[test]
    fn outputs_that_work_are_waited_for_until_half_of_the_lead_is_back() {
        let rung = Arc::new(AtomicUsize::new(0));
        let ear = Arc::clone(&rung);
        let doorbell = Arc::new(Doorbell::new(move || {
            ear.fetch_add(1, SeqCst);
        }));
        let limit = 100 * BatchPool::batch_cost(ARENA);
        let pool = BatchPool::new(ARENA, limit, Framing::Chunk, Arc::clone(&doorbell));
        let mut lead = Lead::of(4);

        let mut held = take(&pool, 4);
        assert_eq!(
            lead.until_us(&pool, 10_000),
            None,
            "the lead is not used up"
        );
        held.extend(take(&pool, 1));
        assert_eq!(lead.until_us(&pool, 10_000), None, "nothing ever came back");
        held.truncate(4);
        held.extend(take(&pool, 1));
        assert_eq!(lead.until_us(&pool, 10_000), Some(10_000 + PATIENCE_US));

        // Three are left, and then two, which is half.
        doorbell.arm();
        held.truncate(3);
        assert_eq!(rung.load(SeqCst), 0, "it is not woken for each");
        assert_eq!(lead.until_us(&pool, 12_000), Some(12_000 + PATIENCE_US));
        held.truncate(2);
        assert_eq!(rung.load(SeqCst), 1);
        assert_eq!(lead.until_us(&pool, 12_000), None);

        // The outputs stand: all memory is theirs, and the bell rings for any.
        held.extend(take(&pool, 3));
        assert_eq!(lead.until_us(&pool, 13_000), Some(13_000 + PATIENCE_US));
        assert_eq!(lead.until_us(&pool, 13_000 + PATIENCE_US), None);
        doorbell.arm();
        held.truncate(4);
        assert_eq!(rung.load(SeqCst), 2);
    }
}
