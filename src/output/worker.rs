//! The thread of an output: takes what is queued, in order, and has it written.
//!
//! Whatever is queued is encoded into a buffer and written in large pieces; when the queue is empty
//! the rest is written at once. So a lone byte is out within microseconds, and a flood costs few
//! system calls.

use std::io;
use std::mem;
use std::time::Duration;

use super::live::Moment;
use super::outlet::Outlet;
use super::queue::{Gap, Job};
use super::sink::DIRECT_MAX;
use super::target::Target;
use crate::notice::{Notice, Patience};
use crate::record::batch::{Batch, Entry};
use crate::record::{Direction, Timestamp};

#[derive(Debug)]
pub(super) struct Worker {
    outlet: Outlet,
    target: Target,
    /// Records of whole batches that are encoded and not all written.
    encoded: u64,
    missed: Missed,
}

/// What was missed and not said yet.
#[derive(Debug, Default)]
struct Missed {
    records: u64,
    bytes: u64,
    patience: Patience,
}

impl Worker {
    pub(super) fn new(outlet: Outlet, target: Target) -> Self {
        Self {
            outlet,
            target,
            encoded: 0,
            missed: Missed::default(),
        }
    }

    pub(super) fn run(mut self) {
        let worked = self.work();
        self.say_missed();
        let (outlet, result) = match worked {
            Ok(()) => self.finish(),
            Err(error) => (self.outlet, Err(error)),
        };
        outlet.end(result);
    }

    /// Works until it is told to finish.
    fn work(&mut self) -> io::Result<()> {
        loop {
            match self.outlet.queue.pop() {
                Some(Job::Batch(batch)) => {
                    self.encode(&batch)?;
                    self.encoded += batch.records();
                    self.outlet.queue.give_back(batch);
                }
                Some(Job::Gap(gap)) => self.miss(&gap),
                Some(Job::Reopen(now)) => self.reopen(now),
                Some(Job::Finish) => return self.flush(),
                None => {
                    self.flush()?;
                    self.expire();
                    let timeout = self.timeout();
                    if timeout != Some(Duration::ZERO) {
                        self.outlet.queue.wait(timeout);
                    }
                }
            }
        }
    }

    fn encode(&mut self, batch: &Batch) -> io::Result<()> {
        let outlet = &mut self.outlet;
        debug_assert!(batch.first_seq() == outlet.scribe.next_seq());
        match (&mut self.target, outlet.scribe.raw()) {
            (Target::Pipe(pipe), Some(way)) => {
                for bytes in runs(batch, way) {
                    pipe.bytes(bytes, outlet)?;
                }
            }
            // Where nothing ends a segment, chunks that lie together are written together.
            (Target::File(live), Some(way)) if !outlet.options.rotation.is_wanted() => {
                let at = Moment {
                    time: batch.time().unwrap_or_default(),
                    seq: batch.first_seq(),
                };
                for bytes in runs(batch, way) {
                    live.bytes(bytes, at, outlet);
                }
            }
            (target, _) => {
                for (entry, endpoints) in batch.entries() {
                    match entry {
                        Entry::Record(record) => target.record(&record, endpoints, outlet)?,
                        Entry::Chunk(mut chunk) => target.chunk(&mut chunk, endpoints, outlet)?,
                    }
                }
            }
        }
        outlet.scribe.pass(batch.next_seq());
        Ok(())
    }

    fn miss(&mut self, gap: &Gap) {
        let outlet = &mut self.outlet;
        match &mut self.target {
            Target::Pipe(pipe) => outlet.scribe.gap(gap, pipe.buffer()),
            Target::File(live) => live.gap(gap, outlet),
            Target::Many(many) => many.gap(gap, outlet),
        }
        outlet.scribe.pass(gap.first_seq + gap.records);
        self.missed.records += gap.records;
        self.missed.bytes += gap.bytes;
        if self.missed.patience.is_to_be_said(outlet.now().elapsed_us) {
            self.say_missed();
        }
    }

    fn say_missed(&mut self) {
        let records = mem::take(&mut self.missed.records);
        let bytes = mem::take(&mut self.missed.bytes);
        if records > 0 {
            self.outlet.say(Notice::Missed {
                output: self.outlet.name(),
                records,
                bytes,
            });
        }
    }

    fn reopen(&mut self, time: Timestamp) {
        let at = self.moment(time);
        let outlet = &mut self.outlet;
        match &mut self.target {
            // Nothing to be moved away from.
            Target::Pipe(_) => {}
            Target::File(live) => live.reopen(at, outlet),
            Target::Many(many) => many.reopen(at, outlet),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush(&mut self.outlet)?;
        match mem::take(&mut self.encoded) {
            0 => {}
            records => self.outlet.queue.count_done(records),
        }
        Ok(())
    }

    fn expire(&mut self) {
        let Some(deadline_us) = self.deadline_us() else {
            return;
        };
        let now = self.outlet.now();
        if now.elapsed_us < deadline_us {
            return;
        }
        let at = self.moment(now);
        match &mut self.target {
            Target::Pipe(_) => {}
            Target::File(live) => live.expire(at, &mut self.outlet),
            Target::Many(many) => many.expire(at, &mut self.outlet),
        }
    }

    fn deadline_us(&self) -> Option<u64> {
        match &self.target {
            Target::Pipe(_) => None,
            Target::File(live) => live.deadline_us(&self.outlet),
            Target::Many(many) => many.deadline_us(&self.outlet),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let deadline_us = self.deadline_us()?;
        let left = deadline_us.saturating_sub(self.outlet.now().elapsed_us);
        Some(Duration::from_micros(left))
    }

    fn moment(&self, time: Timestamp) -> Moment {
        Moment {
            time,
            seq: self.outlet.scribe.next_seq(),
        }
    }

    /// Everything is written and synced.
    fn finish(self) -> (Outlet, io::Result<()>) {
        let mut outlet = self.outlet;
        let result = self.target.finish(&mut outlet);
        (outlet, result)
    }
}

/// The bytes that went this way, in runs that are written at once.
fn runs(batch: &Batch, way: Direction) -> impl Iterator<Item = &[u8]> {
    batch.bytes(way).flat_map(|run| run.chunks(DIRECT_MAX))
}
