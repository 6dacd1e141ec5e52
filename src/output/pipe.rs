//! Standard output, a pipe, a device: what is written in order and cannot be followed by another.

use std::io;

use super::outlet::{Outlet, can_pass};
use super::sink::{DIRECT_SIZE, Sink, WRITE_SIZE};
use crate::notice::{Notice, Patience};
use crate::record::Record;
use crate::record::chunk::Chunk;

/// It ends where it fails, and its output with it.
#[derive(Debug)]
pub(super) struct Pipe {
    sink: Sink,
    patience: Patience,
}

impl Pipe {
    pub(super) fn new(sink: Sink, outlet: &Outlet) -> Self {
        let mut pipe = Self {
            sink,
            patience: Patience::default(),
        };
        // Standard output can be a file that is appended to.
        if !outlet.scribe.is_raw() && pipe.sink.file().ends_torn() {
            outlet.say(Notice::TornEnd {
                output: outlet.name(),
            });
            pipe.sink.buffer().vec().push(b'\n');
        }
        pipe
    }

    pub(super) fn is_writable(&self) -> bool {
        self.sink.file().is_writable()
    }

    pub(super) fn record(&mut self, record: &Record<'_>, outlet: &mut Outlet) -> io::Result<()> {
        outlet.scribe.record(record, self.sink.buffer().vec());
        self.flush_if_large(outlet)
    }

    pub(super) fn chunk(&mut self, chunk: &mut Chunk<'_>, outlet: &mut Outlet) -> io::Result<()> {
        while !chunk.is_empty() {
            (outlet.scribe).chunk(chunk, self.sink.buffer(), WRITE_SIZE - 1);
            self.flush_if_large(outlet)?;
        }
        Ok(())
    }

    /// Where to encode a record of the output's own to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.sink.buffer().vec()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8], outlet: &Outlet) -> io::Result<()> {
        if bytes.len() >= DIRECT_SIZE && !self.sink.is_compressed() {
            self.flush(outlet)?;
            let count = |bytes| outlet.queue.count_written(bytes);
            match self.sink.write_through(bytes, count) {
                Err(error) if !can_pass(&error) => Err(error),
                _ => self.flush(outlet),
            }
        } else {
            self.sink.buffer().vec().extend_from_slice(bytes);
            self.flush_if_large(outlet)
        }
    }

    fn flush_if_large(&mut self, outlet: &Outlet) -> io::Result<()> {
        match self.sink.buffered() >= WRITE_SIZE {
            true => self.flush(outlet),
            false => Ok(()),
        }
    }

    /// Writes everything.
    ///
    /// # Errors
    /// One that does not pass. Nothing more can be written then.
    pub(super) fn flush(&mut self, outlet: &Outlet) -> io::Result<()> {
        while let Err(error) = self.sink.drain(|bytes| outlet.queue.count_written(bytes)) {
            if !can_pass(&error) {
                return Err(error);
            }
            if self.patience.is_to_be_said(outlet.now().elapsed_us) {
                outlet.say(Notice::OutputStalled {
                    output: outlet.name(),
                    error,
                });
            }
            outlet.rest();
        }
        if self.patience.is_over() {
            outlet.say(Notice::OutputResumed {
                output: outlet.name(),
            });
        }
        Ok(())
    }

    pub(super) fn finish(mut self, outlet: &Outlet) -> io::Result<()> {
        self.sink.close();
        self.flush(outlet)
    }
}
