//! Clap's tree, written down for a shell that is to complete command lines.

use std::io::{self, ErrorKind, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Args;
use crate::engine::Error;

/// Prints the script for `shell` on standard output; nobody need read it.
///
/// # Errors
/// A standard output that cannot be written to.
pub(super) fn print(shell: Shell) -> Result<(), Error> {
    // In memory first: a write that fails within the generator is a panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "wiretape", &mut script);
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&script).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::System("write to standard output", error))
        }
        _ => Ok(()),
    }
}
