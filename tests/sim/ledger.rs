//! The model: what must stand in the record, kept beside the core by the simplest means there are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use wiretape::record::{
    Close, CloseReason, Conn, Direction, EndReason, Event, Framing, Record, Timestamp,
};

/// What a connection did, as the model saw it.
#[derive(Debug, Default)]
pub struct Story {
    peer: String,
    opened_us: u64,
    incoming: Flow,
    outgoing: Flow,
    pub closed: Option<(CloseReason, u64)>,
    found_close: bool,
}

/// What went one way.
#[derive(Debug, Default)]
pub struct Flow {
    pub bytes: Vec<u8>,
    pub has_eof: bool,
    // What was found in the record so far.
    found: Vec<u8>,
    found_eof: bool,
}

impl Story {
    pub fn new(peer: String, opened_us: u64) -> Self {
        Self {
            peer,
            opened_us,
            ..Self::default()
        }
    }

    pub fn flow(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::In => &mut self.incoming,
            Direction::Out => &mut self.outgoing,
        }
    }

    fn flows(&self) -> [&Flow; 2] {
        [&self.incoming, &self.outgoing]
    }
}

/// All connections of a run, by number, and the order of their records.
#[derive(Debug)]
pub struct Ledger {
    framing: Framing,
    /// Whether unfinished lines may have been recorded early, for want of memory.
    may_cut_early: bool,
    pub stories: BTreeMap<u64, Story>,
    next_seq: u64,
    last_us: u64,
    last_opened: u64,
    has_ended: bool,
}

impl Ledger {
    pub fn new(framing: Framing, may_cut_early: bool) -> Self {
        Self {
            framing,
            may_cut_early,
            stories: BTreeMap::new(),
            next_seq: 0,
            last_us: 0,
            last_opened: 0,
            has_ended: false,
        }
    }

    /// Checks the next record that an output was given.
    pub fn check(&mut self, record: &Record<'_>, seen: &mut Coverage) {
        assert_eq!(record.seq, self.next_seq, "a hole or a repetition");
        assert!(!self.has_ended, "{record:?} behind the end");
        assert!(record.time.elapsed_us >= self.last_us, "time ran backwards");
        self.next_seq += 1;
        self.last_us = record.time.elapsed_us;
        match &record.event {
            Event::Start(_) => assert_eq!(record.seq, 0),
            Event::Open { conn, .. } => {
                assert_eq!(
                    conn.id.0,
                    self.last_opened + 1,
                    "ids follow the order of opening"
                );
                self.last_opened += 1;
                self.live(conn);
            }
            Event::Data {
                conn,
                direction,
                offset,
                payload,
                partial,
            } => {
                self.check_framing(payload, *partial, seen);
                let flow = self.live(conn).flow(*direction);
                assert!(!flow.found_eof, "bytes behind the end of the direction");
                assert_eq!(*offset, flow.found.len() as u64);
                flow.found.extend_from_slice(payload);
            }
            Event::Eof { conn, direction } => {
                let flow = self.live(conn).flow(*direction);
                assert!(flow.has_eof && !flow.found_eof);
                flow.found_eof = true;
            }
            Event::Close { conn, close } => self.check_close(record.time, conn, close),
            Event::Gap { .. } => panic!("the core never leaves out a record"),
            Event::End { reason } => {
                assert_eq!(*reason, EndReason::Shutdown);
                self.has_ended = true;
            }
        }
    }

    fn live(&mut self, conn: &Conn<'_>) -> &mut Story {
        assert!(conn.id.0 <= self.last_opened, "a record before its open");
        let story = self
            .stories
            .get_mut(&conn.id.0)
            .expect("the model knows it");
        assert_eq!(story.peer, conn.peer);
        assert!(!story.found_close, "a record behind its close");
        story
    }

    fn check_framing(&self, payload: &[u8], partial: bool, seen: &mut Coverage) {
        assert!(!payload.is_empty());
        let Framing::Line { max } = self.framing else {
            return assert!(!partial);
        };
        let newlines = payload.iter().filter(|&&byte| byte == b'\n').count();
        assert!(payload.len() <= max);
        assert_eq!(newlines, usize::from(!partial), "one line, whole or not");
        assert_eq!(payload.ends_with(b"\n"), !partial);
        seen.partial |= partial;
        seen.early_cut |= partial && self.may_cut_early && payload.len() < max;
    }

