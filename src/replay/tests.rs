//! Which steps come of which records: scripts of records, and the steps that are expected.

use std::convert::Infallible;

use wildmatch::WildMatch;

use super::{Act, Ending, Place, Schedule, Sessions, Sink, Step};
use crate::record::selection::Selection;
use crate::record::{
    Close, CloseReason, Conn, ConnId, Direction, EndReason, Event, GapReason, Record, RunId, Start,
    Timestamp, WallTime,
};

/// Steps in words, and which of them turned out to be the last.
#[derive(Debug, Default)]
struct Words {
    steps: Vec<String>,
    /// The last step can still be noted.
    can_end: bool,
}

impl Sink for Words {
    type Error = Infallible;

    fn push(&mut self, step: Step<&[u8]>) -> Result<Place, Infallible> {
        let what = match step.act {
            Act::Open(origin) => format!("open #{} of {}", origin.conn, origin.concurrency),
            Act::Send { payload, .. } => format!("send {}", String::from_utf8_lossy(payload)),
            Act::HalfClose => "half".to_owned(),
            Act::End(Ending::Orderly) => "end".to_owned(),
            Act::End(Ending::Reset) => "reset".to_owned(),
        };
        let replies = match step.replies {
            0 => String::new(),
            replies => format!(" after {replies}"),
        };
        let (at, session) = (step.at_us, step.session);
        self.steps.push(format!("{at} {session}: {what}{replies}"));
        Ok(Place {
            block: 0,
            step: self.steps.len() - 1,
        })
    }

    fn end_at(&mut self, place: Place) -> bool {
        if self.can_end {
            self.steps[place.step] += ", last";
        }
        self.can_end
    }
}

/// A record of connection `conn` at `at` microseconds; the number follows from the place, but for a
/// run that begins again.
fn record(at: u64, conn: u64, what: &str) -> Record<'static> {
    let peer = format!("192.0.2.{conn}:1");
    let of = || Conn {
        id: ConnId(conn),
        peer: peer.clone().into(),
    };
    let data = |direction, offset: u64, text: &str| Event::Data {
        conn: of(),
        direction,
        offset,
        payload: text.as_bytes().to_vec().into(),
        partial: false,
    };
    let close = |reason, in_bytes| Event::Close {
        conn: of(),
        close: std::borrow::Cow::Owned(Close {
            reason,
            in_bytes,
            out_bytes: 0,
            in_crc32: 0,
            out_crc32: None,
            duration_us: 0,
        }),
    };
    let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
    let event = match verb {
        "start" => Event::Start(std::borrow::Cow::Owned(Start {
            run: RunId(conn),
            mode: "listen".to_owned(),
            listen: Vec::new(),
            connect: Vec::new(),
            tool: String::new(),
            segment: 1,
            conn: None,
            part: false,
        })),
        "open" => Event::Open {
            conn: of(),
            local: "192.0.2.1:2".into(),
            target: None,
        },
        "in" => data(Direction::In, 0, rest),
        "in@5" => data(Direction::In, 5, rest),
        "in@last" => data(Direction::In, u64::MAX - 1, rest),
        "out" => data(Direction::Out, 0, rest),
        "eof" => Event::Eof {
            conn: of(),
            direction: Direction::In,
        },
        "eof-out" => Event::Eof {
            conn: of(),
            direction: Direction::Out,
        },
        "close" => close(CloseReason::Eof, 1),
        "close-empty" => close(CloseReason::Eof, 0),
        "reset" => close(CloseReason::Reset, 1),
        "gap" => Event::Gap {
            records: 1,
            bytes: 1,
            reason: GapReason::StalledOutput,
        },
        "end" => Event::End {
            reason: EndReason::Shutdown,
        },
        _ => panic!("{what}"),
    };
    Record {
        time: Timestamp {
            wall: WallTime::from_unix_micros(at),
            elapsed_us: at,
        },
        seq: 0,
        event,
    }
}

#[derive(Default)]
struct Case {
    selection: Selection,
    plays_out: bool,
    cannot_end: bool,
}

