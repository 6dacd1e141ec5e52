//! Stopping: whatever the kernel has acknowledged to a peer is in the capture, and nothing is waited
//! for longer than was said.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;
use wiretape::record::{CloseReason, Event};

use crate::kernel::unacknowledged;
use crate::stalls::stop_within;
use crate::tape::{Session, Tape, eventually, listen_command, program, records, sessions};

/// What a sender knows at the end: its name, the bytes the kernel took from it, and how many of them
/// the other side never acknowledged.
pub struct Sent {
    pub name: String,
    pub bytes: Vec<u8>,
    pub unacknowledged: usize,
}

/// Sends random bytes until the connection is gone.
pub fn send_until_reset(mut stream: TcpStream, seed: u64) -> JoinHandle<Sent> {
    let name = stream.local_addr().expect("it is connected").to_string();
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = Vec::new();
        loop {
            let mut piece = vec![0; random.usize(1..50_000)];
            random.fill(&mut piece);
            let mut rest = &piece[..];
            while !rest.is_empty() {
                match stream.write(rest) {
                    Ok(written) => {
                        bytes.extend_from_slice(&rest[..written]);
                        rest = &rest[written..];
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                        assert!(kinds.contains(&error.kind()), "{error}");
                        return Sent {
                            name,
                            bytes,
                            unacknowledged: unacknowledged(&stream),
                        };
                    }
                }
            }
        }
    })
}

/// Forty senders in mid-flood when TERM comes: what is in the file, and what they sent.
pub fn term_in_mid_flood(args: &[&str]) -> Vec<(Session, Sent)> {
    let tape = Tape::listen(&[args, &["-o", "a.ndjson"]].concat());
    let senders: Vec<_> = (0..40)
        .map(|seed| send_until_reset(tape.connect(), seed))
        .collect();
    let file = tape.path("a.ndjson");
    eventually("the flood is in the file", || {
        let len = std::fs::metadata(&file).ok()?.len();
        (len > 20_000_000).then_some(())
    });
    let ended = stop_within(tape, Duration::from_secs(5));
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let mut sessions = sessions(&records(&ended.path("a.ndjson")));
    assert_eq!(sessions.len(), 40, "peers in the accept queue included");
    let senders = senders.into_iter().map(|sender| {
        let sent = sender.join().expect("it ends with the connection");
        let session = sessions.remove(&sent.name).expect("it is captured");
        (session, sent)
    });
    senders.collect()
}

/// That is exactly what was acknowledged.
pub fn check(args: &[&str]) {
    for (session, sent) in term_in_mid_flood(args) {
        check_session(&session, &sent, &CloseReason::Shutdown);
    }
}

/// What was recorded is exactly what was acknowledged.
fn check_session(session: &Session, sent: &Sent, reason: &CloseReason) {
    let acknowledged = sent.bytes.len() - sent.unacknowledged;
    assert_eq!(session.bytes.len(), acknowledged, "{}", sent.name);
    assert!(session.bytes == sent.bytes[..acknowledged], "{}", sent.name);
    let close = session.close.as_ref().expect("it was closed");
    assert_eq!(close.reason, *reason);
}

#[test]
fn term_in_mid_flood_keeps_every_acknowledged_byte() {
    check(&[]);
}

#[test]
fn peers_that_wait_to_be_accepted_are_read_too() {
    check(&["--max-conns", "10"]);
}

#[test]
fn a_busy_connection_that_grows_too_old_loses_no_acknowledged_byte() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--max-age", "200ms"]);
    let sent = send_until_reset(tape.connect(), 1);
    let sent = sent.join().expect("it ends with the connection");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    check_session(&sessions[&sent.name], &sent, &CloseReason::Limit);
}

#[test]
fn a_peer_that_had_ended_before_it_was_accepted_ends_in_good_order() {
    let mut tape = Tape::listen(&["-o", "a.ndjson", "--max-conns", "1"]);
    let first = tape.connect();
    let mut waiting = tape.connect();
    waiting.write_all(b"hello").expect("the kernel takes it");
    waiting
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let ended = tape.wait();
    assert_eq!(waiting.read(&mut [0; 8]).expect("no reset"), 0);
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    for (stream, bytes, reason) in [
        (&first, &b""[..], CloseReason::Shutdown),
        (&waiting, b"hello", CloseReason::Eof),
    ] {
        let session = &sessions[&stream.local_addr().expect("it was connected").to_string()];
        assert_eq!(session.bytes, bytes);
        assert_eq!(
            session.close.as_ref().expect("it was closed").reason,
            reason
        );
    }
}

