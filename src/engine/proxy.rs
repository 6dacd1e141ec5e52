//! A proxy: for every peer the target is dialled, and what passes between them is recorded.
//!
//! What to do is the relay core's to say (`relay`); here it is done. Bytes are read into the batch that
//! records them and written on from there, so that they wait for nothing and nobody.

use std::io::{self, IoSlice};
use std::slice;
use std::time::Duration;

use mio::event::Event;

use super::address::Address;
use super::bind::{TcpOptions, bind_all};
use super::dial::{self, DialId};
use super::keepalive::Keepalive;
use super::recorder::Recorder;
use super::stream::{Read, Stream};
use super::turn::{Caller, Calls, Conn, Engine, Kind};
use super::{Error, Outcome, Recording, Wakers, listen_all, start_record};
use crate::capture::shutdown::Phase;
use crate::capture::{READ_SHARE, Slot};
use crate::notice::{Cause, Notice, Notify, Then, describe};
use crate::output;
use crate::record::deadline::Deadlines;
use crate::record::time::{Clock, micros};
use crate::record::{CloseReason, ConnId};
use crate::relay::{Command, Got, Relay, Side};

/// Between whom to sit.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where peers connect.
    pub listen: Address,
    /// The server that is dialled for each of them.
    pub target: Address,
    /// How a peer that has vanished is noticed.
    pub keepalive: Keepalive,
    /// How connections are made.
    pub dial: dial::Options,
    /// What becomes of what passes.
    pub recording: Recording,
}

/// Bytes that all relays may hold together: read from one side, not taken by the other yet. Beyond it
/// what a side does not take now is left in the kernel.
const HELD_MAX: usize = 16 * 1024 * 1024;

/// How long a connection that is ending waits for a side that takes nothing of what is left for it. When
/// the run ends, what is left is to be taken within that time, and within half of what there is for the
/// end: what nobody takes is recorded all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection that is ending waits at most, whatever its sides take.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// A connection where a side waits for the other to take what it has sent is idle only after so many times
/// the idle timeout: that the other takes it slowly is seen in steps of [`UNSENT_MAX`] only.
const STRIKES: u32 = 10;

/// Bytes for a side that the kernel takes beyond what is on its way. It likes to take megabytes, which a
/// connection that is to be closed would have to wait for, and which hide that a side is slow.
pub const UNSENT_MAX: u32 = 128 * 1024;

/// Reads of a connection in a turn: one of each side.
const READS_A_TURN: usize = 2;

/// Captures what passes between peers and a target, until told to stop.
///
/// # Errors
/// [`Error`]. Trouble with the target is none.
pub fn proxy(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let recording = &config.recording;
    let options = TcpOptions {
        keepalive: config.keepalive,
        unsent_max: Some(UNSENT_MAX),
    };
    let addresses = slice::from_ref(&config.listen);
    let bound = bind_all(addresses, options).map_err(Error::Listen)?;
    let opened =
        output::open_all(&recording.outputs, &recording.output_options).map_err(Error::Output)?;
    let mut wakers = Wakers::new()?;
    wakers.watch_signals()?;
    let (listeners, names) = listen_all(bound, &wakers)?;
    let target = config.target.to_string();
    let start = start_record("proxy", names, vec![target.clone()])?;
    let recorder = Recorder::start(recording, opened, &wakers.doorbell, start, notify)?;
    let calls = Calls {
        options: config.dial,
        devices: super::devices::Devices::default(),
        proxy: Some(Proxy {
            target: config.target.clone(),
            name: target,
            cause: Cause::default(),
            held: 0,
            endings: Deadlines::default(),
            drain_us: micros(recording.capture.drain),
        }),
    };
    Engine::new(wakers, listeners, recorder, calls, notify.clone())?.run()
}

/// What all relays of a run share.
#[derive(Debug)]
pub(super) struct Proxy {
    target: Address,
    /// The target, as it was given.
    name: String,
    /// Why it does not answer.
    cause: Cause,
    /// Bytes that all relays hold.
    held: usize,
    /// Connections that are ending and may have been waited for long enough.
    endings: Deadlines<(Slot, ConnId)>,
    /// How long the end of the run may take.
    drain_us: u64,
}

