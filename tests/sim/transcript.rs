//! The model: what must stand in the record, kept beside the core by the simplest means there are. It
//! is told all that happens, writes down the records that must come of it, and every output is held
//! against that.

use std::borrow::Cow;
use std::ops::Range;

use wiretape::output::queue::Gap;
use wiretape::record::{
    Close, CloseReason, Conn, ConnId, Direction, EndReason, Endpoints, Event, Framing, Record,
    Start, Timestamp, Totals,
};

use crate::coverage::Coverage;

/// A record that must come.
#[derive(Debug)]
struct Entry {
    time: Timestamp,
    what: What,
}

/// What it tells. Connections are named by their place, which is their number less 1.
#[derive(Debug)]
enum What {
    Start,
    Open(usize),
    Data {
        conn: usize,
        direction: Direction,
        range: Range<usize>,
        is_partial: bool,
    },
    Eof(usize, Direction),
    Close(usize, Close),
    End,
}

/// What a connection did.
#[derive(Debug)]
struct Story {
    endpoints: Endpoints,
    opened_us: u64,
    is_open: bool,
    incoming: Flow,
    outgoing: Flow,
}

/// What went one way.
#[derive(Debug, Default)]
struct Flow {
    bytes: Vec<u8>,
    /// Of these so many are in records, or were only to be counted.
    settled: usize,
    has_ended: bool,
}

impl Flow {
    fn unfinished(&self) -> usize {
        self.bytes.len() - self.settled
    }
}

impl Story {
    fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::In => &self.incoming,
            Direction::Out => &self.outgoing,
        }
    }

    fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::In => &mut self.incoming,
            Direction::Out => &mut self.outgoing,
        }
    }
}

/// All that happened in a run, and all records that must come of it.
#[derive(Debug)]
pub struct Transcript {
    framing: Framing,
    /// Bytes of unfinished lines at most; beyond it they are recorded early.
    carry_limit: usize,
    start: Start,
    entries: Vec<Entry>,
    stories: Vec<Story>,
    /// Where the outputs are to open their files anew, and when that was asked for.
    pub reopenings: Vec<(u64, Timestamp)>,
    pub totals: Totals,
    pub has_ended: bool,
}

impl Transcript {
    pub fn new(framing: Framing, carry_limit: usize, start: Start) -> Self {
        Self {
            framing,
            carry_limit,
            start,
            entries: Vec::new(),
            stories: Vec::new(),
            reopenings: Vec::new(),
            totals: Totals::default(),
            has_ended: false,
        }
    }

    // --- what happens ----------------------------------------------------------------------------

    pub fn handle_start(&mut self, now: Timestamp) {
        self.write(now, What::Start);
    }

    pub fn handle_open(&mut self, endpoints: Endpoints, now: Timestamp) {
        let place = self.stories.len();
        assert_eq!(endpoints.conn.0, place as u64 + 1, "numbers follow");
        self.stories.push(Story {
            endpoints,
            opened_us: now.elapsed_us,
            is_open: true,
            incoming: Flow::default(),
            outgoing: Flow::default(),
        });
        self.totals.opened += 1;
        self.totals.open += 1;
        self.write(now, What::Open(place));
    }

    /// These bytes went this way. `recorded` is how many bytes the core has recorded of all that went
    /// this way in the run: where memory is short, it may have recorded a line early.
    pub fn handle_bytes(
        &mut self,
        conn: ConnId,
        direction: Direction,
        bytes: &[u8],
        recorded: u64,
        now: Timestamp,
        seen: &mut Coverage,
    ) {
        let flow = self.live(conn).flow_mut(direction);
        assert!(!flow.has_ended);
        let from = flow.bytes.len();
        flow.bytes.extend_from_slice(bytes);
        match self.framing {
            Framing::Chunk => {
                let whole = from..from + bytes.len();
                self.write_data(conn, direction, whole, now, seen);
            }
            Framing::Line { max } => self.split(conn, direction, from, max, now, seen),
        }
        let held = self.unfinished(|unfinished| unfinished);
        if recorded > self.recorded(direction) {
            // A vector doubles, and begins with 8.
            let most = self.unfinished(|unfinished| (2 * unfinished).max(8));
            assert!(most > self.carry_limit, "cut early without need");
            seen.see("framing: cut for want of memory");
            self.settle(conn, direction, now, seen);
        } else {
            assert!(held <= self.carry_limit, "more is held than may be");
        }
    }

