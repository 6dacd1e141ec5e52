//! Who runs the loop, where what it records goes to a pipe.
//!
//! An output has a thread of its own, and to wake that for a lone chunk can take ten times as long as to write
//! the chunk. So the thread of the loop writes it, as an errand. But no write is sure not to wait, not even to a
//! pipe that has room: a reader that splices holds it locked. So whoever goes on an errand leaves the loop at the
//! helm and sets an alarm; if he is not back in time, his deputy takes the loop over, and he is the deputy of that
//! one once he is back. Without a deputy, while one errand waits for its pipe, nobody goes on others: the outputs'
//! own threads are woken for whatever is to be written.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::timer::Alarm;

/// The loop waits this long for one errand. Most take some microseconds, and few will wait whose output could be
/// written to when they began. Beyond the next tick of the kernel's clock an alarm costs a tenth of what it costs
/// before it, where a timer of the processor is to be set.
const PATIENCE: Duration = Duration::from_millis(5);

/// As soon as possible: zero would be never.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// A loop that pauses for errands, and can go on while they are run.
pub(super) trait Loop: Send + 'static {
    type Errand;
    type Outcome: Send;

    /// Runs until it is over or, if somebody `runs_errands`, until there is one.
    fn run(&mut self, runs_errands: impl Fn() -> bool) -> Pause<Self::Errand, Self::Outcome>;

    /// May take long.
    fn run_errand(errand: Self::Errand);
}

/// Why a loop stands still.
pub(super) enum Pause<E, O> {
    Errand(E),
    Over(O),
}

/// Runs a loop to its end, with a deputy.
pub(super) fn run<L: Loop>(work: L) -> L::Outcome {
    let Ok(alarm) = Alarm::new() else {
        return run_alone(work);
    };
    let helm = Arc::new(Helm {
        alarm,
        place: Mutex::new(Place {
            watch: None,
            deputies: 0,
            is_over: false,
        }),
    });
    let hand = || {
        let helm = Arc::clone(&helm);
        let hand = thread::Builder::new().name("loop".to_owned());
        hand.spawn(move || helm.serve()).is_ok()
    };
    if !hand() {
        return run_alone(work);
    }
    // Where there is no second, there is no deputy.
    hand();
    let (report, end) = channel();
    helm.place().watch = Some(Watch {
        work: Box::new(work),
        report,
    });
    helm.alarm.set(AT_ONCE);
    // Whoever has the loop has the other end: that goes without a word only where the loop has panicked.
    end.recv().expect("the loop tells how it ends")
}

/// Runs a loop to its end, without errands.
pub(super) fn run_alone<L: Loop>(mut work: L) -> L::Outcome {
    loop {
        match work.run(|| false) {
            Pause::Errand(errand) => L::run_errand(errand),
            Pause::Over(outcome) => return outcome,
        }
    }
}

/// Where the loop is left, and taken over.
struct Helm<L: Loop> {
    alarm: Alarm,
    place: Mutex<Place<L>>,
}

struct Place<L: Loop> {
    /// Left by who is on an errand.
    watch: Option<Watch<L>>,
    /// Threads that wait for the alarm.
    deputies: usize,
    is_over: bool,
}

/// The loop, and who is to hear of its end.
struct Watch<L: Loop> {
    work: Box<L>,
    report: Sender<L::Outcome>,
}

impl<L: Loop> Helm<L> {
    fn place(&self) -> MutexGuard<'_, Place<L>> {
        // Every change under the lock is a single step.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each of the two threads does: waits until it is needed, and runs the loop.
    fn serve(&self) {
        while let Some(watch) = self.stand_by() {
            self.keep(watch);
        }
    }

    /// The loop, once it was left for too long; `None` where it is over.
    fn stand_by(&self) -> Option<Watch<L>> {
        let mut place = self.place();
        place.deputies += 1;
        while !place.is_over {
            drop(place);
            // It can come late, with the other back or on the next errand. That does no harm.
            self.alarm.wait();
            place = self.place();
            if let Some(watch) = place.watch.take() {
                place.deputies -= 1;
                return Some(watch);
            }
        }
        None
    }

