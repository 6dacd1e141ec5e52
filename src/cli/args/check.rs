//! What can be typed behind `wiretape check`.

use std::path::PathBuf;

/// `wiretape check`.
#[derive(Debug, clap::Args)]
#[command(before_help = CHECK_EXAMPLES, after_long_help = AFTER_CHECK)]
pub struct Check {
    /// Captures to check, in this order; - is standard input
    ///
    /// NDJSON as `wiretape listen -o FILE.ndjson` writes it, compressed (.zst, .gz) or not. Segments of
    /// a run are checked across files where they are given in their order.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Write every line that is a record to a new file; - is standard output
    ///
    /// Lines stay as they are, decompressed. What is torn or no record is left out. With - the verdicts
    /// go to standard error.
    #[arg(long, value_name = "OUT")]
    pub salvage: Option<PathBuf>,

    /// Print nothing; the exit status tells
    #[arg(short, long)]
    pub quiet: bool,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  wiretape check device.ndjson
  wiretape check device.2*.zst device.ndjson         a rotated capture
  wiretape check -q device.ndjson && rm device.bak   the exit status tells
  wiretape check torn.ndjson --salvage good.ndjson   keep what is good";

const AFTER_CHECK: &str = "\
Checked are: that each line is a record, the numbers of the records, their times, the bytes of each \
connection by offset, total and CRC-32, that each connection is opened and closed, and that each segment \
has its start and its end.

Exit status: 0 every capture is whole; 1 one cannot be read or is no capture; 2 usage; 3 one is not whole.";
