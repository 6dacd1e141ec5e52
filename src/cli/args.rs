//! What can be typed. Values that clap can check by themselves are checked here, by their types;
//! what depends on several of them is checked in `plan`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::engine::address::{Address, network};
use crate::engine::keepalive::Keepalive;
use crate::output::options::SyncPolicy;
use crate::record::WallTime;
use crate::replay::Speed;

use super::values::{any_duration, conns, duration, interval, keepalive, size, sync, time};

/// Capture what arrives on a TCP port, every byte, with its time, connection and peer; and send it
/// again.
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
  wiretape listen 1234 --raw > device.log   bytes only
  wiretape connect 10.0.0.7:4001            watch a device that listens
  wiretape proxy 8080 db:5432 -o db.ndjson  keep a conversation, both directions
  wiretape replay device.ndjson host:9000   send it again, as it came";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accept connections and capture what they send
    Listen(Listen),
    /// Connect to devices that listen, capture what they send, and connect again when they are lost
    Connect(Connect),
    /// Sit between clients and a server, and capture what passes, both ways
    Proxy(Proxy),
    /// Send captured sessions again, to another server
    Replay(Replay),
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

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub output: OutputArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub accepting: AcceptArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub limits: LimitArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub run: RunArgs,
}

/// How connections are accepted.
#[derive(Debug, clap::Args)]
pub struct AcceptArgs {
    /// Connections open at once; more wait to be accepted [default: what the open-file limit allows]
    ///
    /// More than the open-file limit allows are never open: some descriptors are kept for outputs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = CONNECTIONS)]
    pub max_conns: Option<u32>,

    /// Connections of one IP address open at once; more are refused
    ///
    /// Who is refused is reset before anything is read. Peers of a Unix socket have no address.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = CONNECTIONS)]
    pub max_conns_per_ip: Option<u32>,

    /// Accept only peers of these networks; several by commas, or by giving it again
    ///
    /// 10.0.0.0/8, 2001:db8::/32, or one address. An IPv4 peer is matched as IPv4, also where it has
    /// connected to an IPv6 socket. All others are refused: reset before anything is read.
    #[arg(long, value_parser = network, value_delimiter = ',', value_name = "CIDR", help_heading = CONNECTIONS)]
    pub allow: Vec<IpNet>,

    /// Refuse peers of these networks, whatever --allow says
    #[arg(long, value_parser = network, value_delimiter = ',', value_name = "CIDR", help_heading = CONNECTIONS)]
    pub deny: Vec<IpNet>,
}

/// How long a run lasts, and how often it is told how things stand.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Open N connections and no more, and end when all are closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub exit_after: Option<u64>,

    /// End after this long, as if told to stop
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub run_for: Option<Duration>,

    /// Say how things stand on standard error, this often; on a terminal in one line that changes
    ///
    /// Connections, bytes and records a second since the last time, how full the buffer is, and how far
    /// each output has come. USR1 asks for the same once.
    #[arg(long, value_parser = interval, value_name = "DURATION")]
    pub stats: Option<Duration>,
}

/// How connections are made.
#[derive(Debug, clap::Args)]
pub struct DialArgs {
    /// How long to look a name up and try its addresses before that has failed
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "DURATION", help_heading = CONNECTIONS)]
    pub connect_timeout: Duration,
}

/// When a connection is closed.
#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    /// Close a connection on which nothing arrives for this long
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = CONNECTIONS)]
    pub idle_timeout: Option<Duration>,

    /// Close a connection that is older than this
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = CONNECTIONS)]
    pub max_age: Option<Duration>,

    /// Ask a peer that is silent for this long whether it is still there (TCP keepalive); 0 never does
    ///
    /// It is asked four times, a quarter of that time apart, but a second at least. One that does not
    /// answer is gone then.
    #[arg(long, value_parser = keepalive, default_value = "60s", value_name = "DURATION", help_heading = CONNECTIONS)]
    pub keepalive: Keepalive,
}

const CONNECTIONS: &str = "Connections";

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

/// `wiretape connect`.
#[derive(Debug, clap::Args)]
#[command(before_help = CONNECT_EXAMPLES, after_long_help = AFTER_CONNECT)]
pub struct Connect {
    /// Devices to connect to: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, and it is looked up anew each time. A port alone is
    /// one of this machine.
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,

    /// Send the bytes of FILE once connected; - is standard input
    ///
    /// It is read once, before anything is connected to. What was sent is recorded, with "dir":"out".
    #[arg(long, value_name = "FILE")]
    pub send: Option<PathBuf>,

    /// Send them again at this interval, as long as the connection lasts
    #[arg(long, value_parser = interval, value_name = "DURATION", requires = "send")]
    pub send_every: Option<Duration>,

    /// First delay before connecting again; it doubles up to 30s while nothing comes
    #[arg(long, value_parser = interval, default_value = "1s", value_name = "DURATION")]
    pub reconnect: Duration,

    /// Connect to each address once, and end when all are closed
    #[arg(long, conflicts_with = "reconnect")]
    pub no_reconnect: bool,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub output: OutputArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub dial: DialArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub limits: LimitArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub run: RunArgs,
}

const CONNECT_EXAMPLES: &str = "\
Examples:
  wiretape connect 10.0.0.7:4001                      watch what a device sends
  wiretape connect 10.0.0.7:4001 -o plc.ndjson        keep it; connects again when it is lost
  wiretape connect gps:2947 --send poll.txt --send-every 1s -o gps.ndjson
  wiretape connect a:4001 b:4001 -o '{peer_ip}.log'   two devices, a file each
  wiretape connect host:7 --no-reconnect --raw        once, the bytes only";

