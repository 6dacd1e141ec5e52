//! The loop that plays captures against a target: it feeds the player, does what that commands, and
//! reads what comes back, which goes the way of everything that is captured.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::mem;
use std::time::Duration;

use mio::{Events, Interest, Token};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use slab::Slab;

use super::address::Address;
use super::clock::SystemClock;
use super::dial::{Dialled, Target};
use super::feed::{End, Feed};
use super::recorder::Recorder;
use super::stream::{Read, Stream};
use super::timer::Timer;
use super::{Error, Outcome, Recording, SIGNALS, WAKER, Wakers, start_record, system};
use crate::capture::Slot;
use crate::capture::shutdown::Phase;
use crate::input::{Captures, Source};
use crate::notice::{Notice, Notify, Progress, Replayed, describe};
use crate::output;
use crate::record::selection::Selection;
use crate::record::time::{Clock, micros};
use crate::record::{CloseReason, ConnId, Direction};
use crate::replay::{
    self, BLOCK_COST, Command, Failure, Player, Schedule, SessionId, Sessions, Speed, Totals,
};

/// What is to be played, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to play, in order.
    pub sources: Vec<Source>,
    /// Against whom.
    pub target: Address,
    /// What of it.
    pub selection: Selection,
    /// Which bytes are sent: those that the peer had sent, or those that it had got.
    pub direction: Direction,
    /// Silences in the recording are no longer than this.
    pub max_gap: Option<Duration>,
    /// How often.
    pub times: u64,
    /// How it is played.
    pub player: replay::Config,
    /// Bytes that are read ahead.
    pub look_ahead: usize,
    /// What becomes of the answers.
    pub recording: Recording,
    /// Whether somebody looks at how far it has come.
    pub is_watched: bool,
}

const TIMER: Token = Token(2);
const FIRST_LINK: usize = 3;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

/// Blocks taken from the feed in a turn.
const BLOCKS_A_TURN: usize = 4;

/// Sessions whose failure is said; more are only counted.
const FAILURES_SAID: u64 = 10;

/// How often it is told how far it has come, in microseconds.
const PROGRESS_US: u64 = 100_000;

/// Plays captures against a target, until all is played.
///
/// # Errors
/// [`Error`]: nothing was sent, or what was read ended in the middle. Trouble with a session is none:
/// it becomes a [`Notice`] and shows in the [`Outcome`].
pub fn replay(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let captures = open(config, notify)?;
    let size = captures.size();
    let target = Target::resolve(&config.target).map_err(Error::Resolve)?;
    let wakers = Wakers::new()?;
    let sessions = Sessions::new(
        config.selection.clone(),
        config.direction,
        Schedule::new(config.max_gap),
    );
    let blocks = (config.look_ahead / BLOCK_COST).max(2);
    let doorbell = wakers.doorbell.clone();
    let feed = Feed::start(captures, sessions, config.times, blocks, doorbell)
        .map_err(system("start to read"))?;
    // What is wrong with as much as can be read ahead is known before anything is sent, or created.
    if let Some(found) = feed.begin().map_err(Error::Read)? {
        check_found(config, &found)?;
    }
    let recording = &config.recording;
    let opened =
        output::open_all(&recording.outputs, &recording.output_options).map_err(Error::Output)?;
    let start = start_record("replay", Vec::new())?;
    let recorder = Recorder::start(recording, opened, &wakers.doorbell, start, notify)?;
    let timer = Timer::new(wakers.poll.registry(), TIMER).map_err(system("make a timer"))?;
    let clock = recorder.clock();
    let playback = Playback {
        wakers,
        timer,
        clock,
        zero_us: clock.now().elapsed_us,
        has_begun: false,
        recorder,
        player: Player::new(config.player),
        feed,
        found: None,
        target,
        links: Slab::new(),
        by_session: HashMap::new(),
        dialling: VecDeque::new(),
        ready: Vec::new(),
        turn: Vec::new(),
        closing: Vec::new(),
        unconnected: None,
        failures: 0,
        is_stopped: false,
        progress_us: config.is_watched.then_some(0),
        size: size.map(|size| size.saturating_mul(config.times)),
        config,
        notify: notify.clone(),
    };
    playback.run()
}

/// Opens the captures.
///
/// # Errors
/// One cannot be opened, or not as often as it is to be read.
pub(crate) fn open(config: &Config, notify: &Notify) -> Result<Captures, Error> {
    let captures = Captures::open(&config.sources, notify).map_err(Error::Input)?;
    match captures.first_read_once() {
        Some(name) if config.times > 1 => Err(Error::ReadOnce(name)),
        _ => Ok(captures),
    }
}

