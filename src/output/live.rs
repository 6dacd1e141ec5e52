//! The file that an output writes under its own name, and how it is followed by the next.
//!
//! A rotation is a machine of small steps. Each can fail, leaves everything as it was if it does, and
//! is the one that is tried first the next time:
//!
//! 1. the live file is renamed: `device.ndjson` → `device.20261122T120259Z.000007.ndjson`
//! 2. a new file is made under the live name
//! 3. what is left is written to the old file, and its `end`
//! 4. the old file is handed to the housekeeper, the new one begins with its `start`
//!
//! While 1 or 2 fail, records go on into the old file, whatever it is called by then: a rotation that
//! cannot be done holds up nothing. A file that fails itself is left by the same steps, 3 being cut
//! down to what can be done: records that it did not take whole go to the new one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::{DiskFile, Location};
use super::options::SyncPolicy;
use super::outlet::{Outlet, can_pass};
use super::queue::Gap;
use super::segment::SegmentNames;
use super::sink::{DIRECT_SIZE, Sink, WRITE_SIZE};
use crate::notice::{NOTICE_INTERVAL_US, Notice, Patience};
use crate::record::chunk::Chunk;
use crate::record::time::{WallTime, micros};
use crate::record::{ConnId, EndReason, Event, Record, Timestamp};

/// Bytes kept free in a segment for its `end`: the longest has 126.
pub(super) const END_SIZE: u64 = 160;

/// A regular file.
#[derive(Debug)]
pub(super) struct LiveFile {
    location: Location,
    names: SegmentNames,
    /// The only connection in it, where it holds but one.
    conn: Option<ConnId>,
    sink: Sink,
    /// Number of this segment in the run.
    number: u64,
    /// When it began, for its name.
    began: WallTime,
    /// When it is to be closed; known once it holds a record.
    due_us: Option<u64>,
    /// Something is in it that a rotation would put away.
    holds_records: bool,
    /// The first step of a rotation is done: this is what the file is called now.
    moved_to: Option<PathBuf>,
    /// The second is done too.
    next: Option<Sink>,
    /// A step of a rotation failed: it is not tried before.
    rests_until_us: u64,
    /// A sync failed: the next that does is passed over in silence up to then.
    sync_rests_until_us: u64,
    /// How long the file was when it was synced last.
    synced_len: u64,
    /// When the first write since then was.
    unsynced_since_us: Option<u64>,
    patience: Patience,
}

/// Where in the stream of records something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) time: Timestamp,
    /// Number of the record that comes next.
    pub(super) seq: u64,
}