/// A connection that is ending.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// When it has been waited for long enough, unless it moves.
    until_us: u64,
    /// … and even if it does.
    latest_us: u64,
    /// How far it had come.
    moved: u64,
}

/// A peer and its target.
#[derive(Debug)]
pub(super) struct Relayed {
    relay: Relay,
    peer: Stream,
    target: Option<Stream>,
    dial: Option<DialId>,
    /// Its end, which is waited for.
    ending: Option<Ending>,
    /// How often it has seemed idle since something moved.
    strikes: u32,
    /// Bytes that were read from either side, and bytes that were held and taken.
    moved: u64,
    /// Sides that are still to be looked into a last time; see [`Engine::look_once_more`].
    last_looks: Vec<Side>,
}

impl Proxy {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn patience_us(&self, is_running: bool) -> u64 {
        match is_running {
            true => micros(PATIENCE),
            false => micros(PATIENCE).min(self.drain_us / 2),
        }
    }

    /// When something is to be done.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.endings.next()
    }
}

impl Relayed {
    /// Of a peer that has just been accepted.
    pub(super) fn new(peer: Stream) -> Self {
        Self {
            relay: Relay::new(),
            peer,
            target: None,
            dial: None,
            ending: None,
            strikes: 0,
            moved: 0,
            last_looks: Vec::new(),
        }
    }

    pub(super) fn latch(&mut self, side: Side, event: &Event) {
        let Some(stream) = self.stream(side) else {
            return;
        };
        stream.latch(event);
        if event.is_error() {
            // Whoever is across need not take anything for that to be known.
            if let Err(error) = stream.take_error() {
                self.relay.handle_write_failed(side, broken(side, &error));
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.relay.handle_readable(side);
        }
        if event.is_writable() {
            self.relay.handle_writable(side);
        }
    }

    fn stream(&mut self, side: Side) -> Option<&mut Stream> {
        match side {
            Side::Peer => Some(&mut self.peer),
            Side::Target => self.target.as_mut(),
        }
    }

    /// It is to end, with what the kernel has taken by now.
    pub(super) fn retire(&mut self, reason: CloseReason) {
        self.relay.handle_retire(reason);
    }

    /// Reads from one side and writes what comes to the other, if it `passes`. Says what that came to
    /// for the record, which is the caller's to write.
    fn pass(&mut self, side: Side, passes: bool, leaves: bool, buffer: &mut [u8]) -> Passed {
        let (from, to) = match (side, &mut self.target) {
            (Side::Peer, target) => (&mut self.peer, target.as_mut()),
            (Side::Target, Some(target)) => (target, Some(&mut self.peer)),
            (Side::Target, None) => return Passed::default(),
        };
        let to = to.filter(|_| passes);
        let leaves = leaves && to.is_some();
        let read = match leaves {
            false => from.read(buffer),
            true => from.peek(buffer),
        };
        let (len, got, failed) = match read {
            Read::Again => return Passed::default(),
            Read::Nothing => (0, Got::Nothing, None),
            Read::Eof => (0, Got::End, None),
            Read::Over(reason) => (0, Got::Broken(of(side, reason)), None),
            Read::Bytes(len) => {
                let (taken, failed) = match to.map(|to| to.write(&[IoSlice::new(&buffer[..len])])) {
                    None => (len, None),
                    Some(Ok(taken)) => (taken, None),
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => (0, None),
                    Some(Err(error)) => (0, Some(error)),
                };
                if !leaves {
                    let may_be_more = from.may_have_more(len, buffer.len());
                    let rest = match failed {
                        None => &buffer[taken..len],
                        Some(_) => &[],
                    };
                    (len, Got::Bytes { rest, may_be_more }, failed)
                } else if taken == 0 {
                    (0, Got::Left, failed)
                } else {
                    // What the other side has not taken stays where it is; what it has taken is taken
                    // out: the same bytes once more.
                    let len = match from.read(&mut buffer[..taken]) {
                        Read::Bytes(len) => len,
                        _ => 0,
                    };
                    let (rest, may_be_more) = (&[][..], true);
                    (len, Got::Bytes { rest, may_be_more }, None)
                }
            }
        };
        let is_end = self.relay.handle_read(side, got);
        self.moved += len as u64;
        if let Some(error) = failed {
            let other = side.other();
            self.relay.handle_write_failed(other, broken(other, &error));
        }
        Passed { len, is_end }
    }

    /// Writes what is held for a side.
    fn flush(&mut self, side: Side) {
        let (stream, held) = match (side, &mut self.target) {
            (Side::Peer, _) => (&mut self.peer, self.relay.held(side)),
            (Side::Target, Some(target)) => (target, self.relay.held(side)),
            (Side::Target, None) => return,
        };
        match stream.write(&[IoSlice::new(held)]) {
            Ok(len) => {
                self.moved += len as u64;
                self.relay.handle_flushed(side, len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.relay.handle_flushed(side, 0);
            }
            Err(error) => self.relay.handle_write_failed(side, broken(side, &error)),
        }
    }

    /// Closes both sides; with a reset whom `resets` names.
    fn close(self, resets: [bool; 2]) {
        let streams = [Some(self.peer), self.target];
        for (side, stream) in Side::BOTH.into_iter().zip(streams) {
            let Some(stream) = stream else {
                continue;
            };
            match resets[side as usize] {
                true => stream.reset(),
                false => stream.finish(self.relay.is_sent(side)),
            }
        }
    }
}

/// What a pass came to: so many bytes to be recorded, or the end of a direction.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    len: usize,
    is_end: bool,
}

/// Why a side is over, as a record tells it: seen from the peer.
fn of(side: Side, reason: CloseReason) -> CloseReason {
    match (side, reason) {
        (Side::Target, CloseReason::Reset) => CloseReason::TargetReset,
        (Side::Target, CloseReason::Error(why)) => {
            CloseReason::Error(format!("target: {why}").into())
        }
        (_, reason) => reason,
    }
}

fn broken(side: Side, error: &io::Error) -> CloseReason {
    of(side, super::stream::broken(error))
}

impl Engine {
    /// Begins to connect to the target, for the peer at `slot`.
    pub(super) fn dial_target(&mut self, slot: Slot, id: ConnId) {
        let now_us = self.clock.now().elapsed_us;
        let (Some(proxy), Some(relayed)) = (&self.proxy, relayed(&mut self.conns, slot)) else {
            return;
        };
        let caller = Caller::Peer(slot, id);
        relayed.dial = Some((self.dialler).dial(caller, &proxy.target, now_us));
    }

