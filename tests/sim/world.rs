//! The world around the loop: a seed chooses what peers, outputs, clocks and signals do and when; what
//! is true at every moment is checked.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use wiretape::capture::{Capture, Slot};
use wiretape::engine::Outcome;
use wiretape::engine::recorder::Recorder;
use wiretape::engine::router::Router;
use wiretape::notice::{Notice, Notify};
use wiretape::output::queue::Queue;
use wiretape::output::{Output, State};
use wiretape::record::batch::{Batch, BatchPool};
use wiretape::record::time::{Clock, micros};
use wiretape::record::{CloseReason, Direction, Framing, RunId, Start, Timestamp, WallTime};

use crate::bell::{Bell, Watched};
use crate::choices::{ADDRESSES, ARENA, Choices};
use crate::clock::SimClock;
use crate::coverage::Coverage;
use crate::output::Worker;
use crate::peer::{Kind, Peer};
use crate::transcript::Transcript;

/// An hour, in microseconds.
const HOUR_US: u64 = 3_600_000_000;

/// What the process is sent; in the order of their numbers, in which the kernel tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Hup,
    Statistics,
    Stop,
}

/// What the simulated kernel has beside connections that are open.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Who waits to be accepted.
    pub backlog: VecDeque<Peer>,
    pub listener_has_news: bool,
    /// Nobody new is let in.
    pub is_quiet: bool,
    /// Nobody new comes, and when nobody is left the run is to end.
    pub ends_by_itself: bool,
    /// So many accepts fail for want of something.
    pub shortage: u32,
    /// So many connections cannot be watched once they are accepted.
    pub cannot_watch: u32,
    pub signals: Vec<Signal>,
}

impl Kernel {
    pub fn has_news(&self) -> bool {
        self.listener_has_news || !self.signals.is_empty()
    }

    /// A signal comes. Who has not been told of the last is not told twice.
    pub fn signal(&mut self, signal: Signal) {
        if !self.signals.contains(&signal) {
            self.signals.push(signal);
        }
    }
}

pub struct World<'a> {
    pub seen: &'a mut Coverage,
    pub rng: Rng,
    pub choices: Choices,
    pub clock: SimClock,
    pub bell: Bell,
    pub pool: BatchPool,
    pub notices: Arc<Mutex<Vec<Notice>>>,
    pub outputs: Vec<Worker>,
    pub transcript: Transcript,
    pub kernel: Kernel,
    // The loop's.
    pub recorder: Recorder<SimClock>,
    pub peers: BTreeMap<Slot, Peer>,
    pub ready: Vec<Slot>,
    pub may_accept: bool,
    /// Those who would be one too many of their address.
    pub undecided: VecDeque<Peer>,
    /// Addresses that one was refused of in this turn.
    pub refused_now: Vec<IpAddr>,
    pub accept_rests_until: Option<u64>,
    /// It sleeps, until then if until any time.
    pub asleep: Option<Option<u64>>,
    pub outcome: Option<Outcome>,
    // What is known of it.
    /// Records that have been sent to the outputs.
    pub sent: u64,
    /// When it was told to stop, by a signal or by its time.
    pub told_us: Option<u64>,
    /// When the first signal came.
    pub signal_us: Option<u64>,
    /// This output does not move any more.
    pub frozen: Option<usize>,
    /// Nothing is done for closed files.
    pub house_rests: bool,
    /// Memory that is not there for a while, as if outputs held it.
    pub hoard: Option<Batch>,
    /// Since when outputs are waited for because much is on its way.
    pub waits_since_us: Option<u64>,
    /// Nothing happens but what the loop does.
    pub is_still: bool,
    /// Peers that ever wanted to connect.
    callers: u64,
}

