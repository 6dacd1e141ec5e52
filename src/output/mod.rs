//! Where records end up: files, standard output, and a thread for each of them.
//!
//! The loop hands every output the same sealed batches ([`Output::send`]) and never waits for one;
//! encoding, writing and syncing happen on the output's own thread. An output knows no sockets.
//! What it is asked to do arrives in order through one queue, so a reopening or the end stands
//! exactly between the records it stood between when it was asked for.
//!
//! | file | owns |
//! | --- | --- |
//! | `options` `segment` `template` | what is wanted; what files are called. Pure |
//! | `queue` | from the loop to the thread; what is missed instead |
//! | `worker` `outlet` | the thread; what all files of an output share |
//! | `sink` | bytes that are not all written yet, and where records end in them |
//! | `pipe` `live` `many` | a pipe; a file and its rotation; a file a connection |
//! | `housekeeping` `compress` | what is done with closed files, on a thread of its own |
//! | `disk` | the file system |

mod compress;
mod disk;
mod housekeeping;
mod live;
mod many;
pub mod options;
mod outlet;
mod pipe;
mod queue;
mod segment;
#[cfg(test)]
mod sim;
mod sink;
pub mod template;
mod worker;

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};

use crate::codec::{Audience, Encoder, Format};
use crate::notice::{Notice, Notify, OutputStatistics, describe};
use crate::record::batch::Batch;
use crate::record::doorbell::Doorbell;
use crate::record::time::Clock;
use crate::record::{Start, Timestamp};
use disk::{DiskFile, Location, SystemDisk, SystemFile, make_folder};
use housekeeping::{Housekeeper, find_segments};
use live::LiveFile;
use many::ManyFiles;
use options::{Compression, OnStall, Options};
use outlet::{Outlet, Scribe};
use pipe::Pipe;
use queue::{Job, Queue};
use segment::SegmentNames;
use template::Template;
use worker::{Target, Worker};

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_millis(100);

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

/// An output whose place is open, before its thread runs.
#[derive(Debug)]
pub struct OpenOutput {
    name: String,
    format: Format,
    audience: Audience,
    compression: Option<Compression>,
    on_stall: OnStall,
    place: Place,
}

/// Opens all of them, or none. A file that was made for one is removed again unless that output is
/// [run](OpenOutput::run).
///
/// # Errors
/// [`OpenError`], naming the output.
pub fn open_all(specs: &[OutputSpec], options: &Options) -> Result<Vec<OpenOutput>, OpenError> {
    let mut opened: Vec<OpenOutput> = Vec::new();
    for spec in specs {
        let output = OpenOutput::open(spec, options)?;
        let id = output.place.file_id();
        if let Some(other) = opened
            .iter()
            .find(|other| id.is_some() && id == other.place.file_id())
        {
            return Err(OpenError::Same(other.name.clone(), output.name));
        }
        opened.push(output);
        // Only now: the other of the same file would have its lock.
        if let Some(OpenOutput {
            name,
            place: Place::File(first),
            ..
        }) = opened.last_mut()
        {
            first
                .lock()
                .map_err(|error| OpenError::Io(PathBuf::from(&*name), error))?;
        }
    }
    if let [only] = &mut opened[..] {
        only.on_stall = match only.on_stall {
            OnStall::Drop => OnStall::Drop,
            OnStall::Auto | OnStall::Block => OnStall::Block,
        };
    }
    Ok(opened)
}

