//! Targets of a replay that refuse, break off, stand still or say too much, what becomes of the
//! sessions, and captures that cannot be replayed at all.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use wiretape::record::{CloseReason, EndReason, Event};

use crate::hand::{Heard, Script, Target, Untouched, gzip, listening, replay_command, reset, take};
use crate::tape::{Ended, PATIENCE, Tape, eventually, numbered_sessions, records, skip};

const MIB: usize = 1 << 20;

fn check_status(ended: &Ended, status: i32, said: &[&str]) {
    assert_eq!(ended.status, Some(status), "{:?}", ended.said);
    for said in said {
        assert!(ended.has_said(said), "{said}: {:?}", ended.said);
    }
}

/// A socket that is bound and does not listen: nobody else gets its port.
fn bound() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).expect("a free port");
    let address = socket.local_addr().expect("it is bound").as_socket();
    (socket, address.expect("it is TCP").to_string())
}

/// One session that sends this at once, and that 100 ms later.
fn later(script: Script, conn: u64, first: &str, second: &str) -> Script {
    let script = script.at(0).open(conn).send(conn, first);
    script
        .at(100)
        .send(conn, second)
        .eof(conn)
        .close(conn, "eof")
}

// --- connecting ----------------------------------------------------------------------------------

#[test]
fn a_target_that_refuses_everyone_is_named() {
    let (_socket, address) = bound();
    let script = (1..=12).fold(Script::new(), |script, conn| script.session(conn, "x"));
    let ended = script.play(&address, &[]);
    let one = format!(
        "session 3 (#3 192.0.2.3:40000) failed after 0 bytes: cannot connect: {address}: connection refused"
    );
    let all = format!("wiretape: no session could connect: {address}: connection refused");
    let said = [
        "12 sessions, 12 failed",
        "2 sessions failed beside those",
        &one,
        &all,
    ];
    check_status(&ended, 1, &said);
    let failures = ended
        .said
        .iter()
        .filter(|line| line.contains("failed after"));
    assert_eq!(failures.count(), 10);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let nowhere = format!("unix:{}", folder.path().join("none").display());
    let ended = Script::new().session(1, "x").play(&nowhere, &[]);
    check_status(
        &ended,
        1,
        &["no session could connect: unix:", "no such file"],
    );
}

#[test]
fn a_target_that_does_not_answer_is_given_up() {
    // Its queue is full, and the kernel drops whoever else comes.
    let (socket, address) = bound();
    socket.listen(0).expect("it is bound");
    let first = TcpStream::connect(&address).expect("there is room for one");
    let ended = Script::new()
        .session(1, "x")
        .play(&address, &["--timeout", "200ms"]);
    check_status(&ended, 1, &["cannot connect: ", "timed out"]);
    drop(first);
}

#[test]
fn all_addresses_of_a_name_are_tried_and_a_port_alone_is_of_this_machine() {
    let target = listening();
    let (_, port) = target.address.rsplit_once(':').expect("it has a port");
    let script = Script::new().session(1, "hello");
    for name in [port, &format!("localhost:{port}")] {
        check_status(&script.play(name, &[]), 0, &["1 session, 0 failed"]);
        assert_eq!(target.result().1.bytes, b"hello");
    }
}

/// Replays to a wiretape that listens there.
fn check_listening_at(address: &str) {
    let target = Tape::listen(&[address, "-o", "a.ndjson"]);
    let at = match address.strip_prefix("unix:") {
        Some(name) => format!("unix:{}", target.path(name).display()),
        None => target.addresses[0].clone(),
    };
    let bytes: Vec<u8> = (0..=255).cycle().take(MIB).collect();
    let script = Script::new().session(1, &bytes).session(2, "");
    let ended = script.play(&at, &["-o", "answers.ndjson"]);
    check_status(&ended, 0, &["2 sessions, 0 failed"]);
    let answers = numbered_sessions(&records(&ended.path("answers.ndjson")));
    let close = answers[&1].close.as_ref().expect("it was closed");
    assert_eq!(
        (&close.reason, close.out_bytes),
        (&CloseReason::Eof, MIB as u64)
    );
    let captured = target.stop();
    let sessions = numbered_sessions(&records(&captured.path("a.ndjson")));
    assert_eq!(sessions.len(), 2);
    assert!(sessions.values().all(|session| session.eof));
    assert!(sessions.values().any(|session| session.bytes == bytes));
}

