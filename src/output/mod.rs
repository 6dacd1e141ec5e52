//! Where records end up: files, standard output, and a thread for each of them.
//!
//! The loop hands every output the same sealed batches ([`Output::send`]) and never waits for one;
//! encoding, writing and syncing happen on the output's own thread. An output knows no sockets.
//! What it is asked to do arrives in order through one queue, so a reopening or the end stands
//! exactly between the records it stood between when it was asked for.

mod file;
mod queue;
mod stdout;
mod worker;

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Audience, Encoder, Format};
use crate::notice::{Notify, OutputStatistics, describe};
use crate::record::batch::Batch;
use crate::record::doorbell::Doorbell;
use crate::record::{Start, Timestamp};
use file::FilePlace;
use queue::{Job, Queue};
use stdout::StdoutPlace;
use worker::Worker;

/// An output that is wanted: a format and a place, validated but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// What it looks like.
    pub format: Format,
    /// Where it goes.
    pub place: PlaceSpec,
    /// Whether it is coloured.
    pub color: Color,
    /// Whether raw bytes may go to a terminal.
    pub raw_to_terminal: RawToTerminal,
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
}

impl fmt::Display for PlaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
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

/// An output whose place is open, before its thread runs.
#[derive(Debug)]
pub struct OpenOutput {
    name: String,
    format: Format,
    audience: Audience,
    place: Place,
}

/// Opens all of them, or none. A file that was made for one is removed again unless that output is
/// [run](OpenOutput::run).
///
/// # Errors
/// [`OpenError`], naming the output.
pub fn open_all(specs: &[OutputSpec]) -> Result<Vec<OpenOutput>, OpenError> {
    let mut opened: Vec<OpenOutput> = Vec::new();
    for spec in specs {
        let output = OpenOutput::open(spec)?;
        let id = output.place.file_id();
        if let Some(other) = opened
            .iter()
            .find(|other| id.is_some() && id == other.place.file_id())
        {
            return Err(OpenError::Same(other.name.clone(), output.name));
        }
        opened.push(output);
    }
    Ok(opened)
}

impl OpenOutput {
    fn open(spec: &OutputSpec) -> Result<Self, OpenError> {
        let name = spec.place.to_string();
        let place = match &spec.place {
            PlaceSpec::Stdout => StdoutPlace::open().map(Place::Stdout),
            PlaceSpec::File(path) => FilePlace::open(path).map(Place::File),
        };
        let place = place.map_err(|error| OpenError::Io(PathBuf::from(&name), error))?;
        let is_terminal = place.file().is_terminal();
        let is_raw = spec.format == Format::Raw;
        if is_raw && is_terminal && spec.raw_to_terminal == RawToTerminal::Refused {
            return Err(OpenError::RawToTerminal(name));
        }
        let audience = match (spec.color, is_terminal) {
            (Color::Always, _) | (Color::OnTerminal, true) => Audience::ColorTerminal,
            (Color::Never, true) => Audience::Terminal,
            (Color::Never | Color::OnTerminal, false) => Audience::Program,
        };
        Ok(Self {
            name,
            format: spec.format,
            audience,
            place,
        })
    }

    /// Starts its thread. `start` is the run's `start` record, for segments to come; `doorbell`
    /// rings when the output falls idle or ends.
    ///
    /// # Errors
    /// The kernel would not start a thread.
    pub fn run(
        mut self,
        start: Arc<Start>,
        doorbell: Arc<Doorbell>,
        notify: Notify,
    ) -> io::Result<Output> {
        if let Place::File(file) = &mut self.place {
            file.keep();
        }
        let queue = Arc::new(Queue::new(doorbell));
        let worker = Worker::new(
            self.name.clone(),
            Encoder::new(self.format, self.audience),
            self.place,
            start,
            Arc::clone(&queue),
            notify,
        );
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || worker.run())?;
        Ok(Output {
            name: self.name,
            queue,
        })
    }
}

/// What a worker writes to.
#[derive(Debug)]
enum Place {
    Stdout(StdoutPlace),
    File(FilePlace),
}

impl Place {
    fn file(&self) -> &File {
        match self {
            Self::Stdout(stdout) => stdout.file(),
            Self::File(file) => file.file(),
        }
    }

    /// Device and inode of a regular file, by which two names of one are known.
    fn file_id(&self) -> Option<(u64, u64)> {
        match self {
            Self::Stdout(stdout) => stdout.file_id(),
            Self::File(file) => file.file_id(),
        }
    }
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
}

impl Output {
    /// Queues a batch. Never waits: the pool bounds what can be queued. An output that has ended
    /// takes nothing any more.
    pub fn send(&self, batch: &Arc<Batch>) {
        self.queue.push(Job::Batch(Arc::clone(batch)));
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

    /// Whether its [`Output::state`] is anything but running. Cheap.
    pub fn has_ended(&self) -> bool {
        self.queue.has_ended()
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.queue.state()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it stands.
    pub fn statistics(&self) -> OutputStatistics {
        OutputStatistics {
            name: self.name.clone(),
            written: self.queue.written(),
            waiting: self.queue.waiting(),
        }
    }
}
