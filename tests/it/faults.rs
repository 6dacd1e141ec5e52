//! Disks that are full or fail, and outputs that stand still.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, geteuid, prlimit};
use wiretape::codec::ndjson::Reader;
use wiretape::record::Event;

use crate::kernel::{peak_memory, ticks};
use crate::shutdown::send_until_reset;
use crate::stalls::{check_gaps, drained, stop_within};
use crate::tape::{
    Tape, end, eventually, fast_folder, joined, listen_command_in, program, records, segments,
    sessions, skip, strace, under,
};

const MIB: usize = 1 << 20;

pub fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

/// A file system of a size in memory, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        if !geteuid().is_root() {
            skip("only root can mount a small disk");
            return None;
        }
        let path = folder.join("disk");
        fs::create_dir(&path).expect("it is new");
        let mounted = Self::call(
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"],
            &path,
        );
        if !mounted {
            skip("nothing can be mounted here");
            return None;
        }
        Some(Self(path))
    }

    fn grow(&self, size: &str) {
        assert!(Self::call(
            &["-o", &format!("remount,size={size}")],
            &self.0
        ));
    }

    fn call(args: &[&str], path: &Path) -> bool {
        let mut mount = Command::new("mount");
        let status = mount.args(args).arg(path).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Promise 2: a full disk pauses, and loses nothing.
fn check_full_disk(name: &str, args: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(folder.path(), "4m") else {
        return;
    };
    let mut all = vec!["-o", name, "--buffer", "4MiB"];
    all.extend(args);
    let mut tape = Tape::listen_in(&disk.0, &all);
    let sent = random_bytes(16 * MIB);
    let mut stream = tape.connect();
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        stream.write_all(&copy).expect("it reads, in the end");
        end(stream);
    });
    let line = tape.wait_for_line("no space left on device");
    assert!(line.contains("its bytes are kept, and writing is tried again"));
    // It says so every five seconds, and does next to nothing meanwhile.
    let before = ticks(tape.pid());
    tape.stand_still(Duration::from_secs(2));
    assert!(ticks(tape.pid()) - before <= 10, "it spins");
    assert!(!sender.is_finished(), "the sender waits");
    let memory = peak_memory(tape.pid());
    assert!(memory <= 4 * MIB + 32 * MIB, "{memory} bytes");
    disk.grow("64m");
    sender.join().expect("everything was taken");
    tape.wait_for_line("it can be written again");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    check_joined(&disk.0, name, &sent);
}

/// The segments of an output, joined, are what its only connection sent.
fn check_joined(folder: &Path, name: &str, sent: &[u8]) {
    let mut files = segments(folder, "a");
    files.push(folder.join(name));
    if name.ends_with(".ndjson") {
        let all = joined(files.iter().map(|file| records(file)).collect());
        let sessions = sessions(&all);
        assert!(sessions.values().all(|session| session.bytes == sent) && sessions.len() == 1);
    } else {
        let all = files
            .iter()
            .map(|file| fs::read(file).expect("it is there"));
        assert!(all.collect::<Vec<_>>().concat() == sent);
    }
}

#[test]
fn a_full_disk_pauses_and_loses_nothing() {
    check_full_disk("a.bin", &[]);
    check_full_disk("a.ndjson", &["--rotate", "1MiB"]);
}

#[test]
fn a_disk_that_stays_full_ends_with_the_drain_time() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(folder.path(), "1m") else {
        return;
    };
    let args = ["-o", "a.ndjson", "--buffer", "4MiB", "--drain", "300ms"];
    let mut tape = Tape::listen_in(&disk.0, &args);
    let sender = send_until_reset(tape.connect(), 1);
    tape.wait_for_line("no space left on device");
    let ended = stop_within(tape, Duration::from_millis(300));
    assert_eq!(ended.status, Some(3));
    let expected = "not all written: a.ndjson";
    assert!(ended.has_said(expected), "{:?}", ended.said);
    sender.join().expect("it ends with the connection");
}

