//! What a crash leaves: whatever step it came in, the next run finds its way, and nothing is lost,
//! repeated or left half done.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wiretape::codec::ndjson::Reader;
use wiretape::record::{Event, Record, RunId};

use crate::tape::{
    Ended, Tape, end, eventually, fast_folder, listen_command_in, program, segments, strace, under,
};

/// Sixty segments, more than any point below needs.
const LINES: usize = 2_000;

const ARGS: [&str; 8] = [
    "-o",
    "a.ndjson",
    "--rotate",
    "4KiB",
    "--compress",
    "zstd",
    "--frame",
    "line",
];

/// All records of a segment, up to where it breaks off.
fn held(path: &Path) -> Vec<Record<'static>> {
    let mut bytes = fs::read(path).expect("it can be read");
    if path.extension().is_some_and(|found| found == "zst") {
        let mut unpacked = Vec::new();
        let mut decoder = zstd::stream::read::Decoder::new(&bytes[..]).expect("there is memory");
        decoder.read_to_end(&mut unpacked).expect("it is whole");
        drop(decoder);
        bytes = unpacked;
    }
    let mut reader = Reader::new(path.display().to_string(), &bytes[..]);
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().expect("a good capture") {
        records.push(record.into_owned());
    }
    records
}

/// The files of `a.ndjson`, each segment once, in the order of their names, the live file last.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = segments(folder, "a");
    files.retain(|path| path.extension().is_none_or(|found| found != "tmp"));
    let plain = files.clone();
    files.retain(|path| {
        let is_packed = path.extension().is_some_and(|found| found == "zst");
        !is_packed || !plain.contains(&path.with_extension(""))
    });
    let live = folder.join("a.ndjson");
    files.extend(live.exists().then_some(live));
    files
}

/// What each run has of its only connection, checked to have neither holes nor repetitions.
fn runs(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut runs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut run, mut next_seq) = (RunId(0), 0);
    for file in files(folder) {
        for record in held(&file) {
            let context = || format!("{} in {:?}", file.display(), files(folder));
            match record.event {
                Event::Start(start) if start.run == run => {
                    assert_eq!(record.seq, next_seq, "{}", context());
                }
                Event::Start(start) => {
                    assert!(!runs.contains_key(&start.run.to_string()), "{}", context());
                    (run, next_seq) = (start.run, 1);
                    runs.insert(run.to_string(), Vec::new());
                }
                Event::End { .. } => assert_eq!(record.seq, next_seq, "{}", context()),
                event => {
                    assert_eq!(record.seq, next_seq, "{}", context());
                    next_seq += 1;
                    if let Event::Data {
                        offset, payload, ..
                    } = event
                    {
                        let bytes = runs.get_mut(&run.to_string()).expect("it has begun");
                        assert_eq!(offset, bytes.len() as u64, "{}", context());
                        bytes.extend_from_slice(&payload);
                    }
                }
            }
        }
    }
    runs
}

/// Kills it before the `nth` time that one of its threads makes this system call, while a peer sends,
/// and runs it again.
fn check_kill(call: &str, nth: usize) {
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    let trace = format!("trace={call}");
    let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
    let strace = strace(&options).expect("it was possible before");
    let folder = fast_folder();
    let folder = folder.path();
    let tape = Tape::spawn(under(strace, &listen_command_in(folder, &ARGS)));
    let mut sent = Vec::new();
    // It may be gone at any time, even before it can be spoken to.
    if let Ok(mut stream) = TcpStream::connect(&tape.addresses[0]) {
        for nth in 0..LINES {
            let line = format!("{nth} of {LINES} lines, and some more to fill it\n");
            sent.extend_from_slice(line.as_bytes());
            if stream.write_all(line.as_bytes()).is_err() {
                break;
            }
        }
    }
    let ended = tape.wait();
    assert_eq!(ended.status, None, "{call} {nth}: it was not killed");
    let before = runs(folder);
    assert!(before.len() <= 1);

    let tape = Tape::listen_in(folder, &ARGS);
    eventually("what was left half done is done", || {
        let is_done = |path: &PathBuf| path.extension().is_some_and(|found| found == "zst");
        segments(folder, "a").iter().all(is_done).then_some(())
    });
    let mut stream = tape.connect();
    stream.write_all(b"again\n").expect("it reads");
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{call} {nth}: {:?}", ended.said);
    let left = segments(folder, "a");
    let is_half_done = |path: &PathBuf| path.extension().is_some_and(|found| found == "tmp");
    assert!(!left.iter().any(is_half_done), "{call} {nth}: {left:?}");
    let has_twin = |path: &PathBuf| left.contains(&path.with_extension("ndjson.zst"));
    assert!(!left.iter().any(has_twin), "{call} {nth}: {left:?}");
    let mut after = runs(folder);
    for (run, bytes) in &before {
        assert!(sent.starts_with(bytes), "{call} {nth}");
        assert!(after.remove(run).as_ref() == Some(bytes), "{call} {nth}");
    }
    let again: Vec<_> = after.into_values().collect();
    assert_eq!(again, [b"again\n"], "{call} {nth}");
}

