//! Where records end up: files, standard output, and a thread for each of them.
//!
//! The loop hands every output the same sealed batches ([`Output::send`]) and never waits for one;
//! encoding, writing and syncing happen on the output's own thread, or as an [`Errand`] that the loop does not
//! wait for either. An output knows no sockets.
//! What it is asked to do arrives in order through one queue, so a reopening or the end stands
//! exactly between the records it stood between when it was asked for.
//!
//! | file | owns |
//! | --- | --- |
//! | `options` `segment` `template` | what is wanted; what files are called. Pure |
//! | `open` | all outputs or none; the start of their threads |
//! | `queue` | from the loop to the thread; what is missed instead |
//! | `worker` `outlet` | the thread; what all files of an output share |
//! | `target` | what is written to: one of `pipe`, `live`, `many` |
//! | `writer` | an output without a thread: what captures are converted to |
//! | `closed` | what an output has closed, for whoever reads it |
//! | `sink` | bytes that are not all written yet, and where records end in them |
//! | `pipe` `live` `many` | a pipe; a file and its rotation; a file a connection |
//! | `housekeeping` `compress` | what is done with closed files, on a thread of its own |
//! | `disk` | the file system |

mod closed;
mod compress;
mod disk;
mod housekeeping;
mod live;
mod many;
mod open;
pub mod options;
mod outlet;
mod pipe;
pub mod queue;
mod segment;
#[cfg(test)]
mod sim;
mod sink;
mod target;
pub mod template;
mod worker;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::Format;
use crate::notice::{Notice, Notify, OutputStatistics, describe};
use crate::record::Timestamp;
use crate::record::batch::Batch;
pub use closed::ClosedSegments;
pub use disk::FILE_MODE;
pub use open::{OpenOutput, Surroundings, open_all};
use options::Compression;
use queue::{Job, Queue};
pub use segment::SegmentOrder;
use template::Template;
pub use worker::Errand;
use worker::Workbench;
pub use writer::Writer;

/// An output that is wanted: a format and a place, validated but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// What it looks like.
    pub format: Format,
    /// Where it goes.
    pub place: PlaceSpec,
    /// How it is compressed as it is written, if it is.
    pub compression: Option<Compression>,
    /// Whether it is coloured.
    pub color: Color,
    /// Whether raw bytes may go to a terminal.
    pub raw_to_terminal: RawToTerminal,
}

impl OutputSpec {
    /// Files that it has open at once, about.
    pub fn descriptors(&self) -> usize {
        match self.place {
            PlaceSpec::Stdout | PlaceSpec::File(_) => 1,
            PlaceSpec::Template(_) => many::MAX_OPEN,
        }
    }
}

/// Raw bytes from a peer can steer a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawToTerminal {
    /// So they are kept from it.
    Refused,
    /// Somebody knows what they do.
    Forced,
}

/// Whether connections are shown in colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// If the place is a terminal.
    OnTerminal,
    /// Wherever it goes.
    Always,
    /// Nowhere.
    Never,
}

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceSpec {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Many files, appended to.
    Template(Template),
}

impl fmt::Display for PlaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
            Self::Template(template) => template.fmt(f),
        }
    }
}

/// Why the outputs could not be opened. Nothing was created or changed.
#[derive(Debug)]
pub enum OpenError {
    /// This one could not be opened.
    Io(PathBuf, io::Error),
    /// These two are one file, by whatever names.
    Same(String, String),
    /// It is a terminal, and the format is raw.
    RawToTerminal(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => {
                write!(f, "cannot open {}: {}", path.display(), cause(path, error))
            }
            Self::Same(one, other) => write!(
                f,
                "outputs {one} and {other} are the same file: give each output a file of its own"
            ),
            Self::RawToTerminal(name) => write!(
                f,
                "{name} is a terminal, which raw bytes from a peer can steer: choose another format, or force it with --force"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// The kernel's words, and what would help.
fn cause(path: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
                format!(" (create the folder {} first)", folder.display())
            }
            _ => String::new(),
        },
        io::ErrorKind::IsADirectory => " (name a file in it)".to_owned(),
        _ => String::new(),
    };
    format!("{}{hint}", describe(error))
}

