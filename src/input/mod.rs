//! Captures that are read: files and standard input, one behind the other, compressed or not.
//!
//! All are looked at before the first record is read, so that one that cannot be opened is known
//! while nothing has been done yet. A file is then read once and in flat memory, whatever its size.

mod decompress;
mod growing;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::codec::ndjson::{Cause, Line, ReadError, Reader, Torn};
use crate::notice::{Notice, Notify, describe};
use crate::record::Record;
pub use decompress::Body;
pub use growing::{Beginning, Files, Part, Segment, beginning};

/// Connections of a capture that may be open at once, of those that are read for something. A machine
/// has room for a tenth of that at one address; only a capture that is none has more.
const OPEN_LIMIT: usize = 1 << 18;

/// A place that a capture is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file; a pipe or a device, too.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A source that cannot be read.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    error: io::Error,
}

impl OpenError {
    /// The source at `path` cannot be read, because of this.
    pub fn new(path: PathBuf, error: io::Error) -> Self {
        Self { path, error }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, error) = (self.path.display(), describe(&self.error));
        write!(f, "cannot open {path}: {error}")
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A source that was looked at.
#[derive(Debug)]
enum Seen {
    Stdin,
    /// A regular file, opened when it is its turn: there may be more of them than descriptors.
    Regular(PathBuf, u64),
    /// Anything else is opened once and kept: a pipe loses its writer if it is closed.
    Other(PathBuf, Option<File>),
}

impl Seen {
    fn look(source: &Source) -> Result<Self, OpenError> {
        let Source::File(path) = source else {
            return Ok(Self::Stdin);
        };
        let failed = |error| OpenError {
            path: path.clone(),
            error,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Ok(if metadata.is_file() {
            Self::Regular(path.clone(), metadata.len())
        } else {
            Self::Other(path.clone(), Some(file))
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Stdin => Source::Stdin.to_string(),
            Self::Regular(path, _) | Self::Other(path, _) => path.display().to_string(),
        }
    }

    fn open(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::Regular(path, _) => Box::new(File::open(path)?),
            Self::Other(_, file) => match file.take() {
                Some(file) => Box::new(file),
                None => return Err(io::Error::other("it can be read only once")),
            },
        })
    }
}

/// Opens one source, to be read by itself.
///
/// # Errors
/// It cannot be opened, or its first bytes not be read.
pub fn open(source: &Source) -> Result<Reader<Body>, OpenError> {
    let mut seen = Seen::look(source)?;
    let body = seen.open().and_then(Body::new);
    let body = body.map_err(|error| OpenError {
        path: PathBuf::from(seen.name()),
        error,
    })?;
    Ok(Reader::new(seen.name(), body))
}

/// Whether so many connections may be open at the line that was read last: whoever reads a capture keeps
/// something for each.
///
/// # Errors
/// They are too many: naming the capture and the line.
pub fn check_open(reader: &Reader<Body>, open: usize) -> Result<(), ReadError> {
    match open {
        0..=OPEN_LIMIT => Ok(()),
        _ => Err(reader.error(Cause::TooManyOpen(OPEN_LIMIT))),
    }
}

/// A capture that grows as it is read, behind the others.
struct Growing {
    files: Box<dyn Files>,
    /// A file of it is being read.
    is_at_hand: bool,
    /// The segment that was begun last, in whatever capture.
    last: Option<Segment>,
    /// The line that was told to be torn.
    told: Option<Torn>,
}

impl fmt::Debug for Growing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Growing({:?})", self.last)
    }
}

/// The records of several captures, in the order in which they were given.
#[derive(Debug)]
pub struct Captures {
    sources: Vec<Seen>,
    next: usize,
    reader: Option<Reader<Body>>,
    growing: Option<Growing>,
    consumed: Arc<AtomicU64>,
    torn: u64,
    is_read_again: bool,
    notify: Notify,
}

