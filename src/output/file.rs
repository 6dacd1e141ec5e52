//! A file as a place to write to: appended, never truncated, opened anew on demand.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Captures hold what people sent, secrets among it: the owner alone may read them (less umask).
const MODE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct FilePlace {
    path: PathBuf,
    file: File,
    /// It was created by opening it, and nothing has been written to it.
    is_unused: bool,
}

impl Drop for FilePlace {
    /// A run that does not begin leaves no file behind.
    fn drop(&mut self) {
        if self.is_unused {
            // What cannot be removed is empty, and the error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl FilePlace {
    /// Opens it, or creates it where there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Rust's standard library sets O_CLOEXEC.
        let mut options = OpenOptions::new();
        options.append(true).mode(MODE);
        let (file, is_unused) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            // There is one, or a link that leads to where there is none yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.create(true).open(path)?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            is_unused,
        })
    }

    /// It is to be written to: from now on it stays, even if nothing is.
    pub(super) fn keep(&mut self) {
        self.is_unused = false;
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Device and inode, where it is a regular file.
    pub(super) fn file_id(&self) -> Option<(u64, u64)> {
        regular_file_id(&self.file).ok().flatten()
    }

    /// Opens the path anew. `None` where it still is the same file, or no regular file: a pipe or a
    /// device has nothing to be moved away from.
    pub(super) fn open_again(&self) -> io::Result<Option<Self>> {
        if self.file_id().is_none() {
            return Ok(None);
        }
        // What took its place may be a pipe, whose opening would wait for a reader.
        if fs::metadata(&self.path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("no regular file any more"));
        }
        let mut new = Self::open(&self.path)?;
        new.keep();
        Ok(Some(new).filter(|new| new.file_id() != self.file_id()))
    }

    /// Whether no name leads to it any more.
    pub(super) fn is_deleted(&self) -> bool {
        (self.file.metadata()).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 0)
    }

    /// Forces what was written to the disk, where there is one.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.file_id().is_some() {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// Whether `file` ends in the middle of a line, as a crash leaves it. What is no regular file, or
/// cannot be read, is taken to end well.
pub(super) fn ends_torn(file: &File) -> bool {
    let last_byte = || {
        // It is open for writing only. This path leads to it whatever it was opened by.
        let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let metadata = file.metadata()?;
        let mut last = [b'\n'];
        if metadata.is_file() && metadata.len() > 0 {
            file.read_exact_at(&mut last, metadata.len() - 1)?;
        }
        io::Result::Ok(last[0])
    };
    // A pipe must not be opened: a second reader would take what is meant for the first.
    let is_file = regular_file_id(file).is_ok_and(|id| id.is_some());
    is_file && last_byte().is_ok_and(|byte| byte != b'\n')
}

pub(super) fn regular_file_id(file: &File) -> io::Result<Option<(u64, u64)>> {
    let metadata = file.metadata()?;
    Ok((metadata.is_file()).then(|| (metadata.dev(), metadata.ino())))
}
