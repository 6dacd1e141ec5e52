//! What can be typed behind `wiretape sessions`.

use std::path::PathBuf;

use super::selection::SelectionArgs;

/// `wiretape sessions`.
#[derive(Debug, clap::Args)]
#[command(before_help = SESSIONS_EXAMPLES, after_long_help = AFTER_SESSIONS)]
pub struct Sessions {
    /// Captures to look into, in this order; - is standard input
    ///
    /// NDJSON as `wiretape listen -o FILE.ndjson` writes it, compressed (.zst, .gz) or not, filtered
    /// by jq or not.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Print JSON: an object a session, and one with the totals
    #[arg(long)]
    pub json: bool,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub selection: SelectionArgs,
}

const SESSIONS_EXAMPLES: &str = "\
Examples:
  wiretape sessions device.ndjson                   who connected, when, how much
  wiretape sessions device.2*.zst device.ndjson     a rotated capture
  wiretape sessions device.ndjson --peer '10.0.0.9:*' --since 2026-11-22T12:00:00Z
  wiretape sessions device.ndjson --json | jq -r 'select(.state==\"missing\") | .peer'";

const AFTER_SESSIONS: &str = "\
A session is printed when it has ended; those that are open at the end come last. With --since and \
--until only the records between count.

Exit status: 0 done; 1 a capture cannot be read; 2 usage; 3 something is missing: a torn line, a gap, \
bytes of a session.";
