//! The course of a run: it goes on for a while, comes to rest now and then, and ends. When it rests,
//! everybody must have everything; when it has ended, nothing may be left.

use wiretape::capture::shutdown::{Ending, Phase, SAME_SIGNAL};
use wiretape::engine::Outcome;
use wiretape::notice::Notice;
use wiretape::record::batch::Batch;
use wiretape::record::time::micros;

use crate::choices;
use crate::output::Worker;
use crate::peer::Peer;
use crate::world::{Signal, World};

/// Things that happen while it runs, and while it ends.
const STEPS: u32 = 300;
const LAST_STEPS: u32 = 60;

/// Turns without anything from outside, at most, until it sleeps; or until nobody has anything to do.
const TURNS: u32 = 20_000;

impl World<'_> {
    pub fn run(mut self) {
        for _ in 0..STEPS {
            self.act();
            self.go_on();
            match self.rng.u8(0..100) {
                0 => self.rest(),
                1 => self.fall_asleep(),
                _ => {}
            }
            if self.outcome.is_some() {
                return self.check_over();
            }
        }
        self.end();
        self.check_over();
    }

    // --- rest ------------------------------------------------------------------------------------

    /// Nothing happens any more: then it must come to sleep.
    fn fall_asleep(&mut self) {
        self.is_still = true;
        let mut turns = 0;
        while self.go_on() {
            turns += 1;
            assert!(turns < TURNS, "it never sleeps");
        }
        self.is_still = false;
    }

    /// Everybody does what there is to do, and nothing new happens. Then all that came is recorded, and
    /// every output has all.
    fn rest(&mut self) {
        self.kernel.shortage = 0;
        self.hoard = None;
        for output in &mut self.outputs {
            output.is_stalled = false;
        }
        let mut turns = 0;
        while self.outcome.is_none() && self.move_on() {
            turns += 1;
            assert!(turns < TURNS, "it never comes to rest");
        }
        let is_running = self.recorder.capture.shutdown.phase() == Phase::Running;
        if self.outcome.is_none() && is_running && self.frozen.is_none() {
            self.check_rest();
        }
    }

    /// A turn of everybody; whether there was anything to do.
    fn move_on(&mut self) -> bool {
        self.is_still = true;
        let mut did = self.go_on();
        for nth in 0..self.outputs.len() {
            did |= self.work_output(nth);
            if self.asleep.is_some() {
                self.bell.check();
            }
        }
        if !did {
            did = self.keep_house();
        }
        self.is_still = false;
        if !did && self.may_accept {
            // Only this is done by the clock alone.
            if let Some(until_us) = self.accept_rests_until {
                let now_us = self.clock.now_us();
                self.clock.pass(until_us.saturating_sub(now_us));
                did = true;
            }
        }
        did
    }

    fn check_rest(&mut self) {
        assert!(self.asleep.is_some() && !self.recorder.is_starved());
        assert!(self.peers.values().all(Peer::is_read), "unread");
        let nobody_waits = self.kernel.backlog.is_empty();
        let is_full = self.peers.len() == self.choices.config.max_conns;
        assert!(nobody_waits || is_full, "somebody is not accepted");
        self.seen
            .see_if(nobody_waits, "calm: with nobody left to accept");
        let (ended, live): (Vec<_>, Vec<_>) =
            self.outputs.iter().partition(|output| output.has_ended());
        for output in &live {
            output.check_calm(&self.transcript);
        }
        let has_records = self.recorder.capture.has_records();
        assert!(live.is_empty() || !has_records, "records are kept back");
        self.seen
            .see_if(!ended.is_empty(), "calm: with an output that ended");
        self.seen
            .see_if(has_records, "calm: with records that no output takes");
    }

    // --- the end ---------------------------------------------------------------------------------

    fn end(&mut self) {
        let ending = self.choices.ending;
        if ending == choices::Ending::ByItself {
            self.kernel.ends_by_itself = true;
            // Whatever told the loop that nobody comes any more has woken it.
            self.kernel.signal(Signal::Statistics);
        } else {
            self.kernel.signal(Signal::Stop);
        }
        if ending == choices::Ending::Frozen {
            self.house_rests = self.rng.bool();
            self.frozen = self.choose_output().filter(|_| !self.house_rests);
        }
        for _ in 0..LAST_STEPS {
            self.act();
            self.go_on();
        }
        match ending {
            choices::Ending::Patient => {}
            choices::Ending::Frozen => self.run_out_of_time(),
            choices::Ending::Hurried => self.interrupt(),
            choices::Ending::ByItself => self.run_out_of_peers(),
        }
        if self.frozen.is_none() {
            self.rest();
        }
        assert!(self.outcome.is_some(), "it does not end");
    }

    /// Time passes, and what is frozen does not move.
    fn run_out_of_time(&mut self) {
        let step_us = micros(self.choices.config.drain) / 8 + 1;
        for _ in 0..9 {
            self.act();
            self.rest();
            self.clock.pass(step_us);
            if self.rng.u8(0..8) == 0 {
                self.house_rests = false;
                self.keep_house();
            }
            self.go_on();
        }
        self.house_rests = false;
    }

    /// It is told once more: first at once, then later.
    fn interrupt(&mut self) {
        self.kernel.signal(Signal::Stop);
        self.go_on();
        self.fall_asleep();
        if self.rng.bool() {
            self.clock.pass(micros(SAME_SIGNAL));
            self.kernel.signal(Signal::Stop);
        }
    }

    /// All who are connected end, and others are accepted in their place. If the outputs do not all
    /// move then, it is told to stop after all.
    fn run_out_of_peers(&mut self) {
        if self.rng.u8(0..3) == 0 {
            self.frozen = self.choose_output();
        }
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < TURNS, "somebody stays");
            self.rest();
            let waiting = self.kernel.backlog.iter_mut();
            let everybody: Vec<_> = self.peers.values_mut().chain(waiting).collect();
            let is_stuck = self.outcome.is_some() || self.recorder.is_starved();
            if is_stuck || everybody.is_empty() {
                break;
            }
            for peer in everybody {
                peer.end_all();
            }
        }
        if self.outcome.is_none() && self.frozen.is_some() {
            self.kernel.signal(Signal::Stop);
            self.run_out_of_time();
        }
    }

    /// A signal to stop was handled.
    pub fn check_stop(&mut self, was_over: bool) {
        let now_us = self.clock.now_us();
        let phase = self.recorder.capture.shutdown.phase();
        let Some(signal_us) = self.signal_us else {
            self.signal_us = Some(now_us);
            assert!(matches!(phase, Phase::Draining | Phase::Flushing) || was_over);
            self.seen
                .see_if(self.told_us.is_some(), "end: told when its time is over");
            return;
        };
        let is_same = now_us < signal_us + micros(SAME_SIGNAL);
        if is_same && !was_over {
            self.seen.see("end: the same signal twice");
            assert!(!matches!(phase, Phase::Done(_)));
        } else {
            assert!(matches!(phase, Phase::Done(_)));
        }
    }

    /// Whether the run is over; then its outcome is checked.
    pub fn poll_outcome(&mut self) -> bool {
        self.outcome = self.recorder.poll_outcome(self.has_unaccepted());
        if let Some(outcome) = self.outcome {
            self.check_outcome(outcome);
        }
        self.outcome.is_some()
    }

    fn check_outcome(&mut self, outcome: Outcome) {
        let now_us = self.clock.now_us();
        let told_us = self.told_us.unwrap_or(u64::MAX);
        let have_ended = self.outputs.iter().all(Worker::has_ended);
        let is_whole = self.outputs.iter().all(Worker::is_whole);
        let chores: usize = self.outputs.iter().map(|output| output.chores).sum();
        let is_written = self.transcript.has_ended && have_ended;
        let expected = match self.recorder.capture.shutdown.phase() {
            Phase::Done(Ending::Whole) => {
                assert!(is_written && self.peers.is_empty());
                let hoarded = self.hoard.as_ref().map_or(0, Batch::charge);
                let left = (chores, self.pool.charged() - hoarded);
                assert_eq!(left, (0, 0), "something is left");
                self.seen.see(match self.told_us {
                    Some(_) => "end: all is written",
                    None => "end: by itself",
                });
                is_whole
            }
            Phase::Done(Ending::DeadlinePassed) => {
                assert!(told_us + micros(self.choices.config.drain) <= now_us);
                self.seen.see(match (is_written, chores) {
                    (true, 0) => "end: the deadline passes, and all is done just then",
                    (true, _) => "end: the deadline passes, and only chores are left",
                    (false, _) => "end: the deadline passes",
                });
                is_written && is_whole
            }
            Phase::Done(Ending::Interrupted) => {
                let signal_us = self.signal_us.unwrap_or(u64::MAX);
                assert!(signal_us.saturating_add(micros(SAME_SIGNAL)) <= now_us);
                self.seen.see("end: two signals");
                false
            }
            Phase::Running | Phase::Draining => {
                assert!(!self.outputs.is_empty() && have_ended);
                self.seen.see("output: all end in mid-run");
                is_whole
            }
            Phase::Flushing => panic!("the outputs are still writing"),
        };
        assert_eq!(outcome == Outcome::Whole, expected);
        self.check_said(is_written, chores);
    }

    /// Checks what was said to a person in the end.
    fn check_said(&self, is_written: bool, chores: usize) {
        let notices = self.notices.lock().expect("whole");
        for output in &self.outputs {
            let is_it = |notice: &Notice| matches!(notice, Notice::Missing { output: name } if *name == output.name);
            let is_said = notices.iter().any(is_it);
            assert_eq!(is_said, output.queue.missed() > 0, "{notices:?}");
        }
        let mut others = notices
            .iter()
            .filter(|notice| !matches!(notice, Notice::Missing { .. }));
        match (self.recorder.capture.shutdown.phase(), others.next()) {
            (Phase::Done(Ending::Interrupted), Some(Notice::Interrupted)) => {}
            (Phase::Done(Ending::DeadlinePassed), Some(Notice::ChoresLeft { count })) => {
                assert!(is_written && *count == chores && chores > 0);
            }
            (
                Phase::Done(Ending::DeadlinePassed),
                Some(Notice::DrainTimeout {
                    unread,
                    has_unaccepted,
                    unwritten,
                }),
            ) => {
                assert!(!is_written);
                assert_eq!(*unread, self.peers.len() as u64);
                assert_eq!(*has_unaccepted, self.has_unaccepted());
                let is_behind = self.outputs.iter().filter(|output| {
                    let waits = self.transcript.has_ended || output.queue.waiting() > 0;
                    !output.has_ended() && waits
                });
                let behind: Vec<_> = is_behind.map(|output| output.name.clone()).collect();
                assert_eq!(*unwritten, behind);
            }
            (Phase::Done(Ending::DeadlinePassed), None) => {
                assert!(is_written && chores == 0);
            }
            (Phase::Done(Ending::Whole) | Phase::Running | Phase::Draining, None) => {}
            (phase, notice) => panic!("{phase:?} and {notice:?}"),
        }
        assert!(others.next().is_none(), "{notices:?}");
    }

    /// The run is over: nobody is let in, and all memory comes back.
    fn check_over(self) {
        let phase = self.recorder.capture.shutdown.phase();
        let may_open = self.recorder.capture.may_open();
        assert!(!may_open || matches!(phase, Phase::Running | Phase::Draining));
        self.check_totals();
        self.check_statistics();
        self.bell.unwatch();
        let pool = self.pool.clone();
        drop(self);
        assert_eq!(pool.charged(), 0, "a batch did not come back");
    }
}
