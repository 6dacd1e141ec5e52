//! Descriptors that have run out, and all else that accept(2) may fail with: nobody is lost, nothing
//! spins, and it is said at most once in a while.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::kernel::ticks;
use crate::talk::times_said;
use crate::tape::{
    Tape, eventually, fast_folder, joined, listen_command_in, program, records, segments, sessions,
    strace, under,
};

/// How many connections the files of a folder tell of, or `None` where one went while they were read.
fn opened_in(folder: &Path) -> Option<usize> {
    let mut opened = 0;
    for entry in fs::read_dir(folder).ok()? {
        let bytes = fs::read(entry.ok()?.path()).ok()?;
        opened += memchr::memmem::find_iter(&bytes, "\"type\":\"open\"").count();
    }
    Some(opened)
}

/// Says something, and ends. What it said, by its name.
fn say(mut stream: &TcpStream, nth: usize) -> (String, String) {
    let said = format!("this is peer {nth}\n").repeat(20);
    stream
        .write_all(said.as_bytes())
        .expect("the kernel takes it");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let name = stream.local_addr().expect("it is connected").to_string();
    (name, said)
}

/// Promise 6.
#[test]
fn two_hundred_peers_who_stay_share_few_descriptors_and_lose_nothing() {
    const PEERS: usize = 200;
    const LEAVING: usize = 41;
    let Some(prlimit) = program("prlimit") else {
        return;
    };
    let mut outer = Command::new(prlimit);
    outer.arg("--nofile=64:64");
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "--rotate", "4KiB"];
    let mut tape = Tape::spawn(under(outer, &listen_command_in(folder.path(), &args)));
    let mut streams = (0..PEERS).map(|_| tape.connect()).collect::<Vec<_>>();
    let opened = || opened_in(folder.path());
    eventually("it accepts", || (opened()? > 0).then_some(()));
    // It has as many as it can have, says so, and waits: that is worth no time.
    tape.wait_for_line("others wait to be accepted");
    let before = ticks(tape.pid());
    tape.stand_still(Duration::from_secs(2));
    assert!(ticks(tape.pid()) - before <= 10, "it spins");
    let served = opened().expect("nothing is written");
    assert!((10..64).contains(&served), "{served}");
    // Whenever one has left, another is served.
    let rest = streams.split_off(LEAVING);
    let (mut sent, mut waits) = (Vec::new(), Vec::new());
    for (nth, stream) in streams.iter().enumerate() {
        sent.push(say(stream, nth));
        let left = Instant::now();
        eventually("another is served", || {
            (opened()? > served + nth).then_some(())
        });
        waits.push(left.elapsed());
    }
    waits.sort();
    let usual = waits[LEAVING / 2];
    assert!(usual < Duration::from_millis(250), "{usual:?}");
    sent.extend((LEAVING..).zip(&rest).map(|(nth, at)| say(at, nth)));
    for mut stream in rest {
        assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let mut files = segments(folder.path(), "a");
    assert!(files.len() > 10, "it was rotated all the while");
    files.push(folder.path().join("a.ndjson"));
    let sessions = sessions(&joined(files.iter().map(|file| records(file)).collect()));
    assert_eq!((sessions.len(), sent.len()), (PEERS, PEERS));
    for (name, said) in sent {
        assert_eq!(sessions[&name].bytes, said.as_bytes());
    }
}

// --- errors of accept(2) -------------------------------------------------------------------------

/// A wiretape for which calls of accept(2) fail so, and are counted.
fn injected(failure: &str) -> Option<(TempDir, Tape)> {
    let folder = fast_folder();
    let log = folder.path().join("log").display().to_string();
    let inject = format!("inject=accept4:{failure}");
    let trace = "trace=accept4,exit_group";
    let strace = strace(&["-o", &log, "-e", trace, "-e", &inject])?;
    let args = ["-o", "a.ndjson", "--drain", "200ms"];
    let tape = Tape::spawn(under(strace, &listen_command_in(folder.path(), &args)));
    Some((folder, tape))
}

/// How often accept(2) was called by a run that has ended.
fn calls(folder: &Path) -> usize {
    eventually("strace has written everything", || {
        let log = fs::read_to_string(folder.join("log")).ok()?;
        let is_all = log.contains("exit_group(");
        is_all.then(|| log.matches("accept4(").count())
    })
}

/// The first six calls fail so. All peers are served; none of the other calls was for nothing, apart from
/// those that find that nobody waits any more.
fn check_passing(error: &str, times_expected: usize) {
    const FAILING: usize = 6;
    const PEERS: usize = 3;
    let failure = format!("error={error}:when=1..{FAILING}");
    let (folder, tape) = injected(&failure).expect("it was possible before");
    for nth in 0..PEERS {
        let stream = tape.connect();
        let (_, said) = say(&stream, nth);
        assert_eq!((&stream).read(&mut [0]).expect("an orderly end"), 0);
        eventually("what it said is written", || {
            let written = fs::read_to_string(folder.path().join("a.ndjson")).ok()?;
            let said = said.lines().next()?;
            written.contains(said).then_some(())
        });
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{error}: {:?}", ended.said);
    assert_eq!(times_said(&ended, "accept: "), times_expected, "{error}");
    let calls = calls(folder.path());
    // The last look is when it is told to stop.
    let most = FAILING + 2 * PEERS + 1;
    assert!(
        (FAILING + PEERS..=most).contains(&calls),
        "{error}: {calls}"
    );
}

#[test]
fn an_accept_that_fails_is_tried_again_and_everybody_is_served() {
    if strace(&[]).is_none() {
        return;
    }
    // One peer's trouble: on to the next at once.
    for error in ["ECONNABORTED", "EINTR", "EPERM", "EPROTO", "ENETDOWN"] {
        check_passing(error, 0);
    }
    // Something has run out: said once, and tried again a little later.
    let checks = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]
        .map(|error| thread::spawn(move || check_passing(error, 1)));
    for check in checks {
        check.join().expect("it holds");
    }
}

/// One peer's trouble that is always there is not that peer's: it is not met again and again at once.
#[test]
fn an_accept_that_always_fails_does_not_spin() {
    for (error, words) in [
        ("ECONNABORTED", "software caused connection abort"),
        ("EPERM", "operation not permitted"),
        ("EMFILE", "too many open files"),
    ] {
        let Some((folder, mut tape)) = injected(&format!("error={error}")) else {
            return;
        };
        let stream = tape.connect();
        tape.wait_for_line(&format!(
            "accept: {words}; trying again as connections close"
        ));
        // As long as it is not said again.
        tape.stand_still(Duration::from_millis(700));
        let ended = tape.stop();
        assert_eq!(ended.status, Some(3), "{:?}", ended.said);
        assert!(ended.has_said("the accept queue was not looked into"));
        // Some hundred at first, then ten a second.
        let calls = calls(folder.path());
        assert!((8..600).contains(&calls), "{error}: {calls}");
        drop(stream);
    }
}
