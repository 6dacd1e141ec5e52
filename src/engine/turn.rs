//! The loop itself: wait, latch what the kernel says is ready, then bounded work, turn after turn.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use super::clock::SystemClock;
use super::listen::{Accepted, Listener, Remedy};
use super::recorder::Recorder;
use super::stream::{Read, Stream};
use super::{Error, FIRST_LISTENER, Outcome, SIGNALS, WAKER, Wakers};
use crate::capture::Slot;
use crate::capture::shutdown::Phase;
use crate::notice::{Notice, Notify, Patience, describe};
use crate::record::doorbell::Doorbell;
use crate::record::time::Clock;
use crate::record::{CloseReason, Direction, Endpoints};

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Accepts a turn and listener, so that a storm of connections does not starve those that are open.
const ACCEPTS_A_TURN: usize = 64;

/// When accepting has failed for want of something, it is tried again after this long, if no
/// connection closes before.
const ACCEPT_RETRY_US: u64 = 100_000;

/// Everything that a run owns.
pub(super) struct Engine {
    poll: Poll,
    signals: Signals,
    doorbell: Arc<Doorbell>,
    clock: SystemClock,
    listeners: Vec<Listener>,
    first_listener: usize,
    /// By slot.
    streams: Vec<Option<Stream>>,
    /// Connections that may have something to read, each once.
    ready: Vec<Slot>,
    /// Those whose turn it is now.
    turn: Vec<Slot>,
    recorder: Recorder,
    /// Accepting failed for want of something; microseconds since the start of the run.
    accept_rests_until: Option<u64>,
    accept_patience: Patience,
    notify: Notify,
}

impl Engine {
    /// A loop over listeners that are registered with `poll`, by [`FIRST_LISTENER`] and their place.
    pub(super) fn new(
        wakers: Wakers,
        listeners: Vec<Listener>,
        recorder: Recorder,
        notify: Notify,
    ) -> Self {
        let Wakers {
            poll,
            signals,
            doorbell,
        } = wakers;
        Self {
            poll,
            signals,
            doorbell,
            clock: recorder.clock(),
            listeners,
            first_listener: 0,
            streams: Vec::new(),
            ready: Vec::new(),
            turn: Vec::new(),
            recorder,
            accept_rests_until: None,
            accept_patience: Patience::default(),
            notify,
        }
    }

