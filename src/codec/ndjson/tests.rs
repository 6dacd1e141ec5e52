//! The encoder against `serde_json` over the schema, the reader against the encoder, and what a
//! reader says of input that is not as it should be.

use std::borrow::Cow;

use proptest::prelude::*;

use super::decode::parse;
use super::wire::Wire;
use super::{Encoder, LINE_LIMIT, Reader, canonical};
use crate::codec::buffer::Buffer;
use crate::codec::{Audience, Format};
use crate::record::chunk::Chunk;
use crate::record::{
    Close, CloseReason, Conn, ConnId, Direction, EndReason, Event, Framing, GapReason, Record,
    RunId, Start, Timestamp, WallTime,
};

/// Numbers as jq reads them, without loss.
const NUMBER: std::ops::Range<u64> = 0..1 << 53;

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::In), Just(Direction::Out)]
}

fn text() -> impl Strategy<Value = String> {
    // Every character, with those that want an escape more often than chance would have them.
    let c = prop_oneof![
        any::<char>(),
        (0u8..0x80).prop_map(char::from),
        Just('\u{9b}')
    ];
    proptest::collection::vec(c, 0..80).prop_map(String::from_iter)
}

/// As most payloads are: text that wants an escape at its end only, or hardly anywhere else.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![
        Just(""),
        Just("\n"),
        Just("\r\n"),
        Just("\"\n"),
        Just("é\n")
    ];
    let letters = |most| proptest::collection::vec(b'a'..=b'z', 0..most);
    let ascii = prop_oneof![9 => b' '..=b'~', 1 => 0..0x80_u8];
    let ascii = proptest::collection::vec(ascii, 0..300);
    let text = prop_oneof![4 => letters(150), 4 => letters(700), 1 => letters(9_000), 4 => ascii];
    (text, end).prop_map(|(text, end)| [&text, end.as_bytes()].concat())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        text().prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..200),
        line(),
    ]
}

/// Any text, and as often what stands there in most captures.
fn address() -> impl Strategy<Value = String> {
    let usual = any::<(u8, u16)>().prop_map(|(host, port)| format!("192.0.2.{host}:{port}"));
    prop_oneof![text(), usual]
}

fn conn() -> impl Strategy<Value = Conn<'static>> {
    (NUMBER, address()).prop_map(|(id, peer)| Conn {
        id: ConnId(id),
        peer: Cow::Owned(peer),
    })
}

fn close() -> impl Strategy<Value = Close> {
    let reason = prop_oneof![
        Just(CloseReason::Eof),
        Just(CloseReason::Reset),
        Just(CloseReason::TargetReset),
        Just(CloseReason::IdleTimeout),
        Just(CloseReason::Limit),
        Just(CloseReason::Shutdown),
        Just(CloseReason::Done),
        text().prop_map(|error| CloseReason::Error(error.into())),
        text().prop_map(|reason| CloseReason::Other(format!("later {reason}").into())),
    ];
    let crc = any::<u32>();
    (reason, NUMBER, NUMBER, crc, any::<Option<u32>>(), NUMBER).prop_map(
        |(reason, in_bytes, out_bytes, in_crc32, out_crc32, duration_us)| Close {
            reason,
            in_bytes,
            out_bytes,
            in_crc32,
            out_crc32,
            duration_us,
        },
    )
}

fn start() -> impl Strategy<Value = Start> {
    let addresses = || proptest::collection::vec(text(), 0..3);
    let addresses = (addresses(), addresses());
    let conn = proptest::option::of(NUMBER.prop_map(ConnId));
    let file = (NUMBER, conn, any::<bool>());
    (any::<u64>(), text(), addresses, text(), file).prop_map(
        |(run, mode, (listen, connect), tool, (segment, conn, part))| Start {
            run: RunId(run),
            mode,
            listen,
            connect,
            tool,
            segment,
            conn,
            part,
        },
    )
}

