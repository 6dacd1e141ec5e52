//! A file a connection, a peer or a day: an output whose path is a template.
//!
//! Every file is a segment of its own while it is open, with a `start` and an `end`. No more than
//! [`MAX_OPEN`] are: the one that was written to longest ago is ended, and begun again behind its
//! `end` when more comes for it.

use std::collections::HashMap;
use std::path::PathBuf;

use rustix::io::Errno;

use super::disk::{DiskFile, Location};
use super::live::{LiveFile, Moment};
use super::outlet::Outlet;
use super::queue::Gap;
use super::template::{Template, Values, date};
use crate::notice::{Notice, Patience};
use crate::record::chunk::Chunk;
use crate::record::time::WallTime;
use crate::record::{ConnId, EndReason, Endpoints, Event, Record};

/// Files of one output that are open at most.
pub(super) const MAX_OPEN: usize = 64;

/// As many if they are compressed as they are written: a compressor takes a few megabytes.
const MAX_OPEN_COMPRESSED: usize = 8;

/// Encoded bytes of all files together that are kept back while more is queued.
const BUFFERED: usize = 1 << 20;

/// What a record takes beside its payload, about.
const RECORD_SIZE: usize = 256;

/// The files of one output.
#[derive(Debug)]
pub(super) struct ManyFiles {
    template: Template,
    open: HashMap<PathBuf, OpenFile>,
    /// Where the records of a connection go, found once.
    paths: HashMap<ConnId, PathBuf>,
    /// The day that `open` and `paths` are of, and a time in it.
    page: Option<(String, WallTime)>,
    /// Counts records, to tell which file was written to longest ago.
    uses: u64,
    /// Bytes encoded since everything was flushed, about.
    buffered: usize,
    /// Records that were missed while no file was open: for the next that is.
    gap: Option<Gap>,
}

#[derive(Debug)]
struct OpenFile {
    live: LiveFile,
    used: u64,
}

/// What becomes of a file that is not written to for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More may come.
    Rests,
    /// Nothing more comes: it is a closed segment.
    IsFinished,
}

impl ManyFiles {
    pub(super) fn new(template: Template) -> Self {
        Self {
            template,
            open: HashMap::new(),
            paths: HashMap::new(),
            page: None,
            uses: 0,
            buffered: 0,
            gap: None,
        }
    }

    pub(super) fn record(
        &mut self,
        record: &Record<'_>,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) {
        let at = Moment {
            time: record.time,
            seq: record.seq,
        };
        // The run's own begin and end are each file's.
        match &record.event {
            Event::Start(_) => return outlet.scribe.pass(record.next_seq()),
            Event::End { reason } => {
                self.close_all(at, reason, Next::Rests, outlet);
                return outlet.scribe.pass(record.next_seq());
            }
            _ => {}
        }
        let path = self.path(at, endpoints, outlet);
        let live = self.file(&path, at, endpoints, outlet);
        live.record(record, outlet);
        let behind = Moment {
            seq: record.next_seq(),
            ..at
        };
        if let (Event::Close { .. }, Some(endpoints)) = (&record.event, endpoints) {
            self.paths.remove(&endpoints.conn);
            if self.template.is_by_connection() {
                self.close(&path, behind, EndReason::Closed, Next::IsFinished, outlet);
            }
        }
        let payload = match &record.event {
            Event::Data { payload, .. } => payload.len(),
            _ => 0,
        };
        self.count(RECORD_SIZE + payload, behind, outlet);
    }

