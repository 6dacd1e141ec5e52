//! What can be typed. Values that clap can check by themselves are checked here, by their types;
//! what depends on several of them is checked in `plan`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};

use crate::engine::address::Address;
use crate::output::options::SyncPolicy;

/// Capture what arrives on a TCP port: every byte, with its time, connection and peer.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, disable_help_subcommand = true)]
#[command(before_help = EXAMPLES, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  wiretape listen 1234                      watch what clients send
  wiretape listen 1234 -o device.ndjson     keep it, as a capture
  wiretape listen 1234 --json | jq .        look into it
  wiretape listen 1234 --raw > device.log   bytes only";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accept connections and capture what they send
    Listen(Listen),
}

/// `wiretape listen`.
#[derive(Debug, clap::Args)]
#[command(before_help = LISTEN_EXAMPLES, after_long_help = AFTER_LISTEN)]
pub struct Listen {
    /// Where to listen: PORT, HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// A port alone is every interface, IPv4 and IPv6. Port 0 lets the kernel choose; the line
    /// `wiretape: listening on …` on standard error tells which.
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,

    /// Write to PATH as FORMAT: text, hex, json or raw; may be given several times
    ///
    /// `-` is standard output. Without FORMAT the extension tells: .ndjson, .jsonl and .json are
    /// json, .txt and .log are text, all else is raw; standard output is text. With .zst or .gz
    /// behind that it is compressed. An existing file is appended to. {conn}, {peer_ip},
    /// {peer_port}, {local_port}, {date} and {run} in PATH make a file for each of their values.
    /// Without any output there is text on standard output.
    #[arg(short, long = "output", value_name = "[FORMAT:]PATH")]
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

    /// What a record is: what one read returned, or one line
    #[arg(long, value_enum, default_value_t = Frame::Chunk, value_name = "FRAME")]
    pub frame: Frame,

    /// Longest line of --frame line, its newline included; a longer one is cut and marked partial
    #[arg(long, value_parser = size, default_value = "64KiB", value_name = "SIZE")]
    pub frame_max: ByteSize,

    /// Memory between sockets and outputs; when it is full, the senders wait
    #[arg(long, value_parser = size, default_value = "64MiB", value_name = "SIZE")]
    pub buffer: ByteSize,

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

    /// Run CMD in a shell for every closed file, its path as the last argument
    #[arg(long, value_name = "CMD", help_heading = FILES)]
    pub on_rotate: Option<String>,

    /// When to force what was written to the disk: seal, a DURATION, or always
    ///
    /// `seal` is when a file is closed: at a rotation, a reopening, the end. With a DURATION, also at
    /// most that long after it was written; with `always`, after every write.
    #[arg(long, value_parser = sync, default_value = "seal", value_name = "WHEN", help_heading = FILES)]
    pub sync: SyncPolicy,

    /// What an output does that cannot keep up [default: block]
    ///
    /// `block`: it is waited for; when the buffer is full, the senders wait. `drop`: it misses
    /// records, which are counted and said to be missing; the exit status is 3. Without this option a
    /// terminal beside other outputs drops.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_stall: Option<Stall>,

    /// Connections open at once; more wait to be accepted [default: what the open-file limit allows]
    ///
    /// More than the open-file limit allows are never open: some descriptors are kept for outputs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_conns: Option<u32>,

    /// Close a connection that sends nothing for this long
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub idle_timeout: Option<Duration>,

    /// Close a connection that is older than this
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub max_age: Option<Duration>,

    /// How long to read and write what is left when told to stop
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub drain: Duration,

    /// Colour connections in text and hex on standard output
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,

    /// Say nothing on standard error but where it listens and what goes wrong
    #[arg(short, long)]
    pub quiet: bool,
}

const LISTEN_EXAMPLES: &str = "\
Examples:
  wiretape listen 1234                         watch what clients send, safely escaped
  wiretape listen 1234 -o device.ndjson -o -   keep it and watch it
  wiretape listen 1234 -o dev.ndjson --rotate 100MiB --keep 10 --compress zstd
  wiretape listen 1234 -o 'logs/{peer_ip}-{conn}.bin'   a file a connection
  wiretape listen 1234 --json | jq -ac --unbuffered 'select(.type==\"data\") | [.peer, .text]'
  wiretape listen 127.0.0.1:1234 '[::1]:1234'  two addresses";

// One line a paragraph: clap breaks them where the terminal does.
const AFTER_LISTEN: &str = "\
Sizes are written 4096, 64KiB or 1MB; durations 500ms, 5s or 1h 30m.

Signals: INT and TERM stop accepting, read what the peers have delivered, write it and exit; a \
second one exits at once. HUP opens the output files anew. USR1 prints statistics.

Exit status: 0 done; 1 failure; 2 usage; 3 ended, but something is missing and was named.";

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

/// A number of bytes, as bytesize reads it.
fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse()
        .map_err(|_| "a size is a number with a unit: B, KiB, MiB, GiB, KB, MB, GB")
}

/// `seal`, `always`, or a duration.
fn sync(text: &str) -> Result<SyncPolicy, String> {
    match text {
        "seal" => Ok(SyncPolicy::Seal),
        "always" => Ok(SyncPolicy::Always),
        _ => duration(text)
            .map(SyncPolicy::Every)
            .map_err(|error| format!("neither `seal` nor `always` nor a duration: {error}")),
    }
}

/// A duration above zero, as humantime reads it.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}