fn event() -> impl Strategy<Value = Event<'static>> {
    prop_oneof![
        4 => (conn(), direction(), NUMBER, payload(), any::<bool>()).prop_map(
            |(conn, direction, offset, payload, partial)| Event::Data {
                conn,
                direction,
                offset,
                payload: payload.into(),
                partial,
            }
        ),
        1 => start().prop_map(|start| Event::Start(Cow::Owned(start))),
        1 => (conn(), address(), proptest::option::of(address())).prop_map(
            |(conn, local, target)| Event::Open {
                conn,
                local: local.into(),
                target: target.map(Cow::Owned),
            }
        ),
        1 => (conn(), direction()).prop_map(|(conn, direction)| Event::Eof { conn, direction }),
        1 => (conn(), close()).prop_map(|(conn, close)| Event::Close {
            conn,
            close: Cow::Owned(close),
        }),
        1 => (NUMBER, NUMBER).prop_map(|(records, bytes)| Event::Gap {
            records,
            bytes,
            reason: GapReason::StalledOutput,
        }),
        1 => prop_oneof![
            Just(EndReason::Rotated),
            Just(EndReason::Closed),
            Just(EndReason::Shutdown),
            Just(EndReason::Other("later".into()))
        ]
            .prop_map(|reason| Event::End { reason }),
    ]
}

fn record() -> impl Strategy<Value = Record<'static>> {
    (any::<u64>(), NUMBER, NUMBER, event()).prop_map(|(wall, elapsed_us, seq, event)| Record {
        time: Timestamp {
            wall: WallTime::from_unix_micros(wall),
            elapsed_us,
        },
        seq,
        event,
    })
}

/// Numbers, many of which soon have other first digits.
fn count() -> impl Strategy<Value = u64> {
    let near = (0..NUMBER.end / 10_000, 0..300_u64).prop_map(|(high, few)| {
        let next = (high + 1) * 10_000;
        next - few
    });
    let next = 10_000..20_000_u64;
    prop_oneof![NUMBER, near, 0..20_000_u64, next.clone(), next]
}

/// What one read brought.
fn chunk() -> impl Strategy<Value = Chunk<'static>> {
    let byte = prop_oneof![4 => b'a'..=b'c', 1 => Just(b'\n'), 1 => Just(b'\r')];
    let bytes = prop_oneof![
        proptest::collection::vec(payload(), 1..12).prop_map(|lines| lines.concat()),
        // Short ones, and their ends wherever they fall.
        proptest::collection::vec(byte, 1..700),
    ];
    let framing = prop_oneof![
        Just(Framing::Chunk),
        (1..900_usize).prop_map(|max| Framing::Line { max }),
        Just(Framing::Line { max: 65_536 }),
    ];
    // Few times and flows, so that one changes and the other does not.
    let time = (0..2_u64).prop_map(|nth| Timestamp {
        wall: WallTime::from_unix_micros(1_795_348_979_907_656 + nth),
        elapsed_us: nth,
    });
    let conn = (1..4_u64).prop_map(|id| Conn {
        id: ConnId(id),
        peer: Cow::Owned(match id {
            1 => "192.0.2.1:5000".to_owned(),
            2 => "[2001:db8:1111:2222:3333:4444:5555:6666]:50000".to_owned(),
            _ => format!("unix:/run/{}", "long/".repeat(16)),
        }),
    });
    let flow = (conn, direction());
    (time, flow, count(), count(), framing, bytes).prop_map(
        |(time, (conn, direction), next_seq, next_offset, framing, bytes)| Chunk {
            time,
            conn,
            direction,
            next_seq,
            next_offset,
            pieces: framing.split(bytes.leak()),
        },
    )
}

