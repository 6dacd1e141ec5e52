//! What can be typed behind `wiretape connect`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;

use super::connections::{DialArgs, LimitArgs, RunArgs};
use super::output::OutputArgs;
use crate::cli::values::interval;
use crate::engine::address::Address;

/// `wiretape connect`.
#[derive(Debug, clap::Args)]
#[command(before_help = CONNECT_EXAMPLES, after_long_help = AFTER_CONNECT)]
pub struct Connect {
    /// Devices to connect to: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, and it is looked up anew each time. A port alone is
    /// one of this machine.
    #[arg(required = true, value_name = "ADDR", value_hint = ValueHint::Hostname)]
    pub addresses: Vec<Address>,

    /// Send the bytes of FILE once connected; - is standard input
    ///
    /// It is read once, before anything is connected to. What was sent is recorded, with "dir":"out".
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
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
