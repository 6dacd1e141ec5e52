//! The replay in simulation: a seed chooses a recording, how it is filtered, how it is played and what
//! the target does; time is a number. A model beside it holds every command against what was
//! recorded: each byte once and in order, nothing before its time or its replies, an end for every
//! session, every block back.
//!
//! `WIRETAPE_SIM_SEEDS=N` walks as many seeds as wanted; a failing one is printed.

mod recording;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::convert::Infallible;

use fastrand::Rng;

use super::{
    Act, Block, Command, Config, Ending, Failure, Pace, Place, Player, Schedule, SessionId,
    Sessions, Sink, Speed, Step,
};
use crate::record::selection::Selection;
use crate::record::{Direction, Record};
use recording::{Replies, recording};

const SEEDS: u64 = 2000;

/// How late the loop may be, in microseconds.
const LATE_US: u64 = 3000;

/// What the feed has read ahead, and how it would hand it over.
#[derive(Debug, Default)]
struct Queue {
    blocks: VecDeque<Block>,
    /// Number of the first of them.
    first: u64,
    free: Vec<Block>,
    /// Every step, as the model wants it.
    wanted: BTreeMap<SessionId, Wanted>,
}

/// What a session is to do.
#[derive(Debug, Default)]
struct Wanted {
    concurrency: usize,
    opens_at_us: u64,
    bytes: Vec<u8>,
    /// Ends of the sends in `bytes`, the positions they are due at, and the replies before them.
    sends: Vec<(usize, u64, u64)>,
    /// Bytes before the sending ends.
    half_close: Option<usize>,
    ending: Option<Ending>,
}

impl Sink for Queue {
    type Error = Infallible;

    fn push(&mut self, mut step: Step<&[u8]>) -> Result<Place, Infallible> {
        let wanted = self.wanted.entry(step.session).or_default();
        match &step.act {
            Act::Open(origin) => {
                wanted.concurrency = origin.concurrency;
                wanted.opens_at_us = step.at_us;
            }
            Act::Send { payload, .. } => {
                wanted.bytes.extend_from_slice(payload);
                let send = (wanted.bytes.len(), step.at_us, step.replies);
                wanted.sends.push(send);
            }
            Act::HalfClose => wanted.half_close = Some(wanted.bytes.len()),
            Act::End(ending) => wanted.ending = Some(*ending),
        }
        loop {
            if self.blocks.back().is_none_or(Block::is_full) {
                self.blocks.push_back(self.free.pop().unwrap_or_default());
            }
            let block = self.blocks.back_mut().expect("it has just been put there");
            let taken = block.push(&step);
            let at = block.len() - 1;
            match &mut step.act {
                Act::Send { payload, .. } if taken < payload.len() => *payload = &payload[taken..],
                _ => {
                    return Ok(Place {
                        block: self.first + self.blocks.len() as u64 - 1,
                        step: at,
                    });
                }
            }
        }
    }

    fn end_at(&mut self, place: Place) -> bool {
        let nth = place.block.checked_sub(self.first);
        let block = nth.and_then(|nth| self.blocks.get_mut(nth as usize));
        block.map(|block| block.end_at(place.step)).is_some()
    }
}

/// How the target treats a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As recorded, in its time.
    Good,
    Refuses,
    NeverAnswers,
    /// It takes nothing after so many bytes.
    Stalls(usize),
    /// It resets after so many bytes.
    Resets(usize),
    /// It sends no replies.
    Silent,
    /// It ends its direction at once, and takes all the same.
    Deaf,
    /// It never ends.
    Stays,
    /// It never ends, and sends for ever.
    Babbles,
}

/// A session at the target.
#[derive(Debug)]
struct Server {
    manner: Manner,
    /// When it was dialled first.
    began_us: u64,
    is_connected: bool,
    taken: Vec<u8>,
    /// Replies so far.
    replied: u64,
    /// All that the recording has.
    replies: Vec<(usize, u64)>,
    is_blocked: bool,
    has_ended: bool,
    ours_ended: bool,
    is_resetting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Decided,
    Writable,
    Reply,
    Ends,
    Over,
    Babble,
}