    /// What dialling the target for the peer at `slot` has come to.
    pub(super) fn handle_target(&mut self, slot: Slot, id: ConnId, outcome: dial::Outcome) {
        let token = self.token(slot, Side::Target);
        // The peer may have gone since that was decided, and another be in its place.
        let conn = self.conns.get_mut(slot.0).and_then(Option::as_mut);
        let kind = conn.filter(|conn| conn.id == id).map(|conn| &mut conn.kind);
        let (Some(proxy), Some(Kind::Relayed(relayed))) = (&mut self.proxy, kind) else {
            return;
        };
        if relayed.dial.take().is_none() || relayed.relay.is_ending() {
            return;
        }
        let why = match outcome {
            dial::Outcome::Connected(mut connected) => {
                match (connected.stream).reregister(self.poll.registry(), token, true) {
                    Ok(()) => {
                        if proxy.cause.is_over() {
                            self.notify.say(Notice::Connected {
                                target: proxy.name.clone(),
                                peer: connected.peer,
                            });
                        }
                        relayed.target = Some(connected.stream);
                        relayed.relay.handle_connected();
                        return self.list(slot);
                    }
                    Err(error) => describe(&error),
                }
            }
            dial::Outcome::Shortage(why) | dial::Outcome::Failed(why) => why,
        };
        let why = dial::said_of(&proxy.name, &why).to_owned();
        if proxy.cause.is_news(&why) {
            self.notify.say(Notice::ConnectFailed {
                target: proxy.name.clone(),
                why: why.clone(),
                then: Then::ResetsPeer,
            });
        }
        let why = format!("cannot connect to {}: {why}", proxy.name);
        relayed
            .relay
            .handle_unreachable(CloseReason::Error(why.into()));
        self.list(slot);
    }

