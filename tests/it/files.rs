//! What files are: their modes, who may write to them, a file a connection, what is compressed as it
//! is written, and when it is forced to the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use wiretape::record::{ConnId, EndReason, Event, Record};

use crate::tape::{
    Tape, end, eventually, fast_folder, listen_command_in, program, records, records_in, segments,
    sessions, strace, under,
};

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("it exists");
    metadata.permissions().mode() & 0o7777
}

/// The descriptors of a process that lead into a folder: where to, and the flags they were opened
/// with.
fn open_files(tape: &Tape, folder: &Path) -> Vec<(PathBuf, u32)> {
    let process = PathBuf::from(format!("/proc/{}", tape.pid().as_raw_nonzero()));
    let descriptors = fs::read_dir(process.join("fd")).expect("it runs");
    let mut found = Vec::new();
    for descriptor in descriptors.flatten() {
        // It may have been closed meanwhile.
        let Ok(path) = fs::read_link(descriptor.path()) else {
            continue;
        };
        let info = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()));
        if let (true, Ok(info)) = (path.starts_with(folder), info) {
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.expect("it has flags").trim();
            found.push((path, u32::from_str_radix(flags, 8).expect("octal")));
        }
    }
    found
}

/// Waits until `bytes` stand in a file.
fn wait_for(path: &Path, bytes: &[u8]) {
    eventually("the bytes are in the file", || {
        let held = fs::read(path).ok()?;
        held.windows(bytes.len())
            .any(|window| window == bytes)
            .then_some(())
    });
}

// --- modes, flags, locks -------------------------------------------------------------------------

/// Runs with an umask, until `a.bin` has been rotated once.
fn run_with_umask(folder: &Path, umask: &str, args: &[&str]) {
    let args = [&["-o", "a.bin", "--rotate", "4KiB"], args].concat();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
    let tape = Tape::spawn(under(shell, &listen_command_in(folder, &args)));
    // The second does not fit beside the first.
    tape.send(&[b'1'; 3000]);
    tape.send(&[b'2'; 3000]);
    assert_eq!(tape.stop().status, Some(0));
}

fn check_modes(umask: &str, expected: u32) {
    let folder = fast_folder();
    run_with_umask(folder.path(), umask, &[]);
    let closed = segments(folder.path(), "a");
    assert_eq!(closed.len(), 1);
    assert_eq!(mode(&closed[0]), expected);
    assert_eq!(mode(&folder.path().join("a.bin")), expected);
}

#[test]
fn only_the_owner_may_read_a_capture_however_much_the_umask_allows() {
    check_modes("0", 0o600);
    check_modes("0077", 0o600);
    check_modes("0200", 0o400);
}

#[test]
fn only_the_owner_may_look_into_a_folder_that_is_made() {
    let folder = fast_folder();
    run_with_umask(folder.path(), "0", &["-o", "x/y/{conn}/z/b.bin"]);
    for name in ["x", "x/y", "x/y/1", "x/y/1/z"] {
        assert_eq!(mode(&folder.path().join(name)), 0o700, "{name}");
    }
    assert_eq!(mode(&folder.path().join("x/y/2/z/b.bin")), 0o600);
}

