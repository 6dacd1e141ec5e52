//! The segments that an output has closed, as somebody finds them who reads what it writes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::housekeeping::find_segments;
use super::options::Compression;
use super::segment::{SegmentNames, SegmentOrder};

/// The closed segments of one output.
#[derive(Clone, Debug)]
pub struct ClosedSegments(SegmentNames);

impl ClosedSegments {
    /// Those of the file at `path`.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let compression = Compression::of_extension(&extension);
        Self(SegmentNames::new(path, compression))
    }

    /// The paths that a file may have in its life: plain, and compressed. Whoever tries them in this order
    /// finds it, as long as it is there.
    pub fn forms(path: &Path) -> impl Iterator<Item = PathBuf> {
        SegmentNames::forms(path)
    }

    /// Whether a file of this name is one.
    pub fn have(&self, name: &OsStr) -> bool {
        self.0.parse(name).is_some()
    }

    /// All that are there, in the order in which they began, by the paths that they had when they were closed:
    /// they may be compressed by now, or at any time.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<(SegmentOrder, PathBuf)>> {
        let mut found = BTreeMap::new();
        // Twice: one look can miss the name that goes as well as the one that comes.
        for _ in 0..2 {
            for (name, path) in find_segments(&self.0)? {
                if !name.is_unfinished {
                    let plain = match name.compression {
                        Some(_) => path.with_extension(""),
                        None => path,
                    };
                    found.insert(name.order, plain);
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}
