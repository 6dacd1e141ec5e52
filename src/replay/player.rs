//! What is done next, and when: the steps, the sessions that are being played, and whose turn it is.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use slab::Slab;

use super::playing::{Next, Playing, Queued, QueuedAct, State};
use super::schedule::Speed;
use super::script::{Act, Block, Ending, Piece, SessionId, Step};
use super::tally::{Ended, Failure, Tally};
use crate::record::deadline::Deadlines;

/// What sends wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Their time.
    Time,
    /// Their time, and as many bytes of replies as had come before them in the recording.
    Reply,
}

/// How it is played.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How fast.
    pub speed: Speed,
    /// What sends wait for.
    pub pace: Pace,
    /// Sessions at once at most. Without it, at a speed the recording tells, and at [`Speed::Max`] a
    /// session waits until no more are being played than were open in the recording.
    pub jobs: Option<usize>,
    /// Sessions at once for which there are descriptors.
    pub room: usize,
    /// How long a session waits for the target: to connect, to take bytes, to reply, to end.
    pub timeout_us: u64,
}

/// What is to be done for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect it. Then comes [`Player::handle_connected`], [`Player::handle_refused`] or
    /// [`Player::handle_failed`].
    Dial(SessionId),
    /// Write [`Player::outgoing`]. Then comes [`Player::handle_written`].
    Write(SessionId),
    /// End its sending.
    HalfClose(SessionId),
    /// Reset the connection once all is on its way. Then comes [`Player::handle_over`].
    Reset(SessionId),
    /// The target has been silent for too long after the session's end: close it. Then comes
    /// [`Player::handle_quiet`], or, if not everything is on its way, [`Player::handle_failed`].
    GiveUp(SessionId),
    /// Close it at once, because it failed. Nothing is heard of it any more.
    Close(SessionId, Failure),
}

/// A block, and how many pieces of it have not been sent, and sessions in it have not begun.
#[derive(Debug)]
struct Held {
    block: Block,
    unsent: usize,
}

/// The player; see the [module](super).
#[derive(Debug)]
pub struct Player {
    config: Config,
    sessions: HashMap<SessionId, Playing>,
    /// Sessions that wait for their turn, in order.
    waiting: VecDeque<SessionId>,
    /// Sessions that are connecting, or further.
    active: HashSet<SessionId>,
    blocks: Slab<Held>,
    /// The block whose steps are being walked along, and which is next.
    cursor: Option<(usize, usize)>,
    has_ended: bool,
    at_us: u64,
    consumed: u64,
    /// When it was last known that nothing could be heard.
    deaf_us: u64,
    commands: VecDeque<Command>,
    timers: Deadlines<SessionId>,
    spent: Vec<Block>,
    ended: VecDeque<Ended>,
    tally: Tally,
}

impl Player {
    /// A player without steps.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            sessions: HashMap::new(),
            waiting: VecDeque::new(),
            active: HashSet::new(),
            blocks: Slab::new(),
            cursor: None,
            has_ended: false,
            at_us: 0,
            consumed: 0,
            deaf_us: 0,
            commands: VecDeque::new(),
            timers: Deadlines::default(),
            spent: Vec::new(),
            ended: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    // --- steps -----------------------------------------------------------------------------------

    /// Whether it has walked along all steps that it has been given.
    pub fn wants_block(&self) -> bool {
        self.cursor.is_none() && !self.has_ended
    }

    /// Takes the steps that follow, if [`Player::wants_block`].
    pub fn handle_block(&mut self, block: Block) {
        debug_assert!(self.wants_block());
        self.consumed = block.consumed;
        let held = Held { block, unsent: 0 };
        self.cursor = Some((self.blocks.insert(held), 0));
    }

    /// There are no more steps.
    pub fn handle_end(&mut self) {
        self.has_ended = true;
    }

    /// A block that is done with, to be filled again.
    pub fn poll_spent(&mut self) -> Option<Block> {
        self.spent.pop()
    }

    /// No steps can come until some have been done, because the memory is full. Where all sessions
    /// that have begun have nothing to do but wait for steps, those that wait for their turn are given
    /// up, until a block comes back.
    pub fn handle_starved(&mut self, now_us: u64) {
        // Looked at in every turn while the memory is full, so only at those that have begun.
        let is_wanting = |id| self.sessions[id].is_wanting();
        if !self.active.iter().all(is_wanting) {
            return;
        }
        // Those with most to send go first, the last to come before others. All are ranked once: many
        // may have to go before a block comes back, and there may be a hundred times as many.
        let rank = |(nth, id)| (self.sessions[id].queued, nth, *id);
        let mut ranked: BinaryHeap<_> = self.waiting.iter().enumerate().map(rank).collect();
        let mut given_up = HashSet::new();
        while self.spent.is_empty() {
            let Some((_, _, id)) = ranked.pop() else {
                break;
            };
            given_up.insert(id);
            self.end(id, Some(Failure::NoRoom), now_us);
        }
        self.waiting.retain(|id| !given_up.contains(id));
    }