    /// Splits what is new, a byte at a time.
    fn split(
        &mut self,
        conn: ConnId,
        direction: Direction,
        from: usize,
        max: usize,
        now: Timestamp,
        seen: &mut Coverage,
    ) {
        let flow = self.live(conn).flow_mut(direction);
        let mut begin = flow.settled;
        let mut pieces = Vec::new();
        for at in from..flow.bytes.len() {
            if flow.bytes[at] == b'\n' || at + 1 - begin == max {
                pieces.push(begin..at + 1);
                begin = at + 1;
            }
        }
        for piece in pieces {
            self.write_data(conn, direction, piece, now, seen);
        }
    }

    /// These bytes went out and are only to be counted.
    pub fn handle_sent(&mut self, conn: ConnId, bytes: &[u8]) {
        let flow = self.live(conn).flow_mut(Direction::Out);
        flow.bytes.extend_from_slice(bytes);
        flow.settled = flow.bytes.len();
    }

    pub fn handle_eof(
        &mut self,
        conn: ConnId,
        direction: Direction,
        now: Timestamp,
        seen: &mut Coverage,
    ) {
        self.settle(conn, direction, now, seen);
        self.live(conn).flow_mut(direction).has_ended = true;
        self.write(now, What::Eof(place(conn), direction));
    }

    pub fn handle_close(
        &mut self,
        conn: ConnId,
        reason: CloseReason,
        now: Timestamp,
        seen: &mut Coverage,
    ) {
        for direction in [Direction::In, Direction::Out] {
            self.settle(conn, direction, now, seen);
        }
        let story = self.live(conn);
        story.is_open = false;
        let [incoming, outgoing] = [&story.incoming.bytes, &story.outgoing.bytes];
        let close = Close {
            reason,
            in_bytes: incoming.len() as u64,
            out_bytes: outgoing.len() as u64,
            in_crc32: crc32(incoming),
            out_crc32: (!outgoing.is_empty()).then(|| crc32(outgoing)),
            duration_us: now.elapsed_us - story.opened_us,
        };
        self.totals.open -= 1;
        self.write(now, What::Close(place(conn), close));
    }

    pub fn handle_reopen(&mut self, now: Timestamp) {
        self.reopenings.push((self.records(), now));
    }

    pub fn handle_end(&mut self, now: Timestamp) {
        assert_eq!(self.totals.open, 0, "somebody lives");
        self.write(now, What::End);
        self.has_ended = true;
    }

    // --- what comes of it ------------------------------------------------------------------------

    fn live(&mut self, conn: ConnId) -> &mut Story {
        let story = &mut self.stories[place(conn)];
        assert!(story.is_open);
        story
    }

    /// Records what is unfinished as it is.
    fn settle(&mut self, conn: ConnId, direction: Direction, now: Timestamp, seen: &mut Coverage) {
        let flow = self.live(conn).flow(direction);
        let rest = flow.settled..flow.bytes.len();
        if !rest.is_empty() {
            self.write_data(conn, direction, rest, now, seen);
        }
    }

    fn write_data(
        &mut self,
        conn: ConnId,
        direction: Direction,
        range: Range<usize>,
        now: Timestamp,
        seen: &mut Coverage,
    ) {
        let framing = self.framing;
        let flow = self.live(conn).flow_mut(direction);
        assert_eq!(range.start, flow.settled);
        flow.settled = range.end;
        let is_whole = flow.bytes[range.end - 1] == b'\n';
        let is_partial = matches!(framing, Framing::Line { .. }) && !is_whole;
        let is_longest = framing == Framing::Line { max: range.len() };
        seen.see_if(is_partial && is_longest, "framing: a long line is cut");
        let total = match direction {
            Direction::In => &mut self.totals.in_bytes,
            Direction::Out => &mut self.totals.out_bytes,
        };
        *total += range.len() as u64;
        let conn = place(conn);
        let data = What::Data {
            conn,
            direction,
            range,
            is_partial,
        };
        self.write(now, data);
    }