#[test]
fn a_full_disk_lets_go_of_a_file_that_was_moved_away() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(folder.path(), "1m") else {
        return;
    };
    let mut tape = Tape::listen_in(&disk.0, &["-o", "a.ndjson", "--frame", "line"]);
    let sent = b"0123456789 and a line of a device that talks a lot\n".repeat(20_000);
    let copy = sent.clone();
    let mut stream = tape.connect();
    let sender = thread::spawn(move || {
        stream.write_all(&copy).expect("it reads, in the end");
        end(stream);
    });
    let mut files = Vec::new();
    for nth in 0.. {
        let is_done = eventually("the disk is full, or all is written", || {
            let content = fs::read(disk.0.join("a.ndjson")).ok()?;
            let is_done = memchr::memmem::find(&content, b"\"type\":\"close\"").is_some();
            (is_done || content.len() > 900_000).then_some(is_done)
        });
        if is_done {
            break;
        }
        tape.wait_for_line("no space left on device");
        // Moved to another disk and deleted here: nothing is free until it is let go of.
        let moved = folder.path().join(format!("old.{nth}"));
        fs::copy(disk.0.join("a.ndjson"), &moved).expect("there is room");
        fs::remove_file(disk.0.join("a.ndjson")).expect("it is there");
        tape.signal(Signal::HUP);
        tape.wait_for_line("opened anew");
        files.push(moved);
    }
    assert!(files.len() >= 2);
    sender.join().expect("everything was taken");
    // What was written between the copy and the deletion could be lost, for all it knows.
    assert_eq!(tape.stop().status, Some(3));
    files.push(disk.0.join("a.ndjson"));
    let (mut bytes, mut seq) = (Vec::new(), 0);
    for file in files {
        let content = fs::read(&file).expect("it is there");
        let mut reader = Reader::new(file.display().to_string(), &content[..]);
        while let Some(record) = reader.next_record().expect("a good capture") {
            if let Event::Data { payload, .. } = &record.event {
                assert!(record.seq > seq, "a record is there twice");
                seq = record.seq;
                bytes.extend_from_slice(payload);
            }
        }
    }
    assert!(bytes == sent);
}

/// A limit on the size of files is a disk that is full until the limit is raised.
#[test]
fn a_file_size_limit_that_is_raised_loses_nothing() {
    let Some(limit) = program("prlimit") else {
        return;
    };
    let folder = fast_folder();
    let mut outer = Command::new(limit);
    outer.arg("--fsize=10000:unlimited");
    let mut tape = Tape::spawn(under(
        outer,
        &listen_command_in(folder.path(), &["-o", "a.bin"]),
    ));
    let sent = random_bytes(300_000);
    let mut stream = tape.connect();
    stream.write_all(&sent).expect("it reads");
    tape.wait_for_line("write a.bin: file too large");
    let raised = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(Some(tape.pid()), Resource::Fsize, raised).expect("it is a child");
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(fs::read(folder.path().join("a.bin")).expect("it is there") == sent);
}

/// Promise 3: sends lines one by one while every tenth write to the live file fails, beginning with
/// the `first`, and gives how many of them did.
fn check_failing_writes(first: usize, path: &str) -> usize {
    const LINES: usize = 150;
    let folder = fast_folder();
    let live = folder.path().join(path);
    let inject = format!("inject=write:error=EIO:when={first}+10");
    let live_path = live.display().to_string();
    let options = [
        "-o",
        "/dev/null",
        "-P",
        &live_path,
        "-e",
        "trace=write",
        "-e",
        &inject,
    ];
    let strace = strace(&options).expect("it was possible before");
    let args = [
        "-o",
        path,
        "-o",
        "beside.bin",
        "--frame",
        "line",
        "--drain",
        "20s",
    ];
    let tape = Tape::spawn(under(strace, &listen_command_in(folder.path(), &args)));
    let mut stream = tape.connect();
    let mut sent = Vec::new();
    for nth in 0..LINES {
        let line = format!("line {nth}\n");
        stream.write_all(line.as_bytes()).expect("it reads");
        sent.extend_from_slice(line.as_bytes());
        // Each is a write of its own.
        eventually("the line is written", || {
            let beside = fs::metadata(folder.path().join("beside.bin")).ok()?;
            (beside.len() == sent.len() as u64).then_some(())
        });
    }
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3), "{:?}", ended.said);
    let failures = ended.said.iter().filter(|line| {
        line.starts_with(&format!("wiretape: write {path}: ")) && !line.contains("again")
    });
    let failures = failures.count();
    assert!(fs::read(folder.path().join("beside.bin")).expect("it is there") == sent);
    let closed = segments(folder.path(), "a").len();
    assert_eq!(closed, failures, "{:?}", ended.said);
    check_joined(folder.path(), path, &sent);
    failures
}

#[test]
fn a_write_that_fails_is_said_and_its_bytes_are_in_the_next_file() {
    if strace(&[]).is_none() {
        return;
    }
    let json: usize = (2..=11)
        .map(|first| check_failing_writes(first, "a.ndjson"))
        .sum();
    assert!(json >= 100, "{json}");
    let raw: usize = (2..=3)
        .map(|first| check_failing_writes(first, "a.bin"))
        .sum();
    assert!(raw >= 20, "{raw}");
}

