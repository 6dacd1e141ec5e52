//! A capture of any bytes: it is read to an end, whatever it holds.
//!
//! * Nothing panics, and no more comes of a capture than it has lines and bytes.
//! * However the bytes come, and whichever of the reader's two ways a line takes, the same records
//!   come of it, and the reading ends alike.
//! * A record that was read, written and read again, is the same record.

#![no_main]

use std::io::{BufRead, BufReader};
use std::mem::{Discriminant, discriminant};

use libfuzzer_sys::fuzz_target;
use wiretape::codec::ndjson::{Cause, Line, ReadError, Reader};
use wiretape::codec::{Audience, Format};
use wiretape::record::{Event, Record};
use wiretape_fuzz::encode;

fuzz_target!(|capture: &[u8]| {
    let reading = read(capture);
    let lines = capture.split_inclusive(|&byte| byte == b'\n').count() as u64;
    assert!(reading.lines <= lines);
    for record in &reading.records {
        if let Event::Data { payload, .. } = &record.event {
            assert!(payload.len() < capture.len());
        }
    }

    assert_eq!(read(BufReader::with_capacity(7, capture)), reading);
    assert_eq!(read(&*indented(capture)), reading);

    let written = encode(&reading.records, Format::Json, Audience::Program).concat();
    let again = read(&*written);
    assert_eq!(again.records, reading.records);
    assert_eq!((again.torn_line, again.error), (None, None));
});

/// What comes of a capture.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    records: Vec<Record<'static>>,
    /// Lines that were read.
    lines: u64,
    torn_line: Option<u64>,
    error: Option<Discriminant<Cause>>,
}

fn read(capture: impl BufRead) -> Reading {
    let mut reader = Reader::new("capture", capture);
    let mut records = Vec::new();
    let error = read_all(&mut reader, &mut records).err();
    if let Some(error) = &error {
        // The line behind it may have been looked at: whether it begins another run.
        assert!(reader.line_number() - error.line <= 1);
        assert!(error.to_string().starts_with("capture: line "));
    }
    Reading {
        records,
        lines: reader.line_number(),
        torn_line: reader.torn().map(|torn| torn.line),
        error: error.map(|error| discriminant(&error.cause)),
    }
}

fn read_all<R: BufRead>(
    reader: &mut Reader<R>,
    records: &mut Vec<Record<'static>>,
) -> Result<(), ReadError> {
    loop {
        let before = reader.line_number();
        match reader.step()? {
            Line::Record => records.push(reader.record()?.into_owned()),
            Line::Other | Line::Blank => {}
            Line::End => return Ok(()),
        }
        assert!(reader.line_number() > before, "a step without a line");
    }
}

/// The same capture with a space in front of each object. The encoder writes none, so that no line
/// takes the short way, and what is read says what the short way must have read.
fn indented(capture: &[u8]) -> Vec<u8> {
    let mut indented = Vec::with_capacity(capture.len() * 2);
    for line in capture.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"{") {
            indented.push(b' ');
        }
        indented.extend_from_slice(line);
    }
    indented
}
