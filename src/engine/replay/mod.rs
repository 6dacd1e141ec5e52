//! The loop that plays captures against a target: it feeds the player, does what that commands, and
//! reads what comes back, which goes the way of everything that is captured.

mod links;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::time::Duration;

use mio::{Events, Token};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use slab::Slab;

use super::address::Address;
use super::clock::SystemClock;
use super::dial::{self, DialId, Dialler};
use super::feed::{End, Feed};
use super::keepalive::Keepalive;
use super::recorder::Recorder;
use super::systemd::Supervisor;
use super::timer::Timer;
use super::{Error, Outcome, Recording, SIGNALS, WAKER, Wakers, start_record, system};
use crate::capture::Slot;
use crate::capture::shutdown::Phase;
use crate::input::{Captures, Source};
use crate::notice::{Notice, Notify, Progress, Replayed};
use crate::output;
use crate::record::selection::Selection;
use crate::record::time::{Clock, micros};
use crate::record::{CloseReason, Direction};
use crate::replay::{
    self, BLOCK_COST, Command, Ending, Failure, Player, Schedule, SessionId, Sessions, Speed,
    Totals,
};
use links::Link;

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

/// Bytes of a connection that the kernel takes beyond what the target has room for. Without a bound
/// it takes megabytes, and what a slow target has still to take cannot be told from what it has.
const UNSENT_MAX: u32 = 256 * 1024;

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
    let destinations = dial::resolve(&config.target).map_err(Error::Resolve)?;
    let mut wakers = Wakers::new()?;
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
    // Up to here a signal ends it as it ends any program: nothing has been sent.
    wakers.watch_signals()?;
    let start = start_record("replay", Vec::new(), vec![config.target.to_string()])?;
    let recorder = Recorder::start(recording, opened, &wakers.doorbell, start, notify)?;
    let options = dial::Options {
        timeout: Duration::from_micros(config.player.timeout_us),
        keepalive: Keepalive(None),
        gives_up_silence: false,
        unsent_max: Some(UNSENT_MAX),
    };
    let registry = wakers.poll.registry();
    let mut dialler =
        Dialler::new(registry, options, &wakers.doorbell).map_err(system("watch sockets"))?;
    dialler.pin(config.target.clone(), destinations);
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
        dialler,
        links: Slab::new(),
        by_session: HashMap::new(),
        dialling: HashMap::new(),
        ready: Vec::new(),
        turn: Vec::new(),
        closing: Vec::new(),
        unconnected: None,
        failures: 0,
        is_stopped: false,
        supervisor: Supervisor::from_env(),
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
    dialler: Dialler<SessionId>,
    links: Slab<Link>,
    by_session: HashMap<SessionId, usize>,
    /// Sessions whose connection is being made.
    dialling: HashMap<SessionId, DialId>,
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
    supervisor: Supervisor,
    /// When to tell again how far it has come.
    progress_us: Option<u64>,
    size: Option<u64>,
    notify: Notify,
}

impl Playback<'_> {
    fn run(mut self) -> Result<Outcome, Error> {
        let mut events = Events::with_capacity(EVENTS);
        let target = &self.config.target;
        self.supervisor
            .tell_ready(&format!("replaying to {target}"));
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
            self.take_dialled();
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
            Command::Dial(session) => self.dial(session),
            Command::Write(session) => self.write(session),
            Command::HalfClose(session) => self.end_sending(session, Ending::Orderly),
            Command::Reset(session) => self.end_sending(session, Ending::Reset),
            Command::GiveUp(session) => self.give_up(session),
            Command::Close(session, failure) => {
                let reason = match failure {
                    Failure::Interrupted => CloseReason::Shutdown,
                    failure => CloseReason::Error(failure.to_string().into()),
                };
                if let Some(&nth) = self.by_session.get(&session) {
                    drop(self.unlink(nth, reason));
                } else if let Some(dial) = self.dialling.remove(&session) {
                    self.dialler.cancel(dial);
                }
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
        let reads =
            !self.ready.is_empty() || !self.closing.is_empty() || self.dialler.has_decided();
        self.player.commands() > 0 || wants_more || reads && !self.recorder.is_starved()
    }

    fn deadline_us(&self) -> Option<u64> {
        let due = self.player.next_due_us();
        let own = [due, self.progress_us].into_iter().flatten();
        let own = own.map(|at| at.saturating_add(self.zero_us));
        let others = [self.dialler.deadline_us(), self.recorder.deadline_us()];
        own.chain(others.into_iter().flatten()).min()
    }

    fn latch(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.handle_signals(),
                TIMER => self.timer.handle_expired(),
                token if self.dialler.owns(token) => {
                    let now_us = self.clock.now().elapsed_us;
                    self.dialler.handle_event(token, now_us);
                }
                Token(token) => {
                    let nth = token - FIRST_LINK;
                    // The link may have gone since the kernel spoke.
                    let Some(link) = self.links.get(nth) else {
                        continue;
                    };
                    let session = link.session;
                    self.list(nth);
                    if event.is_writable() {
                        self.player.handle_writable(session);
                        self.end_if_sent(nth);
                    }
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
                    let now_us = self.clock.now().elapsed_us;
                    let shutdown = &mut self.recorder.capture.shutdown;
                    let was_running = shutdown.phase() == Phase::Running;
                    shutdown.handle_stop(now_us);
                    if was_running {
                        let left = shutdown.left(now_us);
                        self.supervisor.tell_stopping("stopping", left);
                        let active = self.player.active();
                        self.notify.say(Notice::StoppingReplay { active });
                        self.is_stopped |= !self.player.is_done();
                    }
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
            shutdown.handle_finished();
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
        let is_cut = !self.player.is_done();
        let elapsed = Duration::from_micros(self.now_us());
        self.player.handle_stop(micros(elapsed));
        let tally = self.player.tally().clone();
        let (found, torn, error) = match self.found {
            Some(end) => (end.totals, end.torn, end.error),
            None => {
                let so_far = Totals {
                    length_us: self.player.at_us(),
                    ..Totals::default()
                };
                (self.feed.totals().unwrap_or(so_far), 0, None)
            }
        };
        // `wiretape replay … | head` ends quietly.
        if is_cut && self.recorder.have_outputs_closed() {
            return Ok(outcome);
        }
        let (connected, failed) = (tally.connected, tally.failed);
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
            Some(why) if connected == 0 => return Err(Error::NothingPlayed(why)),
            // What could not be known beforehand.
            _ if !self.is_stopped => check_found(self.config, &found)?,
            _ => {}
        }
        let is_whole = failed == 0 && torn == 0 && found.gaps == 0 && !self.is_stopped;
        Ok(if is_whole { outcome } else { Outcome::NotWhole })
    }
}
