//! A session while it is played: what it has still to do, and what it waits for.

use std::collections::VecDeque;
use std::mem;

use super::player::{Config, Pace};
use super::schedule::Speed;
use super::script::{Ending, Origin, Piece};
use super::tally::{Failure, Tally};

/// When the target goes on and on after a session's end, it is heard for this many times the timeout.
const LONGEST_FAREWELL: u64 = 10;

/// A connection that the system had no room for is tried again after this long, and then after twice
/// as long, up to the most.
const REDIAL_US: u64 = 10_000;
const REDIAL_MOST_US: u64 = 500_000;

/// Pieces written at once at most.
const PIECES: usize = 64;

/// Bytes written at once at most, so that a fast session waits for its turn like all others.
const WRITE_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Playing {
    pub(super) origin: Box<Origin>,
    pub(super) state: State,
    /// What is due, or will be, and is not done.
    queue: VecDeque<Queued>,
    /// Bytes of the first in the queue that have been sent.
    front_sent: u32,
    /// Bytes in the queue.
    pub(super) queued: u64,
    /// How much later than recorded it began, because it had to wait for its turn.
    shift_us: u64,
    pub(super) sent: u64,
    received: u64,
    /// Since when the target takes nothing.
    blocked_since: Option<u64>,
    /// Since when the first in the queue, though due, waits for replies.
    wanting_since: Option<u64>,
    /// When the replies came for which the first in the queue waited.
    satisfied_us: u64,
    /// When it last heard from the target; at first, when it was to begin.
    heard_us: u64,
    has_half_closed: bool,
    pub(super) target_has_ended: bool,
    /// It was told to write and has not said yet what came of it.
    is_writing: bool,
    /// Its earliest entry among the timers.
    pub(super) wakes_at: Option<u64>,
    /// While it waits for its turn it holds the block that its beginning stands in: so memory bounds
    /// how many can wait.
    pub(super) opened_in: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for its turn.
    Waiting,
    /// It connects. Where the system had no room for it, that is tried again.
    Dialling {
        since: u64,
        again: Option<Again>,
    },
    Open,
    /// All is done; the target may still be answering.
    Leaving {
        since: u64,
    },
}

/// When a connection is tried again, how long that is after the last try, and what was wrong then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again {
    at_us: u64,
    delay_us: u64,
    why: Box<str>,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) due_us: u64,
    pub(super) replies: u64,
    pub(super) act: QueuedAct,
}

#[derive(Debug)]
pub(super) enum QueuedAct {
    Send {
        seq: u64,
        block: usize,
        piece: Piece,
    },
    HalfClose,
    End(Ending),
}

impl QueuedAct {
    /// The block that its bytes lie in, and how many they are.
    pub(super) fn bytes(&self) -> Option<(usize, u32)> {
        match self {
            Self::Send { block, piece, .. } => Some((*block, piece.len)),
            Self::HalfClose | Self::End(_) => None,
        }
    }
}

/// What a session does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until it is told something, or until this time.
    Rest(Option<u64>),
    Dial,
    Write,
    HalfClose,
    Reset,
    /// The target is silent: it is to be closed.
    GiveUp,
    /// It is over, because this went wrong.
    Fail(Failure),
}

impl Playing {
    pub(super) fn new(origin: Box<Origin>, block: usize, now_us: u64) -> Self {
        Self {
            origin,
            state: State::Waiting,
            queue: VecDeque::new(),
            front_sent: 0,
            queued: 0,
            shift_us: 0,
            sent: 0,
            received: 0,
            blocked_since: None,
            wanting_since: None,
            satisfied_us: 0,
            heard_us: now_us,
            has_half_closed: false,
            target_has_ended: false,
            is_writing: false,
            wakes_at: None,
            opened_in: Some(block),
        }
    }

    /// One more thing to do.
    pub(super) fn push(&mut self, queued: Queued) {
        self.queued += queued.act.bytes().map_or(0, |(_, len)| len.into());
        self.queue.push_back(queued);
    }

