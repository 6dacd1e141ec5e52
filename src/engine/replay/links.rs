//! The sessions' connections: dialled, written to, read from, ended.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem;

use mio::{Interest, Token};

use super::{FIRST_LINK, Playback};
use crate::capture::Slot;
use crate::engine::dial::Dialled;
use crate::engine::stream::{Read, Stream};
use crate::notice::describe;
use crate::record::time::Clock;
use crate::record::{CloseReason, ConnId, Direction, Endpoints};
use crate::replay::{Ending, SessionId};

/// A session's connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: SessionId,
    pub(super) stream: Stream,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// To this of the target's addresses; others are left to be tried.
    Connecting {
        address: usize,
        others: VecDeque<usize>,
    },
    /// In the capture of the answers it is at this slot.
    Open(Slot, Ends),
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

    /// Begins to connect a session to the first of these addresses that can be tried; `why` is what is
    /// wrong with the one before.
    pub(super) fn dial(
        &mut self,
        session: SessionId,
        mut addresses: VecDeque<usize>,
        why: Option<String>,
    ) {
        let mut why = why.unwrap_or_else(|| "no address".to_owned());
        while let Some(address) = addresses.pop_front() {
            match self.target.dial(address, addresses.is_empty()) {
                Dialled::Begun(socket) => {
                    return self.connect(session, Stream::new(socket), address, addresses);
                }
                Dialled::Later(error) => {
                    let (why, now_us) = (describe(&error), self.now_us());
                    return self.player.handle_refused(session, &why, now_us);
                }
                Dialled::Failed(error) => {
                    why = format!("{}: {}", self.target.name(address), describe(&error));
                }
            }
        }
        self.player.handle_failed(session, &why, self.now_us());
    }

    fn connect(
        &mut self,
        session: SessionId,
        mut stream: Stream,
        address: usize,
        others: VecDeque<usize>,
    ) {
        let now_us = self.now_us();
        let entry = self.links.vacant_entry();
        let nth = entry.key();
        let token = Token(FIRST_LINK + nth);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = stream.register(self.wakers.poll.registry(), token, interest) {
            return (self.player).handle_refused(session, &describe(&error), now_us);
        }
        self.by_session.insert(session, nth);
        if !others.is_empty() {
            let addresses = self.target.addresses().len() as u64;
            let patience_us = self.config.player.timeout_us / addresses;
            let until_us = now_us.saturating_add(patience_us);
            self.dialling.push_back((until_us, session, address));
        }
        entry.insert(Link {
            session,
            stream,
            stage: Stage::Connecting { address, others },
        });
    }

    /// Gives up addresses that do not answer, where there are others to be tried.
    pub(super) fn expire_dialling(&mut self) {
        let now_us = self.now_us();
        while let Some(&(until_us, session, address)) = self.dialling.front() {
            if until_us > now_us {
                break;
            }
            self.dialling.pop_front();
            let Some(&nth) = self.by_session.get(&session) else {
                continue;
            };
            // It may have gone on to another in the meantime.
            if matches!(&self.links[nth].stage, Stage::Connecting { address: at, .. } if *at == address)
            {
                self.redial(nth, "timed out");
            }
        }
    }

    /// The address that a link connects to does not answer, for this reason: another is tried.
    fn redial(&mut self, nth: usize, why: &str) {
        let link = self.remove(nth);
        if let Stage::Connecting { address, others } = link.stage {
            let why = format!("{}: {why}", self.target.name(address));
            self.dial(link.session, others, Some(why));
        }
    }

    /// Looks whether a link has connected.
    fn handle_connecting(&mut self, nth: usize, address: usize) {
        match self.links[nth].stream.connected() {
            None => {}
            Some(Err(error)) => self.redial(nth, &describe(&error)),
            // Until its beginning can be recorded, the player does not hear of it.
            Some(Ok(())) if !self.recorder.make_room(None) => self.list(nth),
            Some(Ok(())) => {
                let now = self.clock.now();
                let peer = self.target.name(address);
                let link = &mut self.links[nth];
                let endpoints = Endpoints {
                    conn: ConnId(link.session.0),
                    peer: peer.into(),
                    local: link.stream.local().into(),
                    target: None,
                };
                let slot = self.recorder.capture.handle_open(endpoints, now);
                link.stage = Stage::Open(slot, Ends::default());
                self.target.prefer(address);
                let now_us = self.now_us();
                self.player
                    .handle_connected(self.links[nth].session, now_us);
                self.list(nth);
            }
        }
    }

    // --- sending ---------------------------------------------------------------------------------

    pub(super) fn write(&mut self, session: SessionId) {
        let now_us = self.now_us();
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let Link { stream, stage, .. } = &mut self.links[nth];
        let Stage::Open(slot, ends) = stage else {
            return;
        };
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

    /// Ends a session's sending, or resets it, once everything is on its way.
    pub(super) fn end_sending(&mut self, session: SessionId, ending: Ending) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let link = &mut self.links[nth];
        if let Stage::Open(_, ends) = &mut link.stage {
            link.stream.await_sent();
            ends.due = Some(ending);
            self.end_if_sent(nth);
        }
    }

    /// Does what was to be done once everything is on its way, if it is.
    pub(super) fn end_if_sent(&mut self, nth: usize) {
        let Link {
            session,
            stream,
            stage,
        } = &mut self.links[nth];
        let Stage::Open(_, ends) = stage else {
            return;
        };
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
        let link = &self.links[nth];
        let is_sent = match &link.stage {
            Stage::Open(_, ends) => ends.ours,
            Stage::Connecting { .. } => false,
        };
        if is_sent {
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
                link.stream.is_listed = false;
                match &link.stage {
                    Stage::Connecting { address, .. } => {
                        let address = *address;
                        self.handle_connecting(nth, address);
                    }
                    Stage::Open(_, ends) if ends.theirs => self.look_whether_over(nth),
                    Stage::Open(slot, _) => {
                        let slot = *slot;
                        self.read_link(nth, slot);
                    }
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
        match link
            .stream
            .read(self.recorder.capture.read_buffer(slot, Direction::In))
        {
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
                if let Stage::Open(_, ends) = &mut link.stage {
                    ends.theirs = true;
                }
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
        let link = &self.links[nth];
        let Stage::Open(_, ends) = &link.stage else {
            return;
        };
        let session = link.session;
        match link.stream.is_over() {
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
        if let Stage::Open(_, ends) = &mut self.links[nth].stage {
            if let Some(why) = ends.broken.take() {
                self.fail(nth, CloseReason::Error(why.as_str().into()), &why);
            }
        }
    }

    fn fail(&mut self, nth: usize, reason: CloseReason, why: &str) {
        let session = self.unlink(nth, reason).session;
        self.player.handle_failed(session, why, self.now_us());
    }

    // --- links -----------------------------------------------------------------------------------

    /// Puts a link on the list of those to look at, once.
    pub(super) fn list(&mut self, nth: usize) {
        if !mem::replace(&mut self.links[nth].stream.is_listed, true) {
            self.ready.push(nth);
        }
    }

    /// Takes a link away; that it was closed is recorded once there is room.
    pub(super) fn unlink(&mut self, nth: usize, reason: CloseReason) -> Link {
        let link = self.remove(nth);
        match link.stage {
            Stage::Connecting { .. } => {}
            Stage::Open(slot, _) => self.closing.push((slot, reason)),
        }
        link
    }

    fn remove(&mut self, nth: usize) -> Link {
        let link = self.links.remove(nth);
        self.by_session.remove(&link.session);
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