#[derive(Debug, Default)]
struct Coverage {
    done: u64,
    failed: BTreeMap<&'static str, u64>,
    quiet: u64,
    blocked: u64,
    redialled: u64,
    resets: u64,
    half_closes: u64,
    early_ends: u64,
    starved: u64,
    stopped: u64,
}

struct World {
    random: Rng,
    now_us: u64,
    config: Config,
    player: Player,
    queue: Queue,
    records: VecDeque<Record<'static>>,
    sessions: Sessions,
    has_read_all: bool,
    /// Blocks that there may be.
    room: usize,
    held: usize,
    servers: BTreeMap<SessionId, Server>,
    /// When they were dialled first.
    began: BTreeMap<SessionId, u64>,
    /// By connection: when in the bytes it replies, and how much.
    replies: Replies,
    happenings: BinaryHeap<Reverse<(u64, SessionId, Happening)>>,
    faults: u8,
    has_stopped: bool,
    seen: Coverage,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let speed = match random.u8(0..3) {
            0 => Speed::Max,
            1 => Speed::Times(1.0),
            _ => Speed::Times(random.f64() * 5.0 + 0.1),
        };
        let config = Config {
            speed,
            pace: if random.bool() {
                Pace::Time
            } else {
                Pace::Reply
            },
            jobs: random.bool().then(|| random.usize(1..5)),
            room: random.usize(1..20),
            timeout_us: 1_000_000,
        };
        let (records, replies) = recording(&mut random);
        let max_gap = random
            .bool()
            .then(|| std::time::Duration::from_millis(random.u64(0..200)));
        Self {
            now_us: 0,
            config,
            player: Player::new(config),
            queue: Queue::default(),
            records: records.into(),
            sessions: Sessions::new(Selection::default(), Direction::In, Schedule::new(max_gap)),
            has_read_all: false,
            room: random.usize(2..8),
            held: 0,
            servers: BTreeMap::new(),
            began: BTreeMap::new(),
            replies,
            happenings: BinaryHeap::new(),
            faults: random.u8(0..3),
            has_stopped: false,
            seen: Coverage::default(),
            random,
        }
    }

    fn run(mut self) -> Coverage {
        let stops_at = (self.random.u8(0..20) == 0).then(|| self.random.u64(0..2_000_000));
        let mut turns = 0;
        while !self.player.is_done() || self.player.commands() > 0 {
            turns += 1;
            assert!(turns < 400_000, "it does not end: {:?}", self.servers);
            if stops_at.is_some_and(|at| self.now_us >= at) && !self.has_stopped {
                self.has_stopped = true;
                self.seen.stopped += 1;
                self.player.handle_stop(self.now_us);
            }
            self.feed();
            while let Some(command) = self.player.poll_command() {
                self.obey(&command);
            }
            while let Some(block) = self.player.poll_spent() {
                self.held -= 1;
                self.queue.free.push(block);
            }
            self.check_ended();
            self.pass_time();
        }
        self.conclude()
    }

    fn feed(&mut self) {
        self.player.handle_time(self.now_us);
        loop {
            while !self.has_read_all && self.held + self.queue.blocks.len() < self.room {
                match self.records.pop_front() {
                    Some(record) => {
                        let Ok(()) = self.sessions.handle_record(&record, &mut self.queue);
                    }
                    None => {
                        let Ok(()) = self.sessions.handle_end(&mut self.queue);
                        self.has_read_all = true;
                    }
                }
            }
            if !self.player.wants_block() {
                return;
            }
            match self.queue.blocks.pop_front() {
                Some(block) => {
                    self.queue.first += 1;
                    self.held += 1;
                    self.player.handle_block(block);
                    self.player.handle_time(self.now_us);
                }
                None if self.has_read_all => return self.player.handle_end(),
                None => {
                    self.seen.starved += 1;
                    return self.player.handle_starved(self.now_us);
                }
            }
        }
    }

    fn after(&mut self, session: SessionId, happening: Happening) {
        let delay = match self.random.u8(0..4) {
            0 => 0,
            1 => self.random.u64(0..200),
            2 => self.random.u64(0..5000),
            _ => self.random.u64(0..100_000),
        };
        let at = self.now_us + delay;
        self.happenings.push(Reverse((at, session, happening)));
    }

    fn obey(&mut self, command: &Command) {
        match command.clone() {
            Command::Dial(session) => self.dial(session),
            Command::Write(session) => self.write(session),
            Command::HalfClose(session) => {
                let wanted = &self.queue.wanted[&session];
                // It may have ended in this turn, behind this command.
                let Some(server) = self.servers.get_mut(&session) else {
                    return;
                };
                assert!(!server.ours_ended, "{session} ends its sending twice");
                server.ours_ended = true;
                self.seen.half_closes += 1;
                let before = wanted.half_close.unwrap_or(wanted.bytes.len());
                assert_eq!(
                    server.taken.len(),
                    before,
                    "{session} ends its sending too early"
                );
                self.target_ends(session);
            }
            Command::Reset(session) => {
                let wanted = &self.queue.wanted[&session];
                let Some(server) = self.servers.get_mut(&session) else {
                    return;
                };
                assert_eq!(wanted.ending, Some(Ending::Reset));
                assert_eq!(server.taken.len(), wanted.bytes.len());
                server.is_resetting = true;
                self.seen.resets += 1;
                self.after(session, Happening::Over);
            }
            Command::GiveUp(session) => {
                // It may have ended in this turn, behind this command.
                if self.servers.remove(&session).is_some() {
                    self.player.handle_quiet(session, self.now_us);
                }
            }
            Command::Close(session, _) => {
                // A session may be given up before it has been dialled.
                self.servers.remove(&session);
            }
        }
    }

    fn dial(&mut self, session: SessionId) {
        let wanted = &self.queue.wanted[&session];
        let active = self.player.active();
        assert!(active <= self.config.room);
        let recorded = self.queue.wanted.values().map(|wanted| wanted.concurrency);
        match (self.config.jobs, self.config.speed) {
            (Some(jobs), _) => assert!(active <= jobs),
            (None, Speed::Max) => assert!(Some(active) <= recorded.max()),
            (None, Speed::Times(_)) => {}
        }
        let len = wanted.bytes.len();
        let manner = match (self.faults, self.random.u8(0..12)) {
            (0, _) => Manner::Good,
            (_, 0) => Manner::Refuses,
            (_, 1) => Manner::NeverAnswers,
            (_, 2) => Manner::Stalls(self.random.usize(0..=len)),
            (_, 3) => Manner::Resets(self.random.usize(0..=len)),
            (_, 4) => Manner::Silent,
            (_, 5) => Manner::Deaf,
            (_, 6) => Manner::Stays,
            (_, 7) => Manner::Babbles,
            _ => Manner::Good,
        };
        let number = usize::try_from(session.0).expect("it is small");
        let server = Server {
            manner,
            began_us: self.began.get(&session).copied().unwrap_or(self.now_us),
            is_connected: false,
            taken: Vec::new(),
            replied: 0,
            replies: self
                .replies
                .values()
                .nth(number - 1)
                .cloned()
                .unwrap_or_default(),
            is_blocked: false,
            has_ended: false,
            ours_ended: false,
            is_resetting: false,
        };
        self.began.entry(session).or_insert(self.now_us);
        if self.random.u8(0..10) == 0 {
            self.seen.redialled += 1;
            return self.player.handle_refused(session, "no room", self.now_us);
        }
        assert!(
            self.servers.insert(session, server).is_none(),
            "dialled twice"
        );
        if manner != Manner::NeverAnswers {
            self.after(session, Happening::Decided);
        }
    }

    fn write(&mut self, session: SessionId) {
        let Some(server) = self.servers.get_mut(&session) else {
            // It was closed in this turn, behind this command.
            assert_eq!(self.player.outgoing(session, self.now_us).count(), 0);
            return;
        };
        let wanted = &self.queue.wanted[&session];
        let offered: Vec<u8> = self
            .player
            .outgoing(session, self.now_us)
            .flatten()
            .copied()
            .collect();
        let end = server.taken.len() + offered.len();
        assert!(
            wanted.bytes[server.taken.len()..].starts_with(&offered),
            "{session}: other bytes"
        );
        // Everything that is offered is due, and so are the replies before it.
        let starts = [0]
            .into_iter()
            .chain(wanted.sends.iter().map(|send| send.0));
        for (start, &(_, at_us, replies)) in starts.zip(&wanted.sends) {
            if start < end {
                let due_us = self.config.speed.due_us(at_us);
                assert!(due_us <= self.now_us, "{session} sends before its time");
                // One that had to wait for its turn is as much later with all that it does.
                let after_us = due_us - self.config.speed.due_us(wanted.opens_at_us);
                let earliest = server.began_us + after_us.saturating_sub(LATE_US);
                // What was read late had its turn late, too, and is not later for that.
                let is_early = self.seen.starved == 0 && self.now_us < earliest;
                assert!(!is_early, "{session} sends too early for its turn");
                if self.config.pace == Pace::Reply {
                    assert!(
                        server.replied >= replies,
                        "{session} sends before the replies"
                    );
                }
            }
        }
        let most = match server.manner {
            Manner::Stalls(at) => at.saturating_sub(server.taken.len()),
            _ => offered.len(),
        };
        let stalls = matches!(server.manner, Manner::Stalls(_)) && most == 0;
        let is_blocked = stalls || self.random.u8(0..5) == 0;
        let len = match is_blocked {
            true => 0,
            false => offered
                .len()
                .min(most)
                .min(self.random.usize(1..=offered.len().max(1))),
        };
        server.taken.extend_from_slice(&offered[..len]);
        server.is_blocked = is_blocked;
        if is_blocked {
            self.seen.blocked += 1;
            if !stalls {
                self.after(session, Happening::Writable);
            }
        }
        self.player
            .handle_written(session, len, is_blocked, self.now_us);
        self.serve(session);
    }

    /// The target has been sent something.
    fn serve(&mut self, session: SessionId) {
        let Some(server) = self.servers.get_mut(&session) else {
            return;
        };
        if matches!(server.manner, Manner::Resets(at) if server.taken.len() >= at) {
            self.servers.remove(&session);
            return self.player.handle_failed(session, "reset", self.now_us);
        }
        self.after(session, Happening::Reply);
    }

    /// The session has ended its sending.
    fn target_ends(&mut self, session: SessionId) {
        let server = &self.servers[&session];
        match server.manner {
            Manner::Stays => {}
            Manner::Babbles => self.after(session, Happening::Babble),
            _ if server.has_ended => self.after(session, Happening::Over),
            _ => self.after(session, Happening::Ends),
        }
    }

    fn happen(&mut self, session: SessionId, happening: Happening) {
        let Some(server) = self.servers.get_mut(&session) else {
            return;
        };
        match happening {
            Happening::Decided if server.manner == Manner::Refuses => {
                self.servers.remove(&session);
                self.player.handle_failed(session, "refused", self.now_us);
            }
            Happening::Decided => {
                server.is_connected = true;
                let is_deaf = server.manner == Manner::Deaf;
                self.player.handle_connected(session, self.now_us);
                self.serve(session);
                if is_deaf {
                    self.after(session, Happening::Ends);
                }
            }
            Happening::Writable => {
                server.is_blocked = false;
                self.player.handle_writable(session);
            }
            Happening::Reply if server.manner == Manner::Silent || server.has_ended => {}
            Happening::Reply => {
                let taken = server.taken.len();
                let due: u64 = (server.replies.iter())
                    .filter(|(before, _)| *before <= taken)
                    .map(|(_, len)| len)
                    .sum();
                let more = due.saturating_sub(server.replied);
                if more > 0 {
                    let len = self.random.u64(1..=more);
                    server.replied += len;
                    self.player
                        .handle_received(session, len as usize, self.now_us);
                    self.after(session, Happening::Reply);
                }
            }
            Happening::Ends => {
                if !server.has_ended {
                    server.has_ended = true;
                    self.seen.early_ends += u64::from(!server.ours_ended);
                    let is_over = server.ours_ended;
                    self.player.handle_target_end(session, self.now_us);
                    if is_over {
                        self.after(session, Happening::Over);
                    }
                }
            }
            Happening::Over => {
                self.servers.remove(&session);
                self.player.handle_over(session, self.now_us);
            }
            Happening::Babble => {
                server.replied += 1;
                self.player.handle_received(session, 1, self.now_us);
                let at = self.now_us + 100_000;
                self.happenings
                    .push(Reverse((at, session, Happening::Babble)));
            }
        }
    }

    fn pass_time(&mut self) {
        if self.player.commands() > 0 {
            return;
        }
        let due = self.player.next_due_us();
        let next = self.happenings.peek().map(|Reverse((at, ..))| *at);
        let Some(next) = due.into_iter().chain(next).min() else {
            return;
        };
        // The loop may be late.
        let late = if self.random.u8(0..8) == 0 {
            self.random.u64(0..LATE_US)
        } else {
            0
        };
        self.now_us = self.now_us.max(next) + late;
        while let Some(&Reverse((at, session, happening))) = self.happenings.peek() {
            if at > self.now_us {
                break;
            }
            self.happenings.pop();
            self.happen(session, happening);
        }
    }

    fn check_ended(&mut self) {
        while let Some(ended) = self.player.poll_ended() {
            let wanted = &self.queue.wanted[&ended.session];
            let name = match ended.failure {
                None => {
                    self.seen.done += 1;
                    let all = wanted.bytes.len() as u64;
                    assert_eq!(ended.sent, all, "{} is done too early", ended.session);
                    continue;
                }
                Some(Failure::Connect(_)) => "connect",
                Some(Failure::Broken(_)) => "broken",
                Some(Failure::Stalled) => "stalled",
                Some(Failure::NoReply { .. }) => "no reply",
                Some(Failure::NoRoom) => "no room",
                Some(Failure::Interrupted) => "interrupted",
            };
            *self.seen.failed.entry(name).or_default() += 1;
            let is_harmless = matches!(name, "no room" | "interrupted");
            assert!(
                self.faults > 0 || is_harmless || name == "connect",
                "{ended:?} for no reason"
            );
        }
    }

    fn conclude(mut self) -> Coverage {
        self.check_ended();
        while let Some(block) = self.player.poll_spent() {
            self.held -= 1;
            self.queue.free.push(block);
        }
        let tally = self.player.tally();
        self.seen.quiet = tally.quiet;
        assert_eq!(self.player.active(), 0);
        if !self.has_stopped {
            assert_eq!(self.held, 0, "blocks are kept");
            assert_eq!(tally.done + tally.failed, self.queue.wanted.len() as u64);
            let sends: usize = self
                .queue
                .wanted
                .values()
                .map(|wanted| wanted.sends.len())
                .sum();
            assert!(tally.failed > 0 || tally.sends == sends as u64);
        }
        self.seen
    }
}

