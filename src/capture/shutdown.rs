//! How a run ends: `Running → Draining → Flushing → Done`.
//!
//! Draining reads what the kernel has already taken from the peers, flushing waits until the outputs
//! have written it. Both share one deadline. A second signal, or the deadline, ends the run where it
//! stands, and it is then said to be unfinished. A run may also be told beforehand how long it lasts: that
//! it is over is as good as a signal, but not the first of two.

use std::time::Duration;

use crate::record::time::micros;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not begun.
    Running,
    /// No new peers; what the kernel holds is being read.
    Draining,
    /// Everything is recorded; the outputs are writing it.
    Flushing,
    /// It is over.
    Done(Ending),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that the kernel had taken was read and written.
    Whole,
    /// The deadline passed first.
    DeadlinePassed,
    /// A second signal came first.
    Interrupted,
}

/// A second signal within this time of the first is the same wish told twice: `timeout(1)` signals
/// its child and then the child's whole process group, a terminal and a supervisor may both speak.
pub const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// The machine. Times are microseconds since the start of the run.
#[derive(Debug)]
pub struct Shutdown {
    phase: Phase,
    drain: Duration,
    /// How long it is to run.
    run_for: Option<Duration>,
    /// When it was told to stop, by a signal or by the time.
    told_us: Option<u64>,
    /// When the first signal came.
    signal_us: Option<u64>,
}

