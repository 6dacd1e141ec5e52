//! Addresses and limits: what is listened on, and what happens when connections are too many or too
//! old.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use wiretape::record::{Close, CloseReason, Event};

use crate::tape::{Ended, Tape, end, eventually, fast_folder, listen_command, program, records};

fn closes(ended: &Ended) -> Vec<Close> {
    let close = |record: wiretape::record::Record<'static>| match record.event {
        Event::Close { close, .. } => Some(close.into_owned()),
        _ => None,
    };
    records(&ended.path("a.ndjson"))
        .into_iter()
        .filter_map(close)
        .collect()
}

/// Sets the limit of open files of a run behind its back.
fn lower(prlimit: &Path, tape: &Tape, nofile: &str) {
    let pid = tape.pid().as_raw_nonzero().to_string();
    let lowered = Command::new(prlimit)
        .args([&format!("--nofile={nofile}"), "--pid", &pid])
        .status();
    assert!(lowered.expect("prlimit starts").success());
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_shown_as_ipv4() {
    let tape = Tape::listen(&["0", "-o", "a.ndjson"]);
    let port = tape.addresses[0]
        .rsplit(':')
        .next()
        .expect("it has a port")
        .to_owned();
    let mut peers = Vec::new();
    for host in ["127.0.0.1", "[::1]"] {
        // A machine may be without IPv6.
        if let Ok(stream) = TcpStream::connect(format!("{host}:{port}")) {
            peers.push((
                stream.local_addr().expect("it is connected").to_string(),
                format!("{host}:{port}"),
            ));
            end(stream);
        }
    }
    let ended = tape.stop();
    let opened: Vec<_> = records(&ended.path("a.ndjson"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Open { conn, local, .. } => Some((conn.peer.into_owned(), local.into_owned())),
            _ => None,
        })
        .collect();
    assert_eq!(opened, peers);
    assert!(opened[0].0.starts_with("127.0.0.1:"));
}

#[test]
fn several_addresses_feed_one_capture() {
    let tape = Tape::listen(&["127.0.0.1:0", "127.0.0.1:0", "unix:socket", "-o", "a.bin"]);
    assert_eq!(tape.addresses.len(), 3);
    for address in &tape.addresses[..2] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(b"tcp ").expect("it reads");
        end(stream);
    }
    let mut stream = UnixStream::connect(tape.path("socket")).expect("it listens");
    stream.write_all(b"unix").expect("it reads");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    assert_eq!(tape.stop().read("a.bin"), b"tcp tcp unix");
}

#[test]
fn an_abandoned_unix_socket_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("socket");
    let live = UnixListener::bind(&path).expect("the folder is writable");
    let address = format!("unix:{}", path.display());
    let refused = listen_command(&[&address]).output().expect("it starts");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("address already in use"));
    live.set_nonblocking(true).expect("it is a socket");
    let disturbed = live.accept().expect_err("nobody knocked");
    assert_eq!(disturbed.kind(), std::io::ErrorKind::WouldBlock);
    drop(live);
    assert!(path.exists(), "std leaves the file");
    let tape = Tape::listen(&[&address, "-o", "a.bin"]);
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn peers_beyond_the_limit_wait_and_are_served() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--max-conns", "2"]);
    let streams: Vec<_> = (0..6).map(|_| tape.connect()).collect();
    for mut stream in streams {
        stream.write_all(b"hello").expect("the kernel takes it");
        end(stream);
    }
    let ended = tape.stop();
    let closes = closes(&ended);
    assert_eq!(closes.len(), 6);
    assert!(closes.iter().all(|close| close.in_bytes == 5));
    let mut open = 0;
    for record in records(&ended.path("a.ndjson")) {
        match record.event {
            Event::Open { .. } => open += 1,
            Event::Close { .. } => open -= 1,
            _ => {}
        }
        assert!(open <= 2);
    }
}

