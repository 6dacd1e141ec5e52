//! Files: appended to, opened anew, of the right mode; and outputs that end before the run does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::process::{Pid, Signal, kill_process};
use wiretape::record::{EndReason, Event, Record};

use crate::hand::{Heard, Target, take};
use crate::talk::proxy_command;
use crate::tape::{Tape, end, eventually, listen_command, records};

fn texts(records: &[Record<'_>]) -> Vec<String> {
    let text = |record: &Record<'_>| match &record.event {
        Event::Data { payload, .. } => Some(String::from_utf8_lossy(payload).into_owned()),
        _ => None,
    };
    records.iter().filter_map(text).collect()
}

/// Waits until `text` stands in the file.
fn wait_for(tape: &Tape, name: &str, text: &str) {
    eventually("the bytes are in the file", || {
        let content = fs::read_to_string(tape.path(name)).ok()?;
        content.contains(text).then_some(())
    });
}

#[test]
fn a_byte_is_in_every_output_while_the_peer_still_talks() {
    let mut command = listen_command(&["-o", "a.ndjson", "-o", "a.log", "-o", "a.bin", "--hex"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut stream = tape.connect();
    stream.write_all(b"Q").expect("it reads");
    wait_for(&tape, "a.ndjson", r#""text":"Q""#);
    wait_for(&tape, "a.log", "> Q");
    wait_for(&tape, "a.bin", "Q");
    let mut stdout = tape.take_stdout();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("|Q|") {
        let mut piece = [0; 1000];
        let len = stdout.read(&mut piece).expect("a pipe");
        seen.extend_from_slice(&piece[..len]);
    }
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn no_raw_file_has_what_was_sent_to_the_peer() {
    let target = Target::serve(|_, mut stream| {
        stream.write_all(b"answer").expect("it reads");
        Heard::listen(&stream).bytes
    });
    // One that is rotated is written record by record, and so are those of a connection each.
    let args = ["-o", "{conn}.bin", "-o", "a.bin", "--rotate", "4KiB"];
    let tape = Tape::spawn(proxy_command(&target.address, &args));
    let mut stream = tape.connect();
    assert_eq!(take(&stream, 6), b"answer");
    stream.write_all(b"question").expect("it reads");
    end(stream);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    for name in ["1.bin", "a.bin"] {
        assert_eq!(String::from_utf8_lossy(&ended.read(name)), "question");
    }
}

#[test]
fn an_existing_capture_is_appended_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for run in 0..2 {
        let mut command = listen_command(&["-o", "a.ndjson"]);
        command.current_dir(folder.path());
        let tape = Tape::spawn(command);
        tape.send(format!("run {run}").as_bytes());
        assert_eq!(tape.stop().status, Some(0));
    }
    let records = records(&folder.path().join("a.ndjson"));
    assert_eq!(texts(&records), ["run 0", "run 1"]);
    let starts = records
        .iter()
        .filter(|record| matches!(record.event, Event::Start(_)));
    assert_eq!(starts.count(), 2);
    let mode = fs::metadata(folder.path().join("a.ndjson"))
        .expect("it exists")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_torn_capture_is_gone_on_with_in_a_new_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.ndjson"), "{\"type\":\"da").expect("it can be written");
    let mut command = listen_command(&["-o", "a.ndjson"]);
    command.current_dir(folder.path());
    let tape = Tape::spawn(command);
    tape.send(b"more");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(
        ended.has_said("ends in the middle of a line"),
        "{:?}",
        ended.said
    );
    let text = fs::read_to_string(folder.path().join("a.ndjson")).expect("it is text");
    let (torn, rest) = text.split_once('\n').expect("there are lines");
    assert_eq!(torn, "{\"type\":\"da");
    assert!(rest.starts_with("{\"type\":\"start\""));
}

#[test]
fn a_torn_capture_behind_standard_output_is_gone_on_with_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.ndjson");
    fs::write(&path, "{\"type\":\"da").expect("it can be written");
    let mut command = listen_command(&["--json"]);
    command.stdout(
        fs::File::options()
            .append(true)
            .open(&path)
            .expect("it exists"),
    );
    assert_eq!(Tape::spawn(command).stop().status, Some(0));
    let text = fs::read_to_string(&path).expect("it is text");
    assert!(
        text.starts_with("{\"type\":\"da\n{\"type\":\"start\""),
        "{text}"
    );
}

#[test]
fn after_hup_it_writes_to_a_new_file() {
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    let mut stream = tape.connect();
    for round in 0..3 {
        stream
            .write_all(format!("[{round}]").as_bytes())
            .expect("it reads");
        wait_for(&tape, "a.ndjson", &format!("[{round}]"));
        fs::rename(tape.path("a.ndjson"), tape.path(&format!("a.{round}"))).expect("it exists");
        tape.signal(Signal::HUP);
        eventually("the file is there again", || {
            tape.path("a.ndjson").exists().then_some(())
        });
    }
    // With nothing moved away, HUP changes nothing.
    tape.signal(Signal::HUP);
    stream.write_all(b"[3]").expect("it reads");
    wait_for(&tape, "a.ndjson", "[3]");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));

    let mut next_seq = 0;
    for (nth, name) in ["a.0", "a.1", "a.2", "a.ndjson"].into_iter().enumerate() {
        let records = records(&ended.path(name));
        assert_eq!(texts(&records), [format!("[{nth}]")], "{name}");
        let Event::Start(start) = &records[0].event else {
            panic!("{name} does not begin with a start");
        };
        assert_eq!(start.segment, nth as u64 + 1);
        let reason = if nth == 3 {
            EndReason::Shutdown
        } else {
            EndReason::Rotated
        };
        assert_eq!(
            records.last().expect("there are").event,
            Event::End { reason }
        );
        // Between segments, `end` and `start` take the number of the record behind them.
        for record in &records {
            assert_eq!(record.seq, next_seq, "{name}");
            let is_between = match &record.event {
                Event::Start(start) => start.segment > 1,
                Event::End { reason } => *reason == EndReason::Rotated,
                _ => false,
            };
            next_seq += u64::from(!is_between);
        }
    }
}

