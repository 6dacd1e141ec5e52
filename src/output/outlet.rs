//! What all files of an output share: its name, its encoder, what is counted, and who is told.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::State;
use super::compress::Packer;
use super::disk::{Disk, DiskFile, Location};
use super::housekeeping::Housekeeper;
use super::options::{Compression, Options};
use super::queue::{Gap, Queue};
use super::sink::Sink;
use crate::codec::Encoder;
use crate::codec::buffer::Buffer;
use crate::notice::{Notice, Notify};
use crate::record::chunk::Chunk;
use crate::record::time::Clock;
use crate::record::{ConnId, Direction, EndReason, Event, GapReason, Record, Start, Timestamp};

/// One output's.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) name: String,
    pub(super) options: Options,
    /// How the file itself is compressed, as it is written.
    pub(super) compression: Option<Compression>,
    pub(super) scribe: Scribe,
    pub(super) disk: Box<dyn Disk>,
    pub(super) housekeeper: Housekeeper,
    pub(super) queue: Arc<Queue>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) notify: Notify,
    /// Number in the name of the next closed segment.
    pub(super) next_number: u64,
    /// How long to wait before what failed is tried again.
    pub(super) retry: Duration,
}

impl Outlet {
    pub(super) fn say(&self, notice: Notice) {
        self.notify.say(notice);
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Opens the file that a location leads to, to be written to.
    pub(super) fn open(&self, location: &Location) -> io::Result<Sink> {
        self.disk.open(location).and_then(|file| self.sink(file))
    }

    /// Makes an open file one that is written to.
    pub(super) fn sink(&self, file: Box<dyn DiskFile>) -> io::Result<Sink> {
        let packer = self.compression.map(Packer::new).transpose()?;
        Ok(Sink::new(file, packer))
    }

    /// Nothing more is written, with this result: said, where somebody is to know.
    pub(super) fn end(&self, result: io::Result<()>) {
        let output = self.name();
        let state = match result {
            Ok(()) => State::Finished,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.say(Notice::OutputClosed { output });
                State::Closed
            }
            Err(error) => {
                self.say(Notice::OutputFailed { output, error });
                State::Failed
            }
        };
        self.queue.end(state);
    }

    /// Waits a little, with all that is queued still to be done.
    pub(super) fn rest(&self) {
        self.queue.rest(self.retry);
    }
}

/// Encodes records, and those that an output has of its own.
#[derive(Debug)]
pub(super) struct Scribe {
    encoder: Encoder,
    start: Arc<Start>,
    segment: u64,
    /// Number of the record behind the last that was encoded.
    next_seq: u64,
}

impl Scribe {
    /// `segment` is the number of the segment whose `start` the run itself records, or 0.
    pub(super) fn new(encoder: Encoder, start: Arc<Start>, segment: u64) -> Self {
        Self {
            encoder,
            start,
            segment,
            next_seq: 0,
        }
    }

    /// Another run begins, and with it the numbers of its segments and records.
    pub(super) fn adopt(&mut self, start: Arc<Start>) {
        self.start = start;
        self.segment = 0;
        self.next_seq = 0;
    }

    pub(super) fn start(&self) -> &Start {
        &self.start
    }

    pub(super) fn is_raw(&self) -> bool {
        self.raw().is_some()
    }

    /// Whose bytes are kept, where nothing else is.
    pub(super) fn raw(&self) -> Option<Direction> {
        match self.encoder {
            Encoder::Raw(direction) => Some(direction),
            _ => None,
        }
    }

    /// The bytes of a record that need no encoding.
    pub(super) fn raw_bytes<'a>(&self, record: &'a Record<'_>) -> Option<&'a [u8]> {
        self.encoder.raw_bytes(record)
    }

    /// Whether each record becomes one line.
    pub(super) fn writes_lines(&self) -> bool {
        self.encoder.writes_lines()
    }

    /// Whether an `end` takes room.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.encoder, Encoder::Json(_))
    }

    /// Number of the segment that was begun last.
    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// Number of the record that comes next.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Records were written by other means, or missed.
    pub(super) fn pass(&mut self, next_seq: u64) {
        self.next_seq = next_seq;
    }

    pub(super) fn record(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        self.encoder.encode(record, out);
        self.next_seq = record.next_seq();
    }

    /// See [`Encoder::encode_chunk`].
    pub(super) fn chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        out: &mut Buffer,
        enough: usize,
    ) -> usize {
        let last = self.encoder.encode_chunk(chunk, out, enough);
        self.next_seq = chunk.next_seq;
        last
    }

    pub(super) fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) {
        let record = Record {
            time: gap.time,
            seq: gap.first_seq,
            event: Event::Gap {
                records: gap.records,
                bytes: gap.bytes,
                reason: GapReason::StalledOutput,
            },
        };
        self.encoder.encode(&record, out);
    }

    /// Begins the next segment, whose first record has the number `seq`.
    pub(super) fn begin(
        &mut self,
        time: Timestamp,
        seq: u64,
        conn: Option<ConnId>,
        out: &mut Vec<u8>,
    ) {
        self.segment += 1;
        let start = Start {
            segment: self.segment,
            conn,
            ..(*self.start).clone()
        };
        let event = Event::Start(Cow::Owned(start));
        self.encoder.encode(&Record { time, seq, event }, out);
    }

    /// Ends a segment; the record behind it has the number `seq`.
    pub(super) fn end(&mut self, time: Timestamp, seq: u64, reason: EndReason, out: &mut Vec<u8>) {
        let event = Event::End { reason };
        self.encoder.encode(&Record { time, seq, event }, out);
    }
}

/// Whether a write that failed so can succeed later: space may be given back, a limit be raised.
pub(super) fn can_pass(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_can_pass_are_waited_out() {
        fn check(errno: Errno, expected: bool) {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(can_pass(&error), expected, "{error}");
        }
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            check(errno, true);
        }
        for errno in [Errno::IO, Errno::PIPE, Errno::BADF, Errno::ROFS] {
            check(errno, false);
        }
    }
}
