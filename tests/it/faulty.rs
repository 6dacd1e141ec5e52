//! Networks that split, merge, delay and hold what passes: a relay that does it all, between wiretape and
//! whoever it speaks to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use wiretape::record::Event;

use crate::hand::{Heard, Target, replay_command};
use crate::talk::{IN, OUT, call, captured, end_sending, hear, patient, proxy};
use crate::tape::{Ended, Tape, records};

/// Lines of each who speaks.
const LINES: usize = 120;

const SPEAKERS: u64 = 8;

/// Passes on what comes, in other pieces and at other times, up to the end.
fn pass(mut from: TcpStream, mut to: TcpStream, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut buffer = [0; 8192];
    loop {
        // What comes meanwhile comes in one piece, beyond what one read of this side takes.
        match random.u8(0..50) {
            0 => thread::park_timeout(Duration::from_millis(random.u64(20..60))),
            1..10 => thread::park_timeout(Duration::from_micros(random.u64(10..2000))),
            _ => {}
        }
        let room = random.usize(1..=buffer.len());
        let Ok(len @ 1..) = from.read(&mut buffer[..room]) else {
            let _ = to.shutdown(Shutdown::Write);
            return;
        };
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(random.usize(1..=rest.len()));
            if to.write_all(piece).is_err() {
                return;
            }
            rest = behind;
        }
    }
}

/// A relay to this address that does what bad networks do; its own address.
fn faulty(address: &str) -> String {
    let address = address.to_owned();
    let relay = Target::serve(move |nth, from| {
        let to = call(&address);
        let from = patient(from);
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        let back = (copy(&to), copy(&from));
        let back = thread::spawn(move || pass(back.0, back.1, 2 * nth as u64 + 1));
        pass(from, to, 2 * nth as u64);
        back.join().expect("no panic");
    });
    relay.address
}

/// Lines of any length, seldom a long one.
fn lines(seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let line = |nth| {
        let len = match random.u8(0..20) {
            0 => random.usize(5_000..30_000),
            _ => random.usize(0..200),
        };
        format!("{seed} {nth} {}\n", "l".repeat(len))
    };
    (0..LINES).map(line).collect()
}

/// The lines of each connection in a capture, by the first of them.
fn captured_lines(capture: &Path) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for record in records(capture) {
        if let Event::Data { conn, payload, .. } = &record.event {
            let line = String::from_utf8(payload.to_vec()).expect("it is text");
            all.entry(conn.id.0).or_default().push(line);
        }
    }
    let by_first = |lines: Vec<String>| (lines[0].clone(), lines);
    all.into_values().map(by_first).collect()
}

fn spoken() -> BTreeMap<String, Vec<String>> {
    let by_first = |lines: Vec<String>| (lines[0].clone(), lines);
    (0..SPEAKERS).map(lines).map(by_first).collect()
}

fn check_ended(ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
}

#[test]
fn lines_are_captured_and_played_whole_however_they_are_torn_on_the_way() {
    let args = ["-o", "a.ndjson", "--frame", "line"];
    let tape = Tape::listen(&args);
    let relay = faulty(&tape.addresses[0]);
    let speakers = (0..SPEAKERS).map(|seed| {
        let mut stream = call(&relay);
        thread::spawn(move || {
            for line in lines(seed) {
                stream.write_all(line.as_bytes()).expect("it reads");
            }
            crate::tape::end(stream);
        })
    });
    for speaker in speakers.collect::<Vec<_>>() {
        speaker.join().expect("all was taken");
    }
    let recorded = tape.stop();
    check_ended(&recorded);
    assert!(captured_lines(&recorded.path("a.ndjson")) == spoken());

    let target = Tape::listen(&args);
    let relay = faulty(&target.addresses[0]);
    let mut replay = replay_command(&["a.ndjson", &relay, "--speed", "max"]);
    replay.current_dir(recorded.folder.path());
    check_ended(&Tape::spawn(replay).wait());
    let again = target.stop();
    check_ended(&again);
    assert!(captured_lines(&again.path("a.ndjson")) == spoken());
}

/// Faults on both sides of a proxy, and in both directions.
#[test]
fn conversations_pass_a_proxy_unchanged_however_they_are_torn_on_the_way() {
    let target = Target::serve(|_, stream| {
        let heard = hear(&stream);
        let answer = lines(99).concat();
        (&stream).write_all(answer.as_bytes()).expect("it reads");
        end_sending(&stream);
        heard.join().expect("no panic").bytes
    });
    let tape = proxy(&faulty(&target.address), &[]);
    let relay = faulty(&tape.addresses[0]);
    let speakers = (0..SPEAKERS).map(|seed| {
        let stream = call(&relay);
        thread::spawn(move || {
            let heard = hear(&stream);
            let said = lines(seed).concat();
            (&stream).write_all(said.as_bytes()).expect("it reads");
            end_sending(&stream);
            heard.join().expect("no panic")
        })
    });
    for speaker in speakers.collect::<Vec<_>>() {
        let Heard { bytes, error, .. } = speaker.join().expect("it is answered");
        assert!(bytes == lines(99).concat().as_bytes() && error.is_none());
    }
    let mut said: Vec<_> = (0..SPEAKERS)
        .map(|seed| lines(seed).concat().into_bytes())
        .collect();
    let mut heard = target.results(SPEAKERS as usize);
    let ended = tape.stop();
    check_ended(&ended);
    let found = captured(&ended);
    assert!(
        found
            .iter()
            .all(|talk| talk.bytes[OUT] == lines(99).concat().as_bytes())
    );
    let mut captured: Vec<_> = found
        .into_iter()
        .map(|talk| talk.bytes[IN].clone())
        .collect();
    for all in [&mut said, &mut heard, &mut captured] {
        all.sort();
    }
    assert!(heard == said && captured == said);
}
