//! The capture core and the way from it to the outputs, as every loop drives them: room is made for
//! an event before it is recorded, a batch leaves when it is full or an output is idle, and where the
//! outputs hold all memory the loop is starved and waits for them.
//!
//! It is public for the simulation of captures (`tests/sim`), which hands it a clock and the queues of
//! outputs that are simulated too.

use std::io;
use std::sync::Arc;

use super::clock::SystemClock;
use super::router::{Allotment, Router};
use super::{Error, Outcome, Recording, system};
use crate::capture::shutdown::{Ending, Phase};
use crate::capture::{Capture, READ_MIN, Slot};
use crate::notice::{Notice, Notify, Statistics};
use crate::output::{Errand, OpenOutput, Output, State, Surroundings};
use crate::record::batch::BatchPool;
use crate::record::doorbell::Doorbell;
use crate::record::time::{Clock, micros};
use crate::record::{Framing, Start, Timestamp, WallTime};

/// While there is always something to read, a record waits this long at most for others to go with it:
/// waking an output for each costs more than all else that is done for a short one.
const HOLD_US: u64 = 250;

/// No more than this is written by the loop's own thread, as near as can be told before it is encoded. A pipe that
/// can be written to has room for about so much, and more is worth the waking of another thread.
const ERRAND_MAX: usize = 4 * 1024;

/// … with so much for what stands around a record's payload.
const RECORD_SIZE: usize = 256;

/// See the [module](self).
#[derive(Debug)]
pub struct Recorder<C = SystemClock> {
    /// What is recorded of which connection.
    pub capture: Capture,
    router: Router,
    clock: C,
    notify: Notify,
    /// Something was to be recorded and the outputs hold all memory, …
    is_starved: bool,
    /// … or are waited for, up to this time.
    outputs_rest_until: Option<u64>,
    status: Option<Status>,
}

/// When it is told how things stand, unasked.
#[derive(Debug)]
struct Status {
    every_us: u64,
    due_us: u64,
}

impl Recorder {
    /// Begins a run: the outputs start, and `start` is its first record.
    pub(super) fn start(
        recording: &Recording,
        outputs: Vec<OpenOutput>,
        doorbell: &Arc<Doorbell>,
        start: Start,
        notify: &Notify,
    ) -> Result<Self, Error> {
        let framing = recording.capture.framing;
        let arena = arena_size(recording);
        let missing = outputs.iter().filter(|output| output.may_miss()).count();
        let Allotment { limit, share } = Allotment::of(recording.buffer, arena, missing);
        let batches = BatchPool::new(arena, limit, framing, Arc::clone(doorbell));
        let clock = SystemClock::start();
        let start = Arc::new(start);
        let surroundings = Surroundings {
            start: Arc::clone(&start),
            options: recording.output_options.clone(),
            doorbell: Arc::clone(doorbell),
            clock: Arc::new(clock),
            notify: notify.clone(),
        };
        let outputs = outputs
            .into_iter()
            .map(|output| output.run(share, &surroundings))
            .collect::<io::Result<Vec<Output>>>()
            .map_err(system("start an output"))?;
        let router = Router::new(batches, outputs, recording.pacing);
        let capture = Capture::new(recording.capture.clone());
        let mut recorder = Self::new(capture, router, clock, notify.clone());
        recorder.status = recording.status_every.map(|every| Status {
            every_us: micros(every),
            due_us: micros(every),
        });
        recorder.begin(Start::clone(&start));
        Ok(recorder)
    }

    /// The clock that the run's time is read from.
    pub(super) fn clock(&self) -> SystemClock {
        self.clock
    }
}

impl<C: Clock> Recorder<C> {
    /// A recorder of a run that has not begun.
    pub fn new(capture: Capture, router: Router, clock: C, notify: Notify) -> Self {
        Self {
            capture,
            router,
            clock,
            notify,
            is_starved: false,
            outputs_rest_until: None,
            status: None,
        }
    }

    /// Records the start of the run.
    pub fn begin(&mut self, start: Start) {
        self.make_room(None);
        // Starting the outputs took its time; the run began before that.
        let now = self.clock.now();
        let began_us = now.wall.unix_micros().saturating_sub(now.elapsed_us);
        let now = Timestamp {
            wall: WallTime::from_unix_micros(began_us),
            elapsed_us: 0,
        };
        self.capture.handle_start(start, now);
    }

    // --- batches ---------------------------------------------------------------------------------

