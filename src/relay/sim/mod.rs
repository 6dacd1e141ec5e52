//! The relay in simulation: a seed chooses what both applications do and when, how much each buffer
//! holds, how the engine reads, and when the kernel's word arrives. A model of two sockets, as Linux
//! has them, stands beside it and holds every command against what is true there.
//!
//! `WIRETAPE_SIM_SEEDS=N` walks as many seeds as wanted; a failing one is printed, and
//! `WIRETAPE_SIM_SEED` walks one alone.

mod end;
mod engine;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::{Relay, Side};
use crate::record::CloseReason;
use end::{Act, End};

const SEEDS: u64 = 20_000;

/// No more commands than this come to nothing, one after the other, without a word from the kernel:
/// a read, a flush and a look of each side, and as many again for what a retirement lets be seen anew.
const IDLE: u32 = 12;

/// Where the seeds are to come: a simulation that never comes to the interesting places proves nothing.
const PLACES: [&str; 36] = [
    "after a half-close, bytes go the other way",
    "an ended side is reset",
    "both are reset",
    "bytes are held",
    "close: eof",
    "close: impatient",
    "close: reset",
    "close: retired",
    "deaf: a fin comes",
    "deaf: a reset comes",
    "deaf: bytes are dropped",
    "deaf: nothing, as far as is known",
    "drain: bytes",
    "flush: all",
    "flush: fails",
    "flush: nothing",
    "flush: some",
    "impatience: both behind",
    "impatience: nobody behind",
    "impatience: one behind",
    "impatience: what was written is not sent",
    "late: a word about a side that is gone",
    "late: a word about a side that was never there",
    "pass: fails, read",
    "pass: fails, looked at",
    "pass: left",
    "pass: looked at and taken",
    "read: a reset behind bytes",
    "read: an end behind bytes",
    "read: the reset that a write had told",
    "retired: before it was connected",
    "retired: for the second time",
    "retired: while bytes are held",
    "reset: before it was connected",
    "sent: not yet",
    "unreachable: bytes were taken",
];

struct World {
    random: Rng,
    relay: Relay,
    ends: [End; 2],
    /// Words of the kernel that have not arrived: of whom, and whether it is about writing.
    words: Vec<(Side, bool)>,
    /// `None` while the target is being dialled.
    is_connected: Option<bool>,
    is_reachable: bool,
    /// What was told first of all that ends it.
    first: Option<CloseReason>,
    is_impatient: bool,
    is_closed: bool,
    /// Bytes of a read.
    chunk: usize,
    /// How often of 8 the engine looks before it reads.
    looks: u8,
    /// Commands that came to nothing.
    idle: u32,
    seen: BTreeSet<&'static str>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            relay: Relay::new(),
            ends: [End::new(&mut random), End::new(&mut random)],
            words: Vec::new(),
            is_connected: None,
            is_reachable: random.u8(0..12) > 0,
            first: None,
            is_impatient: false,
            is_closed: false,
            chunk: random.usize(1..30),
            looks: random.choice([0, 0, 3, 8]).expect("there are some"),
            idle: 0,
            seen: BTreeSet::new(),
            random,
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn is_connected(&self) -> bool {
        self.is_connected == Some(true)
    }

    fn see(&mut self, place: &'static str) {
        assert!(PLACES.contains(&place), "{place} is not in the list");
        self.seen.insert(place);
    }

    // --- the course of it ------------------------------------------------------------------------

