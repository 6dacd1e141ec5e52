//! Rotation: closed segments hold what was sent, byte for byte, are kept, compressed and shown to a
//! command as asked; and nothing that only looks like one is touched.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wiretape::record::time::WallTime;
use wiretape::record::{Event, Record};

use crate::tape::{
    Tape, end, eventually, fast_folder, joined, listen_command_in, program, records, records_in,
    segments, sessions,
};

/// Records of at most 1 KiB, so that several fit into the smallest segment.
const SMALL_RECORDS: [&str; 6] = ["--rotate", "4KiB", "--frame", "line", "--frame-max", "1KiB"];

fn with_small_records<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&SMALL_RECORDS, args].concat()
}

fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Sends the bytes in pieces of random length, and waits for the other end to be done with them.
fn send_in_pieces(mut stream: TcpStream, seed: u64, bytes: &[u8]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.usize(1..=20_000.min(rest.len())));
        stream.write_all(piece).expect("it reads");
        rest = behind;
    }
    end(stream);
}

/// The segments in order, the live file last.
fn all_files(folder: &Path, stem: &str, live: &str) -> Vec<PathBuf> {
    let mut files = segments(folder, stem);
    files.push(folder.join(live));
    files
}

fn joined_files(files: &[PathBuf]) -> Vec<Record<'static>> {
    joined(files.iter().map(|file| records(file)).collect())
}

fn concatenated(files: &[PathBuf]) -> Vec<u8> {
    let read = |file| fs::read(file).expect("it exists");
    files.iter().flat_map(read).collect()
}

fn payloads(records: &[Record<'_>]) -> Vec<u8> {
    let payload = |record: &Record<'_>| match &record.event {
        Event::Data { payload, .. } => payload.to_vec(),
        _ => Vec::new(),
    };
    records.iter().flat_map(payload).collect()
}

/// A path as messages and commands have it.
fn name(path: &Path) -> String {
    let name = path.file_name().expect("it has a name");
    name.to_string_lossy().into_owned()
}

// --- segments joined are what was sent -----------------------------------------------------------

#[test]
fn ten_thousand_rotations_neither_lose_nor_repeat_a_byte() {
    let folder = fast_folder();
    let args = with_small_records(&["-o", "a.ndjson", "-o", "a.bin"]);
    let tape = Tape::listen_in(folder.path(), &args);
    let senders: Vec<_> = (0..4)
        .map(|seed| {
            let stream = tape.connect();
            thread::spawn(move || {
                let name = stream.local_addr().expect("it is connected").to_string();
                let bytes = random_bytes(seed, 3_000_000);
                send_in_pieces(stream, seed, &bytes);
                (name, bytes)
            })
        })
        .collect();
    let sent: BTreeMap<_, _> = senders
        .into_iter()
        .map(|sender| sender.join().expect("all was sent"))
        .collect();
    assert_eq!(tape.stop().status, Some(0));

    let closed = segments(folder.path(), "a");
    assert!(closed.len() >= 10_000, "only {} rotations", closed.len());
    for file in &closed {
        let len = fs::metadata(file).expect("it exists").len();
        assert!(len <= 4096, "{} has {len} bytes", file.display());
    }
    let of = |extension: &str, live| {
        let is_it = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        let mut files: Vec<_> = closed.iter().filter(|path| is_it(path)).cloned().collect();
        files.push(folder.path().join(live));
        files
    };
    let records = joined_files(&of("ndjson", "a.ndjson"));
    let sessions = sessions(&records);
    assert_eq!(sessions.len(), sent.len());
    for (name, bytes) in &sent {
        assert!(sessions[name].bytes == *bytes, "{name}");
    }
    // The raw file has the same bytes in the same order.
    assert!(concatenated(&of("bin", "a.bin")) == payloads(&records));
}

