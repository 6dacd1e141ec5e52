//! The thread of an output: takes batches, encodes them, writes.
//!
//! Whatever is queued is encoded into one buffer and written in large pieces; when the queue is
//! empty the rest is written at once. So a lone byte is out within microseconds, and a flood costs
//! few system calls. An error that can pass (a full disk) is waited out with the bytes kept; one
//! that cannot ends this output and no other.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::file::ends_torn;
use super::queue::{Job, Queue};
use super::{Place, State};
use crate::codec::Encoder;
use crate::notice::{Notice, Notify};
use crate::record::batch::Batch;
use crate::record::{EndReason, Event, Record, Start, Timestamp};

/// Encoded bytes that are worth a write while more is queued.
const WRITE_SIZE: usize = 256 * 1024;

/// A run of payload this long is written from the arena, without a copy.
const DIRECT_SIZE: usize = 32 * 1024;

/// How long to wait before a full disk is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Tries between two messages about the same stall: five seconds.
const TRIES_A_NOTICE: u32 = 50;

#[derive(Debug)]
pub(super) struct Worker {
    name: String,
    encoder: Encoder,
    buffer: Vec<u8>,
    place: Place,
    start: Arc<Start>,
    segment: u64,
    /// Number of the record behind the last that was encoded.
    next_seq: u64,
    /// Records of whole batches that are in the buffer, or partly written.
    encoded: u64,
    queue: Arc<Queue>,
    notify: Notify,
}

/// Why a worker stops before it was told to.
#[derive(Debug)]
struct Failure {
    action: &'static str,
    error: io::Error,
}

impl Worker {
    pub(super) fn new(
        name: String,
        encoder: Encoder,
        place: Place,
        start: Arc<Start>,
        queue: Arc<Queue>,
        notify: Notify,
    ) -> Self {
        Self {
            name,
            encoder,
            buffer: Vec::new(),
            place,
            segment: start.segment,
            start,
            next_seq: 0,
            encoded: 0,
            queue,
            notify,
        }
    }

    pub(super) fn run(mut self) {
        self.mend_torn_end();
        let state = match self.work() {
            Ok(()) => State::Finished,
            Err(failure) if failure.error.kind() == io::ErrorKind::BrokenPipe => {
                self.notify.say(Notice::OutputClosed {
                    output: self.name.clone(),
                });
                State::Closed
            }
            Err(Failure { action, error }) => {
                self.notify.say(Notice::OutputFailed {
                    output: self.name.clone(),
                    action,
                    error,
                });
                State::Failed
            }
        };
        self.queue.end(state);
    }

    fn work(&mut self) -> Result<(), Failure> {
        loop {
            match self.queue.pop() {
                Some(Job::Batch(batch)) => self.encode(&batch)?,
                Some(Job::Reopen(now)) => self.reopen(now)?,
                Some(Job::Finish) => {
                    self.flush()?;
                    self.say_if_deleted();
                    return self.sync();
                }
                None => {
                    self.flush()?;
                    self.queue.wait();
                }
            }
        }
    }

    fn encode(&mut self, batch: &Batch) -> Result<(), Failure> {
        debug_assert!(batch.first_seq() == self.next_seq);
        if let Encoder::Raw = self.encoder {
            for bytes in batch.payloads() {
                if bytes.len() >= DIRECT_SIZE {
                    self.flush()?;
                    self.write(bytes)?;
                } else {
                    self.buffer.extend_from_slice(bytes);
                    self.flush_if_large()?;
                }
            }
        } else {
            for record in batch {
                self.encoder.encode(&record, &mut self.buffer);
                self.flush_if_large()?;
            }
        }
        self.next_seq = batch.next_seq();
        self.encoded += batch.records();
        Ok(())
    }

    /// A line that a crash cut short is ended, so that what is appended stands on lines of its own.
    fn mend_torn_end(&mut self) {
        if !matches!(self.encoder, Encoder::Raw) && ends_torn(self.place.file()) {
            self.notify.say(Notice::TornEnd {
                output: self.name.clone(),
            });
            self.buffer.push(b'\n');
        }
    }