impl Case {
    /// Plays the script; a number in front of its verb, as in `7: in x`, is the record's.
    fn check(self, script: &[(u64, u64, &str)], expected: &[&str]) -> super::Totals {
        let direction = match self.plays_out {
            true => Direction::Out,
            false => Direction::In,
        };
        let mut sessions = Sessions::new(self.selection, direction, Schedule::new(None));
        let mut words = Words {
            can_end: !self.cannot_end,
            ..Words::default()
        };
        let mut seq = 0;
        for &(at, conn, what) in script {
            let (number, what) = match what.split_once(": ") {
                Some((number, what)) => (number.parse().expect("a number"), what),
                None => (seq, what),
            };
            let record = Record {
                seq: number,
                ..record(at, conn, what)
            };
            seq = number + 1;
            let Ok(()) = sessions.handle_record(&record, &mut words);
        }
        let Ok(()) = sessions.handle_end(&mut words);
        assert_eq!(words.steps, expected, "{script:?}");
        sessions.totals()
    }
}

fn check(script: &[(u64, u64, &str)], expected: &[&str]) -> super::Totals {
    Case::default().check(script, expected)
}

#[test]
fn a_whole_session_is_played_from_its_open_to_its_close() {
    let totals = check(
        &[
            (0, 9, "start"),
            (50, 1, "open"),
            (60, 1, "in hi"),
            (65, 1, "out yes"),
            (70, 1, "in@5 ho"),
            (80, 1, "eof"),
            (81, 1, "eof-out"),
            (82, 1, "close"),
            (90, 9, "end"),
        ],
        &[
            "0 1: open #1 of 1",
            "10 1: send hi",
            "20 1: send ho after 3",
            "30 1: half after 3",
            "32 1: end after 3",
        ],
    );
    assert_eq!((totals.sessions, totals.sends, totals.bytes), (1, 2, 4));
    assert_eq!((totals.replies, totals.missing, totals.gaps), (3, 3, 0));
    assert_eq!(totals.length_us, 32);
}

/// Offsets are whatever a stranger wrote.
#[test]
fn holes_larger_than_can_be_counted_do_not_overflow() {
    let script = [(0, 1, "in a"), (0, 1, "in@last b"), (0, 2, "in c")];
    let script = [&script[..], &[(0, 2, "in@last d")]].concat();
    let expected = [
        "0 1: open #1 of 1",
        "0 1: send a",
        "0 1: send b, last",
        "0 2: open #2 of 2",
        "0 2: send c",
        "0 2: send d, last",
    ];
    assert_eq!(check(&script, &expected).missing, u64::MAX);
}

#[test]
fn sessions_overlap_as_they_did_and_end_as_they_did() {
    check(
        &[
            (0, 1, "open"),
            (1, 2, "open"),
            (2, 1, "reset"),
            (3, 3, "open"),
            (4, 2, "close"),
            (5, 3, "close-empty"),
        ],
        &[
            "0 1: open #1 of 1",
            "1 2: open #2 of 2",
            "2 1: reset",
            "3 3: open #3 of 2",
            "4 2: end",
            "5 3: end",
        ],
    );
}

#[test]
fn what_was_filtered_out_is_not_missed() {
    // Without open and close a session is what there is of it.
    let script = [(7, 1, "in a"), (8, 2, "in b"), (9, 1, "in@5 c")];
    check(
        &script,
        &[
            "0 1: open #1 of 1",
            "0 1: send a",
            "1 2: open #2 of 2",
            "1 2: send b, last",
            "2 1: send c, last",
        ],
    );
    let case = Case {
        cannot_end: true,
        ..Case::default()
    };
    case.check(
        &script,
        &[
            "0 1: open #1 of 1",
            "0 1: send a",
            "1 2: open #2 of 2",
            "1 2: send b",
            "2 1: send c",
            "2 1: end",
            "2 2: end",
        ],
    );
    // Only a close is left: of a session that never sent, that is all; of another it is nothing.
    check(&[(7, 1, "close")], &[]);
    check(&[(7, 1, "close-empty")], &["0 1: open #1 of 1", "0 1: end"]);
    check(&[(7, 1, "eof")], &[]);
}

