//! The capture core: what is recorded of which connection, and when a connection must go.
//!
//! It owns connections by [`Slot`], ids, offsets, totals, checksums, framing and deadlines, and
//! writes record heads into the batch that it was given. It knows no sockets, no files and no
//! clock: the engine tells it what happened (`handle_*`) and asks what to do (`poll_*`), with the
//! time as a parameter. So whole runs are tested by scripts and by simulation (`tests/sim`).
//!
//! **Room.** A batch is finite. Before each `handle_*` that records something the caller makes sure
//! of [`Capture::has_room`] (once for both directions' `eof` and the `close` behind them); where there is none it
//! takes the batch away with [`Capture::poll_batch`] and hands over an empty one. While there is none
//! to hand over, nothing is read, accepted or closed: that is how a slow output holds the senders.

pub mod admission;
mod conn;
pub mod shutdown;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::time::Duration;

use slab::Slab;

use crate::record::batch::Batch;
use crate::record::deadline::Deadlines;
use crate::record::framing::CHUNK_MAX;
use crate::record::time::micros;
use crate::record::{
    CloseReason, ConnId, Direction, EndReason, Endpoints, Framing, Start, Timestamp, Totals,
};
use admission::{Admission, Refusal};
use conn::Connection;
use shutdown::{Phase, Shutdown};

/// One read takes at most this much, and so do all of a turn together, about, or [`READ_SHARE`] each if that is
/// more. It is what the kernel lets a sender have on its way by default, so that who floods alone is read with one
/// call and woken once.
pub const READ_MAX: usize = 4 * 1024 * 1024;

/// One read takes at most this much where others wait for their turn, or for what is read.
pub const READ_SHARE: usize = CHUNK_MAX;

/// One read is offered at least this much: what is left of an arena below it is not worth a call.
pub const READ_MIN: usize = 4 * 1024;

/// The most heads between two looks at the room: of each direction a carried line and its `eof`, and
/// the `close`.
const HEADS_A_STEP: usize = 5;

/// Names a connection while it is open. Used again once it is closed; [`ConnId`] is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// What the capture core is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// How bytes become records.
    pub framing: Framing,
    /// Open connections at most.
    pub max_conns: usize,
    /// Who may connect.
    pub admission: admission::Config,
    /// Once so many connections have been opened no other is; the run is over when they are closed.
    pub exit_after: Option<u64>,
    /// The run is told to stop after this long.
    pub run_for: Option<Duration>,
    /// A connection that sends nothing for this long is closed.
    pub idle_timeout: Option<Duration>,
    /// A connection older than this is closed.
    pub max_age: Option<Duration>,
    /// What the end of a run may take; see [`Shutdown`].
    pub drain: Duration,
    /// Bytes that all unfinished lines may hold together. Beyond it they are recorded as they are.
    pub carry_limit: usize,
    /// Whether an output tells the checksums of a `close` record; else they are not made.
    pub checksums: bool,
}

impl Config {
    /// Without limits, and with no time to end in.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            max_conns: usize::MAX,
            admission: admission::Config::default(),
            exit_after: None,
            run_for: None,
            idle_timeout: None,
            max_age: None,
            drain: Duration::ZERO,
            carry_limit: usize::MAX,
            checksums: true,
        }
    }
}

/// The capture core; see the [module](self).
#[derive(Debug)]
pub struct Capture {
    config: Config,
    conns: Slab<Connection>,
    admission: Admission,
    deadlines: Deadlines<(Slot, ConnId)>,
    /// The end of the run, which the engine steers.
    pub shutdown: Shutdown,
    batch: Option<Batch>,
    batch_serial: u64,
    next_seq: u64,
    carried: usize,
    totals: Totals,
}

impl Capture {
    /// A core without connections and without a batch.
    pub fn new(config: Config) -> Self {
        Self {
            conns: Slab::new(),
            deadlines: Deadlines::default(),
            admission: Admission::new(config.admission.clone()),
            shutdown: Shutdown::new(config.drain, config.run_for),
            batch: None,
            batch_serial: 0,
            next_seq: 0,
            carried: 0,
            totals: Totals::default(),
            config,
        }
    }

