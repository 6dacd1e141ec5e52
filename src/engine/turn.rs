//! The loop itself: wait, latch what the kernel says is ready, then bounded work, turn after turn.
//!
//! It serves connections of three kinds: peers that were accepted and only speak, devices that were
//! dialled (`devices`), and peers with a target behind them (`proxy`).

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use super::accept::Door;
use super::clock::SystemClock;
use super::devices::{Devices, Line};
use super::dial::{self, Dialler};
use super::helm::{self, Loop, Pause};
use super::listen::Listener;
use super::proxy::{Proxy, Relayed};
use super::recorder::Recorder;
use super::stream::{Read, Stream};
use super::systemd::Supervisor;
use super::{Error, Outcome, SIGNALS, WAKER, Wakers, system};
use crate::capture::shutdown::Phase;
use crate::capture::{READ_MAX, READ_SHARE, Slot};
use crate::notice::{Notice, Notify};
use crate::output::Errand;
use crate::record::doorbell::Doorbell;
use crate::record::time::Clock;
use crate::record::{CloseReason, ConnId, Direction};
use crate::relay::Side;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Connections whose time is over that are looked at in a turn: where it is over for a hundred thousand
/// at once, others still have their turns.
const EXPIRIES_A_TURN: usize = 256;

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    /// It is in the list of those that may have something to do.
    is_listed: bool,
    /// It was idle for too long, unless something has arrived that was not read yet.
    pub(super) is_suspect: bool,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A peer that was accepted and only speaks.
    Source(Stream),
    /// A device that was dialled.
    Device(Box<Line>),
    /// A peer that was accepted, and the target behind it.
    Relayed(Box<Relayed>),
}

/// For whom somebody is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    /// The device with this number.
    Device(usize),
    /// The peer at this slot, with this number.
    Peer(Slot, ConnId),
}

/// Whom a run dials, and what for.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) options: dial::Options,
    pub(super) devices: Devices,
    pub(super) proxy: Option<Proxy>,
}

/// What a look at the sockets has found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Something,
    Nothing,
    /// Nothing is held back, or not for longer.
    NotNeeded,
}

/// Everything that a run owns.
pub(super) struct Engine {
    pub(super) poll: Poll,
    signals: Signals,
    doorbell: Arc<Doorbell>,
    pub(super) clock: SystemClock,
    pub(super) door: Door,
    /// By slot.
    pub(super) conns: Vec<Option<Conn>>,
    /// Connections that may have something to do, each once.
    ready: Vec<Slot>,
    /// Those whose turn it is now.
    turn: Vec<Slot>,
    pub(super) recorder: Recorder,
    pub(super) dialler: Dialler<Caller>,
    pub(super) devices: Devices,
    pub(super) proxy: Option<Proxy>,
    /// It has been told to stop, and does.
    is_stopping: bool,
    supervisor: Supervisor,
    pub(super) notify: Notify,
}

/// An engine on its way from hand to hand.
struct Turns {
    engine: Engine,
    events: Events,
}

impl Loop for Turns {
    type Errand = Errand;
    type Outcome = Result<Outcome, Error>;

    fn run(&mut self, runs_errands: impl Fn() -> bool) -> Pause<Errand, Result<Outcome, Error>> {
        let Self { engine, events } = self;
        match engine.run_to_pause(events, runs_errands) {
            Ok(Pause::Errand(errand)) => Pause::Errand(errand),
            Ok(Pause::Over(outcome)) => Pause::Over(Ok(outcome)),
            Err(error) => Pause::Over(Err(error)),
        }
    }

    fn run_errand(errand: Errand) {
        errand.run();
    }
}

impl Engine {
    /// A loop over listeners that are registered with `poll`, by [`FIRST_LISTENER`] and their place.
    pub(super) fn new(
        wakers: Wakers,
        listeners: Vec<Listener>,
        recorder: Recorder,
        calls: Calls,
        notify: Notify,
    ) -> Result<Self, Error> {
        let Wakers {
            poll,
            signals,
            doorbell,
        } = wakers;
        let dialler = Dialler::new(poll.registry(), calls.options, &doorbell);
        let mut dialler = dialler.map_err(system("watch sockets"))?;
        dialler.avoid(&listeners);
        Ok(Self {
            dialler,
            poll,
            signals,
            doorbell,
            clock: recorder.clock(),
            door: Door::new(listeners),
            conns: Vec::new(),
            ready: Vec::new(),
            turn: Vec::new(),
            recorder,
            devices: calls.devices,
            proxy: calls.proxy,
            is_stopping: false,
            supervisor: Supervisor::from_env(),
            notify,
        })
    }

