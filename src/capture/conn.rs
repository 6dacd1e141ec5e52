//! One connection, as the capture core sees it.

use core::net::IpAddr;
use std::sync::Arc;

use crate::record::batch::{Batch, ConnIndex};
use crate::record::{Close, CloseReason, Direction, Endpoints, Timestamp};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) endpoints: Arc<Endpoints>,
    /// The address by which its peer is counted among those that are here.
    pub(super) counted_by: Option<IpAddr>,
    pub(super) opened_us: u64,
    /// When bytes last came or went; the start of the connection where none have.
    pub(super) active_us: u64,
    /// It was told to be idle for too long by [`super::Capture::poll_expired`].
    pub(super) is_suspect: bool,
    incoming: Flow,
    outgoing: Flow,
    /// Its place in the table of batch number `.0`.
    interned: (u64, ConnIndex),
}

/// What went one way so far.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes counted.
    bytes: u64,
    /// Where it is wanted.
    crc32: Option<crc32fast::Hasher>,
    /// With line framing: the beginning of a line whose end has not come.
    carry: Vec<u8>,
}

impl Flow {
    fn new(checksums: bool) -> Self {
        Self {
            crc32: checksums.then(crc32fast::Hasher::new),
            ..Self::default()
        }
    }

    pub(super) fn count(&mut self, bytes: &[u8]) {
        if let Some(crc32) = &mut self.crc32 {
            crc32.update(bytes);
        }
        self.bytes += bytes.len() as u64;
    }

    fn crc32(self) -> u32 {
        self.crc32.unwrap_or_default().finalize()
    }

    /// Bytes of a line whose end has not come.
    pub(super) fn carried(&self) -> usize {
        self.carry.len()
    }

    /// Bytes of memory that [`Flow::carried`] takes.
    pub(super) fn carry_cost(&self) -> usize {
        self.carry.capacity()
    }

    /// Adds bytes that do not end a line.
    pub(super) fn extend_carry(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
    }

    /// Moves what was carried to the front of `arena`.
    pub(super) fn unload_carry(&mut self, arena: &mut [u8]) {
        arena[..self.carry.len()].copy_from_slice(&self.carry);
        // Memory that is kept for the next line would add up over thousands of connections.
        self.carry = Vec::new();
    }
}

impl Connection {
    pub(super) fn new(
        endpoints: Endpoints,
        counted_by: Option<IpAddr>,
        checksums: bool,
        now: Timestamp,
    ) -> Self {
        Self {
            endpoints: Arc::new(endpoints),
            counted_by,
            opened_us: now.elapsed_us,
            active_us: now.elapsed_us,
            is_suspect: false,
            incoming: Flow::new(checksums),
            outgoing: Flow::new(checksums),
            interned: (0, ConnIndex::default()),
        }
    }

    /// Its place in `batch`, which is the `serial`th, from 1.
    pub(super) fn index_in(&mut self, batch: &mut Batch, serial: u64) -> ConnIndex {
        if self.interned.0 != serial {
            self.interned = (serial, batch.intern(&self.endpoints));
        }
        self.interned.1
    }

    pub(super) fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::In => &self.incoming,
            Direction::Out => &self.outgoing,
        }
    }

    pub(super) fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::In => &mut self.incoming,
            Direction::Out => &mut self.outgoing,
        }
    }

    /// Bytes of lines whose end has not come, of both directions.
    pub(super) fn carried(&self) -> usize {
        self.incoming.carried() + self.outgoing.carried()
    }

    /// Records the first `len` bytes of the batch's spare arena as having gone this way, and says how
    /// many records they are.
    pub(super) fn record(
        &mut self,
        direction: Direction,
        batch: &mut Batch,
        serial: u64,
        len: usize,
        now: Timestamp,
    ) -> u64 {
        let index = self.index_in(batch, serial);
        let flow = self.flow_mut(direction);
        let offset = flow.bytes;
        batch.push_data(now, index, direction, offset, len, |part| flow.count(part))
    }

    pub(super) fn close(self, reason: CloseReason, now: Timestamp) -> Close {
        Close {
            reason,
            in_bytes: self.incoming.bytes,
            out_bytes: self.outgoing.bytes,
            out_crc32: (self.outgoing.bytes > 0).then(|| self.outgoing.crc32()),
            in_crc32: self.incoming.crc32(),
            duration_us: now.elapsed_us.saturating_sub(self.opened_us),
        }
    }
}
