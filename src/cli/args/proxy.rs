//! What can be typed behind `wiretape proxy`.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use clap::ValueHint;

use super::connections::{AcceptArgs, DialArgs, LimitArgs, RunArgs};
use super::output::OutputArgs;
use crate::engine::address::Address;

/// `wiretape proxy`.
#[derive(Debug, clap::Args)]
#[command(before_help = PROXY_EXAMPLES, after_long_help = AFTER_PROXY)]
pub struct Proxy {
    /// Where clients connect: PORT, HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// A port alone is every interface, IPv4 and IPv6. Port 0 lets the kernel choose; the line
    /// `wiretape: listening on …` on standard error tells which. `systemd` takes the sockets that a .socket
    /// unit hands over, `systemd:NAME` those of this name.
    #[arg(required = true, value_name = "ADDR", value_hint = ValueHint::Hostname)]
    pub address: Address,

    /// The server that is connected to for each of them: HOST:PORT, [IPV6]:PORT or unix:PATH
    ///
    /// All addresses that HOST stands for are tried, and it is looked up anew for each client. A port
    /// alone is one of this machine.
    #[arg(required = true, value_name = "TARGET", value_hint = ValueHint::Hostname)]
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
