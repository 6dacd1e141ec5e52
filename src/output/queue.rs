//! The way from the loop to an output's thread, and what the loop may know of that thread.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::State;
use crate::record::Timestamp;
use crate::record::batch::Batch;
use crate::record::doorbell::Doorbell;

/// What a worker is asked to do, in the order in which it was asked.
#[derive(Debug)]
pub(super) enum Job {
    Batch(Arc<Batch>),
    Reopen(Timestamp),
    Finish,
}

/// Unbounded in itself: what fills it are batches, and the pool bounds them.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    pushed: Condvar,
    /// The worker waits, with nothing unwritten.
    idle: AtomicBool,
    ended: AtomicBool,
    written: AtomicU64,
    waiting: AtomicU64,
    doorbell: Arc<Doorbell>,
}

#[derive(Debug)]
struct Inner {
    jobs: VecDeque<Job>,
    state: State,
}

impl Queue {
    pub(super) fn new(doorbell: Arc<Doorbell>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                jobs: VecDeque::new(),
                state: State::Running,
            }),
            pushed: Condvar::new(),
            idle: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            written: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            doorbell,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is a single step, so a panic elsewhere leaves it right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the loop's side -------------------------------------------------------------------------

    pub(super) fn push(&self, job: Job) {
        let mut inner = self.inner();
        if inner.state != State::Running {
            return;
        }
        if let Job::Batch(batch) = &job {
            self.waiting.fetch_add(batch.records(), SeqCst);
        }
        inner.jobs.push_back(job);
        self.idle.store(false, SeqCst);
        drop(inner);
        self.pushed.notify_one();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(SeqCst)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    pub(super) fn state(&self) -> State {
        self.inner().state
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(SeqCst)
    }

    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    // --- the worker's side -----------------------------------------------------------------------

    /// What was queued first, if anything is.
    pub(super) fn pop(&self) -> Option<Job> {
        self.inner().jobs.pop_front()
    }

    /// Waits until something is queued. The caller has written all that it was given.
    pub(super) fn wait(&self) {
        let mut inner = self.inner();
        if inner.jobs.is_empty() {
            self.idle.store(true, SeqCst);
            // Outside the lock: the loop that wakes may push at once.
            drop(inner);
            self.doorbell.ring();
            inner = self.inner();
        }
        while inner.jobs.is_empty() {
            inner = (self.pushed.wait(inner)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, SeqCst);
    }

    pub(super) fn count_done(&self, records: u64) {
        self.waiting.fetch_sub(records, SeqCst);
    }

    /// The worker has ended. What is queued, and all that is pushed from now on, goes back to the
    /// pool, so that a dead output holds up nobody.
    pub(super) fn end(&self, state: State) {
        let jobs = {
            let mut inner = self.inner();
            inner.state = state;
            mem::take(&mut inner.jobs)
        };
        self.idle.store(false, SeqCst);
        self.waiting.store(0, SeqCst);
        self.ended.store(true, SeqCst);
        drop(jobs);
        self.doorbell.call();
    }
}
