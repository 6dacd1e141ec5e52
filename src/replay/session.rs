//! Records to steps: which recorded connections are played as sessions, and what each of them does.
//!
//! A capture need not be whole. jq may have left out any record, a segment may begin in the middle, a
//! crash may have ended it; so a session begins with the first record of its connection and ends
//! with its `close`, or with its last record where there is none.

use std::collections::HashMap;

use super::schedule::Schedule;
use super::script::{Act, Ending, Origin, Place, SessionId, Sink, Step};
use crate::record::selection::Selection;
use crate::record::{Close, CloseReason, Conn, ConnId, Direction, Event, Record, RunId, Start};

/// Makes steps of records: those of a capture, or of several, one after another.
#[derive(Debug)]
pub struct Sessions {
    selection: Selection,
    direction: Direction,
    schedule: Schedule,
    run: Option<RunId>,
    last_seq: Option<u64>,
    /// Connections of this run that are open in the recording.
    open: HashMap<ConnId, Open>,
    totals: Totals,
}

#[derive(Debug)]
struct Open {
    session: SessionId,
    peer: Box<str>,
    replies: u64,
    /// Where the next bytes that are played are expected; `None` before the first.
    offset: Option<u64>,
    last: Place,
}

/// What was found in the captures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions to play.
    pub sessions: u64,
    /// Records to send.
    pub sends: u64,
    /// Bytes to send.
    pub bytes: u64,
    /// Bytes that had come back.
    pub replies: u64,
    /// Position of the last step, in microseconds.
    pub length_us: u64,
    /// Bytes within sessions that the captures do not hold.
    pub missing: u64,
    /// `gap` records: what was never captured.
    pub gaps: u64,
}

impl Sessions {
    /// Plays what `selection` takes of the bytes that went in `direction`.
    pub fn new(selection: Selection, direction: Direction, schedule: Schedule) -> Self {
        Self {
            selection,
            direction,
            schedule,
            run: None,
            last_seq: None,
            open: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// Connections that are open in the recording, of those that are played.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// What was found so far.
    pub fn totals(&self) -> Totals {
        Totals {
            length_us: self.schedule.at_us(),
            ..self.totals
        }
    }

    /// The next record of the captures. Its steps go to `sink`.
    ///
    /// # Errors
    /// The sink's.
    pub fn handle_record<S: Sink>(
        &mut self,
        record: &Record<'_>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        match &record.event {
            Event::Start(start) => return self.handle_start(record, start, sink),
            Event::End { .. } => return Ok(()),
            Event::Gap { .. } => {
                self.totals.gaps += 1;
                return Ok(());
            }
            _ => {}
        }
        // Numbers grow within a run, whatever was left out of it.
        if self.last_seq.is_some_and(|last| record.seq <= last) {
            self.begin_run(sink)?;
        }
        self.last_seq = Some(record.seq);
        match record.event.conn() {
            Some(conn) if self.selection.takes_conn(conn) => self.handle_conn(record, conn, sink),
            _ => Ok(()),
        }
    }

    /// The captures are over, or begin again.
    ///
    /// # Errors
    /// The sink's.
    pub fn handle_end<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        self.run = None;
        self.begin_run(sink)
    }

    /// A run begins, or another of its segments, which goes on where the last one ended.
    fn handle_start<S: Sink>(
        &mut self,
        record: &Record<'_>,
        start: &Start,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let goes_on = self.run.is_none_or(|run| run == start.run)
            && self.last_seq.is_none_or(|last| record.seq > last);
        self.run = Some(start.run);
        if goes_on {
            Ok(())
        } else {
            self.begin_run(sink)
        }
    }

    /// Ends what is still open, because a connection of another run is another.
    fn begin_run<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let mut left: Vec<_> = self.open.drain().map(|(_, open)| open).collect();
        left.sort_by_key(|open| open.session);
        let at_us = self.schedule.at_us();
        for open in left {
            if !sink.end_at(open.last) {
                push(sink, &open, at_us, Act::End(Ending::Orderly))?;
            }
        }
        self.schedule.begin_run();
        self.last_seq = None;
        Ok(())
    }

    fn handle_conn<S: Sink>(
        &mut self,
        record: &Record<'_>,
        conn: &Conn<'_>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let is_taken = self.selection.takes_time(record.time.wall);
        // What is open must end, whatever is selected. Of what ends without having begun nothing is
        // left to play, unless there never was more than its beginning and its end.
        let is_known = (self.open.get(&conn.id)).is_some_and(|open| *open.peer == *conn.peer);
        let is_meant = match &record.event {
            Event::Close { close, .. } => is_known || is_taken && self.sent(close) == 0,
            Event::Eof { .. } => is_known && is_taken,
            _ => is_taken,
        };
        if !is_meant {
            return Ok(());
        }
        let at_us = if is_taken {
            self.schedule.place(record.time.elapsed_us)
        } else {
            self.schedule.at_us()
        };
        if !is_known || matches!(record.event, Event::Open { .. }) {
            self.begin_session(conn, at_us, sink)?;
        }
        let open = (self.open.get_mut(&conn.id)).expect("it was there or has been put there");
        match &record.event {
            Event::Data {
                direction,
                offset,
                payload,
                ..
            } => {
                let len = payload.len() as u64;
                if *direction != self.direction {
                    open.replies += len;
                    self.totals.replies += len;
                    return Ok(());
                }
                let expected = open.offset.unwrap_or(*offset);
                let missing = offset.saturating_sub(expected);
                self.totals.missing = self.totals.missing.saturating_add(missing);
                open.offset = Some(offset + len);
                if len > 0 {
                    self.totals.sends += 1;
                    self.totals.bytes += len;
                    let act = Act::Send {
                        seq: record.seq,
                        payload: &**payload,
                    };
                    open.last = push(sink, open, at_us, act)?;
                }
            }
            Event::Eof { direction, .. } if *direction == self.direction => {
                open.last = push(sink, open, at_us, Act::HalfClose)?;
            }
            Event::Close { close, .. } => {
                // A reset is the peer's.
                let is_reset =
                    close.reason == CloseReason::Reset && self.direction == Direction::In;
                let ending = if is_reset {
                    Ending::Reset
                } else {
                    Ending::Orderly
                };
                push(sink, open, at_us, Act::End(ending))?;
                self.open.remove(&conn.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes of a connection that went in the direction that is played.
    fn sent(&self, close: &Close) -> u64 {
        match self.direction {
            Direction::In => close.in_bytes,
            Direction::Out => close.out_bytes,
        }
    }

    fn begin_session<S: Sink>(
        &mut self,
        conn: &Conn<'_>,
        at_us: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        if let Some(before) = self.open.remove(&conn.id) {
            push(sink, &before, at_us, Act::End(Ending::Orderly))?;
        }
        self.totals.sessions += 1;
        let mut open = Open {
            session: SessionId(self.totals.sessions),
            peer: conn.peer.as_ref().into(),
            replies: 0,
            offset: None,
            last: Place::default(),
        };
        let origin = Origin {
            conn: conn.id,
            peer: open.peer.clone(),
            concurrency: self.open.len() + 1,
        };
        open.last = push(sink, &open, at_us, Act::Open(Box::new(origin)))?;
        self.open.insert(conn.id, open);
        Ok(())
    }
}

fn push<S: Sink>(
    sink: &mut S,
    open: &Open,
    at_us: u64,
    act: Act<&[u8]>,
) -> Result<Place, S::Error> {
    sink.push(Step {
        at_us,
        session: open.session,
        replies: open.replies,
        act,
    })
}