    /// Goes on in a new file where the path leads to one, the old one ended and the new one begun
    /// as segments of one run.
    fn reopen(&mut self, now: Timestamp) -> Result<(), Failure> {
        let Place::File(file) = &self.place else {
            return Ok(());
        };
        let new = match file.open_again() {
            Ok(Some(new)) => new,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.notify.say(Notice::ReopenFailed {
                    output: self.name.clone(),
                    error,
                });
                return Ok(());
            }
        };
        let reason = EndReason::Rotated;
        self.encode_between(now, Event::End { reason });
        self.flush()?;
        self.sync()?;
        self.say_if_deleted();
        self.place = Place::File(new);
        self.mend_torn_end();
        self.segment += 1;
        self.notify.say(Notice::Reopened {
            output: self.name.clone(),
            segment: self.segment,
        });
        let start = Start {
            segment: self.segment,
            ..(*self.start).clone()
        };
        self.encode_between(now, Event::Start(Cow::Owned(start)));
        Ok(())
    }

    /// mv to another file system copies and then deletes; what came in between is nowhere.
    fn say_if_deleted(&self) {
        if let Place::File(file) = &self.place {
            if file.is_deleted() {
                self.notify.say(Notice::OutputDeleted {
                    output: self.name.clone(),
                });
            }
        }
    }

    /// Encodes a record of the output's own, which takes the number of the next without using it.
    fn encode_between(&mut self, time: Timestamp, event: Event<'_>) {
        let seq = self.next_seq;
        let record = Record { time, seq, event };
        self.encoder.encode(&record, &mut self.buffer);
    }

    fn flush_if_large(&mut self) -> Result<(), Failure> {
        if self.buffer.len() >= WRITE_SIZE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.write(&self.buffer)?;
        self.buffer.clear();
        self.queue.count_done(mem::take(&mut self.encoded));
        // One record can be far longer than the rest; its memory is not kept for ever.
        self.buffer.shrink_to(4 * WRITE_SIZE);
        Ok(())
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), Failure> {
        let mut file = self.place.file();
        let mut tries = 0;
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => {
                    return Err(Failure {
                        action: "write",
                        error: io::ErrorKind::WriteZero.into(),
                    });
                }
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.queue.count_written(written as u64);
                }
                Err(error) => match Recovery::of(&error) {
                    Recovery::Again => {}
                    Recovery::WhenWritable => wait_writable(file),
                    Recovery::Later => {
                        if tries % TRIES_A_NOTICE == 0 {
                            self.notify.say(Notice::OutputStalled {
                                output: self.name.clone(),
                                error,
                            });
                        }
                        tries += 1;
                        std::thread::park_timeout(RETRY);
                    }
                    Recovery::Never => {
                        return Err(Failure {
                            action: "write",
                            error,
                        });
                    }
                },
            }
        }
        // Only now: a disk that gives back a few bytes at a time is still full.
        if tries > 0 {
            self.notify.say(Notice::OutputResumed {
                output: self.name.clone(),
            });
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Failure> {
        match &self.place {
            Place::Stdout(_) => Ok(()),
            Place::File(file) => file.sync().map_err(|error| Failure {
                action: "sync",
                error,
            }),
        }
    }
}

/// What helps against a failed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing happened.
    Again,
    /// Somebody made the descriptor non-blocking; it is full.
    WhenWritable,
    /// Space may be given back, a limit may be raised.
    Later,
    Never,
}

impl Recovery {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::INTR) => Self::Again,
            Some(Errno::AGAIN) => Self::WhenWritable,
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Later,
            _ => Self::Never,
        }
    }
}

fn wait_writable(file: &File) {
    // Whatever it returns, the write that follows tells.
    let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_can_pass_are_waited_out() {
        fn check(errno: Errno, expected: Recovery) {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(Recovery::of(&error), expected, "{error}");
        }
        check(Errno::INTR, Recovery::Again);
        check(Errno::AGAIN, Recovery::WhenWritable);
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            check(errno, Recovery::Later);
        }
        for errno in [Errno::IO, Errno::PIPE, Errno::BADF, Errno::ROFS] {
            check(errno, Recovery::Never);
        }
    }
}
