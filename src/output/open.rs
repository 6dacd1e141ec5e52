//! Opening outputs: all of them or none, with nothing changed if one of them cannot be, and the start
//! of their threads.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};

use super::disk::{DiskFile, Location, SystemDisk, SystemFile, make_folder};
use super::housekeeping::{Housekeeper, find_segments};
use super::live::LiveFile;
use super::many::ManyFiles;
use super::options::{Compression, OnStall, Options};
use super::outlet::{Outlet, Scribe};
use super::pipe::Pipe;
use super::queue::Queue;
use super::segment::{LAST_NUMBER, SegmentNames};
use super::sink::Sink;
use super::target::Target;
use super::template::Template;
use super::worker::{Workbench, Worker};
use super::writer::Writer;
use super::{Color, OpenError, Output, OutputSpec, PlaceSpec, RawToTerminal};
use crate::codec::{Audience, Encoder, Format};
use crate::notice::Notify;
use crate::record::Start;
use crate::record::doorbell::Doorbell;
use crate::record::time::Clock;

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_millis(100);

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
        let is_raw = matches!(spec.format, Format::Raw(_));
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
        let name = self.name.clone();
        // Standard output can be a regular file, which nobody waits for, and tells nothing of how long a write
        // will take.
        let is_regular = self.place.file_id().is_some();
        let (mut outlet, found) = self.prepare(share, surroundings)?;
        let queue = Arc::clone(&outlet.queue);
        let is_pipe = matches!(found, Found::Pipe(_)) && !is_regular;
        let workbench = Arc::new(Workbench::new(Arc::clone(&queue)));
        let bench = Arc::clone(&workbench);
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                let target = found.into_target(&mut outlet);
                bench.run(Worker::new(outlet, target));
            })?;
        let output = Output::new(name, queue, surroundings.notify.clone());
        Ok(match is_pipe {
            // Somebody waits for each chunk, and nothing is to be done there by the clock.
            true => output.with_workbench(workbench),
            false => output,
        })
    }

    /// Has it written to by whoever calls, without a thread.
    ///
    /// # Errors
    /// No folder can be made.
    pub fn write(self, surroundings: &Surroundings) -> io::Result<Writer> {
        let (mut outlet, found) = self.prepare(None, surroundings)?;
        let target = found.into_target(&mut outlet);
        Ok(Writer::new(outlet, target))
    }

    fn prepare(
        self,
        share: Option<usize>,
        surroundings: &Surroundings,
    ) -> io::Result<(Outlet, Found)> {
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
        let numbers = numbers.filter(|&number| number < LAST_NUMBER);
        let next_number = numbers.max().map_or(1, |last| last + 1);
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
        let start = match &self.place {
            Place::Template(template) if template.needs_connection() => Arc::new(Start {
                part: true,
                ..(*start).clone()
            }),
            _ => start,
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
        let found = self.place.into_found(&outlet)?;
        Ok((outlet, found))
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

    /// What is written to, as far as nothing has to be waited for.
    fn into_found(self, outlet: &Outlet) -> io::Result<Found> {
        Ok(match self {
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
        })
    }
}

/// What is written to, before it was looked at.
#[derive(Debug)]
enum Found {
    Pipe(Sink),
    File(Location, Sink),
    Many(Template),
}

impl Found {
    /// The file may be old, and what is to be done with it then is done here, however long it takes.
    fn into_target(self, outlet: &mut Outlet) -> Target {
        match self {
            Self::Pipe(sink) => Target::Pipe(Pipe::new(sink, outlet)),
            Self::File(location, sink) => {
                let live = LiveFile::new(location, sink, None, outlet);
                Target::File(Box::new(live))
            }
            Self::Many(template) => Target::Many(ManyFiles::new(template)),
        }
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
