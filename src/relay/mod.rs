//! The relay core: what passes between a peer and the target behind it, and how either's end is passed
//! on.
//!
//! It owns what is held for a side that does not take it now, and knows no sockets and no clock: the
//! engine tells it what happened (`handle_*`), asks what to do ([`Relay::poll`]) and does that.
//!
//! **Backpressure.** A side is read only while the other takes what comes: of each direction no more is
//! held than one read. All else waits in the kernel, and TCP holds the sender.
//!
//! **Ends.** A side that ends its direction (FIN) is passed on as that, behind its last byte, and the
//! other direction goes on. A side that resets ends the connection: what it had sent goes to the other,
//! which is then reset, too. Whatever ends a connection before its time, first the kernel is to take
//! nothing more from either side; what it has taken is read (and so recorded), passed on where there is
//! somebody to take it, and then both sides are closed.

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use crate::record::{CloseReason, Direction};

/// Who is at either state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected.
    Peer,
    /// The server that was dialled for it.
    Target,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Peer, Self::Target];

    /// The one across.
    pub fn other(self) -> Self {
        match self {
            Self::Peer => Self::Target,
            Self::Target => Self::Peer,
        }
    }

    /// Which way go the bytes that are read from it.
    pub fn direction(self) -> Direction {
        match self {
            Self::Peer => Direction::In,
            Self::Target => Direction::Out,
        }
    }
}

/// What the engine is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read once from this side and write what comes to the other.
    Pass(Side),
    /// Read once from this side: what comes has nowhere to go, and is only recorded.
    Drain(Side),
    /// Write what is [held](Relay::held) for this side.
    Flush(Side),
    /// Tell this side that nothing more comes.
    End(Side),
    /// Have the kernel take nothing more from this side. What it has taken is still to be read.
    Deafen(Side),
    /// Look whether everything written to this side is on its way: it is to be closed behind that.
    AwaitSent(Side),
    /// It is over, for this reason: close both, with a reset whom `resets` names.
    Close {
        /// Why.
        reason: CloseReason,
        /// Whether the peer, and the target, are reset.
        resets: [bool; 2],
    },
}

/// What a read from a side came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got<'a> {
    /// Bytes, all of which went on but these: the other side took no more.
    Bytes {
        /// What is to be held. Empty where the other side took everything.
        rest: &'a [u8],
        /// Whether there may be more to read, as far as is known.
        may_be_more: bool,
    },
    /// Nothing now.
    Nothing,
    /// Something, and the other side takes nothing of it now, so it was left where it is.
    Left,
    /// The side ended its direction.
    End,
    /// The connection to it has broken, for this reason.
    Broken(CloseReason),
}

/// A peer, a target, and what is between them; see the [module](self).
#[derive(Debug)]
pub struct Relay {
    /// By [`Side`].
    states: [State; 2],
    is_connected: bool,
    ending: Option<Ending>,
    /// Who is read first, so that one side's flood does not delay the other's answer.
    first: Side,
}

/// What is known of a side.
#[derive(Debug, Default)]
struct State {
    /// It may have something to read.
    is_readable: bool,
    /// It took all that it was given last.
    is_writable: bool,
    /// What was read for it and it has not taken yet.
    held: Held,
    /// It ended its direction.
    has_ended: bool,
    /// It knows that nothing more comes.
    is_told: bool,
    /// The kernel takes nothing more from it.
    is_deaf: bool,
    /// Nothing more is to be read from it.
    is_read_out: bool,
    /// It takes nothing any more.
    is_broken: bool,
    /// A write to it failed, and with that its reset was told: a read tells it as an end.
    has_failed: bool,
    /// Everything that was written to it is on its way.
    is_sent: bool,
}

/// Bytes on their way to a side.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// So many of them were taken.
    taken: usize,
}

impl Held {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

impl State {
    fn holds(&self) -> bool {
        !self.held.rest().is_empty()
    }

    fn takes(&self) -> bool {
        self.is_writable && !self.is_broken && !self.holds()
    }

    fn break_off(&mut self) {
        self.is_broken = true;
        self.held = Held::default();
    }
}

/// How a connection ends before both sides have ended it.
#[derive(Clone, Debug)]
struct Ending {
    reason: CloseReason,
    /// Who is reset in the end.
    resets: [bool; 2],
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

impl Relay {
    /// A peer that has just connected; the target is still being dialled.
    pub fn new() -> Self {
        let fresh = || State {
            is_readable: true,
            is_writable: true,
            ..State::default()
        };
        Self {
            states: [fresh(), fresh()],
            is_connected: false,
            ending: None,
            first: Side::Peer,
        }
    }