#[test]
fn a_record_that_is_larger_than_a_segment_has_one_for_itself() {
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "-o", "b.bin", "--rotate", "4KiB"];
    let tape = Tape::listen_in(folder.path(), &args);
    let sent = random_bytes(1, 2_000_000);
    send_in_pieces(tape.connect(), 1, &sent);
    assert_eq!(tape.stop().status, Some(0));
    let files = all_files(folder.path(), "a", "a.ndjson");
    for file in &files {
        let len = fs::metadata(file).expect("it exists").len();
        let own = |record: &Record<'_>| {
            matches!(record.event, Event::End { .. })
                || matches!(&record.event, Event::Start(start) if start.segment > 1)
        };
        let held = records(file).iter().filter(|record| !own(record)).count();
        assert!(len <= 4096 || held == 1, "{held} records in {len} bytes");
    }
    assert!(payloads(&joined_files(&files)) == sent);
    let raw = all_files(folder.path(), "b", "b.bin");
    assert!(raw.len() > 30);
    assert!(concatenated(&raw) == sent);
}

#[test]
fn a_segment_is_closed_when_its_time_is_over_though_nothing_comes() {
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "--rotate-every", "50ms"];
    let mut tape = Tape::listen_in(folder.path(), &args);
    let mut stream = tape.connect();
    let live = folder.path().join("a.ndjson");
    let mut last = 0;
    for byte in [b"1", b"2", b"3"] {
        stream.write_all(byte).expect("it reads");
        let text = format!(r#""text":"{}""#, String::from_utf8_lossy(byte));
        let closed = eventually("the segment is closed", || {
            let closed = segments(folder.path(), "a");
            let holds_it = |path| fs::read_to_string(path).is_ok_and(|held| held.contains(&text));
            closed.iter().any(holds_it).then_some(closed.len())
        });
        assert!(closed > last);
        // What is open now holds no record, and is not closed.
        tape.stand_still(Duration::from_millis(150));
        last = segments(folder.path(), "a").len();
        assert_eq!(last, closed);
        let held = records(&live);
        assert!(
            matches!(held[..], [Record { ref event, .. }] if matches!(event, Event::Start(_))),
            "{held:?}"
        );
    }
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
    let records = joined_files(&all_files(folder.path(), "a", "a.ndjson"));
    sessions(&records);
    assert_eq!(payloads(&records), b"123");
}

#[test]
fn logrotate_loses_nothing_under_load() {
    let Some(logrotate) = program("logrotate") else {
        return;
    };
    let folder = fast_folder();
    let mut tape = Tape::listen_in(folder.path(), &["-o", "a.ndjson"]);
    let config = folder.path().join("logrotate.conf");
    let live = folder.path().join("a.ndjson");
    let rule = format!(
        "{} {{\n rotate 100\n create 0600\n missingok\n postrotate\n  kill -HUP {}\n endscript\n}}\n",
        live.display(),
        tape.pid().as_raw_nonzero()
    );
    fs::write(&config, rule).expect("the folder is writable");
    fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).expect("it is ours");
    let is_over = AtomicBool::new(false);
    let rounds = 8;
    let sent: BTreeMap<_, _> = thread::scope(|scope| {
        let send = |seed| {
            let mut stream = tape.connect();
            let is_over = &is_over;
            scope.spawn(move || {
                let name = stream.local_addr().expect("it is connected").to_string();
                let mut random = fastrand::Rng::with_seed(seed);
                let mut sent = Vec::new();
                while !is_over.load(SeqCst) {
                    let piece = random_bytes(random.u64(..), random.usize(1..20_000));
                    stream.write_all(&piece).expect("it reads");
                    sent.extend_from_slice(&piece);
                    // Not as fast as it can, or there would be gigabytes.
                    thread::park_timeout(Duration::from_micros(200));
                }
                end(stream);
                (name, sent)
            })
        };
        let senders: Vec<_> = (0..3).map(send).collect();
        for round in 0..rounds {
            eventually("the load goes on", || {
                let len = fs::metadata(&live).ok()?.len();
                (len > 100_000).then_some(())
            });
            let output = Command::new(&logrotate)
                .arg("--force")
                .arg("--state")
                .arg(folder.path().join("state"))
                .arg(&config)
                .output()
                .expect("logrotate starts");
            assert!(output.status.success(), "{output:?}");
            tape.wait_for_line(&format!("a.ndjson: opened anew, segment {}", round + 2));
        }
        is_over.store(true, SeqCst);
        let join = |sender: thread::ScopedJoinHandle<'_, _>| sender.join().expect("all was sent");
        senders.into_iter().map(join).collect()
    });
    assert_eq!(tape.stop().status, Some(0));
    let mut files: Vec<_> = (1..=rounds)
        .rev()
        .map(|nth| folder.path().join(format!("a.ndjson.{nth}")))
        .collect();
    files.push(live);
    let sessions = sessions(&joined_files(&files));
    assert_eq!(sessions.len(), sent.len());
    for (name, bytes) in &sent {
        assert!(sessions[name].bytes == *bytes, "{name}");
    }
}