impl OpenOutput {
    fn open(spec: &OutputSpec, options: &Options) -> Result<Self, OpenError> {
        let name = spec.place.to_string();
        let place = match &spec.place {
            PlaceSpec::Stdout => open_stdout().map(Place::Stdout),
            PlaceSpec::File(path) => {
                // What cannot be appended to is put away too.
                let is_renamed = options.rotation.is_wanted() || spec.compression.is_some();
                FirstFile::open(path, is_renamed).map(Place::File)
            }
            PlaceSpec::Template(template) => {
                check_folder(template.folder()).map(|()| Place::Template(template.clone()))
            }
        };
        let place = place.map_err(|error| OpenError::Io(PathBuf::from(&name), error))?;
        let is_terminal = place.is_terminal();
        let is_raw = spec.format == Format::Raw;
        if is_raw && is_terminal && spec.raw_to_terminal == RawToTerminal::Refused {
            return Err(OpenError::RawToTerminal(name));
        }
        let audience = match (spec.color, is_terminal) {
            (Color::Always, _) | (Color::OnTerminal, true) => Audience::ColorTerminal,
            (Color::Never, true) => Audience::Terminal,
            (Color::Never | Color::OnTerminal, false) => Audience::Program,
        };
        let is_screen = is_terminal && matches!(place, Place::Stdout(_));
        let on_stall = match options.on_stall {
            // Somebody who stops the terminal does not mean to stop the capture.
            OnStall::Auto if is_screen => OnStall::Auto,
            OnStall::Auto => OnStall::Block,
            chosen => chosen,
        };
        Ok(Self {
            name,
            format: spec.format,
            audience,
            compression: spec.compression,
            on_stall,
            place,
        })
    }

    /// Whether it misses records rather than hold up the others.
    pub fn may_miss(&self) -> bool {
        self.on_stall != OnStall::Block
    }

    /// Starts its thread. `share` is how many bytes of the buffer it holds at most if it may miss
    /// records.
    ///
    /// # Errors
    /// The kernel would not start a thread, or no folder be made.
    pub fn run(self, share: usize, surroundings: &Surroundings) -> io::Result<Output> {
        let share = self.may_miss().then_some(share);
        let Surroundings {
            start,
            options,
            doorbell,
            clock,
            notify,
        } = surroundings.clone();
        let queue = Arc::new(Queue::new(share, doorbell));
        // Closed segments of earlier runs: what is looked after, and counted on from.
        let mut found = Vec::new();
        if let (Place::File(file), true) = (&self.place, options.rotation.is_wanted()) {
            let names = SegmentNames::new(&file.path, self.compression);
            found = find_segments(&names).map_err(|error| {
                let folder = names.folder().display();
                io::Error::other(format!("the folder {folder} cannot be read: {error}"))
            })?;
        }
        let numbers = found.iter().map(|(name, _)| name.order.1);
        let numbers = numbers.filter(|&number| number < segment::LAST_NUMBER);
        let next_number = numbers.max().map_or(1, |last| last.saturating_add(1));
        // The run records the `start` of its first segment itself, unless every file has its own.
        let (has_closed_files, first_segment) = match &self.place {
            Place::File(file) => (file.file.id().is_some(), start.segment),
            Place::Template(_) => (true, 0),
            Place::Stdout(_) => (false, start.segment),
        };
        let housekeeper = match has_closed_files {
            true => Housekeeper::start(
                found,
                &options,
                self.compression,
                Arc::clone(&queue),
                notify.clone(),
            )?,
            false => Housekeeper::default(),
        };
        let encoder = Encoder::new(self.format, self.audience);
        let outlet = Outlet {
            name: self.name.clone(),
            options,
            compression: self.compression,
            scribe: Scribe::new(encoder, start, first_segment),
            disk: Box::new(SystemDisk),
            housekeeper,
            queue: Arc::clone(&queue),
            clock,
            notify,
            next_number,
            retry: RETRY,
        };
        let place = self.place;
        let run = place.into_worker(outlet)?;
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(run)?;
        Ok(Output {
            name: self.name,
            queue,
            notify: surroundings.notify.clone(),
        })
    }
}

/// What all outputs of a run have in common.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The run's `start` record, for segments to come.
    pub start: Arc<Start>,
    /// How they are to behave.
    pub options: Options,
    /// Rings when an output falls idle or ends.
    pub doorbell: Arc<Doorbell>,
    /// Tells when a segment or a sync is due.
    pub clock: Arc<dyn Clock>,
    /// Where trouble is told.
    pub notify: Notify,
}

/// What an output writes to, as it was found.
#[derive(Debug)]
enum Place {
    Stdout(SystemFile),
    File(FirstFile),
    Template(Template),
}

impl Place {
    fn is_terminal(&self) -> bool {
        match self {
            Self::Stdout(file) => file.file().is_terminal(),
            Self::File(first) => first.file.file().is_terminal(),
            Self::Template(_) => false,
        }
    }