    fn state(&self, side: Side) -> &State {
        &self.states[side as usize]
    }

    fn state_mut(&mut self, side: Side) -> &mut State {
        &mut self.states[side as usize]
    }

    // --- what happened ---------------------------------------------------------------------------

    /// The target has been connected to.
    pub fn handle_connected(&mut self) {
        self.is_connected = true;
    }

    /// The target cannot be connected to.
    pub fn handle_unreachable(&mut self, reason: CloseReason) {
        self.finish(reason, [true, false]);
    }

    /// The kernel says that this side may have something to read, or has ended.
    pub fn handle_readable(&mut self, side: Side) {
        self.state_mut(side).is_readable = true;
    }

    /// The kernel says that this side takes bytes.
    pub fn handle_writable(&mut self, side: Side) {
        self.state_mut(side).is_writable = true;
    }

    /// What [`Command::Pass`] or [`Command::Drain`] came to. Says whether it was the side's end, told
    /// for the first time.
    #[must_use]
    pub fn handle_read(&mut self, side: Side, got: Got<'_>) -> bool {
        self.first = side.other();
        match got {
            Got::Bytes { rest, may_be_more } => {
                let state = self.state_mut(side);
                // The kernel has no word for it that a deaf side is at its end: that takes one more
                // read, which finds nothing.
                state.is_readable = may_be_more || state.is_deaf;
                if !rest.is_empty() {
                    let other = self.state_mut(side.other());
                    debug_assert!(!other.holds());
                    other.is_writable = false;
                    other.held = Held {
                        bytes: rest.to_vec(),
                        taken: 0,
                    };
                }
            }
            Got::Left => self.state_mut(side.other()).is_writable = false,
            Got::Nothing => {
                let state = self.state_mut(side);
                state.is_readable = false;
                state.is_read_out |= state.is_deaf || state.is_broken;
            }
            Got::End => {
                let state = self.state_mut(side);
                state.is_readable = false;
                state.is_read_out = true;
                return !state.has_failed && !std::mem::replace(&mut state.has_ended, true);
            }
            Got::Broken(reason) => self.handle_broken(side, reason),
        }
        false
    }

    /// So much of what is [held](Relay::held) for this side was taken; where that is not all, it takes
    /// no more now.
    pub fn handle_flushed(&mut self, side: Side, len: usize) {
        let state = self.state_mut(side);
        state.held.taken += len;
        if state.holds() {
            state.is_writable = false;
        } else {
            // Memory that is kept would add up over thousands of connections.
            state.held = Held::default();
        }
    }

    /// A write to this side failed, or the kernel says that it has reset the connection: it takes nothing
    /// any more. What it has sent is still to be read.
    pub fn handle_write_failed(&mut self, side: Side, reason: CloseReason) {
        let state = self.state_mut(side);
        state.break_off();
        state.has_failed = true;
        state.is_readable = true;
        self.finish(reason, resets_across(side));
    }

    /// The look of [`Command::AwaitSent`] found that it is so, or that the kernel will tell.
    pub fn handle_sent(&mut self, side: Side, is_sent: bool) {
        let state = self.state_mut(side);
        state.is_sent = is_sent;
        state.is_writable = is_sent;
    }

    /// The connection is to end, for this reason, with whatever the kernel has taken by now.
    pub fn handle_retire(&mut self, reason: CloseReason) {
        // A peer without a target is not let go as if it had been served.
        let is_unserved = !self.is_connected;
        self.finish(reason, [is_unserved, false]);
    }

    /// It has been ending for long enough: who has not taken everything by now is reset.
    pub fn handle_impatience(&mut self) {
        if self.ending.is_none() {
            return;
        }
        for side in Side::BOTH {
            let is_behind = self.state(side).holds() || !self.state(side.other()).is_read_out;
            if let Some(ending) = self.ending.as_mut().filter(|_| is_behind) {
                ending.resets[side as usize] = true;
            }
            let state = self.state_mut(side);
            state.break_off();
            state.is_readable = true;
        }
    }

    fn handle_broken(&mut self, side: Side, reason: CloseReason) {
        self.break_off(side);
        self.finish(reason, resets_across(side));
    }

    /// Nothing goes to this side and nothing comes from it.
    fn break_off(&mut self, side: Side) {
        let state = self.state_mut(side);
        state.break_off();
        state.is_readable = false;
        state.is_read_out = true;
    }

