//! Lines in any bytes, cut as the network pleases.
//!
//! * What the framing splits is what a look at each byte splits; the pieces joined are the bytes, and
//!   `count`, `whole` and `is_partial` agree with them.
//! * The capture core makes the same records of the bytes, however many reads they come in.

#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wiretape::capture::{Capture, Config, READ_MIN};
use wiretape::record::batch::BatchPool;
use wiretape::record::doorbell::Doorbell;
use wiretape::record::{
    CloseReason, ConnId, Direction, Endpoints, Event, Framing, Record, Timestamp,
};

/// Room for a few reads, so that batches change in the midst of lines.
const ARENA: usize = 3 * READ_MIN;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    longest: u16,
    /// What the reads return, in turn.
    reads: [u8; 4],
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    // Short lines and long ones, beside what one read may return.
    let longest = usize::from(input.longest) % 512 + 1;
    let expected = lines(input.bytes, longest);
    check_framing(longest, input.bytes, &expected);
    check_capture(longest, &input, &expected);
});

/// A record of a capture, as far as framing has a say in it.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    offset: u64,
    bytes: &'a [u8],
    partial: bool,
}

/// The rule, a byte at a time: a line ends behind its newline, or where it is `longest` bytes long.
fn lines(bytes: &[u8], longest: usize) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (nth, &byte) in bytes.iter().enumerate() {
        let end = nth + 1;
        if byte == b'\n' || end - start == longest || end == bytes.len() {
            pieces.push(Piece {
                offset: start as u64,
                bytes: &bytes[start..end],
                partial: byte != b'\n',
            });
            start = end;
        }
    }
    pieces
}

fn check_framing(longest: usize, bytes: &[u8], expected: &[Piece<'_>]) {
    let framing = Framing::Line { max: longest };
    let mut pieces = framing.split(bytes);
    for piece in expected {
        assert_eq!(pieces.next(), Some(piece.bytes));
        assert_eq!(framing.is_partial(piece.bytes), piece.partial);
    }
    assert_eq!(pieces.next(), None);
    let mut seen = Vec::new();
    let count = framing.count(bytes, |part| seen.extend_from_slice(part));
    assert_eq!((count, &*seen), (expected.len(), bytes));

    // Only the last may want its end, where it is neither a line nor as long as one may be.
    let open = (expected.last()).filter(|piece| piece.partial && piece.bytes.len() < longest);
    let open = open.map_or(0, |piece| piece.bytes.len());
    assert_eq!(framing.whole(bytes, 0), bytes.len() - open);
}

/// The capture core records the same, as the reads cut the bytes.
fn check_capture(longest: usize, input: &Input<'_>, expected: &[Piece<'_>]) {
    let now = Timestamp::default();
    let mut tape = Tape::new(Framing::Line { max: longest }, expected);
    let slot = tape.core.handle_open(endpoints(), None, now);
    let mut rest = input.bytes;
    for &read in input.reads.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        if !tape.core.has_room(Some(slot)) {
            tape.change_batch();
        }
        let buffer = tape.core.read_buffer(slot, Direction::In);
        let len = (usize::from(read) + 1).min(rest.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        rest = &rest[len..];
        tape.core.handle_read(slot, Direction::In, len, now);
    }
    if !tape.core.has_room(Some(slot)) {
        tape.change_batch();
    }
    tape.core.handle_close(slot, CloseReason::Eof, now);
    tape.change_batch();
    assert_eq!(tape.expected.next(), None);
}

fn endpoints() -> Endpoints {
    Endpoints {
        conn: ConnId(1),
        peer: "192.0.2.1:5000".into(),
        local: "192.0.2.2:1234".into(),
        target: None,
    }
}

/// A capture core, and what is still to come out of it.
struct Tape<'a> {
    core: Capture,
    pool: BatchPool,
    records: u64,
    expected: std::slice::Iter<'a, Piece<'a>>,
}

impl<'a> Tape<'a> {
    fn new(framing: Framing, expected: &'a [Piece<'a>]) -> Self {
        let mut tape = Self {
            core: Capture::new(Config::new(framing)),
            pool: BatchPool::new(ARENA, 0, framing, Arc::new(Doorbell::new(|| {}))),
            records: 0,
            expected: expected.iter(),
        };
        tape.change_batch();
        tape
    }

    fn change_batch(&mut self) {
        if let Some(batch) = self.core.poll_batch() {
            batch.iter().for_each(|record| self.take(&record));
        }
        let batch = self.pool.acquire().expect("none is out");
        self.core.handle_batch(batch);
    }

    fn take(&mut self, record: &Record<'_>) {
        assert_eq!(record.seq, self.records);
        self.records += 1;
        if let Event::Data {
            offset,
            payload,
            partial,
            ..
        } = &record.event
        {
            let piece = Piece {
                offset: *offset,
                bytes: payload,
                partial: *partial,
            };
            assert_eq!(self.expected.next(), Some(&piece));
        }
    }
}
