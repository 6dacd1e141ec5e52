//! The engine in the simulation: it does what the relay wants, and first looks whether that is right.

use super::{IDLE, World};
use crate::record::CloseReason;
use crate::relay::{Command, Got, Side};

impl World {
    /// Does what the relay wants, if anything.
    pub(super) fn obey(&mut self) -> bool {
        if self.is_closed {
            return false;
        }
        let Some(command) = self.relay.poll() else {
            return false;
        };
        self.idle += 1;
        assert!(self.idle <= IDLE, "{command:?} again and again");
        let is_ending = self.first.is_some();
        assert_eq!(
            self.relay.is_ending() || self.is_closing(&command),
            is_ending
        );
        assert!(is_ending || self.is_connected(), "{command:?}");
        match command {
            Command::Pass(side) => {
                self.check_read(side);
                assert!(!self.end(side.other()).is_gone(), "to nowhere");
                let is_there = self.is_connected();
                assert!(is_there && !self.is_impatient, "to nowhere");
                self.pass(side);
            }
            Command::Drain(side) => {
                self.check_read(side);
                let is_gone = self.end(side.other()).is_gone();
                let is_there = self.is_connected();
                assert!(is_gone || !is_there || self.is_impatient, "{side:?}");
                self.drain(side);
            }
            Command::Flush(side) => self.flush(side),
            Command::End(side) => {
                let from = &self.ends[side.other() as usize];
                let (has_ended, all) = (from.has_fin && from.has_ended, from.script.len());
                assert!(has_ended, "{side:?} is told an end that has not come");
                assert!(self.relay.held(side).is_empty(), "bytes are held");
                let end = self.end(side);
                assert!(!end.is_told && !end.is_gone(), "{side:?} is told again");
                assert_eq!(end.written, all, "{side:?} is told too early");
                end.is_told = true;
                self.idle = 0;
            }
            Command::Deafen(side) => {
                let is_there = side == Side::Peer || self.is_connected();
                let end = self.end(side);
                assert!(is_ending && is_there && !end.is_deaf && !end.is_broken);
                end.is_deaf = true;
                self.idle = 0;
            }
            Command::AwaitSent(side) => self.look_at_sent(side),
            Command::Close { reason, resets } => self.close(&reason, resets),
        }
        true
    }

    /// The relay knows nothing of itself once it has said that it closes.
    fn is_closing(&self, command: &Command) -> bool {
        matches!(command, Command::Close { .. }) && self.first.is_some()
    }

    fn check_read(&mut self, side: Side) {
        let is_there = side == Side::Peer || self.is_connected();
        assert!(is_there && !self.end(side).is_broken, "{side:?} is gone");
        if self.first.is_none() {
            return;
        }
        let [peer, target] = &self.ends;
        let are_finite = peer.is_finite() && (target.is_finite() || !self.is_connected());
        assert!(are_finite, "{side:?} is read before both are deaf");
    }

    fn pass(&mut self, side: Side) {
        let other = side.other();
        let Some(len) = self.peek(side) else {
            return self.read_none(side);
        };
        assert!(
            self.relay.held(other).is_empty(),
            "more than a read is held"
        );
        let from = self.end(side).recorded;
        let taken = self.write(other, from, from + len);
        let is_look = self.random.u8(0..8) < self.looks;
        if is_look {
            return self.consume(side, taken);
        }
        self.end(side).recorded += len;
        self.idle = 0;
        if self.end(side).is_told {
            self.see("after a half-close, bytes go the other way");
        }
        let rest = taken.map_or(0, |taken| len - taken);
        if rest > 0 {
            self.see("bytes are held");
        }
        let may_be_more = self.may_be_more(side, len);
        let bytes = &self.ends[side as usize].script[from + len - rest..from + len];
        let got = Got::Bytes {
            rest: bytes,
            may_be_more,
        };
        assert!(!self.relay.handle_read(side, got));
        if taken.is_none() {
            self.see("pass: fails, read");
            self.handle_failed(other);
        }
    }

    /// The bytes that were looked at are consumed as far as they were written.
    fn consume(&mut self, side: Side, taken: Option<usize>) {
        let got = match taken {
            Some(len @ 1..) => {
                self.see("pass: looked at and taken");
                self.end(side).recorded += len;
                self.idle = 0;
                Got::Bytes {
                    rest: &[],
                    may_be_more: true,
                }
            }
            Some(0) => {
                self.see("pass: left");
                Got::Left
            }
            None => Got::Left,
        };
        assert!(!self.relay.handle_read(side, got));
        if taken.is_none() {
            self.see("pass: fails, looked at");
            self.handle_failed(side.other());
        }
    }

    fn drain(&mut self, side: Side) {
        let Some(len) = self.peek(side) else {
            return self.read_none(side);
        };
        self.see("drain: bytes");
        if self.is_connected == Some(false) {
            self.see("unreachable: bytes were taken");
        }
        self.end(side).recorded += len;
        self.idle = 0;
        let may_be_more = self.may_be_more(side, len);
        let got = Got::Bytes {
            rest: &[],
            may_be_more,
        };
        assert!(!self.relay.handle_read(side, got));
    }

    /// How many bytes a read finds, if any.
    fn peek(&mut self, side: Side) -> Option<usize> {
        let part = self.random.usize(1..=self.chunk);
        let is_short = self.random.u8(0..4) == 0;
        let len = self.end(side).unread();
        let most = if is_short { part } else { self.chunk };
        (len > 0).then(|| len.min(most))
    }