#[test]
fn whatever_the_target_does_sessions_are_sent_as_recorded_and_end() {
    let seeds = std::env::var("WIRETAPE_SIM_SEEDS");
    let seeds = seeds.map_or(SEEDS, |text| text.parse().expect("a number"));
    let one = std::env::var("WIRETAPE_SIM_SEED").map(|text| text.parse().expect("a number"));
    let walked = one.as_ref().map_or(0..seeds, |&seed: &u64| seed..seed + 1);
    let mut all = Coverage::default();
    for seed in walked {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed}"));
        all.done += seen.done;
        for (name, count) in seen.failed {
            *all.failed.entry(name).or_default() += count;
        }
        all.quiet += seen.quiet;
        all.blocked += seen.blocked;
        all.redialled += seen.redialled;
        all.resets += seen.resets;
        all.half_closes += seen.half_closes;
        all.early_ends += seen.early_ends;
        all.starved += seen.starved;
        all.stopped += seen.stopped;
    }
    let each = [
        all.done,
        all.quiet,
        all.blocked,
        all.redialled,
        all.resets,
        all.half_closes,
        all.early_ends,
        all.starved,
        all.stopped,
    ];
    // The seeds come to everything that is meant to be tried.
    let is_all = each.iter().all(|&count| count > 0) && all.failed.len() == 6;
    assert!(one.is_ok() || is_all, "{all:?}");
}