    /// Captures until told to stop, until no output is left, or until there is nobody left to dial.
    pub(super) fn run(self) -> Result<Outcome, Error> {
        self.tell_ready();
        let has_errands = self.recorder.gives_errands();
        let events = Events::with_capacity(EVENTS);
        let turns = Turns {
            engine: self,
            events,
        };
        match has_errands {
            true => helm::run(turns),
            false => helm::run_alone(turns),
        }
    }

    fn run_to_pause(
        &mut self,
        events: &mut Events,
        runs_errands: impl Fn() -> bool,
    ) -> Result<Pause<Errand, Outcome>, Error> {
        loop {
            if let Some(outcome) = self.recorder.poll_outcome(self.door.has_unaccepted()) {
                if self.recorder.is_finished() {
                    let statistics = self.recorder.statistics();
                    self.notify.say(Notice::Finished(statistics));
                }
                return self.devices.verdict(outcome).map(Pause::Over);
            }
            let look = self.look(events)?;
            if look != Look::Something {
                if look == Look::Nothing && runs_errands() {
                    if let Some(errand) = self.recorder.send_as_errand() {
                        return Ok(Pause::Errand(errand));
                    }
                }
                self.recorder.send_if_idle();
                self.wait(events)?;
            }
            self.latch(events);
            self.accept();
            self.dial();
            self.work();
            self.expire();
            self.drain();
            self.recorder.tell_status();
        }
    }

    // --- waiting ---------------------------------------------------------------------------------

    /// What is recorded may wait for what the kernel has ready already, which is then in `events`.
    fn look(&mut self, events: &mut Events) -> Result<Look, Error> {
        if !self.recorder.may_hold() {
            return Ok(Look::NotNeeded);
        }
        self.poll_for(events, Some(Duration::ZERO))?;
        Ok(match !events.is_empty() || self.has_work() {
            true => Look::Something,
            false => Look::Nothing,
        })
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        let mut timeout = if self.has_work() {
            Some(Duration::ZERO)
        } else {
            self.until_deadline()
        };
        if timeout != Some(Duration::ZERO) && self.recorder.waits_for_outputs() {
            self.doorbell.arm();
            // The second look: an output may have rung before the bell was armed.
            if self.recorder.has_more_to_do() {
                timeout = Some(Duration::ZERO);
            }
        }
        let result = self.poll_for(events, timeout);
        self.doorbell.disarm();
        result
    }

    fn poll_for(&mut self, events: &mut Events, timeout: Option<Duration>) -> Result<(), Error> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::System("wait for sockets", error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the next turn has something to do, whatever the kernel says.
    fn has_work(&self) -> bool {
        let has_any = self.has_callers() || !self.ready.is_empty() || self.dialler.has_decided();
        !self.recorder.is_starved() && has_any
    }

    fn until_deadline(&self) -> Option<Duration> {
        let deadlines = [
            self.recorder.deadline_us(),
            self.door.deadline_us(),
            self.dialler.deadline_us(),
            self.devices.deadline_us(),
            self.proxy.as_ref().and_then(Proxy::deadline_us),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        let left = next.saturating_sub(self.clock.now().elapsed_us);
        Some(Duration::from_micros(left))
    }

    fn latch(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.handle_signals(),
                token if self.dialler.owns(token) => {
                    let now_us = self.clock.now().elapsed_us;
                    self.dialler.handle_event(token, now_us);
                }
                Token(token) => match token.checked_sub(self.door.first_conn()) {
                    None => self.door.latch(Token(token)),
                    Some(nth) => self.latch_conn(nth, event),
                },
            }
        }
        self.recorder.begin_turn();
    }

    /// The token of a connection's socket on this side.
    pub(super) fn token(&self, slot: Slot, side: Side) -> Token {
        Token(self.door.first_conn() + 2 * slot.0 + side as usize)
    }

    /// `nth` is the token's distance from the first that is a connection's.
    fn latch_conn(&mut self, nth: usize, event: &Event) {
        let (slot, side) = (Slot(nth / 2), Side::BOTH[nth % 2]);
        // The connection may have been closed since the kernel spoke.
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        match &mut conn.kind {
            Kind::Source(stream) => {
                stream.latch(event);
                if stream.has_ended() {
                    self.recorder.capture.handle_ending(slot);
                }
            }
            Kind::Device(line) => line.latch(event),
            Kind::Relayed(relayed) => relayed.latch(side, event),
        }
        list(&mut self.ready, slot, conn);
    }

    /// Has a connection get its turn.
    pub(super) fn list(&mut self, slot: Slot) {
        if let Some(Some(conn)) = self.conns.get_mut(slot.0) {
            list(&mut self.ready, slot, conn);
        }
    }

    // --- connections -----------------------------------------------------------------------------