#[test]
fn a_file_that_cannot_be_opened_again_is_written_on() {
    let tape_folder = "logs";
    let parent = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(parent.path().join(tape_folder)).expect("it is new");
    let mut command = listen_command(&["-o", "logs/a.log"]);
    command.current_dir(parent.path());
    let mut tape = Tape::spawn(command);
    tape.send(b"before");
    fs::rename(parent.path().join("logs"), parent.path().join("old")).expect("it exists");
    tape.signal(Signal::HUP);
    tape.wait_for_line("reopen logs/a.log: no such file or directory");
    tape.send(b"after");
    assert_eq!(tape.stop().status, Some(0));
    let text = fs::read_to_string(parent.path().join("old/a.log")).expect("it is there");
    assert!(text.contains("before") && text.contains("after"));
}

#[test]
fn a_file_that_was_deleted_is_not_passed_over_in_silence() {
    let mut tape = Tape::listen(&["-o", "a.log"]);
    fs::remove_file(tape.path("a.log")).expect("it exists");
    tape.signal(Signal::HUP);
    tape.wait_for_line("a.log has been deleted: what was written to it since is lost");
    tape.wait_for_line("a.log: opened anew, segment 2");
    fs::remove_file(tape.path("a.log")).expect("it exists again");
    assert!(tape.stop().has_said("a.log has been deleted"));
}

