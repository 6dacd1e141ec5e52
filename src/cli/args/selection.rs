//! Which records of a capture are meant: the same flags for every subcommand that reads captures.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ops::RangeInclusive;

use crate::cli::values::{conns, time};
use crate::record::WallTime;

/// Which records are meant.
#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
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
}

pub(super) const SELECTION: &str = "Selection";
