//! Captures as scripts, and what is found in them.

use super::*;
use crate::record::{CloseReason, GapReason, WallTime};

const RUN: u64 = 0xa1;

/// A capture that is reviewed as it is written. Records have the number and the time behind those of the
/// last one, unless they are told others.
struct Script {
    review: Review,
    line: u64,
    seq: u64,
    now_us: u64,
    found: Vec<String>,
    sessions: Vec<Session>,
}

impl Script {
    /// A file, and a run that begins in it.
    fn new() -> Self {
        Self::selecting(Selection::default()).file().start(1)
    }

    fn selecting(selection: Selection) -> Self {
        Self {
            review: Review::new(selection),
            line: 0,
            seq: 0,
            now_us: 0,
            found: Vec::new(),
            sessions: Vec::new(),
        }
    }

    fn file(mut self) -> Self {
        self.review.handle_file();
        self.line = 0;
        self
    }

    /// The number that the next record has.
    fn seq(mut self, seq: u64) -> Self {
        self.seq = seq;
        self
    }

    fn record(mut self, event: Event<'_>) -> Self {
        self.line += 1;
        self.now_us += 10;
        let record = Record {
            time: Timestamp {
                wall: WallTime::from_unix_micros(self.now_us),
                elapsed_us: self.now_us,
            },
            seq: self.seq,
            event,
        };
        self.seq += used(&record);
        self.review.handle_record(self.line, &record);
        self.poll()
    }

    fn poll(mut self) -> Self {
        while let Some(finding) = self.review.poll_finding() {
            self.found
                .push(format!("{}: {}", finding.line, finding.flaw));
        }
        self.sessions
            .extend(std::iter::from_fn(|| self.review.poll_session()));
        self
    }

    fn start(self, segment: u64) -> Self {
        self.start_with(|start| start.segment = segment)
    }

    fn start_with(self, change: impl FnOnce(&mut Start)) -> Self {
        let mut start = Start {
            run: RunId(RUN),
            mode: "listen".to_owned(),
            listen: Vec::new(),
            connect: Vec::new(),
            tool: String::new(),
            segment: 1,
            conn: None,
            part: false,
        };
        change(&mut start);
        self.record(Event::Start(std::borrow::Cow::Owned(start)))
    }

    fn open(self, conn: u64) -> Self {
        self.record(Event::Open {
            conn: at(conn),
            local: "here".into(),
            target: None,
        })
    }

    fn data(self, conn: u64, offset: u64, payload: &str) -> Self {
        self.data_that(Direction::In, conn, offset, payload)
    }

    fn data_that(self, direction: Direction, conn: u64, offset: u64, payload: &str) -> Self {
        self.record(Event::Data {
            conn: at(conn),
            direction,
            offset,
            payload: payload.as_bytes().into(),
            partial: false,
        })
    }

    fn eof(self, conn: u64) -> Self {
        self.record(Event::Eof {
            conn: at(conn),
            direction: Direction::In,
        })
    }

    /// The peer had sent this, in so many microseconds.
    fn close(self, conn: u64, sent: &str, duration_us: u64) -> Self {
        self.close_with(conn, sent, duration_us, |_| {})
    }

    fn close_with(
        self,
        conn: u64,
        sent: &str,
        duration_us: u64,
        change: impl FnOnce(&mut Close),
    ) -> Self {
        let mut close = Close {
            reason: CloseReason::Eof,
            in_bytes: sent.len() as u64,
            out_bytes: 0,
            in_crc32: crc32fast::hash(sent.as_bytes()),
            out_crc32: None,
            duration_us,
        };
        change(&mut close);
        self.record(Event::Close {
            conn: at(conn),
            close: std::borrow::Cow::Owned(close),
        })
    }

    fn gap(self, records: u64, bytes: u64) -> Self {
        self.record(Event::Gap {
            records,
            bytes,
            reason: GapReason::StalledOutput,
        })
    }