    /// Captures until told to stop, or until no output is left.
    pub(super) fn run(mut self) -> Result<Outcome, Error> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Some(outcome) = self.recorder.poll_outcome(self.has_unaccepted()) {
                if self.recorder.is_finished() {
                    let statistics = self.recorder.statistics();
                    self.notify.say(Notice::Finished(statistics));
                }
                return Ok(outcome);
            }
            self.recorder.send_if_idle();
            self.wait(&mut events)?;
            self.latch(&events);
            self.accept();
            self.read();
            self.expire();
            self.drain();
        }
    }

    // --- waiting ---------------------------------------------------------------------------------

    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        let mut timeout = if self.has_work() {
            Some(Duration::ZERO)
        } else {
            self.until_deadline()
        };
        if timeout != Some(Duration::ZERO) {
            self.doorbell.arm();
            // The second look: an output may have rung before the bell was armed.
            if self.recorder.has_more_to_do() {
                timeout = Some(Duration::ZERO);
            }
        }
        let result = self.poll.poll(events, timeout);
        self.doorbell.disarm();
        match result {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::System("wait for sockets", error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the next turn has something to do, whatever the kernel says.
    fn has_work(&self) -> bool {
        let may_accept = self.recorder.capture.may_open() && self.accept_rests_until.is_none();
        let accepts = may_accept && self.listeners.iter().any(|listener| listener.may_accept);
        !self.recorder.is_starved() && (accepts || !self.ready.is_empty())
    }

    fn until_deadline(&self) -> Option<Duration> {
        let deadlines = [self.recorder.deadline_us(), self.accept_rests_until];
        let next = deadlines.into_iter().flatten().min()?;
        let left = next.saturating_sub(self.clock.now().elapsed_us);
        Some(Duration::from_micros(left))
    }

    fn latch(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.handle_signals(),
                Token(token) => {
                    let nth = token - FIRST_LISTENER;
                    if let Some(listener) = self.listeners.get_mut(nth) {
                        listener.may_accept = true;
                    } else {
                        self.latch_stream(Slot(nth - self.listeners.len()), event);
                    }
                }
            }
        }
        self.recorder.begin_turn();
    }

    fn latch_stream(&mut self, slot: Slot, event: &Event) {
        // The connection may have been closed since the kernel spoke.
        if let Some(Some(stream)) = self.streams.get_mut(slot.0) {
            stream.has_ended |= event.is_read_closed() || event.is_error();
            list(&mut self.ready, slot, stream);
        }
    }

    // --- connections -----------------------------------------------------------------------------

    fn accept(&mut self) {
        let now_us = self.clock.now().elapsed_us;
        self.accept_rests_until = self.accept_rests_until.filter(|&until| now_us < until);
        // Each in its turn is the first: where connections come free one by one, all are served.
        self.first_listener = (self.first_listener + 1) % self.listeners.len().max(1);
        for nth in 0..self.listeners.len() {
            let nth = (self.first_listener + nth) % self.listeners.len();
            for _ in 0..ACCEPTS_A_TURN {
                let rests = self.accept_rests_until.is_some();
                if rests || !self.listeners[nth].may_accept || !self.recorder.capture.may_open() {
                    break;
                }
                if !self.recorder.make_room(None) {
                    return;
                }
                match self.listeners[nth].accept() {
                    Ok(accepted) => self.open(accepted),
                    Err(error) => match Remedy::of(&error) {
                        Remedy::Wait => self.listeners[nth].may_accept = false,
                        Remedy::Next => {}
                        Remedy::Rest => self.rest_accepting(error),
                    },
                }
            }
        }
    }

    fn rest_accepting(&mut self, error: io::Error) {
        let now_us = self.clock.now().elapsed_us;
        self.accept_rests_until = Some(now_us + ACCEPT_RETRY_US);
        if self.accept_patience.is_to_be_said(now_us) {
            self.notify.say(Notice::AcceptFailed(error));
        }
    }

    fn open(&mut self, accepted: Accepted) {
        let now = self.clock.now();
        let capture = &mut self.recorder.capture;
        let endpoints = Endpoints {
            conn: capture.next_conn(),
            peer: accepted.peer.into(),
            local: accepted.local.into(),
            target: None,
        };
        let slot = capture.handle_open(endpoints, now);
        let mut stream = Stream::new(accepted.socket);
        let token = Token(FIRST_LISTENER + self.listeners.len() + slot.0);
        if let Err(error) = stream.register(self.poll.registry(), token, Interest::READABLE) {
            let reason = CloseReason::Error(describe(&error).into());
            self.recorder.capture.handle_close(slot, reason, now);
            self.rest_accepting(error);
            return;
        }
        if self.recorder.capture.shutdown.phase() != Phase::Running {
            stream.retire(CloseReason::Shutdown);
        }
        // Most peers have sent something by now; if not, the read says so and the kernel will tell.
        list(&mut self.ready, slot, &mut stream);
        if self.streams.len() <= slot.0 {
            self.streams.resize_with(slot.0 + 1, || None);
        }
        self.streams[slot.0] = Some(stream);
    }

    /// One read of each connection that may have something.
    fn read(&mut self) {
        mem::swap(&mut self.ready, &mut self.turn);
        for nth in 0..self.turn.len() {
            let slot = self.turn[nth];
            if let Some(Some(stream)) = self.streams.get_mut(slot.0) {
                stream.is_listed = false;
                self.read_stream(slot);
            }
            if self.recorder.is_starved() {
                // Those that did not get their turn keep their latch, behind the one that waits.
                self.ready.extend_from_slice(&self.turn[nth + 1..]);
                break;
            }
        }
        self.turn.clear();
    }

    fn read_stream(&mut self, slot: Slot) {
        let has_room = self.recorder.make_room(Some(slot));
        let Some(stream) = &mut self.streams[slot.0] else {
            return;
        };
        if !has_room {
            return list(&mut self.ready, slot, stream);
        }
        match stream.read(self.recorder.capture.read_buffer(slot, Direction::In)) {
            Read::Bytes(len) => {
                // Read until there is nothing, as mio demands: a short read says little, for one ends
                // before urgent data, and on a Unix socket behind every message with descriptors.
                list(&mut self.ready, slot, stream);
                stream.is_suspect = false;
                self.recorder
                    .capture
                    .handle_read(slot, Direction::In, len, self.clock.now());
            }
            Read::Nothing if mem::take(&mut stream.is_suspect) => {
                stream.retire(CloseReason::IdleTimeout);
                list(&mut self.ready, slot, stream);
            }
            Read::Nothing => {}
            Read::Again => list(&mut self.ready, slot, stream),
            Read::Eof => {
                self.recorder
                    .capture
                    .handle_eof(slot, Direction::In, self.clock.now());
                self.close(slot, CloseReason::Eof);
            }
            Read::Over(reason) => self.close(slot, reason),
        }
    }

    /// Closes a connection, for which [`Engine::make_room`] has made room.
    fn close(&mut self, slot: Slot, reason: CloseReason) {
        if let Some(stream) = self.streams[slot.0].take() {
            stream.close(&reason);
        }
        self.recorder
            .capture
            .handle_close(slot, reason, self.clock.now());
        // A descriptor has come free: somebody may be waiting for it.
        self.accept_rests_until = None;
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        self.recorder
            .capture
            .shutdown
            .handle_timeout(now.elapsed_us);
        while let Some((slot, reason)) = self.recorder.capture.poll_expired(now) {
            if let Some(Some(stream)) = self.streams.get_mut(slot.0) {
                // Silence is known only once the socket has been looked into: while the outputs held
                // all memory, or this process was stopped, nobody did.
                if reason == CloseReason::IdleTimeout {
                    stream.is_suspect = true;
                } else {
                    stream.retire(reason);
                }
                list(&mut self.ready, slot, stream);
            }
        }
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
                    let was_running = self.recorder.capture.shutdown.phase() == Phase::Running;
                    self.recorder.capture.shutdown.handle_stop(now.elapsed_us);
                    if was_running {
                        self.begin_drain();
                    }
                }
            }
        }
    }

    /// From here on the kernel takes nothing more from anybody, and everything that it has taken is
    /// read.
    fn begin_drain(&mut self) {
        self.notify.say(Notice::Stopping {
            open: self.recorder.capture.totals().open,
        });
        for listener in &mut self.listeners {
            listener.quiet();
        }
        for (slot, stream) in self.streams.iter_mut().enumerate() {
            if let Some(stream) = stream {
                stream.retire(CloseReason::Shutdown);
                list(&mut self.ready, Slot(slot), stream);
            }
        }
        self.accept_rests_until = None;
    }

    /// Ends the capture once nobody is left to be read or accepted.
    fn drain(&mut self) {
        let is_draining = self.recorder.capture.shutdown.phase() == Phase::Draining;
        let open = self.recorder.capture.totals().open;
        if is_draining && open == 0 && !self.has_unaccepted() {
            self.recorder.end();
        }
        self.recorder.flush();
    }

    /// Whether somebody may wait to be accepted.
    fn has_unaccepted(&self) -> bool {
        self.listeners.iter().any(|listener| listener.may_accept)
    }
}

/// Puts a connection on the list of those to read, once.
fn list(ready: &mut Vec<Slot>, slot: Slot, stream: &mut Stream) {
    if !mem::replace(&mut stream.is_listed, true) {
        ready.push(slot);
    }
}