    fn run(mut self) -> BTreeSet<&'static str> {
        let steps = self.random.u32(0..400);
        let retires_at = (self.random.u8(0..4) == 0).then(|| self.random.u32(0..250));
        for step in 0..steps {
            if retires_at == Some(step) {
                self.retire(CloseReason::Shutdown);
            }
            match self.random.u8(0..20) {
                0 => self.be_dialled(),
                1..7 => {
                    let side = self.side();
                    self.act(side);
                }
                7..11 => self.hear(),
                11 if self.relay.is_ending() && self.random.u8(0..20) == 0 => self.lose_patience(),
                _ => {
                    self.obey();
                }
            }
            if self.is_closed {
                return self.seen;
            }
        }
        self.settle();
        if !self.is_closed && !self.relay.is_ending() {
            self.check_open();
            self.retire(CloseReason::IdleTimeout);
            self.settle();
        }
        if !self.is_closed {
            self.check_stuck();
            self.lose_patience();
        }
        assert!(self.is_closed, "it does not close");
        self.seen
    }

    fn side(&mut self) -> Side {
        Side::BOTH[self.random.usize(0..2)]
    }

    /// Everybody does all that they can, and all words arrive.
    fn settle(&mut self) {
        let mut is_moving = true;
        while is_moving && !self.is_closed {
            is_moving = !self.words.is_empty() || self.is_connected.is_none();
            self.be_dialled();
            for _ in 0..self.words.len() {
                self.hear();
            }
            for side in Side::BOTH {
                is_moving |= self.act(side);
            }
            while self.obey() {
                is_moving = true;
            }
        }
    }

    fn be_dialled(&mut self) {
        // Who ends it meanwhile dials no more.
        if self.is_connected.is_some() || self.first.is_some() {
            return;
        }
        self.is_connected = Some(self.is_reachable);
        if self.is_reachable {
            return self.relay.handle_connected();
        }
        let reason = CloseReason::Error("refused".into());
        self.relay.handle_unreachable(reason.clone());
        self.finish(reason, &[Side::Peer]);
    }

    fn retire(&mut self, reason: CloseReason) {
        if self.first.is_some() {
            self.see("retired: for the second time");
        }
        if Side::BOTH
            .iter()
            .any(|&side| !self.relay.held(side).is_empty())
        {
            self.see("retired: while bytes are held");
        }
        self.relay.handle_retire(reason.clone());
        if self.is_connected() {
            return self.finish(reason, &[]);
        }
        self.see("retired: before it was connected");
        self.is_connected = Some(false);
        self.finish(reason, &[Side::Peer]);
    }

    fn finish(&mut self, reason: CloseReason, resets: &[Side]) {
        self.first.get_or_insert(reason);
        for &side in resets {
            self.end(side).is_reset = true;
        }
    }

    fn lose_patience(&mut self) {
        // All that can be read at once is no reason to be impatient.
        while self.obey() {}
        if self.is_closed {
            return;
        }
        let mut behind = 0;
        for side in Side::BOTH {
            let taken = self.end(side.other()).taken;
            let end = self.end(side);
            end.is_behind = !end.is_gone() && end.written < taken;
            end.is_reset |= end.is_behind;
            behind += usize::from(end.is_behind);
        }
        self.see(match behind {
            0 => "impatience: nobody behind",
            1 => "impatience: one behind",
            _ => "impatience: both behind",
        });
        self.is_impatient = true;
        self.relay.handle_impatience();
        for _ in 0..100 {
            // Whatever they do: none of it is waited for.
            let side = self.side();
            match self.random.u8(0..4) {
                0 => {
                    self.act(side);
                }
                1 => self.hear(),
                _ => {}
            }
            self.obey();
            if self.is_closed {
                return;
            }
        }
    }

    /// Where nothing has ended it and everything has come to rest.
    fn check_open(&mut self) {
        for side in Side::BOTH {
            let from = &self.ends[side as usize];
            let to = &self.ends[side.other() as usize];
            if !to.reads_all() {
                continue;
            }
            assert!(!from.has_rst, "a reset of {side:?} is not seen");
            assert_eq!(from.taken, from.script.len(), "{side:?} is held up");
            assert_eq!(to.received, from.taken, "not all of {side:?} was received");
            assert_eq!(to.is_told, from.has_fin, "the end of {side:?}");
        }
        let is_over = |end: &End| end.is_told && end.reads_all();
        assert!(!self.ends.iter().all(is_over), "it is over");
    }

    /// Where it is ending and everything has come to rest: it waits for an application that takes
    /// nothing.
    fn check_stuck(&self) {
        let is_stuck = |side: Side| {
            let (end, other) = (&self.ends[side as usize], &self.ends[side.other() as usize]);
            end.may_stall() && (end.unsent() > 0 || end.written < other.taken)
        };
        assert!(Side::BOTH.into_iter().any(is_stuck), "it waits for nothing");
    }

    // --- the applications and the kernel ---------------------------------------------------------

    /// The application of this side or the network does something, where there is something to do.
    fn act(&mut self, side: Side) -> bool {
        if side == Side::Target && !self.is_connected() {
            return false;
        }
        let acts = self.end(side).acts();
        let Some(act) = self.random.choice(acts) else {
            return false;
        };
        let most = self.random.usize(1..40);
        self.end(side).perform(act, most);
        let is_deaf = self.end(side).is_deaf;
        match act {
            Act::Deliver | Act::Receive => {}
            Act::Send => self.words.push((side, false)),
            Act::Lose => self.see("deaf: bytes are dropped"),
            Act::Fin => {
                self.words.push((side, false));
                if is_deaf {
                    self.see("deaf: a fin comes");
                }
            }
            Act::Rst => {
                self.words.extend([(side, false), (side, true)]);
                if is_deaf {
                    self.see("deaf: a reset comes");
                }
                if self.ends.iter().all(|end| end.has_rst) {
                    self.see("both are reset");
                }
            }
        }
        self.send_word(side);
        true
    }

    /// The kernel says what the engine waits for, if it is so.
    fn send_word(&mut self, side: Side) {
        if self.end(side).has_word() {
            self.words.push((side, true));
        }
    }

    /// A word arrives, in no order; or one that means nothing.
    fn hear(&mut self) {
        let (side, is_writing) = if self.words.is_empty() || self.random.u8(0..10) == 0 {
            (self.side(), self.random.bool())
        } else {
            let at = self.random.usize(0..self.words.len());
            self.words.swap_remove(at)
        };
        if side == Side::Target && self.is_connected == Some(false) {
            self.see("late: a word about a side that was never there");
        } else if self.end(side).is_broken {
            self.see("late: a word about a side that is gone");
        }
        self.idle = 0;
        if self.end(side).has_error && self.random.bool() {
            self.hear_of_reset(side);
        }
        if is_writing {
            self.relay.handle_writable(side);
        } else {
            self.relay.handle_readable(side);
        }
    }
}