    // --- batches ---------------------------------------------------------------------------------

    /// Takes an empty batch to record into. The last one must have been taken away.
    pub fn handle_batch(&mut self, mut batch: Batch) {
        debug_assert!(self.batch.is_none());
        batch.start_at(self.next_seq);
        self.batch_serial += 1;
        self.batch = Some(batch);
    }

    /// Gives the batch away if anything is recorded in it.
    pub fn poll_batch(&mut self) -> Option<Batch> {
        self.batch.take_if(|batch| !batch.is_empty())
    }

    /// Whether there is a batch with records in it.
    pub fn has_records(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| !batch.is_empty())
    }

    /// When the first record in the batch was seen, if there is one.
    pub fn first_recorded(&self) -> Option<Timestamp> {
        self.batch.as_ref().and_then(Batch::time)
    }

    /// Bytes that what is in the batch becomes, about, where each record takes so many beside its payload.
    pub fn recorded_size(&self, record: usize) -> usize {
        self.batch.as_ref().map_or(0, |batch| {
            batch.used() + (batch.records() as usize).saturating_mul(record)
        })
    }

    /// Whether there is a batch, and room in it for the next event, of the connection at `slot` or
    /// of none.
    pub fn has_room(&self, slot: Option<Slot>) -> bool {
        let carried = slot.map_or(0, |slot| self.conns[slot.0].carried());
        self.batch.as_ref().is_some_and(|batch| {
            batch.spare_heads() >= HEADS_A_STEP && batch.spare_len() >= carried + READ_MIN
        })
    }

    // --- the run ---------------------------------------------------------------------------------

    /// The run begins. Recorded before all else.
    pub fn handle_start(&mut self, start: Start, now: Timestamp) {
        debug_assert!(self.next_seq == 0 && self.has_room(None));
        batch(&mut self.batch).push_start(now, start);
        self.count(1);
    }

    /// The run ends: every connection has been closed.
    pub fn handle_end(&mut self, now: Timestamp) {
        debug_assert!(self.conns.is_empty() && self.has_room(None));
        batch(&mut self.batch).push_end(now, EndReason::Shutdown);
        self.count(1);
    }

    // --- connections -----------------------------------------------------------------------------

    /// Whether one more connection may be opened.
    pub fn may_open(&self) -> bool {
        self.conns.len() < self.config.max_conns
            && !self.has_opened_all()
            && matches!(self.shutdown.phase(), Phase::Running | Phase::Draining)
    }

    /// Whether as many connections have been opened as ever are to be.
    pub fn has_opened_all(&self) -> bool {
        (self.config.exit_after).is_some_and(|most| self.totals.opened >= most)
    }

    /// Whether a peer at this address is let in; `None` is one without an address.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, ip: Option<IpAddr>) -> Result<(), Refusal> {
        self.admission.check(ip)
    }

    /// A peer was not let in. It is counted, and nothing else is kept of it.
    pub fn handle_refused(&mut self) {
        self.totals.refused += 1;
    }

    /// The number that the next connection gets, where they are numbered as they are opened.
    pub fn next_conn(&self) -> ConnId {
        ConnId(self.totals.opened + 1)
    }

    /// The slot that the next connection gets.
    pub fn next_slot(&self) -> Slot {
        Slot(self.conns.vacant_key())
    }

    /// A connection was opened, with a peer at this address, if it has one; its number was not used before.
    pub fn handle_open(
        &mut self,
        endpoints: Endpoints,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Slot {
        debug_assert!(self.may_open() && self.has_room(None));
        self.totals.opened += 1;
        self.totals.open += 1;
        let counted = self.admission.handle_come(ip);
        let mut conn = Connection::new(endpoints, counted, self.config.checksums, now);
        let batch = batch(&mut self.batch);
        let index = conn.index_in(batch, self.batch_serial);
        batch.push_open(now, index);
        self.count(1);
        let (id, due) = (conn.endpoints.conn, due_us(&self.config, &conn));
        let slot = Slot(self.conns.insert(conn));
        if let Some(due) = due {
            self.deadlines.insert(due, (slot, id));
        }
        slot
    }

    /// Where the next bytes of this connection that go this way are read to: at most [`READ_MAX`], at
    /// least [`READ_MIN`] bytes.
    pub fn read_buffer(&mut self, slot: Slot, direction: Direction) -> &mut [u8] {
        // Room is left in front for the line that these bytes may end, so that it comes to lie in
        // one piece and only then is copied: a line that comes a byte at a time costs a byte each.
        let carried = self.conns[slot.0].flow(direction).carried();
        let spare = batch(&mut self.batch).spare();
        let end = spare.len().min(carried + READ_MAX);
        &mut spare[carried..end]
    }

    /// The first `len` bytes of [`Capture::read_buffer`] are what a read returned.
    pub fn handle_read(&mut self, slot: Slot, direction: Direction, len: usize, now: Timestamp) {
        let conn = &mut self.conns[slot.0];
        conn.active_us = now.elapsed_us;
        if conn.is_suspect {
            // It had been quiet, as far as could be seen, and is not.
            self.handle_alive(slot, now);
        }
        self.record(slot, direction, len, now);
    }

    /// The connection that seemed idle is not, though nothing came: its time begins anew.
    pub fn handle_alive(&mut self, slot: Slot, now: Timestamp) {
        let conn = &mut self.conns[slot.0];
        conn.active_us = now.elapsed_us;
        conn.is_suspect = false;
        if let Some(due) = due_us(&self.config, conn) {
            self.deadlines.insert(due, (slot, conn.endpoints.conn));
        }
    }

    /// The first `len` bytes of [`Capture::read_buffer`], going out, are what this side has sent of its
    /// own. That is no sign of life.
    pub fn handle_written(&mut self, slot: Slot, len: usize, now: Timestamp) {
        self.record(slot, Direction::Out, len, now);
    }

    fn record(&mut self, slot: Slot, direction: Direction, len: usize, now: Timestamp) {
        debug_assert!(len > 0 && self.has_room(Some(slot)));
        let batch = batch(&mut self.batch);
        let conn = &mut self.conns[slot.0];
        let flow = conn.flow_mut(direction);
        let carried = flow.carried();
        // What is carried is not in the arena yet, but its place is, and `whole` looks only behind it.
        let region = &batch.spare()[..carried + len];
        let whole = self.config.framing.whole(region, carried);
        let before = flow.carry_cost();
        let records = if whole > 0 {
            flow.unload_carry(batch.spare());
            flow.extend_carry(&batch.spare()[whole..carried + len]);
            conn.record(direction, batch, self.batch_serial, whole, now)
        } else {
            flow.extend_carry(&region[carried..]);
            0
        };
        self.carried = self.carried - before + conn.flow(direction).carry_cost();
        self.count_bytes(direction, whole);
        self.count(records);
        if self.carried > self.config.carry_limit {
            self.record_carry(slot, direction, now);
        }
    }

    /// The peer has ended a connection that is not read to its end yet: another of its address may come.
    pub fn handle_ending(&mut self, slot: Slot) {
        if let Some(ip) = self.conns[slot.0].counted_by.take() {
            self.admission.handle_gone(ip);
        }
    }

    /// These bytes were sent to the peer: counted, not recorded.
    pub fn handle_sent(&mut self, slot: Slot, bytes: &[u8]) {
        self.conns[slot.0].flow_mut(Direction::Out).count(bytes);
    }

    /// This direction has ended.
    pub fn handle_eof(&mut self, slot: Slot, direction: Direction, now: Timestamp) {
        debug_assert!(self.has_room(Some(slot)));
        self.record_carry(slot, direction, now);
        let batch = batch(&mut self.batch);
        let index = self.conns[slot.0].index_in(batch, self.batch_serial);
        batch.push_eof(now, index, direction);
        self.count(1);
    }

    /// The connection is closed. Its slot is free.
    pub fn handle_close(&mut self, slot: Slot, reason: CloseReason, now: Timestamp) {
        self.record_carry(slot, Direction::In, now);
        self.record_carry(slot, Direction::Out, now);
        self.handle_ending(slot);
        let mut conn = self.conns.remove(slot.0);
        self.totals.open -= 1;
        let conns = &self.conns;
        self.deadlines
            .sweep(conns.len(), |(slot, id): (Slot, ConnId)| {
                (conns.get(slot.0)).is_some_and(|conn| conn.endpoints.conn == id)
            });
        let batch = batch(&mut self.batch);
        let index = conn.index_in(batch, self.batch_serial);
        batch.push_close(now, index, conn.close(reason, now));
        self.count(1);
    }

    /// Records a line whose end has not come, as far as it goes.
    fn record_carry(&mut self, slot: Slot, direction: Direction, now: Timestamp) {
        let conn = &mut self.conns[slot.0];
        let flow = conn.flow_mut(direction);
        let carried = flow.carried();
        if carried == 0 {
            return;
        }
        let batch = batch(&mut self.batch);
        self.carried -= flow.carry_cost();
        flow.unload_carry(batch.spare());
        self.carried += flow.carry_cost();
        let records = conn.record(direction, batch, self.batch_serial, carried, now);
        self.count_bytes(direction, carried);
        self.count(records);
    }

    // --- time ------------------------------------------------------------------------------------

    /// When to call next, in microseconds since the start of the run: then [`Capture::poll_expired`]
    /// or [`Shutdown::handle_timeout`] may have something to do.
    pub fn deadline_us(&self) -> Option<u64> {
        let shutdown = self.shutdown.deadline_us();
        shutdown.into_iter().chain(self.deadlines.next()).min()
    }

    /// A connection whose time is over, and why: it is to be read to its end and closed. Told once;
    /// one that was idle, and turns out to have sent something, gets its time again.
    pub fn poll_expired(&mut self, now: Timestamp) -> Option<(Slot, CloseReason)> {
        let (conns, config) = (&self.conns, &self.config);
        let (slot, _) = self.deadlines.expired(now.elapsed_us, |(slot, id)| {
            let conn = conns.get(slot.0).filter(|conn| conn.endpoints.conn == id)?;
            due_us(config, conn)
        })?;
        let conn = &mut self.conns[slot.0];
        let is_old = age_us(&self.config, conn).is_some_and(|due| due <= now.elapsed_us);
        conn.is_suspect = !is_old;
        let reason = if is_old {
            CloseReason::Limit
        } else {
            CloseReason::IdleTimeout
        };
        Some((slot, reason))
    }

    // --- what it knows ---------------------------------------------------------------------------

    /// Deadlines that are kept: at most two for each open connection, and a few.
    pub fn deadlines(&self) -> usize {
        self.deadlines.entries()
    }

    /// Addresses of peers that are kept to count them: none without a connection.
    pub fn addresses(&self) -> usize {
        self.admission.addresses()
    }

    /// What was captured so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn count_bytes(&mut self, direction: Direction, bytes: usize) {
        let total = match direction {
            Direction::In => &mut self.totals.in_bytes,
            Direction::Out => &mut self.totals.out_bytes,
        };
        *total += bytes as u64;
    }

    fn count(&mut self, records: u64) {
        self.totals.records += records;
        self.next_seq += records;
    }
}

/// The batch at hand. That there is one is the caller's part; see [`Capture::has_room`].
fn batch(batch: &mut Option<Batch>) -> &mut Batch {
    batch.as_mut().expect("the caller has made sure of room")
}

fn age_us(config: &Config, conn: &Connection) -> Option<u64> {
    let age = config.max_age?;
    Some(conn.opened_us.saturating_add(micros(age)))
}

/// When the connection is to be closed if nothing more comes.
fn due_us(config: &Config, conn: &Connection) -> Option<u64> {
    let idle = config
        .idle_timeout
        .map(|idle| conn.active_us.saturating_add(micros(idle)));
    idle.into_iter().chain(age_us(config, conn)).min()
}