/// A step that failed.
type Trouble = (&'static str, io::Error);

impl LiveFile {
    /// A file that was opened just now. The run's own first record is its `start`, unless
    /// [`LiveFile::begin`] writes one.
    pub(super) fn new(
        location: Location,
        sink: Sink,
        conn: Option<ConnId>,
        outlet: &mut Outlet,
    ) -> Self {
        let names = SegmentNames::new(&location.path, outlet.compression);
        let mut live = Self {
            location,
            names,
            conn,
            sink,
            number: outlet.scribe.segment(),
            began: WallTime::default(),
            due_us: None,
            holds_records: false,
            moved_to: None,
            next: None,
            rests_until_us: 0,
            sync_rests_until_us: 0,
            synced_len: 0,
            unsynced_since_us: None,
            patience: Patience::default(),
        };
        live.settle(outlet);
        live
    }

    /// Looks at what is in the file already.
    fn settle(&mut self, outlet: &mut Outlet) {
        let now = outlet.now();
        self.began = self.began.max(now.wall);
        self.due_us = None;
        self.synced_len = 0;
        self.unsynced_since_us = None;
        self.holds_records = self.sink.len() > 0;
        if !self.holds_records {
            return;
        }
        // It is older than this run, and its segment began when it was made.
        let began = self.sink.file().began().unwrap_or(now.wall).min(now.wall);
        self.began = began;
        let age_us = now.wall.unix_micros() - began.unix_micros();
        let every = outlet.options.rotation.every;
        self.due_us = every.map(|every| {
            let due_us = now.elapsed_us.saturating_add(micros(every));
            due_us.saturating_sub(age_us)
        });
        if self.sink.is_compressed() {
            // Nothing can be appended to a stream that may have been cut off: it is put away.
            match self.step_aside(outlet) {
                Ok(()) => self.adopt_next(outlet),
                Err(trouble) => self.say_rotation_failed(trouble, outlet),
            }
        } else if !outlet.scribe.is_raw() && self.sink.file().ends_torn() {
            // What is appended stands on lines of its own.
            outlet.say(Notice::TornEnd {
                output: self.location.path.display().to_string(),
            });
            self.sink.buffer().vec().push(b'\n');
        }
    }

    /// Begins it with a `start` of its own.
    pub(super) fn begin(&mut self, at: Moment, outlet: &mut Outlet) {
        // The run's own `start` is still to come.
        if at.seq == 0 {
            return;
        }
        outlet
            .scribe
            .begin(at.time, at.seq, self.conn, self.sink.buffer().vec());
        self.number = outlet.scribe.segment();
        self.mark(at.seq, outlet);
    }

    // --- records ---------------------------------------------------------------------------------

    pub(super) fn chunk(&mut self, chunk: &mut Chunk<'_>, outlet: &mut Outlet) {
        if outlet.scribe.is_raw() {
            return chunk.for_each(|record| self.record(&record, outlet));
        }
        while !chunk.is_empty() {
            let enough = self.enough(chunk.time, outlet);
            let last = self.sink.encode_chunk(chunk, &mut outlet.scribe, enough);
            let at = Moment {
                time: chunk.time,
                seq: last.next_seq,
            };
            self.place(last.at, at, outlet);
            self.flush_if_large(outlet);
        }
    }

    pub(super) fn record(&mut self, record: &Record<'_>, outlet: &mut Outlet) {
        let at = Moment {
            time: record.time,
            seq: record.seq,
        };
        if let Some(bytes) = outlet.scribe.raw_bytes(record) {
            self.bytes(bytes, at, outlet);
            outlet.scribe.pass(record.next_seq());
            return;
        }
        let counts = !matches!(record.event, Event::Start(_) | Event::End { .. });
        self.append(at, counts, outlet, |outlet, buffer| {
            outlet.scribe.record(record, buffer);
        });
    }

    /// Records are missing here.
    pub(super) fn gap(&mut self, gap: &Gap, outlet: &mut Outlet) {
        let at = Moment {
            time: gap.time,
            seq: gap.first_seq,
        };
        self.append(at, true, outlet, |outlet, buffer| {
            outlet.scribe.gap(gap, buffer);
            outlet.scribe.pass(gap.first_seq + gap.records);
        });
    }

    /// Appends what `encode` writes. `counts` is whether it is worth a segment.
    fn append(
        &mut self,
        at: Moment,
        counts: bool,
        outlet: &mut Outlet,
        encode: impl FnOnce(&mut Outlet, &mut Vec<u8>),
    ) {
        self.mark(at.seq, outlet);
        let before = self.sink.buffered();
        encode(outlet, self.sink.buffer().vec());
        if self.sink.buffered() == before {
            return;
        }
        match counts {
            true => self.place(before, at, outlet),
            false => self.mark(outlet.scribe.next_seq(), outlet),
        }
        self.flush_if_large(outlet);
    }

    /// The record that was encoded last, and begins at `start`, is the first of the next segment if this one
    /// has come to its end.
    fn place(&mut self, start: usize, at: Moment, outlet: &mut Outlet) {
        if self.is_due(at.time, 0, outlet) {
            self.rotate(start, at, outlet);
        }
        self.mark(outlet.scribe.next_seq(), outlet);
        self.note_record(at.time, outlet);
    }

    /// Appends raw bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8], at: Moment, outlet: &mut Outlet) {
        if self.is_due(at.time, bytes.len() as u64, outlet) {
            self.rotate(self.sink.buffered(), at, outlet);
        }
        self.note_record(at.time, outlet);
        if bytes.len() >= DIRECT_SIZE && !self.sink.is_compressed() {
            self.flush(outlet);
            let queue = Arc::clone(&outlet.queue);
            let count = |bytes| queue.count_written(bytes);
            if let Err(error) = self.sink.write_through(bytes, count) {
                self.handle_trouble(error, outlet);
            }
            // What the file did not take, and whatever is to follow a write.
            self.flush(outlet);
        } else {
            self.sink.buffer().vec().extend_from_slice(bytes);
            self.flush_if_large(outlet);
        }
    }

    fn mark(&mut self, seq: u64, outlet: &Outlet) {
        if !outlet.scribe.is_raw() {
            self.sink.mark(seq);
        }
    }

    fn note_record(&mut self, time: Timestamp, outlet: &Outlet) {
        if !std::mem::replace(&mut self.holds_records, true) {
            let every = outlet.options.rotation.every;
            self.due_us = every.map(|every| time.elapsed_us.saturating_add(micros(every)));
        }
    }

    // --- rotation --------------------------------------------------------------------------------

    /// Whether the segment ends before what was encoded last, or before `more` bytes.
    fn is_due(&self, time: Timestamp, more: u64, outlet: &Outlet) -> bool {
        if !self.holds_records || time.elapsed_us < self.rests_until_us {
            return false;
        }
        let is_full = outlet.options.rotation.size.is_some_and(|size| {
            if self.sink.is_compressed() {
                self.sink.len() >= size
            } else {
                self.sink.expected_len() + more > before_end(size, outlet)
            }
        });
        is_full || self.due_us.is_some_and(|due_us| time.elapsed_us >= due_us)
    }

    /// Bytes that the buffer may have before a record of this time wants a look at whether it is due.
    fn enough(&self, time: Timestamp, outlet: &Outlet) -> usize {
        // Where it is, the next record is the one that does not belong to it; and it is due by nothing
        // before it has a record.
        if !self.holds_records || self.is_due(time, 0, outlet) {
            return 0;
        }
        let size = outlet.options.rotation.size;
        let size = size.filter(|_| !self.sink.is_compressed());
        let room = size.map_or(u64::MAX, |size| {
            before_end(size, outlet).saturating_sub(self.sink.expected_len())
        });
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        room.saturating_add(self.sink.buffered())
            .min(WRITE_SIZE - 1)
    }

    /// Closes the segment, and takes what stands in the buffer from `mark` on into the next.
    fn rotate(&mut self, mark: usize, at: Moment, outlet: &mut Outlet) {
        if let Err(trouble) = self.step_aside(outlet) {
            return self.say_rotation_failed(trouble, outlet);
        }
        let tail = self.sink.split_off(mark);
        self.hand_over(at, outlet);
        // Its beginning is marked even if the new file has been written to already.
        self.mark(at.seq, outlet);
        self.sink.buffer().vec().extend_from_slice(&tail);
    }

    fn say_rotation_failed(&mut self, (action, error): Trouble, outlet: &Outlet) {
        self.rests_until_us = outlet.now().elapsed_us + NOTICE_INTERVAL_US;
        outlet.say(Notice::RotateFailed {
            output: outlet.name(),
            action,
            error,
        });
    }

    /// The first two steps: afterwards the next file is open.
    fn step_aside(&mut self, outlet: &mut Outlet) -> Result<(), Trouble> {
        // Where somebody else has moved it already, there is nothing to rename.
        if self.moved_to.is_none() && self.sink.file().is_at(&self.location.path) {
            let name = self.rename(outlet).map_err(|error| ("rename", error))?;
            self.moved_to = Some(name);
        }
        if self.next.is_none() {
            let next = outlet.open(&self.location);
            self.next = Some(next.map_err(|error| ("open", error))?);
        }
        Ok(())
    }

    /// Renames it to the next name that is free.
    fn rename(&self, outlet: &mut Outlet) -> io::Result<PathBuf> {
        loop {
            let name = self.names.closed(self.began, outlet.next_number);
            if !SegmentNames::forms(&name).any(|form| outlet.disk.exists(&form)) {
                match outlet.disk.rename(&self.location.path, &name) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                    Ok(()) => {
                        outlet.next_number += 1;
                        return Ok(name);
                    }
                }
            }
            outlet.next_number += 1;
        }
    }

    /// The last two steps, with the next file open.
    fn hand_over(&mut self, at: Moment, outlet: &mut Outlet) {
        // Behind the last mark stands what no other file takes over.
        self.mark(at.seq, outlet);
        if at.seq > 0 {
            let reason = EndReason::Rotated;
            outlet
                .scribe
                .end(at.time, at.seq, reason, self.sink.buffer().vec());
        }
        self.sink.close();
        self.flush(outlet);
        // If the old file failed meanwhile, the new one was taken then.
        if self.next.is_some() {
            self.adopt_next(outlet);
            self.begin(at, outlet);
        }
    }

    /// Goes on in the next file; the old one is closed and whole as far as it can be.
    fn adopt_next(&mut self, outlet: &mut Outlet) {
        let Some(next) = self.next.take() else {
            return;
        };
        let old = std::mem::replace(&mut self.sink, next);
        let old = old.into_file();
        match self.moved_to.take() {
            Some(path) => outlet.housekeeper.closed(old, path),
            None => {
                if old.is_deleted() {
                    self.say_deleted(outlet);
                }
                outlet.housekeeper.seal(old, self.location.path.clone());
            }
        }
        self.settle(outlet);
    }

    fn say_deleted(&self, outlet: &Outlet) {
        outlet.queue.tear();
        outlet.say(Notice::OutputDeleted {
            output: self.location.path.display().to_string(),
        });
    }

    /// Goes on in a new file where the path leads to one, behind what was sent so far.
    pub(super) fn reopen(&mut self, at: Moment, outlet: &mut Outlet) {
        if self.moved_to.is_none() && self.sink.file().is_at(&self.location.path) {
            return;
        }
        if self.next.is_none() {
            match outlet.open(&self.location) {
                Ok(next) => self.next = Some(next),
                Err(error) => {
                    return outlet.say(Notice::ReopenFailed {
                        output: outlet.name(),
                        error,
                    });
                }
            }
        }
        self.hand_over(at, outlet);
        self.say_reopened(outlet);
    }

    fn say_reopened(&self, outlet: &Outlet) {
        outlet.say(Notice::Reopened {
            output: self.location.path.display().to_string(),
            segment: self.number,
        });
    }

    // --- writing ---------------------------------------------------------------------------------

    /// Writes everything, however long that takes. What cannot be written here is taken to the next
    /// file.
    pub(super) fn flush(&mut self, outlet: &mut Outlet) {
        loop {
            let queue = &outlet.queue;
            match self.sink.drain(|bytes| queue.count_written(bytes)) {
                Ok(()) => break,
                Err(error) => self.handle_trouble(error, outlet),
            }
        }
        // Only now: a disk that gives back a few bytes at a time is still full.
        if self.patience.is_over() {
            outlet.say(Notice::OutputResumed {
                output: outlet.name(),
            });
        }
        self.sync_if_due(outlet);
        // If that failed, the next file has been begun.
        if self.sink.buffered() > 0 {
            self.flush(outlet);
        }
    }

    fn flush_if_large(&mut self, outlet: &mut Outlet) {
        if self.sink.buffered() >= WRITE_SIZE {
            self.flush(outlet);
        }
    }

    fn sync_if_due(&mut self, outlet: &mut Outlet) {
        if self.sink.len() == self.synced_len {
            return;
        }
        let is_due = match outlet.options.sync {
            SyncPolicy::Seal => false,
            SyncPolicy::Every(duration) => {
                let now_us = outlet.now().elapsed_us;
                let since_us = *self.unsynced_since_us.get_or_insert(now_us);
                now_us >= since_us.saturating_add(micros(duration))
            }
            SyncPolicy::Always => true,
        };
        if is_due {
            self.sync(outlet);
        }
    }

    /// A write failed. Afterwards it is worth another try, here or in the next file.
    fn handle_trouble(&mut self, error: io::Error, outlet: &mut Outlet) {
        let now_us = outlet.now().elapsed_us;
        let passes = can_pass(&error);
        if !passes {
            outlet.queue.tear();
        }
        // A new file that takes nothing is not helped by another: that would be one a try.
        if !passes && !self.sink.is_fresh() {
            match self.step_aside(outlet) {
                Ok(()) => {
                    outlet.say(Notice::SegmentFailed {
                        output: outlet.name(),
                        action: "write",
                        error,
                    });
                    return self.escape(outlet);
                }
                Err((action, error)) => {
                    if now_us >= self.rests_until_us {
                        self.say_rotation_failed((action, error), outlet);
                    }
                }
            }
        }
        if self.patience.is_to_be_said(now_us) {
            outlet.say(Notice::OutputStalled {
                output: outlet.name(),
                error,
            });
        }
        // Who moves or deletes a file to make room asks for a new one: no reason to wait until the
        // old one takes more.
        if !self.sink.file().is_at(&self.location.path) && outlet.queue.wants_reopening() {
            let next = match self.next.take() {
                Some(next) => Ok(next),
                None => outlet.open(&self.location),
            };
            match next {
                Ok(next) => {
                    self.next = Some(next);
                    self.escape(outlet);
                    return self.say_reopened(outlet);
                }
                Err(error) => outlet.say(Notice::ReopenFailed {
                    output: outlet.name(),
                    error,
                }),
            }
        }
        outlet.rest();
    }

    /// Takes to the next file, which is open, what the old one did not take.
    fn escape(&mut self, outlet: &mut Outlet) {
        let carry = self.sink.carry();
        let at = Moment {
            time: outlet.now(),
            seq: match outlet.scribe.is_raw() {
                true => outlet.scribe.next_seq(),
                false => carry.first_seq,
            },
        };
        if at.seq > 0 && carry.is_clean && !self.sink.is_compressed() {
            let mut end = Vec::new();
            let reason = EndReason::Rotated;
            outlet.scribe.end(at.time, at.seq, reason, &mut end);
            self.sink.try_write(&end);
        }
        self.adopt_next(outlet);
        self.begin(at, outlet);
        if !carry.is_empty() {
            self.note_record(at.time, outlet);
        }
        self.sink.put(carry);
    }

    // --- time, and the end -----------------------------------------------------------------------

    /// When [`LiveFile::expire`] has something to do.
    pub(super) fn deadline_us(&self, outlet: &Outlet) -> Option<u64> {
        // Before the run's own `start` there is nothing to close.
        let has_begun = outlet.scribe.next_seq() > 0;
        let rotation = (self.due_us)
            .filter(|_| self.holds_records && has_begun)
            .map(|due_us| due_us.max(self.rests_until_us));
        let sync = match outlet.options.sync {
            SyncPolicy::Every(duration) => {
                (self.unsynced_since_us).map(|since_us| since_us.saturating_add(micros(duration)))
            }
            SyncPolicy::Seal | SyncPolicy::Always => None,
        };
        [rotation, sync].into_iter().flatten().min()
    }

    /// Writes everything, and does what the time asks for.
    pub(super) fn expire(&mut self, at: Moment, outlet: &mut Outlet) {
        let is_closed_by_time = (self.due_us).is_some_and(|due_us| at.time.elapsed_us >= due_us);
        if is_closed_by_time && at.seq > 0 && self.is_due(at.time, 0, outlet) {
            self.rotate(self.sink.buffered(), at, outlet);
        }
        self.flush(outlet);
    }

    fn sync(&mut self, outlet: &mut Outlet) {
        self.unsynced_since_us = None;
        let is_first = std::mem::replace(&mut self.synced_len, self.sink.len()) == 0;
        let mut synced = self.sink.sync();
        if is_first && synced.is_ok() {
            synced = self.sink.file().sync_name(&self.location.path);
        }
        let Err(error) = synced else {
            return;
        };
        outlet.queue.tear();
        // The kernel has given the bytes up; only what comes now can be saved, in another file. But
        // where no sync succeeds, not in one file each.
        let now_us = outlet.now().elapsed_us;
        if now_us < self.sync_rests_until_us {
            return;
        }
        self.sync_rests_until_us = now_us + NOTICE_INTERVAL_US;
        if self.step_aside(outlet).is_err() {
            return outlet.say(Notice::SyncFailed {
                path: self.location.path.clone(),
                error,
            });
        }
        outlet.say(Notice::SegmentFailed {
            output: outlet.name(),
            action: "sync",
            error,
        });
        self.escape(outlet);
    }

    /// Writes what is left, with an `end` if it is to have one, and gives the file back to be
    /// synced.
    pub(super) fn finish(
        mut self,
        end: Option<(Moment, EndReason)>,
        outlet: &mut Outlet,
    ) -> (Box<dyn DiskFile>, PathBuf) {
        // If the file fails at this, the next is to be ended as well.
        while !self.sink.is_closing() {
            if let Some((at, reason)) = &end {
                self.mark(at.seq, outlet);
                let buffer = self.sink.buffer().vec();
                (outlet.scribe).end(at.time, at.seq, reason.clone(), buffer);
            }
            self.sink.close();
            self.flush(outlet);
        }
        if self.sink.file().is_deleted() {
            self.say_deleted(outlet);
        }
        let path = self.moved_to.unwrap_or(self.location.path);
        (self.sink.into_file(), path)
    }
}

/// Where in a segment of this size its `end` is to begin.
fn before_end(size: u64, outlet: &Outlet) -> u64 {
    match outlet.scribe.is_json() {
        true => size.saturating_sub(END_SIZE),
        false => size,
    }
}