    /// Runs the loop until it is over, or was taken over during an errand.
    fn keep(&self, mut watch: Watch<L>) {
        loop {
            match watch.work.run(|| self.place().deputies > 0) {
                Pause::Errand(errand) => {
                    self.place().watch = Some(watch);
                    self.alarm.set(PATIENCE);
                    L::run_errand(errand);
                    match self.place().watch.take() {
                        Some(left) => watch = left,
                        None => return,
                    }
                    self.alarm.clear();
                }
                Pause::Over(outcome) => {
                    self.place().is_over = true;
                    self.alarm.set(AT_ONCE);
                    let Watch { work, report } = watch;
                    // What it does last, it has done before its end is known.
                    drop(work);
                    let _ = report.send(outcome);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Receiver;

    /// Goes through its steps, and is over.
    struct Script {
        steps: std::vec::IntoIter<Step>,
        /// Errands that were run or not, by turns.
        offered: Vec<bool>,
    }

    enum Step {
        /// An errand that returns at once, if somebody runs it.
        Offer,
        /// One that waits for this.
        OfferLong(Receiver<()>),
        /// Lets one return.
        Release(Sender<()>),
        /// Waits until somebody runs errands.
        AwaitDeputy,
    }

    impl Loop for Script {
        type Errand = Option<Receiver<()>>;
        type Outcome = Vec<bool>;

        fn run(&mut self, runs_errands: impl Fn() -> bool) -> Pause<Self::Errand, Vec<bool>> {
            for step in self.steps.by_ref() {
                match step {
                    Step::Release(sender) => sender.send(()).expect("it waits"),
                    Step::AwaitDeputy => {
                        while !runs_errands() {
                            thread::yield_now();
                        }
                    }
                    Step::Offer | Step::OfferLong(_) => {
                        let is_run = runs_errands();
                        self.offered.push(is_run);
                        match step {
                            Step::OfferLong(until) if is_run => return Pause::Errand(Some(until)),
                            _ if is_run => return Pause::Errand(None),
                            _ => {}
                        }
                    }
                }
            }
            Pause::Over(std::mem::take(&mut self.offered))
        }

        fn run_errand(errand: Self::Errand) {
            if let Some(until) = errand {
                // Or the test has ended before.
                let _ = until.recv();
            }
        }
    }

    fn offered(steps: Vec<Step>) -> Vec<bool> {
        let steps = steps.into_iter();
        run(Script {
            steps,
            offered: Vec::new(),
        })
    }

    #[test]
    fn short_errands_are_run_one_after_another() {
        let mut steps = vec![Step::AwaitDeputy];
        for _ in 0..1000 {
            // Where the machine is busy, one may have taken long.
            steps.extend([Step::Offer, Step::AwaitDeputy]);
        }
        assert_eq!(offered(steps), vec![true; 1000]);
    }

    #[test]
    fn a_loop_goes_on_beside_an_errand_that_waits_for_it() {
        let mut steps = Vec::new();
        for _ in 0..100 {
            let (sender, receiver) = channel();
            steps.extend([
                Step::AwaitDeputy,
                Step::OfferLong(receiver),
                // Here is the deputy, and nobody stands behind him.
                Step::Offer,
                Step::Release(sender),
            ]);
        }
        assert_eq!(offered(steps), [true, false].repeat(100));
    }

    #[test]
    fn a_loop_ends_though_an_errand_does_not() {
        let (sender, receiver) = channel();
        let steps = vec![Step::AwaitDeputy, Step::OfferLong(receiver)];
        assert_eq!(offered(steps), [true]);
        drop(sender);
    }

    #[test]
    fn alone_nobody_runs_errands() {
        let steps = vec![Step::Offer, Step::Offer].into_iter();
        let offered = run_alone(Script {
            steps,
            offered: Vec::new(),
        });
        assert_eq!(offered, [false, false]);
    }
}