    /// Makes sure that the next event, of the connection at `slot` or of none, can be recorded.
    /// `false` while the outputs hold all memory, or are waited for: then the loop waits for them.
    pub fn make_room(&mut self, slot: Option<Slot>) -> bool {
        if self.capture.has_room(slot) {
            return true;
        }
        self.send();
        // A batch is begun only where those that are waited for have room for it: when it leaves, be it
        // full or not, none of them misses it.
        self.outputs_rest_until = self.router.waits_until_us(self.clock.now().elapsed_us);
        if self.outputs_rest_until.is_some() {
            self.is_starved = true;
            return false;
        }
        let batch = self.router.pool.acquire();
        self.is_starved = batch.is_none();
        if let Some(batch) = batch {
            self.capture.handle_batch(batch);
        }
        !self.is_starved
    }

    /// Sends what is recorded if it would be written at once.
    pub fn send_if_idle(&mut self) {
        if self.has_something_to_send() {
            self.send();
        }
    }

    /// The same, if it is little: one output's part of it is the caller's to do, where there is an errand.
    pub(super) fn send_as_errand(&mut self) -> Option<Errand> {
        let size = self.capture.recorded_size(RECORD_SIZE);
        if !self.has_something_to_send() || size > ERRAND_MAX {
            return None;
        }
        self.router.send_as_errand(self.capture.poll_batch()?)
    }

    /// Whether there may be errands.
    pub(super) fn gives_errands(&self) -> bool {
        self.router.gives_errands()
    }

    fn has_something_to_send(&self) -> bool {
        self.capture.has_records() && self.router.is_any_idle()
    }

    /// Whether what could be sent may as well wait for what comes next: it has not waited for long.
    pub fn may_hold(&self) -> bool {
        let held_us = |since: Timestamp| {
            let now_us = self.clock.now().elapsed_us;
            now_us.saturating_sub(since.elapsed_us)
        };
        self.has_something_to_send()
            && (self.capture.first_recorded()).is_some_and(|since| held_us(since) < HOLD_US)
    }

    fn send(&mut self) {
        if let Some(batch) = self.capture.poll_batch() {
            self.router.send(batch);
        }
    }

    /// Whether something waits for room. Nothing more is read in this turn.
    pub fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// A turn begins: it may be tried again to make room.
    pub fn begin_turn(&mut self) {
        self.is_starved = false;
    }

    /// Whether an output could bring what the loop would sleep for: room, or its own idleness. Where
    /// none could, the bell stays unarmed: each lone chunk would else ring it once it is written, and
    /// wake the loop for nothing.
    pub fn waits_for_outputs(&self) -> bool {
        self.is_starved || self.capture.has_records()
    }

    /// The look behind the arming of the doorbell: whether what the loop would sleep for is there.
    pub fn has_more_to_do(&mut self) -> bool {
        let mut has_what_it_waits_for = || match self.outputs_rest_until {
            // Whether outputs are to be waited for as well by now, and until when, the next turn finds.
            None => self.router.pool.has_batch(),
            Some(_) => {
                let now_us = self.clock.now().elapsed_us;
                self.router.waits_until_us(now_us).is_none()
            }
        };
        (self.is_starved && has_what_it_waits_for()) || self.has_something_to_send()
    }

    /// When to look again, in microseconds since the start of the run.
    pub fn deadline_us(&self) -> Option<u64> {
        let outputs = self.outputs_rest_until.filter(|_| self.is_starved);
        let status = self.status.as_ref().map(|status| status.due_us);
        let deadlines = [outputs, status, self.capture.deadline_us()];
        deadlines.into_iter().flatten().min()
    }

    /// Tells how things stand, where it is time for that.
    pub(super) fn tell_status(&mut self) {
        let Some(status) = &mut self.status else {
            return;
        };
        let now_us = self.clock.now().elapsed_us;
        if now_us >= status.due_us {
            // Times that were slept through are not made up for.
            let next_us = (now_us / status.every_us + 1).saturating_mul(status.every_us);
            status.due_us = next_us;
            let statistics = self.statistics();
            self.notify.say(Notice::Status(statistics));
        }
    }

    /// Has every output open its file anew, behind what came so far.
    pub fn reopen(&mut self) {
        self.send();
        self.router.reopen(self.clock.now());
    }

    // --- the end ---------------------------------------------------------------------------------

    /// Records the end of the run, if there is room, and has the outputs end behind it. Every
    /// connection has been closed.
    pub fn end(&mut self) {
        if !self.make_room(None) {
            return;
        }
        self.capture.handle_end(self.clock.now());
        let last = self.capture.poll_batch();
        self.router.finish(last);
        self.capture.shutdown.handle_drained();
    }