/// Whether what was found in the captures is something to play.
///
/// # Errors
/// It is not, and why.
pub(crate) fn check_found(config: &Config, found: &Totals) -> Result<(), Error> {
    if found.sessions == 0 {
        return Err(Error::NothingToReplay);
    }
    if config.direction == Direction::Out && found.sends == 0 {
        return Err(Error::NothingOut);
    }
    if config.player.pace == replay::Pace::Reply && found.replies == 0 {
        return Err(Error::NoReplies);
    }
    Ok(())
}

/// A session's connection.
#[derive(Debug)]
struct Link {
    session: SessionId,
    stream: Stream,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// To this of the target's addresses.
    Connecting { address: usize },
    /// In the capture of the answers it is at this slot.
    Open(Slot, Ends),
    /// It is closed with a reset once everything is on its way.
    Resetting(Slot),
}

/// What has ended of a connection.
#[derive(Debug, Default)]
struct Ends {
    /// This side's end is to be told once everything is on its way: the kernel does not say so any
    /// more behind it.
    is_due: bool,
    ours: bool,
    theirs: bool,
    /// It cannot be written to any more, for this reason; what came before that is read.
    broken: Option<String>,
}

/// Everything that a replay owns.
struct Playback<'a> {
    config: &'a Config,
    wakers: Wakers,
    timer: Timer,
    clock: SystemClock,
    /// When the replay began, on the run's clock: with the first step.
    zero_us: u64,
    has_begun: bool,
    recorder: Recorder,
    player: Player,
    feed: Feed,
    /// What was found, once all has been played.
    found: Option<End>,
    target: Target,
    links: Slab<Link>,
    by_session: HashMap<SessionId, usize>,
    /// Where the target has several addresses: until when to wait for one before the next is tried.
    dialling: VecDeque<(u64, SessionId, usize)>,
    /// Links that may have something to do, each once.
    ready: Vec<usize>,
    /// Those whose turn it is now.
    turn: Vec<usize>,
    /// Connections that are closed and not recorded as such yet.
    closing: Vec<(Slot, CloseReason)>,
    /// Why the first session that could not connect could not.
    unconnected: Option<Box<str>>,
    failures: u64,
    /// It was told to stop before all was played.
    is_stopped: bool,
    /// When to tell again how far it has come.
    progress_us: Option<u64>,
    size: Option<u64>,
    notify: Notify,
}

