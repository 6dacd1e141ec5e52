//! What devices send, through the capture core and each encoder, against `expected/`.
//!
//! The records are those of a run in which one peer sends the sample and ends. Times are made up
//! and fixed, so that every run of the test writes the same bytes.

use std::sync::Arc;

use wiretape::capture::{self, Capture};
use wiretape::codec::ndjson::Reader;
use wiretape::codec::{Audience, Encoder, Format};
use wiretape::record::batch::{ARENA_SIZE, Batch, BatchPool};
use wiretape::record::doorbell::Doorbell;
use wiretape::record::{
    CloseReason, Direction, Endpoints, Event, Framing, Record, RunId, Start, Timestamp, WallTime,
};

use crate::expected::{assert_expected, assert_same};
use crate::ledger::Ledger;
use crate::read_sample;

/// Bytes that come in at a time: whole rows of a hex dump, and no whole number of anybody's lines.
const CHUNK: usize = 256;

/// Shorter than some of the receiver's lines, so that those are cut.
const LINES: Framing = Framing::Line { max: 64 };

/// 2026-11-22T12:02:59.907656Z, when the run begins.
const START_US: u64 = 1_795_348_979_907_656;

/// From one event to the next.
const STEP_US: u64 = 1_250;

/// The time of the made-up run; it goes on when it is asked.
#[derive(Default)]
struct Clock {
    elapsed_us: u64,
}

impl Clock {
    fn next(&mut self) -> Timestamp {
        let now = Timestamp {
            wall: WallTime::from_unix_micros(START_US + self.elapsed_us),
            elapsed_us: self.elapsed_us,
        };
        self.elapsed_us += STEP_US;
        now
    }
}

fn start() -> Start {
    Start {
        run: RunId(0x5f3a_9c1e_20b7_d644),
        mode: "listen".to_owned(),
        listen: vec!["192.0.2.1:1234".to_owned()],
        connect: Vec::new(),
        // Not this version's name: the expected files outlive it.
        tool: "wiretape 0.1.0".to_owned(),
        segment: 1,
        conn: None,
        part: false,
    }
}

/// The records of a run in which one peer sends `bytes`, [`CHUNK`] at a time, and ends.
fn capture(bytes: &[u8], framing: Framing) -> Batch {
    let mut capture = Capture::new(capture::Config::new(framing));
    let mut clock = Clock::default();
    let pool = BatchPool::new(ARENA_SIZE, 0, framing, Arc::new(Doorbell::new(|| {})));
    capture.handle_batch(pool.acquire().expect("an empty pool gives"));
    capture.handle_start(start(), clock.next());
    let endpoints = Endpoints {
        conn: capture.next_conn(),
        peer: "192.0.2.9:50122".into(),
        local: "192.0.2.1:1234".into(),
        target: None,
    };
    let slot = capture.handle_open(endpoints, None, clock.next());
    for chunk in bytes.chunks(CHUNK) {
        assert!(capture.has_room(Some(slot)), "a sample fits one batch");
        capture.read_buffer(slot, Direction::In)[..chunk.len()].copy_from_slice(chunk);
        capture.handle_read(slot, Direction::In, chunk.len(), clock.next());
    }
    let end = clock.next();
    capture.handle_eof(slot, Direction::In, end);
    capture.handle_close(slot, CloseReason::Eof, end);
    capture.handle_end(clock.next());
    capture.poll_batch().expect("records are in it")
}

fn encode<'a>(
    records: impl IntoIterator<Item = Record<'a>>,
    format: Format,
    audience: Audience,
) -> Vec<u8> {
    let mut encoder = Encoder::new(format, audience);
    let mut out = Vec::new();
    for record in records {
        encoder.encode(&record, &mut out);
    }
    out
}

/// Captures the device `sample` and compares each format with `expected/NAME.FORMAT`; what raw is
/// compared with is the sample itself.
fn check(sample: &str, framing: Framing, name: &str) {
    let bytes = read_sample(&format!("devices/{sample}"));
    let batch = capture(&bytes, framing);
    let encoded = |format| encode(batch.iter(), format, Audience::Program);
    assert_expected(&format!("{name}.text"), &encoded(Format::Text));
    assert_expected(&format!("{name}.hex"), &encoded(Format::Hex));
    assert_expected(&format!("{name}.ndjson"), &encoded(Format::Json));
    assert_same(sample, &bytes, &encoded(Format::Raw(Direction::In)));
}

const SAMPLES: [&str; 4] = [
    "modbus.bin",
    "nmea.txt",
    "syslog-rfc5424.txt",
    "weather-station.txt",
];

#[test]
fn modbus_gateway_in_chunks() {
    check("modbus.bin", Framing::Chunk, "modbus");
}

#[test]
fn gps_receiver_in_chunks() {
    check("nmea.txt", Framing::Chunk, "nmea");
}

#[test]
fn gps_receiver_in_lines() {
    check("nmea.txt", LINES, "nmea-lines");
}

#[test]
fn syslog_in_chunks() {
    check("syslog-rfc5424.txt", Framing::Chunk, "syslog-rfc5424");
}

#[test]
fn weather_station_in_chunks() {
    check("weather-station.txt", Framing::Chunk, "weather-station");
}

#[test]
fn weather_station_in_colour() {
    let bytes = read_sample("devices/weather-station.txt");
    let batch = capture(&bytes, Framing::Chunk);
    let text = encode(batch.iter(), Format::Text, Audience::ColorTerminal);
    assert_expected("weather-station-color.text", &text);
}

#[test]
fn every_device_comes_back_out_of_json() {
    for sample in SAMPLES {
        let bytes = read_sample(&format!("devices/{sample}"));
        for framing in [Framing::Chunk, LINES] {
            for audience in [Audience::Program, Audience::Terminal] {
                let batch = capture(&bytes, framing);
                let json = encode(batch.iter(), Format::Json, audience);
                let records = read_back(&json);
                assert_eq!(records, batch.iter().collect::<Vec<_>>(), "{sample}");
                let raw = encode(records, Format::Raw(Direction::In), Audience::Program);
                assert_same(sample, &bytes, &raw);
            }
        }
    }
}

/// The records of a capture whose books are in order.
fn read_back(json: &[u8]) -> Vec<Record<'static>> {
    let mut reader = Reader::new("json", json);
    let mut ledger = Ledger::default();
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().expect("the encoder wrote it") {
        ledger.enter(&record).expect("the capture core counted it");
        records.push(record.into_owned());
    }
    assert_eq!(reader.torn(), None);
    records
}

#[test]
fn lines_are_cut_where_they_are_too_long() {
    let batch = capture(&read_sample("devices/nmea.txt"), LINES);
    let partial = |record: &Record<'_>| matches!(record.event, Event::Data { partial: true, .. });
    assert!(
        batch.iter().any(|record| partial(&record)),
        "the sample has no line beyond {LINES:?}"
    );
}