fn encode(record: &Record<'_>, audience: Audience) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new(audience).encode(record, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn encoder_writes_what_serde_json_would(record in record()) {
        let expected = serde_json::to_string(&Wire::from(&record)).expect("it is plain data");
        // The one difference: serde_json leaves DEL as it is, jq does not.
        let expected = expected.replace('\x7f', "\\u007f") + "\n";
        let line = String::from_utf8(encode(&record, Audience::Program)).expect("JSON is UTF-8");
        prop_assert_eq!(line, expected);
    }

    #[test]
    fn chunks_are_written_as_their_records_are(
        chunks in proptest::collection::vec(chunk(), 1..6),
        enough in prop_oneof![Just(usize::MAX), 0..3_000_usize],
        audience in prop_oneof![Just(Audience::Program), Just(Audience::Terminal)],
    ) {
        for format in [Format::Json, Format::Text, Format::Hex, Format::Raw(Direction::In)] {
            let new = || crate::codec::Encoder::new(format, audience);
            // One that keeps what they share, and one for each record.
            let mut encoder = new();
            let (mut seen, mut expected) = (Buffer::default(), Vec::new());
            let mut begins = Vec::new();
            for mut chunk in chunks.clone() {
                for record in chunk.clone() {
                    begins.push(expected.len());
                    new().encode(&record, &mut expected);
                }
                let mut begun = begins.len() - chunk.clone().count();
                while !chunk.is_empty() {
                    let before = chunk.next_seq;
                    let last = encoder.encode_chunk(&mut chunk, &mut seen, enough);
                    let count = (chunk.next_seq - before) as usize;
                    begun += count;
                    prop_assert_eq!(begins.get(begun - 1), Some(&last));
                    prop_assert!(count == 1 || last <= enough);
                    prop_assert!(chunk.is_empty() || seen.len() > enough);
                }
            }
            prop_assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&expected));
        }
    }

    #[test]
    fn reader_gives_back_what_was_encoded(records in proptest::collection::vec(record(), 0..5)) {
        for audience in [Audience::Program, Audience::Terminal] {
            let lines: Vec<u8> = records.iter().flat_map(|r| encode(r, audience)).collect();
            let mut reader = Reader::new("test", &lines[..]);
            for record in &records {
                let read = reader.next_record().expect("it was written by the encoder");
                prop_assert_eq!(read.as_ref(), Some(record));
            }
            prop_assert!(reader.next_record().expect("the end").is_none());
            prop_assert_eq!(reader.torn(), None);
        }
    }

    #[test]
    fn the_short_way_reads_what_the_general_one_does(
        record in record(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let whole = encode(&record, Audience::Program);
        let mut changed = whole.clone();
        changed[at.index(whole.len())] = byte;
        for line in [whole, changed] {
            let mut texts = canonical::Texts::default();
            if let Some(short) = canonical::read(&line, &mut texts) {
                let general = parse(&line).expect("the short way has read it");
                prop_assert_eq!(short.record(&texts), general);
            }
        }
    }

    #[test]
    fn json_for_a_terminal_steers_nothing(record in record()) {
        let line = String::from_utf8(encode(&record, Audience::Terminal)).expect("JSON is UTF-8");
        let (last, line) = (line.as_bytes()[line.len() - 1], &line[..line.len() - 1]);
        prop_assert_eq!(last, b'\n');
        prop_assert!(!line.chars().any(|c| c.is_control() || crate::codec::escape::is_deceptive(c)));
    }
}

const START: &str = r#"{"type":"start","v":1,"ts":"2026-11-22T12:02:59.907656Z","elapsed_us":0,"seq":0,"run":"5f3a9c1e20b7d644","mode":"listen","listen":["[::]:1234"],"tool":"wiretape 0.1.0","segment":1}"#;
const DATA: &str = r#"{"type":"data","ts":"2026-11-22T12:03:01.110999Z","elapsed_us":1203340,"seq":2,"conn":3,"peer":"192.0.2.9:50122","dir":"in","offset":8192,"len":5,"text":"hi\r\n\u0000"}"#;