impl Shutdown {
    /// Gives draining and flushing `drain` in all, and running `run_for`; no end, without it.
    pub fn new(drain: Duration, run_for: Option<Duration>) -> Self {
        Self {
            phase: Phase::Running,
            drain,
            run_for,
            told_us: None,
            signal_us: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it was told to stop.
    pub fn is_told(&self) -> bool {
        self.told_us.is_some()
    }

    /// INT or TERM came.
    pub fn handle_stop(&mut self, now_us: u64) {
        match (self.phase, self.signal_us) {
            (Phase::Done(_), _) => {}
            (_, None) => {
                self.signal_us = Some(now_us);
                self.tell(now_us);
            }
            (_, Some(signal_us)) => {
                if now_us >= signal_us.saturating_add(micros(SAME_SIGNAL)) {
                    self.phase = Phase::Done(Ending::Interrupted);
                }
            }
        }
    }

    fn tell(&mut self, now_us: u64) {
        self.told_us.get_or_insert(now_us);
        self.handle_finished();
    }

    /// Nothing is left to be done but to write what there is, for which there is time until it is told
    /// to stop.
    pub fn handle_finished(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
        }
    }

    /// Every peer that the kernel had let in was read to its end and recorded.
    pub fn handle_drained(&mut self) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Flushing;
        }
    }

    /// Every output has written all that it was given, or has ended.
    pub fn handle_flushed(&mut self) {
        if self.phase == Phase::Flushing {
            self.phase = Phase::Done(Ending::Whole);
        }
    }

    /// Looks at the clock.
    pub fn handle_timeout(&mut self, now_us: u64) {
        if self.deadline_us().is_none_or(|deadline| now_us < deadline) {
            return;
        }
        match self.told_us {
            None => self.tell(now_us),
            Some(_) => self.phase = Phase::Done(Ending::DeadlinePassed),
        }
    }

    /// When [`Shutdown::handle_timeout`] has something to do.
    pub fn deadline_us(&self) -> Option<u64> {
        match (self.phase, self.told_us) {
            (Phase::Done(_), _) => None,
            (_, None) => self.run_for.map(micros),
            (_, Some(told_us)) => Some(told_us.saturating_add(micros(self.drain))),
        }
    }

    /// How long the end may still take, once it was told to stop.
    pub fn left(&self, now_us: u64) -> Duration {
        let deadline_us = self.deadline_us().unwrap_or(now_us);
        Duration::from_micros(deadline_us.saturating_sub(now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Step {
        Signal(u64),
        Finished,
        Time(u64),
        Drained,
        Flushed,
    }
    use Step::{Drained, Finished, Flushed, Signal, Time};

    /// Runs a script with a drain time of 5 s and times in milliseconds.
    fn check(script: &[Step], expected: Phase) {
        check_for(None, script, expected);
    }

    /// The same with a run time in seconds.
    fn check_for(run_secs: Option<u64>, script: &[Step], expected: Phase) {
        let run_for = run_secs.map(Duration::from_secs);
        let mut shutdown = Shutdown::new(Duration::from_secs(5), run_for);
        for step in script {
            match *step {
                Signal(ms) => shutdown.handle_stop(ms * 1000),
                Finished => shutdown.handle_finished(),
                Time(ms) => shutdown.handle_timeout(ms * 1000),
                Drained => shutdown.handle_drained(),
                Flushed => shutdown.handle_flushed(),
            }
        }
        assert_eq!(shutdown.phase(), expected);
    }

    #[test]
    fn a_signal_drains_then_flushes_then_ends() {
        check(&[Time(100_000), Drained, Flushed], Phase::Running);
        check(&[Signal(10)], Phase::Draining);
        check(&[Signal(10), Time(5009), Flushed], Phase::Draining);
        check(&[Signal(10), Drained], Phase::Flushing);
        check(&[Signal(10), Drained, Flushed], Phase::Done(Ending::Whole));
        check(
            &[Signal(10), Drained, Flushed, Time(9999)],
            Phase::Done(Ending::Whole),
        );
    }

    #[test]
    fn the_deadline_ends_it_in_either_phase() {
        check(
            &[Signal(10), Time(5010)],
            Phase::Done(Ending::DeadlinePassed),
        );
        check(
            &[Signal(10), Drained, Time(5010), Flushed],
            Phase::Done(Ending::DeadlinePassed),
        );
    }

    #[test]
    fn what_has_come_to_its_end_has_time_until_it_is_told_to_stop() {
        check(&[Finished, Drained, Time(60_000)], Phase::Flushing);
        check(
            &[
                Finished,
                Drained,
                Time(60_000),
                Signal(60_001),
                Time(60_002),
            ],
            Phase::Flushing,
        );
        check(
            &[Finished, Drained, Signal(60_000), Time(65_000)],
            Phase::Done(Ending::DeadlinePassed),
        );
        check(
            &[Finished, Signal(60_000), Signal(60_300)],
            Phase::Done(Ending::Interrupted),
        );
    }

    #[test]
    fn a_run_whose_time_is_over_drains_as_if_it_were_told() {
        check_for(Some(60), &[Time(59_999)], Phase::Running);
        check_for(Some(60), &[Time(60_000)], Phase::Draining);
        check_for(Some(60), &[Time(60_000), Time(64_999)], Phase::Draining);
        check_for(
            Some(60),
            &[Time(60_000), Time(65_000)],
            Phase::Done(Ending::DeadlinePassed),
        );
        // What had come to its end before has until then, and then the drain time.
        check_for(
            Some(60),
            &[Finished, Drained, Time(60_000), Time(64_999)],
            Phase::Flushing,
        );
        // Told to stop before that, it does not begin anew.
        check_for(
            Some(60),
            &[Signal(58_000), Time(60_000), Time(63_000)],
            Phase::Done(Ending::DeadlinePassed),
        );
    }

    #[test]
    fn a_signal_behind_the_end_of_the_time_is_the_first() {
        check_for(Some(60), &[Time(60_000), Signal(61_000)], Phase::Draining);
        check_for(
            Some(60),
            &[Time(60_000), Signal(61_000), Signal(61_300)],
            Phase::Done(Ending::Interrupted),
        );
        check_for(
            Some(60),
            &[Time(60_000), Signal(64_000), Time(65_000)],
            Phase::Done(Ending::DeadlinePassed),
        );
    }

    #[test]
    fn a_second_signal_ends_it_unless_it_is_the_first_told_twice() {
        check(&[Signal(10), Signal(10), Signal(259)], Phase::Draining);
        check(&[Signal(10), Signal(260)], Phase::Done(Ending::Interrupted));
        check(
            &[Signal(10), Drained, Signal(300)],
            Phase::Done(Ending::Interrupted),
        );
    }
}