    fn write(&mut self, time: Timestamp, what: What) {
        assert!(!self.has_ended, "{what:?} behind the end");
        self.totals.records += 1;
        self.entries.push(Entry { time, what });
    }

    fn recorded(&self, direction: Direction) -> u64 {
        match direction {
            Direction::In => self.totals.in_bytes,
            Direction::Out => self.totals.out_bytes,
        }
    }

    /// What all unfinished lines cost together, if one costs so much for its bytes.
    fn unfinished(&self, cost: impl Fn(usize) -> usize) -> usize {
        let open = self.stories.iter().filter(|story| story.is_open);
        let flows = open.flat_map(|story| [&story.incoming, &story.outgoing]);
        let unfinished = flows.map(Flow::unfinished).filter(|&bytes| bytes > 0);
        unfinished.map(cost).sum()
    }

    /// How many records there must be by now.
    pub fn records(&self) -> u64 {
        self.entries.len() as u64
    }

    /// When this record was seen.
    pub fn time_us(&self, seq: u64) -> u64 {
        self.entries[seq as usize].time.elapsed_us
    }

    // --- what is found ---------------------------------------------------------------------------

    /// Checks a record that an output was given.
    pub fn check(&self, record: &Record<'_>) {
        assert!(
            record.seq < self.records(),
            "nothing happened for {record:?}"
        );
        assert_eq!(*record, self.record(record.seq));
    }

    /// Checks what an output was told to have missed.
    pub fn check_gap(&self, gap: &Gap) {
        assert!(gap.records > 0);
        let missed = gap.first_seq as usize..(gap.first_seq + gap.records) as usize;
        let missed = &self.entries[missed];
        let bytes = missed.iter().map(|entry| match &entry.what {
            What::Data { range, .. } => range.len() as u64,
            _ => 0,
        });
        assert_eq!((gap.bytes, gap.time), (bytes.sum(), missed[0].time));
        let has_end = missed.iter().any(|entry| matches!(entry.what, What::End));
        assert!(!has_end, "nobody misses the end");
    }

    fn record(&self, seq: u64) -> Record<'_> {
        let Entry { time, what } = &self.entries[seq as usize];
        let event = match what {
            What::Start => Event::Start(Cow::Borrowed(&self.start)),
            What::Open(conn) => {
                let endpoints = &self.stories[*conn].endpoints;
                Event::Open {
                    conn: self.conn(*conn),
                    local: Cow::Borrowed(&endpoints.local),
                    target: endpoints.target.as_deref().map(Cow::Borrowed),
                }
            }
            What::Data {
                conn,
                direction,
                range,
                is_partial,
            } => Event::Data {
                conn: self.conn(*conn),
                direction: *direction,
                offset: range.start as u64,
                payload: Cow::Borrowed(&self.stories[*conn].flow(*direction).bytes[range.clone()]),
                partial: *is_partial,
            },
            What::Eof(conn, direction) => Event::Eof {
                conn: self.conn(*conn),
                direction: *direction,
            },
            What::Close(conn, close) => Event::Close {
                conn: self.conn(*conn),
                close: Cow::Borrowed(close),
            },
            What::End => Event::End {
                reason: EndReason::Shutdown,
            },
        };
        Record {
            time: *time,
            seq,
            event,
        }
    }

    fn conn(&self, place: usize) -> Conn<'_> {
        let endpoints = &self.stories[place].endpoints;
        Conn {
            id: endpoints.conn,
            peer: Cow::Borrowed(&endpoints.peer),
        }
    }
}

fn place(conn: ConnId) -> usize {
    conn.0 as usize - 1
}

/// CRC-32 as IEEE 802.3 has it, by no other crate than this one.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

/// What eight steps, bit by bit, make of each byte.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}
