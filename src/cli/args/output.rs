//! Flags of the subcommands that write records: where they go, and what becomes of the files.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::time::Duration;

use bytesize::ByteSize;
use clap::{ValueEnum, ValueHint};

use crate::cli::values::{duration, size, sync};
use crate::output::options::SyncPolicy;

/// Where records go, and how the outputs behave: the same for every subcommand that captures.
#[derive(Debug, clap::Args)]
pub struct OutputArgs {
    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub places: PlaceArgs,

    /// What a record is: what one read returned, or one line
    #[arg(long, value_enum, default_value_t = Frame::Chunk, value_name = "FRAME")]
    pub frame: Frame,

    /// Longest line of --frame line, its newline included; a longer one is cut and marked partial
    #[arg(long, value_parser = size, default_value = "64KiB", value_name = "SIZE")]
    pub frame_max: ByteSize,

    /// Memory between sockets and outputs; when it is full, the senders wait (but see --on-stall)
    ///
    /// In a replay it is for what is read ahead; with an output, half is for what comes back.
    #[arg(long, value_parser = size, default_value = "64MiB", value_name = "SIZE")]
    pub buffer: ByteSize,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub files: FileArgs,

    /// What an output does that cannot keep up [default: block, but in proxy as told there]
    ///
    /// `block`: it is waited for; when the buffer is full, the senders wait. `drop`: it misses
    /// records, which are counted and said to be missing; the exit status is 3. Without this option a
    /// terminal beside other outputs drops, and in `proxy` an output that stands still for a second.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_stall: Option<Stall>,

    /// How long to read and write what is left when told to stop
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub drain: Duration,

    /// Say nothing on standard error but where it listens and what goes wrong; no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// Where records go, and what they look like there.
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// Write to PATH as FORMAT: text, hex, json or raw; may be given several times
    ///
    /// `-` is standard output. Without FORMAT the extension tells: .ndjson, .jsonl and .json are
    /// json, .txt and .log are text, all else is raw; standard output is text. With .zst or .gz
    /// behind that it is compressed. An existing file is appended to. {conn}, {peer_ip},
    /// {peer_port}, {local_port}, {date} and {run} in PATH make a file for each of their values.
    #[arg(short, long = "output", value_name = "[FORMAT:]PATH", value_hint = ValueHint::FilePath)]
    pub outputs: Vec<String>,

    /// NDJSON to standard output, the same as -o json:-
    #[arg(long)]
    pub json: bool,

    /// Only the bytes to standard output, the same as -o raw:-
    #[arg(long)]
    pub raw: bool,

    /// A hex dump to standard output, the same as -o hex:-
    #[arg(long)]
    pub hex: bool,

    /// Write raw bytes even to a terminal, which they may steer
    #[arg(long)]
    pub force: bool,

    /// Colour connections in text and hex on standard output
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
}

/// What becomes of the files that are written.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// Begin a new file before one grows beyond SIZE; the old one gets a name of its own
    ///
    /// device.ndjson becomes device.20261122T120259Z.000001.ndjson: when it began, and a number. No
    /// record is cut in two, none is lost or written twice.
    #[arg(long, value_parser = size, value_name = "SIZE", help_heading = FILES)]
    pub rotate: Option<ByteSize>,

    /// Begin a new file this long after the first record in the old one
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = FILES)]
    pub rotate_every: Option<Duration>,

    /// Keep the newest N closed files of each output and delete the others
    #[arg(long, value_name = "N", help_heading = FILES)]
    pub keep: Option<u64>,

    /// Keep the newest closed files of each output that together hold no more than SIZE
    #[arg(long, value_parser = size, value_name = "SIZE", help_heading = FILES)]
    pub keep_bytes: Option<ByteSize>,

    /// Compress closed files
    #[arg(long, value_enum, value_name = "METHOD", help_heading = FILES)]
    pub compress: Option<Compress>,

    /// Run COMMAND in a shell for every closed file, its path as the last argument
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString, help_heading = FILES)]
    pub on_rotate: Option<String>,

    /// When to force what was written to the disk
    ///
    /// `seal` is when a file is closed: at a rotation, a reopening, the end. With a DURATION, also at
    /// most that long after it was written; with `always`, after every write.
    #[arg(long, value_parser = sync, default_value = "seal", value_name = "seal|DURATION|always", help_heading = FILES)]
    pub sync: SyncPolicy,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Frame {
    /// What one read returned
    Chunk,
    /// One line, with its newline
    Line,
}

const FILES: &str = "Output files";

/// What an output does that cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stall {
    /// It is waited for
    Block,
    /// It misses records
    Drop,
}

/// How closed files are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// To .zst
    Zstd,
    /// To .gz
    Gzip,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into a file or pipe
    Always,
    /// Never
    Never,
}