/// Large raw chunks are written from where they lie.
#[test]
fn a_write_of_a_large_raw_chunk_that_fails_is_said_too() {
    for first in [1, 3] {
        let folder = fast_folder();
        let live = folder.path().join("a.bin");
        let inject = format!("inject=write:error=EIO:when={first}");
        let path = live.display().to_string();
        let options = [
            "-o",
            "/dev/null",
            "-P",
            &path,
            "-e",
            "trace=write",
            "-e",
            &inject,
        ];
        let Some(strace) = strace(&options) else {
            return;
        };
        let args = ["-o", "a.bin"];
        let tape = Tape::spawn(under(strace, &listen_command_in(folder.path(), &args)));
        // No write is larger than a MiB.
        let sent = random_bytes(4 * MIB);
        tape.send(&sent);
        let ended = tape.stop();
        assert_eq!(ended.status, Some(3), "{:?}", ended.said);
        assert!(ended.has_said("write a.bin: "), "{:?}", ended.said);
        check_joined(folder.path(), "a.bin", &sent);
    }
}

#[test]
fn a_sync_that_fails_is_said_and_the_next_file_goes_on() {
    let folder = fast_folder();
    // The first, and then every one.
    let inject = "inject=fdatasync:error=EIO:when=1+1";
    let Some(strace) = strace(&["-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject]) else {
        return;
    };
    let args = ["-o", "a.ndjson", "--sync", "always"];
    let mut tape = Tape::spawn(under(strace, &listen_command_in(folder.path(), &args)));
    let line = tape.wait_for_line("sync a.ndjson: ");
    assert!(
        line.ends_with("some of it may be lost; going on in a new file"),
        "{line}"
    );
    tape.send(b"one");
    tape.send(b"two");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3));
    // Not a file a sync: where none succeeds, another file helps nobody.
    let mut files = segments(folder.path(), "a");
    assert_eq!(files.len(), 1);
    files.push(folder.path().join("a.ndjson"));
    let all = joined(files.iter().map(|file| records(file)).collect());
    let sessions = sessions(&all);
    let bytes: Vec<_> = sessions
        .values()
        .map(|session| &session.bytes[..])
        .collect();
    assert_eq!(sessions.len(), 2);
    assert!(bytes.contains(&&b"one"[..]) && bytes.contains(&&b"two"[..]));
}

/// Promise 7: what an output that stands still misses is counted, and the other has everything.
#[test]
fn a_stalled_output_misses_records_and_says_how_many() {
    let folder = fast_folder();
    let args = [
        "-o",
        "a.bin",
        "--json",
        "--on-stall",
        "drop",
        "--buffer",
        "8MiB",
    ];
    let mut command = listen_command_in(folder.path(), &args);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let sent = random_bytes(48 * MIB);
    for half in sent.chunks(24 * MIB) {
        tape.send(half);
    }
    tape.wait_for_line("standard output does not keep up");
    eventually("the file has everything", || {
        let len = fs::metadata(folder.path().join("a.bin")).ok()?.len();
        (len == sent.len() as u64).then_some(())
    });
    // Its reader comes back.
    let reader = drained(tape.take_stdout());
    let ended = tape.stop();
    let captured = reader.join().expect("it has ended");
    assert_eq!(ended.status, Some(3));
    assert!(fs::read(folder.path().join("a.bin")).expect("it is there") == sent);
    let (data, records, missed) = check_gaps(&captured);
    assert!(missed > 0);
    assert_eq!(data + missed, sent.len() as u64);
    // The same, told to a person.
    let told: u64 = ended
        .said
        .iter()
        .filter_map(|line| missed_records(line))
        .sum();
    assert_eq!(told, records, "{:?}", ended.said);
}

fn missed_records(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" missed ")?;
    rest.split(' ').next()?.parse().ok()
}

/// An output that nobody holds up but itself: the senders wait a second, then it misses.
#[test]
fn an_only_output_that_stalls_does_not_hold_up_the_senders() {
    let folder = fast_folder();
    let args = ["--raw", "--on-stall", "drop", "--buffer", "4MiB"];
    let mut command = listen_command_in(folder.path(), &args);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let sent = random_bytes(32 * MIB);
    tape.send(&sent);
    let mut stdout = tape.take_stdout();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).expect("a pipe");
        bytes.len() as u64
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3));
    let told: u64 = ended
        .said
        .iter()
        .filter_map(|line| missed_bytes(line))
        .sum();
    assert_eq!(
        reader.join().expect("it has ended") + told,
        sent.len() as u64
    );
}

fn missed_bytes(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" missed ")?;
    let (_, bytes) = rest.split_once(" with ")?;
    bytes.split(' ').next()?.parse().ok()
}