    // --- time ------------------------------------------------------------------------------------

    /// When [`Player::handle_time`] has something to do, in microseconds since the replay began.
    pub fn next_due_us(&self) -> Option<u64> {
        let step = self.cursor.map(|(block, nth)| {
            let step = self.blocks[block].block.step(nth);
            step.map_or(0, |step| self.config.speed.due_us(step.at_us))
        });
        step.into_iter().chain(self.timers.next()).min()
    }

    /// Does what is due by now.
    pub fn handle_time(&mut self, now_us: u64) {
        self.walk(now_us);
        while let Some(id) = (self.timers).expired(now_us, |id| self.sessions.get(&id)?.wakes_at) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.wakes_at = None;
            }
            self.proceed(id, now_us);
        }
    }

    /// Walks along the steps up to what is due later.
    fn walk(&mut self, now_us: u64) {
        while let Some((block, nth)) = self.cursor {
            let held = &self.blocks[block].block;
            let Some(step) = held.step(nth) else {
                self.cursor = None;
                self.release(block);
                return;
            };
            let due_us = self.config.speed.due_us(step.at_us);
            // What a session that has failed was still to do is not waited for.
            let is_left =
                !matches!(step.act, Act::Open(_)) && !self.sessions.contains_key(&step.session);
            if due_us > now_us && !is_left {
                return;
            }
            self.at_us = step.at_us;
            self.cursor = Some((block, nth + 1));
            let (step, is_last) = (step.clone(), held.is_last(nth));
            self.take(block, step, due_us, is_last, now_us);
        }
    }

    fn take(&mut self, block: usize, step: Step<Piece>, due_us: u64, is_last: bool, now_us: u64) {
        let id = step.session;
        let act = match step.act {
            Act::Open(origin) => {
                let session = Playing::new(origin, block, now_us);
                self.sessions.insert(id, session);
                self.waiting.push_back(id);
                self.blocks[block].unsent += 1;
                None
            }
            Act::Send { seq, payload } => Some(QueuedAct::Send {
                seq,
                block,
                piece: payload,
            }),
            Act::HalfClose => Some(QueuedAct::HalfClose),
            Act::End(ending) => Some(QueuedAct::End(ending)),
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let end = is_last.then_some(QueuedAct::End(Ending::Orderly));
        for act in act.into_iter().chain(end) {
            if act.bytes().is_some() {
                self.blocks[block].unsent += 1;
            }
            session.push(Queued {
                due_us,
                replies: step.replies,
                act,
            });
        }
        if session.state == State::Waiting {
            self.start_waiting(now_us);
        } else {
            self.proceed(id, now_us);
        }
    }

    /// Gives a block back if all of it has been walked along and sent.
    fn release(&mut self, block: usize) {
        let is_walked = self.cursor.is_none_or(|(at, _)| at != block);
        if is_walked && self.blocks[block].unsent == 0 {
            let mut block = self.blocks.remove(block).block;
            block.clear();
            self.spent.push(block);
        }
    }

    fn release_pieces(&mut self, blocks: impl IntoIterator<Item = usize>) {
        for block in blocks {
            self.blocks[block].unsent -= 1;
            self.release(block);
        }
    }

    // --- sessions --------------------------------------------------------------------------------

    /// Starts those whose turn has come.
    fn start_waiting(&mut self, now_us: u64) {
        while let Some(&id) = self.waiting.front() {
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            let recorded = match self.config.speed {
                Speed::Max => session.origin.concurrency,
                Speed::Times(_) => usize::MAX,
            };
            let most = self.config.jobs.unwrap_or(recorded).min(self.config.room);
            if self.active.len() >= most {
                return;
            }
            session.handle_turn(now_us);
            let opened_in = session.opened_in.take();
            self.waiting.pop_front();
            self.active.insert(id);
            self.tally.begun += 1;
            self.commands.push_back(Command::Dial(id));
            self.release_pieces(opened_in);
            self.proceed(id, now_us);
        }
    }

    /// Has a session do what it can do now, and sees when to look at it again.
    fn proceed(&mut self, id: SessionId, now_us: u64) {
        while let Some(session) = self.sessions.get_mut(&id) {
            let command = match session.next(&self.config, self.deaf_us, now_us) {
                Next::Rest(until) => return self.wake(id, until),
                Next::Write => return self.commands.push_back(Command::Write(id)),
                Next::Fail(failure) => {
                    self.commands.push_back(Command::Close(id, failure.clone()));
                    return self.end(id, Some(failure), now_us);
                }
                Next::GiveUp => return self.commands.push_back(Command::GiveUp(id)),
                Next::Dial => Command::Dial(id),
                Next::HalfClose => Command::HalfClose(id),
                Next::Reset => Command::Reset(id),
            };
            self.commands.push_back(command);
        }
    }

    fn wake(&mut self, id: SessionId, at_us: Option<u64>) {
        let (Some(at_us), Some(session)) = (at_us, self.sessions.get_mut(&id)) else {
            return;
        };
        if session.wakes_at.is_none_or(|earlier| at_us < earlier) {
            session.wakes_at = Some(at_us);
            self.timers.insert(at_us, id);
        }
    }

    fn end(&mut self, id: SessionId, failure: Option<Failure>, now_us: u64) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let sessions = &self.sessions;
        (self.timers).sweep(sessions.len(), |id| sessions.contains_key(&id));
        self.release_pieces(session.blocks());
        match failure {
            Some(_) => self.tally.failed += 1,
            None => self.tally.done += 1,
        }
        self.ended.push_back(Ended {
            session: id,
            origin: session.origin,
            sent: session.sent,
            failure,
        });
        if self.active.remove(&id) {
            self.start_waiting(now_us);
        }
    }

    // --- commands and what comes of them ---------------------------------------------------------

    /// What is to be done next.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// How many commands there are.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// A session is connected.
    pub fn handle_connected(&mut self, id: SessionId, now_us: u64) {
        self.tally.connected += 1;
        self.tell(id, now_us, |session| session.handle_connected(now_us));
    }

    /// The system has no room for one more connection now, for this reason; it is tried again.
    pub fn handle_refused(&mut self, id: SessionId, why: &str, now_us: u64) {
        self.tell(id, now_us, |session| session.handle_refused(why, now_us));
    }

    /// A session could not connect, or its connection broke, for this reason. Its socket is gone.
    pub fn handle_failed(&mut self, id: SessionId, why: &str, now_us: u64) {
        let failure = match self.sessions.get(&id).map(|session| &session.state) {
            Some(State::Open | State::Leaving { .. }) => Failure::Broken(why.into()),
            _ => Failure::Connect(why.into()),
        };
        self.end(id, Some(failure), now_us);
    }

    /// What a session has to send now, in as few pieces as it lies in.
    pub fn outgoing(&self, id: SessionId, now_us: u64) -> impl Iterator<Item = &[u8]> {
        let session = self.sessions.get(&id);
        let pieces = session.map(|session| session.outgoing(&self.config, now_us));
        let bytes =
            |(block, start, len): (usize, u32, u32)| self.blocks[block].block.bytes(start, len);
        pieces.unwrap_or_default().into_iter().map(bytes)
    }

    /// The kernel took the first `len` bytes of [`Player::outgoing`]; if it `is_blocked`, it takes no
    /// more until [`Player::handle_writable`].
    pub fn handle_written(&mut self, id: SessionId, len: usize, is_blocked: bool, now_us: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (config, tally) = (&self.config, &mut self.tally);
        let sent = session.handle_written(len, is_blocked, now_us, config, tally);
        self.release_pieces(sent);
        self.proceed(id, now_us);
    }

    /// The kernel takes more of a session.
    pub fn handle_writable(&mut self, id: SessionId) {
        let session = self.sessions.get_mut(&id);
        if session.is_some_and(Playing::handle_writable) {
            self.commands.push_back(Command::Write(id));
        }
    }

    /// So many bytes came back.
    pub fn handle_received(&mut self, id: SessionId, len: usize, now_us: u64) {
        self.tally.received += len as u64;
        self.tell(id, now_us, |session| {
            session.handle_received(len as u64, now_us);
        });
    }

    /// The target has ended its direction. It may still take what is sent.
    pub fn handle_target_end(&mut self, id: SessionId, now_us: u64) {
        self.tell(id, now_us, |session| session.handle_target_end(now_us));
    }

    /// The connection is over, with everything that was sent taken. Its socket is gone.
    pub fn handle_over(&mut self, id: SessionId, now_us: u64) {
        self.end(id, None, now_us);
    }

    /// The target is silent, and everything that was sent is on its way. The socket is gone.
    pub fn handle_quiet(&mut self, id: SessionId, now_us: u64) {
        self.tally.quiet += 1;
        self.end(id, None, now_us);
    }

    /// What comes back cannot be read now, for want of outputs that take it: a target that waits for
    /// that is not blamed.
    pub fn handle_deaf(&mut self, now_us: u64) {
        self.deaf_us = now_us;
    }

    /// Told to stop: every session is closed where it stands, and none is begun.
    pub fn handle_stop(&mut self, now_us: u64) {
        self.has_ended = true;
        self.cursor = None;
        self.waiting.clear();
        let mut ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        ids.sort();
        for id in ids {
            self.commands
                .push_back(Command::Close(id, Failure::Interrupted));
            self.end(id, Some(Failure::Interrupted), now_us);
        }
    }

    fn tell(&mut self, id: SessionId, now_us: u64, what: impl FnOnce(&mut Playing)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            what(session);
            self.proceed(id, now_us);
        }
    }

    // --- what it knows ---------------------------------------------------------------------------

    /// A session that is over.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Whether everything is over.
    pub fn is_done(&self) -> bool {
        self.has_ended && self.cursor.is_none() && self.sessions.is_empty()
    }

    /// What has been played.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sessions that are being played.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// The position of what was done last, in microseconds.
    pub fn at_us(&self) -> u64 {
        self.at_us
    }

    /// Bytes of the captures up to where it plays, as they lie in the files.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }
}
