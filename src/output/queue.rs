//! The way from the loop to an output's thread, and what the loop may know of that thread.
//!
//! An output that may miss records holds no more than its share of the buffer. What comes while it
//! holds that much is counted instead of queued, until it has worked off half; then the count goes
//! ahead of what is queued next.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::State;
use crate::notice::Patience;
use crate::record::Timestamp;
use crate::record::batch::Batch;
use crate::record::doorbell::Doorbell;

/// What a worker is asked to do, in the order in which it was asked.
#[derive(Debug)]
pub enum Job {
    /// To record these.
    Batch(Arc<Batch>),
    /// To tell that these are missing here.
    Gap(Gap),
    /// To open its file anew, as was asked for at this time.
    Reopen(Timestamp),
    /// To write all that it was given, and end.
    Finish,
}

/// Records that were counted instead of queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When the first was seen.
    pub time: Timestamp,
    /// Number in the run of the first.
    pub first_seq: u64,
    /// How many they are.
    pub records: u64,
    /// Payload bytes in them.
    pub bytes: u64,
}

/// Unbounded in itself: what fills it are batches, and the pool bounds them.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    pushed: Condvar,
    /// Bytes that it holds at most, where records may be missed; else it holds what it is given.
    share: Option<usize>,
    /// The worker waits, with nothing unwritten.
    idle: AtomicBool,
    ended: AtomicBool,
    /// Something is missing, or may be: a write failed, records were missed.
    torn: AtomicBool,
    written: AtomicU64,
    waiting: AtomicU64,
    missed: AtomicU64,
    gaps: AtomicU64,
    worked_off: AtomicU64,
    /// What is still to be done for closed files once the worker has finished.
    chores: AtomicUsize,
    doorbell: Arc<Doorbell>,
}

#[derive(Debug)]
struct Inner {
    jobs: VecDeque<Job>,
    /// Bytes of the pool that queued batches hold, and the one that is being encoded.
    held: usize,
    /// When the batch was seen that was taken last, until all that was taken is written.
    in_hand: Option<Timestamp>,
    gap: Option<Gap>,
    patience: Patience,
    state: State,
}