impl<'a> World<'a> {
    pub fn new(seed: u64, seen: &'a mut Coverage) -> Self {
        let mut rng = Rng::with_seed(seed);
        let choices = Choices::new(&mut rng);
        let framing = choices.config.framing;
        let bell = Bell::new();
        let limit = choices.allotment.limit;
        let pool = BatchPool::new(ARENA, limit, framing, Arc::clone(&bell.doorbell));
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let said = Arc::clone(&notices);
        let notify = Notify::new(move |notice| said.lock().expect("whole").push(notice));
        let may_miss = choices.may_miss.iter().enumerate();
        let workers = may_miss.map(|(nth, &may_miss)| {
            let share = may_miss.then_some(choices.allotment.share);
            let queue = Arc::new(Queue::new(share, Arc::clone(&bell.doorbell)));
            let reads_back = choices.reads_back && nth == 0;
            Worker::new(format!("output {nth}"), queue, may_miss, reads_back)
        });
        let workers: Vec<_> = workers.collect();
        let outputs = workers.iter().map(|worker| {
            let queue = Arc::clone(&worker.queue);
            Output::new(worker.name.clone(), queue, notify.clone())
        });
        let router = Router::new(pool.clone(), outputs.collect(), choices.pacing);
        let queues = workers.iter().map(|worker| Arc::clone(&worker.queue));
        bell.watch(Watched {
            pool: pool.clone(),
            queues: queues.collect(),
            is_for_each: choices.pacing.is_for_each,
        });
        let clock = SimClock::new(rng.u64(0..5_000));
        let capture = Capture::new(choices.config.clone());
        let start = Start {
            run: RunId(1),
            mode: "listen".to_owned(),
            listen: vec!["192.0.2.1:1234".to_owned()],
            connect: Vec::new(),
            tool: "simulation".to_owned(),
            segment: 1,
            conn: None,
            part: false,
        };
        let mut world = Self {
            recorder: Recorder::new(capture, router, clock.clone(), notify),
            transcript: Transcript::new(framing, choices.config.carry_limit, start.clone()),
            seen,
            rng,
            choices,
            clock,
            bell,
            pool,
            notices,
            outputs: workers,
            kernel: Kernel::default(),
            peers: BTreeMap::new(),
            ready: Vec::new(),
            may_accept: false,
            undecided: VecDeque::new(),
            refused_now: Vec::new(),
            accept_rests_until: None,
            asleep: None,
            outcome: None,
            sent: 0,
            told_us: None,
            signal_us: None,
            frozen: None,
            house_rests: false,
            hoard: None,
            waits_since_us: None,
            is_still: false,
            callers: 0,
        };
        world.begin(start);
        world
    }

    fn begin(&mut self, start: Start) {
        let now = self.clock.now();
        let began = Timestamp {
            wall: WallTime::from_unix_micros(now.wall.unix_micros() - now.elapsed_us),
            elapsed_us: 0,
        };
        self.transcript.handle_start(began);
        self.recorder.begin(start);
        self.check_totals();
        self.seen
            .see_if(self.outputs.is_empty(), "output: there is none");
    }

    // --- what happens ----------------------------------------------------------------------------

    /// Something may happen, while the loop is about something else.
    pub fn meanwhile(&mut self) {
        if self.rng.u8(0..4) == 0 {
            self.act();
        }
    }

    /// Something happens.
    pub fn act(&mut self) {
        if self.is_still {
            return;
        }
        let diligence = self.choices.diligence;
        match self.rng.u8(0..100) {
            nth if nth < diligence => self.work_outputs(),
            nth if nth < diligence + self.choices.stalls => self.toggle_stall(),
            nth if nth >= 100 - self.choices.calls => self.connect(),
            50..74 => self.arrive(),
            74..78 => self.finish_peer(),
            78..86 => self.pass_time(),
            86..89 => {
                self.keep_house();
            }
            89 => self.kernel.signal(Signal::Statistics),
            90 => self.kernel.signal(Signal::Hup),
            91 => self.have_sent(),
            92 => self.hoard(),
            93 if self.choices.has_trouble => self.make_trouble(),
            _ => self.work_outputs(),
        }
        if self.asleep.is_some() {
            self.bell.check();
        }
        for output in &self.outputs {
            output.check_reopening(&self.transcript);
        }
    }

    fn connect(&mut self) {
        if self.kernel.is_quiet || self.kernel.ends_by_itself {
            return;
        }
        self.callers += 1;
        let ip = self.rng.choice(ADDRESSES).expect("some");
        let kind = *self.rng.choice(&self.choices.kinds).expect("some");
        let peer = Peer::new(ip, 50_000 + self.callers, kind);
        self.kernel.backlog.push_back(peer);
        self.kernel.listener_has_news = true;
    }

