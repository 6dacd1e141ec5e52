//! What can be typed behind `wiretape replay`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint};

use super::output::OutputArgs;
use super::selection::{SELECTION, SelectionArgs};
use crate::cli::values::{any_duration, duration};
use crate::engine::address::Address;
use crate::replay::Speed;

/// `wiretape replay`.
#[derive(Debug, clap::Args)]
#[command(before_help = REPLAY_EXAMPLES, after_long_help = AFTER_REPLAY)]
pub struct Replay {
    /// Captures to send, in this order; - is standard input
    ///
    /// NDJSON as `wiretape listen -o FILE.ndjson` writes it, compressed (.zst, .gz) or not, filtered
    /// by jq or not. Torn lines are left out and said; the exit status is then 3.
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,

    /// Where to send it: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, one after another. A port alone is one of this machine.
    #[arg(required = true, value_name = "TARGET", value_hint = ValueHint::Hostname)]
    pub target: Address,

    /// How fast: a factor, or max for as fast as the target takes it
    #[arg(long, default_value = "1", value_name = "FACTOR|max")]
    pub speed: Speed,

    /// Cut silences in the recording to this length; 0 leaves none
    ///
    /// It counts in recorded time: at --speed 10 a gap of 1s takes 100ms.
    #[arg(long, value_parser = any_duration, value_name = "DURATION")]
    pub max_gap: Option<Duration>,

    /// What a send waits for: its time, or also the replies that had come before it
    ///
    /// `reply` needs a capture that holds both directions. Only the number of bytes counts: the replies
    /// may differ.
    #[arg(long, value_enum, default_value_t = PaceArg::Time, value_name = "PACE")]
    pub pace: PaceArg,

    /// Sessions at once at most; others wait for their turn [default: as recorded]
    ///
    /// What the waiting ones are to send is kept in memory (--buffer). Where that fills, they fail.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,

    /// Send everything N times, one time after the other; files only
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,

    /// How long a session waits for the target: to connect, to take bytes, to reply, to end
    ///
    /// If it does not connect, take bytes or reply, the session has failed. At its end it is closed, and
    /// counts as played; a target that goes on sending is heard ten times as long.
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub timeout: Duration,

    /// Print what would be sent and when on standard output, and connect to nobody
    #[arg(long)]
    pub dry_run: bool,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// Send what came in from the peer, or what went out to it
    #[arg(long, value_enum, default_value_t = DirArg::In, value_name = "DIR", help_heading = SELECTION)]
    pub dir: DirArg,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What sends wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PaceArg {
    /// Their time
    Time,
    /// Their time, and as many bytes of replies as had come before them in the recording
    Reply,
}

/// Whose bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DirArg {
    /// What the peer had sent
    In,
    /// What had been sent to the peer
    Out,
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  wiretape replay device.ndjson staging:9000             with the timing it had
  wiretape replay device.2*.zst device.ndjson host:9000  a rotated capture
  wiretape replay device.ndjson host:9000 --speed 10 --max-gap 1s
  wiretape replay samples/redis.ndjson localhost:6379 --pace reply -o answers.ndjson
  jq -c 'select(.conn==3)' device.ndjson | wiretape replay - host:9000
  wiretape replay device.ndjson host:9000 --dry-run      what would be sent, and when";

const AFTER_REPLAY: &str = "\
It ends when every session has ended and the target has closed or been silent for --timeout. \
Standard error then says how many sessions were played and how late sends were. With -o the answers \
are captured, in the same format; connection N is session N.

Sizes are written 4096, 64KiB or 1MB; durations 500ms, 5s or 1h 30m.

Signals: INT and TERM close every session where it stands. HUP opens the output files anew. USR1 prints \
how far it has come.

Exit status: 0 every session was played; 1 failure, such as a broken capture or nobody to connect \
to; 2 usage; 3 some session failed, it was told to stop, or the capture was torn or has gaps.";