#[test]
fn targets_of_every_kind_are_connected_to() {
    check_listening_at("unix:socket");
    match TcpListener::bind("[::1]:0") {
        Ok(_) => check_listening_at("[::1]:0"),
        Err(error) => skip(&format!("no IPv6: {error}")),
    }
}

// --- ending too early ----------------------------------------------------------------------------

/// Three sessions, with the second one's target doing this once it has read "first"; the others go
/// on. Gives what was said of the second.
fn check_second(after: impl FnOnce(TcpStream) + Clone + Send + 'static) -> String {
    let target = Target::serve(move |nth, stream| {
        let first = take(&stream, 5);
        if nth == 2 {
            after.clone()(stream);
            return Vec::new();
        }
        [first, Heard::listen(&stream).bytes].concat()
    });
    let script = (1..=3).fold(Script::new(), |script, conn| script.at(0).open(conn));
    let script = (1..=3).fold(script, |script, conn| script.send(conn, "first"));
    let script = (1..=3).fold(script.at(150), |script, conn| script.send(conn, ", then"));
    let script = (1..=3).fold(script, |script, conn| script.eof(conn).close(conn, "eof"));
    let ended = script.play(&target.address, &["-o", "answers.ndjson"]);
    check_status(&ended, 3, &["replayed 3 sessions, 1 failed; "]);
    let expected: [&[u8]; 3] = [b"first, then", b"", b"first, then"];
    assert_eq!(target.results(3), expected);
    let failed = ended
        .said
        .iter()
        .filter(|line| line.contains(" failed after "));
    let failed: Vec<_> = failed.cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("wiretape: session 2 (#2 192.0.2.2:40000) failed after "));
    let answers = numbered_sessions(&records(&ended.path("answers.ndjson")));
    let reasons: Vec<_> = answers
        .into_values()
        .map(|session| session.close.expect("closed").reason)
        .collect();
    assert_eq!(
        (&reasons[0], &reasons[2]),
        (&CloseReason::Eof, &CloseReason::Eof)
    );
    assert_ne!(reasons[1], CloseReason::Eof);
    failed[0].clone()
}

#[test]
fn a_session_that_is_reset_fails_and_the_others_go_on() {
    let said = check_second(reset);
    assert!(
        said.ends_with("failed after 5 bytes: reset by the target"),
        "{said}"
    );
}

#[test]
fn a_session_whose_target_closes_early_fails_and_the_others_go_on() {
    // In good order, but what is sent afterwards is taken by nobody.
    let said = check_second(drop);
    assert!(said.ends_with(" by the target"), "{said}");
}

/// The last bytes and the end go out at once, to nobody.
#[test]
fn bytes_that_were_sent_to_nobody_are_not_done() {
    let target = Target::serve(|_, stream| drop(take(&stream, 5)));
    let script = later(Script::new(), 1, "first", "last");
    let ended = script.play(&target.address, &[]);
    check_status(
        &ended,
        3,
        &["replayed 1 session, 1 failed", " by the target"],
    );
}

#[test]
fn a_target_that_closes_once_it_has_everything_is_no_failure() {
    let target = Target::serve(|_, mut stream| {
        let bytes = take(&stream, 5);
        stream.write_all(b"bye").expect("it reads");
        bytes
    });
    // In the recording the peer stayed a little longer.
    let script = Script::new()
        .open(1)
        .send(1, "hello")
        .at(100)
        .eof(1)
        .close(1, "eof");
    let ended = script.play(&target.address, &[]);
    check_status(&ended, 0, &["1 session, 0 failed", "3 B received"]);
    assert_eq!(target.result().1, b"hello");
}

