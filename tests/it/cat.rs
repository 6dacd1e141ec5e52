//! `wiretape cat`: what the program captured, printed and converted; and followed as it is captured.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::hand::{Script, Target, gzip};
use crate::review::{finish, run};
use crate::talk::{proxy, random};
use crate::tape::{Ended, Tape, end, eventually, fast_folder, segments, wiretape};

/// `wiretape cat ARGS…` to its end, with nothing said; what it printed.
fn cat(folder: &Path, args: &[&str]) -> Vec<u8> {
    let mut command = wiretape();
    command.arg("cat").args(args).current_dir(folder);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    output.stdout
}

/// `wiretape cat --follow ARGS…` into a file.
fn follow(folder: &Path, args: &[&str], out: &str) -> Tape {
    let mut command = wiretape();
    command.args(["cat", "--follow"]).args(args);
    command.current_dir(folder);
    command.stdout(File::create(folder.join(out)).expect("it can be made"));
    Tape::spawn(command)
}

fn until_holds(path: &Path, len: usize) {
    eventually("all has been followed", || {
        (fs::metadata(path).is_ok_and(|out| out.len() >= len as u64)).then_some(())
    });
}

/// Tells it to stop, which is no failure.
fn stop(follower: Tape) -> Ended {
    let ended = follower.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    ended
}

/// Tells it to stop when it has written this last; something was missing, and it has said so.
fn stop_not_whole(follower: Tape, out: &Path, last: &str, said: &str) -> String {
    eventually("the last has been followed", || {
        (fs::read_to_string(out).ok()?)
            .ends_with(last)
            .then_some(())
    });
    let ended = follower.stop();
    assert_eq!(ended.status, Some(3), "{:?}", ended.said);
    let times = ended.said.iter().filter(|line| line.contains(said)).count();
    assert_eq!(times, 1, "{said}: {:?}", ended.said);
    fs::read_to_string(out).expect("it is there")
}

fn numbered(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|nth| format!("line {nth}\n")).collect()
}

#[test]
fn what_was_captured_is_shown_as_it_was_when_it_was_captured() {
    let outputs = ["a.ndjson", "a.txt", "hex:a.hex", "a.bin"];
    let mut args = vec!["--frame", "line", "--frame-max", "100"];
    outputs
        .iter()
        .for_each(|output| args.extend(["-o", *output]));
    let tape = Tape::listen(&args);
    let mut first = tape.connect();
    first
        .write_all("21.5 °C\nno end".as_bytes())
        .expect("it reads");
    tape.send(&random(5, 100_000));
    first.write_all(b" yet\x1b[2J\n").expect("it reads");
    end(first);
    let ended = tape.stop();
    let folder = ended.folder.path();
    for (flags, file) in [
        (&["--json"][..], "a.ndjson"),
        (&[], "a.txt"),
        (&["--hex"], "a.hex"),
        (&["--raw"], "a.bin"),
        (&["-o", "-"], "a.txt"),
    ] {
        let printed = cat(folder, &[&["a.ndjson"], flags].concat());
        assert!(printed == ended.read(file), "{flags:?}");
    }
    // Into files, all at once, and what is compressed on the way.
    cat(
        folder,
        &[
            "a.ndjson",
            "-o",
            "b.ndjson.zst",
            "-o",
            "b.txt",
            "-o",
            "b.bin",
        ],
    );
    assert_eq!(ended.read("b.txt"), ended.read("a.txt"));
    assert_eq!(ended.read("b.bin"), ended.read("a.bin"));
    assert!(cat(folder, &["b.ndjson.zst", "--json"]) == ended.read("a.ndjson"));
}

