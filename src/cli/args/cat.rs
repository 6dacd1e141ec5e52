//! What can be typed behind `wiretape cat`.

use std::path::PathBuf;

use super::output::PlaceArgs;
use super::replay::DirArg;
use super::selection::{SELECTION, SelectionArgs};

/// `wiretape cat`.
#[derive(Debug, clap::Args)]
#[command(before_help = CAT_EXAMPLES, after_long_help = AFTER_CAT)]
pub struct Cat {
    /// Captures to print or convert, in this order; - is standard input
    ///
    /// NDJSON as `wiretape listen -o FILE.ndjson` writes it, compressed (.zst, .gz) or not, filtered
    /// by jq or not. Torn lines are left out and said; the exit status is then 3.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Wait for more of the last FILE as it is written, from one file to the next as it is rotated
    ///
    /// It may be still to come. Its closed files are read as long as they are there. INT and TERM end it.
    #[arg(short, long)]
    pub follow: bool,

    // No documentation: clap would take it for the command's.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub places: PlaceArgs,

    // As above.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// Only bytes that came in from the peer, or that went out to it [default: both; raw: in]
    #[arg(long, value_enum, value_name = "DIR", help_heading = SELECTION)]
    pub dir: Option<DirArg>,
}

const CAT_EXAMPLES: &str = "\
Examples:
  wiretape cat device.ndjson                           what was captured, as listen shows it
  wiretape cat device.2*.zst device.ndjson --raw       the bytes of a rotated capture
  wiretape cat -f device.ndjson --peer '10.0.0.9:*'    follow one device while it is captured
  wiretape cat db.ndjson -o '{conn}.in' --dir in       each connection's bytes, a file each
  wiretape cat device.ndjson --conn 3 -o three.ndjson  one connection, as a capture";

const AFTER_CAT: &str = "\
Exit status: 0 done; 1 a capture cannot be read, or an output not be opened; 2 usage; 3 something is \
missing: a torn line, a gap, or what could not be written.";