#[test]
fn a_target_that_ends_its_direction_at_once_still_takes_everything() {
    let target = Target::serve(|_, stream| {
        stream.shutdown(Shutdown::Write).expect("it is open");
        Heard::listen(&stream)
    });
    let mut script = Script::new().open(1);
    for ms in [20, 40, 60] {
        script = script.at(ms).send(1, vec![b'x'; 200_000]);
    }
    let ended = script.eof(1).close(1, "eof").play(&target.address, &[]);
    check_status(&ended, 0, &["1 session, 0 failed"]);
    let heard = target.result().1;
    assert_eq!((heard.bytes.len(), heard.error), (600_000, None));
}

// --- standing still, and going on ----------------------------------------------------------------

#[test]
fn a_target_that_takes_nothing_fails_and_does_not_hold_up_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let small = SockRef::from(&listener).set_recv_buffer_size(4096);
    small.expect("it can be small");
    let (hold, held) = channel::<TcpStream>();
    let target = Target::serve_at(listener, move |_, stream| {
        if take(&stream, 1) == b"!" {
            // Nobody reads it, and nobody closes it.
            hold.send(stream).expect("the test waits");
            return Vec::new();
        }
        Heard::listen(&stream).bytes
    });
    let script = Script::new()
        .open(1)
        .send(1, "!")
        .send(1, vec![b'x'; 6 * MIB]);
    let script = script.session(2, "hello").eof(1).close(1, "eof");
    let ended = script.play(&target.address, &["--timeout", "300ms"]);
    check_status(
        &ended,
        3,
        &[
            "replayed 2 sessions, 1 failed",
            "the target takes nothing any more",
        ],
    );
    assert!(ended.has_said("session 1 (#1 "), "{:?}", ended.said);
    assert!(target.results(2).contains(&b"ello".to_vec()));
    drop(held);
}

#[test]
fn a_target_that_never_closes_is_left_and_that_is_said() {
    let (hold, held) = channel();
    let target = Target::serve(move |_, stream| {
        let heard = Heard::listen(&stream);
        hold.send(stream).expect("the test waits");
        heard.bytes
    });
    let script = Script::new().session(1, "hello");
    let args = ["--timeout", "200ms", "-o", "answers.ndjson"];
    let ended = script.play(&target.address, &args);
    let quiet = "1 session closed because the target did not end within --timeout";
    check_status(&ended, 0, &["1 session, 0 failed", quiet]);
    assert_eq!(target.result().1, b"hello");
    let answers = numbered_sessions(&records(&ended.path("answers.ndjson")));
    let close = answers[&1].close.as_ref().expect("it was closed");
    assert_eq!(close.reason, CloseReason::IdleTimeout);
    drop(held);
}

#[test]
fn a_target_that_answers_for_ever_is_left_all_the_same() {
    let target = Target::serve(|_, mut stream| {
        let mut written = 0_u64;
        while stream.write_all(b"and another thing\n").is_ok() {
            written += 1;
        }
        written
    });
    let script = Script::new().session(1, "hello");
    let ended = script.play(&target.address, &["--timeout", "50ms"]);
    check_status(
        &ended,
        0,
        &[
            "1 session, 0 failed",
            "the target did not end within --timeout",
        ],
    );
    assert!(target.result().1 > 0);
}

#[test]
fn a_flood_of_answers_never_blocks_the_target() {
    const FLOOD: usize = 48 * MIB;
    let target = Target::serve(|_, mut stream| {
        // Nothing is read before all of this has been taken, though more is sent to it all the time.
        for _ in 0..FLOOD / MIB {
            stream.write_all(&vec![b'y'; MIB]).expect("it is read");
        }
        Heard::listen(&stream).bytes.len()
    });
    let pieces = (0..8).fold(Script::new().open(1), |script, _| {
        script.send(1, vec![b'x'; MIB])
    });
    let script = pieces.eof(1).close(1, "eof");
    for args in [&[][..], &["-o", "answers.bin", "--buffer", "4MiB"]] {
        let ended = script.play(&target.address, args);
        check_status(&ended, 0, &["8.0 MiB sent, 48.0 MiB received"]);
        assert_eq!(target.result().1, 8 * MIB);
        if !args.is_empty() {
            let len = fs::metadata(ended.path("answers.bin"))
                .expect("it is there")
                .len();
            assert_eq!(len, FLOOD as u64);
        }
    }
}