    /// What ends it first is the reason; who is reset may grow.
    fn finish(&mut self, reason: CloseReason, resets: [bool; 2]) {
        if !self.is_connected {
            // It is not needed any more.
            self.break_off(Side::Target);
        }
        match &mut self.ending {
            None => self.ending = Some(Ending { reason, resets }),
            Some(ending) => {
                for (is_reset, also) in ending.resets.iter_mut().zip(resets) {
                    *is_reset |= also;
                }
            }
        }
    }

    // --- what to do ------------------------------------------------------------------------------

    /// What to do now, if anything. It is asked again once that was done and told.
    pub fn poll(&mut self) -> Option<Command> {
        let flush = |&side: &Side| self.state(side).holds() && self.state(side).is_writable;
        if let Some(side) = Side::BOTH.into_iter().find(flush) {
            return Some(Command::Flush(side));
        }
        match self.ending {
            None => self.is_connected.then(|| self.poll_open()).flatten(),
            Some(_) => self.poll_ending(),
        }
    }

    fn poll_open(&mut self) -> Option<Command> {
        for side in Side::BOTH {
            let is_due = self.state(side.other()).has_ended && !self.state(side).holds();
            let state = self.state_mut(side);
            if is_due && !std::mem::replace(&mut state.is_told, true) {
                return Some(Command::End(side));
            }
        }
        let is_over = |state: &State| state.has_ended && state.is_told;
        if self.states.iter().all(is_over) {
            let resets = [false, false];
            let reason = CloseReason::Eof;
            return Some(Command::Close { reason, resets });
        }
        self.poll_read()
    }

    fn poll_read(&mut self) -> Option<Command> {
        for side in [self.first, self.first.other()] {
            let state = self.state(side);
            // One that has ended is read once more where the kernel tells of it: it may have been reset.
            // Where both its ways are over, that word came late.
            let is_gone = state.is_read_out && state.is_broken;
            if state.is_readable && !is_gone && self.state(side.other()).takes() {
                return Some(Command::Pass(side));
            }
        }
        None
    }

    fn poll_ending(&mut self) -> Option<Command> {
        for side in Side::BOTH {
            let state = self.state_mut(side);
            if !state.is_read_out && !std::mem::replace(&mut state.is_deaf, true) {
                // A look at what the kernel has by now.
                state.is_readable = true;
                return Some(Command::Deafen(side));
            }
        }
        for side in Side::BOTH {
            let state = self.state(side);
            if state.is_readable && !state.is_read_out && self.state(side.other()).is_broken {
                return Some(Command::Drain(side));
            }
        }
        if let Some(pass) = self.poll_read() {
            return Some(pass);
        }
        let is_done = |state: &State| state.is_read_out && (state.is_broken || !state.holds());
        if !self.states.iter().all(is_done) {
            return None;
        }
        // Whoever is closed before that loses it: with a reset at once, else with the first byte that it
        // sends, for that is answered with a reset.
        let waits = |&side: &Side| !self.state(side).is_broken && !self.state(side).is_sent;
        let waiting = || Side::BOTH.into_iter().filter(waits);
        if let Some(side) = waiting().find(|&side| self.state(side).is_writable) {
            return Some(Command::AwaitSent(side));
        }
        if waiting().next().is_some() {
            return None;
        }
        let Ending { reason, resets } = self.ending.clone()?;
        Some(Command::Close { reason, resets })
    }

    // --- what it knows ---------------------------------------------------------------------------

    /// What this side is still to take.
    pub fn held(&self, side: Side) -> &[u8] {
        self.state(side).held.rest()
    }

    /// Whether [`Command::AwaitSent`] has found that everything for this side is on its way.
    pub fn is_sent(&self, side: Side) -> bool {
        self.state(side).is_sent
    }

    /// Bytes of memory that both sides' held bytes take.
    pub fn held_cost(&self) -> usize {
        let cost = |state: &State| state.held.bytes.capacity();
        self.states.iter().map(cost).sum()
    }

    /// Whether a side waits for the other to take what it has sent.
    pub fn is_held_up(&self) -> bool {
        Side::BOTH.into_iter().any(|side| {
            let (from, to) = (self.state(side), self.state(side.other()));
            to.holds() || from.is_readable && !to.takes()
        })
    }

    /// Whether something has ended it, and it is not closed yet.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }
}

/// Who is reset because this side was.
fn resets_across(side: Side) -> [bool; 2] {
    [side == Side::Target, side == Side::Peer]
}