    fn end(self, reason: EndReason) -> Self {
        self.record(Event::End { reason })
    }

    /// The file ends: what was found in it.
    fn file_end(&mut self) -> Report {
        self.review.handle_file_end(self.line)
    }

    /// The captures end, and this was found in them.
    fn finds(mut self, expected: &[&str]) -> Self {
        let report = self.file_end();
        self.review.handle_end();
        let this = self.poll();
        assert_eq!(this.found, expected);
        if this.review.nth_file == 1 {
            assert_eq!(report.findings, expected.len() as u64);
        }
        this
    }

    fn states(&self) -> Vec<(u64, State)> {
        let states = self.sessions.iter();
        states
            .map(|session| (session.conn.0, session.state))
            .collect()
    }
}

fn at(conn: u64) -> Conn<'static> {
    Conn {
        id: ConnId(conn),
        peer: format!("peer {conn}").into(),
    }
}

#[test]
fn a_whole_capture_has_nothing_wrong() {
    let script = Script::new()
        .open(1)
        .data(1, 0, "ab")
        .open(2)
        .data_that(Direction::Out, 2, 0, "xyz")
        .data(1, 2, "c")
        .eof(1)
        .close(1, "abc", 60)
        .close_with(2, "", 50, |close| {
            close.out_bytes = 3;
            close.out_crc32 = Some(crc32fast::hash(b"xyz"));
        })
        .end(EndReason::Shutdown)
        .finds(&[]);
    assert_eq!(script.states(), [(1, State::Whole), (2, State::Whole)]);
    let first = &script.sessions[0];
    assert_eq!((first.records, first.in_bytes, first.out_bytes), (5, 3, 0));
    assert_eq!((first.start.elapsed_us, first.duration_us), (20, 60));
    let totals = script.review.totals();
    assert_eq!(
        (
            totals.sessions,
            totals.torn,
            totals.runs,
            totals.in_bytes,
            totals.out_bytes
        ),
        (2, 0, 1, 3, 3)
    );
}

#[test]
fn what_close_says_is_held_against_what_is_there() {
    let opened = || Script::new().open(1).data(1, 0, "abc");
    let ended = |script: Script| script.end(EndReason::Shutdown);
    ended(opened().close_with(1, "abc", 20, |close| close.in_crc32 = 1))
        .finds(&["4: close of connection 1: in_crc32 is 00000001, the bytes have 352441c2"]);
    ended(opened().close_with(1, "abc", 20, |close| close.in_bytes = 5))
        .finds(&["4: close of connection 1: in_bytes is 5, the bytes here end at 3"]);
    ended(opened().close_with(1, "abc", 20, |close| close.out_bytes = 2))
        .finds(&["4: close of connection 1: out_bytes is 2, the bytes here end at 0"]);
    ended(opened().close(1, "abc", 21))
        .finds(&["4: close of connection 1: duration_us is 21, it was open for 20"]);
    let out = || Script::new().open(1).data_that(Direction::Out, 1, 0, "x");
    ended(out().close_with(1, "", 20, |close| close.out_bytes = 1))
        .finds(&["4: close of connection 1: out_crc32 is left out, the bytes have 8cdc1683"]);
}

#[test]
fn what_a_replay_has_sent_is_counted_and_not_recorded() {
    let script = Script::selecting(Selection::default()).file();
    let script = script
        .start_with(|start| start.mode = "replay".to_owned())
        // Sessions open in any order, and one may never.
        .open(3)
        .open(1)
        .close_with(3, "", 20, |close| {
            close.out_bytes = 7;
            close.out_crc32 = Some(9);
        })
        .close(1, "", 20)
        .end(EndReason::Shutdown)
        .finds(&[]);
    assert_eq!(script.sessions[0].out_bytes, 7);
}