#[test]
fn what_an_earlier_run_left_open_is_put_behind_its_segments() {
    // Several segments of one second, a new run in the same, and its first rotation.
    let folder = fast_folder();
    let live = folder.path().join("a.bin");
    fs::write(&live, b"4").expect("the folder is writable");
    let metadata = fs::metadata(&live).expect("it exists");
    let began = metadata.created().or_else(|_| metadata.modified());
    let began = WallTime::from(began.expect("it has a time")).to_string();
    let stamp = began[..19].replace(['-', ':'], "");
    for number in [2, 3] {
        let name = format!("a.{stamp}Z.{number:06}.bin");
        fs::write(folder.path().join(name), number.to_string()).expect("it is new");
    }
    let tape = Tape::listen_in(folder.path(), &["-o", "a.bin", "--rotate", "4KiB"]);
    tape.send(&[b'5'; 4096]);
    assert_eq!(tape.stop().status, Some(0));
    let sent = concatenated(&all_files(folder.path(), "a", "a.bin"));
    assert_eq!(
        String::from_utf8_lossy(&sent[..5]),
        "23455",
        "{:?}",
        segments(folder.path(), "a")
    );
}

// --- retention -----------------------------------------------------------------------------------

/// Names that no segment of `a.ndjson` has.
const OTHERS: [&str; 9] = [
    "a.ndjson.bak",
    "a.20200101T000000Z.1.ndjson",
    "a.20200101T000000Z.000001.ndjson.bak",
    "a.20200101T000000Z.000001.log",
    "a.20200101T000000Z.000001.ndjson.zst.old",
    "A.20200101T000000Z.000001.ndjson",
    "ab.20200101T000000Z.000001.ndjson",
    "a.b.20200101T000000Z.000001.ndjson",
    "b.20200101T000000Z.000001.ndjson",
];

/// A folder with things that must stay, and segments of an earlier run.
fn folder_with_others(earlier: u64) -> tempfile::TempDir {
    let folder = fast_folder();
    for other in OTHERS {
        fs::write(folder.path().join(other), "other").expect("the folder is writable");
    }
    let subfolder = folder.path().join("a.20200101T000000Z.000008.ndjson");
    fs::create_dir(&subfolder).expect("it is new");
    fs::write(subfolder.join("a.20200101T000000Z.000001.ndjson"), "other").expect("it is new");
    let link = folder.path().join("a.20200101T000000Z.000009.ndjson");
    symlink("b.20200101T000000Z.000001.ndjson", link).expect("it is new");
    for number in 1..=earlier {
        let name = format!("a.20210101T000000Z.{number:06}.ndjson");
        fs::write(folder.path().join(name), vec![b'\n'; 1000]).expect("it is new");
    }
    folder
}