    /// Puts a connection in its place. It gets its turn: most peers have sent something by now; if not,
    /// the read says so and the kernel will tell.
    pub(super) fn insert(&mut self, slot: Slot, id: ConnId, kind: Kind) {
        if self.conns.len() <= slot.0 {
            self.conns.resize_with(slot.0 + 1, || None);
        }
        self.conns[slot.0] = Some(Conn {
            id,
            is_listed: false,
            is_suspect: false,
            kind,
        });
        self.list(slot);
    }

    /// A turn for each connection that may have something to do.
    fn work(&mut self) {
        mem::swap(&mut self.ready, &mut self.turn);
        for nth in 0..self.turn.len() {
            let slot = self.turn[nth];
            if let Some(Some(conn)) = self.conns.get_mut(slot.0) {
                conn.is_listed = false;
                match &conn.kind {
                    Kind::Source(_) => self.read(slot),
                    Kind::Device(_) => {
                        self.read(slot);
                        self.send(slot);
                    }
                    Kind::Relayed(_) => self.relay(slot),
                }
            }
            if self.recorder.is_starved() {
                put_off(&mut self.ready, slot, &self.turn[nth + 1..]);
                break;
            }
        }
        self.turn.clear();
    }

    /// One read of a connection with one side.
    fn read(&mut self, slot: Slot) {
        if !self.recorder.make_room(Some(slot)) {
            return self.list(slot);
        }
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        let stream = match &mut conn.kind {
            Kind::Source(stream) => stream,
            Kind::Device(line) => &mut line.stream,
            Kind::Relayed(_) => return,
        };
        let buffer = self.recorder.capture.read_buffer(slot, Direction::In);
        // One that is fast waits for its turn like all others.
        let share = (READ_MAX / self.turn.len().max(1)).max(READ_SHARE);
        let room = buffer.len().min(share);
        let buffer = &mut buffer[..room];
        match stream.read(buffer) {
            Read::Bytes(len) => {
                if stream.may_have_more(len, room) {
                    list(&mut self.ready, slot, conn);
                }
                conn.is_suspect = false;
                if let Kind::Device(line) = &mut conn.kind {
                    line.has_spoken = true;
                }
                let now = self.clock.now();
                (self.recorder.capture).handle_read(slot, Direction::In, len, now);
            }
            Read::Nothing if mem::take(&mut conn.is_suspect) => {
                stream.retire(CloseReason::IdleTimeout);
                list(&mut self.ready, slot, conn);
            }
            Read::Nothing => {
                if let Some(reason) = conn.take_broken() {
                    self.close(slot, reason);
                }
            }
            Read::Again => list(&mut self.ready, slot, conn),
            Read::Eof => {
                // A write that failed has taken the error that a read would tell.
                if let Some(reason) = conn.take_broken() {
                    return self.close(slot, reason);
                }
                let now = self.clock.now();
                (self.recorder.capture).handle_eof(slot, Direction::In, now);
                self.close(slot, CloseReason::Eof);
            }
            Read::Over(reason) => self.close(slot, reason),
        }
    }

    /// Closes a connection with one side, for which there is room.
    fn close(&mut self, slot: Slot, reason: CloseReason) {
        match self.conns[slot.0].take().map(|conn| conn.kind) {
            Some(Kind::Source(stream)) => stream.close(&reason),
            Some(Kind::Device(line)) => self.lose(*line, &reason),
            Some(Kind::Relayed(_)) | None => {}
        }
        self.handle_closed(slot, reason);
    }

    /// A connection has been closed: it is recorded.
    pub(super) fn handle_closed(&mut self, slot: Slot, reason: CloseReason) {
        let now = self.clock.now();
        self.recorder.capture.handle_close(slot, reason, now);
        // A descriptor has come free: somebody may be waiting for it.
        self.door.wake();
    }

    /// Has the kernel take nothing more for a connection, which ends once what it has taken is read.
    pub(super) fn retire(&mut self, slot: Slot, reason: CloseReason) {
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        match &mut conn.kind {
            Kind::Source(stream) => stream.retire(reason),
            Kind::Device(line) => line.stream.retire(reason),
            Kind::Relayed(relayed) => relayed.retire(reason),
        }
        self.list(slot);
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        let shutdown = &mut self.recorder.capture.shutdown;
        shutdown.handle_timeout(now.elapsed_us);
        self.stop_if_told();
        for _ in 0..EXPIRIES_A_TURN {
            let Some((slot, reason)) = self.recorder.capture.poll_expired(now) else {
                break;
            };
            // Silence is known only once the socket has been looked into: while the outputs held all
            // memory, or this process was stopped, nobody did.
            if reason != CloseReason::IdleTimeout {
                self.retire(slot, reason);
            } else if let Some(Some(conn)) = self.conns.get_mut(slot.0) {
                conn.is_suspect = true;
                list(&mut self.ready, slot, conn);
            }
        }
        self.expire_endings(now.elapsed_us);
    }