    /// A turn of a connection with two sides.
    pub(super) fn relay(&mut self, slot: Slot) {
        let mut reads = 0;
        let mut has_moved = false;
        loop {
            let Some(relayed) = relayed(&mut self.conns, slot) else {
                return;
            };
            if relayed.relay.is_ending() {
                if let Some(dial) = relayed.dial.take() {
                    self.dialler.cancel(dial);
                }
            }
            let before = relayed.relay.held_cost();
            match relayed.relay.poll() {
                None => break,
                Some(Command::Pass(_) | Command::Drain(_)) if reads == READS_A_TURN => {
                    self.list(slot);
                    break;
                }
                Some(command @ (Command::Pass(side) | Command::Drain(side))) => {
                    if !self.recorder.make_room(Some(slot)) {
                        return self.list(slot);
                    }
                    reads += 1;
                    let passes = command == Command::Pass(side);
                    has_moved |= self.pass(slot, side, passes);
                }
                Some(Command::Flush(side)) => relayed.flush(side),
                Some(Command::End(side)) => {
                    if let Some(stream) = relayed.stream(side) {
                        stream.end_sending();
                    }
                }
                Some(Command::Deafen(side)) => {
                    if let Some(stream) = relayed.stream(side) {
                        stream.deafen();
                        stream.take_all();
                        relayed.last_looks.push(side);
                    }
                }
                Some(Command::AwaitSent(side)) => {
                    let is_sent = relayed.stream(side).is_none_or(|stream| {
                        stream.await_taken();
                        stream.is_sent()
                    });
                    relayed.relay.handle_sent(side, is_sent);
                }
                Some(Command::Close { reason, resets }) => {
                    if !self.recorder.make_room(Some(slot)) {
                        return self.list(slot);
                    }
                    match relayed.last_looks.pop() {
                        Some(side) => self.look_once_more(slot, side),
                        None => return self.close_relayed(slot, reason, resets),
                    }
                }
            }
            self.account(slot, before);
        }
        self.look_after(slot, has_moved);
    }

    /// Keeps the sum of what relays hold, of which one held `before`.
    fn account(&mut self, slot: Slot, before: usize) {
        if let (Some(proxy), Some(relayed)) = (&mut self.proxy, relayed(&mut self.conns, slot)) {
            proxy.held = proxy.held - before + relayed.relay.held_cost();
        }
    }

    /// One read of a side, passed on where there is somebody to take it, and recorded. Says whether
    /// anything came.
    fn pass(&mut self, slot: Slot, side: Side, passes: bool) -> bool {
        let (Some(proxy), Some(relayed)) = (&self.proxy, relayed(&mut self.conns, slot)) else {
            return false;
        };
        let capture = &mut self.recorder.capture;
        let buffer = capture.read_buffer(slot, side.direction());
        let most = buffer.len().min(READ_SHARE);
        let buffer = &mut buffer[..most];
        let leaves = proxy.held + buffer.len() > HELD_MAX;
        let Passed { len, is_end } = relayed.pass(side, passes, leaves, buffer);
        let now = self.clock.now();
        if len > 0 {
            capture.handle_read(slot, side.direction(), len, now);
        }
        if is_end {
            capture.handle_eof(slot, side.direction(), now);
        }
        len > 0
    }

    /// Reads a deaf side a last time: a packet that was on its way through the kernel when it was
    /// deafened may have been taken behind the read that found nothing.
    fn look_once_more(&mut self, slot: Slot, side: Side) {
        let Some(stream) = relayed(&mut self.conns, slot).and_then(|relayed| relayed.stream(side))
        else {
            return;
        };
        let capture = &mut self.recorder.capture;
        if let Read::Bytes(len) = stream.read(capture.read_buffer(slot, side.direction())) {
            let now = self.clock.now();
            capture.handle_read(slot, side.direction(), len, now);
        }
    }

    /// The turn of a connection is over: looks whether it was idle for too long, or is ending.
    fn look_after(&mut self, slot: Slot, has_moved: bool) {
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        let Kind::Relayed(relayed) = &mut conn.kind else {
            return;
        };
        if has_moved {
            relayed.strikes = 0;
        }
        if std::mem::take(&mut conn.is_suspect) && !has_moved {
            relayed.strikes += 1;
            if relayed.relay.is_held_up() && relayed.strikes < STRIKES {
                let now = self.clock.now();
                return self.recorder.capture.handle_alive(slot, now);
            }
            relayed.retire(CloseReason::IdleTimeout);
            return self.list(slot);
        }
        if relayed.relay.is_ending() && relayed.ending.is_none() {
            self.await_end(slot);
        }
    }