fn check_others(folder: &Path) {
    for other in OTHERS {
        let held = fs::read_to_string(folder.join(other));
        assert_eq!(held.ok().as_deref(), Some("other"), "{other}");
    }
    let subfolder = folder.join("a.20200101T000000Z.000008.ndjson");
    assert!(subfolder.join("a.20200101T000000Z.000001.ndjson").exists());
    assert!(folder.join("a.20200101T000000Z.000009.ndjson").is_symlink());
}

/// The segments of `a.ndjson` and of nobody else.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut kept = segments(folder, "a");
    kept.retain(|path| !name(path).starts_with("a.2020"));
    kept
}

#[test]
fn the_newest_segments_are_kept_and_nothing_else_is_touched() {
    let folder = folder_with_others(5);
    let args = with_small_records(&["-o", "a.ndjson", "--keep", "3"]);
    let tape = Tape::listen_in(folder.path(), &args);
    let earlier = eventually("those of an earlier run count", || {
        let kept = kept(folder.path());
        (kept.len() == 3).then_some(kept)
    });
    assert_eq!(name(&earlier[0]), "a.20210101T000000Z.000003.ndjson");
    let sent = random_bytes(1, 50_000);
    send_in_pieces(tape.connect(), 1, &sent);
    assert_eq!(tape.stop().status, Some(0));
    check_others(folder.path());
    let kept = kept(folder.path());
    assert_eq!(kept.len(), 3);
    let mut left: Vec<_> = kept.iter().map(|path| records(path)).collect();
    left.push(records(&folder.path().join("a.ndjson")));
    // They are the last, without a hole, up to the end of what was sent.
    let first = left[0][0].seq;
    let number = |held: &Vec<Record<'_>>| match &held[0].event {
        Event::Start(start) => start.segment,
        other => panic!("{other:?}"),
    };
    let numbers: Vec<_> = left.iter().map(number).collect();
    assert!(numbers[0] > 5 && numbers.is_sorted_by(|one, next| one + 1 == *next));
    let is_counted =
        |record: &Record<'_>| !matches!(record.event, Event::Start(_) | Event::End { .. });
    let counted: Vec<_> = left.into_iter().flatten().filter(is_counted).collect();
    for (nth, record) in counted.iter().enumerate() {
        assert_eq!(record.seq, first + nth as u64);
    }
    assert!(sent.ends_with(&payloads(&counted)));
}

#[test]
fn the_newest_bytes_are_kept() {
    let folder = folder_with_others(30);
    let args = with_small_records(&["-o", "a.ndjson", "--keep-bytes", "20000"]);
    let tape = Tape::listen_in(folder.path(), &args);
    eventually("those of an earlier run count", || {
        (kept(folder.path()).len() == 20).then_some(())
    });
    send_in_pieces(tape.connect(), 1, &random_bytes(1, 50_000));
    assert_eq!(tape.stop().status, Some(0));
    check_others(folder.path());
    let len = |path: &PathBuf| fs::metadata(path).expect("it exists").len();
    let bytes: u64 = kept(folder.path()).iter().map(len).sum();
    // One more would have been too much.
    assert!((20_000 - 4096..=20_000).contains(&bytes), "{bytes}");
    assert!(folder.path().join("a.ndjson").exists());
}

// --- compression ---------------------------------------------------------------------------------

