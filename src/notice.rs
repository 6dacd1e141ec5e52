//! What is said to a person, as values: rooms that work say *what* happened, the command line
//! decides how it reads and whether it is said at all.

use core::net::IpAddr;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::admission::Refusal;
use crate::record;
use crate::replay::{Ended, Tally, Totals};

/// Something a person should know.
#[derive(Debug)]
pub enum Notice {
    /// Connections are accepted on this address. Scripts wait for it.
    Listening(String),
    /// A server that was dialled has been connected to: told the first time, and after trouble.
    Connected {
        /// What was dialled, as it was given.
        target: String,
        /// Which of its addresses answered.
        peer: String,
    },
    /// A server that was dialled does not answer. Told when the cause changes.
    ConnectFailed {
        /// What was dialled, as it was given.
        target: String,
        /// Why.
        why: String,
        /// What becomes of it.
        then: Then,
    },
    /// Accepting rests after this error, and is tried again as connections close and time passes.
    AcceptFailed(io::Error),
    /// Peers were not let in. Told at once, and then once in a while.
    Refused {
        /// How many since this was last said.
        count: u64,
        /// How many in all.
        total: u64,
        /// Address of the last of them.
        peer: IpAddr,
        /// Why that one was not let in.
        why: Refusal,
    },
    /// As many connections are open as may be, and others wait.
    Crowded {
        /// Connections that are open.
        open: u64,
    },
    /// Stopping began: so many connections are still to be read.
    Stopping {
        /// Connections that are open.
        open: u64,
    },
    /// The time to stop in has passed: what this many connections had sent may not be recorded.
    DrainTimeout {
        /// Connections that were not read to their end.
        unread: u64,
        /// Whether somebody may still wait to be accepted.
        has_unaccepted: bool,
        /// Outputs that had not written everything.
        unwritten: Vec<String>,
    },
    /// A second signal ended the run.
    Interrupted,
    /// An output cannot take bytes now. They are kept, and writing is tried again.
    OutputStalled {
        /// The output.
        output: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// An output that had stalled goes on.
    OutputResumed {
        /// The output.
        output: String,
    },
    /// An output failed and is given up.
    OutputFailed {
        /// The output.
        output: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Whoever read this output has gone. The other outputs go on.
    OutputClosed {
        /// The output.
        output: String,
    },
    /// The file could not be opened again; the one that is open is written on.
    ReopenFailed {
        /// The output.
        output: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The path led to another file, which is written to from here on.
    Reopened {
        /// The output.
        output: String,
        /// Number of the file in this output's run, from 1.
        segment: u64,
    },
    /// The file that was written to has no name any more: nobody will find it.
    OutputDeleted {
        /// The output.
        output: String,
    },
    /// A file could not be opened while the run was going on. Its bytes are kept, and it is tried
    /// again.
    OpenFailed {
        /// The output.
        output: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A file that failed is left as it is; what it had not taken goes to the next.
    SegmentFailed {
        /// The output.
        output: String,
        /// What was being done: `write`, `sync`.
        action: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// What was written to a file may not be on the disk.
    SyncFailed {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A segment cannot be closed now: the file that is open is written on, and it is tried again.
    RotateFailed {
        /// The output.
        output: String,
        /// What was being done: `rename`, `open`.
        action: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// Something that was to be done for a closed file went wrong; the file is whole.
    SegmentTrouble {
        /// The file.
        path: PathBuf,
        /// What was being done: `compress`, `delete`, …
        action: &'static str,
        /// What went wrong.
        error: io::Error,
    },
    /// What an earlier run had left half done was removed or finished.
    Recovered {
        /// The file.
        path: PathBuf,
        /// What it was.
        what: Recovered,
    },
    /// The command for a finished segment failed, or could not be run.
    HookFailed {
        /// The segment.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// The run ends with everything written, before all was done for closed segments: some are not
    /// compressed, or their command still runs or was not begun.
    ChoresLeft {
        /// How many.
        count: usize,
    },
    /// An output cannot keep up, and misses records from here on.
    Missing {
        /// The output.
        output: String,
    },
    /// An output has missed this many records since that was last said.
    Missed {
        /// The output.
        output: String,
        /// Records.
        records: u64,
        /// Payload bytes in them.
        bytes: u64,
    },
    /// A file that is appended to ends in the middle of a line.
    TornEnd {
        /// The output.
        output: String,
    },
    /// A capture that is read ends in the middle. What stands before that is used.
    TornCapture {
        /// The capture.
        name: String,
        /// Its torn line, from 1, and where that begins, in bytes; `None` where a compressed stream
        /// broke off between two lines.
        line: Option<(u64, u64)>,
    },
    /// Closed files of a capture that is followed were deleted before they could be read.
    SegmentsGone {
        /// The capture.
        capture: String,
        /// How many.
        count: u64,
    },
    /// A capture that is followed was cut shorter, and is read from its beginning again.
    CaptureCut {
        /// The capture.
        capture: String,
    },
    /// A session of a replay failed.
    SessionFailed(Ended),
    /// A replay is told to stop: so many sessions are closed where they stand.
    StoppingReplay {
        /// Sessions that were being played.
        active: usize,
    },
    /// What a replay would play.
    WouldReplay(Totals),
    /// How far a replay has come. Told only where somebody looks.
    Progress(Progress),
    /// A replay is over.
    Replayed(Box<Replayed>),
    /// How things stand, asked for.
    Statistics(Statistics),
    /// How things stand, told once in a while.
    Status(Statistics),
    /// The run is over, and everything is written.
    Finished(Statistics),
}

/// What becomes of a server that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is dialled again, for ever.
    TriesAgain,
    /// It is given up.
    GivesUp,
    /// The peer for which it was dialled is reset; for the next it is dialled again.
    ResetsPeer,
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since it began.
    pub elapsed: Duration,
    /// Sessions that are being played.
    pub active: usize,
    /// Sessions that are over, and those of them that failed.
    pub over: (u64, u64),
    /// Sessions in the captures, once all has been read.
    pub sessions: Option<u64>,
    /// Bytes sent and received.
    pub bytes: (u64, u64),
    /// Position in the recording.
    pub at: Duration,
    /// How long it still takes at its speed, once all has been read; nothing at the highest.
    pub left: Option<Duration>,
    /// How much of the captures has been played, of 1, where their size is known.
    pub played: Option<f64>,
}

/// A replay that is over.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// What was played.
    pub tally: Tally,
    /// What was found in the captures.
    pub found: Totals,
    /// From the first step to the last answer.
    pub elapsed: Duration,
    /// Sessions whose failure was not said.
    pub unsaid: u64,
    /// One entry an output.
    pub outputs: Vec<OutputStatistics>,
}

/// What an earlier run left half done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A compressed segment that was not finished. It was removed.
    Unfinished,
    /// A segment that had been compressed and not removed. It was removed.
    Compressed,
    /// A segment that was to be compressed. It is, now.
    Uncompressed,
}

/// The same trouble is said at most this often, in microseconds.
pub const NOTICE_INTERVAL_US: u64 = 5_000_000;

/// Says a trouble that lasts once in a while, and that it is over.
#[derive(Debug, Default)]
pub struct Patience {
    said_us: Option<u64>,
}

impl Patience {
    /// When the trouble may be said again.
    pub fn due_us(&self) -> u64 {
        (self.said_us).map_or(0, |said_us| said_us + NOTICE_INTERVAL_US)
    }

    /// Whether it may be said now.
    pub fn is_due(&self, now_us: u64) -> bool {
        now_us >= self.due_us()
    }

    /// Whether it is to be said now that the trouble is there, or still.
    pub fn is_to_be_said(&mut self, now_us: u64) -> bool {
        let is_due = self.is_due(now_us);
        if is_due {
            self.said_us = Some(now_us);
        }
        is_due
    }

    /// The trouble is over. Whether it was there.
    pub fn is_over(&mut self) -> bool {
        self.said_us.take().is_some()
    }
}

/// Says why something fails when that changes, and not every time it is tried.
#[derive(Debug, Default)]
pub struct Cause(Option<String>);

impl Cause {
    /// Whether this is not what it failed for the last time.
    pub fn is_news(&mut self, why: &str) -> bool {
        let is_news = self.0.as_deref() != Some(why);
        self.0 = Some(why.to_owned());
        is_news
    }

    /// It has succeeded. Whether it had failed.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// How things stand.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Since the start of the run.
    pub elapsed: Duration,
    /// What was captured.
    pub totals: record::Totals,
    /// Bytes that batches hold, and may hold.
    pub buffered: (usize, usize),
    /// One entry an output.
    pub outputs: Vec<OutputStatistics>,
}

/// How an output stands.
#[derive(Clone, Debug)]
pub struct OutputStatistics {
    /// Its name.
    pub name: String,
    /// Bytes it has written.
    pub written: u64,
    /// Records that wait for it.
    pub waiting: u64,
    /// How long ago the first of them was seen; of a flood, the first of those that are being written.
    pub lag: Duration,
    /// Records that it missed.
    pub missed: u64,
    /// How often it began to miss some.
    pub gaps: u64,
}

/// Where notices go. Called from any thread.
#[derive(Clone)]
pub struct Notify(Arc<dyn Fn(Notice) + Send + Sync>);

impl Notify {
    /// Hands every notice to `say`.
    pub fn new(say: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(say))
    }

    /// Says it.
    pub fn say(&self, notice: Notice) {
        (self.0)(notice);
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notify")
    }
}

/// An I/O error in the kernel's words, in lower case and without its number.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    // `Permission denied` becomes `permission denied`; `I/O error` stays.
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_when_it_changes() {
        let mut cause = Cause::default();
        assert!(!cause.is_over());
        assert!(cause.is_news("refused") && !cause.is_news("refused"));
        assert!(cause.is_news("timed out") && cause.is_news("refused"));
        assert!(cause.is_over() && !cause.is_over());
        assert!(cause.is_news("refused"));
    }

    #[test]
    fn a_trouble_that_lasts_is_said_every_few_seconds() {
        let mut patience = Patience::default();
        assert!(!patience.is_over());
        assert!(patience.is_to_be_said(10));
        assert!(!patience.is_to_be_said(10 + NOTICE_INTERVAL_US - 1));
        assert!(patience.is_to_be_said(10 + NOTICE_INTERVAL_US));
        assert!(patience.is_over() && !patience.is_over());
        assert!(patience.is_to_be_said(11));
    }
}