/// The sequence numbers that are read, then how the reading ends.
fn read(capture: &str) -> (Vec<u64>, String) {
    let mut reader = Reader::new("f", capture.as_bytes());
    let mut seen = Vec::new();
    let end = loop {
        match reader.next_record() {
            Ok(Some(record)) => seen.push(record.seq),
            Ok(None) => break "end".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    match reader.torn() {
        Some(torn) => (seen, format!("torn at byte {}, {end}", torn.offset)),
        None => (seen, end),
    }
}

fn check(capture: &str, expected_seqs: &[u64], expected_end: &str) {
    let (seqs, end) = read(capture);
    assert_eq!(seqs, expected_seqs, "{capture}");
    assert!(end.starts_with(expected_end), "{end} is not {expected_end}");
}

#[test]
fn a_capture_is_read_as_its_format_says() {
    check("", &[], "end");
    check(&format!("{START}\n{DATA}\n"), &[0, 2], "end");
    check(&format!("{START}\n\n{DATA}"), &[0, 2], "end");
    // Unknown types and keys are passed over, known keys may stand in any order.
    check(
        &format!("{{\"type\":\"note\",\"by\":1}}\n{DATA}\n"),
        &[2],
        "end",
    );
    check(
        &format!("{}\n", DATA.replace("\"conn\"", "\"new\":[{}],\"conn\"")),
        &[2],
        "end",
    );
    let shuffled = DATA
        .replace("\"seq\":2,", "")
        .replace("\"len\"", "\"seq\":2,\"len\"");
    check(&shuffled, &[2], "end");
}

#[test]
fn a_torn_line_ends_a_run_and_not_the_capture() {
    for cut in 1..DATA.len() {
        let (whole, torn) = (format!("{START}\n{DATA}\n"), &DATA[..cut]);
        let at = format!("torn at byte {}, end", whole.len());
        check(&format!("{whole}{torn}"), &[0, 2], &at);
        check(
            &format!("{whole}{torn}\n{START}\n{DATA}\n"),
            &[0, 2, 0, 2],
            &at,
        );
    }
}

#[test]
fn what_is_no_capture_is_named_with_line_and_cause() {
    check("hello\n", &[], "f: line 1: not a capture record");
    check("hello", &[], "f: line 1: not a capture record");
    check(&format!("{DATA}\n\0\0\0"), &[2], "torn at byte");
    check(
        &format!("{START}\n{{}}\n{DATA}\n"),
        &[0],
        "f: line 2: not a capture record: missing field `type`",
    );
    check(
        &START.replace("\"v\":1", "\"v\":2"),
        &[],
        "f: line 1: format version 2 was written by a newer wiretape",
    );
    check(
        &DATA.replace("\"conn\":3,", ""),
        &[],
        "f: line 1: record without `conn`",
    );
    check(
        &DATA.replace("\"in\"", "\"up\""),
        &[],
        "f: line 1: invalid `dir`",
    );
    for line in [DATA, &DATA.replace("\"data\"", "\"eof\"")] {
        let peer = |len| line.replace("192.0.2.9:50122", &"x".repeat(len));
        check(&peer(512), &[2], "end");
        check(&peer(513), &[], "f: line 1: invalid `peer`");
    }
    check(
        &DATA.replace("\"len\":5", "\"len\":6"),
        &[],
        "f: line 1: `len` says 6, but the payload has 5 bytes",
    );
    check(
        &DATA.replace("8192", "18446744073709551615"),
        &[],
        "f: line 1: invalid `offset`",
    );
    let base64 = |text| {
        DATA.replace(
            r#""text":"hi\r\n\u0000""#,
            &format!("\"base64\":\"{text}\""),
        )
    };
    check(&base64("aGkNCgA="), &[2], "end");
    for bad in ["aGkNCgA", "aGkNCgB=", "aGkN CgA=", "aGkNCgA-", "=", "a"] {
        check(&base64(bad), &[], "f: line 1: invalid base64");
    }
}

#[test]
fn a_cause_is_short_however_long_the_line_is() {
    let long = DATA.replace("\"seq\":2", &format!("\"seq\":\"{}\"", "é".repeat(100_000)));
    let (_, end) = read(&long);
    assert!(end.starts_with("f: line 1: not a capture record: invalid type: string \"éé"));
    assert!(end.ends_with("éé…") && end.chars().count() < 300, "{end}");
}

/// Promise 12: whatever a peer sends is one line, and comes back from it.
#[test]
fn a_million_random_strings_come_back_from_json() {
    const MEANT: [char; 7] = ['"', '\\', '\n', '\r', '\u{2028}', '\u{202e}', '\u{feff}'];
    let mut random = fastrand::Rng::with_seed(12);
    let mut encoders = [Audience::Program, Audience::Terminal].map(Encoder::new);
    let mut out = Vec::new();
    for nth in 0..1_000_000 {
        let any = |random: &mut fastrand::Rng| match random.u8(0..8) {
            0 => random.char(..),
            1 => random.char('\u{80}'..='\u{9f}'),
            2 => MEANT[random.usize(0..MEANT.len())],
            _ => char::from(random.u8(0..0x80)),
        };
        let text: String = (0..random.usize(0..16)).map(|_| any(&mut random)).collect();
        let record = Record {
            time: Timestamp {
                wall: WallTime::from_unix_micros(nth),
                elapsed_us: nth,
            },
            seq: nth,
            event: Event::Data {
                conn: Conn {
                    id: ConnId(1),
                    peer: "unix:".into(),
                },
                direction: Direction::In,
                offset: 0,
                payload: text.as_bytes().into(),
                partial: false,
            },
        };
        let encoder = &mut encoders[nth as usize % 2];
        out.clear();
        encoder.encode(&record, &mut out);
        let newline = out.iter().position(|&byte| byte == b'\n');
        assert_eq!(newline, Some(out.len() - 1), "{text:?}");
        assert_eq!(parse(&out).expect("it is JSON"), record);
    }
}

#[test]
fn a_line_without_end_is_refused_in_flat_memory() {
    let endless = std::io::BufReader::new(std::io::repeat(b' '));
    let error = Reader::new("f", endless)
        .next_record()
        .expect_err("too long");
    assert_eq!(
        error.to_string(),
        "f: line 1: longer than 16 MiB, not a capture"
    );
    let fits = format!("{}{DATA}\n", " ".repeat(LINE_LIMIT - DATA.len() - 1));
    check(&fits, &[2], "end");
}
