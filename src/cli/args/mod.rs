//! What can be typed: a file a subcommand, and one for each group of flags that several share. Values
//! that clap can check by themselves are checked here, by their types; what depends on several of them
//! is checked in `plan`.

mod cat;
mod check;
mod completions;
mod connect;
mod connections;
mod listen;
mod output;
mod proxy;
mod replay;
mod selection;
mod sessions;

use clap::{Parser, Subcommand};

pub use cat::Cat;
pub use check::Check;
pub use completions::Completions;
pub use connect::Connect;
pub use connections::{AcceptArgs, DialArgs, LimitArgs, RunArgs};
pub use listen::Listen;
pub use output::{Compress, FileArgs, Frame, OutputArgs, PlaceArgs, Stall, When};
pub use proxy::Proxy;
pub use replay::{DirArg, PaceArg, Replay};
pub use selection::SelectionArgs;
pub use sessions::Sessions;

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
  wiretape replay device.ndjson host:9000   send it again, as it came
  wiretape cat device.ndjson                print what was captured
  wiretape sessions device.ndjson           who connected, when, how much
  wiretape check device.ndjson              whether it is whole";

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
    /// Print captures, or convert them: to text, hex, bytes, a file a connection
    Cat(Cat),
    /// List the sessions of captures: who, when, how long, how much
    Sessions(Sessions),
    /// Check that captures are whole
    Check(Check),
    /// Print what a shell needs to complete command lines of this program
    Completions(Completions),
}