    /// Blocks of what it has not sent, one for each piece, and the one that it waits in.
    pub(super) fn blocks(&self) -> impl Iterator<Item = usize> {
        let bytes = self.queue.iter().filter_map(|queued| queued.act.bytes());
        bytes.map(|(block, _)| block).chain(self.opened_in)
    }

    /// Whether it has begun and has nothing to do but wait for steps.
    pub(super) fn is_wanting(&self) -> bool {
        self.state == State::Open && self.queue.is_empty()
    }

    /// What it does now. Asked again until it rests, writes or is over. Silence counts only behind
    /// `deaf_us`.
    pub(super) fn next(&mut self, config: &Config, deaf_us: u64, now_us: u64) -> Next {
        let give_up = |since: u64| since.max(deaf_us).saturating_add(config.timeout_us);
        match &mut self.state {
            State::Waiting => Next::Rest(None),
            State::Dialling { since, again } => {
                let give_up = give_up(*since);
                if now_us >= give_up {
                    let why = again.take().map_or("timed out".into(), |again| again.why);
                    return Next::Fail(Failure::Connect(why));
                }
                match again {
                    Some(again) if now_us >= again.at_us => {
                        // Until it is said to have failed again.
                        again.at_us = u64::MAX;
                        Next::Dial
                    }
                    Some(again) => Next::Rest(Some(give_up.min(again.at_us))),
                    None => Next::Rest(Some(give_up)),
                }
            }
            State::Open => self.play(config, deaf_us, now_us),
            State::Leaving { since } => {
                let longest = config.timeout_us.saturating_mul(LONGEST_FAREWELL);
                let longest = (*since).max(deaf_us).saturating_add(longest);
                let give_up = give_up(self.heard_us.max(*since)).min(longest);
                if now_us < give_up {
                    Next::Rest(Some(give_up))
                } else {
                    Next::GiveUp
                }
            }
        }
    }

    /// The first in the queue, as far as time, replies and the target allow.
    fn play(&mut self, config: &Config, deaf_us: u64, now_us: u64) -> Next {
        let give_up = |since: u64| since.max(deaf_us).saturating_add(config.timeout_us);
        let Some(front) = self.queue.front() else {
            return Next::Rest(None);
        };
        let due_us = front.due_us.saturating_add(self.shift_us);
        if due_us > now_us {
            return Next::Rest(Some(due_us));
        }
        let missing = front.replies.saturating_sub(self.received);
        if config.pace == Pace::Reply && missing > 0 {
            let since = *self.wanting_since.get_or_insert(now_us);
            let give_up = give_up(self.heard_us.max(since));
            if now_us < give_up && !self.target_has_ended {
                return Next::Rest(Some(give_up));
            }
            if let Some(seq) = self.next_seq() {
                return Next::Fail(Failure::NoReply {
                    seq,
                    missing,
                    has_ended: self.target_has_ended,
                });
            }
            // Nothing is left to send: it ends without what has not come.
        }
        let front = self.queue.front().expect("it was there");
        if self.wanting_since.take().is_some() {
            self.satisfied_us = now_us;
        }
        match front.act {
            QueuedAct::Send { .. } if self.is_writing => Next::Rest(None),
            QueuedAct::Send { .. } => match self.blocked_since {
                None => {
                    self.is_writing = true;
                    Next::Write
                }
                Some(since) if now_us < give_up(since) => Next::Rest(Some(give_up(since))),
                Some(_) => Next::Fail(Failure::Stalled),
            },
            QueuedAct::HalfClose => {
                self.queue.pop_front();
                self.half_close(config, deaf_us, now_us)
            }
            QueuedAct::End(ending) => {
                self.queue.clear();
                self.state = State::Leaving { since: now_us };
                match ending {
                    Ending::Orderly => self.half_close(config, deaf_us, now_us),
                    Ending::Reset => Next::Reset,
                }
            }
        }
    }

    fn half_close(&mut self, config: &Config, deaf_us: u64, now_us: u64) -> Next {
        if mem::replace(&mut self.has_half_closed, true) {
            self.next(config, deaf_us, now_us)
        } else {
            Next::HalfClose
        }
    }