#[test]
fn files_are_appended_to_and_not_given_to_other_programs() {
    const O_WRONLY: u32 = 0o1;
    const O_ACCMODE: u32 = 0o3;
    const O_APPEND: u32 = 0o2000;
    const O_CLOEXEC: u32 = 0o2_000_000;
    let folder = fast_folder();
    let args = ["-o", "a.bin", "-o", "x/{conn}.bin"];
    let tape = Tape::listen_in(folder.path(), &args);
    let mut stream = tape.connect();
    stream.write_all(b"one").expect("it reads");
    wait_for(&folder.path().join("a.bin"), b"one");
    wait_for(&folder.path().join("x/1.bin"), b"one");
    let check = || {
        let found = open_files(&tape, folder.path());
        let mut names: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
        names.sort();
        let expected = ["a.bin", "x/1.bin"].map(|name| folder.path().join(name));
        assert_eq!(names, expected);
        for (path, flags) in found {
            assert_eq!(flags & O_ACCMODE, O_WRONLY, "{}", path.display());
            assert!(flags & O_APPEND != 0, "{}", path.display());
            assert!(flags & O_CLOEXEC != 0, "{}", path.display());
        }
    };
    check();
    // Those that are opened later too.
    fs::rename(folder.path().join("a.bin"), folder.path().join("old")).expect("it exists");
    fs::rename(folder.path().join("x"), folder.path().join("y")).expect("it exists");
    tape.signal(Signal::HUP);
    eventually("they are opened anew", || {
        let are_there = ["a.bin", "x/1.bin"].map(|name| folder.path().join(name).exists());
        (are_there == [true; 2]).then_some(())
    });
    stream.write_all(b"two").expect("it reads");
    wait_for(&folder.path().join("a.bin"), b"two");
    wait_for(&folder.path().join("x/1.bin"), b"two");
    eventually("the old ones are closed", || {
        (open_files(&tape, folder.path()).len() == 2).then_some(())
    });
    check();
    // What somebody else appends stays.
    let mut other = fs::File::options()
        .append(true)
        .open(folder.path().join("a.bin"))
        .expect("it exists");
    other.write_all(b"[other]").expect("it can be written");
    stream.write_all(b"three").expect("it reads");
    wait_for(&folder.path().join("a.bin"), b"two[other]three");
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn a_second_writer_is_refused_and_the_first_undisturbed() {
    let folder = fast_folder();
    let args = ["-o", "a.bin"];
    let tape = Tape::listen_in(folder.path(), &args);
    tape.send(b"one ");
    let path = |name: &str| folder.path().join(name);
    wait_for(&path("a.bin"), b"one ");
    fs::hard_link(path("a.bin"), path("hard.bin")).expect("it is new");
    symlink("a.bin", path("soft.bin")).expect("it is new");
    for name in ["a.bin", "hard.bin", "soft.bin"] {
        for args in [vec!["-o", name], vec!["-o", "new.bin", "-o", name]] {
            // If it is not refused, it is not to stay.
            let mut timeout = Command::new("timeout");
            timeout.arg("10");
            let mut second = under(timeout, &listen_command_in(folder.path(), &args));
            let refused = second.output().expect("it starts");
            assert_eq!(refused.status.code(), Some(1), "{args:?}");
            let said = format!("cannot open {name}: another process is writing to it");
            let stderr = String::from_utf8_lossy(&refused.stderr);
            assert!(stderr.contains(&said), "{stderr}");
        }
    }
    assert!(!path("new.bin").exists(), "it leaves a file behind");
    tape.send(b"two");
    assert_eq!(tape.stop().status, Some(0));
    assert_eq!(fs::read(path("a.bin")).expect("it exists"), b"one two");
    // With the first, its lock is gone.
    let next = Tape::listen_in(folder.path(), &["-o", "hard.bin"]);
    next.send(b" three");
    assert_eq!(next.stop().status, Some(0));
    assert_eq!(
        fs::read(path("a.bin")).expect("it exists"),
        b"one two three"
    );
}

// --- a file a connection -------------------------------------------------------------------------

/// Connections that are held open together: more than files are.
const CROWD: usize = 150;

/// Files that one output has open at most, those that wait to be synced among them, and a folder.
const MOST_OPEN: usize = 64 + 8 + 2;

/// Sends lines over many connections in random turns, and gives back what went over each, by its
/// number.
fn send_in_turns(tape: &Tape, folder: &Path) -> BTreeMap<u64, String> {
    let mut random = fastrand::Rng::with_seed(1);
    // They are accepted in the order in which they come.
    let mut streams: Vec<_> = (0..CROWD).map(|_| tape.connect()).collect();
    let mut sent = vec![String::new(); CROWD];
    let mut most = 0;
    for turn in 0..1500 {
        let nth = random.usize(..CROWD);
        let line = format!("{nth}:{turn}\n");
        streams[nth].write_all(line.as_bytes()).expect("it reads");
        sent[nth].push_str(&line);
        if turn % 50 == 0 {
            most = most.max(open_files(tape, folder).len());
        }
    }
    assert!(most <= MOST_OPEN, "{most} files were open");
    streams.into_iter().for_each(end);
    (1..).zip(sent).collect()
}

fn check_crowd(output: &str, check: impl Fn(&[u8], &str, ConnId)) {
    let folder = fast_folder();
    let args = ["-o", output, "--frame", "line"];
    let tape = Tape::listen_in(folder.path(), &args);
    let sent = send_in_turns(&tape, folder.path());
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert_eq!(ended.said.len(), 4, "{:?}", ended.said);
    let logs = folder.path().join("logs");
    assert_eq!(fs::read_dir(&logs).expect("it exists").count(), CROWD);
    for (conn, text) in sent {
        let name = format!(
            "127.0.0.1-{conn}.{}",
            output.rsplit('.').next().unwrap_or("")
        );
        let held = fs::read(logs.join(&name)).expect("it exists");
        check(&held, &text, ConnId(conn));
    }
}

#[test]
fn every_connection_has_its_bytes_in_a_file_of_its_own() {
    check_crowd("logs/{peer_ip}-{conn}.bin", |held, sent, _| {
        assert_eq!(String::from_utf8_lossy(held), sent);
    });
}

#[test]
fn every_connection_has_its_lines_in_a_file_of_its_own() {
    check_crowd("logs/{peer_ip}-{conn}.log", |held, sent, conn| {
        let held = String::from_utf8_lossy(held);
        let lines: Vec<_> = held.lines().collect();
        let tag = format!(" #{conn} 127.0.0.1:");
        assert!(lines.iter().all(|line| line.contains(&tag)), "{held}");
        assert!(lines[0].contains(" * connected to "), "{held}");
        assert!(lines[lines.len() - 1].contains(" * closed: eof"), "{held}");
        let data = lines.iter().filter_map(|line| line.split_once(" > "));
        let data: Vec<_> = data.map(|(_, text)| text.replace("\\n", "\n")).collect();
        assert_eq!(data.concat(), sent);
    });
}

#[test]
fn every_connection_has_a_capture_of_its_own() {
    check_crowd("logs/{peer_ip}-{conn}.ndjson", |held, sent, conn| {
        let records = records_in(&format!("of {conn}"), held);
        check_capture(&records, conn, sent.as_bytes(), &EndReason::Closed);
    });
}

/// Segments one behind the other in one file, all of one connection.
fn check_capture(records: &[Record<'_>], only: ConnId, sent: &[u8], last: &EndReason) {
    let (mut bytes, mut is_open, mut segment, mut seq) = (Vec::new(), false, 0, 0);
    for (nth, record) in records.iter().enumerate() {
        assert!(record.seq >= seq, "{records:?}");
        seq = record.seq;
        match &record.event {
            Event::Start(start) => {
                assert!(!is_open && start.segment > segment, "{records:?}");
                assert_eq!(start.conn, Some(only));
                (is_open, segment) = (true, start.segment);
            }
            Event::End { reason } => {
                assert!(is_open);
                is_open = false;
                let is_last = nth + 1 == records.len();
                let expected = if is_last { last } else { &EndReason::Rotated };
                assert_eq!(reason, expected);
            }
            event => {
                assert!(is_open);
                assert_eq!(event.conn().map(|conn| conn.id), Some(only));
            }
        }
        if let Event::Data {
            offset, payload, ..
        } = &record.event
        {
            assert_eq!(*offset, bytes.len() as u64);
            bytes.extend_from_slice(payload);
        }
    }
    assert!(!is_open);
    assert_eq!(
        String::from_utf8_lossy(&bytes),
        String::from_utf8_lossy(sent)
    );
}

#[test]
fn every_connection_has_compressed_captures_of_its_own() {
    let Some(zstd) = program("zstd") else { return };
    let folder = fast_folder();
    let tape = Tape::listen_in(folder.path(), &["-o", "{conn}.ndjson.zst"]);
    // Twice as many as are open together, in turns.
    let mut streams: Vec<_> = (0..16).map(|_| tape.connect()).collect();
    let mut sent = vec![String::new(); streams.len()];
    let mut random = fastrand::Rng::with_seed(1);
    for turn in 0..150 {
        let nth = random.usize(..streams.len());
        let line = format!("{nth}:{turn}\n");
        streams[nth].write_all(line.as_bytes()).expect("it reads");
        sent[nth].push_str(&line);
    }
    streams.into_iter().for_each(end);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    for (conn, text) in (1..).zip(sent) {
        let mut files = segments(folder.path(), &conn.to_string());
        files.push(folder.path().join(format!("{conn}.ndjson.zst")));
        let parts = files.iter().map(|path| unpacked(&zstd, path));
        let bytes: Vec<_> = parts
            .inspect(|part| assert!(part.is_whole, "{files:?}"))
            .flat_map(|part| part.bytes)
            .collect();
        let records = records_in(&format!("of {conn}"), &bytes);
        check_capture(&records, ConnId(conn), text.as_bytes(), &EndReason::Closed);
    }
}

#[test]
fn a_connection_that_the_end_of_the_run_ends_has_a_whole_capture() {
    let folder = fast_folder();
    let tape = Tape::listen_in(folder.path(), &["-o", "{conn}.ndjson"]);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it reads");
    wait_for(&folder.path().join("1.ndjson"), b"hello");
    assert_eq!(tape.stop().status, Some(0));
    let records = records(&folder.path().join("1.ndjson"));
    check_capture(&records, ConnId(1), b"hello", &EndReason::Closed);
}

#[test]
fn files_are_named_by_run_day_and_port_and_appended_to() {
    let folder = fast_folder();
    let args = ["-o", "{date}/{local_port}/{run}.ndjson"];
    let tape = Tape::listen_in(folder.path(), &args);
    tape.send(b"one");
    tape.send(b"two");
    let port = tape.addresses[0].rsplit(':').next().map(str::to_owned);
    assert_eq!(tape.stop().status, Some(0));
    let only = |path: PathBuf| {
        let mut found = fs::read_dir(path).expect("it exists");
        let only = found.next().expect("something is in it").expect("readable");
        (only.path(), only.file_name().into_string().expect("text"))
    };
    // Over midnight there would be two.
    let (path, date) = only(folder.path().to_owned());
    let (path, local_port) = only(path);
    let (path, name) = only(path);
    assert_eq!(Some(local_port), port);
    let records = records(&path);
    let Event::Start(start) = &records[0].event else {
        panic!("no start: {records:?}");
    };
    assert_eq!(name, format!("{}.ndjson", start.run));
    assert_eq!(start.conn, None);
    assert!(records[1].time.wall.to_string().starts_with(&date));
    // The run's own start has the number before.
    let own = records.into_iter().filter(|one| one.event.conn().is_some());
    let renumbered = own.enumerate().map(|(nth, one)| {
        assert_eq!(one.seq, nth as u64 + 1);
        Record {
            seq: nth as u64,
            ..one
        }
    });
    let sessions = sessions(&renumbered.collect::<Vec<_>>());
    let bytes: Vec<_> = sessions
        .into_values()
        .map(|session| session.bytes)
        .collect();
    assert_eq!(bytes.len(), 2);
    assert!(bytes.contains(&b"one".to_vec()) && bytes.contains(&b"two".to_vec()));
}

#[test]
fn a_peer_without_an_address_has_a_file_too() {
    let folder = fast_folder();
    let args = [
        "unix:socket",
        "-o",
        "{peer_ip}/{peer_port}-{local_port}-{conn}.bin",
    ];
    let tape = Tape::listen_in(folder.path(), &args);
    let mut stream = UnixStream::connect(folder.path().join("socket")).expect("it listens");
    stream.write_all(b"hello").expect("it reads");
    let closed = stream.shutdown(std::net::Shutdown::Write);
    closed.expect("it is open");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    assert_eq!(tape.stop().status, Some(0));
    let held = fs::read(folder.path().join("unix/none-none-1.bin"));
    assert_eq!(held.expect("it exists"), b"hello");
}

#[test]
fn the_file_of_a_connection_that_is_closed_is_compressed() {
    let Some(zstd) = program("zstd") else { return };
    let folder = fast_folder();
    let args = ["-o", "logs/{conn}.ndjson", "--compress", "zstd"];
    let tape = Tape::listen_in(folder.path(), &args);
    let mut open = tape.connect();
    open.write_all(b"open").expect("it reads");
    wait_for(&folder.path().join("logs/1.ndjson"), b"open");
    tape.send(b"closed");
    let packed = folder.path().join("logs/2.ndjson.zst");
    let plain = folder.path().join("logs/2.ndjson");
    eventually("it is compressed", || {
        (packed.exists() && !plain.exists()).then_some(())
    });
    assert_eq!(mode(&packed), 0o600);
    let unpacked = unpacked(&zstd, &packed);
    assert!(unpacked.is_whole);
    let records = records_in("2.ndjson.zst", &unpacked.bytes);
    check_capture(&records, ConnId(2), b"closed", &EndReason::Closed);
    assert!(folder.path().join("logs/1.ndjson").exists());
    end(open);
    assert_eq!(tape.stop().status, Some(0));
}

// --- links ---------------------------------------------------------------------------------------

fn check_link(link: &str, cause: &str) {
    let folder = fast_folder();
    let elsewhere = fast_folder();
    // Whether a folder or a file is made here, it leads there.
    let target = match link.ends_with(".bin") {
        true => elsewhere.path().join("target"),
        false => elsewhere.path().to_owned(),
    };
    fs::write(elsewhere.path().join("target"), "mine").expect("it is new");
    let planted = folder.path().join(link);
    fs::create_dir_all(planted.parent().expect("it has one")).expect("it is new");
    symlink(&target, &planted).expect("it is new");
    let args = ["-o", "logs/{peer_ip}/{conn}.bin", "-o", "all.bin"];
    let mut tape = Tape::listen_in(folder.path(), &args);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it reads");
    tape.wait_for_line(&format!(
        "open logs/127.0.0.1/1.bin: {cause}; its bytes are kept, and it is tried again"
    ));
    // Another output goes on meanwhile.
    wait_for(&folder.path().join("all.bin"), b"hello");
    let there = fs::read_dir(elsewhere.path()).expect("it exists").count();
    assert_eq!(there, 1);
    fs::remove_file(&planted).expect("it is a link");
    wait_for(&folder.path().join("logs/127.0.0.1/1.bin"), b"hello");
    stream.write_all(b" again").expect("it reads");
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(
        ended.has_said("it can be written again"),
        "{:?}",
        ended.said
    );
    let held = fs::read(folder.path().join("logs/127.0.0.1/1.bin"));
    assert_eq!(held.expect("it exists"), b"hello again");
    let target = fs::read_to_string(elsewhere.path().join("target"));
    assert_eq!(target.expect("it exists"), "mine");
}

#[test]
fn a_link_in_the_place_of_a_folder_is_not_followed() {
    check_link("logs/127.0.0.1", "not a directory");
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    check_link("logs/127.0.0.1/1.bin", "too many levels of symbolic links");
}

// --- compressed as it is written -----------------------------------------------------------------

struct Unpacked {
    bytes: Vec<u8>,
    is_whole: bool,
}

/// What `PROGRAM -dc` prints of a file, whatever it says of its end.
fn unpacked(program: &Path, path: &Path) -> Unpacked {
    // From standard input, because gzip does not open what belongs to somebody else's descriptor.
    let output = Command::new(program)
        .arg("-dc")
        .stdin(fs::File::open(path).expect("it exists"))
        .stderr(Stdio::null())
        .output()
        .expect("it starts");
    Unpacked {
        bytes: output.stdout,
        is_whole: output.status.success(),
    }
}

fn check_streamed(program_name: &str, extension: &str) {
    let Some(unpacker) = program(program_name) else {
        return;
    };
    let folder = fast_folder();
    let json = format!("a.ndjson.{extension}");
    let raw = format!("b.bin.{extension}");
    let args = ["-o", &json, "-o", &raw];
    let path = |name: &str| folder.path().join(name);
    let run = |nth: usize| {
        let tape = Tape::listen_in(folder.path(), &args);
        let mut stream = tape.connect();
        let mut sent = String::new();
        // What was sent can be read while the peer still talks.
        for line in 0..5 {
            let line = format!("run {nth} line {line}\n");
            stream.write_all(line.as_bytes()).expect("it reads");
            sent.push_str(&line);
            for name in [&json, &raw] {
                eventually("the line can be read", || {
                    // What the run before has written is put away first.
                    path(name).exists().then_some(())?;
                    let unpacked = unpacked(&unpacker, &path(name));
                    let text = String::from_utf8_lossy(&unpacked.bytes).into_owned();
                    text.contains(line.trim_end()).then_some(())
                });
            }
        }
        (tape, stream, sent)
    };
    let check = |name: &str, sent: &str| {
        let unpacked = unpacked(&unpacker, &path(name));
        assert!(unpacked.is_whole, "{name}");
        let held = if name.starts_with('b') {
            unpacked.bytes
        } else {
            let records = records_in(name, &unpacked.bytes);
            let mut sessions = sessions(&records).into_values();
            sessions.next().expect("there is one").bytes
        };
        assert_eq!(String::from_utf8_lossy(&held), sent, "{name}");
    };
    // The first run ends in good order, the second breaks off.
    let (tape, stream, first) = run(1);
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
    check(&json, &first);
    check(&raw, &first);
    let (tape, stream, second) = run(2);
    tape.signal(Signal::KILL);
    tape.wait();
    drop(stream);
    let (tape, stream, third) = run(3);
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
    check(&json, &third);
    check(&raw, &third);
    for (stem, live) in [("a", &json), ("b", &raw)] {
        let closed = segments(folder.path(), stem);
        assert_eq!(closed.len(), 2, "{closed:?}");
        let name = |path: &PathBuf| {
            let name = path.file_name().expect("it has a name");
            name.to_string_lossy().into_owned()
        };
        assert!(name(&closed[0]).ends_with(live.split_once('.').expect("it has one").1));
        check(&name(&closed[0]), &first);
        let broken = unpacked(&unpacker, &closed[1]);
        assert!(!broken.is_whole);
        let text = String::from_utf8_lossy(&broken.bytes).replace("\\n", "\n");
        let last = second.lines().last().expect("there are lines");
        assert!(text.contains(last), "{text}");
    }
}

#[test]
fn a_zstd_file_can_be_read_while_it_is_written() {
    check_streamed("zstd", "zst");
}

#[test]
fn a_gzip_file_can_be_read_while_it_is_written() {
    check_streamed("gzip", "gz");
}

// --- syncs ---------------------------------------------------------------------------------------

/// A traced tape, with how often it was seen to write to `a.bin` and to sync it.
fn traced(sync: &str) -> Option<(Tape, tempfile::TempDir, impl Fn() -> (usize, usize))> {
    let folder = fast_folder();
    let trace = folder.path().join("trace");
    let options = ["-y", "-e", "trace=write,fdatasync,fsync", "-o"];
    let mut strace = strace(&options)?;
    strace.arg(&trace);
    let inner = listen_command_in(folder.path(), &["-o", "a.bin", "--sync", sync]);
    let tape = Tape::spawn(under(strace, &inner));
    let counts = move || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        let count = |call: &str| {
            let is_it = |line: &&str| line.contains(call) && line.contains("/a.bin>");
            text.lines().filter(is_it).count()
        };
        (count(" write("), count(" fdatasync(") + count(" fsync("))
    };
    Some((tape, folder, counts))
}

/// Sends a byte, and waits until it is in the file.
fn send_byte(stream: &mut TcpStream, folder: &Path, len: usize) {
    stream.write_all(b"x").expect("it reads");
    eventually("the byte is in the file", || {
        let held = fs::read(folder.join("a.bin")).ok()?;
        (held.len() == len).then_some(())
    });
}

#[test]
fn a_file_is_synced_when_it_is_closed() {
    let Some((mut tape, folder, counts)) = traced("seal") else {
        return;
    };
    let mut stream = tape.connect();
    for len in 1..=3 {
        send_byte(&mut stream, folder.path(), len);
    }
    tape.stand_still(Duration::from_millis(150));
    assert_eq!(counts(), (3, 0));
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
    eventually("the trace is written", || {
        (counts() == (3, 1)).then_some(())
    });
}

#[test]
fn a_file_is_synced_after_every_write() {
    let Some((tape, folder, counts)) = traced("always") else {
        return;
    };
    let mut stream = tape.connect();
    for len in 1..=5 {
        send_byte(&mut stream, folder.path(), len);
        eventually("the byte is synced", || {
            (counts() == (len, len)).then_some(())
        });
    }
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn a_file_is_synced_in_time_though_nothing_more_comes() {
    let Some((mut tape, folder, counts)) = traced("50ms") else {
        return;
    };
    let mut stream = tape.connect();
    for len in 1..=3 {
        send_byte(&mut stream, folder.path(), len);
        eventually("the byte is synced", || {
            (counts() == (len, len)).then_some(())
        });
        // But no oftener than there is something to sync.
        tape.stand_still(Duration::from_millis(120));
        assert_eq!(counts(), (len, len));
    }
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
}
