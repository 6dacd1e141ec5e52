//! Standard output as a place to write to.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::file::regular_file_id;

/// Standard output, unbuffered: the worker writes in pieces of its own.
#[derive(Debug)]
pub(super) struct StdoutPlace {
    file: File,
}

impl StdoutPlace {
    pub(super) fn open() -> io::Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self { file: fd.into() })
    }

    pub(super) fn file_id(&self) -> Option<(u64, u64)> {
        regular_file_id(&self.file).ok().flatten()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
