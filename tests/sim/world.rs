//! Peers, outputs, clocks and signals, all driven by one seed, around a real core and a real pool.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use wiretape::capture::shutdown::{Ending, Phase};
use wiretape::capture::{Capture, Config, READ_MAX, READ_MIN, Slot};
use wiretape::record::batch::{Batch, BatchPool};
use wiretape::record::doorbell::Doorbell;
use wiretape::record::{
    CloseReason, Direction, Endpoints, Framing, RunId, Start, Timestamp, WallTime,
};

use crate::ledger::{Coverage, Ledger, Story, through_ndjson};

/// Smaller than the real one, so that batches fill up within a few steps.
const ARENA: usize = 16 * 1024;
const STEPS: usize = 300;

/// What the simulated kernel holds of a connection.
#[derive(Debug)]
struct Peer {
    id: u64,
    slot: Slot,
    /// Arrived, not read yet.
    pending: VecDeque<u8>,
    /// How it ends behind the pending bytes.
    end: Option<CloseReason>,
    /// It was idle for too long, unless something has arrived that was not read yet.
    is_suspect: bool,
    /// Its time is over: what has arrived is read, nothing more arrives.
    is_retired: bool,
    active_us: u64,
    opened_us: u64,
    /// Bytes are recorded both ways.
    is_conversation: bool,
}

/// An output: what it was sent and has not worked off.
#[derive(Debug)]
struct SimOutput {
    queue: VecDeque<Arc<Batch>>,
    ledger_position: u64,
    is_stalled: bool,
    has_failed: bool,
}