    /// One of those that are connected, accepted or not.
    fn choose_peer(&mut self) -> Option<&mut Peer> {
        let waiting = self.kernel.backlog.iter_mut();
        self.rng
            .choice(self.peers.values_mut().chain(waiting).collect::<Vec<_>>())
    }

    fn arrive(&mut self) {
        let len = match self.rng.u8(0..4) {
            _ if self.choices.is_flood => self.rng.usize(5_000..30_000),
            0 => 1,
            1 => self.rng.usize(1..40),
            2 => self.rng.usize(1..2_000),
            _ => self.rng.usize(1..6_000),
        };
        let newlines = self.rng.choice([0, 2, 40, 255]).expect("some");
        // Very many very short lines cost more than they show.
        let most = match self.choices.config.framing {
            Framing::Chunk => usize::MAX,
            Framing::Line { .. } if newlines == 255 => 400,
            Framing::Line { max } => 100 * max,
        };
        let mut bytes = vec![0; len.min(most)];
        self.rng.fill(&mut bytes);
        for byte in &mut bytes {
            *byte = if *byte < newlines { b'\n' } else { *byte };
        }
        let is_answer = self.rng.bool();
        let Some(peer) = self.choose_peer() else {
            return;
        };
        let direction = match peer.kind == Kind::Relayed && is_answer {
            true => Direction::Out,
            false => Direction::In,
        };
        peer.arrive(direction, bytes);
    }

    fn finish_peer(&mut self) {
        let reason = match self.rng.u8(0..4) {
            0 => CloseReason::Reset,
            1 => CloseReason::Error("connection timed out".into()),
            _ => CloseReason::Eof,
        };
        let mut rng = self.rng.fork();
        if let Some(peer) = self.choose_peer() {
            let direction = *rng.choice(peer.kind.directions()).expect("some");
            peer.end(direction, reason, &mut rng);
        }
    }

    fn have_sent(&mut self) {
        let len = self.rng.usize(1..20_000);
        if let Some(peer) = self.choose_peer() {
            if matches!(peer.kind, Kind::Device | Kind::Session) {
                peer.to_send += len;
                peer.has_news = true;
            }
        }
    }

    fn pass_time(&mut self) {
        // The clock stands exactly where somebody waits for it, or anywhere.
        let awaited_us = self.asleep.flatten().filter(|_| self.rng.u8(0..4) == 0);
        if let Some(us) = awaited_us {
            return self.clock.pass(us.saturating_sub(self.clock.now_us()));
        }
        let us = match self.rng.u16(0..1_000) {
            0 => {
                self.seen.see("clock: hours pass");
                self.rng.u64(1..5) * HOUR_US
            }
            1..5 => self.rng.u64(0..2_000_000),
            _ if self.choices.is_fine => self.rng.u64(0..120),
            _ => self.rng.u64(0..30_000),
        };
        self.clock.pass(us);
        // The wall clock is set now and then, forwards and backwards.
        let by_us = self.rng.i64(0..3 * HOUR_US as i64);
        match self.rng.u8(0..20) {
            0 => {
                self.seen.see("clock: the wall goes back");
                self.clock.set_wall(-by_us);
            }
            1 => {
                self.seen.see("clock: the wall leaps ahead");
                self.clock.set_wall(by_us);
            }
            _ => {}
        }
    }

    fn hoard(&mut self) {
        self.hoard = match self.hoard {
            None => self.pool.acquire(),
            Some(_) => None,
        };
    }

    fn make_trouble(&mut self) {
        match self.rng.u8(0..4) {
            0 => self.kernel.shortage = self.rng.u32(1..4),
            1 => self.kernel.cannot_watch = 1,
            2 => self.fail_output(),
            _ => {
                if let Some(nth) = self.choose_output() {
                    self.seen.see("output: is torn");
                    self.outputs[nth].tear();
                }
            }
        }
    }

    // --- outputs ---------------------------------------------------------------------------------

    pub fn choose_output(&mut self) -> Option<usize> {
        (!self.outputs.is_empty()).then(|| self.rng.usize(0..self.outputs.len()))
    }

    fn toggle_stall(&mut self) {
        if let Some(nth) = self.choose_output() {
            self.outputs[nth].is_stalled ^= true;
        }
    }

    fn fail_output(&mut self) {
        let state = match self.rng.bool() {
            true => State::Failed,
            false => State::Closed,
        };
        // One frozen is one that nothing happens to.
        if let Some(nth) = self.choose_output().filter(|&nth| self.frozen != Some(nth)) {
            self.outputs[nth].fail(state, self.seen);
        }
    }

