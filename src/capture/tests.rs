//! The capture core by scripts: what happened on the left, what was recorded on the right.

use std::sync::Arc;

use super::*;
use crate::record::batch::{ARENA_SIZE, BatchPool};
use crate::record::doorbell::Doorbell;
use crate::record::{Event, Record};

/// What happens. Connections are named by the order in which they were opened, from 1.
enum Step {
    Open,
    /// A peer of this address wants to come: whether it is let in. If so, it comes.
    Knock(&'static str, Result<(), Refusal>),
    /// The kernel knows that it ended.
    Ending(usize),
    /// Whether one more may come, and whether as many have as ever are to.
    Room(bool, bool),
    Read(usize, &'static str),
    /// It went the other way.
    Sent(usize, &'static str),
    Eof(usize),
    Close(usize, CloseReason),
    /// So many milliseconds pass.
    Pass(u64),
    /// Whose time is over, and why.
    Expired(&'static [(usize, CloseReason)]),
    End,
}
use Step::{Close, End, Ending, Eof, Expired, Knock, Open, Pass, Read, Room, Sent};

const CHUNK: Framing = Framing::Chunk;
const LINE: Framing = Framing::Line { max: 8 };

fn config(framing: Framing) -> Config {
    Config {
        idle_timeout: Some(Duration::from_millis(100)),
        max_age: Some(Duration::from_millis(250)),
        ..Config::new(framing)
    }
}

/// A record in few words: `data 1 @3 "c"`.
fn in_words(record: &Record<'_>) -> String {
    let words = match &record.event {
        Event::Open { conn, .. } => format!("open {}", conn.id),
        Event::Data {
            conn,
            direction,
            offset,
            payload,
            partial,
        } => {
            let text = String::from_utf8_lossy(payload);
            let partial = if *partial { " partial" } else { "" };
            let verb = match direction {
                Direction::In => "data",
                Direction::Out => "sent",
            };
            format!("{verb} {} @{offset} {text:?}{partial}", conn.id)
        }
        Event::Eof { conn, .. } => format!("eof {}", conn.id),
        Event::Close { conn, close } => format!(
            "close {} {:?} {} bytes {:08x} after {} ms",
            conn.id,
            close.reason,
            close.in_bytes,
            close.in_crc32,
            close.duration_us / 1000
        ),
        Event::End { .. } => "end".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{}: {words}", record.seq)
}

fn check(config: Config, script: &[Step], expected: &[&str]) {
    let doorbell = Arc::new(Doorbell::new(|| {}));
    let pool = BatchPool::new(ARENA_SIZE, 0, config.framing, doorbell);
    let mut capture = Capture::new(config);
    capture.handle_batch(pool.acquire().expect("an empty pool gives"));
    let mut slots = Vec::new();
    let mut now = Timestamp::default();
    let endpoints = |conn| Endpoints {
        conn,
        peer: "192.0.2.9:1".into(),
        local: "192.0.2.1:2".into(),
        target: None,
    };
    for step in script {
        match step {
            Open => {
                let endpoints = endpoints(capture.next_conn());
                slots.push(capture.handle_open(endpoints, None, now));
            }
            Knock(ip, expected) => {
                let ip = Some(ip.parse().expect("an address"));
                assert_eq!(capture.admit(ip), *expected, "{ip:?}");
                match expected {
                    Ok(()) => {
                        let endpoints = endpoints(capture.next_conn());
                        slots.push(capture.handle_open(endpoints, ip, now));
                    }
                    Err(_) => capture.handle_refused(),
                }
            }
            Ending(conn) => capture.handle_ending(slots[conn - 1]),
            Room(may_open, has_opened_all) => {
                let found = (capture.may_open(), capture.has_opened_all());
                assert_eq!(found, (*may_open, *has_opened_all));
            }
            Read(conn, text) => {
                let slot = slots[conn - 1];
                let buffer = capture.read_buffer(slot, Direction::In);
                buffer[..text.len()].copy_from_slice(text.as_bytes());
                capture.handle_read(slot, Direction::In, text.len(), now);
            }
            Sent(conn, text) => {
                let slot = slots[conn - 1];
                let buffer = capture.read_buffer(slot, Direction::Out);
                buffer[..text.len()].copy_from_slice(text.as_bytes());
                capture.handle_read(slot, Direction::Out, text.len(), now);
            }
            Eof(conn) => capture.handle_eof(slots[conn - 1], Direction::In, now),
            Close(conn, reason) => capture.handle_close(slots[conn - 1], reason.clone(), now),
            Pass(ms) => now.elapsed_us += ms * 1000,
            Expired(conns) => {
                let told: Vec<_> = std::iter::from_fn(|| capture.poll_expired(now)).collect();
                let of = |(conn, reason): &(usize, CloseReason)| (slots[conn - 1], reason.clone());
                assert_eq!(told, conns.iter().map(of).collect::<Vec<_>>());
            }
            End => capture.handle_end(now),
        }
    }
    let records = capture.poll_batch().map(|batch| {
        let records = batch.iter().map(|record| in_words(&record));
        records.collect::<Vec<_>>()
    });
    assert_eq!(records.unwrap_or_default(), expected);
    let refused = |step: &&Step| matches!(step, Knock(_, Err(_)));
    let refused = script.iter().filter(refused).count();
    assert_eq!(capture.totals().refused, refused as u64);
    assert!(capture.addresses() as u64 <= capture.totals().open);
    assert_eq!(capture.totals().records, expected.len() as u64);
}

#[test]
fn a_connection_from_its_open_to_its_close() {
    check(
        config(CHUNK),
        &[
            Open,
            Pass(1),
            Read(1, "ab"),
            Read(1, "c"),
            Eof(1),
            Pass(2),
            Close(1, CloseReason::Eof),
        ],
        &[
            "0: open 1",
            "1: data 1 @0 \"ab\"",
            "2: data 1 @2 \"c\"",
            "3: eof 1",
            "4: close 1 Eof 3 bytes 352441c2 after 3 ms",
        ],
    );
}

#[test]
fn checksums_that_nobody_tells_are_not_made() {
    let config = Config {
        checksums: false,
        ..config(CHUNK)
    };
    check(
        config,
        &[Open, Read(1, "abc"), Close(1, CloseReason::Eof)],
        &[
            "0: open 1",
            "1: data 1 @0 \"abc\"",
            "2: close 1 Eof 3 bytes 00000000 after 0 ms",
        ],
    );
}

#[test]
fn connections_are_kept_apart_and_slots_used_again() {
    check(
        config(CHUNK),
        &[
            Open,
            Open,
            Read(2, "two"),
            Read(1, "one"),
            Close(1, CloseReason::Reset),
            Open,
            Read(3, "new"),
            Close(3, CloseReason::Shutdown),
            Close(2, CloseReason::Shutdown),
            End,
        ],
        &[
            "0: open 1",
            "1: open 2",
            "2: data 2 @0 \"two\"",
            "3: data 1 @0 \"one\"",
            "4: close 1 Reset 3 bytes 7a6c86f1 after 0 ms",
            "5: open 3",
            "6: data 3 @0 \"new\"",
            "7: close 3 Shutdown 3 bytes 6be34445 after 0 ms",
            "8: close 2 Shutdown 3 bytes 11ca8a66 after 0 ms",
            "9: end",
        ],
    );
}

#[test]
fn lines_wait_for_their_end_and_are_cut_when_they_are_long() {
    check(
        config(LINE),
        &[
            Open,
            Read(1, "a"),
            Read(1, "b\nc"),
            Read(1, "\n"),
            Read(1, "0123456789\n"),
            Read(1, "end"),
            Eof(1),
        ],
        &[
            "0: open 1",
            "1: data 1 @0 \"ab\\n\"",
            "2: data 1 @3 \"c\\n\"",
            "3: data 1 @5 \"01234567\" partial",
            "4: data 1 @13 \"89\\n\"",
            "5: data 1 @16 \"end\" partial",
            "6: eof 1",
        ],
    );
}

#[test]
fn each_direction_has_its_own_lines_and_offsets() {
    check(
        config(LINE),
        &[
            Open,
            Read(1, "SE"),
            Sent(1, "+O"),
            Read(1, "T\nGE"),
            Sent(1, "K\n-"),
            Eof(1),
            Close(1, CloseReason::Eof),
        ],
        &[
            "0: open 1",
            "1: data 1 @0 \"SET\\n\"",
            "2: sent 1 @0 \"+OK\\n\"",
            "3: data 1 @4 \"GE\" partial",
            "4: eof 1",
            "5: sent 1 @4 \"-\" partial",
            "6: close 1 Eof 6 bytes 5bbd7d3d after 0 ms",
        ],
    );
}

#[test]
fn unfinished_lines_are_recorded_early_when_they_take_too_much_memory() {
    let config = Config {
        carry_limit: 0,
        ..config(LINE)
    };
    check(
        config,
        &[Open, Read(1, "ab"), Read(1, "c\n")],
        &[
            "0: open 1",
            "1: data 1 @0 \"ab\" partial",
            "2: data 1 @2 \"c\\n\"",
        ],
    );
}

#[test]
fn a_connection_is_idle_until_it_speaks_and_old_whatever_it_does() {
    check(
        config(CHUNK),
        &[
            Open,
            Pass(60),
            Read(1, "a"),
            Pass(60),
            Expired(&[]),
            Pass(40),
            Expired(&[(1, CloseReason::IdleTimeout)]),
            Expired(&[]),
            // It had sent something that nobody had read.
            Read(1, "b"),
            Pass(80),
            Expired(&[]),
            Pass(10),
            Expired(&[(1, CloseReason::Limit)]),
            Expired(&[]),
        ],
        &["0: open 1", "1: data 1 @0 \"a\"", "2: data 1 @1 \"b\""],
    );
}

#[test]
fn peers_of_one_address_are_no_more_than_may_be() {
    const ONE: &str = "192.0.2.1";
    let admission = admission::Config {
        deny: vec!["198.51.100.0/24".parse().expect("a network")],
        max_conns_per_ip: Some(2),
        ..admission::Config::default()
    };
    let config = Config {
        admission,
        ..config(CHUNK)
    };
    check(
        config,
        &[
            Knock(ONE, Ok(())),
            Knock(ONE, Ok(())),
            Knock(ONE, Err(Refusal::TooMany)),
            Knock("192.0.2.2", Ok(())),
            Knock("198.51.100.1", Err(Refusal::Denied)),
            // The kernel knows that one has gone, though what it sent is still to be read.
            Ending(1),
            Knock(ONE, Ok(())),
            Knock(ONE, Err(Refusal::TooMany)),
            // It is counted once.
            Ending(1),
            Close(1, CloseReason::Eof),
            Knock(ONE, Err(Refusal::TooMany)),
            Close(2, CloseReason::Reset),
            Knock(ONE, Ok(())),
        ],
        &[
            "0: open 1",
            "1: open 2",
            "2: open 3",
            "3: open 4",
            "4: close 1 Eof 0 bytes 00000000 after 0 ms",
            "5: close 2 Reset 0 bytes 00000000 after 0 ms",
            "6: open 5",
        ],
    );
}

#[test]
fn no_more_are_opened_than_were_wanted() {
    let config = Config {
        max_conns: 1,
        exit_after: Some(2),
        ..config(CHUNK)
    };
    check(
        config,
        &[
            Room(true, false),
            Open,
            Room(false, false),
            Close(1, CloseReason::Eof),
            Room(true, false),
            Open,
            Room(false, true),
            Close(2, CloseReason::Eof),
            Room(false, true),
        ],
        &[
            "0: open 1",
            "1: close 1 Eof 0 bytes 00000000 after 0 ms",
            "2: open 2",
            "3: close 2 Eof 0 bytes 00000000 after 0 ms",
        ],
    );
}