#[test]
fn a_record_that_is_missing_is_found_and_what_it_held() {
    let script = Script::new()
        .open(1)
        .data(1, 0, "a")
        .seq(4)
        .data(1, 2, "c")
        .close(1, "abc", 30)
        .end(EndReason::Shutdown)
        .finds(&[
            "4: record 3 is missing",
            "4: connection 1: 1 byte in missing at offset 1",
        ]);
    assert_eq!(script.states(), [(1, State::Missing(1))]);
    // An open that is missing is not found again in each record of its connection.
    Script::new()
        .seq(2)
        .data(1, 0, "a")
        .data(1, 1, "b")
        .close(1, "ab", 1)
        .end(EndReason::Shutdown)
        .finds(&["2: record 1 is missing"]);
}

#[test]
fn a_gap_is_named_and_stands_for_its_records() {
    let script = Script::new()
        .open(1)
        .gap(2, 5)
        .data(1, 5, "f")
        .close_with(1, "f", 30, |close| close.in_bytes = 6)
        .end(EndReason::Shutdown)
        .finds(&[
            "3: a gap: 2 records with 5 bytes not captured",
            "4: connection 1: 5 bytes in missing at offset 0",
        ]);
    assert_eq!(script.states(), [(1, State::Missing(5))]);
    let totals = script.review.totals();
    assert_eq!((totals.gaps, totals.missed), (1, 2));
}

#[test]
fn records_of_a_connection_come_between_its_open_and_its_close() {
    Script::new()
        .open(1)
        .close(1, "", 10)
        .data(1, 0, "late")
        .end(EndReason::Shutdown)
        .finds(&[
            "4: connection 1 is not open",
            "5: connection 1 has no close",
        ]);
    Script::new()
        .open(1)
        .open(1)
        .close(1, "", 10)
        .end(EndReason::Shutdown)
        .finds(&["3: connection 1 is opened again"]);
    Script::new()
        .open(2)
        .close(2, "", 10)
        .open(2)
        .close(2, "", 10)
        .end(EndReason::Shutdown)
        .finds(&["4: connection 2 is opened again"]);
    Script::new()
        .open(1)
        .eof(1)
        .data(1, 0, "x")
        .close(1, "x", 30)
        .end(EndReason::Shutdown)
        .finds(&["4: connection 1: more behind the eof of in"]);
    let script = Script::new()
        .open(1)
        .open(2)
        .end(EndReason::Shutdown)
        .finds(&["4: connection 1 and one more have no close"]);
    assert_eq!(script.states(), [(1, State::NoClose), (2, State::NoClose)]);
}

#[test]
fn bytes_that_come_again_are_found() {
    let script = Script::new()
        .open(1)
        .data(1, 0, "abc")
        .data(1, 2, "cd")
        .close(1, "abcd", 30)
        .end(EndReason::Shutdown)
        .finds(&["4: connection 1: offset 2 in where 3 was to come"]);
    assert_eq!(script.states(), [(1, State::Damaged)]);
}

#[test]
fn a_peer_that_changes_is_found_where_it_does() {
    let script = Script::new().open(1);
    let other = Event::Eof {
        conn: Conn {
            id: ConnId(1),
            peer: "another".into(),
        },
        direction: Direction::In,
    };
    script
        .record(other)
        .close(1, "", 20)
        .end(EndReason::Shutdown)
        .finds(&[
            "3: connection 1 has another peer than before",
            "4: connection 1 has another peer than before",
        ]);
}

#[test]
fn time_does_not_go_back() {
    let mut script = Script::new().open(1);
    script.now_us -= 15;
    script
        .close(1, "", 0)
        .end(EndReason::Shutdown)
        .finds(&["3: elapsed_us goes back from 20 to 15: time does not"]);
}

