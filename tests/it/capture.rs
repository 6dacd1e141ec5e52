//! What peers send is what the capture holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use wiretape::record::{CloseReason, Event};

use crate::tape::{Tape, end, program, records, sessions};

/// Random bytes, text among them, in pieces of random sizes.
fn pieces(random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    (0..random.usize(1..60))
        .map(|_| {
            let len = match random.u8(0..3) {
                0 => random.usize(1..8),
                1 => random.usize(1..2_000),
                _ => random.usize(1..100_000),
            };
            let is_text = random.bool();
            let byte = |_| {
                if is_text {
                    random.u8(0..0x80)
                } else {
                    random.u8(..)
                }
            };
            (0..len).map(byte).collect()
        })
        .collect()
}

/// Sends random bytes over 64 connections at once; what was sent, by the sender's address.
fn flood(tape: &Tape) -> BTreeMap<String, Vec<u8>> {
    let senders: Vec<_> = (0..64)
        .map(|seed| {
            let mut stream = tape.connect();
            thread::spawn(move || {
                let name = stream.local_addr().expect("it is connected").to_string();
                let pieces = pieces(&mut fastrand::Rng::with_seed(seed));
                for piece in &pieces {
                    stream.write_all(piece).expect("it reads");
                }
                end(stream);
                (name, pieces.concat())
            })
        })
        .collect();
    (senders.into_iter())
        .map(|sender| sender.join().expect("it sent all"))
        .collect()
}

fn check(args: &[&str]) {
    let tape = Tape::listen(&[args, &["-o", "a.ndjson", "-o", "json:b"]].concat());
    let sent = flood(&tape);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(ended.read("a.ndjson") == ended.read("b"), "outputs differ");

    let records = records(&ended.path("a.ndjson"));
    assert!(matches!(records[0].event, Event::Start(_)));
    assert!(matches!(
        records.last().expect("there are").event,
        Event::End { .. }
    ));
    let sessions = sessions(&records);
    assert_eq!(sessions.len(), sent.len());
    for (peer, bytes) in &sent {
        let session = &sessions[peer];
        assert!(session.bytes == *bytes, "{peer}: not what was sent");
        assert!(session.eof);
        let close = session.close.as_ref().expect("it was closed");
        assert_eq!(close.reason, CloseReason::Eof);
    }
    unchanged_by_jq(&ended.read("a.ndjson"));
}

#[test]
fn sixty_four_connections_of_random_bytes_come_back_whole() {
    check(&[]);
}

#[test]
fn they_come_back_whole_through_the_smallest_buffer() {
    check(&["--buffer", "1"]);
}

#[test]
fn they_come_back_whole_as_lines() {
    check(&["--frame", "line", "--frame-max", "1000"]);
}

#[test]
fn lines_are_records_of_their_own_however_they_arrive() {
    let tape = Tape::listen(&["--frame", "line", "--frame-max", "10", "-o", "a.ndjson"]);
    let mut stream = tape.connect();
    stream.set_nodelay(true).expect("it is a TCP socket");
    for piece in ["one\ntw", "o\n", "\n", "a line too long\n", "no end"] {
        stream.write_all(piece.as_bytes()).expect("it reads");
    }
    end(stream);
    let ended = tape.stop();
    let lines: Vec<_> = records(&ended.path("a.ndjson"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Data {
                payload, partial, ..
            } => Some((String::from_utf8_lossy(&payload).into_owned(), partial)),
            _ => None,
        })
        .collect();
    let expected = [
        ("one\n", false),
        ("two\n", false),
        ("\n", false),
        ("a line too", true),
        (" long\n", false),
        ("no end", true),
    ];
    assert_eq!(
        lines,
        expected.map(|(line, partial)| (line.to_owned(), partial))
    );
}

#[test]
fn a_flood_comes_in_chunks_of_64_kib_at_most() {
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    let bytes: Vec<u8> = (0..=255).cycle().take(20_000_000).collect();
    tape.send(&bytes);
    let ended = tape.stop();
    let records = records(&ended.path("a.ndjson"));
    let mut found = Vec::new();
    for record in &records {
        if let Event::Data {
            payload, offset, ..
        } = &record.event
        {
            assert!(payload.len() <= 64 * 1024, "{} bytes", payload.len());
            assert_eq!(*offset, found.len() as u64);
            found.extend_from_slice(payload);
        }
    }
    assert!(found == bytes, "not what was sent");
}

#[test]
fn raw_output_is_the_bytes_and_nothing_else() {
    let tape = Tape::listen(&["-o", "a.bin", "-o", "b.ndjson"]);
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    tape.send(&bytes);
    tape.send(b"and more");
    let ended = tape.stop();
    assert!(ended.read("a.bin") == [&bytes[..], b"and more"].concat());
}

/// `jq -c .` leaves a capture as it is, byte for byte.
fn unchanged_by_jq(capture: &[u8]) {
    let Some(jq) = program("jq") else { return };
    let mut child = Command::new(jq)
        .args(["-c", "."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("jq starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = capture.to_vec();
    let feeder = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("jq ends");
    feeder.join().expect("no panic").expect("jq reads all");
    assert!(output.status.success());
    assert!(output.stdout == capture, "jq changed the capture");
}