impl World {
    /// With its word the kernel says that the side has reset, which takes the error away.
    fn hear_of_reset(&mut self, side: Side) {
        self.end(side).has_error = false;
        self.end(side).has_failed = true;
        if self.is_connected.is_none() {
            self.see("reset: before it was connected");
            self.is_connected = Some(false);
        }
        let reason = CloseReason::Error(format!("a word about {side:?}").into());
        self.relay.handle_write_failed(side, reason.clone());
        self.finish(reason, &[side.other()]);
    }
}

#[test]
fn whatever_the_sides_do_bytes_and_ends_are_passed_on_and_it_closes() {
    let seeds = std::env::var("WIRETAPE_SIM_SEEDS");
    let seeds = seeds.map_or(SEEDS, |text| text.parse().expect("a number"));
    let one = std::env::var("WIRETAPE_SIM_SEED").map(|text| text.parse().expect("a number"));
    let walked = one.as_ref().map_or(0..seeds, |&seed: &u64| seed..seed + 1);
    let mut all: BTreeMap<&str, u64> = PLACES.map(|place| (place, 0)).into();
    for seed in walked {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed}"));
        for place in seen {
            *all.entry(place).or_default() += 1;
        }
    }
    let is_everywhere = all.values().all(|&seeds| seeds > 0);
    assert!(one.is_ok() || is_everywhere, "{all:#?}");
}