impl Captures {
    /// Looks at every source.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open(sources: &[Source], notify: &Notify) -> Result<Self, OpenError> {
        Ok(Self {
            sources: sources.iter().map(Seen::look).collect::<Result<_, _>>()?,
            next: 0,
            reader: None,
            growing: None,
            consumed: Arc::default(),
            torn: 0,
            is_read_again: false,
            notify: notify.clone(),
        })
    }

    /// Behind them comes one that is read as it grows.
    pub fn then(mut self, files: Box<dyn Files>) -> Self {
        self.growing = Some(Growing {
            files,
            is_at_hand: false,
            last: None,
            told: None,
        });
        self
    }

    /// Goes to the next record, for [`Captures::record`]; `false` at the end of the last capture. Calls
    /// `before_wait` whenever the next line may have to be waited for, because who writes it is another
    /// program. A capture that ends in the middle of a line, or of a compressed stream, is good up to
    /// there; it is said where.
    ///
    /// # Errors
    /// What cannot be read, or is no capture: naming it, and the line.
    pub fn advance(&mut self, mut before_wait: impl FnMut()) -> Result<bool, ReadError> {
        loop {
            if self.would_wait() {
                before_wait();
            }
            if let Some(reader) = &mut self.reader {
                match reader.step()? {
                    Line::Record => {
                        self.note_segment();
                        return Ok(true);
                    }
                    Line::Other | Line::Blank => {}
                    Line::End => self.end_capture(),
                }
                continue;
            }
            self.reader = self.open_next()?;
            if self.reader.is_none() {
                return Ok(false);
            }
        }
    }

    fn open_next(&mut self) -> Result<Option<Reader<Body>>, ReadError> {
        let (name, opened) = match (self.sources.get_mut(self.next), &mut self.growing) {
            (Some(source), _) => {
                self.next += 1;
                (source.name(), source.open())
            }
            (None, Some(growing)) => {
                let part = growing.files.next(growing.last);
                growing.is_at_hand = true;
                growing.told = None;
                match part {
                    Ok(Some(part)) => (part.name, Ok(part.reader)),
                    Ok(None) => return Ok(None),
                    Err(error) => (String::from("the capture that is followed"), Err(error)),
                }
            }
            (None, None) => return Ok(None),
        };
        let counted = |file| Body::new(Box::new(Counted(file, Arc::clone(&self.consumed))));
        match opened.and_then(counted) {
            Ok(body) => Ok(Some(Reader::new(name, body))),
            Err(error) => Err(ReadError {
                name,
                line: 0,
                cause: Cause::Io(error),
            }),
        }
    }

    /// The file that is next follows from the segment at hand. One that grows may have no end, so that a
    /// torn line in it is told at once.
    fn note_segment(&mut self) {
        let (Some(growing), Some(reader)) = (&mut self.growing, &self.reader) else {
            return;
        };
        if let Some(segment) = reader.record().ok().and_then(|record| Segment::of(&record)) {
            growing.last = Some(segment);
        }
        if growing.is_at_hand && reader.torn() != growing.told {
            let (name, torn) = (reader.name().to_owned(), reader.torn());
            growing.told = torn;
            self.tell_torn(name, torn);
        }
    }

    fn end_capture(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let torn = reader.torn();
        if let Some(growing) = (self.growing.as_mut()).filter(|growing| growing.is_at_hand) {
            // The rest was still to come; or it was told before.
            if growing.files.is_stopped() || torn == growing.told && !reader.input().is_cut() {
                return;
            }
        }
        // Each is counted and said once, however often it is read.
        if !self.is_read_again && (torn.is_some() || reader.input().is_cut()) {
            self.tell_torn(reader.name().to_owned(), torn);
        }
    }

    fn tell_torn(&mut self, name: String, torn: Option<Torn>) {
        self.torn += 1;
        self.notify.say(Notice::TornCapture {
            name,
            line: torn.map(|torn| (torn.line, torn.offset)),
        });
    }

    /// The record that [`Captures::advance`] came to.
    ///
    /// # Errors
    /// What is no record: naming the capture and the line.
    pub fn record(&self) -> Result<Record<'_>, ReadError> {
        let reader = self.reader.as_ref();
        reader.expect("`advance` came to a record").record()
    }

    /// [`check_open`] at the record that [`Captures::advance`] came to.
    ///
    /// # Errors
    /// As there.
    pub fn check_open(&self, open: usize) -> Result<(), ReadError> {
        (self.reader.as_ref()).map_or(Ok(()), |reader| check_open(reader, open))
    }

    /// Begins again with the first.
    pub fn rewind(&mut self) {
        self.next = 0;
        self.reader = None;
        self.is_read_again = true;
    }

    /// The first source that cannot be read again, because it is no regular file.
    pub fn first_read_once(&self) -> Option<String> {
        let mut sources = self.sources.iter();
        let found = sources.find(|source| !matches!(source, Seen::Regular(..)));
        found.map(Seen::name)
    }

    /// Whether the next line may have to be waited for: the whole of it has not come yet.
    fn would_wait(&self) -> bool {
        let is_growing = self.growing.as_ref().is_some_and(|growing| {
            growing.is_at_hand || self.reader.is_none() && self.next == self.sources.len()
        });
        let current = self.next - usize::from(self.reader.is_some() && !is_growing);
        let is_file = matches!(self.sources.get(current), Some(Seen::Regular(..)) | None);
        let buffered = self.reader.as_ref().map(|reader| reader.input().buffered());
        (is_growing || !is_file) && memchr::memchr(b'\n', buffered.unwrap_or_default()).is_none()
    }

    /// Bytes read so far, as they lie in the files.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Relaxed)
    }

    /// Bytes of all of them, as they lie in the files, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.sources
            .iter()
            .map(|source| match source {
                Seen::Regular(_, len) => Some(*len),
                Seen::Stdin | Seen::Other(..) => None,
            })
            .sum()
    }

    /// Captures so far that were torn.
    pub fn torn(&self) -> u64 {
        self.torn
    }
}

/// Counts the bytes that are read.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(buffer)?;
        self.1.fetch_add(len as u64, Relaxed);
        Ok(len)
    }
}
