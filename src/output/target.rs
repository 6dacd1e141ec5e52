//! What an output writes to: a pipe, a file that is rotated, a file a connection.

use std::io;

use super::live::LiveFile;
use super::many::ManyFiles;
use super::outlet::Outlet;
use super::pipe::Pipe;
use crate::record::chunk::Chunk;
use crate::record::{Endpoints, Record};

/// See the [module](self).
#[derive(Debug)]
pub(super) enum Target {
    Pipe(Pipe),
    File(Box<LiveFile>),
    Many(ManyFiles),
}

impl Target {
    /// Whether a short write to it need not wait.
    pub(super) fn is_writable(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.is_writable(),
            // These can rotate at any record, and take long.
            Self::File(_) | Self::Many(_) => false,
        }
    }

    /// Encodes a record, and writes what is encoded where that is worth a write. `endpoints` are those of
    /// the connection that it speaks of.
    ///
    /// # Errors
    /// Nothing more can be written to it.
    pub(super) fn record(
        &mut self,
        record: &Record<'_>,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => return pipe.record(record, outlet),
            Self::File(live) => live.record(record, outlet),
            Self::Many(many) => many.record(record, endpoints, outlet),
        }
        Ok(())
    }

    /// Does the same with records that were made at once.
    ///
    /// # Errors
    /// As [`Target::record`].
    pub(super) fn chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => return pipe.chunk(chunk, outlet),
            Self::File(live) => live.chunk(chunk, outlet),
            Self::Many(many) => many.chunk(chunk, endpoints, outlet),
        }
        Ok(())
    }

    /// Writes everything.
    ///
    /// # Errors
    /// As [`Target::record`].
    pub(super) fn flush(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => return pipe.flush(outlet),
            Self::File(live) => live.flush(outlet),
            Self::Many(many) => many.flush(outlet),
        }
        Ok(())
    }

    /// Everything is written and synced.
    ///
    /// # Errors
    /// As [`Target::record`].
    pub(super) fn finish(self, outlet: &mut Outlet) -> io::Result<()> {
        let mut result = Ok(());
        match self {
            Self::Pipe(pipe) => result = pipe.finish(outlet),
            Self::File(live) => {
                let (file, path) = live.finish(None, outlet);
                outlet.housekeeper.seal(file, path);
            }
            // Its files were ended by the run's `end`, which no output misses.
            Self::Many(_) => {}
        }
        outlet.housekeeper.finish();
        result
    }
}