    /// Device and inode of a regular file, by which two names of one are known.
    fn file_id(&self) -> Option<(u64, u64)> {
        match self {
            Self::Stdout(file) => file.id(),
            Self::File(first) => first.file.id(),
            Self::Template(_) => None,
        }
    }

    /// The work of the output's thread. The file may be old, and what is to be done with it then is
    /// done there.
    fn into_worker(self, mut outlet: Outlet) -> io::Result<impl FnOnce() + Send> {
        enum Found {
            Pipe(sink::Sink),
            File(Location, sink::Sink),
            Many(Template),
        }
        let found = match self {
            Self::Stdout(file) => Found::Pipe(outlet.sink(Box::new(file))?),
            Self::File(mut first) => {
                first.is_unused = false;
                let is_regular = first.file.id().is_some();
                let file = SystemFile::from(first.file.file().try_clone()?);
                let location = Location {
                    path: first.path.clone(),
                    made_up: 0,
                };
                let sink = outlet.sink(Box::new(file))?;
                match is_regular {
                    true => Found::File(location, sink),
                    false => Found::Pipe(sink),
                }
            }
            Self::Template(template) => {
                make_folder(template.folder())?;
                Found::Many(template)
            }
        };
        Ok(move || {
            let target = match found {
                Found::Pipe(sink) => Target::Pipe(Pipe::new(sink, &outlet)),
                Found::File(location, sink) => {
                    let live = LiveFile::new(location, sink, None, &mut outlet);
                    Target::File(Box::new(live))
                }
                Found::Many(template) => Target::Many(ManyFiles::new(template)),
            };
            Worker::new(outlet, target).run();
        })
    }
}

/// A file that was opened before the run began.
#[derive(Debug)]
struct FirstFile {
    path: PathBuf,
    file: SystemFile,
    /// It was created by opening it, and nothing has been written to it.
    is_unused: bool,
}

impl Drop for FirstFile {
    /// A run that does not begin leaves no file behind.
    fn drop(&mut self) {
        if self.is_unused {
            // What cannot be removed is empty, and the error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl FirstFile {
    fn open(path: &Path, is_renamed: bool) -> io::Result<Self> {
        let (file, is_unused) = SystemFile::open_first(path)?;
        let mut first = Self {
            path: path.to_owned(),
            file,
            is_unused,
        };
        // It is the file that is renamed, and not a link to it.
        if is_renamed && path.is_symlink() && first.file.id().is_some() {
            first.path = path.canonicalize()?;
        }
        let path = &first.path;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if is_renamed
            && first.file.id().is_some()
            && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err()
        {
            return Err(io::Error::other(
                "it could not be rotated, because its folder is not writable",
            ));
        }
        Ok(first)
    }

    fn lock(&mut self) -> io::Result<()> {
        let locked = self.file.lock();
        if locked.is_err() {
            // Whoever has the lock may have had it before anything was written.
            self.is_unused = false;
        }
        locked?;
        // Whoever had it may have rotated the file before it was locked here.
        match self.file.id().is_none() || self.file.is_at(&self.path) {
            true => Ok(()),
            false => Err(io::Error::other("it was moved away as it was opened")),
        }
    }
}

fn open_stdout() -> io::Result<SystemFile> {
    let fd = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(SystemFile::from(fd))
}

/// Whether files can be made in `folder`, which may be still to be made itself.
fn check_folder(folder: &Path) -> io::Result<()> {
    let mut nearest = folder;
    while !nearest.as_os_str().is_empty() && !nearest.exists() {
        nearest = nearest.parent().unwrap_or(Path::new(""));
    }
    let nearest = match nearest.as_os_str().is_empty() {
        true => Path::new("."),
        false => nearest,
    };
    if !nearest.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(nearest, Access::WRITE_OK | Access::EXEC_OK)?)
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
}

impl Output {
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

    /// How it stands.
    pub fn statistics(&self) -> OutputStatistics {
        OutputStatistics {
            name: self.name.clone(),
            written: self.queue.written(),
            waiting: self.queue.waiting(),
            missed: self.queue.missed(),
        }
    }
}