    /// Number of the next record to be sent.
    fn next_seq(&self) -> Option<u64> {
        self.queue.iter().find_map(|queued| match queued.act {
            QueuedAct::Send { seq, .. } => Some(seq),
            QueuedAct::HalfClose | QueuedAct::End(_) => None,
        })
    }

    // --- what happens to it ----------------------------------------------------------------------

    /// Its turn has come.
    pub(super) fn handle_turn(&mut self, now_us: u64) {
        self.shift_us = now_us.saturating_sub(self.heard_us);
        self.state = State::Dialling {
            since: now_us,
            again: None,
        };
    }

    pub(super) fn handle_connected(&mut self, now_us: u64) {
        self.state = State::Open;
        self.heard_us = now_us;
    }

    pub(super) fn handle_refused(&mut self, why: &str, now_us: u64) {
        if let State::Dialling { again, .. } = &mut self.state {
            let last = again.as_ref().map_or(0, |again| again.delay_us);
            let delay_us = (2 * last).clamp(REDIAL_US, REDIAL_MOST_US);
            *again = Some(Again {
                at_us: now_us + delay_us,
                delay_us,
                why: why.into(),
            });
        }
    }

    pub(super) fn handle_received(&mut self, len: u64, now_us: u64) {
        self.received += len;
        self.heard_us = now_us;
    }

    pub(super) fn handle_target_end(&mut self, now_us: u64) {
        self.target_has_ended = true;
        self.heard_us = now_us;
    }

    /// Whether it is to be tried again to write.
    pub(super) fn handle_writable(&mut self) -> bool {
        // Whether the target takes anything turns out then: until it does, it counts as blocked.
        self.blocked_since.is_some() && !mem::replace(&mut self.is_writing, true)
    }

    /// What is to be sent now: pieces as block, start and length, in as few as they lie in.
    pub(super) fn outgoing(&self, config: &Config, now_us: u64) -> Vec<(usize, u32, u32)> {
        let mut pieces: Vec<(usize, u32, u32)> = Vec::new();
        let mut len = 0;
        let mut skipped = self.front_sent;
        for queued in &self.queue {
            let QueuedAct::Send { block, piece, .. } = queued.act else {
                break;
            };
            let wants = config.pace == Pace::Reply && queued.replies > self.received;
            let is_due = queued.due_us.saturating_add(self.shift_us) <= now_us;
            if wants || !is_due || len >= WRITE_MAX {
                break;
            }
            let (start, rest) = (piece.start + skipped, piece.len - skipped);
            skipped = 0;
            let is_full = pieces.len() == PIECES;
            match pieces.last_mut() {
                Some((of, first, len)) if *of == block && *first + *len == start => *len += rest,
                _ if is_full => break,
                _ => pieces.push((block, start, rest)),
            }
            len += rest as usize;
        }
        pieces
    }

    /// The kernel took the first `len` bytes of [`Playing::outgoing`]. Gives the blocks of the pieces
    /// that have been sent with that.
    pub(super) fn handle_written(
        &mut self,
        len: usize,
        is_blocked: bool,
        now_us: u64,
        config: &Config,
        tally: &mut Tally,
    ) -> Vec<usize> {
        let mut left = len as u64;
        self.is_writing = false;
        self.sent += left;
        self.queued -= left;
        tally.sent += left;
        self.blocked_since = match self.blocked_since {
            _ if !is_blocked => None,
            Some(since) if len == 0 => Some(since),
            _ => Some(now_us),
        };
        let mut done = Vec::new();
        while let Some(front) = self.queue.front() {
            let QueuedAct::Send { block, piece, .. } = front.act else {
                break;
            };
            let rest = u64::from(piece.len - self.front_sent);
            if left < rest {
                self.front_sent += left as u32;
                break;
            }
            left -= rest;
            self.front_sent = 0;
            done.push(block);
            if !piece.continues {
                tally.sends += 1;
                if config.speed != Speed::Max {
                    let due_us = front.due_us.saturating_add(self.shift_us);
                    tally.count_lateness(now_us.saturating_sub(due_us.max(self.satisfied_us)));
                }
            }
            self.queue.pop_front();
            if left == 0 {
                break;
            }
        }
        done
    }
}