    fn check_close(&mut self, time: Timestamp, conn: &Conn<'_>, close: &Close) {
        let story = self.live(conn);
        story.found_close = true;
        let (reason, at_us) = story.closed.clone().expect("the model closed it too");
        assert_eq!((&close.reason, time.elapsed_us), (&reason, at_us));
        for flow in story.flows() {
            assert_eq!(flow.found, flow.bytes, "not the bytes that came");
            assert_eq!(flow.found_eof, flow.has_eof);
        }
        let [incoming, outgoing] = story.flows().map(|flow| &flow.bytes);
        let expected = Close {
            reason,
            in_bytes: incoming.len() as u64,
            out_bytes: outgoing.len() as u64,
            in_crc32: crc32(incoming),
            out_crc32: (!outgoing.is_empty()).then(|| crc32(outgoing)),
            duration_us: at_us - story.opened_us,
        };
        assert_eq!(*close, expected);
    }

    /// Checks that only the beginnings of lines are held back: all else is recorded by now. Where
    /// lines may be cut early, what is held back follows from no rule that is simple enough.
    pub fn check_held_back(&self, recorded: u64) {
        if self.may_cut_early {
            return;
        }
        let flows = self.stories.values().flat_map(|story| {
            let is_closed = story.closed.is_some();
            story.flows().map(|flow| (flow, is_closed || flow.has_eof))
        });
        let due = flows.map(|(flow, is_over)| match is_over {
            true => flow.bytes.len(),
            false => flow.bytes.len() - self.unfinished(&flow.bytes),
        });
        assert_eq!(recorded, due.sum::<usize>() as u64);
    }

    /// Bytes at the end that are no whole record yet, counted one by one.
    fn unfinished(&self, bytes: &[u8]) -> usize {
        let Framing::Line { max } = self.framing else {
            return 0;
        };
        bytes.iter().fold(0, |len, &byte| {
            if byte == b'\n' || len + 1 == max {
                0
            } else {
                len + 1
            }
        })
    }

    /// Checks that everything was found, when the run is over and the outputs have all.
    pub fn check_end(&self) {
        assert!(self.has_ended, "no end record");
        assert_eq!(self.last_opened, self.stories.len() as u64);
        for story in self.stories.values() {
            assert!(story.found_close, "never closed: {story:?}");
        }
    }
}

/// CRC-32 as IEEE 802.3 has it, bit by bit: slow, and not the crate that the core uses.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A record that went through the capture format and back.
pub fn through_ndjson(record: &Record<'_>, line: &mut Vec<u8>) -> Record<'static> {
    use wiretape::codec::{Audience, ndjson};
    line.clear();
    ndjson::Encoder::new(Audience::Program).encode(record, line);
    let mut reader = ndjson::Reader::new("simulation", line.as_slice());
    let read = reader.next_record().expect("it can be read");
    let read = read.expect("there is a record").into_owned();
    if let (Event::Data { payload, .. }, Event::Data { payload: back, .. }) =
        (&record.event, &read.event)
    {
        assert_eq!(Cow::as_ref(payload), Cow::as_ref(back));
    }
    assert_eq!(&read, record);
    read
}

/// Which places the seeds came to.
#[derive(Debug, Default)]
pub struct Coverage {
    pub starved: bool,
    pub full: bool,
    pub at_max_conns: bool,
    pub partial: bool,
    pub early_cut: bool,
    pub idle_timeout: bool,
    pub max_age: bool,
    pub wall_backwards: bool,
    pub failed_output: bool,
    pub drained: bool,
    pub deadline_passed: bool,
    pub interrupted: bool,
}

impl Coverage {
    pub fn check(&self) {
        let all = self.starved
            && self.full
            && self.at_max_conns
            && self.partial
            && self.early_cut
            && self.idle_timeout
            && self.max_age
            && self.wall_backwards
            && self.failed_output
            && self.drained
            && self.deadline_passed
            && self.interrupted;
        assert!(all, "some places were never come to: {self:?}");
    }
}
