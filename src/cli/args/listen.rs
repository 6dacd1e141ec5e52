//! What can be typed behind `wiretape listen`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::ValueHint;

use super::connections::{AcceptArgs, LimitArgs, RunArgs};
use super::output::OutputArgs;
use crate::engine::address::Address;

/// `wiretape listen`.
#[derive(Debug, clap::Args)]
#[command(before_help = LISTEN_EXAMPLES, after_long_help = AFTER_LISTEN)]
pub struct Listen {
    /// Where to listen: PORT, HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// A port alone is every interface, IPv4 and IPv6. Port 0 lets the kernel choose; the line
    /// `wiretape: listening on …` on standard error tells which. `systemd` takes the sockets that a .socket
    /// unit hands over, `systemd:NAME` those of this name.
    #[arg(required = true, value_name = "ADDR", value_hint = ValueHint::Hostname)]
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