#[test]
fn a_run_begins_and_ends() {
    Script::new().finds(&["1: no end: cut short, or still going on"]);
    Script::new()
        .open(1)
        .seq(0)
        .start_with(|start| start.run = RunId(2))
        .end(EndReason::Shutdown)
        .finds(&["3: no end: cut short, or still going on"]);
    let script = Script::selecting(Selection::default()).file().seq(7);
    script.data(3, 0, "x").end(EndReason::Shutdown).finds(&[
        "1: no start: what came before is not here",
        "2: connection 3 has no close",
    ]);
    Script::new()
        .end(EndReason::Shutdown)
        .open(1)
        .close(1, "", 10)
        .end(EndReason::Shutdown)
        .finds(&["3: no start: what came before is not here"]);
}

#[test]
fn a_connection_goes_on_from_segment_to_segment() {
    let mut script = Script::new()
        .open(1)
        .data(1, 0, "ab")
        .end(EndReason::Rotated);
    let report = script.file_end();
    assert_eq!((report.findings, report.goes_on), (0, Some(1)));
    let mut script = script
        .file()
        .start(2)
        .data(1, 2, "c")
        .close(1, "abc", 50)
        .end(EndReason::Shutdown);
    let report = script.file_end();
    assert_eq!((report.findings, report.begins_at), (0, None));
    assert_eq!((report.runs, report.sessions), (1, 0));
    let script = script.poll();
    assert_eq!(script.states(), [(1, State::Whole)]);
    assert_eq!(script.review.totals().runs, 1);
}

#[test]
fn a_segment_alone_is_whole_as_far_as_it_goes() {
    let script = Script::selecting(Selection::default()).file().seq(40);
    let mut script = script
        .start(3)
        .data(1, 100, "x")
        .close(1, "whatever it was", 30)
        .open(2)
        .close(2, "", 10)
        .end(EndReason::Rotated);
    let report = script.file_end();
    // The close counts bytes that end elsewhere: that can be seen.
    assert_eq!(report.begins_at, Some(3));
    let script = script.poll();
    assert_eq!(
        script.found,
        ["3: close of connection 1: in_bytes is 15, the bytes here end at 101"]
    );
    // What was opened here is known, and what was opened before is not.
    let script = Script::selecting(Selection::default()).file().seq(40);
    script
        .start(3)
        .open(5)
        .close(5, "", 10)
        .data(4, 9, "x")
        .data(5, 0, "x")
        .end(EndReason::Rotated)
        .finds(&["5: connection 5 is not open"]);
}

#[test]
fn a_segment_that_is_missing_or_out_of_order_is_found() {
    let first = || Script::new().open(1).end(EndReason::Rotated);
    first()
        .start(3)
        .seq(9)
        .close(1, "", 30)
        .end(EndReason::Shutdown)
        .finds(&[
            "4: segment 2 is missing before segment 3",
            "5: records 2 to 8 are missing",
        ]);
    first()
        .seq(0)
        .start(1)
        .end(EndReason::Shutdown)
        .finds(&["4: segment 1 comes behind segment 1: out of order, or given twice"]);
    // Another file is by itself, whether it is a copy or what another output has written.
    let mut again = first().file().seq(0).start(1).open(1).close(1, "", 10);
    again = again.end(EndReason::Shutdown);
    assert_eq!(again.file_end().findings, 0);
    again.finds(&[]);
}

#[test]
fn in_a_part_the_missing_numbers_are_those_of_others() {
    let part = |segment| {
        move |start: &mut Start| {
            start.part = true;
            start.segment = segment;
        }
    };
    let script = Script::selecting(Selection::default()).file().seq(3);
    let script = script
        .start_with(part(1))
        .open(1)
        .seq(9)
        .data(1, 0, "a")
        .seq(12)
        .end(EndReason::Rotated)
        // It was closed to make room, and is gone on with.
        .start_with(part(5))
        .seq(20)
        .close(1, "a", 40)
        .end(EndReason::Shutdown);
    // Another, from between.
    let script = script
        .file()
        .seq(5)
        .start_with(part(2))
        .open(2)
        .seq(7)
        .close(2, "", 10)
        .end(EndReason::Shutdown);
    let script = script.finds(&[]);
    assert_eq!(script.states(), [(1, State::Whole), (2, State::Whole)]);
    assert_eq!(script.review.totals().runs, 1);
    // Going back is wrong there, too.
    let script = Script::selecting(Selection::default()).file().seq(3);
    script
        .start_with(part(1))
        .open(1)
        .seq(2)
        .close(1, "", 10)
        .end(EndReason::Shutdown)
        .finds(&["3: record 2 where 4 was to come"]);
}