#[test]
fn a_crowd_at_one_address_does_not_starve_the_other() {
    let tape = Tape::listen(&[
        "127.0.0.1:0",
        "127.0.0.1:0",
        "--max-conns",
        "1",
        "-o",
        "a.ndjson",
    ]);
    let connect = |address: &String| TcpStream::connect(address).expect("it listens");
    let holder = connect(&tape.addresses[0]);
    let file = tape.path("a.ndjson");
    eventually("the only place is taken", || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("\"open\"").then_some(())
    });
    let mut waiting: Vec<_> = (0..50).map(|_| connect(&tape.addresses[0])).collect();
    waiting.push(connect(&tape.addresses[1]));
    for stream in &waiting {
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
    }
    end(holder);
    waiting.into_iter().for_each(|mut stream| {
        assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    });
    let ended = tape.stop();
    let order: Vec<_> = records(&ended.path("a.ndjson"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Open { local, .. } => Some(local.into_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(order.len(), 52);
    let place = order.iter().position(|local| *local != order[0]);
    assert!(place.is_some_and(|place| place < 51), "it was served last");
}

#[test]
fn peers_wait_while_descriptors_have_run_out() {
    // The limit is lowered behind its back, so accept meets EMFILE.
    let Some(prlimit) = program("prlimit") else {
        return;
    };
    let mut tape = Tape::listen(&["-o", "a.ndjson"]);
    lower(&prlimit, &tape, "32:32");
    let streams: Vec<_> = (0..60).map(|_| tape.connect()).collect();
    tape.wait_for_line("accept: too many open files; trying again as connections close");
    for mut stream in streams {
        stream.write_all(b"hello").expect("the kernel takes it");
        end(stream);
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert_eq!(closes(&ended).len(), 60);
}

#[test]
fn no_more_connections_are_opened_than_leave_room_for_files() {
    let Some(prlimit) = program("prlimit") else {
        return;
    };
    let inner = listen_command(&["-o", "a.ndjson", "--max-conns", "1000"]);
    let mut command = Command::new(prlimit);
    command
        .arg("--nofile=48:48")
        .arg(inner.get_program())
        .args(inner.get_args());
    let tape = Tape::spawn(command);
    let streams: Vec<_> = (0..40).map(|_| tape.connect()).collect();
    std::fs::rename(tape.path("a.ndjson"), tape.path("moved")).expect("it exists");
    tape.signal(Signal::HUP);
    eventually("the file is opened anew", || {
        tape.path("a.ndjson").exists().then_some(())
    });
    streams.into_iter().for_each(end);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(!ended.has_said("too many open files"), "{:?}", ended.said);
}

#[test]
fn a_file_is_forced_to_the_disk_without_a_descriptor_to_spare() {
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "--sync", "500ms"];
    let mut tape = Tape::listen_in(folder.path(), &args);
    // Who answers has opened all that it needs.
    tape.signal(Signal::USR1);
    tape.wait_for_line("a.ndjson: ");
    let pid = tape.pid();
    let set = |limit| prlimit(Some(pid), Resource::Nofile, limit).expect("it is a child");
    let before = getrlimit(Resource::Nofile);
    let maximum = before.maximum;
    // The lowest number that is free would be the next.
    let is_taken = |number: &u64| Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    set(Rlimit {
        current: (0..).find(|number| !is_taken(number)),
        maximum,
    });
    // The first time that its name is forced to the disk, too, falls into this.
    tape.stand_still(Duration::from_secs(1));
    set(before);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
}

#[test]
fn a_peer_is_not_idle_while_nobody_reads_it() {
    let mut command = listen_command(&["--json", "--buffer", "1", "--idle-timeout", "100ms"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut stream = tape.connect();
    let sent = 8_000_000;
    let sender = thread::spawn(move || {
        stream
            .write_all(&vec![b'x'; sent])
            .expect("it is not cut off");
        end(stream);
    });
    // The output stands still for three times as long as a peer may be idle.
    let mut stdout = tape.take_stdout();
    tape.stand_still(Duration::from_millis(300));
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("it is text");
        text
    });
    sender.join().expect("all was sent");
    assert_eq!(tape.stop().status, Some(0));
    let text = reader.join().expect("no panic");
    assert!(text.contains(&format!("\"reason\":\"eof\",\"in_bytes\":{sent},")));
}

#[test]
fn urgent_bytes_are_bytes_and_hide_none_behind_them() {
    let tape = Tape::listen(&["-o", "a.bin"]);
    let mut stream = tape.connect();
    stream.write_all(b"abc").expect("it reads");
    let urgent = socket2::SockRef::from(&stream).send_out_of_band(b"X");
    assert_eq!(urgent.expect("it is a TCP socket"), 1);
    stream.write_all(b"def").expect("it reads");
    // Seen while the peer still talks: nothing is left unread.
    eventually("all is in the file", || {
        let bytes = std::fs::read(tape.path("a.bin")).ok()?;
        (bytes == b"abcXdef").then_some(())
    });
    end(stream);
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn an_idle_connection_is_closed() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--idle-timeout", "50ms"]);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it reads");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    let closes = closes(&tape.stop());
    assert_eq!(closes[0].reason, CloseReason::IdleTimeout);
    assert_eq!(closes[0].in_bytes, 5);
    assert!(closes[0].duration_us >= 50_000);
}

#[test]
fn an_old_connection_is_closed_however_busy() {
    let tape = Tape::listen(&[
        "-o",
        "a.ndjson",
        "--max-age",
        "50ms",
        "--idle-timeout",
        "1h",
    ]);
    let mut stream = tape.connect();
    eventually("it is closed", || stream.write_all(b"busy").err());
    let closes = closes(&tape.stop());
    assert_eq!(closes[0].reason, CloseReason::Limit);
    assert!(closes[0].duration_us >= 50_000);
}

#[test]
fn a_reset_is_told_from_an_orderly_end() {
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    let stream = tape.connect();
    let socket = socket2::SockRef::from(&stream);
    socket
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("it is a socket");
    drop(stream);
    let file = tape.path("a.ndjson");
    eventually("the close is recorded", || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("\"close\"").then_some(())
    });
    let closes = closes(&tape.stop());
    assert_eq!(closes[0].reason, CloseReason::Reset);
}

/// Without a descriptor accepting fails, whether anybody waits or not.
#[test]
fn a_stop_without_descriptors_does_not_wait_for_nobody() {
    let Some(prlimit) = program("prlimit") else {
        return;
    };
    let tape = Tape::listen(&["-o", "a.ndjson", "--drain", "20s"]);
    // Below what it has open already.
    lower(&prlimit, &tape, "3:3");
    // Had it waited, the status would be another.
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
}

/// With a limit of none at all not even that can be asked: whether anybody waits.
#[test]
fn a_stop_with_no_descriptor_at_all_says_who_was_not_looked_at() {
    let Some(prlimit) = program("prlimit") else {
        return;
    };
    let mut tape = Tape::listen(&["-o", "a.ndjson", "--drain", "300ms"]);
    lower(&prlimit, &tape, "0:");
    let _waiting = tape.connect();
    tape.wait_for_line("accept: too many open files");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3), "{:?}", ended.said);
    let said = "the accept queue was not looked into";
    assert!(ended.has_said(said), "{:?}", ended.said);
    // The totals are told all the same.
    assert!(
        ended.has_said("0 connections, 0 open; "),
        "{:?}",
        ended.said
    );
}