#[test]
fn either_direction_of_a_conversation_is_had() {
    let target = Target::serve(|_, mut stream| {
        let heard = crate::hand::take(&stream, 4);
        stream.write_all(b"+PONG\r\n").expect("it reads");
        heard
    });
    let tape = proxy(&target.address, &[]);
    let mut stream = tape.connect();
    stream.write_all(b"PING").expect("it reads");
    assert_eq!(crate::hand::take(&stream, 7), b"+PONG\r\n");
    end(stream);
    let ended = tape.stop();
    let folder = ended.folder.path();
    assert_eq!(cat(folder, &["a.ndjson", "--raw"]), b"PING");
    assert_eq!(cat(folder, &["a.ndjson", "--raw", "--dir", "in"]), b"PING");
    assert_eq!(
        cat(folder, &["a.ndjson", "--raw", "--dir", "out"]),
        b"+PONG\r\n"
    );
    let text = String::from_utf8(cat(folder, &["a.ndjson", "--dir", "out"])).expect("it is text");
    assert!(
        text.contains(" < +PONG") && !text.contains("PING"),
        "{text}"
    );
}

#[test]
fn what_is_selected_is_a_capture_that_is_whole() {
    let script = Script::new().session(1, "one\n").session(2, "two\n");
    let script = script.open(3).send(3, "three\n").close(3, "reset");
    let script = script.record("end", r#","reason":"shutdown""#);
    let folder = fast_folder();
    fs::write(folder.path().join("a.ndjson"), &script.text).expect("it is new");
    for (flags, expected) in [
        (&["--conn", "2"][..], "two\n"),
        (&["--conn", "1,3"], "one\nthree\n"),
        (&["--peer", "192.0.2.[!2]*"], ""),
        (&["--peer", "192.0.2.1:*"], "one\n"),
        (&["--until", "2026-11-22T12:00:00Z"], ""),
        (&["--since", "2026-11-22T12:00:00Z"], "one\ntwo\nthree\n"),
    ] {
        let bytes = cat(folder.path(), &[&["a.ndjson", "--raw"], flags].concat());
        assert_eq!(String::from_utf8_lossy(&bytes), expected, "{flags:?}");
    }
    cat(
        folder.path(),
        &["a.ndjson", "--conn", "2", "-o", "b.ndjson"],
    );
    let part = fs::read_to_string(folder.path().join("b.ndjson")).expect("it was made");
    assert!(
        part.lines()
            .next()
            .is_some_and(|start| start.ends_with(r#","part":true}"#))
    );
    let check = |name: &str| run(folder.path(), &["sessions", "--json", name]).1;
    assert!(check("b.ndjson").contains(r#""conn":2,"#));
    assert!(!check("b.ndjson").contains(r#""conn":1,"#));
}

#[test]
fn every_session_is_taken_apart_from_the_others() {
    let folder = fast_folder();
    let run_of = |id: &str, text: &str| {
        let script = Script::new()
            .session(1, format!("{text} 1"))
            .open(2)
            .send(2, format!("{text} 2"));
        let script = script
            .close(2, "reset")
            .record("end", r#","reason":"shutdown""#);
        script.text.replace("00000000000000a1", id)
    };
    let runs = run_of("00000000000000a1", "first") + &run_of("00000000000000b2", "second");
    fs::write(folder.path().join("a.ndjson"), &runs).expect("it is new");
    cat(
        folder.path(),
        &[
            "a.ndjson",
            "-o",
            "{run}/{conn}.bin",
            "-o",
            "json/{run}-{conn}-{local_port}.ndjson",
        ],
    );
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("it was made");
    assert_eq!(read("00000000000000a1/1.bin"), "first 1");
    assert_eq!(read("00000000000000a1/2.bin"), "first 2");
    assert_eq!(read("00000000000000b2/1.bin"), "second 1");
    assert_eq!(read("00000000000000b2/2.bin"), "second 2");
    let one = read("json/00000000000000b2-2-1.ndjson");
    assert!(
        one.lines()
            .next()
            .is_some_and(|start| start.contains(r#""run":"00000000000000b2""#)),
        "{one}"
    );
    assert!(one.ends_with("\"reason\":\"closed\"}\n"), "{one}");
    // Without their `open` and their `start` they are what is known of them.
    let data: String = runs
        .lines()
        .filter(|line| line.contains(r#""type":"data""#))
        .map(|line| line.to_owned() + "\n")
        .collect();
    fs::write(folder.path().join("data.ndjson"), data).expect("it is new");
    cat(
        folder.path(),
        &["data.ndjson", "-o", "data/{run}-{conn}-{local_port}.bin"],
    );
    assert_eq!(read("data/0000000000000000-1-none.bin"), "first 1second 1");
}

#[test]
fn captures_come_compressed_torn_and_through_pipes() {
    let folder = fast_folder();
    let whole = Script::new().session(1, "one\n").text;
    fs::write(folder.path().join("a.gz"), gzip(whole.as_bytes())).expect("it is new");
    assert_eq!(
        cat(folder.path(), &["a.gz", "a.gz", "--raw"]),
        b"one\none\n"
    );
    let piped = |input: &[u8]| {
        let mut command = wiretape();
        command.args(["cat", "-", "--raw"]);
        finish(command, input)
    };
    assert_eq!(
        piped(whole.as_bytes()),
        (Some(0), "one\n".to_owned(), String::new())
    );
    let (status, printed, said) = piped(&whole.as_bytes()[..whole.len() - 9]);
    assert_eq!((status, &*printed), (Some(3), "one\n"));
    assert!(said.contains("breaks off"), "{said}");
    // What stands before a line that is none is printed.
    let (status, printed, said) = piped((whole.clone() + "{}\n{}\n").as_bytes());
    assert_eq!((status, &*printed), (Some(1), "one\n"));
    assert!(said.contains("standard input: line 6: "), "{said}");
    let (status, printed, _) = piped(
        whole
            .replace(r#""seq":3"#, r#""seq":18446744073709551615"#)
            .as_bytes(),
    );
    assert_eq!((status, &*printed), (Some(0), "one\n"));
    let gap = r#","records":2,"bytes":9,"reason":"stalled_output""#;
    let (status, ..) = piped(Script::new().record("gap", gap).text.as_bytes());
    assert_eq!(status, Some(3));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = fast_folder();
    fs::write(folder.path().join("a.ndjson"), Script::new().text).expect("it is new");
    let pipe = folder.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR).expect("it is new");
    for (args, status, expected) in [
        (
            &["a.ndjson", "-o", "./a.ndjson"][..],
            2,
            "is written to and read itself",
        ),
        (
            &["-f", "a.ndjson", "-o", "a.ndjson"],
            2,
            "is written to and read itself",
        ),
        (&["-f", "pipe"], 1, "it is no regular file"),
        (&["-f", "."], 1, "cannot open .: is a directory"),
        (&["-f", "-"], 2, "--follow: the last capture must be a file"),
        (&["-", "-"], 2, "- is given twice"),
        (&["none.ndjson"], 1, "cannot open none.ndjson: "),
        (
            &["-f", "none/none.ndjson"],
            1,
            "cannot open none/none.ndjson: ",
        ),
        (
            &["a.ndjson", "-o", "none/b.txt"],
            1,
            "create the folder none first",
        ),
    ] {
        let (found, printed, said) = run(folder.path(), &[&["cat"], args].concat());
        assert_eq!((found, &*printed), (Some(status), ""), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let mut command = wiretape();
    command
        .args(["cat", "a.ndjson", "--json"])
        .current_dir(folder.path());
    let a = File::options()
        .append(true)
        .open(folder.path().join("a.ndjson"));
    command.stdout(a.expect("it is there"));
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("standard output is written to and read itself, as a.ndjson"),
        "{said}"
    );
}

#[test]
fn who_reads_no_more_ends_it_quietly() {
    let folder = fast_folder();
    let mut script = Script::new();
    for _ in 0..2_000 {
        script = script.send(1, [b'x'; 1000]);
    }
    fs::write(folder.path().join("a.ndjson"), script.text).expect("it is new");
    let mut command = wiretape();
    command.args(["cat", "a.ndjson"]).current_dir(folder.path());
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    drop(tape.take_stdout());
    let ended = tape.wait();
    assert_eq!((ended.status, ended.said), (Some(0), Vec::new()));
}

#[test]
fn a_capture_is_followed_through_thousands_of_rotations() {
    let folder = fast_folder();
    // It is still to come.
    let follower = follow(folder.path(), &["a.ndjson", "--raw"], "out");
    let tape = Tape::listen_in(
        folder.path(),
        &["-o", "a.ndjson", "--rotate", "4KiB", "--frame", "line"],
    );
    let mut sent = Vec::new();
    for nth in 0..40_000 {
        sent.extend_from_slice(format!("line {nth}\n").as_bytes());
    }
    let mut stream = tape.connect();
    let (first, rest) = sent.split_at(14);
    stream.write_all(first).expect("it reads");
    // Seen while it is still being written.
    until_holds(&folder.path().join("out"), first.len());
    stream.write_all(rest).expect("it reads");
    end(stream);
    until_holds(&folder.path().join("out"), sent.len());
    assert_eq!(tape.stop().status, Some(0));
    assert!(segments(folder.path(), "a").len() > 1000);
    stop(follower);
    assert!(fs::read(folder.path().join("out")).expect("it is there") == sent);
}

#[test]
fn a_row_of_closed_files_is_gone_on_with() {
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "--rotate", "4KiB"];
    let tape = Tape::listen_in(folder.path(), &args);
    for nth in 0..4 {
        tape.send(&[b'0' + nth; 4000]);
    }
    assert_eq!(tape.stop().status, Some(0));
    let closed = segments(folder.path(), "a");
    assert!(closed.len() >= 3);
    // All but the last of them are named: it was closed after that.
    let named = closed[..closed.len() - 1].iter();
    let mut args: Vec<&str> = named
        .map(|path| path.to_str().expect("it is text"))
        .collect();
    args.extend(["a.ndjson", "--raw"]);
    let follower = follow(folder.path(), &args, "out");
    until_holds(&folder.path().join("out"), 16_000);
    stop(follower);
    let expected: Vec<u8> = (0..4).flat_map(|nth| [b'0' + nth; 4000]).collect();
    assert!(fs::read(folder.path().join("out")).expect("it is there") == expected);
}

#[test]
fn what_is_moved_away_and_begun_again_is_followed() {
    let folder = fast_folder();
    let path = |name: &str| folder.path().join(name);
    // What is there already is read first.
    fs::write(
        path("old.ndjson"),
        Script::new().session(1, "before\n").text,
    )
    .expect("it is new");
    let tape = Tape::listen_in(folder.path(), &["-o", "a.ndjson"]);
    tape.send(b"one\n");
    let follower = follow(folder.path(), &["old.ndjson", "a.ndjson", "--raw"], "out");
    until_holds(&path("out"), "before\none\n".len());
    // As logrotate does it.
    fs::rename(path("a.ndjson"), path("a.ndjson.1")).expect("it is there");
    File::create(path("a.ndjson")).expect("it can be made");
    tape.send(b"two\n");
    tape.signal(Signal::HUP);
    let mut tape = tape;
    tape.wait_for_line("opened anew");
    tape.send(b"three\n");
    until_holds(&path("out"), "before\none\ntwo\nthree\n".len());
    tape.stop();
    stop(follower);
    let out = fs::read_to_string(path("out")).expect("it is there");
    assert_eq!(out, "before\none\ntwo\nthree\n");
}

/// The first connection, which has sent the first line, and who follows it as `out`: having printed that line,
/// stopped.
fn one_line_behind(tape: &Tape, folder: &Path, capture: &str) -> (TcpStream, Tape) {
    let mut stream = tape.connect();
    stream
        .write_all(numbered(0..1).as_bytes())
        .expect("it reads");
    let follower = follow(folder, &[capture, "--raw"], "out");
    until_holds(&folder.join("out"), numbered(0..1).len());
    follower.signal(Signal::STOP);
    (stream, follower)
}

#[test]
fn what_is_closed_while_the_reader_stands_still_is_read_or_said_to_be_gone() {
    fn check(options: &[&str], is_whole: bool) {
        let folder = fast_folder();
        let out = folder.path().join("out");
        let args = [
            &["-o", "a.ndjson", "--frame", "line", "--rotate", "4KiB"],
            options,
        ]
        .concat();
        let tape = Tape::listen_in(folder.path(), &args);
        let (mut stream, follower) = one_line_behind(&tape, folder.path(), "a.ndjson");
        stream
            .write_all(numbered(1..1000).as_bytes())
            .expect("it reads");
        end(stream);
        // What is to be done for closed files is done by then.
        assert_eq!(tape.stop().status, Some(0));
        let mut left: Vec<String> = segments(folder.path(), "a")
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        left.push("a.ndjson".to_owned());
        let left: Vec<&str> = left.iter().map(String::as_str).chain(["--raw"]).collect();
        let left = String::from_utf8(cat(folder.path(), &left)).expect("it is text");
        follower.signal(Signal::CONT);
        if is_whole {
            until_holds(&out, numbered(0..1000).len());
            stop(follower);
            assert_eq!(
                fs::read_to_string(&out).expect("it is there"),
                numbered(0..1000)
            );
        } else {
            let followed = stop_not_whole(follower, &out, "line 999\n", "missing: deleted before");
            let first = followed
                .strip_suffix(&left)
                .expect("all that is there was read");
            assert!(numbered(0..1000).starts_with(first) && !first.is_empty());
        }
    }
    check(&[], true);
    check(&["--compress", "zstd"], true);
    check(&["--keep", "2"], false);
    check(&["--keep", "2", "--compress", "zstd"], false);
}

#[test]
fn files_whose_numbers_begin_anew_are_followed() {
    let folder = fast_folder();
    let out = folder.path().join("out");
    let follower = follow(folder.path(), &["a.ndjson", "--raw"], "out");
    for run in 0..3 {
        let args = ["-o", "a.ndjson", "--frame", "line", "--rotate", "4KiB"];
        let tape = Tape::listen_in(folder.path(), &args);
        tape.send(numbered(run * 500..run * 500 + 500).as_bytes());
        assert_eq!(tape.stop().status, Some(0));
        until_holds(&out, numbered(0..run * 500 + 500).len());
        // Somebody archives them, and once the live one, too.
        for path in segments(folder.path(), "a") {
            fs::remove_file(path).expect("it is there");
        }
        if run == 1 {
            fs::remove_file(folder.path().join("a.ndjson")).expect("it is there");
        }
    }
    stop(follower);
    assert_eq!(
        fs::read_to_string(&out).expect("it is there"),
        numbered(0..1500)
    );
}

#[test]
fn a_file_of_one_connection_is_followed_among_those_of_others() {
    let folder = fast_folder();
    let out = folder.path().join("out");
    let args = [
        "-o",
        "{conn}.ndjson",
        "--frame",
        "line",
        "--rotate",
        "4KiB",
        "--compress",
        "zstd",
    ];
    let tape = Tape::listen_in(folder.path(), &args);
    let (mut first, follower) = one_line_behind(&tape, folder.path(), "1.ndjson");
    for round in 0..10 {
        let lines = numbered(round * 50 + 1..round * 50 + 51);
        first.write_all(lines.as_bytes()).expect("it reads");
        // The numbers of closed files are those of all connections.
        tape.send(numbered(0..300).as_bytes());
    }
    end(first);
    assert_eq!(tape.stop().status, Some(0));
    follower.signal(Signal::CONT);
    until_holds(&out, numbered(0..501).len());
    stop(follower);
    assert_eq!(
        fs::read_to_string(&out).expect("it is there"),
        numbered(0..501)
    );
}

#[test]
fn lines_that_break_off_are_told_and_nothing_else_is_lost() {
    // The torn end of a file, what follows, and how.
    fn check(change: impl Fn(&Path), said: &str) {
        let folder = fast_folder();
        let (path, out) = (folder.path().join("a.ndjson"), folder.path().join("out"));
        let torn = Script::new().session(1, "one\n").text + r#"{"type":"data","ts":"#;
        fs::write(&path, torn).expect("it is new");
        let follower = follow(folder.path(), &["a.ndjson", "--raw"], "out");
        until_holds(&out, 4);
        change(&path);
        let followed = stop_not_whole(follower, &out, "two\n", said);
        assert_eq!(followed, "one\ntwo\n");
    }
    let next = || {
        let text = Script::new().session(1, "two\n").text;
        text.replace("00000000000000a1", "00000000000000b2")
    };
    let append = |path: &Path, text: String| {
        let file = File::options().append(true).open(path);
        let written = file.expect("it is there").write_all(text.as_bytes());
        written.expect("there is room");
    };
    // A crash, and another run in the same file.
    check(|path| append(path, format!("\n{}", next())), "breaks off");
    // … or in another, because the old one was moved away.
    check(
        |path| {
            fs::rename(path, path.with_extension("old")).expect("it is there");
            fs::write(path, next()).expect("it is new");
        },
        "breaks off",
    );
    // Copied and truncated: what comes then is shorter.
    check(
        |path| {
            File::create(path).expect("it is there");
            append(path, next());
        },
        "breaks off",
    );
}

/// `wiretape cat --follow a.ndjson --raw` under strace, which has these options, into `out`.
fn follow_traced(folder: &Path, options: &[&str]) -> Option<Tape> {
    let mut strace = crate::tape::strace(options)?;
    strace.current_dir(folder);
    let mut command: Command = crate::tape::under(strace, &wiretape());
    command.args(["cat", "-f", "a.ndjson", "--raw"]);
    command.stdout(File::create(folder.join("out")).expect("it can be made"));
    Some(Tape::spawn(command))
}

#[test]
fn what_the_kernel_does_not_tell_of_is_looked_at_all_the_same() {
    let folder = fast_folder();
    let tape = Tape::listen_in(folder.path(), &["-o", "a.ndjson"]);
    let fault = "inject=inotify_init1:error=EMFILE";
    let Some(follower) = follow_traced(folder.path(), &["-o", "/dev/null", "-e", fault]) else {
        return;
    };
    tape.send(b"one\n");
    until_holds(&folder.path().join("out"), 4);
    tape.send(b"two\n");
    until_holds(&folder.path().join("out"), 8);
    stop(follower);
    tape.stop();
}

#[test]
fn following_takes_no_time_while_nothing_comes() {
    let folder = fast_folder();
    let tape = Tape::listen_in(folder.path(), &["-o", "a.ndjson"]);
    let Some(mut follower) = follow_traced(folder.path(), &["-c", "-o", "calls"]) else {
        return;
    };
    tape.send(b"one\n");
    until_holds(&folder.path().join("out"), 4);
    follower.stand_still(std::time::Duration::from_millis(1500));
    stop(follower);
    tape.stop();
    let calls = eventually("strace has written", || {
        let calls = fs::read_to_string(folder.path().join("calls")).ok()?;
        calls.contains(" total").then_some(calls)
    });
    let total = calls
        .lines()
        .find(|line| line.ends_with(" total"))
        .expect("it was found");
    let count: u64 = total
        .split_whitespace()
        .nth(3)
        .and_then(|count| count.parse().ok())
        .expect("a number");
    assert!(count < 400, "{calls}");
}