/// How far an output has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes records.
    Running,
    /// It was told to finish and has: all is written and synced.
    Finished,
    /// Its reader has gone.
    Closed,
    /// It failed, and said so.
    Failed,
}

/// A running output, as the loop sees it.
#[derive(Debug)]
pub struct Output {
    name: String,
    queue: Arc<Queue>,
    notify: Notify,
    /// Where others than its own thread may do its work.
    workbench: Option<Arc<Workbench>>,
}

impl Output {
    /// What the loop sees of an output whose worker has the other end of `queue`.
    pub fn new(name: String, queue: Arc<Queue>, notify: Notify) -> Self {
        Self {
            name,
            queue,
            notify,
            workbench: None,
        }
    }

    /// The same, where what is queued may be an [`Errand`].
    fn with_workbench(self, workbench: Arc<Workbench>) -> Self {
        Self {
            workbench: Some(workbench),
            ..self
        }
    }

    /// Whether it may give an [`Errand`].
    pub fn gives_errands(&self) -> bool {
        self.workbench.is_some()
    }

    /// Queues a batch without waking the output's thread, where that sleeps and may: for the caller to have it
    /// written. Else nothing is done.
    pub fn send_as_errand(&self, batch: &Arc<Batch>) -> Option<Errand> {
        let workbench = self.workbench.as_ref()?;
        (self.queue.push_quietly(batch)).then(|| Errand::at(workbench))
    }

    /// Queues a batch. Never waits: the pool bounds what can be queued, and an output that may miss
    /// records misses them beyond its share. One that has ended takes nothing any more.
    pub fn send(&self, batch: &Arc<Batch>) {
        if self.queue.push_batch(batch) {
            self.notify.say(Notice::Missing {
                output: self.name.clone(),
            });
        }
    }

    /// Queues the batch that ends with the run's `end`. None misses it.
    pub fn send_last(&self, batch: &Arc<Batch>) {
        self.queue.push_last(batch);
    }

    /// Opens the file anew, behind what was sent so far: the old one may have been moved away.
    pub fn reopen(&self, now: Timestamp) {
        self.queue.push(Job::Reopen(now));
    }

    /// Ends it, behind what was sent so far; then its [`Output::state`] changes.
    pub fn finish(&self) {
        self.queue.push(Job::Finish);
    }

    /// Whether it has nothing to do and would write at once what it were given.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    /// Whether it would miss a batch of `charge` bytes.
    pub fn is_full(&self, charge: usize) -> bool {
        self.queue.is_full(charge)
    }

    /// Bytes of batches that it has worked off, to tell whether it moves.
    pub fn worked_off(&self) -> u64 {
        self.queue.worked_off()
    }

    /// Whether its [`Output::state`] is anything but running. Cheap.
    pub fn has_ended(&self) -> bool {
        self.queue.has_ended()
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.queue.state()
    }

    /// Whether something is missing in it, or may be, though it goes on.
    pub fn is_torn(&self) -> bool {
        self.queue.is_torn()
    }

    /// What is still to be done for closed files: to compress them, to show them to a command.
    pub fn chores(&self) -> usize {
        self.queue.chores()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether records wait for it.
    pub fn is_behind(&self) -> bool {
        self.queue.waiting() > 0
    }

    /// How it stands.
    pub fn statistics(&self, now: Timestamp) -> OutputStatistics {
        OutputStatistics {
            name: self.name.clone(),
            written: self.queue.written(),
            waiting: self.queue.waiting(),
            lag: self.queue.lag(now),
            missed: self.queue.missed(),
            gaps: self.queue.gaps(),
        }
    }
}