impl Playback<'_> {
    fn run(mut self) -> Result<Outcome, Error> {
        let mut events = Events::with_capacity(EVENTS);
        let outcome = loop {
            self.play();
            self.tell_progress();
            self.drain();
            if let Some(outcome) = self.recorder.poll_outcome(false) {
                break outcome;
            }
            self.recorder.send_if_idle();
            self.wait(&mut events)?;
            self.latch(&events);
            self.expire_dialling();
            self.close_closing();
            self.read();
        };
        self.conclude(outcome)
    }

    /// Microseconds since the replay began.
    fn now_us(&self) -> u64 {
        self.clock.now().elapsed_us.saturating_sub(self.zero_us)
    }

    // --- playing ---------------------------------------------------------------------------------

    /// Does what is due: walks along the steps, and does what the player commands.
    fn play(&mut self) {
        if self.recorder.is_starved() {
            self.player.handle_deaf(self.now_us());
        }
        self.player.handle_time(self.now_us());
        for _ in 0..BLOCKS_A_TURN {
            if !self.player.wants_block() {
                break;
            }
            let Some(block) = self.feed.pop() else {
                if let Some(end) = self.feed.poll_end() {
                    self.player.handle_end();
                    self.found = Some(end);
                }
                break;
            };
            if !mem::replace(&mut self.has_begun, true) {
                // Who reads a pipe may have waited for this.
                self.zero_us = self.clock.now().elapsed_us;
            }
            self.player.handle_block(block);
            self.player.handle_time(self.now_us());
        }
        // A session that writes is commanded to write again: one turn is for what stands here now.
        for _ in 0..self.player.commands() {
            if let Some(command) = self.player.poll_command() {
                self.obey(command);
            }
        }
        // Only now, when nothing is left to be done, can it be that nothing ever will be.
        let is_idle = self.player.wants_block() && self.player.commands() == 0;
        if is_idle && self.feed.is_starved() {
            self.player.handle_starved(self.now_us());
        }
        while let Some(block) = self.player.poll_spent() {
            self.feed.give_back(block);
        }
        while let Some(ended) = self.player.poll_ended() {
            let Some(failure) = &ended.failure else {
                continue;
            };
            if let Failure::Connect(why) = failure {
                self.unconnected.get_or_insert_with(|| why.clone());
            }
            if *failure != Failure::Interrupted {
                self.failures += 1;
                if self.failures <= FAILURES_SAID {
                    self.notify.say(Notice::SessionFailed(ended));
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial(session) => self.dial(session, 0, "no address"),
            Command::Write(session) => self.write(session),
            Command::HalfClose(session) => self.half_close(session),
            Command::Reset(session) => self.begin_reset(session),
            Command::GiveUp(session) => self.give_up(session),
            Command::Close(session, failure) => {
                let reason = match failure {
                    Failure::Interrupted => CloseReason::Shutdown,
                    failure => CloseReason::Error(failure.to_string().into()),
                };
                if let Some(&nth) = self.by_session.get(&session) {
                    drop(self.unlink(nth, reason));
                }
            }
        }
    }

    // --- connecting ------------------------------------------------------------------------------

    /// Begins to connect a session to the target's addresses, from this one on; `why` is what is wrong
    /// with those before.
    fn dial(&mut self, session: SessionId, from: usize, why: &str) {
        let mut why = why.to_owned();
        for address in from..self.target.len() {
            match self.target.dial(address) {
                Dialled::Begun(socket) => {
                    let mut stream = Stream::new(socket);
                    let entry = self.links.vacant_entry();
                    let token = Token(FIRST_LINK + entry.key());
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let registry = self.wakers.poll.registry();
                    if let Err(error) = stream.register(registry, token, interest) {
                        let (why, now_us) = (describe(&error), self.now_us());
                        return self.player.handle_refused(session, &why, now_us);
                    }
                    self.by_session.insert(session, entry.key());
                    entry.insert(Link {
                        session,
                        stream,
                        stage: Stage::Connecting { address },
                    });
                    if address + 1 < self.target.len() {
                        let patience_us = self.config.player.timeout_us / self.target.len() as u64;
                        let until_us = self.now_us().saturating_add(patience_us);
                        self.dialling.push_back((until_us, session, address));
                    }
                    return;
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

    /// Gives up addresses that do not answer, where there are others to be tried.
    fn expire_dialling(&mut self) {
        let now_us = self.now_us();
        while let Some(&(until_us, session, address)) = self.dialling.front() {
            if until_us > now_us {
                break;
            }
            self.dialling.pop_front();
            let Some(&nth) = self.by_session.get(&session) else {
                continue;
            };
            if matches!(self.links[nth].stage, Stage::Connecting { address: at } if at == address) {
                self.redial(nth, address, "timed out");
            }
        }
    }

    fn redial(&mut self, nth: usize, address: usize, why: &str) {
        let session = self.remove(nth).session;
        let why = format!("{}: {why}", self.target.name(address));
        self.dial(session, address + 1, &why);
    }

    /// Looks whether a link has connected.
    fn handle_connecting(&mut self, nth: usize, address: usize) {
        match self.links[nth].stream.connected() {
            None => {}
            Some(Err(error)) => self.redial(nth, address, &describe(&error)),
            // Until its beginning can be recorded, the player does not hear of it.
            Some(Ok(())) if !self.recorder.make_room(None) => self.list(nth),
            Some(Ok(())) => {
                let now = self.clock.now();
                let peer = self.target.name(address);
                let link = &mut self.links[nth];
                let (conn, local) = (ConnId(link.session.0), link.stream.local());
                let slot = (self.recorder.capture).handle_open(conn, &peer, &local, now);
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

    fn write(&mut self, session: SessionId) {
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
                let mut left = written;
                for piece in &pieces {
                    let sent = left.min(piece.len());
                    self.recorder.capture.handle_sent(*slot, &piece[..sent]);
                    left -= sent;
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

    fn half_close(&mut self, session: SessionId) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let link = &mut self.links[nth];
        if let Stage::Open(_, ends) = &mut link.stage {
            link.stream.await_sent();
            ends.is_due = true;
            self.list(nth);
        }
    }

    fn begin_reset(&mut self, session: SessionId) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let link = &mut self.links[nth];
        if let Stage::Open(slot, _) = link.stage {
            link.stream.await_sent();
            link.stage = Stage::Resetting(slot);
            self.list(nth);
        }
    }

    /// The target is silent. Whether it has taken everything is the last question.
    fn give_up(&mut self, session: SessionId) {
        let Some(&nth) = self.by_session.get(&session) else {
            return;
        };
        let link = &self.links[nth];
        let is_sent = match &link.stage {
            Stage::Open(_, ends) => ends.ours,
            Stage::Connecting { .. } | Stage::Resetting(_) => link.stream.is_sent(),
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
    fn read(&mut self) {
        mem::swap(&mut self.ready, &mut self.turn);
        for at in 0..self.turn.len() {
            let nth = self.turn[at];
            if let Some(link) = self.links.get_mut(nth) {
                link.stream.is_listed = false;
                match &mut link.stage {
                    Stage::Connecting { address } => {
                        let address = *address;
                        self.handle_connecting(nth, address);
                    }
                    Stage::Open(slot, ends) => {
                        if ends.is_due && link.stream.is_sent() {
                            link.stream.end_sending();
                            (ends.is_due, ends.ours) = (false, true);
                        }
                        let (slot, theirs) = (*slot, ends.theirs);
                        if theirs {
                            self.look_whether_over(nth);
                        } else {
                            self.read_link(nth, slot);
                        }
                    }
                    Stage::Resetting(_) if link.stream.is_sent() => {
                        let session = link.session;
                        self.unlink(nth, CloseReason::Done).stream.reset();
                        self.player.handle_over(session, self.now_us());
                    }
                    Stage::Resetting(_) => {}
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
        match link.stream.read(self.recorder.capture.read_buffer(slot)) {
            Read::Bytes(len) => {
                let now = self.clock.now();
                self.recorder.capture.handle_read(slot, len, now);
                let now_us = self.now_us();
                self.player.handle_received(session, len, now_us);
                self.list(nth);
            }
            Read::Again => self.list(nth),
            Read::Nothing => self.look_whether_broken(nth),
            Read::Eof => {
                self.recorder.capture.handle_eof(slot, self.clock.now());
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
    fn list(&mut self, nth: usize) {
        if !mem::replace(&mut self.links[nth].stream.is_listed, true) {
            self.ready.push(nth);
        }
    }

    /// Takes a link away; that it was closed is recorded once there is room.
    fn unlink(&mut self, nth: usize, reason: CloseReason) -> Link {
        let link = self.remove(nth);
        match link.stage {
            Stage::Connecting { .. } => {}
            Stage::Open(slot, _) | Stage::Resetting(slot) => self.closing.push((slot, reason)),
        }
        link
    }

    fn remove(&mut self, nth: usize) -> Link {
        let link = self.links.remove(nth);
        self.by_session.remove(&link.session);
        link
    }

    fn close_closing(&mut self) {
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

    // --- waiting ---------------------------------------------------------------------------------

    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        let now_us = self.clock.now().elapsed_us;
        let mut until_us = if self.has_work() {
            Some(now_us)
        } else {
            self.deadline_us()
        };
        if until_us.is_none_or(|until_us| until_us > now_us) {
            self.wakers.doorbell.arm();
            // The second look: an output may have rung before the bell was armed. The feed's thread
            // does not ring: it calls.
            if self.recorder.has_more_to_do() {
                until_us = Some(now_us);
            }
        }
        let timeout = (self.timer.set(until_us, now_us)).map_err(system("set a timer"))?;
        let result = self.wakers.poll.poll(events, timeout);
        self.wakers.doorbell.disarm();
        match result {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::System("wait for sockets", error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the next turn has something to do, whatever the kernel says.
    fn has_work(&self) -> bool {
        let wants_more = self.player.wants_block() && self.feed.has_block();
        let reads = !self.ready.is_empty() || !self.closing.is_empty();
        self.player.commands() > 0 || wants_more || reads && !self.recorder.is_starved()
    }

    fn deadline_us(&self) -> Option<u64> {
        let due = self.player.next_due_us();
        let dialling = self.dialling.front().map(|&(until_us, ..)| until_us);
        let own = [due, dialling, self.progress_us];
        let own = own.into_iter().flatten();
        let own = own.map(|at| at.saturating_add(self.zero_us));
        own.chain(self.recorder.deadline_us()).min()
    }

    fn latch(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.handle_signals(),
                TIMER => self.timer.handle_expired(),
                Token(token) => {
                    let nth = token - FIRST_LINK;
                    // The link may have gone since the kernel spoke.
                    let Some(link) = self.links.get_mut(nth) else {
                        continue;
                    };
                    if event.is_writable() {
                        self.player.handle_writable(link.session);
                    }
                    self.list(nth);
                }
            }
        }
        self.recorder.begin_turn();
    }

    // --- signals and the end ---------------------------------------------------------------------

    fn handle_signals(&mut self) {
        let pending: Vec<_> = self.wakers.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGHUP => self.recorder.reopen(),
                SIGUSR1 => {
                    let statistics = self.recorder.statistics();
                    self.notify.say(Notice::Statistics(statistics));
                    self.notify.say(Notice::Progress(self.progress()));
                }
                _ => {
                    let shutdown = &mut self.recorder.capture.shutdown;
                    if shutdown.phase() == Phase::Running {
                        let active = self.player.active();
                        self.notify.say(Notice::StoppingReplay { active });
                        self.is_stopped |= !self.player.is_done();
                    }
                    shutdown.handle_stop(self.clock.now().elapsed_us);
                    self.player.handle_stop(self.now_us());
                }
            }
        }
    }

    /// Ends the capture of the answers once all is played.
    fn drain(&mut self) {
        let now_us = self.clock.now().elapsed_us;
        let shutdown = &mut self.recorder.capture.shutdown;
        shutdown.handle_timeout(now_us);
        let is_over = self.player.is_done() && self.player.commands() == 0;
        if is_over && shutdown.phase() == Phase::Running {
            shutdown.handle_stop(now_us);
        }
        let is_draining = shutdown.phase() == Phase::Draining;
        if is_over && is_draining && self.recorder.capture.totals().open == 0 {
            self.recorder.end();
        }
        self.recorder.flush();
    }

    fn tell_progress(&mut self) {
        let now_us = self.now_us();
        if self.progress_us.is_some_and(|at| now_us >= at) {
            self.progress_us = Some(now_us + PROGRESS_US);
            self.notify.say(Notice::Progress(self.progress()));
        }
    }

    fn progress(&self) -> Progress {
        let tally = self.player.tally();
        let found = (self.found.as_ref().map(|end| end.totals)).or_else(|| self.feed.totals());
        let speed = self.config.player.speed;
        let left = found.filter(|_| speed != Speed::Max).map(|found| {
            let end_us = speed.due_us(found.length_us);
            Duration::from_micros(end_us.saturating_sub(self.now_us()))
        });
        // Where all has been read the schedule tells; else it is guessed by what was read of the files.
        let (at_us, consumed) = (self.player.at_us() as f64, self.player.consumed() as f64);
        let played = match found.filter(|_| speed != Speed::Max) {
            Some(found) => Some(at_us / found.length_us.max(1) as f64),
            None => self.size.map(|size| consumed / size.max(1) as f64),
        };
        Progress {
            elapsed: Duration::from_micros(self.now_us()),
            active: self.player.active(),
            over: (tally.done + tally.failed, tally.failed),
            sessions: found.map(|found| found.sessions),
            bytes: (tally.sent, tally.received),
            at: Duration::from_micros(self.player.at_us()),
            left,
            played,
        }
    }

    /// Says how it went.
    fn conclude(mut self, outcome: Outcome) -> Result<Outcome, Error> {
        // Where no output was left to write to, it ended before all was played.
        let elapsed = Duration::from_micros(self.now_us());
        self.player.handle_stop(micros(elapsed));
        let tally = self.player.tally().clone();
        let (found, torn, error) = match self.found {
            Some(end) => (end.totals, end.torn, end.error),
            None => (self.feed.totals().unwrap_or_default(), 0, None),
        };
        // `wiretape replay … | head` ends quietly.
        if self.recorder.have_outputs_closed() {
            return Ok(outcome);
        }
        let (begun, connected, failed) = (tally.begun, tally.connected, tally.failed);
        self.notify.say(Notice::Replayed(Box::new(Replayed {
            tally,
            found,
            elapsed,
            unsaid: self.failures.saturating_sub(FAILURES_SAID),
            outputs: self.recorder.statistics().outputs,
        })));
        if let Some(error) = error {
            return Err(Error::Read(error));
        }
        match self.unconnected {
            Some(why) if connected == 0 => {
                return Err(Error::Unreachable(why));
            }
            _ if begun == 0 && found.sessions == 0 && !self.is_stopped => {
                return Err(Error::NothingToReplay);
            }
            _ => {}
        }
        let is_whole = failed == 0 && torn == 0 && found.gaps == 0 && !self.is_stopped;
        Ok(if is_whole { outcome } else { Outcome::NotWhole })
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