    pub(super) fn chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) {
        let at = Moment {
            time: chunk.time,
            seq: chunk.next_seq,
        };
        let payload = chunk.pieces.rest().len();
        let path = self.path(at, endpoints, outlet);
        let live = self.file(&path, at, endpoints, outlet);
        live.chunk(chunk, outlet);
        let behind = Moment {
            seq: chunk.next_seq,
            ..at
        };
        let records = (behind.seq - at.seq) as usize;
        self.count(records * RECORD_SIZE + payload, behind, outlet);
    }

    /// So many bytes more were encoded, about.
    fn count(&mut self, bytes: usize, behind: Moment, outlet: &mut Outlet) {
        self.buffered += bytes;
        if self.buffered >= BUFFERED {
            self.flush(outlet);
            self.expire(behind, outlet);
        }
    }

    /// Where the records of a connection go now.
    fn path(&mut self, at: Moment, endpoints: Option<&Endpoints>, outlet: &mut Outlet) -> PathBuf {
        self.turn_page(at, outlet);
        let Some(endpoints) = endpoints.filter(|_| self.template.needs_connection()) else {
            return self.expand(endpoints, outlet);
        };
        if let Some(path) = self.paths.get(&endpoints.conn) {
            return path.clone();
        }
        let path = self.expand(Some(endpoints), outlet);
        self.paths.insert(endpoints.conn, path.clone());
        path
    }

    /// Another day is another file. A clock that is set back does not bring the old one back: its
    /// files are closed.
    fn turn_page(&mut self, at: Moment, outlet: &mut Outlet) {
        let wall = at.time.wall;
        if self.template.is_by_date() {
            let date = date(wall);
            // Dates sort as their texts do.
            if self.page.as_ref().is_none_or(|(old, _)| date > *old) {
                self.page = Some((date, wall));
                self.paths.clear();
                self.close_all(at, &EndReason::Rotated, Next::IsFinished, outlet);
            }
        }
    }

    /// Where the records of a connection go today.
    fn expand(&self, endpoints: Option<&Endpoints>, outlet: &Outlet) -> PathBuf {
        self.template.expand(&Values {
            run: outlet.scribe.start().run,
            wall: self
                .page
                .as_ref()
                .map_or_else(WallTime::default, |(_, wall)| *wall),
            endpoints,
        })
    }

    /// The open file at `path`, opened if it is not.
    fn file(
        &mut self,
        path: &PathBuf,
        at: Moment,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) -> &mut LiveFile {
        self.uses += 1;
        let used = self.uses;
        if !self.open.contains_key(path) {
            let most = match outlet.compression {
                Some(_) => MAX_OPEN_COMPRESSED,
                None => MAX_OPEN,
            };
            while self.open.len() >= most {
                self.rest_one(at, outlet);
            }
            let live = self.open_file(path, at, endpoints, outlet);
            self.open.insert(path.clone(), OpenFile { live, used });
        }
        let Some(open) = self.open.get_mut(path) else {
            unreachable!("it was inserted above");
        };
        open.used = used;
        &mut open.live
    }

    /// Opens a file however long that takes: its records are kept.
    fn open_file(
        &mut self,
        path: &PathBuf,
        at: Moment,
        endpoints: Option<&Endpoints>,
        outlet: &mut Outlet,
    ) -> LiveFile {
        let location = Location {
            path: self.template.folder().join(path),
            made_up: path.components().count(),
        };
        let mut patience = Patience::default();
        let sink = loop {
            match outlet.open(&location) {
                Ok(sink) => break sink,
                Err(error) => {
                    let errno = Errno::from_io_error(&error);
                    if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) && !self.open.is_empty() {
                        self.rest_one(at, outlet);
                        continue;
                    }
                    if patience.is_to_be_said(outlet.now().elapsed_us) {
                        outlet.say(Notice::OpenFailed {
                            output: outlet.name(),
                            path: location.path.clone(),
                            error,
                        });
                    }
                    outlet.rest();
                }
            }
        };
        if patience.is_over() {
            outlet.say(Notice::OutputResumed {
                output: outlet.name(),
            });
        }
        // What was missed before any file was there stands in the first, before all else.
        let missed = self.gap.take();
        let at = missed.map_or(at, |gap| Moment {
            seq: gap.first_seq,
            ..at
        });
        let conn = endpoints.map(|endpoints| endpoints.conn);
        let conn = conn.filter(|_| self.template.is_by_connection());
        let mut live = LiveFile::new(location, sink, conn, outlet);
        live.begin(at, outlet);
        if let Some(gap) = missed {
            live.gap(&gap, outlet);
        }
        live
    }

    /// Ends the file that was written to longest ago, for now.
    fn rest_one(&mut self, at: Moment, outlet: &mut Outlet) {
        let oldest = self.open.iter().min_by_key(|(_, open)| open.used);
        if let Some(path) = oldest.map(|(path, _)| path.clone()) {
            self.close(&path, at, EndReason::Rotated, Next::Rests, outlet);
        }
    }

    fn close(
        &mut self,
        path: &PathBuf,
        at: Moment,
        reason: EndReason,
        next: Next,
        outlet: &mut Outlet,
    ) {
        let Some(open) = self.open.remove(path) else {
            return;
        };
        let (file, path): (Box<dyn DiskFile>, _) = open.live.finish(Some((at, reason)), outlet);
        match next {
            Next::Rests => outlet.housekeeper.seal(file, path),
            Next::IsFinished => outlet.housekeeper.closed(file, path),
        }
    }

    /// Whether what a file has is a part of the run's records.
    pub(super) fn holds_parts(&self) -> bool {
        self.template.needs_connection()
    }

    /// Nothing more comes of the run, be it over or not.
    pub(super) fn leave_run(&mut self, at: Moment, outlet: &mut Outlet) {
        self.close_all(at, &EndReason::Rotated, Next::Rests, outlet);
        self.paths.clear();
        self.page = None;
    }

    fn close_all(&mut self, at: Moment, reason: &EndReason, next: Next, outlet: &mut Outlet) {
        let mut paths: Vec<_> = self.open.keys().cloned().collect();
        paths.sort();
        for path in paths {
            self.close(&path, at, reason.clone(), next, outlet);
        }
    }

    /// Which files missed them is not known: each of them that is open says so.
    pub(super) fn gap(&mut self, gap: &Gap, outlet: &mut Outlet) {
        if self.open.is_empty() {
            let first = self.gap.get_or_insert(Gap {
                records: 0,
                bytes: 0,
                ..*gap
            });
            first.records += gap.records;
            first.bytes += gap.bytes;
        }
        for open in self.open.values_mut() {
            open.live.gap(gap, outlet);
        }
        outlet.scribe.pass(gap.first_seq + gap.records);
        // Connections may have been closed in it.
        self.paths.clear();
    }

    pub(super) fn reopen(&mut self, at: Moment, outlet: &mut Outlet) {
        for open in self.open.values_mut() {
            open.live.reopen(at, outlet);
        }
    }

    pub(super) fn flush(&mut self, outlet: &mut Outlet) {
        for open in self.open.values_mut() {
            open.live.flush(outlet);
        }
        self.buffered = 0;
    }

    pub(super) fn deadline_us(&self, outlet: &Outlet) -> Option<u64> {
        let deadlines = self.open.values();
        deadlines
            .filter_map(|open| open.live.deadline_us(outlet))
            .min()
    }

    pub(super) fn expire(&mut self, at: Moment, outlet: &mut Outlet) {
        for open in self.open.values_mut() {
            open.live.expire(at, outlet);
        }
    }
}