#[test]
fn a_pipe_in_the_place_of_the_file_does_not_hold_it_up() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let mut tape = Tape::listen(&["-o", "a.log"]);
    fs::rename(tape.path("a.log"), tape.path("old")).expect("it exists");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, tape.path("a.log"), FileType::Fifo, mode, 0).expect("it is new");
    tape.signal(Signal::HUP);
    tape.wait_for_line("reopen a.log: no regular file any more");
    tape.send(b"after");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(String::from_utf8_lossy(&ended.read("old")).contains("after"));
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = listen_command(&["-o", "a.bin"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wiretape starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("a pipe");
    let address = line
        .trim()
        .rsplit(' ')
        .next()
        .expect("it has one")
        .to_owned();
    fcntl_setpipe_size(stderr.get_ref(), 4096).expect("it is a pipe");
    let mut stream = TcpStream::connect(address).expect("it listens");
    // Three times what the pipe holds.
    for nth in 1..=100 {
        kill_process(Pid::from_child(&child), Signal::USR1).expect("it runs");
        stream.write_all(b"x").expect("it reads");
        eventually("the byte is in the file", || {
            let len = fs::metadata(folder.path().join("a.bin")).ok()?.len();
            (len == nth).then_some(())
        });
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let status = eventually("it ends", || child.try_wait().expect("it is a child"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let mut command = listen_command(&["--json", "-q"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    tape.close_stdout();
    // The first write fails, whenever it comes.
    if let Ok(mut stream) = TcpStream::connect(&tape.addresses[0]) {
        let _ = stream.write_all(b"x");
    }
    let ended = tape.wait();
    assert_eq!(ended.status, Some(0));
    assert_eq!(
        ended.said.len(),
        1,
        "only where it listens: {:?}",
        ended.said
    );
}

#[test]
fn a_reader_that_leaves_does_not_end_the_other_outputs() {
    let mut command = listen_command(&["--json", "-o", "a.bin"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    tape.close_stdout();
    tape.send(b"both, ");
    tape.wait_for_line("standard output is closed");
    tape.send(b"then one");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert_eq!(ended.read("a.bin"), b"both, then one");
}

/// Splices what comes through a pipe on to a socket: while that takes nothing, the pipe is locked, and whoever
/// writes to it waits for that.
fn splice_on(pipe: ChildStdout, socket: UnixStream) -> JoinHandle<()> {
    thread::spawn(move || {
        while splice(&pipe, None, &socket, None, 1 << 16, SpliceFlags::empty()).expect("it is read")
            > 0
        {}
    })
}

/// A pair of sockets, of which one takes nothing until the other is read; and how much is in it.
fn full_sockets() -> (UnixStream, UnixStream, usize) {
    let (mut full, reader) = UnixStream::pair().expect("sockets");
    full.set_nonblocking(true).expect("a socket");
    let mut held = 0;
    while let Ok(len) = full.write(&[0; 1 << 12]) {
        held += len;
    }
    full.set_nonblocking(false).expect("a socket");
    (full, reader, held)
}

#[test]
fn what_does_not_fit_into_the_pipe_comes_though_nothing_follows() {
    const PIPE: [u8; 4096] = [b'.'; 4096];
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    fcntl_setpipe_size(&reader, PIPE.len()).expect("it is a pipe");
    let (mut reader, mut other) = (
        fs::File::from(reader),
        fs::File::from(writer.try_clone().expect("a descriptor")),
    );
    let mut command = listen_command(&["-o", "raw:-", "-o", "a.bin"]);
    command.stdout(writer);
    let tape = Tape::spawn(command);
    let mut stream = TcpStream::connect(&tape.addresses[0]).expect("it listens");
    for nth in 1..=20 {
        other.write_all(&PIPE).expect("it fits");
        stream.write_all(b"line\n").expect("it reads");
        eventually("the line is in the file", || {
            let len = fs::metadata(tape.path("a.bin")).ok()?.len();
            (len == 5 * nth).then_some(())
        });
        reader.read_exact(&mut PIPE.clone()).expect("it is there");
        eventually("the line is in the pipe", || {
            let mut pipes = [PollFd::new(&reader, PollFlags::IN)];
            let ready = poll(&mut pipes, Some(&Timespec::default()));
            (ready == Ok(1)).then_some(())
        });
        let mut line = [0; 5];
        reader.read_exact(&mut line).expect("it is there");
        assert_eq!(line, *b"line\n");
    }
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn a_reader_that_holds_the_pipe_holds_up_nothing_else() {
    let mut command = listen_command(&["-o", "raw:-", "-o", "a.bin"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let (full, mut reader, held) = full_sockets();
    let spliced = splice_on(tape.take_stdout(), full);
    let mut stream = TcpStream::connect(&tape.addresses[0]).expect("it listens");
    let mut sent = Vec::new();
    for nth in 0..200 {
        let line = format!("line {nth}\n");
        stream.write_all(line.as_bytes()).expect("it reads");
        sent.extend_from_slice(line.as_bytes());
        eventually("the line is in the file", || {
            let len = fs::metadata(tape.path("a.bin")).ok()?.len();
            (len == sent.len() as u64).then_some(())
        });
    }
    let mut came = Vec::new();
    let heard = thread::spawn(move || {
        reader.read_to_end(&mut came).expect("it ends");
        came.split_off(held)
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    spliced.join().expect("the pipe ends");
    assert_eq!(heard.join().expect("it ends with the pipe"), sent);
    assert_eq!(ended.read("a.bin"), sent);
}

#[test]
fn an_output_that_fails_is_said_and_the_others_go_on() {
    let tape = Tape::listen(&["-o", "a.bin", "-o", "raw:/dev/full", "--drain", "200ms"]);
    tape.send(b"kept");
    // /dev/full is a disk that stays full: its bytes are kept, and the end does not wait for ever.
    tape.signal(Signal::TERM);
    let ended = tape.wait();
    assert_eq!(ended.status, Some(3));
    assert!(
        ended.has_said("write /dev/full: no space left on device"),
        "{:?}",
        ended.said
    );
    assert!(
        ended.has_said("not all written: /dev/full"),
        "{:?}",
        ended.said
    );
    assert_eq!(ended.read("a.bin"), b"kept");
}

#[test]
fn a_file_at_its_size_limit_is_an_error_and_not_the_end() {
    // RLIMIT_FSIZE raises SIGXFSZ, which would end a program that does not expect it.
    let Some(prlimit) = crate::tape::program("prlimit") else {
        return;
    };
    let inner = listen_command(&["-o", "a.bin", "--drain", "100ms"]);
    let mut command = Command::new(prlimit);
    command
        .arg("--fsize=1000")
        .arg(inner.get_program())
        .args(inner.get_args());
    let mut tape = Tape::spawn(command);
    tape.send(&[b'x'; 4000]);
    tape.wait_for_line("write a.bin: file too large");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3));
    assert_eq!(ended.read("a.bin").len(), 1000);
}

#[test]
fn statistics_are_told_when_asked() {
    let mut tape = Tape::listen(&["-o", "a.bin"]);
    tape.send(b"12345");
    wait_for(&tape, "a.bin", "12345");
    // The output may still be counting what it has written.
    loop {
        tape.signal(Signal::USR1);
        let line = tape.wait_for_line("1 connection, 0 open; 5 B in, 5 records; ");
        assert!(line.contains("buffer "), "{line}");
        if tape
            .wait_for_line("a.bin: 5 B written, ")
            .ends_with(" 0 records waiting")
        {
            break;
        }
    }
    assert_eq!(tape.stop().status, Some(0));
}