    // --- signals and the end ---------------------------------------------------------------------

    fn handle_signals(&mut self) {
        let pending: Vec<_> = self.signals.pending().collect();
        let now = self.clock.now();
        for signal in pending {
            match signal {
                SIGHUP => {
                    // What came before the signal belongs into the old file.
                    self.recorder.reopen();
                }
                SIGUSR1 => self
                    .notify
                    .say(Notice::Statistics(self.recorder.statistics())),
                _ => {
                    self.recorder.capture.shutdown.handle_stop(now.elapsed_us);
                    self.stop_if_told();
                }
            }
        }
    }

    fn stop_if_told(&mut self) {
        let is_told = self.recorder.capture.shutdown.is_told();
        if is_told && !mem::replace(&mut self.is_stopping, true) {
            self.begin_drain();
        }
    }

    /// Nothing can go wrong any more: whoever waits for that may come.
    fn tell_ready(&self) {
        let names = self.door.names();
        for &name in &names {
            self.notify.say(Notice::Listening(name.to_owned()));
        }
        self.supervisor.tell_ready(&match names[..] {
            [] => "connecting to devices".to_owned(),
            _ => format!("listening on {}", names.join(", ")),
        });
    }

    /// From here on the kernel takes nothing more from anybody, and everything that it has taken is
    /// read.
    fn begin_drain(&mut self) {
        let open = self.recorder.capture.totals().open;
        self.notify.say(Notice::Stopping { open });
        let status = format!("stopping: {open} connections to be read to their end");
        let now_us = self.clock.now().elapsed_us;
        let left = self.recorder.capture.shutdown.left(now_us);
        self.supervisor.tell_stopping(&status, left);
        self.door.quiet();
        for slot in 0..self.conns.len() {
            self.retire(Slot(slot), CloseReason::Shutdown);
        }
        self.dialler.cancel_all();
        self.hurry_endings();
    }

    /// Ends the capture once nobody is left to be read, accepted or dialled.
    fn drain(&mut self) {
        let capture = &mut self.recorder.capture;
        let open = capture.totals().open;
        if self.devices.are_done() || capture.has_opened_all() && open == 0 {
            capture.shutdown.handle_finished();
        }
        let is_draining = capture.shutdown.phase() == Phase::Draining;
        if is_draining && open == 0 && !self.door.has_unaccepted() {
            self.recorder.end();
        }
        self.recorder.flush();
    }
}

impl Conn {
    /// Why it cannot be written to any more, if that is so.
    fn take_broken(&mut self) -> Option<CloseReason> {
        match &mut self.kind {
            Kind::Device(line) => line.broken.take(),
            Kind::Source(_) | Kind::Relayed(_) => None,
        }
    }
}

/// Puts a connection on the list of those to serve, once.
pub(super) fn list(ready: &mut Vec<Slot>, slot: Slot, conn: &mut Conn) {
    if !mem::replace(&mut conn.is_listed, true) {
        ready.push(slot);
    }
}

/// A turn ends early, at the connection that `waits`: the next begins with it and those `behind` it, and those
/// in `ready` that had their turn come last. Else, where there is never room for all, the first in the list
/// would be read for ever and the last hardly ever. (One with two sides may have been read at the other.)
fn put_off(ready: &mut Vec<Slot>, waits: Slot, behind: &[Slot]) {
    let place = ready.iter().position(|&slot| slot == waits);
    let had_their_turn = place.unwrap_or(ready.len());
    ready.extend_from_slice(behind);
    ready.rotate_left(had_their_turn);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All have always something, and there is room for so many reads a turn.
    fn check(conns: usize, room: usize) {
        let mut ready: Vec<Slot> = (0..conns).map(Slot).collect();
        let mut reads = vec![0; conns];
        for _ in 0..10 * conns {
            let turn = mem::take(&mut ready);
            for (nth, &slot) in turn.iter().enumerate() {
                // Be it read or not, it has more.
                ready.push(slot);
                if nth == room {
                    put_off(&mut ready, slot, &turn[nth + 1..]);
                    break;
                }
                reads[slot.0] += 1;
            }
            assert_eq!(ready.len(), conns);
        }
        let (least, most) = (reads.iter().min(), reads.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{reads:?}");
    }

    #[test]
    fn where_there_is_not_room_for_all_each_is_read_as_often() {
        for room in 1..8 {
            check(7, room);
        }
        check(16, 1);
        check(1, 1);
    }

    #[test]
    fn one_that_waits_and_is_gone_leaves_its_place_to_those_behind_it() {
        let mut ready = vec![Slot(1), Slot(2)];
        put_off(&mut ready, Slot(3), &[Slot(4), Slot(5)]);
        assert_eq!(ready, [4, 5, 1, 2].map(Slot));
    }
}