    fn work_outputs(&mut self) {
        if let Some(nth) = self.choose_output() {
            for _ in 0..self.rng.u8(1..6) {
                self.work_output(nth);
            }
        }
    }

    /// A step of an output's worker; whether there was anything to do for it.
    pub fn work_output(&mut self, nth: usize) -> bool {
        let now_us = self.clock.now_us();
        if self.frozen == Some(nth) {
            return false;
        }
        let output = &mut self.outputs[nth];
        let did = output.step(&self.transcript, now_us, &mut self.rng, self.seen);
        output.check_counts(self.sent);
        did
    }

    /// Does something for closed files, of every output; whether there was anything.
    pub fn keep_house(&mut self) -> bool {
        let mut kept = false;
        if self.house_rests {
            return false;
        }
        for output in &mut self.outputs {
            kept |= output.keep_house(self.seen);
        }
        kept
    }

    /// Whether outputs without room are waited for, unless they stand still.
    pub fn waits_for_full(&self) -> bool {
        let charge = self.pool.batch_charge();
        let mut live = self.outputs.iter().filter(|output| !output.has_ended());
        self.choices.pacing.is_for_each || live.all(|output| output.queue.is_full(charge))
    }

    /// With no more bytes than this on their way, nobody is waited for.
    pub fn few(&self) -> usize {
        self.choices.pacing.lead.few(&self.pool)
    }

    /// Records that were missed, by all outputs.
    pub fn missed(&self) -> u64 {
        self.outputs
            .iter()
            .map(|output| output.queue.missed())
            .sum()
    }

    /// A batch is begun. An output may miss it only if it has no room for it now; and where it is waited
    /// for, only if it stands still.
    pub fn begin_batch(&mut self) {
        let now_us = self.clock.now_us();
        let waits_for_full = self.waits_for_full();
        let most = self.choices.pacing.lead.most(&self.pool);
        let is_ahead = self.pool.charged() - self.pool.batch_charge() > most;
        self.seen
            .see_if(is_ahead, "pacing: runs ahead of those that stand");
        let patience_us = micros(self.choices.pacing.time);
        for output in &mut self.outputs {
            output.has_no_room = output.queue.is_full(self.pool.batch_charge());
            if output.has_no_room && waits_for_full {
                let has_stood_still = output.moved_us + patience_us <= now_us;
                assert!(has_stood_still, "{} only is slow", output.name);
                self.seen
                    .see_if(patience_us > 0, "pacing: gives up one that stands still");
            }
        }
    }

    /// Looks at what the recorder has done with what it had.
    pub fn observe(&mut self) {
        if !self.recorder.capture.has_records() {
            self.sent = self.transcript.records();
        }
        assert!(self.pool.charged() <= self.pool.limit());
        let (mut miss, mut miss_not) = (0, 0);
        for output in &mut self.outputs {
            output.check_counts(self.sent);
            let missed = output.queue.missed();
            if std::mem::replace(&mut output.missed, missed) < missed {
                assert!(output.has_no_room, "{} had room", output.name);
                miss += 1;
            } else {
                miss_not += 1;
            }
            if output.queue.is_idle() {
                output.moved_us = self.clock.now_us();
            }
        }
        self.seen.see_if(miss > 0, "output: misses");
        self.seen.see_if(
            miss > 0 && miss_not > 0,
            "output: misses, and others do not",
        );
    }

    // --- what must be true -----------------------------------------------------------------------

    pub fn check_totals(&self) {
        let totals = self.recorder.capture.totals();
        assert_eq!(totals, self.transcript.totals);
    }

    pub fn check_statistics(&self) {
        let statistics = self.recorder.statistics();
        assert_eq!(statistics.elapsed, self.clock.now().elapsed());
        assert_eq!(statistics.totals, self.transcript.totals);
        let buffered = (self.pool.charged(), self.pool.limit());
        assert_eq!(statistics.buffered, buffered);
        for (output, worker) in statistics.outputs.iter().zip(&self.outputs) {
            assert_eq!(output.name, worker.name);
            assert_eq!(output.missed, worker.queue.missed());
            assert_eq!(output.written, worker.bytes);
        }
    }
}