pub struct World {
    rng: Rng,
    now: Timestamp,
    config: Config,
    pool: BatchPool,
    capture: Capture,
    peers: Vec<Peer>,
    outputs: Vec<SimOutput>,
    ledger: Ledger,
    line: Vec<u8>,
    checks_format: bool,
    /// Peers send far more than the outputs take.
    is_flood: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let framing = match rng.u8(0..3) {
            0 => Framing::Chunk,
            1 => Framing::Line {
                max: rng.usize(1..64),
            },
            _ => Framing::Line {
                max: rng.usize(64..(ARENA - READ_MIN) / 2),
            },
        };
        let mut maybe = |from: u64, to: u64| {
            let chosen = rng.bool();
            chosen.then(|| Duration::from_micros(rng.u64(from..to)))
        };
        let (idle_timeout, max_age) = (maybe(1_000, 200_000), maybe(10_000, 500_000));
        let carry_limit = if rng.bool() {
            rng.usize(0..4_096)
        } else {
            usize::MAX
        };
        let config = Config {
            max_conns: rng.usize(1..12),
            idle_timeout,
            max_age,
            drain: Duration::from_micros(rng.u64(1..200_000)),
            carry_limit,
            ..Config::new(framing)
        };
        let limit = rng.usize(2..5) * BatchPool::batch_cost(ARENA);
        let doorbell = Arc::new(Doorbell::new(|| {}));
        let outputs = (0..rng.usize(1..4)).map(|_| SimOutput {
            queue: VecDeque::new(),
            ledger_position: 0,
            is_stalled: false,
            has_failed: false,
        });
        Self {
            outputs: outputs.collect(),
            ledger: Ledger::new(framing, carry_limit < usize::MAX),
            pool: BatchPool::new(ARENA, limit, framing, doorbell),
            capture: Capture::new(config.clone()),
            config,
            now: Timestamp {
                wall: WallTime::from_unix_micros(1_795_348_979_000_000),
                elapsed_us: 0,
            },
            peers: Vec::new(),
            line: Vec::new(),
            checks_format: rng.u8(0..4) == 0,
            is_flood: framing == Framing::Chunk && rng.u8(0..8) == 0,
            rng,
        }
    }

    pub fn run(mut self, seen: &mut Coverage) {
        assert!(self.make_room(None, seen));
        let start = Start {
            run: RunId(1),
            mode: "listen".to_owned(),
            listen: vec!["192.0.2.1:1234".to_owned()],
            connect: Vec::new(),
            tool: "simulation".to_owned(),
            segment: 1,
            conn: None,
        };
        self.capture.handle_start(start, self.now);
        for nth in 1..=STEPS {
            self.step(seen);
            if nth % 100 == 0 {
                let totals = self.capture.totals();
                self.ledger
                    .check_held_back(totals.in_bytes + totals.out_bytes);
            }
        }
        self.end(seen);
    }

    fn step(&mut self, seen: &mut Coverage) {
        match self.rng.u8(0..100) {
            0..8 => self.accept(seen),
            8..48 => self.arrive(),
            48..78 => self.read(seen),
            78..83 => self.finish_peer(),
            83..90 => self.pass_time(seen),
            90..94 if self.is_flood => self.outputs[0].is_stalled = true,
            90..94 => self.toggle_stall(),
            94 => self.fail_output(seen),
            _ => self.send_if_idle(),
        }
        if self.rng.bool() {
            self.work_outputs(seen);
        }
        self.expire(seen);
        assert!(self.pool.charged() <= self.pool.limit());
        assert!(self.capture.deadlines() <= 2 * self.peers.len() + 65);
    }

    // --- the engine's part -----------------------------------------------------------------------

    fn make_room(&mut self, slot: Option<Slot>, seen: &mut Coverage) -> bool {
        if self.capture.has_room(slot) {
            return true;
        }
        if let Some(batch) = self.capture.poll_batch() {
            seen.full = true;
            self.send(batch);
        }
        match self.pool.acquire() {
            Some(batch) => self.capture.handle_batch(batch),
            None => {
                seen.starved = true;
                return false;
            }
        }
        assert!(
            self.capture.has_room(slot),
            "an empty batch has room for everything"
        );
        true
    }

    fn send(&mut self, batch: Batch) {
        let batch = batch.seal();
        for output in self.outputs.iter_mut().filter(|output| !output.has_failed) {
            output.queue.push_back(Arc::clone(&batch));
        }
    }

    fn send_if_idle(&mut self) {
        let is_idle = |output: &SimOutput| !output.has_failed && output.queue.is_empty();
        if self.outputs.iter().any(is_idle) {
            if let Some(batch) = self.capture.poll_batch() {
                self.send(batch);
            }
        }
    }

    fn accept(&mut self, seen: &mut Coverage) {
        if !self.capture.may_open() {
            seen.at_max_conns |= self.peers.len() == self.config.max_conns;
            return;
        }
        if !self.make_room(None, seen) {
            return;
        }
        let id = self.ledger.stories.len() as u64 + 1;
        let peer = format!("192.0.2.9:{}", 50_000 + id);
        let story = Story::new(peer.clone(), self.now.elapsed_us);
        self.ledger.stories.insert(id, story);
        let endpoints = Endpoints {
            conn: self.capture.next_conn(),
            peer: peer.into(),
            local: "192.0.2.1:1234".into(),
            target: None,
        };
        let slot = self.capture.handle_open(endpoints, None, self.now);
        assert!(
            self.peers.iter().all(|peer| peer.slot != slot),
            "a slot twice"
        );
        self.peers.push(Peer {
            id,
            slot,
            pending: VecDeque::new(),
            end: None,
            is_suspect: false,
            is_retired: false,
            active_us: self.now.elapsed_us,
            opened_us: self.now.elapsed_us,
            is_conversation: self.rng.bool(),
        });
    }

    fn read(&mut self, seen: &mut Coverage) {
        let Some(nth) = self.choose_peer() else {
            return;
        };
        if self.make_room(Some(self.peers[nth].slot), seen) {
            self.read_peer(nth);
        }
    }

    /// One read of a peer for which there is room, as the engine does it. Says whether there was
    /// anything to read.
    fn read_peer(&mut self, nth: usize) -> bool {
        let peer = &mut self.peers[nth];
        let direction = match peer.is_conversation && self.rng.bool() {
            true => Direction::Out,
            false => Direction::In,
        };
        let buffer = self.capture.read_buffer(peer.slot, direction);
        assert!((READ_MIN..=READ_MAX).contains(&buffer.len()));
        if peer.pending.is_empty() {
            if peer.is_suspect {
                peer.end.get_or_insert(CloseReason::IdleTimeout);
            }
            return match peer.end.clone() {
                Some(reason) => {
                    self.close(nth, reason);
                    true
                }
                None => false,
            };
        }
        peer.is_suspect = false;
        let most = peer.pending.len().min(buffer.len());
        // A read may return less than there is.
        let len = if self.rng.bool() {
            most
        } else {
            self.rng.usize(1..=most)
        };
        for (place, byte) in buffer.iter_mut().zip(peer.pending.drain(..len)) {
            *place = byte;
        }
        let story = self
            .ledger
            .stories
            .get_mut(&peer.id)
            .expect("it was opened");
        let flow = story.flow(direction);
        flow.bytes.extend_from_slice(&buffer[..len]);
        peer.active_us = self.now.elapsed_us;
        self.capture
            .handle_read(peer.slot, direction, len, self.now);
        true
    }

    fn close(&mut self, nth: usize, reason: CloseReason) {
        let peer = self.peers.swap_remove(nth);
        let story = self
            .ledger
            .stories
            .get_mut(&peer.id)
            .expect("it was opened");
        story.closed = Some((reason.clone(), self.now.elapsed_us));
        if reason == CloseReason::Eof {
            for direction in [Direction::In, Direction::Out] {
                if direction == Direction::In || peer.is_conversation {
                    story.flow(direction).has_eof = true;
                    (self.capture).handle_eof(peer.slot, direction, self.now);
                }
            }
        }
        self.capture.handle_close(peer.slot, reason, self.now);
    }

    fn expire(&mut self, seen: &mut Coverage) {
        while let Some((slot, reason)) = self.capture.poll_expired(self.now) {
            let nth = self.peers.iter().position(|peer| peer.slot == slot);
            let nth = nth.expect("only an open connection expires");
            let (idle, age) = self.times(&self.peers[nth]);
            match &reason {
                CloseReason::IdleTimeout => assert!(idle.is_some_and(|left| left == 0)),
                CloseReason::Limit => assert!(age.is_some_and(|left| left == 0)),
                other => panic!("{other:?} is no matter of time"),
            }
            seen.idle_timeout |= reason == CloseReason::IdleTimeout;
            seen.max_age |= reason == CloseReason::Limit;
            let peer = &mut self.peers[nth];
            assert!(!peer.is_suspect && !peer.is_retired, "told twice");
            if reason == CloseReason::IdleTimeout {
                peer.is_suspect = true;
            } else {
                peer.is_retired = true;
                peer.end.get_or_insert(reason);
            }
        }
        // Nobody was forgotten, and the next call is asked for in time.
        let live = self
            .peers
            .iter()
            .filter(|peer| !peer.is_suspect && !peer.is_retired);
        let due = live.filter_map(|peer| {
            let (idle, age) = self.times(peer);
            let left = idle.into_iter().chain(age).min()?;
            Some(self.now.elapsed_us + left)
        });
        if let Some(due) = due.min() {
            assert!(due > self.now.elapsed_us, "overdue");
            assert!(self.capture.deadline_us().is_some_and(|asked| asked <= due));
        }
    }

    /// Microseconds until the peer is idle for too long, and too old.
    fn times(&self, peer: &Peer) -> (Option<u64>, Option<u64>) {
        let left = |since_us: u64, limit: Option<Duration>| {
            let limit = limit?.as_micros() as u64;
            Some((since_us + limit).saturating_sub(self.now.elapsed_us))
        };
        (
            left(peer.active_us, self.config.idle_timeout),
            left(peer.opened_us, self.config.max_age),
        )
    }

    // --- the world's part ------------------------------------------------------------------------

    fn choose_peer(&mut self) -> Option<usize> {
        (!self.peers.is_empty()).then(|| self.rng.usize(0..self.peers.len()))
    }

    fn arrive(&mut self) {
        let Some(nth) = self.choose_peer() else {
            return;
        };
        if self.peers[nth].end.is_some() {
            return;
        }
        let len = match self.rng.u8(0..4) {
            _ if self.is_flood => self.rng.usize(10_000..60_000),
            0 => 1,
            1 => self.rng.usize(1..40),
            2 => self.rng.usize(1..2_000),
            _ => self.rng.usize(1..6_000),
        };
        let newlines = self.rng.choice([0, 2, 40, 255]).unwrap_or(0);
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        for byte in &mut bytes {
            *byte = if *byte < newlines { b'\n' } else { *byte };
        }
        self.peers[nth].pending.extend(bytes);
    }

    fn finish_peer(&mut self) {
        let Some(nth) = self.choose_peer() else {
            return;
        };
        let reason = match self.rng.u8(0..3) {
            0 => CloseReason::Eof,
            1 => CloseReason::Reset,
            _ => CloseReason::Error("connection timed out".into()),
        };
        self.peers[nth].end.get_or_insert(reason);
    }

    fn pass_time(&mut self, seen: &mut Coverage) {
        self.now.elapsed_us += self.rng.u64(0..30_000);
        let wall = self.now.wall.unix_micros();
        // The wall clock is set now and then, forwards and backwards.
        let wall = match self.rng.u8(0..10) {
            0 => {
                seen.wall_backwards = true;
                wall.saturating_sub(self.rng.u64(0..10_000_000_000))
            }
            1 => wall + self.rng.u64(0..10_000_000_000),
            _ => wall + 1_000,
        };
        self.now.wall = WallTime::from_unix_micros(wall);
    }

    fn toggle_stall(&mut self) {
        let nth = self.rng.usize(0..self.outputs.len());
        self.outputs[nth].is_stalled = !self.outputs[nth].is_stalled;
    }

    /// An output other than the first, whose records are checked, fails: what it was sent goes back,
    /// and it is sent nothing more.
    fn fail_output(&mut self, seen: &mut Coverage) {
        let nth = self.rng.usize(0..self.outputs.len());
        if nth > 0 {
            self.outputs[nth].has_failed = true;
            self.outputs[nth].queue.clear();
            seen.failed_output = true;
        }
    }

    fn work_outputs(&mut self, seen: &mut Coverage) {
        let nth = self.rng.usize(0..self.outputs.len());
        if !self.outputs[nth].is_stalled {
            self.work_off_one(nth, seen);
        }
    }

    /// An output works off one batch. The first output's records are checked against the model; the
    /// others must be given the same, in the same order.
    fn work_off_one(&mut self, nth: usize, seen: &mut Coverage) {
        let output = &mut self.outputs[nth];
        let Some(batch) = output.queue.pop_front() else {
            return;
        };
        assert_eq!(batch.first_seq(), output.ledger_position);
        output.ledger_position = batch.next_seq();
        if nth == 0 {
            for record in batch.iter() {
                if self.checks_format && record.seq % 16 == 0 {
                    let read = through_ndjson(&record, &mut self.line);
                    self.ledger.check(&read, seen);
                } else {
                    self.ledger.check(&record, seen);
                }
            }
        }
        drop(batch);
    }

    // --- the end ---------------------------------------------------------------------------------

    fn end(mut self, seen: &mut Coverage) {
        self.capture.shutdown.handle_stop(self.now.elapsed_us);
        assert_eq!(self.capture.shutdown.phase(), Phase::Draining);
        let will_hang = self.rng.u8(0..4) == 0;
        while self.capture.shutdown.phase() == Phase::Draining {
            if will_hang && self.rng.u8(0..20) == 0 {
                return self.end_early(seen);
            }
            for nth in 0..self.outputs.len() {
                self.outputs[nth].is_stalled = false;
                self.work_off_one(nth, seen);
            }
            let Some(nth) = self.choose_peer() else {
                if self.make_room(None, seen) {
                    self.capture.handle_end(self.now);
                    let last = self.capture.poll_batch().expect("it holds the end");
                    self.send(last);
                    self.capture.shutdown.handle_drained();
                }
                continue;
            };
            if self.make_room(Some(self.peers[nth].slot), seen) && !self.read_peer(nth) {
                self.close(nth, CloseReason::Shutdown);
            }
        }
        for nth in 0..self.outputs.len() {
            while !self.outputs[nth].queue.is_empty() {
                self.work_off_one(nth, seen);
            }
        }
        self.capture.shutdown.handle_flushed();
        assert_eq!(self.capture.shutdown.phase(), Phase::Done(Ending::Whole));
        seen.drained = true;
        self.ledger.check_end();
        assert_eq!(self.capture.totals().open, 0);
        assert!(!self.capture.may_open());
        assert_eq!(self.pool.charged(), 0, "a batch did not come back");
    }

    /// The outputs hang, and the run ends by its deadline or a second signal.
    fn end_early(&mut self, seen: &mut Coverage) {
        let began_us = self.now.elapsed_us;
        if self.rng.bool() {
            self.capture.shutdown.handle_stop(began_us + 100_000);
            assert_eq!(self.capture.shutdown.phase(), Phase::Draining);
            self.capture.shutdown.handle_stop(began_us + 250_000);
            assert_eq!(
                self.capture.shutdown.phase(),
                Phase::Done(Ending::Interrupted)
            );
            seen.interrupted = true;
        } else {
            let deadline_us = self.capture.shutdown.deadline_us().expect("it is draining");
            self.capture.shutdown.handle_timeout(deadline_us - 1);
            assert_eq!(self.capture.shutdown.phase(), Phase::Draining);
            self.capture.shutdown.handle_timeout(deadline_us);
            assert_eq!(
                self.capture.shutdown.phase(),
                Phase::Done(Ending::DeadlinePassed)
            );
            seen.deadline_passed = true;
        }
    }
}
