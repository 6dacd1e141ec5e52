//! The thread of an output: takes what is queued, in order, and has it written.
//!
//! Whatever is queued is encoded into a buffer and written in large pieces; when the queue is empty
//! the rest is written at once. So a lone byte is out within microseconds, and a flood costs few
//! system calls.
//!
//! While that thread sleeps, another may do its work ([`Errand`]): to wake it, on another processor, takes
//! several times as long as a short write. Who works has the [`Workbench`]; the thread that woke meanwhile waits
//! for it.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::live::Moment;
use super::outlet::Outlet;
use super::queue::{Gap, Job, Queue};
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

    /// Works until nothing is queued, or it is told to finish.
    fn work(&mut self) -> io::Result<Next> {
        loop {
            match self.outlet.queue.pop() {
                Some(Job::Batch(batch)) => self.take(batch)?,
                Some(Job::Gap(gap)) => self.miss(&gap),
                Some(Job::Reopen(now)) => self.reopen(now),
                Some(Job::Finish) => {
                    self.flush()?;
                    return Ok(Next::Finish);
                }
                None => {
                    self.flush()?;
                    self.expire();
                    let timeout = self.timeout();
                    if timeout != Some(Duration::ZERO) {
                        return Ok(Next::Wait(timeout));
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: Arc<Batch>) -> io::Result<()> {
        self.encode(&batch)?;
        self.encoded += batch.records();
        self.outlet.queue.give_back(batch);
        Ok(())
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

    /// Nothing more is done; after success, everything is written and synced.
    fn end(mut self, worked: io::Result<()>) {
        self.say_missed();
        let mut outlet = self.outlet;
        let result = worked.and_then(|()| self.target.finish(&mut outlet));
        outlet.end(result);
    }
}

enum Next {
    /// There is nothing to do until something is queued, or for so long.
    Wait(Option<Duration>),
    Finish,
}

/// Where an output's worker is, for its own thread and for errands.
#[derive(Debug)]
pub(super) struct Workbench {
    queue: Arc<Queue>,
    /// There from its beginning to its end.
    worker: Mutex<Option<Worker>>,
}

impl Workbench {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            worker: Mutex::default(),
        }
    }

    fn worker(&self) -> MutexGuard<'_, Option<Worker>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a worker work until it has ended, on the calling thread, which is the output's own.
    pub(super) fn run(&self, worker: Worker) {
        *self.worker() = Some(worker);
        loop {
            let mut place = self.worker();
            let Some(worker) = &mut *place else {
                return;
            };
            let worked = worker.work();
            if let Ok(Next::Wait(timeout)) = worked {
                drop(place);
                self.queue.wait(timeout);
            } else if let Some(worker) = place.take() {
                return worker.end(worked.map(drop));
            }
        }
    }

    fn run_errand(&self) {
        let mut place = self.worker();
        let Some(worker) = &mut *place else {
            return;
        };
        if !worker.target.is_writable() {
            return self.queue.wake();
        }
        // The output's thread may have had it first.
        let Some(batch) = self.queue.pop_batch() else {
            return;
        };
        match worker.take(batch).and_then(|()| worker.flush()) {
            Ok(()) => self.queue.become_idle(),
            Err(error) => {
                if let Some(worker) = place.take() {
                    worker.end(Err(error));
                }
            }
        }
    }
}

/// A batch that is queued for an output whose thread sleeps on: who has this has it written, by
/// [`Errand::run`].
#[derive(Debug)]
#[must_use]
pub struct Errand(Arc<Workbench>);

impl Errand {
    pub(super) fn at(workbench: &Arc<Workbench>) -> Self {
        Self(Arc::clone(workbench))
    }

    /// Writes it. May take as long as any write.
    pub fn run(self) {
        self.0.run_errand();
    }
}

/// The bytes that went this way, in runs that are written at once.
fn runs(batch: &Batch, way: Direction) -> impl Iterator<Item = &[u8]> {
    batch.bytes(way).flat_map(|run| run.chunks(DIRECT_MAX))
}