#[test]
fn a_target_that_replies_too_little_fails_that_session_and_says_what_is_missing() {
    for has_ended in [false, true] {
        let target = Target::serve(move |nth, mut stream| {
            let mut bytes = take(&stream, 3);
            let reply = if nth == 2 { "o" } else { "okay" };
            stream.write_all(reply.as_bytes()).expect("it reads");
            if nth == 2 && has_ended {
                stream.shutdown(Shutdown::Write).expect("it is open");
            }
            // Nobody closes it before the replay does.
            bytes.extend(Heard::listen(&stream).bytes);
            bytes
        });
        let mut script = Script::new();
        for conn in 1..=3 {
            script = script.open(conn).send(conn, "one").reply(conn, "okay");
            script = script.send(conn, "two").eof(conn).close(conn, "eof");
        }
        // The long timeout is never waited for.
        let timeout = if has_ended { "1h" } else { "300ms" };
        let args = [
            "--pace",
            "reply",
            "--speed",
            "max",
            "--timeout",
            timeout,
            "--jobs",
            "1",
        ];
        let mut tape = script.start(&target.address, &args);
        let line = tape.wait_for_line("failed after");
        let why = if has_ended {
            "the target has ended"
        } else {
            "the target is silent"
        };
        let expected = format!(
            "wiretape: session 2 (#2 192.0.2.2:40000) failed after 3 bytes: record 10 waits for 3 more bytes of replies, and {why}"
        );
        assert_eq!(line, expected);
        check_status(&tape.wait(), 3, &["replayed 3 sessions, 1 failed"]);
        assert_eq!(target.results(3), [&b"onetwo"[..], b"one", b"onetwo"]);
    }
}

// --- while it runs -------------------------------------------------------------------------------

#[test]
fn term_ends_it_in_the_middle_with_a_whole_capture_of_answers() {
    let target = Target::serve(|_, mut stream| {
        let first = take(&stream, 5);
        stream.write_all(b"thanks").expect("it reads");
        [first, Heard::listen(&stream).bytes].concat()
    });
    let script = Script::new()
        .open(1)
        .send(1, "first")
        .open(2)
        .send(2, "other");
    let script = script
        .at(3_600_000)
        .send(1, "in an hour")
        .send(2, "too")
        .session(3, "too");
    let mut tape = script.start(&target.address, &["-o", "answers.ndjson"]);
    let answers = tape.path("answers.ndjson");
    eventually("both answers are captured", || {
        let captured = fs::read(&answers).ok()?;
        (memchr::memmem::find_iter(&captured, "thanks").count() == 2).then_some(())
    });
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let ended = tape.wait();
    check_status(
        &ended,
        3,
        &["replayed 2 sessions, 2 failed; 2 records with 10 B sent, 12 B received"],
    );
    let heard = target.results(2);
    assert_eq!(heard, [b"first", b"other"]);
    let records = records(&ended.path("answers.ndjson"));
    let reason = EndReason::Shutdown;
    assert_eq!(records[records.len() - 1].event, Event::End { reason });
    let sessions = numbered_sessions(&records);
    assert_eq!(sessions.len(), 2);
    for session in sessions.values() {
        assert_eq!(session.bytes, b"thanks");
        let close = session.close.as_ref().expect("it was closed");
        assert_eq!(close.reason, CloseReason::Shutdown);
    }
}

