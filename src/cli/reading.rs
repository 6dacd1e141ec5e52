//! Captures that are read to be looked at: each to its end, whatever stands in it.
//!
//! Where a replay stops at the first line that is no record, this goes on behind it, because what is
//! wrong with a capture, and what is still good, is just what is asked for.

use std::collections::VecDeque;

use crate::codec::ndjson::{Cause, Line, ReadError, Reader, Torn};
use crate::input::{self, Body, OpenError, Source};
use crate::review::{Report, Review};

/// A file that begins with so many lines that are no records is no capture.
const STRANGE_LINES: u64 = 64;

/// One capture that is read.
#[derive(Debug)]
pub(super) struct Reading {
    reader: Reader<Body>,
    /// A record was found in it.
    is_capture: bool,
    /// Lines that are none, before the first record.
    strange: u64,
    first_error: Option<ReadError>,
    torn: Option<Torn>,
    faults: VecDeque<Fault>,
    is_over: bool,
}

/// A line that is no record, or the end of a file where none should be.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: u64,
    pub(super) what: String,
}

/// What the next line came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// A line that stands for something, in [`Reading::raw_line`].
    Good,
    /// Nothing, or nothing of use.
    Nothing,
    /// The end.
    End(Report),
}

impl Reading {
    /// Begins with a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(source: &Source, review: &mut Review) -> Result<Self, OpenError> {
        Ok(Self::new(input::open(source)?, review))
    }

    fn new(reader: Reader<Body>, review: &mut Review) -> Self {
        review.handle_file();
        Self {
            reader,
            is_capture: false,
            strange: 0,
            first_error: None,
            torn: None,
            faults: VecDeque::new(),
            is_over: false,
        }
    }

    /// Has [`Reading::raw_line`] ready for every line.
    pub(super) fn keep_lines(&mut self) {
        self.reader.keep_lines();
    }

    /// The line as it stands in the file.
    pub(super) fn raw_line(&self) -> &[u8] {
        self.reader.raw_line()
    }

    /// Whether the next line has to be waited for, as far as is known.
    pub(super) fn would_wait(&self) -> bool {
        memchr::memchr(b'\n', self.reader.input().buffered()).is_none()
    }

    /// The next fault. They come before what `review` found in the same line. Those before the first
    /// record wait for it: of what turns out to be no capture, that is all there is to say.
    pub(super) fn poll_fault(&mut self) -> Option<Fault> {
        match self.is_capture || self.is_over {
            true => self.faults.pop_front(),
            false => None,
        }
    }

    /// Goes on by a line.
    ///
    /// # Errors
    /// It is no capture, not one that this version reads, or has too many connections: the rest is not
    /// read.
    pub(super) fn step(&mut self, review: &mut Review) -> Result<Found, ReadError> {
        let line = match self.reader.step() {
            Ok(line) => line,
            Err(error) => return self.pass(error, review),
        };
        if self.reader.torn() != self.torn {
            self.torn = self.reader.torn();
            if let Some(torn) = self.torn {
                let what = format!("breaks off at byte {}", torn.offset + torn.len);
                self.fault(torn.line, what, review);
            }
        }
        match line {
            Line::Record => match self.reader.record() {
                Ok(record) => {
                    self.is_capture = true;
                    review.handle_record(self.reader.line_number(), &record);
                    input::check_open(&self.reader, review.open())?;
                    Ok(Found::Good)
                }
                Err(error) => self.pass(error, review),
            },
            Line::Other => {
                let what = "a record of a type that this version does not know".to_owned();
                self.fault(self.reader.line_number(), what, review);
                Ok(Found::Good)
            }
            Line::Blank => Ok(Found::Nothing),
            Line::End => self.end(review),
        }
    }

    /// Goes on behind a line that is no record, if that is of any use.
    fn pass(&mut self, error: ReadError, review: &mut Review) -> Result<Found, ReadError> {
        let is_over = matches!(error.cause, Cause::Io(_));
        let is_useless = is_over || matches!(error.cause, Cause::Newer(_));
        if is_useless && !self.is_capture {
            return Err(error);
        }
        let mut what = error.cause.to_string();
        if is_over {
            what.push_str("; what is behind it is not looked at");
        }
        self.fault(error.line, what, review);
        if is_over {
            return Ok(Found::End(review.handle_file_end(error.line)));
        }
        if !self.is_capture {
            self.strange += 1;
            self.first_error.get_or_insert(error);
        }
        match self.first_error.take_if(|_| self.strange >= STRANGE_LINES) {
            Some(first) if !self.is_capture => Err(first),
            _ => Ok(Found::Nothing),
        }
    }

    fn end(&mut self, review: &mut Review) -> Result<Found, ReadError> {
        let line = self.reader.line_number();
        if !self.is_capture {
            if let Some(error) = self.first_error.take() {
                return Err(error);
            }
        }
        if self.reader.input().is_cut() {
            let what = "the compressed stream breaks off".to_owned();
            self.fault(line, what, review);
        }
        if !self.is_capture && self.faults.is_empty() && self.torn.is_none() {
            self.fault(line, "nothing is in it".to_owned(), review);
        }
        self.is_over = true;
        Ok(Found::End(review.handle_file_end(line)))
    }

    fn fault(&mut self, line: u64, what: String, review: &mut Review) {
        review.handle_fault();
        self.faults.push_back(Fault { line, what });
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use std::io::Cursor;

    use super::*;
    use crate::codec::{Audience, Encoder, Format};
    use crate::record::selection::Selection;
    use crate::record::{
        Close, CloseReason, Conn, ConnId, Direction, EndReason, Event, Record, RunId, Start,
        Timestamp, WallTime,
    };

    /// A small capture of a proxy: text, base64, two connections at once, every type of record.
    fn capture() -> Vec<u8> {
        let conn = |id| Conn {
            id: ConnId(id),
            peer: format!("192.0.2.{id}:40000").into(),
        };
        let data = |id, direction, offset, payload: &'static [u8]| Event::Data {
            conn: conn(id),
            direction,
            offset,
            payload: Cow::Borrowed(payload),
            partial: false,
        };
        let close = |id, sent: &[u8], got: &[u8], duration_us| Event::Close {
            conn: conn(id),
            close: Cow::Owned(Close {
                reason: CloseReason::Eof,
                in_bytes: sent.len() as u64,
                out_bytes: got.len() as u64,
                in_crc32: crc32fast::hash(sent),
                out_crc32: (!got.is_empty()).then(|| crc32fast::hash(got)),
                duration_us,
            }),
        };
        let open = |id| Event::Open {
            conn: conn(id),
            local: "192.0.2.200:1".into(),
            target: Some("db:5432".into()),
        };
        let events = [
            Event::Start(Cow::Owned(Start {
                run: RunId(7),
                mode: "proxy".to_owned(),
                listen: vec!["192.0.2.200:1".to_owned()],
                connect: vec!["db:5432".to_owned()],
                tool: "wiretape".to_owned(),
                segment: 1,
                conn: None,
                part: false,
            })),
            open(1),
            data(1, Direction::In, 0, b"hi \"1\"\r\n"),
            open(2),
            data(1, Direction::Out, 0, b"\xff\x00\x01"),
            data(2, Direction::In, 0, b"x"),
            data(1, Direction::In, 8, "\u{e9}\n".as_bytes()),
            Event::Eof {
                conn: conn(1),
                direction: Direction::In,
            },
            close(1, "hi \"1\"\r\n\u{e9}\n".as_bytes(), b"\xff\x00\x01", 70),
            close(2, b"x", b"", 60),
            Event::End {
                reason: EndReason::Shutdown,
            },
        ];
        let mut encoder = Encoder::new(Format::Json, Audience::Program);
        let mut out = Vec::new();
        for (nth, event) in events.into_iter().enumerate() {
            let elapsed_us = 10 * nth as u64;
            let wall = WallTime::from_unix_micros(1_795_348_800_000_000 + elapsed_us);
            let record = Record {
                time: Timestamp { wall, elapsed_us },
                seq: nth as u64,
                event,
            };
            encoder.encode(&record, &mut out);
        }
        out
    }

    /// What came of a capture: whether it is whole, the lines that are good, and the faults.
    struct Outcome {
        is_whole: bool,
        good: Vec<u8>,
        faults: Vec<String>,
    }

    fn read(bytes: &[u8]) -> Option<Outcome> {
        let mut review = Review::new(Selection::default());
        let body = Body::new(Box::new(Cursor::new(bytes.to_vec()))).expect("memory");
        let mut reading = Reading::new(Reader::new("capture", body), &mut review);
        reading.keep_lines();
        let mut outcome = Outcome {
            is_whole: false,
            good: Vec::new(),
            faults: Vec::new(),
        };
        loop {
            let found = reading.step(&mut review);
            let faults = std::iter::from_fn(|| reading.poll_fault());
            outcome.faults.extend(faults.map(|fault| fault.what));
            match found.ok()? {
                Found::Good => outcome.good.extend_from_slice(reading.raw_line()),
                Found::Nothing => {}
                Found::End(report) => {
                    outcome.is_whole = report.findings == 0;
                    return Some(outcome);
                }
            }
        }
    }

    /// What went over each connection each way, and the types of its records.
    fn content(bytes: &[u8]) -> BTreeMap<u64, (Vec<u8>, Vec<u8>, String)> {
        let mut reader = Reader::new("capture", bytes);
        let mut content = BTreeMap::<_, (Vec<u8>, Vec<u8>, String)>::new();
        while let Some(record) = reader.next_record().expect("it is whole") {
            let of = record.event.conn().map_or(0, |conn| conn.id.0);
            let (sent, got, types) = content.entry(of).or_default();
            types.push(match record.event {
                Event::Data {
                    direction: Direction::In,
                    payload,
                    ..
                } => {
                    sent.extend_from_slice(&payload);
                    '>'
                }
                Event::Data { payload, .. } => {
                    got.extend_from_slice(&payload);
                    '<'
                }
                Event::Start(_) => 's',
                Event::Open { .. } => 'o',
                Event::Eof { .. } => 'f',
                Event::Close { .. } => 'c',
                Event::Gap { .. } => 'g',
                Event::End { .. } => 'e',
            });
        }
        content
    }

    fn check(changed: &[u8], whole: &[u8], how: &str) {
        let Some(outcome) = read(changed) else {
            return;
        };
        if outcome.is_whole {
            assert_eq!(content(changed), content(whole), "{how}");
        }
        // What is salvaged reads without a fault, but for types that nobody knows.
        let Some(again) = read(&outcome.good).filter(|_| !outcome.good.is_empty()) else {
            return;
        };
        let is_fault = |what: &String| !what.contains("of a type");
        assert!(
            !again.faults.iter().any(is_fault),
            "{how}: {:?}",
            again.faults
        );
        assert!(again.good == outcome.good, "{how}");
    }

    #[test]
    fn a_capture_that_was_cut_or_changed_is_never_whole() {
        let whole = capture();
        assert!(read(&whole).is_some_and(|outcome| outcome.is_whole && outcome.good == whole));
        for cut in 0..whole.len() {
            check(&whole[..cut], &whole, &format!("cut at {cut}"));
            let is_whole = read(&whole[..cut]).is_some_and(|outcome| outcome.is_whole);
            // The last newline is none of its content.
            assert_eq!(is_whole, cut == whole.len() - 1, "cut at {cut}");
        }
        let mut changed = whole.clone();
        for at in 0..whole.len() {
            for bit in 0..8 {
                changed[at] ^= 1 << bit;
                check(&changed, &whole, &format!("bit {bit} of byte {at}"));
                changed[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn what_is_no_capture_is_told_from_one_that_is_damaged() {
        let junk = |lines: usize| b"junk\n".repeat(lines);
        assert!(read(&junk(1)).is_none());
        let whole = capture();
        let behind = read(&[junk(3), whole.clone()].concat()).expect("it is a capture");
        assert_eq!(behind.faults.len(), 3);
        assert!(!behind.is_whole && behind.good == whole);
        assert!(read(&[junk(65), whole.clone()].concat()).is_none());
        // Damage of any length is passed over.
        let end = whole.len()
            - whole
                .iter()
                .rev()
                .skip(1)
                .position(|byte| *byte == b'\n')
                .expect("lines")
            - 1;
        let long = vec![b'z'; crate::codec::ndjson::LINE_LIMIT + 9];
        let damaged = [&whole[..end], &junk(200), &long, b"\n", &whole[end..]].concat();
        let outcome = read(&damaged).expect("it is a capture");
        assert_eq!(outcome.faults.len(), 201);
        assert!(outcome.good == whole && !outcome.is_whole);
    }
}