#[test]
fn a_file_of_a_connection_ends_with_it() {
    let script = Script::selecting(Selection::default()).file().seq(3);
    script
        .start_with(|start| start.conn = Some(ConnId(2)))
        .open(2)
        .end(EndReason::Closed)
        .finds(&["3: connection 2 has no close"]);
}

/// Records of a few connections, files and runs, in any order and with any numbers.
#[test]
fn whatever_a_capture_says_the_books_are_kept() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..3_000 {
        let mut script = Script::selecting(Selection::default()).file();
        let (mut of_conns, mut sent, mut reported, mut found) = (0, 0, 0, 0);
        for _ in 0..random.usize(1..60) {
            if random.u8(0..4) == 0 {
                script.seq = random.u64(0..30);
            }
            if random.u8(0..20) == 0 {
                script.now_us = random.u64(0..300);
            }
            let conn = random.u64(1..4);
            let segment = random.u64(0..4);
            of_conns += 1;
            script = match random.u8(0..12) {
                0 | 1 => script.open(conn),
                2..=5 => {
                    sent += 2;
                    script.data(conn, random.u64(0..6), "ab")
                }
                6 => script.eof(conn),
                7 | 8 => script.close(conn, "ab", random.u64(0..50)),
                other => {
                    of_conns -= 1;
                    match other {
                        9 => script.gap(random.u64(0..3), random.u64(0..9)),
                        10 => {
                            let reasons =
                                [EndReason::Rotated, EndReason::Closed, EndReason::Shutdown];
                            script.end(random.choice(reasons).expect("there are some"))
                        }
                        _ if random.bool() => {
                            reported += script.file_end().findings;
                            script.file()
                        }
                        _ => {
                            let (run, is_part) = (random.u64(0..2), random.u8(0..4) == 0);
                            script.start_with(|start| {
                                start.run = RunId(run);
                                start.segment = segment;
                                start.part = is_part;
                                start.conn = Some(ConnId(conn)).filter(|_| is_part);
                            })
                        }
                    }
                }
            };
            assert!(script.review.open() <= 3);
        }
        reported += script.file_end().findings;
        script.review.handle_end();
        let script = script.poll();
        found += script.found.len() as u64;
        assert_eq!(found, reported);
        let totals = script.review.totals();
        let torn = script
            .states()
            .into_iter()
            .filter(|(_, state)| *state != State::Whole);
        assert_eq!(totals.sessions, script.sessions.len() as u64);
        assert_eq!(totals.torn, torn.count() as u64);
        assert_eq!((totals.records, totals.in_bytes), (of_conns, sent));
    }
}

#[test]
fn what_is_selected_is_told_and_all_is_checked() {
    let selection = Selection {
        conns: vec![2..=2],
        since: Some(WallTime::from_unix_micros(45)),
        ..Selection::default()
    };
    let script = Script::selecting(selection).file().start(1);
    let script = script
        .open(1)
        .open(2)
        .data(2, 0, "ab")
        .data(2, 2, "c")
        .data(2, 9, "d")
        .close(1, "", 50)
        .close_with(2, "", 50, |close| close.in_bytes = 10)
        .end(EndReason::Shutdown)
        .finds(&["6: connection 2: 6 bytes in missing at offset 3"]);
    let [session] = &script.sessions[..] else {
        panic!("{:?}", script.sessions);
    };
    assert_eq!((session.in_bytes, session.records), (2, 3));
    assert_eq!((session.start.elapsed_us, session.duration_us), (50, 30));
}
