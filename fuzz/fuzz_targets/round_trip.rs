//! Records of every kind, written as NDJSON and read again.
//!
//! * Each is one line of UTF-8 that `serde_json` can read, and its keys say what the record says.
//! * All of them, read again, are the records that were written.

#![no_main]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use wiretape::codec::ndjson::Reader;
use wiretape::codec::{Audience, Format};
use wiretape::record::{Event, Record};
use wiretape_fuzz::{Records, encode};

fuzz_target!(|records: Records| {
    let Records(records) = records;
    for audience in [Audience::Program, Audience::Terminal] {
        let lines = encode(&records, Format::Json, audience);
        for (record, line) in records.iter().zip(&lines) {
            check_line(record, line);
        }
        check_reader(&records, &lines.concat());
    }
});

fn check_line(record: &Record<'_>, line: &[u8]) {
    let line = std::str::from_utf8(line).expect("JSON is UTF-8");
    let line = line.strip_suffix('\n').expect("a line has an end");
    assert!(!line.contains('\n'));
    let value: Value = serde_json::from_str(line).expect("a line is JSON");
    assert_eq!(value["seq"], record.seq);
    assert_eq!(value["elapsed_us"], record.time.elapsed_us);
    assert_eq!(value["ts"], record.time.wall.to_string());
    if let Some(conn) = record.event.conn() {
        assert_eq!(value["conn"], conn.id.0);
        assert_eq!(value["peer"], *conn.peer);
    }
    if let Event::Data { payload, .. } = &record.event {
        assert_eq!(value["len"], payload.len());
        check_payload(&value, payload);
    }
}

/// A payload stands as what it is, text or not, and nowhere else.
fn check_payload(value: &Value, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => {
            assert_eq!(value["text"], text);
            assert_eq!(value.get("base64"), None);
        }
        Err(_) => {
            let base64 = value["base64"].as_str().expect("it is no text");
            let decoded = BASE64_STANDARD.decode(base64).expect("it is base64");
            assert_eq!(decoded, payload);
            assert_eq!(value.get("text"), None);
        }
    }
}

fn check_reader(records: &[Record<'_>], capture: &[u8]) {
    let mut reader = Reader::new("capture", capture);
    for record in records {
        let read = reader.next_record().expect("it was written so");
        assert_eq!(read.as_ref(), Some(record));
    }
    let end = reader.next_record().expect("there is nothing more");
    assert_eq!(end, None);
    assert_eq!(reader.torn(), None);
}
