//! NDJSON to records, from any reader, in flat memory.
//!
//! A capture may be filtered by jq, torn by a crash or written by a stranger. Unknown keys and
//! types are passed over; a torn last line ends the reading in good order; anything else that does
//! not fit is an error that names file, line and cause. No input panics.

use std::fmt;
use std::io::{self, BufRead};
use std::mem;

use memchr::memchr;

use super::canonical::{self, CanonicalLine, Texts};
use super::wire::{Kind, Misfit, Wire};
use super::{LINE_LIMIT, VERSION};
use crate::record::Record;

/// Reads the records of one capture.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    name: String,
    line: Vec<u8>,
    /// The line, where it is one of most.
    canonical: Option<CanonicalLine>,
    texts: Texts,
    line_number: u64,
    offset: u64,
    torn: Option<Torn>,
    /// What is to be done before another line is read.
    left: Left,
    /// Whether [`Reader::raw_line`] will be asked for.
    keeps_lines: bool,
}

/// What the last step has left to the next.
#[derive(Debug, Default)]
enum Left {
    #[default]
    Nothing,
    /// The line behind the last one was looked at, and is in `line`.
    Line,
    /// Looking at it has failed.
    Failure(ReadError),
    /// The rest of a line that is too long.
    Rest,
}

/// A line that a crash or a full disk cut short: the last of the capture, or the last of a run behind
/// which another run was appended. All before it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Number of the torn line, from 1.
    pub line: u64,
    /// Where it begins: bytes from the start of the capture.
    pub offset: u64,
    /// How many bytes of it there are.
    pub len: u64,
}

