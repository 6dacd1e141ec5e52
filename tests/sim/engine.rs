//! The loop in the simulation: turns as the engine has them (`engine/turn.rs`), around the real recorder,
//! with what the simulated kernel has instead of sockets. Between its calls the world goes on.

use wiretape::capture::shutdown::Phase;
use wiretape::capture::{READ_MAX, READ_MIN, Slot};
use wiretape::engine::lead::PATIENCE_US;
use wiretape::record::time::{Clock, micros};
use wiretape::record::{CloseReason, Direction};

use crate::bell::Wants;
use crate::output::Worker;
use crate::peer::{Got, Kind, Peer};
use crate::world::{Signal, World};

/// A record that could be sent is held this long at most, while there is always something to read.
const HOLD_US: u64 = 250;

impl World<'_> {
    /// Does a turn, or as much of one as there is to do before it sleeps; whether that was anything.
    pub fn go_on(&mut self) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        if let Some(until_us) = self.asleep {
            if !self.is_woken(until_us) {
                return false;
            }
            self.seen
                .see_if(self.bell.has_rung(), "bell: wakes who sleeps");
            self.bell.disarm();
            self.asleep = None;
        } else {
            if self.poll_outcome() {
                return true;
            }
            if !self.look() {
                self.recorder.send_if_idle();
                self.observe();
                self.meanwhile();
                if !self.wait() {
                    return true;
                }
            }
        }
        self.latch();
        self.meanwhile();
        self.accept();
        self.work();
        self.expire();
        self.meanwhile();
        self.drain();
        true
    }

    // --- waiting ---------------------------------------------------------------------------------

    fn is_woken(&self, until_us: Option<u64>) -> bool {
        let is_due = until_us.is_some_and(|until_us| until_us <= self.clock.now_us());
        is_due || self.bell.has_rung() || self.kernel_has_news()
    }

    fn kernel_has_news(&self) -> bool {
        self.kernel.has_news() || self.peers.values().any(|peer| peer.has_news)
    }

    /// Whether what is recorded waits for what the kernel has ready already.
    fn look(&mut self) -> bool {
        if !self.recorder.may_hold() {
            return false;
        }
        let held_us = self.clock.now_us() - self.transcript.time_us(self.sent);
        assert!(held_us < HOLD_US, "held for too long");
        let has_events = self.bell.has_rung() || self.kernel_has_news();
        self.bell.disarm();
        let holds = has_events || self.has_work();
        self.seen.see_if(holds, "loop: holds what could be sent");
        holds
    }

    /// Whether it goes on; else it sleeps.
    fn wait(&mut self) -> bool {
        let now_us = self.clock.now_us();
        let until_us = self.until_us();
        if self.has_work() || until_us.is_some_and(|until_us| until_us <= now_us) {
            self.bell.disarm();
            return true;
        }
        let wants = Wants {
            needs_room: self.recorder.is_starved(),
            few: self.few(),
            has_records: self.recorder.capture.has_records(),
            is_flushing: self.recorder.capture.shutdown.phase() == Phase::Flushing,
        };
        let is_armed = self.recorder.waits_for_outputs();
        assert_eq!(is_armed, wants.is_of_outputs());
        self.bell.arm(wants);
        self.meanwhile();
        let has_rung = self.bell.has_rung();
        self.seen
            .see_if(has_rung, "bell: rings between the arming and the look");
        let has_more_to_do = is_armed && self.recorder.has_more_to_do();
        self.meanwhile();
        self.seen.see_if(
            self.bell.has_rung() && !has_rung,
            "bell: rings between the look and the sleep",
        );
        if has_more_to_do || self.is_woken(until_us) {
            self.bell.disarm();
            return true;
        }
        self.check_sleep(now_us, until_us);
        self.seen.see("loop: sleeps");
        self.asleep = Some(until_us);
        false
    }

    /// Checks that there is nothing to be done, and that it wakes for what the clock brings.
    fn check_sleep(&self, now_us: u64, until_us: Option<u64>) {
        self.bell.check();
        let wakes_by = |us: u64| until_us.is_some_and(|until_us| until_us <= us);
        if self.recorder.is_starved() && self.pool.has_batch() {
            let patience_us = micros(self.choices.pacing.time).max(PATIENCE_US);
            assert!(wakes_by(now_us + patience_us), "outputs are waited for");
        }
        let config = &self.choices.config;
        if let Some(told_us) = self.told_us {
            let drain_us = micros(config.drain);
            assert!(wakes_by(told_us + drain_us), "sleeps over the deadline");
        } else if let Some(run_for) = config.run_for {
            assert!(wakes_by(micros(run_for)), "sleeps over the end of its time");
        }
    }

    /// Whether the next turn has something to do, whatever the kernel says.
    fn has_work(&self) -> bool {
        let has_any = self.has_callers() || !self.ready.is_empty();
        !self.recorder.is_starved() && has_any
    }

    fn until_us(&self) -> Option<u64> {
        let deadlines = [self.recorder.deadline_us(), self.accept_rests_until];
        deadlines.into_iter().flatten().min()
    }

    fn latch(&mut self) {
        let mut signals = std::mem::take(&mut self.kernel.signals);
        // The kernel tells the lowest number first.
        signals.sort_unstable();
        for signal in signals {
            self.handle_signal(signal);
        }
        let has_news = std::mem::take(&mut self.kernel.listener_has_news);
        // Who listens no more hears nothing.
        self.may_accept |= has_news && !self.recorder.capture.has_opened_all();
        let mut ended = Vec::new();
        for (&slot, peer) in &mut self.peers {
            if std::mem::take(&mut peer.has_news) {
                ended.extend((peer.kind == Kind::Source && peer.has_end()).then_some(slot));
                list(&mut self.ready, slot, peer);
            }
        }
        for slot in ended {
            self.handle_ending(slot);
        }
        self.recorder.begin_turn();
    }

    // --- room ------------------------------------------------------------------------------------

    pub fn make_room(&mut self, slot: Option<Slot>) -> bool {
        if self.recorder.capture.has_room(slot) {
            return self.recorder.make_room(slot);
        }
        let was_full = self.recorder.capture.has_records();
        let has_room = self.recorder.make_room(slot);
        self.observe();
        if has_room {
            self.waits_since_us = None;
            self.seen.see_if(was_full, "room: a batch is full");
            self.begin_batch();
            let is_there = self.recorder.capture.has_room(slot);
            assert!(is_there, "an empty batch has room for everything");
        } else {
            self.check_starved();
        }
        has_room
    }

    /// Checks that it is waited for somebody who is worth it.
    fn check_starved(&mut self) {
        self.seen.see("room: starved");
        let pacing = self.choices.pacing;
        if self.pool.has_batch() && self.pool.charged() > self.few() {
            let now_us = self.clock.now_us();
            let since_us = *self.waits_since_us.get_or_insert(now_us);
            let stands = |moved_us: u64| moved_us.max(since_us) + PATIENCE_US <= now_us;
            let mut outputs = self.outputs.iter().filter(|output| output.holds_batches());
            let has_standing = outputs.any(|output| !output.has_ended() && stands(output.moved_us));
            let waits_for_full = self.waits_for_full() && !pacing.time.is_zero();
            assert!(
                !has_standing || waits_for_full,
                "one stands, and others wait"
            );
            self.seen
                .see_if(!has_standing, "pacing: waits for what is on its way");
        } else if self.pool.has_batch() {
            assert!(!pacing.time.is_zero() && self.waits_for_full());
            let mut outputs = self.outputs.iter();
            assert!(outputs.any(|output| output.queue.is_full(self.pool.batch_charge())));
            self.seen.see(match pacing.is_for_each {
                true => "pacing: waits for each",
                false => "pacing: waits for one of all",
            });
        } else if self.hoard.is_none() {
            let mut blocking = self.outputs.iter().filter(|output| !output.may_miss);
            let is_held_up = blocking.any(|output| !output.has_ended() && output.holds_batches());
            assert!(is_held_up, "outputs that may miss records hold all memory");
        }
    }

    // --- connections -----------------------------------------------------------------------------

    /// A turn for each connection that may have something to do.
    fn work(&mut self) {
        let turn = std::mem::take(&mut self.ready);
        for (nth, &slot) in turn.iter().enumerate() {
            if let Some(peer) = self.peers.get_mut(&slot) {
                peer.is_listed = false;
                self.serve(slot);
            }
            if self.recorder.is_starved() {
                self.ready.extend_from_slice(&turn[nth + 1..]);
                break;
            }
            self.meanwhile();
        }
    }

    /// One read each way, then what is to be sent, then the end if it is there.
    fn serve(&mut self, slot: Slot) {
        let kind = self.peers[&slot].kind;
        let mut has_moved = false;
        for &direction in kind.directions() {
            if !self.make_room(Some(slot)) {
                return self.list(slot);
            }
            has_moved |= self.read(slot, direction);
        }
        if matches!(kind, Kind::Device | Kind::Session) && !self.send(slot) {
            return self.list(slot);
        }
        let Some(peer) = self.peers.get_mut(&slot) else {
            return;
        };
        if std::mem::take(&mut peer.is_suspect) && !has_moved {
            return self.suspect(slot);
        }
        self.seen.see_if(
            peer.is_half_closed() && has_moved,
            "conn: both ways, one after the other",
        );
        if let Some(reason) = peer.over() {
            // The room for an end is room for the close behind it.
            let has_room = kind == Kind::Source && !has_moved;
            if !has_room && !self.make_room(Some(slot)) {
                return self.list(slot);
            }
            return self.handle_close(slot, reason);
        }
        if has_moved || peer.may_have_more() {
            self.list(slot);
        }
    }

    /// One read, for which there is room; whether anything came.
    fn read(&mut self, slot: Slot, direction: Direction) -> bool {
        let buffer = self.recorder.capture.read_buffer(slot, direction);
        assert!((READ_MIN..=READ_MAX).contains(&buffer.len()));
        let peer = self.peers.get_mut(&slot).expect("it is served");
        let (id, now) = (peer.id, self.clock.now());
        match peer.read(direction, buffer.len(), &mut self.rng) {
            Got::Bytes(bytes) => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                let was_expired = peer.expired.take_if(|reason| *reason != CloseReason::Limit);
                self.seen
                    .see_if(was_expired.is_some(), "conn: idle, and then not");
                peer.is_suspect = false;
                peer.active_us = now.elapsed_us;
                let capture = &mut self.recorder.capture;
                capture.handle_read(slot, direction, bytes.len(), now);
                self.record_bytes(slot, direction, &bytes);
                return true;
            }
            Got::Nothing => {}
            Got::End => {
                self.transcript.handle_eof(id, direction, now, self.seen);
                self.recorder.capture.handle_eof(slot, direction, now);
                self.check_totals();
            }
            Got::Broken(reason) => {
                self.seen.see("conn: reset");
                peer.retire(reason);
            }
        }
        false
    }

    fn record_bytes(&mut self, slot: Slot, direction: Direction, bytes: &[u8]) {
        let totals = self.recorder.capture.totals();
        let recorded = match direction {
            Direction::In => totals.in_bytes,
            Direction::Out => totals.out_bytes,
        };
        let (id, now) = (self.peers[&slot].id, self.clock.now());
        self.transcript
            .handle_bytes(id, direction, bytes, recorded, now, self.seen);
        self.check_totals();
    }

    /// Sends some of what is to be sent; `false` where there is no room to record it.
    fn send(&mut self, slot: Slot) -> bool {
        let peer = &self.peers[&slot];
        let (id, kind, to_send) = (peer.id, peer.kind, peer.to_send);
        if to_send == 0 || peer.ending.is_some() {
            return true;
        }
        let mut bytes = vec![0; self.rng.usize(1..=to_send)];
        self.rng.fill(&mut bytes);
        if kind == Kind::Session {
            self.seen.see("conn: sent to, counted");
            self.recorder.capture.handle_sent(slot, &bytes);
            self.transcript.handle_sent(id, &bytes);
        } else {
            if !self.make_room(Some(slot)) {
                return false;
            }
            self.seen.see("conn: sent to, recorded");
            let now = self.clock.now();
            let buffer = self.recorder.capture.read_buffer(slot, Direction::Out);
            bytes.truncate(buffer.len());
            buffer[..bytes.len()].copy_from_slice(&bytes);
            let capture = &mut self.recorder.capture;
            capture.handle_written(slot, bytes.len(), now);
            self.record_bytes(slot, Direction::Out, &bytes);
        }
        let peer = self.peers.get_mut(&slot).expect("it is served");
        peer.to_send -= bytes.len();
        self.list(slot);
        true
    }

    /// Nothing has come of a connection for too long, and nothing is there.
    fn suspect(&mut self, slot: Slot) {
        let is_held_up = self.peers[&slot].kind == Kind::Relayed && self.rng.bool();
        let now = self.clock.now();
        if is_held_up {
            self.seen.see("conn: idle, and spared");
            let peer = self.peers.get_mut(&slot).expect("it is served");
            peer.active_us = now.elapsed_us;
            peer.expired = None;
            self.recorder.capture.handle_alive(slot, now);
        } else {
            self.retire(slot, CloseReason::IdleTimeout);
        }
        // What the kernel has told of it, and was not served, is not told again.
        self.list(slot);
    }

    pub fn handle_close(&mut self, slot: Slot, reason: CloseReason) {
        let now = self.clock.now();
        self.seen
            .see_if(reason == CloseReason::IdleTimeout, "conn: idle");
        self.seen
            .see_if(reason == CloseReason::Limit, "conn: age limit");
        let peer = self.peers.remove(&slot).expect("it is open");
        self.transcript
            .handle_close(peer.id, reason.clone(), now, self.seen);
        self.recorder.capture.handle_close(slot, reason, now);
        self.check_totals();
        // A descriptor has come free.
        self.accept_rests_until = None;
    }

    pub fn retire(&mut self, slot: Slot, reason: CloseReason) {
        let peer = self.peers.get_mut(&slot).expect("it is open");
        peer.retire(reason);
        self.list(slot);
    }

    pub fn list(&mut self, slot: Slot) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            list(&mut self.ready, slot, peer);
        }
    }

    // --- time ------------------------------------------------------------------------------------

    fn expire(&mut self) {
        let now = self.clock.now();
        let shutdown = &mut self.recorder.capture.shutdown;
        shutdown.handle_timeout(now.elapsed_us);
        self.stop_if_told();
        while let Some((slot, reason)) = self.recorder.capture.poll_expired(now) {
            let peer = self.peers.get_mut(&slot);
            let peer = peer.expect("only an open connection expires");
            let before = peer.expired.replace(reason.clone());
            assert_eq!(before, None, "told twice");
            let [idle, age] = self.choices.dues_us(peer);
            let due = match &reason {
                CloseReason::IdleTimeout => idle,
                CloseReason::Limit => age,
                other => panic!("{other:?} is no matter of time"),
            };
            assert!(due.is_some_and(|due| due <= now.elapsed_us), "too early");
            if reason == CloseReason::IdleTimeout {
                peer.is_suspect = true;
                self.list(slot);
            } else {
                self.retire(slot, reason);
            }
        }
        // Nobody was forgotten, and the next call is asked for in time.
        let waiting = self.peers.values().filter(|peer| peer.expired.is_none());
        let dues = waiting.flat_map(|peer| self.choices.dues_us(peer));
        if let Some(due) = dues.flatten().min() {
            assert!(due > now.elapsed_us, "overdue");
            let asked = self.recorder.capture.deadline_us();
            assert!(asked.is_some_and(|asked| asked <= due), "asked for late");
        }
        assert!(self.recorder.capture.deadlines() <= 2 * self.peers.len() + 65);
    }

    // --- signals and the end ---------------------------------------------------------------------

    fn handle_signal(&mut self, signal: Signal) {
        let now = self.clock.now();
        match signal {
            Signal::Hup => self.reopen(),
            Signal::Statistics => self.check_statistics(),
            Signal::Stop => {
                let shutdown = &mut self.recorder.capture.shutdown;
                let was_over = matches!(shutdown.phase(), Phase::Done(_));
                shutdown.handle_stop(now.elapsed_us);
                self.check_stop(was_over);
                self.stop_if_told();
            }
        }
    }

    fn reopen(&mut self) {
        if !self.transcript.has_ended {
            self.transcript.handle_reopen(self.clock.now());
        } else {
            self.seen.see("hup: while the run ends");
        }
        let is_stalled = self.outputs.iter().any(|output| output.is_stalled);
        self.seen
            .see_if(is_stalled, "hup: while its output stands still");
        self.seen
            .see_if(self.recorder.is_starved(), "hup: while starved");
        if let [.., (one, _), (other, _)] = self.transcript.reopenings[..] {
            self.seen.see_if(one == other, "hup: two in a row");
        }
        let missed = self.missed();
        self.recorder.reopen();
        self.observe();
        self.seen
            .see_if(self.missed() > missed, "output: misses behind a HUP");
    }

    fn stop_if_told(&mut self) {
        let now_us = self.clock.now_us();
        let is_told = self.recorder.capture.shutdown.is_told();
        let is_over = matches!(self.recorder.capture.shutdown.phase(), Phase::Done(_));
        let run_for = self.choices.config.run_for.map(micros);
        let is_due = run_for.is_some_and(|run_for_us| run_for_us <= now_us);
        assert!(is_told || is_over || !is_due, "its time is over");
        if is_told && self.told_us.is_none() {
            self.told_us = Some(now_us);
            if self.signal_us.is_none() {
                assert!(is_due, "told by nobody");
                self.seen.see("end: its time is over");
            }
            self.begin_drain();
        }
    }

    fn begin_drain(&mut self) {
        self.seen
            .see_if(self.recorder.is_starved(), "end: while starved");
        // Where nobody listens any more, nobody waits.
        self.may_accept = !self.recorder.capture.has_opened_all();
        self.kernel.is_quiet = true;
        let slots: Vec<_> = self.peers.keys().copied().collect();
        for slot in slots {
            self.retire(slot, CloseReason::Shutdown);
        }
        self.accept_rests_until = None;
    }

    fn drain(&mut self) {
        let has_unaccepted = self.has_unaccepted();
        let has_opened_all = self.recorder.capture.has_opened_all();
        let shutdown = &mut self.recorder.capture.shutdown;
        let nobody_is_left = self.peers.is_empty() && self.kernel.backlog.is_empty();
        let is_left_alone = self.kernel.ends_by_itself && nobody_is_left && !has_unaccepted;
        if is_left_alone || has_opened_all && self.peers.is_empty() {
            shutdown.handle_finished();
        }
        if shutdown.phase() == Phase::Draining && self.peers.is_empty() && !has_unaccepted {
            let now = self.clock.now();
            self.recorder.end();
            if self.recorder.capture.shutdown.phase() == Phase::Flushing {
                self.transcript.handle_end(now);
                self.check_totals();
            } else {
                self.seen.see("end: waits for room");
            }
            self.observe();
        }
        let phase = self.recorder.capture.shutdown.phase();
        let have_ended = self.outputs.iter().all(Worker::has_ended);
        let have_chores = self.outputs.iter().any(|output| output.chores > 0);
        self.seen.see_if(
            phase == Phase::Flushing && have_ended && have_chores,
            "end: chores are waited for",
        );
        self.recorder.flush();
    }
}

/// Puts a connection on the list of those to serve, once.
fn list(ready: &mut Vec<Slot>, slot: Slot, peer: &mut Peer) {
    if !std::mem::replace(&mut peer.is_listed, true) {
        ready.push(slot);
    }
}
