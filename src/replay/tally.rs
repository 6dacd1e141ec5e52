//! How it went: what became of each session, and of all of them together.

use std::fmt;

use hdrhistogram::Histogram;

use super::script::{Origin, SessionId};

/// Why a session was not played as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not connect: what the kernel said.
    Connect(Box<str>),
    /// The connection broke: what the kernel said.
    Broken(Box<str>),
    /// The target took nothing for as long as `--timeout` allows.
    Stalled,
    /// Replies that the next send was to wait for did not come.
    NoReply {
        /// Number of the record that was to be sent.
        seq: u64,
        /// Bytes of replies that were missing.
        missing: u64,
        /// The target has ended its direction: they will not come.
        has_ended: bool,
    },
    /// It waited for its turn, and what it was to send filled the memory.
    NoRoom,
    /// The replay was told to stop.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Broken(why) => f.write_str(why),
            Self::Stalled => f.write_str("the target takes nothing any more"),
            Self::NoReply {
                seq,
                missing,
                has_ended,
            } => {
                let why = if *has_ended {
                    "the target has ended"
                } else {
                    "the target is silent"
                };
                write!(f, "record {seq} waits for {missing} more bytes of replies, and {why}")
            }
            Self::NoRoom => f.write_str(
                "while it waited for its turn, what it is to send filled the memory (raise --buffer or --jobs)",
            ),
            Self::Interrupted => f.write_str("told to stop"),
        }
    }
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub session: SessionId,
    /// Where it came from.
    pub origin: Box<Origin>,
    /// Bytes that the kernel took of it.
    pub sent: u64,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
}

/// A send that is later than this is counted, in microseconds.
pub const LATE_US: u64 = 1000;

/// Lateness is told apart up to a day, in microseconds; what is later counts as that.
const LATEST_US: u64 = 86_400_000_000;

/// What has been played.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Sessions that have begun: connecting, or further.
    pub begun: u64,
    /// Sessions that have connected.
    pub connected: u64,
    /// Sessions that are over and were played as recorded.
    pub done: u64,
    /// Sessions that failed.
    pub failed: u64,
    /// Sessions, of those that are done, that were closed because the target did not end.
    pub quiet: u64,
    /// Records sent.
    pub sends: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
    /// Records sent more than [`LATE_US`] after they were due.
    pub late: u64,
    /// How late sends were, in microseconds; nothing where none was due at a time.
    pub lateness: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            begun: 0,
            connected: 0,
            done: 0,
            failed: 0,
            quiet: 0,
            sends: 0,
            sent: 0,
            received: 0,
            late: 0,
            lateness: Histogram::new_with_bounds(1, LATEST_US, 3).expect("these are bounds"),
        }
    }
}

impl Tally {
    pub(super) fn count_lateness(&mut self, late_us: u64) {
        self.late += u64::from(late_us > LATE_US);
        self.lateness.saturating_record(late_us);
    }

    /// What half of the sends, 99 of 100 and all of them were late by at most, in microseconds.
    pub fn lateness_us(&self) -> Option<[u64; 3]> {
        let at = |quantile| self.lateness.value_at_quantile(quantile);
        (!self.lateness.is_empty()).then(|| [at(0.5), at(0.99), self.lateness.max()])
    }
}