#[test]
fn records_from_a_pipe_are_played_as_they_come() {
    for speed in ["1", "max"] {
        let (tell, told) = channel();
        let target = Target::serve(move |_, stream| {
            for len in [3, 5] {
                tell.send(take(&stream, len)).expect("the test waits");
            }
            Heard::listen(&stream).bytes
        });
        let mut command = replay_command(&["-", &target.address, "--speed", speed]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let script = Script::new().open(1).send(1, "one");
        let mut said = 0;
        let mut say = |script: &Script| {
            stdin
                .write_all(&script.text.as_bytes()[said..])
                .expect("it reads");
            said = script.text.len();
        };
        say(&script);
        assert_eq!(told.recv_timeout(PATIENCE).expect("it comes"), b"one");
        // A record that is not whole yet is waited for.
        let mut script = script.at(10).send(1, "seven").send(1, "!");
        let rest = script.text.split_off(script.text.len() - 5);
        say(&script);
        assert_eq!(told.recv_timeout(PATIENCE).expect("it comes"), b"seven");
        script.text += &rest;
        say(&script);
        drop(stdin);
        let status = eventually("it ends", || child.try_wait().expect("it is a child"));
        assert_eq!(status.code(), Some(0));
        assert_eq!(target.result().1, b"!");
    }
}

#[test]
fn answers_have_the_number_of_their_session_though_others_could_not_connect() {
    let (socket, address) = bound();
    let (stdin, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let mut write = fs::File::from(write);
    let mut command = replay_command(&["-", &address, "--speed", "max", "-o", "a.ndjson"]);
    let mut tape = Tape::spawn({
        command.stdin(stdin);
        command
    });
    let script = Script::new().session(1, "one");
    write.write_all(script.text.as_bytes()).expect("it reads");
    tape.wait_for_line("session 1 ");
    socket.listen(1).expect("it is bound");
    let first = script.text.len();
    let script = script.session(2, "two");
    let second = &script.text.as_bytes()[first..];
    write.write_all(second).expect("it reads");
    drop(write);
    let (socket, _) = socket.accept().expect("session 2 comes");
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"answer").expect("it reads");
    assert_eq!(Heard::listen(&stream).bytes, b"two");
    drop(stream);
    let ended = tape.wait();
    check_status(&ended, 3, &["replayed 2 sessions, 1 failed"]);
    let answers = numbered_sessions(&records(&ended.path("a.ndjson")));
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(answers[&2].bytes, b"answer");
}

// --- what cannot be replayed ---------------------------------------------------------------------

/// Replays `files` of this folder, and demands a status, one line, nobody connected to and nothing
/// created.
fn check_bad(folder: &Path, args: &[&str], status: i32, expected: &str) {
    let target = Untouched::new();
    let address = target.address();
    let name = |arg: &&str| {
        if *arg == "TARGET" {
            address.clone()
        } else {
            (*arg).to_owned()
        }
    };
    let mut command = replay_command(&[]);
    command
        .args(args.iter().map(name))
        .current_dir(folder)
        .stdin(Stdio::null());
    // One that is not refused ends soon all the same.
    command.args(["-o", "answers.ndjson", "--timeout", "500ms"]);
    let ended = Tape::spawn(command).wait();
    check_status(&ended, status, &[expected]);
    assert!(ended.said[0].starts_with("wiretape: "), "{:?}", ended.said);
    assert_eq!(ended.said.len(), 1, "{:?}", ended.said);
    assert!(!folder.join("answers.ndjson").exists(), "{args:?}");
    target.check();
}

#[test]
fn captures_that_are_none_are_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = Script::new().session(1, "good").text;
    let bad_base64 = r#","conn":2,"peer":"p","dir":"in","offset":0,"len":3,"base64":"/wA""#;
    let bad_len = r#","conn":2,"peer":"p","dir":"in","offset":0,"len":4,"text":"abc""#;
    let newer =
        r#","v":2,"run":"00000000000000a1","mode":"listen","listen":[],"tool":"x","segment":1"#;
    let first = Script::new().open(1).send(1, "good");
    for (content, expected) in [
        (
            b"hello\nthere\n".to_vec(),
            "bad: line 1: not a capture record",
        ),
        (b"{\"a\":1}\n".to_vec(), "bad: line 1: not a capture record"),
        ((0..=255).collect(), "bad: line 1: not a capture record"),
        (
            vec![b'x'; 17 * MIB],
            "bad: line 1: longer than 16 MiB, not a capture",
        ),
        (
            Script::default().record("start", newer).text.into(),
            "bad: line 1: format version 2 was written by a newer wiretape",
        ),
        (
            first.clone().record("data", bad_base64).text.into(),
            "bad: line 4: invalid base64",
        ),
        (
            first.clone().record("data", bad_len).text.into(),
            "bad: line 4: `len` says 4, but the payload has 3 bytes",
        ),
        (
            // Not a torn end: no run begins behind it.
            first.text.replace("\n", "\n{\n").into(),
            "bad: line 2: not a capture record",
        ),
    ] {
        fs::write(folder.path().join("bad"), content).expect("there is room");
        check_bad(folder.path(), &["bad", "TARGET"], 1, expected);
        // Nor is anything sent of a good one before it.
        fs::write(folder.path().join("good"), &good).expect("there is room");
        check_bad(folder.path(), &["good", "bad", "TARGET"], 1, expected);
    }
}

