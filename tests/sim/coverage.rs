//! Where the seeds are to come: a simulation that never comes to the interesting places proves nothing.

use std::collections::BTreeMap;

/// All of them, in order.
const PLACES: [&str; 69] = [
    "accepting: fails",
    "accepting: is tried again by the clock",
    "accepting: nobody more is let in",
    "accepting: somebody was in the queue when it was to stop",
    "accepting: the last one has come",
    "accepting: the new one cannot be watched",
    "admission: ended before it was let in",
    "admission: ended, and unread",
    "admission: not one too many after all",
    "admission: refused",
    "bell: rings between the arming and the look",
    "bell: rings between the look and the sleep",
    "bell: wakes who sleeps",
    "calm: with an output that ended",
    "calm: with nobody left to accept",
    "calm: with records that no output takes",
    "clock: hours pass",
    "clock: the wall goes back",
    "clock: the wall leaps ahead",
    "conn: age limit",
    "conn: both ways, one after the other",
    "conn: bytes before it is accepted",
    "conn: idle",
    "conn: idle, and spared",
    "conn: idle, and then not",
    "conn: reset",
    "conn: sent to, counted",
    "conn: sent to, recorded",
    "end: all is written",
    "end: by itself",
    "end: chores are waited for",
    "end: its time is over",
    "end: the deadline passes",
    "end: the deadline passes, and all is done just then",
    "end: the deadline passes, and only chores are left",
    "end: the same signal twice",
    "end: told when its time is over",
    "end: two signals",
    "end: waits for room",
    "end: while starved",
    "framing: a long line is cut",
    "framing: cut for want of memory",
    "hup: a gap is before it",
    "hup: in time",
    "hup: two in a row",
    "hup: while its output stands still",
    "hup: while starved",
    "hup: while the run ends",
    "loop: holds what could be sent",
    "loop: sleeps",
    "output: all end in mid-run",
    "output: closes",
    "output: fails",
    "output: fails and holds a batch",
    "output: is torn",
    "output: looks after its files",
    "output: misses",
    "output: misses again",
    "output: misses behind a HUP",
    "output: misses, and others do not",
    "output: takes the end though it is full",
    "output: there is none",
    "pacing: gives up one that stands still",
    "pacing: waits for each",
    "pacing: runs ahead of those that stand",
    "pacing: waits for one of all",
    "pacing: waits for what is on its way",
    "room: a batch is full",
    "room: starved",
];

/// How often the seeds came to each.
#[derive(Debug)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn new() -> Self {
        Self(PLACES.map(|place| (place, 0)).into())
    }

    /// A seed has come to this place.
    pub fn see(&mut self, place: &'static str) {
        let times = self.0.get_mut(place);
        *times.unwrap_or_else(|| panic!("{place} is not in the list")) += 1;
    }

    /// As [`Coverage::see`], if it is so.
    pub fn see_if(&mut self, is_there: bool, place: &'static str) {
        if is_there {
            self.see(place);
        }
    }

    /// Checks that they came to all of them.
    pub fn check(&self) {
        let missed: Vec<_> = self.0.iter().filter(|(_, times)| **times == 0).collect();
        assert!(missed.is_empty(), "never come to: {missed:?}");
    }
}