#[test]
fn a_peer_that_only_waits_sees_an_orderly_end() {
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it listens");
    let ended = tape.stop();
    assert_eq!(stream.read(&mut [0; 8]).expect("no reset"), 0);
    let records = records(&ended.path("a.ndjson"));
    let session = &sessions(&records)[&stream.local_addr().expect("it was connected").to_string()];
    assert_eq!(session.bytes, b"hello");
}

#[test]
fn a_unix_peer_loses_nothing_either() {
    let mut tape = Tape::listen(&["unix:socket", "-o", "a.ndjson", "--max-conns", "1"]);
    // The second one waits to be accepted; it has ended already when it is.
    let streams = [(); 2].map(|()| {
        let mut stream = UnixStream::connect(tape.path("socket")).expect("it listens");
        stream
            .write_all(&[b'x'; 50_000])
            .expect("the kernel takes it");
        stream
    });
    let end = streams[1].shutdown(std::net::Shutdown::Write);
    end.expect("it is open");
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let ended = tape.wait();
    assert_eq!(ended.status, Some(0));
    assert!(!ended.path("socket").exists(), "the socket's file is left");
    let mut data = 0;
    for record in records(&ended.path("a.ndjson")) {
        match record.event {
            Event::Data { payload, .. } => data += payload.len(),
            Event::Eof { conn, .. } => assert_eq!(conn.id.0, 2),
            Event::Close { conn, close } => {
                let expected = [CloseReason::Shutdown, CloseReason::Eof];
                assert_eq!(close.reason, expected[conn.id.0 as usize - 1]);
            }
            _ => {}
        }
    }
    assert_eq!(data, 100_000);
    drop(streams);
}

/// A wiretape whose only reader never reads, with its buffer full.
fn stalled(args: &[&str]) -> (Tape, JoinHandle<Sent>) {
    let mut command = listen_command(&[&["--json", "--buffer", "1"], args].concat());
    command.stdout(Stdio::piped());
    let tape = Tape::spawn(command);
    let stream = tape.connect();
    let watched = stream.try_clone().expect("a second handle");
    let sender = send_until_reset(stream, 1);
    until_held(&watched);
    (tape, sender)
}

/// Waits until what is sent over this socket is not taken any more: bytes wait for an acknowledgement
/// and stay as many.
pub fn until_held(watched: &TcpStream) {
    let mut last = (0, 0);
    eventually("the sender is held", || {
        let left = unacknowledged(watched);
        last = if left == last.0 {
            (left, last.1 + 1)
        } else {
            (left, 0)
        };
        (left > 0 && last.1 > 200).then_some(())
    });
}

#[test]
fn an_output_that_never_takes_anything_ends_with_the_drain_time() {
    for framing in ["chunk", "line"] {
        let (tape, sender) = stalled(&["--drain", "300ms", "--frame", framing]);
        let ended = stop_within(tape, Duration::from_millis(300));
        assert_eq!(ended.status, Some(3));
        let expected = "not all written: standard output";
        assert!(ended.has_said(expected), "{:?}", ended.said);
        sender.join().expect("it ends with the connection");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut tape, sender) = stalled(&["--drain", "1h"]);
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    // One that follows at once is taken for the same; so they are sent until it ends.
    let status = eventually("the second signal is heard", || {
        tape.try_signal(Signal::INT);
        tape.ended()
    });
    assert_eq!(status, Some(3));
    sender.join().expect("it ends with the connection");
}

#[test]
fn timeout_signals_twice_and_means_it_once() {
    let Some(timeout) = program("timeout") else {
        return;
    };
    let inner = listen_command(&["-o", "a.ndjson"]);
    let mut command = Command::new(timeout);
    command
        .arg("3")
        .arg(inner.get_program())
        .args(inner.get_args());
    let tape = Tape::spawn(command);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it listens");
    let ended = tape.wait();
    assert!(!ended.has_said("told twice"), "{:?}", ended.said);
    // timeout(1) ends with 124; its child, which is told apart by its last record, ended in order.
    let records = records(&ended.path("a.ndjson"));
    let last = &records.last().expect("there are records").event;
    assert!(matches!(last, Event::End { .. }), "{last:?}");
}
