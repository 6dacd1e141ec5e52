//! How far the sockets run ahead of outputs that keep up.
//!
//! What is on its way is memory that is soon used again, as long as it is not much; the whole buffer, gone
//! through in a circle, lies in no cache. And a sender that is let sleep meanwhile takes no processor from the
//! outputs, and has more to be read with one call. So the sockets wait for outputs that work it off, though there
//! is room. Where one of them is slow, or stands, all the buffer is theirs, and nobody waits: it would hold up the
//! others, and bring nothing.

use crate::output::Output;
use crate::record::batch::BatchPool;

/// Within this time an output that keeps up works off a batch, or half of what one takes at most; that is
/// 210 MB/s with the largest.
pub const PATIENCE_US: u64 = 20_000;

/// Batches that may be on their way before the next one is begun.
#[derive(Clone, Copy, Debug)]
pub struct Length(pub usize);

impl Length {
    /// Nobody waits.
    pub const ENDLESS: Self = Self(usize::MAX);

    /// Bytes that may be on their way.
    pub fn most(self, pool: &BatchPool) -> usize {
        pool.batch_charge().saturating_mul(self.0)
    }

    /// It is waited until only so many are, half of them, rounded up: a wait for each of several small ones would
    /// cost more.
    pub fn few(self, pool: &BatchPool) -> usize {
        pool.batch_charge().saturating_mul(self.0.div_ceil(2))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Lead {
    length: Length,
    is_waiting: bool,
    /// Of each output, when it was last seen to keep up.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    at_us: u64,
    worked_off: u64,
}

impl Lead {
    pub(super) fn of(length: Length, outputs: &[Output]) -> Self {
        Self {
            length,
            is_waiting: false,
            seen: vec![Seen::default(); outputs.len()],
        }
    }

    /// Until when the next batch is to wait, if it is; the bell rings when it need not.
    pub(super) fn until_us(
        &mut self,
        pool: &BatchPool,
        outputs: &[Output],
        now_us: u64,
    ) -> Option<u64> {
        let most = self.length.most(pool);
        let few = self.length.few(pool);
        self.is_waiting = pool.charged() > if self.is_waiting { few } else { most };
        let until_us = match self.is_waiting {
            true => self.given_up_us(pool, outputs, now_us),
            false => None,
        };
        let until_us = until_us.filter(|&until_us| now_us < until_us);
        // Who does not wait for this may wait for any memory at all.
        pool.ring_at(until_us.map_or(usize::MAX, |_| few));
        until_us
    }

    /// When one of the outputs that have something to do no longer keeps up.
    fn given_up_us(&mut self, pool: &BatchPool, outputs: &[Output], now_us: u64) -> Option<u64> {
        let enough = pool.batch_charge() as u64 / 2;
        let mut first_us = None;
        for (output, seen) in outputs.iter().zip(&mut self.seen) {
            if output.has_ended() || output.is_idle() {
                continue;
            }
            let worked_off = output.worked_off();
            if worked_off - seen.worked_off >= enough {
                *seen = Seen {
                    at_us: now_us,
                    worked_off,
                };
            }
            let until_us = seen.at_us.saturating_add(PATIENCE_US);
            first_us = Some(first_us.map_or(until_us, |first_us| until_us.min(first_us)));
        }
        first_us
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::notice::Notify;
    use crate::output::queue::{Job, Queue};
    use crate::record::doorbell::Doorbell;
    use crate::record::{EndReason, Framing, Timestamp};

    const ARENA: usize = 4096;

    /// A time at which whoever has not been seen before does not keep up.
    const LATE_US: u64 = 2 * PATIENCE_US;

    /// Two outputs behind a lead.
    struct Bench {
        pool: BatchPool,
        queues: [Arc<Queue>; 2],
        outputs: Vec<Output>,
        lead: Lead,
        doorbell: Arc<Doorbell>,
        rung: Arc<AtomicUsize>,
    }

    impl Bench {
        fn new(length: usize) -> Self {
            let rung = Arc::new(AtomicUsize::new(0));
            let ear = Arc::clone(&rung);
            let doorbell = Arc::new(Doorbell::new(move || {
                ear.fetch_add(1, SeqCst);
            }));
            let limit = 100 * BatchPool::batch_cost(ARENA);
            let pool = BatchPool::new(ARENA, limit, Framing::Chunk, Arc::clone(&doorbell));
            let queues = [(); 2].map(|()| Arc::new(Queue::new(None, Arc::clone(&doorbell))));
            let outputs = queues.iter().map(|queue| {
                let notify = Notify::new(|_| {});
                Output::new(String::new(), Arc::clone(queue), notify)
            });
            let outputs: Vec<_> = outputs.collect();
            Self {
                pool,
                lead: Lead::of(Length(length), &outputs),
                queues,
                outputs,
                doorbell,
                rung,
            }
        }

        /// Sends so many batches with hardly any room left in them.
        fn send(&self, count: usize) {
            for _ in 0..count {
                let mut batch = self.pool.acquire().expect("there is room");
                while batch.spare_heads() > 0 {
                    batch.push_end(Timestamp::default(), EndReason::Shutdown);
                }
                let batch = batch.seal();
                for output in &self.outputs {
                    output.send(&batch);
                }
            }
        }

        fn works_off(&self, nth: usize, count: usize) {
            for _ in 0..count {
                match self.queues[nth].pop() {
                    Some(Job::Batch(batch)) => self.queues[nth].give_back(batch),
                    other => panic!("{other:?}"),
                }
            }
        }

        /// Of what batches take at most, rounded up.
        fn on_their_way(&self) -> usize {
            (self.pool.charged()).div_ceil(self.pool.batch_charge())
        }

        fn until_us(&mut self, now_us: u64) -> Option<u64> {
            self.lead.until_us(&self.pool, &self.outputs, now_us)
        }
    }

    #[test]
    fn outputs_that_keep_up_are_waited_for_until_half_of_the_lead_is_back() {
        for (lead, half) in [(1, 1), (3, 2), (4, 2), (5, 3)] {
            let mut bench = Bench::new(lead);
            bench.send(20);
            assert_eq!(
                bench.until_us(LATE_US),
                None,
                "none has worked anything off"
            );
            bench.works_off(0, 10);
            assert_eq!(bench.until_us(LATE_US), None, "one of the two has not");
            bench.works_off(1, 10);
            assert_eq!(bench.until_us(LATE_US), Some(LATE_US + PATIENCE_US));

            bench.doorbell.arm();
            while bench.rung.load(SeqCst) == 0 {
                assert!(bench.until_us(LATE_US + 1) >= Some(LATE_US + PATIENCE_US));
                assert!(bench.on_their_way() > half, "it is not woken");
                bench.works_off(0, 1);
                bench.works_off(1, 1);
            }
            assert!(bench.on_their_way() <= half, "it is woken for each");
            while bench.on_their_way() <= lead {
                assert_eq!(bench.until_us(LATE_US + 1), None);
                bench.send(1);
            }
            assert_eq!(bench.until_us(LATE_US + 1), Some(LATE_US + 1 + PATIENCE_US));
        }
    }

    #[test]
    fn nobody_waits_for_the_lead_where_an_output_stands() {
        let mut bench = Bench::new(3);
        bench.send(40);
        bench.works_off(0, 10);
        bench.works_off(1, 10);
        assert_eq!(bench.until_us(LATE_US), Some(LATE_US + PATIENCE_US));
        // The first goes on, and the second does not.
        bench.works_off(0, 10);
        assert_eq!(
            bench.until_us(LATE_US + PATIENCE_US - 1),
            Some(LATE_US + PATIENCE_US)
        );
        assert_eq!(bench.until_us(LATE_US + PATIENCE_US), None);
        bench.works_off(0, 10);
        assert_eq!(bench.until_us(LATE_US + PATIENCE_US + 1), None);
        // The bell rings for any memory then.
        bench.doorbell.arm();
        bench.works_off(1, 1);
        assert_eq!(bench.rung.load(SeqCst), 1);
    }
}