    /// Looks whether the outputs have written everything since they were told to end.
    pub fn flush(&mut self) {
        let is_flushing = self.capture.shutdown.phase() == Phase::Flushing;
        if is_flushing && self.router.have_all_ended() && self.router.chores() == 0 {
            self.capture.shutdown.handle_flushed();
        }
    }

    /// How the run has ended, if it has; said, too. `has_unaccepted` is whether somebody may still
    /// wait to be accepted.
    pub fn poll_outcome(&self, has_unaccepted: bool) -> Option<Outcome> {
        match self.capture.shutdown.phase() {
            Phase::Done(ending) => {
                self.say_ending(ending, has_unaccepted);
                Some(match ending {
                    Ending::Whole => self.outcome(),
                    Ending::DeadlinePassed if self.is_all_written() => self.outcome(),
                    Ending::DeadlinePassed | Ending::Interrupted => Outcome::NotWhole,
                })
            }
            // Nobody is left to write to: the reader of a pipe went, or every output failed.
            Phase::Running | Phase::Draining if self.router.have_all_gone() => Some(self.outcome()),
            _ => None,
        }
    }

    /// Whether the run's `end` was recorded and every output has finished.
    fn is_all_written(&self) -> bool {
        self.router.is_finishing() && self.router.have_all_ended()
    }

    /// Whether anybody is to see what is recorded.
    pub fn has_outputs(&self) -> bool {
        !self.router.outputs().is_empty()
    }

    /// Whether there were outputs, and all have gone because their readers have.
    pub fn have_outputs_closed(&self) -> bool {
        let outputs = self.router.outputs();
        let is_closed = |output: &Output| output.state() == State::Closed;
        !outputs.is_empty() && outputs.iter().all(is_closed)
    }

    /// Whether the run has come to its end, be it in time or not, so that its totals can be told.
    pub fn is_finished(&self) -> bool {
        let phase = self.capture.shutdown.phase();
        let is_over = matches!(phase, Phase::Done(Ending::Whole | Ending::DeadlinePassed));
        is_over
    }

    fn say_ending(&self, ending: Ending, has_unaccepted: bool) {
        let chores = self.router.chores();
        self.notify.say(match ending {
            Ending::Whole => return,
            // Everything is written; what is done with files after that is another's, and may have been
            // done in the last moment.
            Ending::DeadlinePassed if self.is_all_written() => match chores {
                0 => return,
                count => Notice::ChoresLeft { count },
            },
            Ending::DeadlinePassed => Notice::DrainTimeout {
                unread: self.capture.totals().open,
                has_unaccepted,
                unwritten: self.router.unwritten(),
            },
            Ending::Interrupted => Notice::Interrupted,
        });
    }

    fn outcome(&self) -> Outcome {
        if self.router.has_any_failed() {
            Outcome::NotWhole
        } else {
            Outcome::Whole
        }
    }

    /// How things stand.
    pub fn statistics(&self) -> Statistics {
        let outputs = self.router.outputs().iter();
        let now = self.clock.now();
        Statistics {
            elapsed: now.elapsed(),
            totals: self.capture.totals(),
            buffered: (self.router.pool.charged(), self.router.pool.limit()),
            outputs: outputs.map(|output| output.statistics(now)).collect(),
        }
    }
}