    /// What the engine knows of it: a short read means that there is no more, unless the kernel has
    /// told something, or will.
    fn may_be_more(&mut self, side: Side, len: usize) -> bool {
        let is_unsure = self.random.bool();
        let will_hear = self.words.contains(&(side, false));
        let chunk = self.chunk;
        let end = self.end(side);
        let is_all = end.unread() == 0 && !end.has_fin && !end.has_rst;
        let may_be_more = len == chunk || is_unsure || !(is_all || will_hear);
        if !may_be_more && self.end(side).is_deaf {
            self.see("deaf: nothing, as far as is known");
        }
        may_be_more
    }

    /// A read without bytes.
    fn read_none(&mut self, side: Side) {
        let had_bytes = self.end(side).recorded > 0;
        let end = self.end(side);
        if end.has_rst && end.has_error {
            // Behind a FIN a read tells no reset, but an end, again: there the engine has asked the
            // socket for its error.
            end.has_error = false;
            end.is_broken = true;
            let had_ended = end.has_ended;
            if had_ended {
                self.see("an ended side is reset");
            }
            if had_bytes {
                self.see("read: a reset behind bytes");
            }
            let reason = match side {
                Side::Peer => CloseReason::Reset,
                Side::Target => CloseReason::TargetReset,
            };
            let told = self.relay.handle_read(side, Got::Broken(reason.clone()));
            assert!(!told);
            return self.finish(reason, &[side.other()]);
        }
        if !end.has_rst && !end.has_fin {
            assert!(!self.relay.handle_read(side, Got::Nothing));
            return;
        }
        // The call that has told the reset leaves an end for the next.
        let is_end = end.has_fin && !end.has_failed && !end.has_ended;
        end.has_ended |= is_end;
        let is_failed = end.has_failed;
        if is_failed {
            self.see("read: the reset that a write had told");
        } else if had_bytes {
            self.see("read: an end behind bytes");
        }
        let told = self.relay.handle_read(side, Got::End);
        assert_eq!(told, is_end, "the end of {side:?} is told");
    }

    fn flush(&mut self, side: Side) {
        let held = self.relay.held(side).to_vec();
        assert!(!held.is_empty(), "nothing is held for {side:?}");
        let recorded = self.end(side.other()).recorded;
        let from = recorded - held.len();
        assert_eq!(self.end(side.other()).script[from..recorded], held);
        let Some(len) = self.write(side, from, recorded) else {
            self.see("flush: fails");
            return self.handle_failed(side);
        };
        self.see(match len {
            0 => "flush: nothing",
            len if len < held.len() => "flush: some",
            _ => "flush: all",
        });
        if len > 0 {
            self.idle = 0;
        }
        self.relay.handle_flushed(side, len);
    }

    fn look_at_sent(&mut self, side: Side) {
        assert!(self.first.is_some() && !self.is_impatient);
        assert!(self.relay.held(side).is_empty(), "bytes are held");
        let from = &self.ends[side.other() as usize];
        let is_read_out = from.recorded == from.taken;
        let end = self.end(side);
        assert!(is_read_out && !end.is_gone(), "{side:?}");
        let is_sent = end.unsent() == 0;
        end.waits_for_sent = !is_sent;
        if !is_sent {
            self.see("sent: not yet");
        }
        self.relay.handle_sent(side, is_sent);
    }

    fn close(&mut self, reason: &CloseReason, resets: [bool; 2]) {
        self.is_closed = true;
        let wanted = self.first.clone().unwrap_or(CloseReason::Eof);
        assert_eq!(*reason, wanted, "it is not what came first");
        assert_eq!(resets, [0, 1].map(|side| self.ends[side].is_reset));
        if *reason == CloseReason::Eof {
            let has_both = self.ends.iter().all(|end| end.has_ended && end.is_told);
            assert!(has_both, "it is not over");
        }
        for side in Side::BOTH {
            assert!(self.relay.held(side).is_empty(), "bytes are held");
            let from = &self.ends[side.other() as usize];
            assert_eq!(from.recorded, from.taken, "bytes of {side:?} are lost");
            let to = &self.ends[side as usize];
            let is_there = self.is_connected();
            if !is_there || to.is_gone() || to.is_behind {
                continue;
            }
            assert_eq!(to.written, from.taken, "bytes for {side:?} are lost");
            let is_cut = to.is_reset && to.unsent() > 0;
            assert!(!is_cut || self.is_impatient, "{side:?} is reset too early");
            if is_cut {
                self.see("impatience: what was written is not sent");
            }
        }
        assert_eq!(self.relay.held_cost(), 0);
        self.see(match reason {
            _ if self.is_impatient => "close: impatient",
            CloseReason::Eof => "close: eof",
            CloseReason::Shutdown | CloseReason::IdleTimeout => "close: retired",
            _ => "close: reset",
        });
    }

    /// What the kernel takes of this, for this side. It may take less than there is room for.
    fn write(&mut self, side: Side, from: usize, to: usize) -> Option<usize> {
        assert!(!self.is_impatient, "a write, late");
        let is_stingy = self.random.u8(0..4) == 0;
        let part = self.random.usize(0..=to - from);
        let end = self.end(side);
        assert!(!end.is_told, "a write to {side:?}, which was told the end");
        assert!(!end.is_gone(), "a write to {side:?}, which is broken");
        assert_eq!(end.written, from, "other bytes for {side:?}");
        let most = if is_stingy { part } else { to - from };
        let len = end.write(to - from, most);
        // What there is room for, though the kernel did not take it, it tells of at once.
        self.send_word(side);
        len
    }

    fn handle_failed(&mut self, side: Side) {
        let reason = CloseReason::Error(format!("a write to {side:?}").into());
        self.relay.handle_write_failed(side, reason.clone());
        self.finish(reason, &[side.other()]);
    }
}
