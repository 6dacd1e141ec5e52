//! What is meant by the captures that are named, and by the flags that select of them: the same for every
//! subcommand that reads captures.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use wildmatch::WildMatch;

use super::args::SelectionArgs;
use super::plan::{UsageError, usage};
use crate::input::Source;
use crate::record::selection::Selection;

/// Where the captures are read from, in their order.
pub(super) fn sources(files: &[PathBuf]) -> Result<Vec<Source>, UsageError> {
    let sources: Vec<Source> = files.iter().map(|path| source(path)).collect();
    let stdin = sources.iter().filter(|at| **at == Source::Stdin).count();
    match stdin {
        0 | 1 => Ok(sources),
        _ => usage("- is given twice: standard input can be read once"),
    }
}

/// What is selected of them.
pub(super) fn selection(args: &SelectionArgs) -> Result<Selection, UsageError> {
    if let (Some(since), Some(until)) = (args.since, args.until) {
        if since >= until {
            return usage("--since is not before --until: nothing would be selected");
        }
    }
    Ok(Selection {
        conns: args.conn.clone(),
        peers: args.peer.iter().map(|glob| WildMatch::new(glob)).collect(),
        since: args.since,
        until: args.until,
    })
}

/// Whether a source is the file at `path`, by whatever name. One that cannot be looked at is none.
pub(super) fn is_same_file(source: &Source, path: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    match source {
        Source::Stdin => false,
        Source::File(source) => identity(source).is_some_and(|at| identity(path) == Some(at)),
    }
}

/// Whether standard output goes into a source, which would then never end.
pub(super) fn is_stdout(source: &Source) -> bool {
    let Source::File(path) = source else {
        return false;
    };
    match (fstat(io::stdout()), fs::metadata(path)) {
        (Ok(stdout), Ok(found)) => {
            found.is_file() && (stdout.st_dev, stdout.st_ino) == (found.dev(), found.ino())
        }
        _ => false,
    }
}

fn source(path: &Path) -> Source {
    match path.to_str() {
        Some("-") => Source::Stdin,
        _ => Source::File(path.to_owned()),
    }
}
