//! Captures that were written to do harm: each is refused by name, line and cause, or is used as far as
//! it goes, in flat memory and without a panic (promise 13).

use std::fs;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use crate::hand::{Script, gzip, listening, replay_command};
use crate::talk::{MIB, check_status};
use crate::tape::{Ended, Tape, program, under};

/// What a replay of `bytes` may have of memory that it can write to.
const MEMORY: usize = 192 * MIB;

/// Replays these bytes to a target that reads everything; `None`, said aloud, where its memory cannot be
/// bounded. One that takes more than that is killed by its own hand.
fn play(bytes: &[u8], args: &[&str]) -> Option<Ended> {
    let prlimit = program("prlimit")?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("bad"), bytes).expect("there is room");
    let target = listening();
    let inner = replay_command(&["bad", &target.address, "--speed", "max"]);
    let mut outer = Command::new(prlimit);
    outer.arg(format!("--data={MEMORY}"));
    let mut command = under(outer, &inner);
    command.args(args).stdout(Stdio::null());
    Some(Tape::spawn_in(folder, command).wait())
}

/// Demands that these bytes are no capture, for this reason.
fn check(bytes: &[u8], expected: &str) {
    let Some(ended) = play(bytes, &[]) else {
        return;
    };
    check_status(&ended, 1, &[&format!("wiretape: {expected}")]);
    assert_eq!(ended.said.len(), 1, "{:?}", ended.said);
}

fn zstd(bytes: impl Read) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}

#[test]
fn a_bomb_is_refused_once_its_first_line_is_too_long() {
    let zeros = io::repeat(0).take(512 << 20);
    let long = "bad: line 1: longer than 16 MiB, not a capture";
    check(&zstd(zeros), long);
    let member = gzip(&vec![b'x'; 64 * MIB]);
    check(&member.repeat(8), long);
}

/// They are read to their end, for a record might follow.
#[test]
fn lines_that_say_nothing_take_no_memory() {
    let nothing = "nothing to replay: no session in the captures, or none is selected";
    let newlines = io::repeat(b'\n').take(32 << 20);
    check(&zstd(newlines), nothing);
    let unknown = gzip(&b"{\"type\":\"later\",\"w\":[[]]}\n".repeat(100_000));
    check(&unknown.repeat(10), nothing);
    // Members and frames that hold nothing at all.
    check(&gzip(b"").repeat(200_000), nothing);
    check(&zstd(&b""[..]).repeat(200_000), nothing);
    check(b"", nothing);
}

/// A frame's header (RFC 8878, section 3.1.1.1) that asks for a window of 2 GiB: its descriptor has no
/// flags, the exponent is 21, the mantissa 0. Behind it stands a last, empty block.
#[test]
fn a_window_that_is_far_too_large_is_refused() {
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
    check(
        &frame,
        "bad: line 1: cannot be read: Frame requires too much memory for decoding",
    );
}

/// A `data` record of a script, with one of its values replaced.
fn changed(before: &str, after: &str) -> Vec<u8> {
    let text = Script::new().open(1).send(1, "hello").text;
    assert!(text.contains(before), "{before}");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let last = lines.last_mut().expect("there are some");
    *last = last.replacen(before, after, 1);
    (lines.join("\n") + "\n").into_bytes()
}

#[test]
fn values_that_cannot_be_are_refused_by_their_line() {
    let no_record = "bad: line 3: not a capture record: ";
    let deep = format!("\"a\":{},\"len\"", "[".repeat(4 * MIB));
    let peer = "p".repeat(15 * MIB);
    for (before, after, expected) in [
        (
            "\"len\":5",
            "\"len\":4",
            "bad: line 3: `len` says 4, but the payload has 5 bytes",
        ),
        (
            "\"text\":\"hello\"",
            "\"base64\":\"aGVsbG8\"",
            "bad: line 3: invalid base64",
        ),
        ("\"seq\":2", "\"seq\":1e400", no_record),
        ("\"seq\":2", "\"seq\":18446744073709551616", no_record),
        ("\"seq\":2", "\"seq\":-1", no_record),
        ("\"seq\":2", "\"seq\":2,\"seq\":3", no_record),
        (
            "\"offset\":0",
            "\"offset\":18446744073709551615",
            "bad: line 3: invalid `offset`",
        ),
        ("hello", "hel\0lo", no_record),
        ("hello", "\\ud800", no_record),
        ("\"len\"", &deep, no_record),
        ("192.0.2.1:40000", &peer, "bad: line 3: invalid `peer`"),
    ] {
        check(&changed(before, after), expected);
    }
    let garbage: Vec<u8> = (0..=255).cycle().take(MIB).collect();
    check(&garbage, "bad: line 1: not a capture record: ");
}

/// They are as good as any other, wherever they are added to something.
#[test]
fn numbers_of_any_size_are_played() {
    let largest = u64::MAX.to_string();
    let far = (u64::MAX - 5).to_string();
    for (before, after) in [
        ("\"seq\":2", format!("\"seq\":{largest}")),
        ("\"elapsed_us\":0", format!("\"elapsed_us\":{largest}")),
        ("\"conn\":1", format!("\"conn\":{largest}")),
        ("\"offset\":0", format!("\"offset\":{far}")),
        ("2026-", "9999-".to_owned()),
    ] {
        let Some(ended) = play(&changed(before, &after), &["--repeat", "3"]) else {
            return;
        };
        assert_eq!(ended.status, Some(0), "{after}: {:?}", ended.said);
        assert!(ended.has_said(", 0 failed"), "{after}: {:?}", ended.said);
    }
}

// --- very many -----------------------------------------------------------------------------------

/// A record of connection `conn`, the `seq`th of its run.
fn line(kind: &str, seq: usize, conn: usize, rest: &str) -> String {
    let time = r#""ts":"2026-11-22T12:00:00.000000Z","elapsed_us":0"#;
    format!(
        "{{\"type\":\"{kind}\",{time},\"seq\":{seq},\"conn\":{conn},\"peer\":\"p:{conn}\"{rest}}}\n"
    )
}

fn open(count: usize) -> String {
    let open = |conn| line("open", conn, conn, ",\"local\":\"l\"");
    (1..=count).map(open).collect()
}

#[test]
fn connections_that_never_close_are_refused_beyond_a_limit() {
    let many = open(300_000);
    let expected = "bad: line 262145: more than 262144 connections are open at once; select";
    let played = play(&zstd(many.as_bytes()), &["--dry-run"]);
    let Some(ended) = played else { return };
    check_status(&ended, 1, &[expected]);
}

/// All but one wait for their turn, and fill the memory: those that must be given up for what follows are
/// found in no time.
#[test]
fn a_hundred_thousand_sessions_that_wait_are_given_up_in_no_time() {
    const COUNT: usize = 100_000;
    let mut capture = open(COUNT);
    for conn in 1..=COUNT {
        let rest = ",\"dir\":\"in\",\"offset\":0,\"len\":1,\"text\":\"x\"";
        capture += &line("data", COUNT + conn, conn, rest);
    }
    let played = play(capture.as_bytes(), &["--jobs", "1", "--buffer", "16MiB"]);
    let Some(ended) = played else { return };
    check_status(&ended, 3, &[&format!("replayed {COUNT} sessions, ")]);
    assert!(ended.has_said("filled the memory"), "{:?}", ended.said);
}