/// What `PROGRAM -dc FILE` prints.
fn unpacked(program: &Path, file: &Path) -> Vec<u8> {
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn check_compressed(method: &str, unpacker: &str, extension: &str) {
    let Some(unpacker) = program(unpacker) else {
        return;
    };
    let folder = fast_folder();
    let args = with_small_records(&["-o", "a.ndjson", "--compress", method]);
    let tape = Tape::listen_in(folder.path(), &args);
    let stream = tape.connect();
    let peer = stream.local_addr().expect("it is connected").to_string();
    let sent = random_bytes(1, 60_000);
    send_in_pieces(stream, 1, &sent);
    let live = folder.path().join("a.ndjson");
    eventually("all closed files are compressed", || {
        // Then every rotation is done.
        let is_written = fs::read_to_string(&live)
            .ok()?
            .contains(r#""type":"close""#);
        let closed = segments(folder.path(), "a");
        let is_packed = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        (is_written && closed.iter().all(is_packed)).then_some(())
    });
    assert_eq!(tape.stop().status, Some(0));
    let closed = segments(folder.path(), "a");
    assert!(closed.len() > 10);
    let mut parts = Vec::new();
    for path in &closed {
        assert!(name(path).ends_with(&format!(".ndjson.{extension}")));
        let mode = fs::metadata(path).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        parts.push(records_in(&name(path), &unpacked(&unpacker, path)));
    }
    parts.push(records(&live));
    assert!(sessions(&joined(parts))[&peer].bytes == sent);
    // Nothing else is left.
    let left = fs::read_dir(folder.path()).expect("it exists").count();
    assert_eq!(left, closed.len() + 1);
}

#[test]
fn closed_segments_are_compressed_with_zstd() {
    check_compressed("zstd", "zstd", "zst");
}

#[test]
fn closed_segments_are_compressed_with_gzip() {
    check_compressed("gzip", "gzip", "gz");
}

/// A command that is being started has a copy of every lock for a moment.
#[test]
fn commands_do_not_keep_segments_from_being_compressed() {
    const PIECES: usize = 150;
    let folder = fast_folder();
    let args = [
        "--rotate",
        "4KiB",
        "--compress",
        "zstd",
        "--on-rotate",
        "true",
    ];
    let args = [
        &args[..],
        &["-o", "a.ndjson", "-o", "b-{conn}.log", "--raw"],
    ]
    .concat();
    let mut command = listen_command_in(folder.path(), &args);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut seen = tape.take_stdout();
    let mut stream = tape.connect();
    for _ in 0..PIECES {
        // Each is a segment: while a command is told one, the next is closed.
        stream.write_all(&[b'x'; 3_000]).expect("it reads");
        seen.read_exact(&mut [0; 3_000]).expect("it is written");
    }
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(!ended.has_said("compress "), "{:?}", ended.said);
}

// --- the command for closed segments -------------------------------------------------------------

/// Every path is told once, in order, whatever is in the output's name.
fn check_told(live: &str, args: &[&str]) {
    let folder = fast_folder();
    let got = tempfile::NamedTempFile::new().expect("a temporary file");
    let hook = format!("printf '%s\\0' >>{}", got.path().display());
    let output = format!("json:{live}");
    let args = with_small_records(&[&["-o", &output, "--on-rotate", &hook], args].concat());
    let tape = Tape::listen_in(folder.path(), &args);
    send_in_pieces(tape.connect(), 1, &random_bytes(1, 30_000));
    let stem = Path::new(live).file_stem().expect("it has one");
    let stem = stem.to_string_lossy();
    let told = || {
        let told = fs::read_to_string(got.path()).expect("it is text");
        let mut told: Vec<_> = told.split('\0').map(str::to_owned).collect();
        assert_eq!(told.pop().as_deref(), Some(""), "it ends with a NUL");
        told
    };
    let expected = || -> Vec<_> {
        // Nothing that looks like an option.
        let before = if live.starts_with('-') { "./" } else { "" };
        let closed = segments(folder.path(), &stem);
        closed
            .iter()
            .map(|path| format!("{before}{}", name(path)))
            .collect()
    };
    eventually("every segment is told", || {
        let is_written = fs::read_to_string(folder.path().join(live)).ok()?;
        let is_written = is_written.contains(r#""type":"close""#);
        let count = fs::read(got.path())
            .ok()?
            .iter()
            .filter(|byte| **byte == 0)
            .count();
        (is_written && count == expected().len()).then_some(())
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(!ended.has_said("--on-rotate"), "{:?}", ended.said);
    assert!(told().len() > 5);
    assert_eq!(told(), expected());
    // Nothing but segments: no command in the name was run.
    let left = fs::read_dir(folder.path()).expect("it exists").count();
    assert_eq!(left, told().len() + 1);
}

#[test]
fn a_command_is_told_every_segment_once() {
    check_told("a.ndjson", &[]);
    check_told("a.ndjson", &["--compress", "zstd"]);
}

#[test]
fn a_name_is_never_read_by_the_shell() {
    check_told("it's \"a\" $(touch x)`touch y`; touch z\n*\\.ndjson", &[]);
    check_told("-n --help.ndjson", &["--compress", "gzip"]);
}

#[test]
fn a_command_that_fails_is_named_and_changes_nothing() {
    let folder = fast_folder();
    let args = with_small_records(&["-o", "a.bin", "--on-rotate", "sh -c 'exit 3'"]);
    let mut tape = Tape::listen_in(folder.path(), &args);
    let sent = random_bytes(1, 20_000);
    send_in_pieces(tape.connect(), 1, &sent);
    let line = tape.wait_for_line("--on-rotate ");
    let closed = segments(folder.path(), "a");
    let expected = format!("wiretape: --on-rotate {}: exit status: 3", name(&closed[0]));
    assert_eq!(line, expected);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let files = all_files(folder.path(), "a", "a.bin");
    assert!(concatenated(&files) == sent);
    for path in &files[..files.len() - 1] {
        let said = format!("--on-rotate {}: exit status: 3", name(path));
        assert!(ended.has_said(&said), "{:?}", ended.said);
    }
}

/// A process that this test has caused, gone with it however it ends.
struct KilledAtLast(Pid);

impl Drop for KilledAtLast {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[test]
fn a_command_that_hangs_holds_up_nothing() {
    let folder = fast_folder();
    let elsewhere = fast_folder();
    let pid_file = elsewhere.path().join("pid");
    // Standard error is closed, or this test would wait for its end.
    let hook = format!(
        "exec >/dev/null 2>&1; sh -c 'echo $$ >{}; exec sleep 1000'",
        pid_file.display()
    );
    let args = ["-o", "a.bin", "--on-rotate", &hook, "--drain", "300ms"];
    let tape = Tape::listen_in(folder.path(), &with_small_records(&args));
    let mut sent = random_bytes(1, 10_000);
    send_in_pieces(tape.connect(), 1, &sent);
    let pid = eventually("the command runs", || {
        let text = fs::read_to_string(&pid_file).ok()?;
        Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
    });
    let _killed = KilledAtLast(pid);
    let before = segments(folder.path(), "a").len();
    let more = random_bytes(2, 100_000);
    sent.extend_from_slice(&more);
    send_in_pieces(tape.connect(), 2, &more);
    eventually("all is written", || {
        let files = all_files(folder.path(), "a", "a.bin");
        // Between two steps of a rotation there is no live file.
        let held: std::io::Result<Vec<_>> = files.iter().map(fs::read).collect();
        (held.ok()?.concat() == sent).then_some(())
    });
    let closed = segments(folder.path(), "a").len();
    assert!(closed > before + 10);
    // It was given no file of the capture to hold on to.
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("it runs");
    for descriptor in descriptors.flatten() {
        let leads_to = fs::read_link(descriptor.path()).expect("it is open");
        assert!(!leads_to.starts_with(folder.path()), "{leads_to:?}");
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let said = format!("all is written, but {closed} things were not done for closed files");
    assert!(ended.has_said(&said), "{:?}", ended.said);
    assert!(concatenated(&all_files(folder.path(), "a", "a.bin")) == sent);
    // Nor is the next run held up.
    let next = Tape::spawn(listen_command_in(folder.path(), &["-o", "a.bin"]));
    assert_eq!(next.stop().status, Some(0));
    rustix::process::test_kill_process(pid).expect("the command still runs");
}