/// An arena takes the longest line of each direction and a read behind them, so that an empty one always
/// has room.
fn arena_size(recording: &Recording) -> usize {
    match recording.capture.framing {
        Framing::Chunk => recording.arena,
        Framing::Line { max } => recording.arena.max(2 * max + READ_MIN),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::atomic::{AtomicU64, AtomicUsize};
    use std::time::Duration;

    use super::*;
    use crate::capture;
    use crate::engine::Pacing;
    use crate::engine::lead::Length;
    use crate::output::queue::{Job, Queue};
    use crate::record::batch::ARENA_SIZE;
    use crate::record::{ConnId, Direction, Endpoints, RunId};

    /// A clock that is set, in microseconds.
    #[derive(Clone, Debug, Default)]
    struct Hand(Arc<AtomicU64>);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp {
                elapsed_us: self.0.load(SeqCst),
                ..Timestamp::default()
            }
        }
    }

    /// A run whose two outputs may miss records and are both waited for, for a second.
    struct Run {
        recorder: Recorder<Hand>,
        pool: BatchPool,
        queues: [Arc<Queue>; 2],
        clock: Hand,
    }

    impl Run {
        /// Each output holds so many batches at most.
        fn begin(share: usize, notify: Notify) -> Self {
            let framing = Framing::Chunk;
            let doorbell = Arc::new(Doorbell::new(|| {}));
            let pool = BatchPool::new(ARENA_SIZE, 1 << 24, framing, Arc::clone(&doorbell));
            let share = Some(share * pool.batch_charge());
            let queues = [(); 2].map(|()| Arc::new(Queue::new(share, Arc::clone(&doorbell))));
            let outputs = queues.iter().map(|queue| {
                let queue = Arc::clone(queue);
                Output::new(String::new(), queue, notify.clone())
            });
            let pacing = Pacing {
                time: Duration::from_secs(1),
                is_for_each: true,
                lead: Length::ENDLESS,
            };
            let router = Router::new(pool.clone(), outputs.collect(), pacing);
            let capture = Capture::new(capture::Config::new(framing));
            let clock = Hand::default();
            let mut recorder = Recorder::new(capture, router, clock.clone(), notify);
            recorder.begin(Start {
                run: RunId(1),
                mode: String::new(),
                listen: Vec::new(),
                connect: Vec::new(),
                tool: String::new(),
                segment: 1,
                conn: None,
                part: false,
            });
            Self {
                recorder,
                pool,
                queues,
                clock,
            }
        }

        fn open(&mut self) -> Slot {
            let endpoints = Endpoints {
                conn: ConnId(1),
                peer: "192.0.2.1:5000".into(),
                local: "192.0.2.2:1234".into(),
                target: None,
            };
            let now = self.clock.now();
            self.recorder.capture.handle_open(endpoints, None, now)
        }

        /// Reads as much as there is room for, in one call, if there is room.
        fn read(&mut self, slot: Slot) -> bool {
            let has_room = self.recorder.make_room(Some(slot));
            if has_room {
                let capture = &mut self.recorder.capture;
                let len = capture.read_buffer(slot, Direction::In).len();
                capture.handle_read(slot, Direction::In, len, self.clock.now());
            }
            has_room
        }
    }

    /// A worker takes what is queued first, and works it off.
    fn work_off(queue: &Queue) -> bool {
        match queue.pop() {
            Some(Job::Batch(batch)) => queue.give_back(batch),
            other => return other.is_some(),
        }
        true
    }

    #[test]
    fn a_batch_that_leaves_before_it_is_full_is_not_missed_by_a_slow_output() {
        let mut run = Run::begin(1, Notify::new(|_| {}));
        let slot = run.open();
        while run.read(slot) {}
        let [fast, slow] = &run.queues;
        while work_off(fast) {}
        fast.become_idle();
        run.recorder.send_if_idle();
        assert_eq!(slow.missed(), 0);
    }

    #[test]
    fn memory_that_comes_back_while_an_output_is_waited_for_again_is_not_slept_over() {
        let mut run = Run::begin(2, Notify::new(|_| {}));
        let slot = run.open();
        let [fast, slow] = run.queues.clone();
        // It stands still for longer than it is waited for.
        while run.read(slot) {}
        run.clock.0.store(1_000_000, SeqCst);
        while slow.missed() == 0 {
            assert!(run.read(slot));
        }
        while work_off(&fast) {}
        fast.become_idle();
        run.recorder.send_if_idle();
        // Others hold all memory.
        let held: Vec<_> = std::iter::from_fn(|| run.pool.acquire()).collect();
        assert!(!run.read(slot) && run.recorder.deadline_us().is_none());
        // It moves, and still has no room; and there is memory again.
        assert!(work_off(&slow) && slow.is_full(run.pool.batch_charge()));
        drop(held);
        let has_more_to_do = run.recorder.has_more_to_do();
        assert!(has_more_to_do || run.recorder.deadline_us().is_some());
    }

    #[test]
    fn what_is_done_in_the_last_moment_is_not_said_to_be_left() {
        let said = Arc::new(AtomicUsize::new(0));
        let saying = Arc::clone(&said);
        let notify = Notify::new(move |_| {
            saying.fetch_add(1, SeqCst);
        });
        let mut run = Run::begin(1, notify);
        run.recorder.capture.shutdown.handle_stop(0);
        run.recorder.end();
        run.queues[0].add_chore();
        for queue in &run.queues {
            queue.end(State::Finished);
        }
        run.recorder.flush();
        run.recorder.capture.shutdown.handle_timeout(0);
        run.queues[0].chore_done();
        let outcome = run.recorder.poll_outcome(false);
        assert_eq!((outcome, said.load(SeqCst)), (Some(Outcome::Whole), 0));
    }
}