impl Queue {
    /// An empty queue. `share` is how many bytes of the pool it holds at most, where its output may miss
    /// records; `doorbell` wakes the loop.
    pub fn new(share: Option<usize>, doorbell: Arc<Doorbell>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                jobs: VecDeque::new(),
                held: 0,
                in_hand: None,
                gap: None,
                patience: Patience::default(),
                state: State::Running,
            }),
            pushed: Condvar::new(),
            share,
            idle: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            written: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            worked_off: AtomicU64::new(0),
            chores: AtomicUsize::new(0),
            doorbell,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is a single step, so a panic elsewhere leaves it right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the loop's side -------------------------------------------------------------------------

    /// Queues a batch, or counts it as missed; whether that is to be said.
    pub fn push_batch(&self, batch: &Arc<Batch>) -> bool {
        let mut inner = self.inner();
        if inner.state != State::Running {
            return false;
        }
        if self
            .share
            .is_some_and(|share| inner.is_full(share, batch.charge()))
        {
            let is_first = inner.gap.is_none();
            inner.miss(batch);
            let now_us = batch.time().unwrap_or_default().elapsed_us;
            let is_to_be_said = is_first && inner.patience.is_to_be_said(now_us);
            drop(inner);
            self.torn.store(true, SeqCst);
            self.missed.fetch_add(batch.records(), SeqCst);
            self.gaps.fetch_add(u64::from(is_first), SeqCst);
            return is_to_be_said;
        }
        self.take(inner, batch);
        false
    }

    /// Queues the last batch, whatever is queued: an output ends with the run's `end`.
    pub fn push_last(&self, batch: &Arc<Batch>) {
        let inner = self.inner();
        if inner.state == State::Running {
            self.take(inner, batch);
        }
    }

    fn take(&self, mut inner: MutexGuard<'_, Inner>, batch: &Arc<Batch>) {
        inner.flush_gap();
        self.enqueue(&mut inner, batch);
        drop(inner);
        self.pushed.notify_one();
    }

    /// Queues what is no batch, behind all that is queued and the gap that is not.
    pub fn push(&self, job: Job) {
        let mut inner = self.inner();
        if inner.state == State::Running {
            inner.flush_gap();
            self.push_job(inner, job);
        }
    }

    /// Queues a batch for a worker that waits, without waking it: the caller has it worked off. `false`, with
    /// nothing done, where the worker does not wait or is to be woken.
    pub fn push_quietly(&self, batch: &Arc<Batch>) -> bool {
        let mut inner = self.inner();
        // It became idle under this lock, and with an empty queue.
        let waits = self.is_idle() && inner.state == State::Running && inner.gap.is_none();
        let is_full = (self.share).is_some_and(|share| inner.is_full(share, batch.charge()));
        if !waits || is_full {
            return false;
        }
        self.enqueue(&mut inner, batch);
        true
    }

    /// Wakes the worker after all.
    pub fn wake(&self) {
        self.pushed.notify_one();
    }

    fn enqueue(&self, inner: &mut Inner, batch: &Arc<Batch>) {
        inner.held += batch.charge();
        self.waiting.fetch_add(batch.records(), SeqCst);
        inner.jobs.push_back(Job::Batch(Arc::clone(batch)));
        self.idle.store(false, SeqCst);
    }

    fn push_job(&self, mut inner: MutexGuard<'_, Inner>, job: Job) {
        inner.jobs.push_back(job);
        self.idle.store(false, SeqCst);
        drop(inner);
        self.pushed.notify_one();
    }

    /// Whether a batch of `charge` bytes would be missed now.
    pub fn is_full(&self, charge: usize) -> bool {
        let inner = self.inner();
        inner.state == State::Running
            && self.share.is_some_and(|share| inner.is_full(share, charge))
    }

    /// Bytes of batches that were worked off, to tell whether it moves.
    pub fn worked_off(&self) -> u64 {
        self.worked_off.load(SeqCst)
    }

    /// Whether the worker waits, with nothing unwritten.
    pub fn is_idle(&self) -> bool {
        self.idle.load(SeqCst)
    }

    /// Whether the worker has ended. Cheap.
    pub fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// How far the worker has come.
    pub fn state(&self) -> State {
        self.inner().state
    }

    /// Whether something is missing, or may be.
    pub fn is_torn(&self) -> bool {
        self.torn.load(SeqCst)
    }

    /// Bytes that were written.
    pub fn written(&self) -> u64 {
        self.written.load(SeqCst)
    }

    /// Records that were queued and are not all written.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(SeqCst)
    }

    /// Records that were counted instead of queued.
    pub fn missed(&self) -> u64 {
        self.missed.load(SeqCst)
    }

    /// How often it began to miss records.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(SeqCst)
    }

    /// How long ago that was seen which is written next, or is being written.
    pub fn lag(&self, now: Timestamp) -> Duration {
        let inner = self.inner();
        let next = inner.jobs.iter().find_map(|job| match job {
            Job::Batch(batch) => batch.time(),
            Job::Gap(gap) => Some(gap.time),
            Job::Reopen(_) | Job::Finish => None,
        });
        let since = inner.in_hand.or(next).unwrap_or(now);
        now.elapsed().saturating_sub(since.elapsed())
    }

    /// What is still to be done for closed files.
    pub fn chores(&self) -> usize {
        self.chores.load(SeqCst)
    }

    // --- the worker's side -----------------------------------------------------------------------

    /// What was queued first, if anything is. A batch is [given back](Queue::give_back) once it is
    /// encoded.
    pub fn pop(&self) -> Option<Job> {
        let mut inner = self.inner();
        if inner.jobs.is_empty() {
            // Nothing more comes to push it: the reader is back, the senders may be silent.
            inner.flush_gap();
        }
        inner.take_first()
    }

    /// The same, if it is a batch.
    pub fn pop_batch(&self) -> Option<Arc<Batch>> {
        let mut inner = self.inner();
        match inner.jobs.front() {
            Some(Job::Batch(_)) => match inner.take_first() {
                Some(Job::Batch(batch)) => Some(batch),
                _ => None,
            },
            _ => None,
        }
    }

    /// A batch is encoded and no longer held.
    pub fn give_back(&self, batch: Arc<Batch>) {
        let charge = batch.charge();
        self.inner().held -= charge;
        self.worked_off.fetch_add(charge as u64, SeqCst);
        drop(batch);
        // Another output may still hold the batch; that this one has room is news by itself.
        if self.share.is_some() {
            self.doorbell.ring();
        }
    }

    /// Waits until something is queued, but not longer than `timeout`. The caller has written all
    /// that it was given.
    pub fn wait(&self, timeout: Option<Duration>) {
        self.become_idle();
        let inner = self.inner();
        let is_empty = |inner: &mut Inner| {
            inner.jobs.is_empty() && inner.gap.is_none() && inner.state == State::Running
        };
        match timeout {
            None => drop(self.pushed.wait_while(inner, is_empty)),
            Some(timeout) => {
                drop(self.pushed.wait_timeout_while(inner, timeout, is_empty));
                self.become_busy();
            }
        }
    }

    /// The worker is about to wait, or waits: all that it was given is written, and the loop may know unless
    /// more was queued by now.
    pub fn become_idle(&self) {
        let inner = self.inner();
        if inner.gap.is_some() {
            // Nothing woke who waits when that began: another was at work, and was to look again.
            self.pushed.notify_one();
        } else if inner.jobs.is_empty() && inner.state == State::Running {
            self.idle.store(true, SeqCst);
            // Outside the lock: the loop that wakes may push at once.
            drop(inner);
            self.doorbell.ring();
        }
    }

    /// The worker waits no more, though nothing was queued.
    pub fn become_busy(&self) {
        self.idle.store(false, SeqCst);
    }

    /// Whether a reopening is asked for, however far behind.
    pub fn wants_reopening(&self) -> bool {
        let jobs = &self.inner().jobs;
        jobs.iter().any(|job| matches!(job, Job::Reopen(_)))
    }

    /// Lets `time` pass, with all that is queued still to be done.
    pub fn rest(&self, time: Duration) {
        std::thread::park_timeout(time);
    }

    /// Something is missing, or may be.
    pub fn tear(&self) {
        self.torn.store(true, SeqCst);
    }

    /// So many bytes are written.
    pub fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, SeqCst);
    }

    /// All that was taken is written: so many records.
    pub fn count_done(&self, records: u64) {
        self.inner().in_hand = None;
        self.waiting.fetch_sub(records, SeqCst);
    }

    /// Something is to be done for closed files.
    pub fn add_chore(&self) {
        self.chores.fetch_add(1, SeqCst);
    }

    /// It is done.
    pub fn chore_done(&self) {
        self.chores.fetch_sub(1, SeqCst);
        self.doorbell.call();
    }

    /// The worker has ended, and who waits for it may look. What is queued, and all that is pushed from now
    /// on, goes back to the pool, so that a dead output holds up nobody.
    pub fn end(&self, state: State) {
        let jobs = {
            let mut inner = self.inner();
            inner.state = state;
            inner.in_hand = None;
            mem::take(&mut inner.jobs)
        };
        self.idle.store(false, SeqCst);
        self.waiting.store(0, SeqCst);
        self.ended.store(true, SeqCst);
        drop(jobs);
        self.pushed.notify_all();
        self.doorbell.call();
    }
}

