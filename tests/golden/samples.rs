//! The captures in `samples/`: read, checked, and written again byte for byte.

use std::fs;

use wiretape::codec::ndjson::{Reader, Torn};
use wiretape::codec::{Audience, Encoder, Format};
use wiretape::record::{Direction, Event, Record};

use crate::expected::assert_same;
use crate::ledger::Ledger;
use crate::{read_sample, sample_path};

/// What a sample holds.
struct Sample {
    records: Vec<Record<'static>>,
    torn: Option<Torn>,
}

/// Reads a sample, holds its books to account, and compares what its records are written as with
/// the sample itself, as far as it is whole.
fn check(name: &str) -> Sample {
    let bytes = read_sample(name);
    let mut reader = Reader::new(name, &bytes[..]);
    let mut ledger = Ledger::default();
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().expect("samples can be read") {
        if let Err(error) = ledger.enter(&record) {
            panic!("{name}: record {}: {error}", record.seq);
        }
        records.push(record.into_owned());
    }
    let torn = reader.torn();
    let whole = torn.map_or(bytes.len(), |torn| torn.offset as usize);
    assert_same(name, &bytes[..whole], &encode(&records, Format::Json));
    Sample { records, torn }
}

fn encode<'a>(records: impl IntoIterator<Item = &'a Record<'a>>, format: Format) -> Vec<u8> {
    let mut encoder = Encoder::new(format, Audience::Program);
    let mut out = Vec::new();
    for record in records {
        encoder.encode(record, &mut out);
    }
    out
}

#[test]
fn every_sample_is_written_again_as_it_is() {
    let mut seen = 0;
    for entry in fs::read_dir(sample_path("")).expect("the folder is part of the project") {
        let name = entry.expect("its entries can be read").file_name();
        let name = name.to_str().expect("their names are ASCII");
        if name.ends_with(".ndjson") {
            let sample = check(name);
            assert_eq!(sample.torn.is_some(), name == "torn.ndjson", "{name}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no sample was found");
}

#[test]
fn minimal_sample_is_one_line_of_one_connection() {
    let sample = check("minimal.ndjson");
    assert_eq!(sample.records.len(), 6);
    assert_same(
        "minimal.ndjson",
        b"hello\n",
        &encode(&sample.records, Format::Raw(Direction::In)),
    );
}

/// Each stands in the full sample, or it is not full.
const EVERYTHING: [&str; 31] = [
    r#""type":"start""#,
    r#""type":"open""#,
    r#""type":"data""#,
    r#""type":"eof""#,
    r#""type":"close""#,
    r#""type":"gap""#,
    r#""type":"end""#,
    r#""segment":2"#,
    r#""peer":"192.0.2."#,
    r#""peer":"[2001:db8::"#,
    r#""peer":"unix:/"#,
    r#""dir":"in""#,
    r#""dir":"out""#,
    r#""text":"#,
    r#""base64":"#,
    r#""partial":true"#,
    r#""reason":"eof""#,
    r#""reason":"reset""#,
    r#""reason":"idle_timeout""#,
    r#""reason":"limit""#,
    r#""reason":"error","error":""#,
    r#""reason":"shutdown","in_bytes""#,
    r#""reason":"stalled_output""#,
    r#""reason":"rotated""#,
    r#""out_crc32":"#,
    r#""mode":"proxy","listen":["#,
    r#""connect":["#,
    r#""target":"#,
    r#""reason":"target_reset""#,
    r#""reason":"done""#,
    r#""reason":"closed""#,
];

#[test]
fn full_sample_holds_everything() {
    let text = String::from_utf8(read_sample("full.ndjson")).expect("JSON is UTF-8");
    for thing in EVERYTHING {
        assert!(text.contains(thing), "{thing}");
    }
    let mut runs = Vec::new();
    for record in check("full.ndjson").records {
        if let Event::Start(start) = record.event {
            runs.push(start.run);
        }
    }
    runs.dedup();
    assert_eq!(runs.len(), 4);
}

#[test]
fn filtered_sample_is_what_jq_leaves_of_the_full_one() {
    let full = check("full.ndjson");
    let filtered = check("filtered.ndjson");
    let kept = |record: &&Record<'_>| matches!(&record.event, Event::Data { conn, .. } if conn.peer.starts_with("192.0.2."));
    assert!(full.records.iter().filter(kept).eq(&filtered.records));
}

#[test]
fn binary_sample_holds_what_the_gateway_sent() {
    let sample = check("binary.ndjson");
    let device = read_sample("devices/modbus.bin");
    assert_same(
        "binary.ndjson",
        &device,
        &encode(&sample.records, Format::Raw(Direction::In)),
    );
}

#[test]
fn conversation_sample_is_what_a_proxy_captured() {
    let sample = check("conversation.ndjson");
    let (mut sent, mut opened) = ([0, 0], 0);
    for record in &sample.records {
        match &record.event {
            Event::Data {
                direction, payload, ..
            } => sent[*direction as usize] += payload.len(),
            Event::Open { target, .. } => {
                assert!(target.is_some());
                opened += 1;
            }
            _ => {}
        }
    }
    assert_eq!((opened, sent), (5, [244, 31]));
}

#[test]
fn redis_sample_holds_both_directions() {
    let sample = check("redis.ndjson");
    let bytes = |wanted: Direction| -> usize {
        let payload = |record: &Record<'_>| match &record.event {
            Event::Data {
                direction, payload, ..
            } if *direction == wanted => payload.len(),
            _ => 0,
        };
        sample.records.iter().map(payload).sum()
    };
    assert_eq!(sample.records.len(), 24);
    assert_eq!((bytes(Direction::In), bytes(Direction::Out)), (285, 71));
}

#[test]
fn torn_sample_is_good_up_to_its_last_line() {
    let sample = check("torn.ndjson");
    let torn = Torn {
        line: 4,
        offset: 475,
        len: 153,
    };
    assert_eq!(sample.torn, Some(torn));
    assert_same(
        "torn.ndjson",
        b"whole\n",
        &encode(&sample.records, Format::Raw(Direction::In)),
    );
}