const AFTER_CONNECT: &str = "\
Every connection that is made has a number of its own. Why a device does not answer is said when that \
changes, not every time it is tried.

Sizes are written 4096, 64KiB or 1MB; durations 500ms, 5s or 1h 30m.

Signals: INT and TERM read what the devices have delivered, write it and exit; a second one exits at \
once. HUP opens the output files anew. USR1 prints statistics.

Exit status: 0 done; 1 failure, such as nobody to connect to with --no-reconnect; 2 usage; 3 ended, but \
something is missing and was named.";

/// `wiretape proxy`.
#[derive(Debug, clap::Args)]
#[command(before_help = PROXY_EXAMPLES, after_long_help = AFTER_PROXY)]
pub struct Proxy {
    /// Where clients connect: PORT, HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// A port alone is every interface, IPv4 and IPv6. Port 0 lets the kernel choose; the line
    /// `wiretape: listening on …` on standard error tells which.
    #[arg(required = true, value_name = "ADDR")]
    pub address: Address,

    /// The server that is connected to for each of them: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, and it is looked up anew for each client. A port
    /// alone is one of this machine.
    #[arg(required = true, value_name = "TARGET")]
    pub target: Address,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub output: OutputArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub accepting: AcceptArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub dial: DialArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub limits: LimitArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub run: RunArgs,
}

const PROXY_EXAMPLES: &str = "\
Examples:
  wiretape proxy 8080 db.internal:5432                  watch a conversation
  wiretape proxy 8080 db.internal:5432 -o db.ndjson     keep it, both directions
  wiretape replay db.ndjson staging:5432 --pace reply   have it again, with another server
  wiretape proxy 127.0.0.1:0 unix:/run/app.sock --hex   look into it";

const AFTER_PROXY: &str = "\
The client is the peer: \"dir\":\"in\" is what it sends, \"dir\":\"out\" what the server answers. Ends and \
resets are passed on as what they are. Where the server does not answer, the client is reset.

The conversation comes first: when the buffer is full, an output that has stood still for a second misses \
records, which are counted and said to be missing; one that is only slow is waited for. With --on-stall \
block the conversation waits whenever the buffer is full; with --on-stall drop it never waits.

Sizes are written 4096, 64KiB or 1MB; durations 500ms, 5s or 1h 30m.

Signals: INT and TERM stop accepting, pass on and write what has been delivered and exit; a second one \
exits at once. HUP opens the output files anew. USR1 prints statistics.

Exit status: 0 done; 1 failure; 2 usage; 3 ended, but something is missing and was named.";

/// `wiretape replay`.
#[derive(Debug, clap::Args)]
#[command(before_help = REPLAY_EXAMPLES, after_long_help = AFTER_REPLAY)]
pub struct Replay {
    /// Captures to send, in this order; - is standard input
    ///
    /// NDJSON as `wiretape listen -o FILE.ndjson` writes it, compressed (.zst, .gz) or not, filtered
    /// by jq or not. Torn lines are left out and said; the exit status is then 3.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Where to send it: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, one after another. A port alone is one of this machine.
    #[arg(required = true, value_name = "TARGET")]
    pub target: Address,

    /// How fast: a factor, or max for as fast as the target takes it
    #[arg(long, default_value = "1", value_name = "FACTOR")]
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

    /// Only these connections, of any run: 3, 3,5 or 10-20
    #[arg(long, value_parser = conns, value_delimiter = ',', value_name = "ID", help_heading = SELECTION)]
    pub conn: Vec<RangeInclusive<u64>>,

    /// Only these peers, as records show them; * and ? stand for any characters and for one
    #[arg(long, value_name = "GLOB", help_heading = SELECTION)]
    pub peer: Vec<String>,

    /// Only records of this time or later, such as 2026-11-22T12:02:59Z
    #[arg(long, value_parser = time, value_name = "TIME", help_heading = SELECTION)]
    pub since: Option<WallTime>,

    /// Only records before this time
    #[arg(long, value_parser = time, value_name = "TIME", help_heading = SELECTION)]
    pub until: Option<WallTime>,

    /// Send what came in from the peer, or what went out to it
    #[arg(long, value_enum, default_value_t = DirArg::In, value_name = "DIR", help_heading = SELECTION)]
    pub dir: DirArg,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub output: OutputArgs,
}

const SELECTION: &str = "Selection";

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

/// Where records go, and how the outputs behave: the same for every subcommand that captures.
#[derive(Debug, clap::Args)]
pub struct OutputArgs {
    /// Write to PATH as FORMAT: text, hex, json or raw; may be given several times
    ///
    /// `-` is standard output. Without FORMAT the extension tells: .ndjson, .jsonl and .json are
    /// json, .txt and .log are text, all else is raw; standard output is text. With .zst or .gz
    /// behind that it is compressed. An existing file is appended to. {conn}, {peer_ip},
    /// {peer_port}, {local_port}, {date} and {run} in PATH make a file for each of their values.
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

    /// Memory between sockets and outputs; when it is full, the senders wait (but see --on-stall)
    ///
    /// In a replay it is for what is read ahead; with an output, half is for what comes back.
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

    /// Colour connections in text and hex on standard output
    #[arg(long, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,

    /// Say nothing on standard error but where it listens and what goes wrong; no summary
    #[arg(short, long)]
    pub quiet: bool,
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