/// What [`Reader::step`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A record, for [`Reader::record`].
    Record,
    /// A record of a type that this version does not know.
    Other,
    /// Nothing.
    Blank,
    /// The end, or a torn line.
    End,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`, which errors call `name`.
    pub fn new(name: impl Into<String>, input: R) -> Self {
        Self {
            input,
            name: name.into(),
            line: Vec::new(),
            canonical: None,
            texts: Texts::default(),
            line_number: 0,
            offset: 0,
            torn: None,
            left: Left::Nothing,
            keeps_lines: false,
        }
    }

    /// Has every line kept for [`Reader::raw_line`]. It costs a copy of each.
    pub fn keep_lines(&mut self) {
        self.keeps_lines = true;
    }

    /// The line that [`Reader::step`] came to, as it stands in the capture, with its newline if it has
    /// one. Only behind [`Reader::keep_lines`].
    pub fn raw_line(&self) -> &[u8] {
        debug_assert!(self.keeps_lines);
        &self.line
    }

    /// The next record, or `None` at the end. [`Reader::torn`] tells whether a torn line was passed
    /// over. Lines of types that this version does not know are passed over too.
    ///
    /// # Errors
    /// [`ReadError`], naming the line.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        if !self.advance()? {
            return Ok(None);
        }
        self.record().map(Some)
    }

    /// Goes to the next line that holds a record, for [`Reader::record`]; `false` at the end. Two
    /// steps, because a line that is no record must not stay borrowed while the next is read.
    ///
    /// # Errors
    /// As [`Reader::next_record`].
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        loop {
            match self.step()? {
                Line::Record => return Ok(true),
                Line::Other | Line::Blank => {}
                Line::End => return Ok(false),
            }
        }
    }

    /// Goes to the next line, whatever it holds. Behind an error the next step goes on with the line
    /// behind that one, unless it is [`Cause::Io`]: where the input fails, nothing more comes of it.
    ///
    /// # Errors
    /// As [`Reader::next_record`].
    pub fn step(&mut self) -> Result<Line, ReadError> {
        match mem::take(&mut self.left) {
            Left::Line => {}
            Left::Failure(error) => {
                self.left_by(&error);
                return Err(error);
            }
            left => {
                if let Left::Rest = left {
                    self.pass_rest().map_err(|error| self.unreadable(error))?;
                } else if self.advance_within_buffer()? {
                    return Ok(Line::Record);
                }
                match self.read_line() {
                    Ok(true) => {}
                    Ok(false) => return Ok(Line::End),
                    Err(error) => {
                        self.left_by(&error);
                        return Err(error);
                    }
                }
            }
        }
        let start = self.offset - self.line.len() as u64;
        match self.kind_of_line() {
            Ok(kind) => Ok(kind),
            Err(error) if !matches!(error.cause, Cause::Json(_)) => Err(error),
            Err(error) => {
                self.pass_torn_run(start, error)?;
                self.step()
            }
        }
    }

    /// The record that [`Reader::advance`] came to.
    ///
    /// # Errors
    /// As [`Reader::next_record`].
    pub fn record(&self) -> Result<Record<'_>, ReadError> {
        match &self.canonical {
            Some(line) => Ok(line.record(&self.texts)),
            None => parse(&self.line).map_err(|cause| self.error(cause)),
        }
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reads from.
    pub fn input(&self) -> &R {
        &self.input
    }

    /// The last torn line so far.
    pub fn torn(&self) -> Option<Torn> {
        self.torn
    }

    /// Number of the line read last, from 1.
    pub fn line_number(&self) -> u64 {
        self.line_number
    }

    /// Reads the next line where it lies, if it is one of most and whole in the input's buffer.
    fn advance_within_buffer(&mut self) -> Result<bool, ReadError> {
        let bytes = match self.input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(self.unreadable(error)),
        };
        let Some(newline) = memchr(b'\n', bytes) else {
            return Ok(false);
        };
        self.canonical = canonical::read(&bytes[..=newline], &mut self.texts);
        if self.canonical.is_some() {
            if self.keeps_lines {
                self.line.clear();
                self.line.extend_from_slice(&bytes[..=newline]);
            }
            self.input.consume(newline + 1);
            self.offset += newline as u64 + 1;
            self.line_number += 1;
        }
        Ok(self.canonical.is_some())
    }

    /// Reads a line with its newline; `false` at the end and at a torn line.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        self.line.clear();
        let limit = LINE_LIMIT as u64 + 1;
        let read = self.fill_line(LINE_LIMIT + 1);
        let read = read.map_err(|error| self.unreadable(error))?;
        if read == 0 {
            return Ok(false);
        }
        self.line_number += 1;
        let start = self.offset;
        self.offset += read;
        if self.line.last() == Some(&b'\n') {
            return Ok(true);
        }
        if read == limit {
            return Err(self.error(Cause::TooLong));
        }
        // jq and people may leave out the last newline: a whole object is a whole line.
        if serde_json::from_slice::<Kind<'_>>(&self.line).is_ok() {
            return Ok(true);
        }
        // A capture that was cut short in its first line at least began as one.
        let is_object = self.line.trim_ascii_start().first() == Some(&b'{');
        if self.line_number == 1 && !is_object {
            self.kind_of_line()?;
        }
        self.torn = Some(Torn {
            line: self.line_number,
            offset: start,
            len: read,
        });
        Ok(false)
    }

    /// Takes bytes up to a newline, the end, or `limit`, and says how many.
    fn fill_line(&mut self, limit: usize) -> io::Result<u64> {
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let bytes = &bytes[..bytes.len().min(limit - self.line.len())];
            let newline = memchr(b'\n', bytes);
            let taken = newline.map_or(bytes.len(), |at| at + 1);
            self.line.extend_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            if taken == 0 || newline.is_some() {
                return Ok(self.line.len() as u64);
            }
        }
    }

    /// After a line that is no JSON: where the next one starts a run, the line is the torn end of
    /// the run before, as wiretape leaves it when it appends to a capture after a crash. The next one
    /// is left to the next step.
    fn pass_torn_run(&mut self, start: u64, error: ReadError) -> Result<(), ReadError> {
        let torn = Torn {
            line: self.line_number,
            offset: start,
            len: self.offset - start,
        };
        match self.read_line() {
            Ok(true) => self.left = Left::Line,
            Ok(false) => return Err(error),
            Err(next) => {
                self.left = Left::Failure(next);
                return Err(error);
            }
        }
        let kind = serde_json::from_slice::<Kind<'_>>(&self.line);
        if !kind.is_ok_and(|kind| kind.kind == "start") {
            return Err(error);
        }
        self.torn = Some(torn);
        Ok(())
    }

    /// Behind a line that was too long its rest is still to come.
    fn left_by(&mut self, error: &ReadError) {
        if let Cause::TooLong = error.cause {
            self.left = Left::Rest;
        }
    }

    /// Passes over what is left of a line, newline and all, and keeps nothing of it.
    fn pass_rest(&mut self) -> io::Result<()> {
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let newline = memchr(b'\n', bytes);
            let taken = newline.map_or(bytes.len(), |at| at + 1);
            self.input.consume(taken);
            self.offset += taken as u64;
            if taken == 0 || newline.is_some() {
                return Ok(());
            }
        }
    }

    /// What the line holds.
    fn kind_of_line(&mut self) -> Result<Line, ReadError> {
        self.canonical = canonical::read(&self.line, &mut self.texts);
        if self.canonical.is_some() {
            return Ok(Line::Record);
        }
        if self.line.trim_ascii().is_empty() {
            return Ok(Line::Blank);
        }
        let kind: Kind<'_> =
            serde_json::from_slice(&self.line).map_err(|error| self.error(Cause::Json(error)))?;
        if kind.v.is_some_and(|v| v > VERSION.into()) {
            return Err(self.error(Cause::Newer(kind.v.unwrap_or_default())));
        }
        Ok(match KNOWN_TYPES.contains(&&*kind.kind) {
            true => Line::Record,
            false => Line::Other,
        })
    }

    /// The line behind the last one cannot be read.
    fn unreadable(&self, error: io::Error) -> ReadError {
        ReadError {
            line: self.line_number + 1,
            ..self.error(Cause::Io(error))
        }
    }

    /// An error in the line read last.
    pub fn error(&self, cause: Cause) -> ReadError {
        ReadError {
            name: self.name.clone(),
            line: self.line_number,
            cause,
        }
    }
}

const KNOWN_TYPES: [&str; 7] = ["start", "open", "data", "eof", "close", "gap", "end"];

/// Reads any line of a known type.
pub(super) fn parse(line: &[u8]) -> Result<Record<'_>, Cause> {
    let wire: Wire<'_> = serde_json::from_slice(line).map_err(Cause::Json)?;
    wire.into_record().map_err(|misfit| match misfit {
        Misfit::Missing(key) => Cause::Missing(key),
        Misfit::Invalid(key) => Cause::Invalid(key),
        Misfit::Base64 => Cause::Base64,
        Misfit::Length { stated, found } => Cause::Length { stated, found },
    })
}

/// A line that could not be read: `device.ndjson: line 7: …`.
#[derive(Debug)]
pub struct ReadError {
    /// What the reader was told its input is called.
    pub name: String,
    /// Number of the line, from 1; 0 where nothing could be read.
    pub line: u64,
    /// What is wrong.
    pub cause: Cause,
}

/// The most that is said of a line that is no record: `serde_json` repeats all of a string that stands
/// where it must not.
const CAUSE_CHARS: usize = 200;

/// What is wrong with a line.
#[derive(Debug)]
pub enum Cause {
    /// The input failed.
    Io(io::Error),
    /// Longer than [`LINE_LIMIT`].
    TooLong,
    /// Not a JSON object of the right shape.
    Json(serde_json::Error),
    /// Written in a later version of the format.
    Newer(u64),
    /// A key that this type of record must have.
    Missing(&'static str),
    /// A key with a value that it cannot have.
    Invalid(&'static str),
    /// `base64` that is not standard, padded base64.
    Base64,
    /// More connections are open at once than this.
    TooManyOpen(usize),
    /// `len` is not the payload's length.
    Length {
        /// What `len` says.
        stated: u64,
        /// How many bytes there are.
        found: u64,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.name, self.cause),
            line => write!(f, "{}: line {line}: {}", self.name, self.cause),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::TooLong => write!(f, "longer than {} MiB, not a capture", LINE_LIMIT >> 20),
            Self::Json(error) => {
                let why = error.to_string();
                let (end, more) = match why.char_indices().nth(CAUSE_CHARS) {
                    Some((end, _)) => (end, "…"),
                    None => (why.len(), ""),
                };
                write!(f, "not a capture record: {}{more}", &why[..end])
            }
            Self::Newer(v) => write!(
                f,
                "format version {v} was written by a newer wiretape (this one reads up to {VERSION})"
            ),
            Self::Missing(key) => write!(f, "record without `{key}`"),
            Self::Invalid(key) => write!(f, "invalid `{key}`"),
            Self::Base64 => write!(f, "invalid base64"),
            Self::TooManyOpen(most) => write!(
                f,
                "more than {most} connections are open at once; select some of them (--conn, --peer of replay, cat and sessions)"
            ),
            Self::Length { stated, found } => {
                write!(f, "`len` says {stated}, but the payload has {found} bytes")
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            Cause::Json(error) => Some(error),
            _ => None,
        }
    }
}