#[test]
fn a_connection_of_another_run_is_another_session() {
    let expected = [
        "0 1: open #1 of 1",
        "1 1: send a, last",
        "1 2: open #1 of 1",
        "2 2: send b, last",
    ];
    // Told by a start, or by numbers that begin again; the pause between runs is not known.
    let runs: [&[(u64, u64, &str)]; 2] = [
        &[
            (0, 8, "start"),
            (5, 1, "open"),
            (6, 1, "in a"),
            (0, 9, "0: start"),
            (3, 1, "open"),
            (4, 1, "in b"),
        ],
        &[
            (5, 1, "3: open"),
            (6, 1, "in a"),
            (3, 1, "1: open"),
            (4, 1, "in b"),
        ],
    ];
    for script in runs {
        check(script, &expected);
    }
    // The next segment of the same run goes on with its sessions, and with its time.
    check(
        &[
            (0, 8, "start"),
            (5, 1, "open"),
            (6, 1, "in a"),
            (6, 8, "3: end"),
            (6, 8, "3: start"),
            (9, 1, "3: in@5 b"),
        ],
        &["0 1: open #1 of 1", "1 1: send a", "4 1: send b, last"],
    );
    // A second open, and another peer, end what had the number before.
    check(
        &[(0, 1, "open"), (1, 1, "open"), (2, 1, "close")],
        &[
            "0 1: open #1 of 1",
            "1 1: end",
            "1 2: open #1 of 1",
            "2 2: end",
        ],
    );
}

#[test]
fn only_what_is_selected_is_played_and_timed_by_itself() {
    let script = [
        (0, 1, "open"),
        (10, 2, "open"),
        (20, 1, "in a"),
        (30, 2, "in b"),
        (40, 1, "in@5 c"),
        (50, 1, "close"),
        (60, 2, "close"),
    ];
    let conns = |conns| Selection {
        conns,
        ..Selection::default()
    };
    let case = Case {
        selection: conns(vec![2..=5]),
        ..Case::default()
    };
    case.check(&script, &["0 1: open #2 of 1", "20 1: send b", "50 1: end"]);
    let case = Case {
        selection: Selection {
            peers: vec![WildMatch::new("*.2:*")],
            ..Selection::default()
        },
        ..Case::default()
    };
    case.check(&script, &["0 1: open #2 of 1", "20 1: send b", "50 1: end"]);
    // What is open ends, though its close is not within the time.
    let case = Case {
        selection: Selection {
            since: Some(WallTime::from_unix_micros(20)),
            until: Some(WallTime::from_unix_micros(40)),
            ..Selection::default()
        },
        ..Case::default()
    };
    case.check(
        &script,
        &[
            "0 1: open #1 of 1",
            "0 1: send a",
            "10 2: open #2 of 2",
            "10 2: send b",
            "10 1: end",
            "10 2: end",
        ],
    );
    let case = Case {
        selection: conns(vec![7..=7]),
        ..Case::default()
    };
    assert_eq!(case.check(&script, &[]).sessions, 0);
}

#[test]
fn the_other_direction_is_played_as_the_other_side() {
    let case = Case {
        plays_out: true,
        ..Case::default()
    };
    let script = [
        (0, 1, "open"),
        (1, 1, "in ask"),
        (2, 1, "out answer"),
        (3, 1, "eof"),
        (4, 1, "eof-out"),
        (5, 1, "reset"),
    ];
    // The reset was the peer's, who is not played.
    case.check(
        &script,
        &[
            "0 1: open #1 of 1",
            "2 1: send answer after 3",
            "4 1: half after 3",
            "5 1: end after 3",
        ],
    );
}

#[test]
fn what_was_never_captured_is_counted() {
    let totals = check(
        &[(0, 1, "open"), (1, 0, "gap"), (2, 1, "close")],
        &["0 1: open #1 of 1", "2 1: end"],
    );
    assert_eq!(totals.gaps, 1);
}
