//! What there is to tell of a recorded connection, and of all of them together.

use crate::record::{CloseReason, ConnId, RunId, Timestamp, WallTime};

/// A recorded connection, or as much of it as was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its run, if the capture names it.
    pub run: Option<RunId>,
    /// Its number in the run.
    pub conn: ConnId,
    /// Its peer.
    pub peer: Box<str>,
    /// This side, if its `open` was seen.
    pub local: Option<Box<str>>,
    /// What was dialled for it, if anything.
    pub target: Option<Box<str>>,
    /// When its first record was.
    pub start: Timestamp,
    /// From its `open` to its `close`, or from its first record to its last.
    pub duration_us: u64,
    /// Bytes that the peer sent.
    pub in_bytes: u64,
    /// Bytes that were sent to the peer.
    pub out_bytes: u64,
    /// Records of it.
    pub records: u64,
    /// How it ended, if its `close` was seen.
    pub ended: Option<CloseReason>,
    /// Whether all of it is there.
    pub state: State,
}

/// Whether all of a connection is in the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From its `open` to its `close`, and everything agrees.
    Whole,
    /// Its records do not agree with each other.
    Damaged,
    /// So many bytes are missing.
    Missing(u64),
    /// It has no `open`: it began before the capture, or that is missing.
    NoOpen,
    /// It has no `close`: it went on behind the capture, or that is missing.
    NoClose,
}

/// All sessions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many they are.
    pub sessions: u64,
    /// Those of them that are not whole.
    pub torn: u64,
    /// Runs in the captures.
    pub runs: u64,
    /// Bytes that peers sent.
    pub in_bytes: u64,
    /// Bytes that were sent to peers.
    pub out_bytes: u64,
    /// Records of the sessions.
    pub records: u64,
    /// `gap` records in the captures.
    pub gaps: u64,
    /// Records that those stand for.
    pub missed: u64,
    /// When the earliest record of them was, and the latest, by the wall clock.
    pub span: Option<(WallTime, WallTime)>,
}

impl Totals {
    pub(super) fn add(&mut self, session: &Session) {
        self.sessions += 1;
        self.torn += u64::from(session.state != State::Whole);
        self.in_bytes = self.in_bytes.saturating_add(session.in_bytes);
        self.out_bytes = self.out_bytes.saturating_add(session.out_bytes);
        self.records += session.records;
    }

    pub(super) fn reach(&mut self, wall: WallTime) {
        let (from, to) = self.span.unwrap_or((wall, wall));
        self.span = Some((from.min(wall), to.max(wall)));
    }
}
