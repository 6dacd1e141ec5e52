//! The review core: what a capture holds, and whether it is whole. No I/O, no clock.
//!
//! ```text
//! files, records, lines that are none → [`Review`] → sessions that ended, findings, a report a file
//! ```
//!
//! It is told what stands in the captures, in order (`handle_*`), and asked what came of it (`poll_*`).
//! What it keeps is an account of each connection that is open, and nothing of one that is closed; so a
//! capture may be of any length. That a connection is closed follows from its number: numbers are given
//! in the order of the opens (but for a replay's), so one that is below the highest and not open has been.
//!
//! A record that is missing has consequences: a connection without an `open`, bytes that are not there.
//! Those of bytes are told, because they say who has lost what; where anything is missing, a connection
//! without an `open` is not.

mod account;
mod finding;
mod numbers;
mod session;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::{HashMap, VecDeque};
use std::mem;

use crate::record::selection::Selection;
use crate::record::{
    Close, Conn, ConnId, Direction, EndReason, Event, Record, RunId, Start, Timestamp,
};
use account::{Account, Sent};
pub use finding::{Finding, Flaw};
use numbers::{Holes, Numbers};
pub use session::{Session, State, Totals};
pub use volume::Volume;

/// Reviews captures; see the [module](self).
#[derive(Debug)]
pub struct Review {
    selection: Selection,
    run: Run,
    /// Connections of this run that are open in the capture.
    open: HashMap<ConnId, Seen>,
    file: Report,
    /// Number of the file, from 1.
    nth_file: u64,
    findings: VecDeque<Finding>,
    sessions: VecDeque<Session>,
    totals: Totals,
    volume: Volume,
}

/// What is known of the run that is read.
#[derive(Debug, Default)]
struct Run {
    /// Its `start` was seen.
    start: Option<Start>,
    numbers: Numbers,
    /// A segment of it is being read: its `end` is to come.
    is_in_segment: bool,
    /// Why the last segment ended.
    ended: Option<EndReason>,
    /// It is read from its beginning: every connection has an `open`.
    is_whole: bool,
    /// Something of it is missing.
    has_loss: bool,
    /// The lowest and the highest number that an `open` was seen of.
    opened: Option<(ConnId, ConnId)>,
}

/// A connection that is open, and what there will be to tell of it.
#[derive(Debug)]
struct Seen {
    account: Account,
    local: Option<Box<str>>,
    target: Option<Box<str>>,
    /// The file in which its last record stands.
    nth_file: u64,
    taken: Taken,
}

/// What was selected of a connection.
#[derive(Debug, Default)]
struct Taken {
    start: Option<Timestamp>,
    last_us: u64,
    in_bytes: u64,
    out_bytes: u64,
    records: u64,
}

/// What stands in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs of which something stands in it.
    pub runs: u64,
    /// Connections of which something stands in it for the first time.
    pub sessions: u64,
    /// Records.
    pub records: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Findings.
    pub findings: u64,
    /// Its first run is here from this segment on, and what came before is not.
    pub begins_at: Option<u64>,
    /// Its last run may go on behind it, with so many connections that are open.
    pub goes_on: Option<usize>,
}

impl Run {
    fn id(&self) -> Option<RunId> {
        self.start.as_ref().map(|start| start.run)
    }

    fn is_part(&self) -> bool {
        (self.start.as_ref()).is_some_and(|start| start.part || start.conn.is_some())
    }

    fn is_replay(&self) -> bool {
        self.start
            .as_ref()
            .is_some_and(|start| start.mode == "replay")
    }

    fn sent(&self) -> Sent {
        match self.is_replay() {
            true => Sent::Counted,
            false => Sent::Recorded,
        }
    }

    /// Whether a connection that is not known to be open must have been opened here if it was.
    fn knows(&self, conn: ConnId) -> bool {
        let behind_first = self.opened.is_some_and(|(first, _)| conn >= first);
        !self.has_loss && (self.is_whole || behind_first && !self.is_replay())
    }

    /// Whether this connection has been open before.
    fn has_opened(&self, conn: ConnId) -> bool {
        !self.is_replay() && self.opened.is_some_and(|(_, last)| conn <= last)
    }
}

