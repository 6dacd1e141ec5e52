//! A capture that grows as it is read: what whoever knows its files tells the reader of it, and how a file of
//! it begins.

use std::fs::File;
use std::io::{self, Read, Seek};

use super::decompress::Body;
use crate::codec::ndjson::{Cause, Reader};
use crate::record::{Event, Record, RunId};

/// The files of a capture, one behind the other, as they come to be.
pub trait Files: Send {
    /// Waits for the file behind `last`, the segment that was read last, and gives it; `None` when it was told
    /// to stop.
    ///
    /// # Errors
    /// It cannot be opened.
    fn next(&mut self, last: Option<Segment>) -> io::Result<Option<Part>>;

    /// Whether it was told to stop. What breaks off then was still to come.
    fn is_stopped(&mut self) -> bool;
}

/// One file of a capture that grows.
pub struct Part {
    /// What it is called.
    pub name: String,
    /// Its bytes, as far as they go; it waits for more until the file is over.
    pub reader: Box<dyn Read + Send>,
}

/// A stretch of a run, as its `start` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The run.
    pub run: RunId,
    /// Its number among those of the output, from 1.
    pub number: u64,
    /// Other files have other parts of the run, and segments between this one's.
    pub is_part: bool,
}

impl Segment {
    /// The one that begins with this record, if one does.
    pub(super) fn of(record: &Record<'_>) -> Option<Self> {
        match &record.event {
            Event::Start(start) => Some(Self {
                run: start.run,
                number: start.segment,
                is_part: start.part,
            }),
            _ => None,
        }
    }
}

/// How a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Its first record is not there yet.
    ToCome,
    /// With this segment.
    Segment(Segment),
    /// With something else.
    Other,
}

/// How a file begins, which is then at its beginning again.
///
/// # Errors
/// It cannot be read.
pub fn beginning(file: &File) -> io::Result<Beginning> {
    let body = Body::new(Box::new(file.try_clone()?))?;
    let mut reader = Reader::new(String::new(), body);
    let found = match reader.next_record() {
        Ok(Some(record)) => Segment::of(&record).map_or(Beginning::Other, Beginning::Segment),
        Ok(None) => Beginning::ToCome,
        Err(error) => match error.cause {
            Cause::Io(error) => return Err(error),
            _ => Beginning::Other,
        },
    };
    let mut file = file;
    file.rewind()?;
    Ok(found)
}
