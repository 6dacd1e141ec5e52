//! What a device is to be sent: read once, before anybody is connected to.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::notice::describe;

/// The longest message: it is kept in memory.
const LONGEST: usize = 16 * 1024 * 1024;

/// Why there is nothing to send.
#[derive(Debug)]
pub(super) struct MessageError {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, error) = (self.path.display(), describe(&self.error));
        write!(f, "cannot read {path} (--send): {error}")
    }
}

/// Reads the file at `path`, or standard input, which is `-`.
pub(super) fn read(path: &Path) -> Result<Arc<[u8]>, MessageError> {
    let read = || {
        let mut bytes = Vec::new();
        let most = LONGEST as u64 + 1;
        if path == Path::new("-") {
            io::stdin().lock().take(most).read_to_end(&mut bytes)?;
        } else {
            File::open(path)?.take(most).read_to_end(&mut bytes)?;
        }
        match bytes.len() {
            0 => Err(io::Error::other("it is empty: there is nothing to send")),
            len if len > LONGEST => Err(io::Error::other("it is longer than 16 MiB")),
            _ => Ok(bytes.into()),
        }
    };
    read().map_err(|error| MessageError {
        path: path.to_owned(),
        error,
    })
}
