//! What a replay sends: the bytes and the ends that were recorded, each at its time, those that are
//! meant and no others.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use wiretape::record::{CloseReason, Conn, Event, Record};

use crate::hand::{Heard, Script, Target, Untouched, gzip, listening, replay_command, reset, take};
use crate::tape::{
    Ended, PATIENCE, Tape, end, joined, numbered_sessions, program, records, records_in, segments,
};

// --- capture, replay, capture --------------------------------------------------------------------

/// What a session comes to, apart from when and where: its bytes, whether the peer ended it, the
/// reason of its end, and how many bytes there were of which checksum.
pub type Essence = (Vec<u8>, bool, String, u64, u32);

/// The sessions of a capture, in the order in which they were accepted.
pub fn essences(records: &[Record<'_>]) -> Vec<Essence> {
    let sessions = numbered_sessions(records).into_values();
    let essence = sessions.map(|session| {
        let close = session.close.expect("it was closed");
        let reason = format!("{:?}", close.reason);
        let (len, crc32) = (close.in_bytes, close.in_crc32);
        (session.bytes, session.eof, reason, len, crc32)
    });
    essence.collect()
}

pub fn sorted(mut essences: Vec<Essence>) -> Vec<Essence> {
    essences.sort();
    essences
}

/// Bytes of any kind, or text of any kind.
fn piece(random: &mut fastrand::Rng) -> Vec<u8> {
    let len = match random.u8(0..3) {
        0 => random.usize(1..8),
        1 => random.usize(1..2_000),
        _ => random.usize(1..30_000),
    };
    if random.bool() {
        let chars = (0..len / 2 + 1).map(|_| random.char('\0'..='\u{3000}'));
        chars.collect::<String>().into_bytes()
    } else {
        (0..len).map(|_| random.u8(..)).collect()
    }
}

const SENDERS: u64 = 24;
const SESSIONS_EACH: usize = 15;
pub const SESSIONS: usize = SENDERS as usize * SESSIONS_EACH;

/// Captures several hundred sessions of 24 peers at once, which send anything or nothing and end in
/// every way, to `a.ndjson`.
pub fn recorded(args: &[&str]) -> Ended {
    let tape = Tape::listen(&[&["-o", "a.ndjson"], args].concat());
    let senders = (0..SENDERS).map(|seed| {
        let address = tape.addresses[0].clone();
        thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..SESSIONS_EACH {
                let mut stream = TcpStream::connect(&address).expect("it listens");
                for _ in 0..random.usize(0..4) {
                    stream.write_all(&piece(&mut random)).expect("it reads");
                }
                match random.u8(0..3) {
                    0 => end(stream),
                    1 => reset(stream),
                    _ => drop(stream),
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.join().expect("it sent all");
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    ended
}

/// What another wiretape captures of `wiretape replay ARGS…`, where `TARGET` stands for that one.
pub fn captured(
    with: impl FnOnce(&mut Command) -> &mut Command,
    args: &[&str],
) -> (Ended, Vec<Essence>) {
    let target = Tape::listen(&["-o", "b.ndjson"]);
    let address = &*target.addresses[0];
    let name = |arg: &&str| if *arg == "TARGET" { address } else { *arg }.to_owned();
    let args: Vec<String> = args.iter().map(name).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = replay_command(&args);
    with(&mut command);
    let ended = Tape::spawn(command).wait();
    let captured = target.stop();
    assert_eq!(captured.status, Some(0), "{:?}", captured.said);
    (ended, essences(&records(&captured.path("b.ndjson"))))
}

pub fn check_whole(ended: &Ended, sessions: usize) {
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let expected = format!("replayed {sessions} sessions, 0 failed");
    assert!(ended.has_said(&expected), "{:?}", ended.said);
}

#[test]
fn what_was_captured_is_captured_again() {
    let recorded = recorded(&[]);
    let expected = essences(&records(&recorded.path("a.ndjson")));
    assert_eq!(expected.len(), SESSIONS);
    for reason in ["Eof", "Reset"] {
        assert!(expected.iter().any(|essence| essence.2 == reason));
    }
    let folder = recorded.folder.path();
    for speed in ["max", "1"] {
        let args = ["a.ndjson", "TARGET", "--speed", speed];
        let (ended, found) = captured(|command| command.current_dir(folder), &args);
        check_whole(&ended, SESSIONS);
        assert!(sorted(found) == sorted(expected.clone()), "{speed}");
    }
    // One by one, they are the same in order.
    let args = ["a.ndjson", "TARGET", "--speed", "max", "--jobs", "1"];
    let (ended, found) = captured(|command| command.current_dir(folder), &args);
    check_whole(&ended, SESSIONS);
    assert!(found == expected);
}

fn jq(filter: &str, capture: &Path) -> Option<Child> {
    let mut jq = Command::new(program("jq")?);
    let jq = jq.args(["-c", filter]).arg(capture).stdout(Stdio::piped());
    Some(jq.spawn().expect("jq starts"))
}

#[test]
fn it_is_captured_again_through_jq() {
    let recorded = recorded(&[]);
    let capture = recorded.path("a.ndjson");
    let all = essences(&records(&capture));
    // Where the end is not told, every session ends in good order; one without data is unknown.
    let mut data_only = all.clone();
    data_only.retain(|essence| !essence.0.is_empty());
    for essence in &mut data_only {
        essence.1 = true;
        essence.2 = "Eof".to_owned();
    }
    for (filter, speed, expected) in [
        (
            r#"select(.type=="data" or .type=="eof" or .type=="close")"#,
            "max",
            &all,
        ),
        (r#"select(.type=="data")"#, "max", &data_only),
        (r#"select(.type=="data")"#, "1", &data_only),
    ] {
        let Some(mut jq) = jq(filter, &capture) else {
            return;
        };
        let stdin = jq.stdout.take().expect("it is piped");
        let args = ["-", "TARGET", "--speed", speed];
        let (ended, found) = captured(|command| command.stdin(stdin), &args);
        assert!(jq.wait().expect("it is a child").success());
        check_whole(&ended, expected.len());
        assert!(
            sorted(found) == sorted(expected.clone()),
            "{filter} {speed}"
        );
    }
}

// --- what it is read from ------------------------------------------------------------------------

#[test]
fn segments_and_the_live_file_are_replayed_as_one() {
    let recorded = recorded(&["--rotate", "200KiB", "--compress", "zstd"]);
    let segments = segments(recorded.folder.path(), "a");
    let names: Vec<_> = segments.iter().map(|path| path.to_string_lossy()).collect();
    assert!(names.len() > 3 && names.iter().all(|name| name.ends_with(".zst")));
    let all = segments.iter().zip(&names).map(|(path, name)| {
        let file = File::open(path).expect("it is there");
        records_in(name, &zstd::decode_all(file).expect("it is zstd"))
    });
    let mut all: Vec<_> = all.collect();
    all.push(records(&recorded.path("a.ndjson")));
    let expected = essences(&joined(all));

    let folder = recorded.folder.path();
    let mut args: Vec<&str> = names.iter().map(|name| &**name).collect();
    args.extend(["a.ndjson", "TARGET", "--speed", "max"]);
    let (ended, found) = captured(|command| command.current_dir(folder), &args);
    check_whole(&ended, SESSIONS);
    assert!(sorted(found) == sorted(expected));
}

/// One session of random bytes, in records of 1,000.
fn one_long_session() -> (Script, Vec<u8>) {
    let mut random = fastrand::Rng::with_seed(1);
    let sent: Vec<u8> = (0..500_000).map(|_| random.u8(..)).collect();
    let script = sent
        .chunks(1000)
        .fold(Script::new().open(1), |script, at| script.send(1, at));
    (script.eof(1).close(1, "eof"), sent)
}

/// Replays this file, by a name that tells nothing, and gives what the target heard.
fn play_file(bytes: &[u8]) -> (Ended, Vec<u8>) {
    let target = listening();
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("capture"), bytes).expect("it is new");
    let args = ["capture", &*target.address, "--speed", "max"];
    let ended = Tape::spawn_in(folder, replay_command(&args)).wait();
    (ended, target.result().1.bytes)
}

#[test]
fn compression_is_told_by_content_and_a_file_cut_short_is_used_so_far() {
    let (script, sent) = one_long_session();
    let zstd = zstd::encode_all(script.text.as_bytes(), 1).expect("memory");
    for packed in [gzip(script.text.as_bytes()), zstd] {
        let (ended, heard) = play_file(&packed);
        assert_eq!(ended.status, Some(0), "{:?}", ended.said);
        assert!(heard == sent);

        let (ended, heard) = play_file(&packed[..packed.len() / 2]);
        assert_eq!(ended.status, Some(3), "{:?}", ended.said);
        let warned = ended.has_said("capture: ") && ended.has_said("breaks off");
        assert!(warned, "{:?}", ended.said);
        // Whole records, and all of what the half holds but the block that was cut.
        assert!(sent.starts_with(&heard) && heard.len() % 1000 == 0);
        assert!(heard.len() > sent.len() / 4 && heard.len() < sent.len());
    }
}

#[test]
fn a_torn_capture_is_replayed_up_to_its_torn_line() {
    let script = Script::new().open(1).send(1, "one").send(1, "two");
    let torn_at = script.text.len();
    let text = script.send(1, "lost").text;
    let (ended, heard) = play_file(&text.as_bytes()[..torn_at + 50]);
    assert_eq!(ended.status, Some(3), "{:?}", ended.said);
    let expected = format!("wiretape: capture: line 5, at byte {torn_at}, breaks off");
    assert!(ended.has_said(&expected), "{:?}", ended.said);
    assert_eq!(heard, b"onetwo");
    // Without its last newline alone it is whole.
    let (ended, heard) = play_file(&text.as_bytes()[..text.len() - 1]);
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert_eq!(heard, b"onetwolost");
}

#[test]
fn a_connection_of_another_run_is_another_session() {
    let run = |bytes: &str| Script::new().open(1).send(1, bytes).text;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: String| {
        fs::write(folder.path().join(name), text).expect("it is new");
    };
    file("a", run("one") + &run("two"));
    file("b", run("three").replace("00a1", "00a2"));
    let target = listening();
    let mut command = replay_command(&["a", "b", &target.address]);
    command.current_dir(folder.path());
    let ended = Tape::spawn(command).wait();
    check_whole(&ended, 3);
    let heard = target.results(3).into_iter().map(|heard| heard.bytes);
    assert_eq!(heard.collect::<Vec<_>>(), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn what_a_capture_says_it_missed_is_said_again() {
    let gap = r#","records":2,"bytes":9,"reason":"stalled_output""#;
    let script = Script::new().session(1, "one").record("gap", gap);
    let target = listening();
    let ended = script.session(2, "two").play(&target.address, &[]);
    assert_eq!(ended.status, Some(3));
    assert!(ended.has_said("tell of 1 gap"), "{:?}", ended.said);
    assert_eq!(target.results(2)[1].bytes, b"two");
}

// --- pacing --------------------------------------------------------------------------------------

/// Two sessions of a recording: the first begins at `from`, and everything is `gap` apart.
fn paced(from: u64, gap: u64) -> Script {
    let script = Script::new().at(from).open(1).send(1, "a");
    let script = script.at(from + gap).send(1, "b").open(2).send(2, "c");
    let script = script.at(from + 2 * gap).eof(1).close(1, "eof");
    script.at(from + 3 * gap).send(2, "d").close(2, "eof")
}

/// Plays it, and demands that nothing comes before its time by the target's clock, where things are
/// `gap` apart. That nothing comes hours late is known because the test does not wait for hours.
fn check_paced(script: &Script, args: &[&str], gap: Duration) -> Ended {
    let target = listening();
    // A little before the replay begins: what is at its time by that clock may seem late, not early.
    let begun = Instant::now();
    let ended = script.play(&target.address, args);
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let heard = target.results(2);
    assert_eq!([&heard[0].bytes, &heard[1].bytes], [b"ab", b"cd"]);
    for (session, offset, gaps) in [(0, 1, 1), (1, 0, 1), (0, 2, 2), (1, 1, 3), (1, 2, 3)] {
        let at = heard[session].when(offset) - begun;
        assert!(at >= gap * gaps, "{session} {offset}: {at:?}, {args:?}");
    }
    ended
}

#[test]
fn nothing_is_sent_before_its_time() {
    let gap = Duration::from_millis(80);
    // The time before the first record is not waited for.
    let ended = check_paced(&paced(3_600_000, 80), &[], gap);
    assert!(ended.has_said("recorded in 240ms"), "{:?}", ended.said);
    assert!(ended.has_said("sends were late by"), "{:?}", ended.said);
    assert!(ended.has_said(" of 4 by more than 1ms"), "{:?}", ended.said);
    check_paced(&paced(0, 320), &["--speed", "4"], gap);
    check_paced(&paced(0, 40), &["--speed", "0.5"], gap);
    // An hour apart in the recording.
    check_paced(&paced(0, 3_600_000), &["--speed", "45000"], gap);
    check_paced(&paced(0, 3_600_000), &["--max-gap", "80ms"], gap);
    let args = ["--max-gap", "160ms", "--speed", "2"];
    check_paced(&paced(0, 3_600_000), &args, gap);
    let ended = check_paced(&paced(0, 3_600_000), &["--speed", "max"], Duration::ZERO);
    assert!(!ended.has_said("late by"), "{:?}", ended.said);
}

/// As many sessions, all open at the same time.
fn sessions_at_once(count: u64) -> Script {
    let opened = (1..=count).fold(Script::new(), Script::open);
    let sent = (1..=count).fold(opened, |script, conn| script.send(conn, [conn as u8]));
    (1..=count).fold(sent, |script, conn| script.eof(conn).close(conn, "eof"))
}

#[test]
fn sessions_are_at_once_as_they_were_and_open_in_order() {
    const COUNT: usize = 40;
    for speed in ["1", "max"] {
        let barrier = Arc::new(Barrier::new(COUNT));
        let target = Target::serve(move |_, stream| {
            // Nobody goes on until all are here.
            barrier.wait();
            Heard::listen(&stream)
        });
        let ended = sessions_at_once(COUNT as u64).play(&target.address, &["--speed", speed]);
        check_whole(&ended, COUNT);
        let heard = target.results(COUNT).into_iter();
        let order: Vec<u8> = heard.flat_map(|heard| heard.bytes).collect();
        assert_eq!(order, (1..=COUNT as u8).collect::<Vec<_>>());
    }
}

#[test]
fn no_more_than_so_many_jobs_are_at_once() {
    for jobs in [1, 3] {
        let (open, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(jobs)));
        let target = Target::serve(move |_, stream| {
            let at_once = open.fetch_add(1, SeqCst) + 1;
            barrier.wait();
            let heard = Heard::listen(&stream);
            // Only then is the connection ended, and another one's turn.
            open.fetch_sub(1, SeqCst);
            drop(stream);
            (at_once, heard.bytes)
        });
        let ended = sessions_at_once(12).play(&target.address, &["--jobs", &jobs.to_string()]);
        check_whole(&ended, 12);
        let results = target.results(12).into_iter();
        let (most, mut bytes): (Vec<usize>, Vec<Vec<u8>>) = results.unzip();
        bytes.sort();
        assert_eq!(bytes.concat(), (1..=12).collect::<Vec<u8>>());
        assert_eq!(most.iter().max(), Some(&jobs));
    }
}

#[test]
fn everything_is_sent_as_often_as_was_asked_for() {
    let script = Script::new().session(1, "one").at(100).session(2, "two");
    let target = listening();
    let begun = Instant::now();
    let ended = script.play(&target.address, &["--repeat", "3"]);
    check_whole(&ended, 6);
    let heard = target.results(6);
    for (nth, heard) in heard.iter().enumerate() {
        assert_eq!(heard.bytes, [&b"one"[..], b"two"][nth % 2]);
        // One time after the other, each as long as the recording.
        let rounds = (nth as u32).div_ceil(2);
        assert!(heard.when(0) - begun >= Duration::from_millis(100) * rounds);
    }
}

/// Demands that nothing comes for a while.
fn nothing_comes(stream: &TcpStream) {
    let timeout = Duration::from_millis(60);
    stream.set_read_timeout(Some(timeout)).expect("not zero");
    let came = (&*stream).read(&mut [0]);
    let kind = came.expect_err("nothing comes").kind();
    assert_eq!(kind, std::io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
}

#[test]
fn a_send_waits_for_as_many_bytes_of_replies_as_had_come_before_it() {
    let script = Script::new().open(1).send(1, "one").reply(1, "ok 1");
    let script = script.send(1, "two").send(1, "2").reply(1, "ok 2");
    let script = script.send(1, "three").eof(1).close(1, "eof");
    let target = Target::serve(|_, mut stream| {
        assert_eq!(take(&stream, 3), b"one");
        nothing_comes(&stream);
        stream.write_all(b"OK").expect("it reads");
        nothing_comes(&stream);
        // Other bytes than recorded, and more than recorded, do.
        stream.write_all(b"!!").expect("it reads");
        assert_eq!(take(&stream, 4), b"two2");
        stream.write_all(b"OK.").expect("it reads");
        nothing_comes(&stream);
        stream.write_all(b"..").expect("it reads");
        Heard::listen(&stream)
    });
    let args = ["--pace", "reply", "--speed", "max"];
    let ended = script.play(&target.address, &args);
    check_whole_session(&ended);
    assert_eq!(target.result().1.bytes, b"three");
    let said = "4 records with 12 B sent, 9 B received";
    assert!(ended.has_said(said), "{:?}", ended.said);
    // The replies do not make anything earlier than it was.
    let target = Target::serve(|_, mut stream| {
        stream.write_all(b"in advance").expect("it reads");
        Heard::listen(&stream)
    });
    let begun = Instant::now();
    let script = Script::new().open(1).reply(1, "hello").at(100).send(1, "x");
    check_whole_session(&script.play(&target.address, &["--pace", "reply"]));
    let heard = target.result().1;
    assert!(heard.when(0) - begun >= Duration::from_millis(100));
}

fn check_whole_session(ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(ended.has_said("replayed 1 session, 0 failed"));
}

// --- selection -----------------------------------------------------------------------------------

#[test]
fn what_is_selected_is_sent_and_nothing_else() {
    let mut script = Script::new();
    for (conn, bytes) in (1..).zip(["one", "two", "three", "four"]) {
        let opened = script.at((conn - 1) * 1000).open(conn);
        let sent = opened.send(conn, bytes).reply(conn, "re: ");
        script = sent.reply(conn, bytes).eof(conn).close(conn, "eof");
    }
    let check = |args: &[&str], expected: &[&str]| {
        let target = listening();
        let ended = script.play(&target.address, &[args, &["--speed", "max"]].concat());
        assert_eq!(ended.status, Some(0), "{args:?}: {:?}", ended.said);
        let count = expected.len();
        let said = format!("replayed {count} session");
        assert!(ended.has_said(&said), "{args:?}: {:?}", ended.said);
        let heard = target.results(count).into_iter();
        let heard: Vec<_> = heard
            .map(|heard| String::from_utf8(heard.bytes).expect("it is text"))
            .collect();
        assert_eq!(heard, expected, "{args:?}");
    };
    check(&["--conn", "3"], &["three"]);
    check(&["--conn", "1,3-4"], &["one", "three", "four"]);
    check(&["--conn", "1", "--conn", "2"], &["one", "two"]);
    check(&["--peer", "192.0.2.2:*"], &["two"]);
    check(&["--peer", "*.?:4*", "--conn", "4-9"], &["four"]);
    check(&["--peer", "*.1:*", "--peer", "*.4:*"], &["one", "four"]);
    check(&["--since", "2026-11-22T12:00:02Z"], &["three", "four"]);
    check(&["--until", "2026-11-22 12:00:01"], &["one"]);
    check(
        &[
            "--since",
            "2026-11-22T12:00:00.5Z",
            "--until",
            "2026-11-22T12:00:02.000001Z",
        ],
        &["two", "three"],
    );
    check(
        &["--dir", "out", "--conn", "2-3"],
        &["re: two", "re: three"],
    );
}

#[test]
fn a_time_cuts_a_session_out_of_a_connection() {
    let script = Script::new().open(1).send(1, "a").at(1000).send(1, "b");
    let script = script.at(2000).send(1, "c").at(3000).eof(1).close(1, "eof");
    let target = listening();
    let (since, until) = ("2026-11-22T12:00:01Z", "2026-11-22T12:00:02Z");
    let args = ["--since", since, "--until", until];
    check_whole_session(&script.play(&target.address, &args));
    let heard = target.result().1;
    assert_eq!((heard.bytes, heard.error), (b"b".to_vec(), None));
}

/// Demands one line and a status, and that nobody is connected to.
fn check_nothing_sent(script: &Script, args: &[&str], expected: &str) {
    let target = Untouched::new();
    let args = [args, &["-o", "answers.ndjson"]].concat();
    let ended = script.play(&target.address(), &args);
    assert_eq!(ended.status, Some(1), "{args:?}: {:?}", ended.said);
    assert_eq!(ended.said.len(), 1, "{args:?}: {:?}", ended.said);
    assert!(ended.has_said(expected), "{args:?}: {:?}", ended.said);
    assert!(!ended.path("answers.ndjson").exists(), "{args:?}");
    target.check();
}

#[test]
fn where_nothing_is_selected_nobody_is_connected_to() {
    let script = Script::new().session(1, "one");
    for args in [
        &["--conn", "2"][..],
        &["--peer", "192.0.2.2:*"],
        &["--since", "2026-11-22T12:00:01Z"],
        &["--until", "2026-11-22T11:59:59Z"],
    ] {
        check_nothing_sent(&script, args, "wiretape: nothing to replay: ");
    }
    check_nothing_sent(&Script::new(), &[], "wiretape: nothing to replay: ");
    let args = ["--pace", "reply"];
    check_nothing_sent(&script, &args, "--pace reply: the captures hold no replies");
}

// --- without a target, and what it answers -------------------------------------------------------

/// What it printed to standard output.
fn printed(script: &Script, target: &str, args: &[&str]) -> (Ended, String) {
    let mut tape = script.start_with(target, args, |command| command.stdout(Stdio::piped()));
    let mut printed = String::new();
    let read = tape.take_stdout().read_to_string(&mut printed);
    read.expect("it is text");
    (tape.wait(), printed)
}

#[test]
fn a_dry_run_prints_the_steps_and_connects_to_nobody() {
    let target = Untouched::new();
    let script = Script::new().at(50).open(3).send(3, "hello\n");
    let script = script.reply(3, "hi").at(1550).send(3, [0xff, 0x1b]);
    let script = script.eof(3).open(9).close(9, "reset").close(3, "eof");
    let (ended, printed) = printed(&script, &target.address(), &["--dry-run"]);
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let expected = "    0.000000 session 1: connect, as #3 192.0.2.3:40000
    0.000000 session 1: send 6 bytes of record 2: hello\\n
    1.500000 session 1: send 2 bytes of record 4: \\xff\\x1b
    1.500000 session 1: end the sending
    1.500000 session 2: connect, as #9 192.0.2.9:40000
    1.500000 session 2: reset
    1.500000 session 1: close
";
    assert_eq!(printed, expected);
    let said = "wiretape: would play 2 sessions with 2 sends of 8 B";
    assert_eq!(ended.said, [said]);
    target.check();
}

/// A target that gives every byte back.
fn echoing() -> Target<()> {
    Target::serve(|_, mut stream| {
        let mut other = stream.try_clone().expect("a second handle");
        std::io::copy(&mut other, &mut stream).expect("it reads");
    })
}

#[test]
fn answers_are_captured_by_session() {
    // In an order that is not that of their numbers.
    let mut script = [7, 3, 5].into_iter().fold(Script::new(), Script::open);
    let mut random = fastrand::Rng::with_seed(2);
    let sent: Vec<_> = [7, 3, 5]
        .map(|conn| {
            let bytes = piece(&mut random);
            script = script.clone().send(conn, &bytes).eof(conn);
            bytes
        })
        .into();
    let target = echoing();
    let args = ["-o", "answers.ndjson", "-o", "{conn}.bin"];
    let ended = script.play(&target.address, &args);
    check_whole(&ended, 3);
    let records = records(&ended.path("answers.ndjson"));
    let Event::Start(start) = &records[0].event else {
        panic!("no start: {records:?}");
    };
    assert_eq!(start.mode, "replay");
    assert!(matches!(
        records[records.len() - 1].event,
        Event::End { .. }
    ));
    let sessions = numbered_sessions(&records);
    assert_eq!(sessions.keys().collect::<Vec<_>>(), [&1, &2, &3]);
    for (session, sent) in sessions.values().zip(&sent) {
        assert!(session.bytes == *sent && session.eof);
        let close = session.close.as_ref().expect("it was closed");
        assert_eq!(close.reason, CloseReason::Eof);
        // What was sent is counted as well.
        assert_eq!(close.out_bytes, sent.len() as u64);
        assert_eq!(close.out_crc32, Some(crc32fast::hash(sent)));
    }
    let of_target = |conn: &Conn<'_>| conn.peer == *target.address;
    let mut conns = records.iter().filter_map(|record| record.event.conn());
    assert!(conns.all(of_target));
    for (nth, sent) in sent.iter().enumerate() {
        assert!(ended.read(&format!("{}.bin", nth + 1)) == *sent);
    }
}

#[test]
fn answers_go_to_standard_output_as_they_are() {
    let script = Script::new().session(1, "one, ").session(2, "two");
    let target = echoing();
    let args = ["--raw", "--jobs", "1"];
    let (ended, printed) = printed(&script, &target.address, &args);
    check_whole(&ended, 2);
    assert_eq!(printed, "one, two");
}