    /// A connection is ending: from here on it is waited for.
    fn await_end(&mut self, slot: Slot) {
        let is_running = self.recorder.capture.shutdown.phase() == Phase::Running;
        let now_us = self.clock.now().elapsed_us;
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        if let (Some(proxy), Kind::Relayed(relayed)) = (&mut self.proxy, &mut conn.kind) {
            let until_us = now_us + proxy.patience_us(is_running);
            let latest_us = match is_running {
                true => now_us + micros(LONGEST_PATIENCE),
                false => until_us,
            };
            let before_us = relayed.ending.map_or(u64::MAX, |ending| ending.until_us);
            if until_us < before_us {
                relayed.ending = Some(Ending {
                    until_us,
                    latest_us,
                    moved: relayed.moved,
                });
                proxy.endings.insert(until_us, (slot, conn.id));
            }
        }
    }

    /// The run is to end, and with it the patience for connections that were ending.
    pub(super) fn hurry_endings(&mut self) {
        for slot in 0..self.conns.len() {
            let slot = Slot(slot);
            if relayed(&mut self.conns, slot).is_some_and(|relayed| relayed.ending.is_some()) {
                self.await_end(slot);
            }
        }
    }

    /// Connections that have been ending for long enough wait no more for a side to take what is left.
    pub(super) fn expire_endings(&mut self, now_us: u64) {
        let Some(proxy) = &mut self.proxy else {
            return;
        };
        let mut expired = Vec::new();
        let conns = &self.conns;
        while let Some((slot, _)) = proxy.endings.expired(now_us, |(slot, id)| {
            let conn = conns.get(slot.0)?.as_ref().filter(|conn| conn.id == id)?;
            match &conn.kind {
                Kind::Relayed(relayed) => Some(relayed.ending?.until_us),
                Kind::Source(_) | Kind::Device(_) => None,
            }
        }) {
            expired.push(slot);
        }
        for slot in expired {
            self.expire_ending(slot, now_us);
        }
    }

    fn expire_ending(&mut self, slot: Slot, now_us: u64) {
        let Some(Some(conn)) = self.conns.get_mut(slot.0) else {
            return;
        };
        let (Some(proxy), Kind::Relayed(relayed)) = (&mut self.proxy, &mut conn.kind) else {
            return;
        };
        if let Some(ending) = &mut relayed.ending {
            // Where the outputs hold all memory, it is not the sides that are waited for.
            let may_move = relayed.moved > ending.moved || self.recorder.is_starved();
            if may_move && now_us < ending.latest_us {
                ending.moved = relayed.moved;
                ending.until_us = (now_us + micros(PATIENCE)).min(ending.latest_us);
                return proxy.endings.insert(ending.until_us, (slot, conn.id));
            }
        }
        let before = relayed.relay.held_cost();
        relayed.relay.handle_impatience();
        self.account(slot, before);
        self.list(slot);
    }

    fn close_relayed(&mut self, slot: Slot, reason: CloseReason, resets: [bool; 2]) {
        let Some(conn) = self.conns.get_mut(slot.0).and_then(Option::take) else {
            return;
        };
        if let Kind::Relayed(relayed) = conn.kind {
            if let Some(proxy) = &mut self.proxy {
                proxy.held -= relayed.relay.held_cost();
                let (conns, open) = (&self.conns, self.recorder.capture.totals().open);
                proxy.endings.sweep(open as usize, |(slot, id)| {
                    let conn = conns.get(slot.0).and_then(Option::as_ref);
                    conn.is_some_and(|conn| conn.id == id)
                });
            }
            relayed.close(resets);
        }
        self.handle_closed(slot, reason);
    }
}

/// The relay at `slot`, if there is one.
fn relayed(conns: &mut [Option<Conn>], slot: Slot) -> Option<&mut Relayed> {
    match &mut conns.get_mut(slot.0)?.as_mut()?.kind {
        Kind::Relayed(relayed) => Some(relayed),
        Kind::Source(_) | Kind::Device(_) => None,
    }
}
