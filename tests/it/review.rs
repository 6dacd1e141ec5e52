//! `wiretape check` and `wiretape sessions`, over captures that the program itself makes, and over some
//! that were damaged.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

use crate::hand::{Script, Target, gzip, replay_command};
use crate::replay::{SESSIONS, recorded};
use crate::talk::{captured, end_sending, proxy, random};
use crate::tape::{Tape, program, records, segments, wiretape};

/// A run of either command: its status, and what it printed on each side.
pub fn run(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = wiretape();
    command.args(args).current_dir(folder);
    finish(command, b"")
}

/// The same with something on its standard input.
pub fn finish(mut command: Command, input: &[u8]) -> (Option<i32>, String, String) {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // One that does not read it is done before all is written.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Demands that all of these files are called whole, each alone and all of them together.
fn check_whole(folder: &Path, files: &[&str]) {
    assert!(!files.is_empty());
    for file in files {
        let (status, verdict, said) = run(folder, &["check", file]);
        assert_eq!((status, &*said), (Some(0), ""), "{verdict}");
        assert!(
            verdict.starts_with(&format!("{file}: whole: ")),
            "{verdict}"
        );
        assert_eq!(verdict.lines().count(), 1);
    }
    let (status, verdict, _) = run(folder, &[&["check"], files].concat());
    assert_eq!(status, Some(0), "{verdict}");
}

/// The names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it exists");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("it can be read").file_name();
        name.into_string().expect("it is text")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

// --- what the program makes is whole -------------------------------------------------------------

#[test]
fn captures_of_clients_are_whole() {
    for framing in ["chunk", "line"] {
        let ended = recorded(&[
            "--frame",
            framing,
            "-o",
            "b.ndjson.zst",
            "-o",
            "c.ndjson.gz",
        ]);
        let folder = ended.folder.path();
        check_whole(folder, &["a.ndjson", "b.ndjson.zst", "c.ndjson.gz"]);
        let (status, listed, said) = run(folder, &["sessions", "a.ndjson", "--json"]);
        assert_eq!((status, &*said), (Some(0), ""));
        let listed: Vec<serde_json::Value> = listed
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let (totals, sessions) = listed.split_last().expect("the totals at least");
        assert_eq!(sessions.len(), SESSIONS);
        let records = records(&ended.path("a.ndjson"));
        let sent: u64 = (sessions.iter())
            .map(|session| session["in_bytes"].as_u64().expect("a number"))
            .sum();
        assert_eq!(totals["in_bytes"], sent);
        assert_eq!(totals["sessions"], SESSIONS);
        assert_eq!(totals["not_whole"], 0);
        // All but the first record and the last are of sessions.
        assert_eq!(totals["records"], records.len() - 2);
        assert!(sessions.iter().all(|session| session["state"] == "whole"));
    }
}

#[test]
fn segments_are_whole_alone_and_in_their_order() {
    let args = ["--rotate", "64KiB", "--compress", "zstd"];
    let ended = recorded(&args);
    let folder = ended.folder.path();
    let mut files: Vec<String> = (segments(folder, "a").iter())
        .map(|path| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.push("a.ndjson".to_owned());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    assert!(files.len() > 4, "{files:?}");
    check_whole(folder, &files);
    let (_, verdict, _) = run(folder, &["check", files[1]]);
    assert!(verdict.contains("; begins with segment 2; "), "{verdict}");
    assert!(verdict.contains(" in another segment"), "{verdict}");
    // One that is missing is missed.
    let without = [&["check"], &files[..2], &files[3..]].concat();
    let (status, verdict, _) = run(folder, &without);
    assert_eq!(status, Some(3));
    assert!(
        verdict.contains("segment 3 is missing before segment 4"),
        "{verdict}"
    );
    // Out of their order, each is by itself.
    let (status, verdict, _) = run(folder, &["check", files[2], files[1]]);
    assert_eq!(status, Some(0));
    assert!(verdict.contains("; begins with segment 2; "), "{verdict}");
    // A session that goes over several is one.
    let all = [&["sessions", "--json"], &files[..]].concat();
    let (status, listed, _) = run(folder, &all);
    assert_eq!(status, Some(0));
    assert_eq!(listed.lines().count(), SESSIONS + 1);
    assert_eq!(listed.matches(r#""state":"whole""#).count(), SESSIONS);
}

/// Connects from this address of the loopback network.
fn connect_from(address: [u8; 4], to: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((Ipv4Addr::from(address), 0));
    socket.bind(&from.into()).expect("it is ours");
    let to: SocketAddr = to.parse().expect("an address");
    socket.connect(&to.into()).expect("it listens");
    socket.into()
}

#[test]
fn files_that_share_a_run_are_whole() {
    let args = ["p/{peer_ip}.ndjson", "c/{conn}.ndjson", "d/{date}.ndjson"];
    let args = args.map(|path| ["-o", path]);
    let tape = Tape::listen(args.as_flattened());
    for round in 0..3 {
        for host in 1..=3 {
            let mut stream = connect_from([127, 0, 0, host], &tape.addresses[0]);
            stream.write_all(&random(round, 3000)).expect("it reads");
            crate::tape::end(stream);
        }
    }
    let ended = tape.stop();
    for (folder, files) in [("p", 3), ("c", 9), ("d", 1)] {
        let folder = ended.path(folder);
        let names = names(&folder);
        assert_eq!(names.len(), files, "{names:?}");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        check_whole(&folder, &names);
        let (_, listed, _) = run(&folder, &[&["sessions", "--json"], &names[..]].concat());
        assert_eq!(listed.matches(r#""state":"whole""#).count(), 9, "{listed}");
        assert!(
            listed.contains(r#"{"type":"totals","runs":1,"sessions":9,"#),
            "{listed}"
        );
        for name in names {
            let capture = fs::read_to_string(folder.join(name)).expect("it is text");
            let is_part = capture
                .lines()
                .next()
                .is_some_and(|start| start.ends_with(r#","part":true}"#));
            assert_eq!(is_part, files > 1, "{capture}");
        }
    }
}

#[test]
fn captures_of_conversations_devices_and_replays_are_whole() {
    let target = Target::serve(|_, mut stream| {
        let question = crate::hand::Heard::listen(&stream).bytes;
        stream.write_all(&question).expect("it reads");
    });
    let tape = proxy(&target.address, &["--frame", "line"]);
    for seed in 0..4 {
        let mut stream = TcpStream::connect(&tape.addresses[0]).expect("it listens");
        stream.write_all(&random(seed, 100_000)).expect("it reads");
        end_sending(&stream);
        assert_eq!(crate::hand::Heard::listen(&stream).bytes.len(), 100_000);
    }
    let ended = tape.stop();
    check_whole(ended.folder.path(), &["a.ndjson"]);
    let (_, listed, _) = run(ended.folder.path(), &["sessions", "a.ndjson", "--json"]);
    let talks = captured(&ended);
    for (talk, line) in talks.iter().zip(listed.lines()) {
        let session: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(session["peer"], *talk.peer);
        assert_eq!(session["out_bytes"], talk.bytes[1].len());
    }
    // Played again, with the answers captured: what was sent is counted there, and not recorded.
    let mut replay = replay_command(&["a.ndjson", &target.address, "--speed", "max"]);
    replay
        .args(["-o", "b.ndjson"])
        .current_dir(ended.folder.path());
    let (status, _, said) = finish(replay, b"");
    assert_eq!(status, Some(0), "{said}");
    check_whole(ended.folder.path(), &["b.ndjson"]);
    let (_, listed, _) = run(ended.folder.path(), &["sessions", "b.ndjson", "--json"]);
    assert!(
        listed.contains(r#""in_bytes":400000,"out_bytes":400000,"#),
        "{listed}"
    );
    // A device that is asked.
    fs::write(ended.path("poll.txt"), "what?\n").expect("it is new");
    let mut connect = wiretape();
    connect.args([
        "connect",
        &target.address,
        "--send",
        "poll.txt",
        "--no-reconnect",
    ]);
    connect
        .args(["-o", "d.ndjson", "--idle-timeout", "200ms"])
        .current_dir(ended.folder.path());
    let (status, _, said) = finish(connect, b"");
    assert_eq!(status, Some(0), "{said}");
    check_whole(ended.folder.path(), &["d.ndjson"]);
}

/// Demands that `wiretape check` finds the gaps of a capture that misses so many records, what they have
/// swallowed, and nothing else.
pub fn check_finds_only_gaps(capture: &[u8], missed: u64) {
    let mut command = wiretape();
    command.args(["check", "-"]);
    let (status, printed, said) = finish(command, capture);
    if missed == 0 {
        return assert_eq!((status, &*said), (Some(0), ""), "{printed}");
    }
    assert_eq!((status, &*said), (Some(3), ""), "{printed}");
    let (verdict, findings) = printed
        .lines()
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, findings)| ((*last).to_owned(), findings.join("\n")))
        .expect("a verdict");
    assert!(verdict.contains(": not whole: "), "{verdict}");
    let is_gap = |line: &str| {
        [
            ": a gap: ",
            " missing at offset ",
            ", the bytes here end at ",
            " has no close",
            " have no close",
            ": and ",
        ]
        .iter()
        .any(|known| line.contains(known))
    };
    assert!(findings.contains(": a gap: "), "{findings}");
    assert!(findings.lines().all(is_gap), "{findings}");
}

// --- what is not ---------------------------------------------------------------------------------

/// A capture written by hand that nothing is wrong with.
fn whole() -> String {
    let mut script = Script::new();
    let end = |script: Script| script.record("end", r#","reason":"shutdown""#);
    for conn in 1..=3 {
        script = script.session(conn, format!("hello {conn}\n"));
    }
    // It says 1 of every duration.
    end(script)
        .text
        .replace(r#""duration_us":1"#, r#""duration_us":0"#)
}

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("it is new");
    }
    folder
}

/// Checks one file of these bytes: the status, and the lines that are printed without the name.
fn check(bytes: &[u8], status: i32, expected: &[&str]) {
    let folder = folder_with(&[("a", bytes)]);
    let (found, printed, said) = run(folder.path(), &["check", "a"]);
    let lines: Vec<&str> = (printed.lines())
        .map(|line| line.strip_prefix("a: ").expect("it is named"))
        .collect();
    assert_eq!((found, &lines[..]), (Some(status), expected), "{said}");
    let (quiet, printed, _) = run(folder.path(), &["check", "-q", "a"]);
    assert_eq!((quiet, &*printed), (found, ""));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let whole = whole();
    check(
        whole.as_bytes(),
        0,
        &["whole: 1 run, 3 sessions, 14 records, 24 B"],
    );
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without = |nth: usize| [&lines[..nth], &lines[nth + 1..]].concat().concat();
    check(
        without(3).as_bytes(),
        3,
        &["line 4: record 3 is missing", "not whole: 1 finding"],
    );
    check(
        without(2).as_bytes(),
        3,
        &[
            "line 3: record 2 is missing",
            "line 4: close of connection 1: in_bytes is 8, the bytes here end at 0",
            "not whole: 2 findings",
        ],
    );
    check(
        without(13).as_bytes(),
        3,
        &[
            "line 13: no end: cut short, or still going on",
            "not whole: 1 finding",
        ],
    );
    check(
        whole.replace("hello 2", "hullo 2").as_bytes(),
        3,
        &[
            "line 9: close of connection 2: in_crc32 is cafb4e92, the bytes have ad25d25c",
            "not whole: 1 finding",
        ],
    );
    check(
        whole
            .replace(r#""len":8,"text":"hello 3"#, r#""len":9,"text":"hello 3"#)
            .as_bytes(),
        3,
        &[
            "line 11: `len` says 9, but the payload has 8 bytes",
            "line 12: record 10 is missing",
            "line 13: close of connection 3: in_bytes is 8, the bytes here end at 0",
            "not whole: 3 findings",
        ],
    );
    check(b"", 3, &["nothing is in it", "not whole: 1 finding"]);
}

#[test]
fn a_run_that_is_not_all_there_is_not_whole_in_the_middle_of_a_file() {
    let whole = whole();
    let rotated = whole.replace(r#""reason":"shutdown""#, r#""reason":"rotated""#);
    let second = |text: &str| text.replace("00000000000000a1", "00000000000000b2");
    let late = |text: &str| text.replace(r#""segment":1"#, r#""segment":2"#);
    // At the end of a file it goes on in another.
    let verdict = "whole: 2 runs, 6 sessions, 28 records, 48 B; may go on in another segment";
    check(
        (whole.clone() + &second(&rotated)).as_bytes(),
        0,
        &[verdict],
    );
    check(
        (rotated + &second(&whole)).as_bytes(),
        3,
        &[
            "line 15: the next segment of the run before is missing",
            "not whole: 1 finding",
        ],
    );
    check(
        (whole.clone() + &second(&late(&whole))).as_bytes(),
        3,
        &[
            "line 15: the run begins with segment 2: what came before is missing",
            "not whole: 1 finding",
        ],
    );
}

#[test]
fn what_stands_behind_a_line_of_a_newer_version_is_looked_at() {
    let whole = whole();
    let newer = r#"{"type":"note","v":2}"#;
    let (first, rest) = whole.split_at(whole.find('\n').expect("it has lines") + 1);
    let mixed = format!("{first}{newer}\n{rest}");
    let why = "line 2: format version 2 was written by a newer wiretape (this one reads up to 1)";
    check(mixed.as_bytes(), 3, &[why, "not whole: 1 finding"]);
    let folder = folder_with(&[("a", mixed.as_bytes())]);
    let (status, ..) = run(folder.path(), &["check", "a", "--salvage", "b"]);
    assert_eq!(status, Some(3));
    let salvaged = fs::read_to_string(folder.path().join("b")).expect("it was made");
    assert_eq!(salvaged, whole);
}

#[test]
fn a_compressed_capture_that_breaks_off_is_not_whole() {
    let packed = gzip(whole().as_bytes());
    let folder = folder_with(&[("a", &packed[..packed.len() - 20])]);
    let (status, printed, said) = run(folder.path(), &["check", "a"]);
    assert_eq!((status, &*said), (Some(3), ""));
    assert!(
        printed.contains(": the compressed stream breaks off\n"),
        "{printed}"
    );
    let (status, _, said) = run(folder.path(), &["sessions", "a"]);
    assert_eq!(status, Some(3));
    assert!(
        said.contains(": the compressed stream breaks off\n"),
        "{said}"
    );
}

#[test]
fn a_flood_of_findings_is_counted() {
    let whole = whole();
    let damaged = whole.replacen('\n', &format!("\n{}", "junk\n".repeat(500)), 1);
    let folder = folder_with(&[("a", damaged.as_bytes())]);
    let (status, printed, _) = run(folder.path(), &["check", "a"]);
    assert_eq!(status, Some(3));
    assert_eq!(printed.lines().count(), 102, "{printed}");
    assert!(
        printed.ends_with("a: and 400 more\na: not whole: 500 findings\n"),
        "{printed}"
    );
}

#[test]
fn what_is_no_capture_is_told_apart_and_the_rest_is_looked_at() {
    let newer = whole().replace(r#""v":1"#, r#""v":2"#);
    let folder = folder_with(&[
        ("newer", newer.as_bytes()),
        ("notes", b"to do:\n- nothing\n"),
        ("torn", &whole().as_bytes()[..400]),
        ("whole", whole().as_bytes()),
    ]);
    let args = ["check", "newer", "notes", "none", "torn", "whole"];
    let (status, printed, said) = run(folder.path(), &args);
    assert_eq!(status, Some(1));
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(
        said,
        [
            "wiretape: newer: line 1: format version 2 was written by a newer wiretape (this one reads up to 1)",
            "wiretape: notes: line 1: not a capture record: expected ident at line 1 column 2",
            "wiretape: cannot open none: no such file or directory",
        ]
    );
    let last = printed.lines().last();
    assert_eq!(
        last,
        Some("5 files: 1 whole, 1 not whole, 3 cannot be read"),
        "{printed}"
    );
    let (status, _, _) = run(folder.path(), &["check", "torn", "whole"]);
    assert_eq!(status, Some(3));
    let (status, listed, said) = run(folder.path(), &["sessions", "notes", "whole", "--json"]);
    assert_eq!((status, listed.lines().count()), (Some(1), 4), "{said}");
    let (status, _, said) = run(folder.path(), &["check", "-", "-"]);
    assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
}

#[test]
fn what_is_good_is_salvaged_line_by_line() {
    let whole = whole();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let (first, rest) = (lines[..5].concat(), lines[5..].concat());
    let damaged = format!("{first}{{\"type\":\"da\u{0}\n{rest}{{\"type\":\"open\",");
    let folder = folder_with(&[("a", &gzip(damaged.as_bytes()))]);
    let (status, printed, said) = run(folder.path(), &["check", "a", "--salvage", "b"]);
    assert_eq!(
        (status, &*said),
        (Some(3), "wiretape: b: salvaged 14 lines\n"),
        "{printed}"
    );
    assert_eq!(
        fs::read_to_string(folder.path().join("b")).expect("it is there"),
        whole
    );
    check_whole(folder.path(), &["b"]);
    // Nothing is written over, an input least of all.
    for taken in ["a", "b"] {
        let (status, _, said) = run(folder.path(), &["check", "a", "--salvage", taken]);
        assert_eq!(status, Some(1));
        assert_eq!(
            said,
            format!("wiretape: cannot create {taken}: file exists (name a new file)\n")
        );
    }
    let mut command = wiretape();
    command.args(["check", "-", "--salvage", "-"]);
    let (status, printed, said) = finish(command, damaged.as_bytes());
    assert_eq!((status, printed), (Some(3), whole));
    assert!(
        said.ends_with("standard input: not whole: 2 findings\n"),
        "{said}"
    );
    // What cannot be written is no salvage.
    let (status, _, said) = run(folder.path(), &["check", "a", "--salvage", "/dev/full"]);
    assert_eq!(status, Some(1), "{said}");
}

// --- the table -----------------------------------------------------------------------------------

#[test]
fn sessions_are_a_table_and_what_is_missing_shows() {
    let whole = whole();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    // The last session has no close, and the second no bytes.
    let capture = [&lines[..6], &lines[7..12]].concat().concat();
    let folder = folder_with(&[("a", capture.as_bytes())]);
    let (status, table, said) = run(folder.path(), &["sessions", "a"]);
    assert_eq!((status, &*said), (Some(3), ""));
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    let at = "2026-11-22T12:00:00.000000Z";
    let expected: [&[&str]; 7] = [
        &[
            "CONN", "START", "DURATION", "IN", "OUT", "RECORDS", "END", "STATE", "PEER",
        ],
        &["run 00000000000000a1"],
        &[
            "1",
            at,
            "0:00:00.000",
            "8 B",
            "0 B",
            "4",
            "eof",
            "whole",
            "192.0.2.1:40000",
        ],
        &[
            "2",
            at,
            "0:00:00.000",
            "0 B",
            "0 B",
            "3",
            "eof",
            "8 B missing",
            "192.0.2.2:40000",
        ],
        &[
            "3",
            at,
            "0:00:00.000",
            "8 B",
            "0 B",
            "3",
            "-",
            "no close",
            "192.0.2.3:40000",
        ],
        &["3 sessions of 1 run, 2 not whole; 16 B in, 0 B out, 10 records"],
        &["2026-11-22T12:00:00.000000Z to 2026-11-22T12:00:00.000000Z"],
    ];
    assert_eq!(rows, expected, "{table}");
    let (_, selected, _) = run(folder.path(), &["sessions", "a", "--conn", "3", "--json"]);
    assert_eq!(selected.lines().count(), 2, "{selected}");
    let (status, _, said) = run(folder.path(), &["sessions", "a", "--conn", "x"]);
    assert_eq!(status, Some(2), "{said}");
}

#[test]
fn jq_reads_what_sessions_prints() {
    let Some(jq) = program("jq") else { return };
    // A peer as no kernel has one.
    let hostile = whole().replace("192.0.2.2:40000", r#"unix:\u001b[2J\"\u009b"#);
    let folder = folder_with(&[("a", hostile.as_bytes())]);
    let (_, listed, _) = run(folder.path(), &["sessions", "a", "--json"]);
    let mut command = Command::new(jq);
    command.args(["-c", "."]);
    let (status, same, said) = finish(command, listed.as_bytes());
    assert_eq!((status, same), (Some(0), listed), "{said}");
    let (_, table, _) = run(folder.path(), &["sessions", "a"]);
    assert!(table.contains(r"unix:\x1b[2J"), "{table}");
    assert!(!table.contains(['\u{1b}', '\u{9b}']), "{table}");
}

#[test]
fn who_reads_no_more_ends_it_quietly() {
    let mut script = Script::new();
    for conn in 1..=20_000 {
        script = script.session(conn, "x");
    }
    let folder = folder_with(&[("a", script.text.as_bytes())]);
    for args in [["sessions", "a"], ["check", "a"]] {
        let mut command = wiretape();
        command.args(args).current_dir(folder.path());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert!(output.stderr.is_empty(), "{args:?}");
        // A check that nobody reads is one all the same.
        let expected = if args[0] == "check" { 3 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{args:?}");
    }
}