impl Inner {
    fn take_first(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front();
        if let Some(Job::Batch(batch)) = &job {
            self.in_hand = batch.time();
        }
        job
    }

    /// Whether a batch is to be missed: it does not fit into the share, or others were missed and not
    /// enough has been worked off since.
    fn is_full(&self, share: usize, charge: usize) -> bool {
        let most = match self.gap {
            Some(_) => share / 2,
            None => share,
        };
        // An empty queue takes a batch of any size.
        self.held > 0 && self.held + charge > most
    }

    fn miss(&mut self, batch: &Batch) {
        let gap = self.gap.get_or_insert(Gap {
            time: batch.time().unwrap_or_default(),
            first_seq: batch.first_seq(),
            records: 0,
            bytes: 0,
        });
        debug_assert!(gap.first_seq + gap.records == batch.first_seq());
        gap.records += batch.records();
        gap.bytes += batch.used() as u64;
    }

    fn flush_gap(&mut self) {
        let gap = self.gap.take().map(Job::Gap);
        self.jobs.extend(gap);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::record::batch::{BatchPool, ConnIndex};
    use crate::record::{Direction, Framing};

    /// A pool, and batches of `bytes` bytes each, numbered on.
    struct Source {
        pool: BatchPool,
        next_seq: u64,
    }

    impl Source {
        fn batch(&mut self, bytes: usize) -> Arc<Batch> {
            let mut batch = self.pool.acquire().expect("there is room");
            batch.start_at(self.next_seq);
            let time = Timestamp {
                elapsed_us: self.next_seq,
                ..Timestamp::default()
            };
            let conn = ConnIndex::default();
            batch.push_data(time, conn, Direction::In, 0, bytes, |_| ());
            self.next_seq = batch.next_seq();
            batch.seal()
        }
    }

    fn setup(share: Option<usize>) -> (Source, Queue) {
        let doorbell = Arc::new(Doorbell::new(|| {}));
        let pool = BatchPool::new(1 << 16, 1 << 30, Framing::Chunk, Arc::clone(&doorbell));
        (Source { pool, next_seq: 0 }, Queue::new(share, doorbell))
    }

    fn seq_and_gap(queue: &Queue) -> (Vec<u64>, Vec<(u64, u64, u64)>) {
        let (mut seqs, mut gaps) = (Vec::new(), Vec::new());
        while let Some(job) = queue.pop() {
            match job {
                Job::Batch(batch) => {
                    seqs.push(batch.first_seq());
                    queue.give_back(batch);
                }
                Job::Gap(gap) => gaps.push((gap.first_seq, gap.records, gap.bytes)),
                Job::Reopen(_) | Job::Finish => {}
            }
        }
        (seqs, gaps)
    }

    #[test]
    fn without_a_share_nothing_is_missed() {
        let (mut source, queue) = setup(None);
        for _ in 0..100 {
            queue.push_batch(&source.batch(60_000));
        }
        assert_eq!(seq_and_gap(&queue), ((0..100).collect(), vec![]));
        assert!(!queue.is_torn());
    }

    #[test]
    fn beyond_its_share_records_are_counted_until_half_is_worked_off() {
        let (mut source, queue) = setup(Some(400_000));
        let first = source.batch(60_000);
        let fit = 400_000 / first.charge() as u64;
        queue.push_batch(&first);
        for _ in 1..fit + 3 {
            queue.push_batch(&source.batch(60_000));
        }
        assert!(queue.is_torn());
        assert_eq!((queue.waiting(), queue.missed()), (fit, 3));
        // One worked off is not enough, or every second batch would be missed.
        let Some(Job::Batch(batch)) = queue.pop() else {
            panic!("the first is a batch");
        };
        queue.give_back(batch);
        queue.push_batch(&source.batch(10));
        assert_eq!(queue.missed(), 4);
        for _ in 0..fit / 2 {
            let Some(Job::Batch(batch)) = queue.pop() else {
                panic!("there are more");
            };
            queue.give_back(batch);
        }
        queue.push_batch(&source.batch(10));
        let (seqs, gaps) = seq_and_gap(&queue);
        assert_eq!(gaps, [(fit, 4, 180_010)]);
        assert_eq!(
            seqs,
            (fit / 2 + 1..fit).chain([fit + 4]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_gap_is_told_though_nothing_comes_behind_it() {
        let (mut source, queue) = setup(Some(1));
        queue.push_batch(&source.batch(60_000));
        queue.push_batch(&source.batch(5));
        assert_eq!(seq_and_gap(&queue), (vec![0], vec![(1, 1, 5)]));
        // With room again, nothing more is missed.
        queue.push_batch(&source.batch(5));
        assert_eq!(seq_and_gap(&queue), (vec![2], vec![]));
        queue.push_batch(&source.batch(5));
        queue.push_batch(&source.batch(6));
        queue.push_last(&source.batch(7));
        queue.push(Job::Finish);
        assert_eq!(seq_and_gap(&queue), (vec![3, 5], vec![(4, 1, 6)]));
    }

    #[test]
    fn only_a_worker_that_waits_is_spared_the_waking() {
        let (mut source, queue) = setup(Some(100_000));
        assert!(!queue.push_quietly(&source.batch(0)), "it has not begun");
        queue.become_idle();
        let batch = source.batch(1);
        assert!(queue.push_quietly(&batch));
        assert!(!queue.is_idle());
        assert_eq!(queue.waiting(), 1);
        assert!(!queue.push_quietly(&source.batch(0)), "it has work");
        let taken = queue.pop_batch().expect("it was queued");
        assert!(Arc::ptr_eq(&taken, &batch));
        queue.give_back(taken);
        queue.become_idle();
        queue.push(Job::Finish);
        assert!(!queue.push_quietly(&source.batch(0)), "it is to finish");
        assert!(queue.pop_batch().is_none(), "that is no batch");
        queue.end(State::Finished);
        // It does not wait for what no longer comes.
        queue.wait(None);
        assert!(!queue.is_idle());
        assert!(!queue.push_quietly(&source.batch(0)), "it has ended");
    }

    #[test]
    fn a_gap_behind_what_another_wrote_wakes_the_worker() {
        let (mut source, queue) = setup(Some(1));
        queue.become_idle();
        assert!(queue.push_quietly(&source.batch(60_000)));
        thread::scope(|scope| {
            let worker = scope.spawn(|| queue.wait(None));
            // It may have woken, or not begun to wait.
            let batch = queue.pop_batch().expect("nobody else takes it");
            queue.push_batch(&source.batch(60_000));
            queue.give_back(batch);
            queue.become_idle();
            worker.join().expect("it does not wait for ever");
        });
        assert!(!queue.is_idle());
        assert!(!queue.push_quietly(&source.batch(1)));
        assert_eq!(seq_and_gap(&queue), (vec![], vec![(1, 1, 60_000)]));
    }

    #[test]
    fn a_reopening_is_known_before_its_turn() {
        let (mut source, queue) = setup(None);
        assert!(!queue.wants_reopening());
        queue.push_batch(&source.batch(1));
        queue.push(Job::Reopen(Timestamp::default()));
        queue.push_batch(&source.batch(1));
        assert!(queue.wants_reopening());
        assert_eq!(seq_and_gap(&queue).0, [0, 1]);
        assert!(!queue.wants_reopening());
    }
}