impl Review {
    /// Tells of what `selection` takes; all that is read is checked.
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            run: Run::default(),
            open: HashMap::new(),
            file: Report::default(),
            nth_file: 0,
            findings: VecDeque::new(),
            sessions: VecDeque::new(),
            totals: Totals::default(),
            volume: Volume::default(),
        }
    }

    // --- what came of it -------------------------------------------------------------------------

    /// The next finding.
    pub fn poll_finding(&mut self) -> Option<Finding> {
        self.findings.pop_front()
    }

    /// The next session that has ended.
    pub fn poll_session(&mut self) -> Option<Session> {
        self.sessions.pop_front()
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// All sessions that have ended.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Payload bytes of what was selected, over time.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    fn find(&mut self, line: u64, flaw: Flaw) {
        self.file.findings += 1;
        self.findings.push_back(Finding { line, flaw });
    }

    fn lose(&mut self, line: u64, flaw: Flaw) {
        self.run.has_loss = true;
        self.find(line, flaw);
    }

    // --- files -----------------------------------------------------------------------------------

    /// Another file begins.
    pub fn handle_file(&mut self) {
        self.nth_file += 1;
        self.file = Report::default();
        self.run.is_in_segment = false;
    }

    /// A line is no record: what stood in it is missing.
    pub fn handle_fault(&mut self) {
        self.file.findings += 1;
        self.run.has_loss = true;
    }

    /// The file ends behind this line.
    pub fn handle_file_end(&mut self, line: u64) -> Report {
        if mem::take(&mut self.run.is_in_segment) {
            self.find(line, Flaw::NoEnd);
        } else if let Some(EndReason::Rotated) = self.run.ended {
            let here = self.open.values();
            let here = here.filter(|seen| seen.nth_file == self.nth_file);
            self.file.goes_on = Some(here.count());
        }
        self.file
    }

    /// The captures are over: what is still open ends here.
    pub fn handle_end(&mut self) {
        self.end_all();
    }

    // --- records ---------------------------------------------------------------------------------

    /// The next record, which stands in this line of the file.
    pub fn handle_record(&mut self, line: u64, record: &Record<'_>) {
        self.file.records += 1;
        if let Event::Start(start) = &record.event {
            self.handle_start(line, record.seq, start);
        } else if !self.run.is_in_segment {
            self.begin_without_start(line, record.seq);
        }
        if let Some(conn) = record.event.conn() {
            let wall = record.time.wall;
            if self.selection.takes_time(wall) && self.selection.takes_conn(conn) {
                self.totals.reach(wall);
            }
        }
        let holes = match self.run.is_part() {
            true => Holes::Elsewhere,
            false => Holes::Missing,
        };
        let used = used(record);
        if let Some(flaw) = self.run.numbers.handle(record.seq, used, holes) {
            self.lose(line, flaw);
        }
        if used > 0 {
            // What stands between two segments has the time of its writing.
            if let Some(flaw) = self.run.numbers.handle_time(record.time.elapsed_us) {
                self.find(line, flaw);
            }
        }
        match &record.event {
            Event::Start(_) => {}
            Event::Gap { records, bytes, .. } => {
                self.totals.gaps += 1;
                self.totals.missed = self.totals.missed.saturating_add(*records);
                let (records, bytes) = (*records, *bytes);
                self.lose(line, Flaw::Gap { records, bytes });
            }
            Event::End { reason } => self.handle_end_record(line, reason),
            Event::Open {
                conn,
                local,
                target,
            } => self.handle_open(line, record.time, conn, local, target.as_deref()),
            Event::Data { conn, .. } | Event::Eof { conn, .. } => {
                self.handle_conn(line, record, conn);
            }
            Event::Close { conn, close } => {
                self.handle_conn(line, record, conn);
                if let Some(seen) = self.open.remove(&conn.id) {
                    self.end(seen, Some((close, record.time)));
                }
            }
        }
    }

    fn handle_start(&mut self, line: u64, seq: u64, start: &Start) {
        if self.run.is_in_segment {
            self.find(line, Flaw::NoEnd);
        }
        let is_part = start.part || start.conn.is_some();
        let last = self.run.start.as_ref().map(|last| last.segment);
        let expected = last.map_or(1, |last| last.saturating_add(1));
        let is_first_here = self.file.runs == 0;
        // A file that begins with a segment that was read is of another output, or a copy: by itself.
        let is_another = is_first_here && !is_part && start.segment < expected;
        let goes_on = self.run.id() == Some(start.run) && !is_another;
        // At the end of a file the run may go on in the next one; in its middle it does not.
        let is_left = self.run.ended == Some(EndReason::Rotated) && !self.run.is_part();
        if !is_first_here && !goes_on && is_left {
            self.find(line, Flaw::GoesOn);
        }
        if !is_first_here && !goes_on && !is_part && start.segment > 1 {
            self.find(line, Flaw::BeginsLate(start.segment));
        }
        if !goes_on {
            self.begin_run();
        } else if is_part {
            // Other files have the segments between.
            if is_first_here {
                // Another part: its records are between those of the ones before.
                self.run.numbers.forget();
                self.run.opened = None;
                self.run.is_whole = false;
                self.run.has_loss = false;
            }
        } else if start.segment != expected {
            let found = start.segment;
            self.find(line, Flaw::Segment { expected, found });
            if found < expected {
                self.begin_run();
            }
        }
        if is_first_here && !goes_on && !is_part && start.segment > 1 {
            self.file.begins_at = Some(start.segment);
        }
        if !goes_on || is_first_here {
            self.file.runs += 1;
        }
        self.run.is_whole |= start.segment == 1;
        if !goes_on && start.segment == 1 && !is_part && seq > 1 {
            // A file that was made for a day has no record 0: its own `start` stands for it.
            self.run.numbers.expect(1);
        }
        self.run.start = Some(start.clone());
        self.run.is_in_segment = true;
        self.run.ended = None;
    }

    /// A record with nothing before it that tells its run.
    fn begin_without_start(&mut self, line: u64, seq: u64) {
        self.find(line, Flaw::NoStart);
        let goes_on = self.run.numbers.fits(seq) && self.run.ended.is_none();
        if !goes_on {
            self.begin_run();
        }
        self.file.runs += u64::from(!goes_on || self.file.runs == 0);
        self.run.is_in_segment = true;
        self.run.ended = None;
    }

    /// Connections of another run are others, whatever their numbers.
    fn begin_run(&mut self) {
        self.end_all();
        self.run = Run::default();
        self.totals.runs += 1;
    }

    fn handle_end_record(&mut self, line: u64, reason: &EndReason) {
        self.run.is_in_segment = false;
        let only = self.run.start.as_ref().and_then(|start| start.conn);
        let (nth_file, is_part) = (self.nth_file, self.run.is_part());
        let is_over = |seen: &Seen| match reason {
            EndReason::Rotated => false,
            EndReason::Closed => only == Some(seen.account.conn),
            // Those of other parts have an end of their own.
            EndReason::Shutdown | EndReason::Other(_) => !is_part || seen.nth_file == nth_file,
        };
        let left = self.open.values().filter(|seen| is_over(seen));
        let mut left: Vec<ConnId> = left.map(|seen| seen.account.conn).collect();
        left.sort_unstable();
        if let Some(&first) = left.first() {
            let others = left.len() as u64 - 1;
            self.find(line, Flaw::StillOpen { first, others });
        }
        for conn in left {
            if let Some(seen) = self.open.remove(&conn) {
                self.end(seen, None);
            }
        }
        self.run.ended = Some(reason.clone());
    }

    // --- connections -----------------------------------------------------------------------------

    fn handle_open(
        &mut self,
        line: u64,
        time: Timestamp,
        conn: &Conn<'_>,
        local: &str,
        target: Option<&str>,
    ) {
        let left = self.open.remove(&conn.id);
        if left.is_some() || self.run.has_opened(conn.id) {
            self.find(line, Flaw::OpenAgain(conn.id));
        }
        if let Some(left) = left {
            self.end(left, None);
        }
        let opened = self.run.opened.get_or_insert((conn.id, conn.id));
        *opened = (opened.0.min(conn.id), opened.1.max(conn.id));
        let mut seen = Seen {
            account: Account::opened(conn.id, &conn.peer, time.elapsed_us),
            local: Some(local.into()),
            target: target.map(Into::into),
            nth_file: self.nth_file,
            taken: Taken::default(),
        };
        if self.selection.takes_time(time.wall) {
            seen.taken.add(time);
        }
        self.file.sessions += 1;
        self.open.insert(conn.id, seen);
    }

    /// What goes over a connection, or its end.
    fn handle_conn(&mut self, line: u64, record: &Record<'_>, conn: &Conn<'_>) {
        let sent = self.run.sent();
        let (nth_file, file) = (self.nth_file, &mut self.file);
        let findings = &mut self.findings;
        let mut found = 0;
        let mut find = |flaw| {
            found += 1;
            findings.push_back(Finding { line, flaw });
        };
        let (open, run) = (&mut self.open, &self.run);
        let seen = open.entry(conn.id).or_insert_with(|| {
            let mut account = Account::joined(conn.id, &conn.peer);
            if run.knows(conn.id) {
                account.is_damaged = true;
                find(Flaw::NotOpen(conn.id));
            }
            file.sessions += 1;
            Seen {
                account,
                local: None,
                target: None,
                nth_file,
                taken: Taken::default(),
            }
        });
        seen.nth_file = nth_file;
        seen.account.handle_peer(&conn.peer, &mut find);
        let is_taken = self.selection.takes_time(record.time.wall);
        if is_taken {
            seen.taken.add(record.time);
        }
        match &record.event {
            Event::Data {
                direction,
                offset,
                payload,
                ..
            } => {
                let len = payload.len() as u64;
                (seen.account).handle_data(*direction, *offset, payload, &mut find);
                file.bytes += len;
                if is_taken {
                    *match direction {
                        Direction::In => &mut seen.taken.in_bytes,
                        Direction::Out => &mut seen.taken.out_bytes,
                    } += len;
                    if self.selection.takes_conn(conn) {
                        self.volume.add(record.time.wall, len);
                    }
                }
            }
            Event::Eof { direction, .. } => seen.account.handle_eof(*direction, &mut find),
            Event::Close { close, .. } => {
                let elapsed_us = record.time.elapsed_us;
                (seen.account).handle_close(close, elapsed_us, sent, &mut find);
                if sent == Sent::Counted && is_taken {
                    seen.taken.out_bytes = close.out_bytes;
                }
            }
            _ => {}
        }
        file.findings += found;
    }

    /// The connections that are still open end without a `close`.
    fn end_all(&mut self) {
        let mut left: Vec<Seen> = self.open.drain().map(|(_, seen)| seen).collect();
        left.sort_unstable_by_key(|seen| seen.account.conn);
        for seen in left {
            self.end(seen, None);
        }
    }

    fn end(&mut self, seen: Seen, close: Option<(&Close, Timestamp)>) {
        let Seen { account, taken, .. } = seen;
        let conn = Conn {
            id: account.conn,
            peer: (&*account.peer).into(),
        };
        let (Some(start), true) = (taken.start, self.selection.takes_conn(&conn)) else {
            return;
        };
        let close = close.filter(|(_, time)| self.selection.takes_time(time.wall));
        let has_open = account.has_open();
        let state = match close {
            _ if account.is_damaged => State::Damaged,
            _ if account.missing > 0 => State::Missing(account.missing),
            _ if !has_open => State::NoOpen,
            None => State::NoClose,
            Some(_) => State::Whole,
        };
        let session = Session {
            run: self.run.id(),
            conn: account.conn,
            local: seen.local,
            target: seen.target,
            start,
            duration_us: match close {
                Some((close, _)) if self.selection.since.is_none() => close.duration_us,
                _ => taken.last_us.saturating_sub(start.elapsed_us),
            },
            in_bytes: taken.in_bytes,
            out_bytes: taken.out_bytes,
            records: taken.records,
            ended: close.map(|(close, _)| close.reason.clone()),
            state,
            peer: account.peer,
        };
        self.totals.add(&session);
        self.sessions.push_back(session);
    }
}

impl Taken {
    fn add(&mut self, time: Timestamp) {
        self.start.get_or_insert(time);
        self.last_us = time.elapsed_us;
        self.records += 1;
    }
}

/// How many numbers a record uses up.
fn used(record: &Record<'_>) -> u64 {
    match &record.event {
        Event::Gap { records, .. } => *records,
        // The run's first record; other files of it begin with one that has the number behind it.
        Event::Start(_) if record.seq > 0 => 0,
        Event::End {
            reason: EndReason::Rotated | EndReason::Closed,
        } => 0,
        _ => 1,
    }
}