#[test]
fn a_kill_at_any_step_loses_nothing_that_was_written_and_repeats_nothing() {
    if strace(&[]).is_none() {
        return;
    }
    // Each is counted by the thread. What the threads call at least so often before they are ready is
    // left out; beyond that, several of the same kind are several steps.
    let points = [
        ("renameat2", vec![1, 2, 3, 7]),
        ("flock", vec![2, 3]),
        ("write", vec![8, 9, 10, 12, 15, 20]),
        ("fdatasync", vec![1, 2, 5]),
        ("fsync", vec![1, 2, 3, 4, 5, 6]),
        ("utimensat", vec![1, 3]),
        ("unlink", vec![1, 2, 3, 4]),
        ("openat", vec![41, 42, 43, 44, 45]),
    ];
    for (call, times) in points {
        for nth in times {
            check_kill(call, nth);
        }
    }
}

// --- what the next run finds ---------------------------------------------------------------------

/// Compresses a file with a program, and leaves it as it is.
fn pack(program: &Path, file: &Path) {
    let status = Command::new(program).arg("-qk").arg(file).status();
    assert!(status.expect("it starts").success());
}

#[test]
fn what_a_crash_left_half_done_is_done_and_said() {
    let (Some(zstd), Some(gzip)) = (program("zstd"), program("gzip")) else {
        return;
    };
    let folder = fast_folder();
    let segment = |number: u64| format!("a.20210101T000000Z.{number:06}.ndjson");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).expect("it is new");
    // Broken off while it was compressed.
    write(&segment(1), "1\n");
    write(&(segment(1) + ".zst.tmp"), "half");
    // Compressed, and not removed yet.
    write(&segment(2), "2\n");
    pack(&zstd, &path(&segment(2)));
    write(&segment(3), "3\n");
    pack(&gzip, &path(&segment(3)));
    // Something else of that name, and only a part of it.
    write(&segment(4), "something else\n");
    pack(&zstd, &path(&segment(4)));
    write(&segment(4), "4\n");
    write(&segment(5), "5\n");
    pack(&zstd, &path(&segment(5)));
    let packed = fs::read(path(&(segment(5) + ".zst"))).expect("it was made");
    fs::write(path(&(segment(5) + ".zst")), &packed[..packed.len() / 2]).expect("it is ours");
    // Closed, and not compressed yet; and what has lost its plain form.
    write(&(segment(6) + ".gz.tmp"), "half");
    write(&segment(7), "7\n");

    let tape = Tape::listen_in(folder.path(), &ARGS);
    eventually("the last is compressed", || {
        (!path(&segment(7)).exists()).then_some(())
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let differs = "it does not hold what its plain form does; both are left";
    for said in [
        segment(1) + ".zst.tmp: half compressed by an earlier run; removed",
        segment(1) + ": left by an earlier run; compressed",
        segment(2) + ": compressed by an earlier run; removed",
        segment(3) + ": compressed by an earlier run; removed",
        format!("{}.zst: {differs}", segment(4)),
        format!("{}.zst: {differs}", segment(5)),
        segment(6) + ".gz.tmp: half compressed by an earlier run; removed",
        segment(7) + ": left by an earlier run; compressed",
    ] {
        assert!(ended.has_said(&said), "{said} is not in {:?}", ended.said);
    }
    let mut left: Vec<_> = segments(folder.path(), "a");
    left.retain(|path| path.extension().is_none_or(|found| found != "ndjson"));
    let unpack = |path: &PathBuf| {
        let is_zstd = path.extension().is_some_and(|found| found == "zst");
        let program = if is_zstd { &zstd } else { &gzip };
        let output = Command::new(program).arg("-dc").arg(path).output();
        String::from_utf8(output.expect("it starts").stdout).expect("it is text")
    };
    let unpacked: Vec<_> = left.iter().map(unpack).collect();
    assert_eq!(unpacked[..4], ["1\n", "2\n", "3\n", "something else\n"]);
    assert_eq!(unpacked.last().map(String::as_str), Some("7\n"));
    let plain = segments(folder.path(), "a");
    let plain = plain.iter().filter(|path| !left.contains(path));
    let plain: Vec<_> = plain.map(fs::read_to_string).collect();
    let plain: Vec<_> = plain.into_iter().map(|text| text.expect("text")).collect();
    assert_eq!(plain, ["4\n", "5\n"]);
    assert_eq!(left.len(), 6);
}

/// TERM while a segment of an earlier run is compressed, which takes about a tenth of a second for a
/// MiB: how it ended, and what was in the segment.
fn stop_while_it_compresses(folder: &Path, mib: usize, args: &[&str]) -> (Ended, Vec<u8>) {
    let mut bytes = vec![0; mib << 20];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    fs::write(folder.join(LEFT_OVER), &bytes).expect("the folder is writable");
    let tape = Tape::listen_in(folder, &[&GZIP_ARGS, args].concat());
    eventually("it is being compressed", || {
        let len = fs::metadata(folder.join(format!("{LEFT_OVER}.gz.tmp")));
        (len.ok()?.len() > 0).then_some(())
    });
    (tape.stop(), bytes)
}

const LEFT_OVER: &str = "a.20210101T000000Z.000001.ndjson";

const GZIP_ARGS: [&str; 6] = ["-o", "a.ndjson", "--rotate", "4KiB", "--compress", "gzip"];

fn check_compressed(gzip: &Path, folder: &Path, bytes: &[u8]) {
    let packed = folder.join(format!("{LEFT_OVER}.gz"));
    assert_eq!(segments(folder, "a"), [packed.as_path()]);
    let unpacked = Command::new(gzip).arg("-dc").arg(packed).output();
    assert!(unpacked.expect("it starts").stdout == bytes);
}

#[test]
fn what_is_being_compressed_when_it_ends_is_finished() {
    let Some(gzip) = program("gzip") else { return };
    let folder = fast_folder();
    let (ended, bytes) = stop_while_it_compresses(folder.path(), 8, &[]);
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    check_compressed(&gzip, folder.path(), &bytes);
}

#[test]
fn what_could_not_be_compressed_in_time_is_finished_by_the_next_run() {
    let Some(gzip) = program("gzip") else { return };
    let folder = fast_folder();
    let (ended, bytes) = stop_while_it_compresses(folder.path(), 24, &["--drain", "200ms"]);
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let said = "all is written, but 1 thing was not done for closed files";
    assert!(ended.has_said(said), "{:?}", ended.said);
    assert!(fs::read(folder.path().join(LEFT_OVER)).expect("it is whole") == bytes);
    let tape = Tape::listen_in(folder.path(), &GZIP_ARGS);
    eventually("it is compressed", || {
        (!folder.path().join(LEFT_OVER).exists()).then_some(())
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    check_compressed(&gzip, folder.path(), &bytes);
}

/// A folder that is slow to be read at the start, while segments are closed already: they are not
/// taken for those of an earlier run.
fn check_slow_start(args: &[&str]) -> Option<TempDir> {
    let delay = "inject=getdents64:delay_enter=200000";
    let options = ["-o", "/dev/null", "-e", "trace=getdents64", "-e", delay];
    let strace = strace(&options)?;
    let folder = fast_folder();
    let args = [&["-o", "a.bin", "--rotate", "4KiB"], args].concat();
    let inner = listen_command_in(folder.path(), &args);
    let tape = Tape::spawn(under(strace, &inner));
    for nth in b'1'..=b'5' {
        tape.send(&[nth; 3000]);
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(!ended.has_said("earlier run"), "{:?}", ended.said);
    Some(folder)
}

#[test]
fn segments_of_a_run_that_has_just_begun_are_counted_once() {
    let Some(folder) = check_slow_start(&["--keep", "2"]) else {
        return;
    };
    let kept: Vec<_> = segments(folder.path(), "a")
        .iter()
        .map(|path| fs::read(path).expect("it exists")[0])
        .collect();
    assert_eq!(kept, [b'3', b'4']);
}

#[test]
fn segments_of_a_run_that_has_just_begun_are_not_left_overs() {
    check_slow_start(&["--compress", "zstd"]);
}