/// That it is damaged turns out behind its last line; it is not taken for one that was cut short.
#[test]
fn a_compressed_capture_that_is_damaged_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut damaged = gzip(Script::new().session(1, "good").text.as_bytes());
    // The checksum stands before the length, both at the end.
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    fs::write(folder.path().join("bad"), damaged).expect("it is new");
    let expected = "cannot be read: gzip data does not have its checksum";
    check_bad(folder.path(), &["bad", "TARGET"], 1, expected);
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = Script::new().session(1, "good").text;
    fs::write(folder.path().join("good"), good).expect("there is room");
    fs::create_dir(folder.path().join("folder")).expect("it is new");
    let times = [
        "--since",
        "2026-11-22T12:00:01Z",
        "--until",
        "2026-11-22T12:00:00Z",
    ];
    for (args, status, expected) in [
        (
            &["good", "none", "TARGET"][..],
            1,
            "cannot open none: no such file or directory",
        ),
        (
            &["good", "folder", "TARGET"],
            1,
            "cannot open folder: is a directory",
        ),
        (
            &["good", "no-such-host.invalid:1"],
            1,
            "cannot resolve no-such-host.invalid:1: ",
        ),
        (&["-", "good", "-", "TARGET"], 2, "- is given twice"),
        (
            &["-", "TARGET", "--repeat", "2"],
            2,
            "--repeat: standard input can be read once",
        ),
        (
            &["good", "127.0.0.1:0"],
            2,
            "port 0 is no port to connect to",
        ),
        (&["good", "0"], 2, "port 0 is no port to connect to"),
        (
            &[&["good", "TARGET"][..], &times].concat(),
            2,
            "--since is not before --until",
        ),
    ] {
        check_bad(folder.path(), args, status, expected);
    }
}

/// What comes through a pipe is not known before it has come: the answers' capture is there by then.
#[test]
fn standard_input_that_is_no_capture_is_refused_too() {
    for (input, expected) in [
        ("", "wiretape: nothing to replay: "),
        (
            "hello\n",
            "wiretape: standard input: line 1: not a capture record",
        ),
    ] {
        let target = Untouched::new();
        let args = ["-", &*target.address(), "-o", "answers.ndjson"];
        let mut child = replay_command(&args);
        let folder = tempfile::tempdir().expect("a temporary folder");
        child.current_dir(folder.path()).stdin(Stdio::piped());
        let mut child = child.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        eventually("it ends", || child.try_wait().expect("it is a child"));
        let output = child.wait_with_output().expect("it has ended");
        let said = String::from_utf8(output.stderr).expect("it is text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.lines().any(|line| line.starts_with(expected)),
            "{said}"
        );
        target.check();
    }
}

/// What clap says takes more than a line.
#[test]
fn options_that_are_not_understood_are_refused() {
    for (args, expected) in [
        (&["a", "localhost"][..], "the port is missing"),
        (&["a", "::1"], "an IPv6 address stands in brackets"),
        (&["a", "1", "--speed", "0"], "a speed is a factor"),
        (&["a", "1", "--conn", "4-3"], "a connection is a number"),
        (
            &["a", "1", "--since", "noon"],
            "a time is a day and a time in UTC",
        ),
        (&["a", "1", "--timeout", "0s"], "longer than zero"),
        (&["a", "1", "--jobs", "0"], "--jobs"),
        (&["a"], "TARGET"),
    ] {
        let output = replay_command(args).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said} does not say {expected}");
    }
}
