//! The sessions' connections: dialled, written to, read from, ended.

use std::io::{self, IoSlice};
use std::mem;

use mio::Token;

use super::{FIRST_LINK, Playback};
use crate::capture::{READ_SHARE, Slot};
use crate::engine::dial::{Connected, Outcome};
use crate::engine::stream::{Read, Stream};
use crate::notice::describe;
use crate::record::time::Clock;
use crate::record::{CloseReason, ConnId, Direction, Endpoints};
use crate::replay::{Ending, SessionId};

/// A session's connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: SessionId,
    stream: Stream,
    /// Its place in the capture of the answers.
    slot: Slot,
    ends: Ends,
    /// It is in the list of those that may have something to do.
    is_listed: bool,
}

/// What has ended of a connection.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// This side's end is to be told once everything is on its way: behind it the kernel does not say
    /// so any more.
    due: Option<Ending>,
    ours: bool,
    theirs: bool,
    /// It cannot be written to any more, for this reason; what came before that is read.
    broken: Option<String>,
}

impl Playback<'_> {
    // --- connecting ------------------------------------------------------------------------------

    /// Begins to connect a session.
    pub(super) fn dial(&mut self, session: SessionId) {
        let now_us = self.clock.now().elapsed_us;
        let dial = (self.dialler).dial(session, &self.config.target, now_us);
        self.dialling.insert(session, dial);
    }

    /// Takes what dialling has come to, as far as its beginning can be recorded: until then the player
    /// does not hear of it.
    pub(super) fn take_dialled(&mut self) {
        let now_us = self.clock.now().elapsed_us;
        self.dialler.handle_time(now_us);
        while self.dialler.has_decided() && self.recorder.make_room(None) {
            let Some((session, outcome)) = self.dialler.poll() else {
                return;
            };
            self.dialling.remove(&session);
            let now_us = self.now_us();
            match outcome {
                Outcome::Connected(connected) => self.open(session, connected),
                Outcome::Shortage(why) => self.player.handle_refused(session, &why, now_us),
                Outcome::Failed(why) => self.player.handle_failed(session, &why, now_us),
            }
        }
    }

    fn open(&mut self, session: SessionId, connected: Connected) {
        let Connected {
            mut stream,
            peer,
            local,
        } = connected;
        let entry = self.links.vacant_entry();
        let nth = entry.key();
        let token = Token(FIRST_LINK + nth);
        if let Err(error) = stream.reregister(self.wakers.poll.registry(), token, true) {
            let now_us = self.now_us();
            return (self.player).handle_refused(session, &describe(&error), now_us);
        }
        let endpoints = Endpoints {
            conn: ConnId(session.0),
            peer: peer.into(),
            local: local.into(),
            target: None,
        };
        let now = self.clock.now();
        let slot = self.recorder.capture.handle_open(endpoints, None, now);
        entry.insert(Link {
            session,
            stream,
            slot,
            ends: Ends::default(),
            is_listed: false,
        });
        self.by_session.insert(session, nth);
        let now_us = self.now_us();
        self.player.handle_connected(session, now_us);
        self.list(nth);
    }

    // --- sending ---------------------------------------------------------------------------------

    pub(super) fn write(&mut self, session: SessionId) {
        let now_us = self.now_us();
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let Link {
            stream, slot, ends, ..
        } = &mut self.links[nth];
        let pieces: Vec<IoSlice<'_>> = self
            .player
            .outgoing(session, now_us)
            .map(IoSlice::new)
            .collect();
        let (written, is_blocked) = match stream.write(&pieces) {
            Ok(written) => {
                // Where nobody sees the totals of a connection, they are not worth a checksum.
                if self.recorder.has_outputs() {
                    let mut left = written;
                    for piece in &pieces {
                        let sent = left.min(piece.len());
                        self.recorder.capture.handle_sent(*slot, &piece[..sent]);
                        left -= sent;
                    }
                }
                (written, false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true),
            Err(error) => {
                ends.broken = Some(broken(&error));
                self.list(nth);
                (0, true)
            }
        };
        let now_us = self.now_us();
        self.player
            .handle_written(session, written, is_blocked, now_us);
    }

    /// Ends a session's sending once everything is on its way, or resets it once the target has taken all
    /// but a few bytes: a reset throws away what the network has lost and would have been sent again.
    pub(super) fn end_sending(&mut self, session: SessionId, ending: Ending) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let link = &mut self.links[nth];
        match ending {
            Ending::Orderly => link.stream.await_sent(),
            Ending::Reset => link.stream.await_taken(),
        }
        link.ends.due = Some(ending);
        self.end_if_sent(nth);
    }

    /// Does what was to be done once everything is on its way, if it is.
    pub(super) fn end_if_sent(&mut self, nth: usize) {
        let Link {
            session,
            stream,
            ends,
            ..
        } = &mut self.links[nth];
        match ends.due.take_if(|_| stream.is_sent()) {
            None => {}
            Some(Ending::Orderly) => {
                stream.end_sending();
                ends.ours = true;
                // The target may have ended before.
                self.list(nth);
            }
            Some(Ending::Reset) => {
                let session = *session;
                self.unlink(nth, CloseReason::Done).stream.reset();
                self.player.handle_over(session, self.now_us());
            }
        }
    }

    /// The target is silent. Whether it has taken everything is the last question.
    pub(super) fn give_up(&mut self, session: SessionId) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        if self.links[nth].ends.ours {
            drop(self.unlink(nth, CloseReason::IdleTimeout));
            self.player.handle_quiet(session, self.now_us());
        } else {
            let why = "the target has not taken everything";
            self.fail(nth, CloseReason::Error(why.into()), why);
        }
    }

    // --- reading ---------------------------------------------------------------------------------

    /// One look at each link that may have something.
    pub(super) fn read(&mut self) {
        mem::swap(&mut self.ready, &mut self.turn);
        for at in 0..self.turn.len() {
            let nth = self.turn[at];
            if let Some(link) = self.links.get_mut(nth) {
                link.is_listed = false;
                if link.ends.theirs {
                    self.look_whether_over(nth);
                } else {
                    let slot = link.slot;
                    self.read_link(nth, slot);
                }
            }
            if self.recorder.is_starved() {
                // Those that did not get their turn keep it, behind the one that waits.
                self.ready.extend_from_slice(&self.turn[at + 1..]);
                break;
            }
        }
        self.turn.clear();
    }

    fn read_link(&mut self, nth: usize, slot: Slot) {
        if !self.recorder.make_room(Some(slot)) {
            return self.list(nth);
        }
        let link = &mut self.links[nth];
        let session = link.session;
        let buffer = self.recorder.capture.read_buffer(slot, Direction::In);
        // What is due to be sent waits for it.
        let room = buffer.len().min(READ_SHARE);
        match link.stream.read(&mut buffer[..room]) {
            Read::Bytes(len) => {
                let now = self.clock.now();
                self.recorder
                    .capture
                    .handle_read(slot, Direction::In, len, now);
                let now_us = self.now_us();
                self.player.handle_received(session, len, now_us);
                self.list(nth);
            }
            Read::Again => self.list(nth),
            Read::Nothing => self.look_whether_broken(nth),
            Read::Eof => {
                self.recorder
                    .capture
                    .handle_eof(slot, Direction::In, self.clock.now());
                link.ends.theirs = true;
                self.player.handle_target_end(session, self.now_us());
                self.list(nth);
            }
            Read::Over(reason) => {
                let why = match &reason {
                    CloseReason::Error(why) => why.to_string(),
                    _ => RESET.to_owned(),
                };
                self.fail(nth, reason, &why);
            }
        }
    }

    /// The target has ended its direction: the connection is over once this side has, too, and the
    /// target's kernel has taken everything.
    fn look_whether_over(&mut self, nth: usize) {
        let Link {
            session,
            stream,
            ends,
            ..
        } = &self.links[nth];
        let session = *session;
        match stream.is_over() {
            Some(Err(error)) => {
                let reason = CloseReason::Error(describe(&error).into());
                self.fail(nth, reason, &broken(&error));
            }
            Some(Ok(())) if ends.ours => {
                drop(self.unlink(nth, CloseReason::Eof));
                self.player.handle_over(session, self.now_us());
            }
            Some(Ok(())) | None => self.look_whether_broken(nth),
        }
    }

    /// A link that could not be written to fails once all is read that had come before.
    fn look_whether_broken(&mut self, nth: usize) {
        if let Some(why) = self.links[nth].ends.broken.take() {
            self.fail(nth, CloseReason::Error(why.as_str().into()), &why);
        }
    }

    fn fail(&mut self, nth: usize, reason: CloseReason, why: &str) {
        let session = self.unlink(nth, reason).session;
        self.player.handle_failed(session, why, self.now_us());
    }

    // --- links -----------------------------------------------------------------------------------

    /// Puts a link on the list of those to look at, once.
    pub(super) fn list(&mut self, nth: usize) {
        if !mem::replace(&mut self.links[nth].is_listed, true) {
            self.ready.push(nth);
        }
    }

    /// Takes a link away; that it was closed is recorded once there is room.
    pub(super) fn unlink(&mut self, nth: usize, reason: CloseReason) -> Link {
        let link = self.links.remove(nth);
        self.by_session.remove(&link.session);
        self.closing.push((link.slot, reason));
        link
    }

    pub(super) fn close_closing(&mut self) {
        while let Some((slot, _)) = self.closing.last() {
            if !self.recorder.make_room(Some(*slot)) {
                return;
            }
            if let Some((slot, reason)) = self.closing.pop() {
                let now = self.clock.now();
                self.recorder.capture.handle_close(slot, reason, now);
            }
        }
    }
}

/// What a connection that was reset is said to have come to.
const RESET: &str = "reset by the target";

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => RESET.to_owned(),
        io::ErrorKind::BrokenPipe => "closed by the target".to_owned(),
        _ => describe(error),
    }
}
