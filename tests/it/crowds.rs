//! Very many peers: what they may take of memory and of time, and that each of them is heard.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Resource, getrlimit};
use wiretape::record::{CloseReason, Event};

use crate::faults::random_bytes;
use crate::kernel::{peak_memory, ticks};
use crate::stalls::raise_open_files;
use crate::talk::{MIB, until_written};
use crate::tape::{Tape, eventually, fast_folder, listen_command_in, records, sessions, skip};

/// Every peer is a descriptor of the test, too, and there are not enough for two crowds at once.
static CROWD: Mutex<()> = Mutex::new(());

/// As many peers as are wanted, or for as many as there are descriptors, which is said.
fn crowd(wanted: usize) -> (usize, MutexGuard<'static, ()>) {
    let alone = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    raise_open_files();
    let most = getrlimit(Resource::Nofile).maximum;
    let most = most.map_or(u64::MAX, |most| most.saturating_sub(2_000));
    let peers = wanted.min(usize::try_from(most).unwrap_or(usize::MAX));
    if peers < wanted {
        skip(&format!("{wanted} peers; only {peers} can be had"));
    }
    (peers, alone)
}

/// Has every peer send this once, and then a byte ten times, as far as the kernel takes it at once; how
/// much that was.
fn flood_and_drip(streams: &mut [TcpStream], bytes: &[u8]) -> usize {
    let mut sent = 0;
    for stream in &mut *streams {
        stream.set_nonblocking(true).expect("it is a socket");
        sent += stream.write(bytes).unwrap_or_default();
    }
    for _ in 0..10 {
        for stream in &mut *streams {
            sent += stream.write(b"x").unwrap_or_default();
        }
    }
    sent
}

/// Reads a capture up to its end, and forgets it.
fn drain(mut reader: fs::File) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut piece, mut tail) = (vec![0; MIB], Vec::new());
        loop {
            let len = reader.read(&mut piece).expect("a pipe");
            tail.extend_from_slice(&piece[..len]);
            if memchr::memmem::find(&tail, b"{\"type\":\"end\"").is_some() {
                return;
            }
            let keep = tail.len().min(100);
            tail.drain(..tail.len() - keep);
        }
    })
}

/// Promise 5: whatever peers do while an output stands still.
fn check_memory(args: &[&str], bytes: &[u8]) {
    let (peers, _alone) = crowd(10_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe.ndjson");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &pipe, FileType::Fifo, mode, 0).expect("it is new");
    let reader = fs::File::options().read(true).write(true).open(&pipe);
    let args = [&["-o", "pipe.ndjson", "--buffer", "16MiB"], args].concat();
    let tape = Tape::listen_in(folder.path(), &args);
    let mut streams: Vec<TcpStream> = (0..peers).map(|_| tape.connect()).collect();
    flood_and_drip(&mut streams, bytes);
    let memory = peak_memory(tape.pid());
    assert!(memory <= (16 + 64) * MIB, "{memory} bytes");
    // With a reader, all of it comes through.
    drop(streams);
    let drained = drain(reader.expect("it is a pipe"));
    let ended = tape.stop();
    drained.join().expect("it came to the end");
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
}

#[test]
fn memory_is_bounded_whatever_peers_do() {
    check_memory(&[], &random_bytes(4_000));
}

#[test]
fn memory_is_bounded_however_many_lines_are_unfinished() {
    check_memory(&["--frame", "line"], &[b'x'; 4_000]);
}

/// More than can be kept until they end: they are recorded as they are.
#[test]
fn the_unfinished_lines_of_ten_thousand_peers_are_all_recorded() {
    let (peers, _alone) = crowd(10_000);
    let folder = fast_folder();
    let args = ["-o", "a.ndjson", "--buffer", "16MiB", "--frame", "line"];
    let tape = Tape::listen_in(folder.path(), &args);
    let mut streams: Vec<TcpStream> = (0..peers).map(|_| tape.connect()).collect();
    let sent = flood_and_drip(&mut streams, &[b'y'; 4_000]);
    assert_eq!(sent, peers * 4_010, "nothing holds them");
    drop(streams);
    let file = folder.path().join("a.ndjson");
    until_written(&file, "\"type\":\"close\"", peers);
    let memory = peak_memory(tape.pid());
    assert!(memory <= (16 + 64) * MIB, "{memory} bytes");
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let sessions = sessions(&records(&file));
    assert_eq!(sessions.len(), peers);
    let expected = [&[b'y'; 4_000][..], &[b'x'; 10]].concat();
    for session in sessions.values() {
        assert!(session.bytes == expected);
        let close = session.close.as_ref().expect("it was closed");
        assert_eq!(close.reason, CloseReason::Eof);
    }
}

#[test]
fn nine_thousand_peers_that_are_silent_cost_next_to_nothing() {
    let (peers, _alone) = crowd(9_000);
    // What will be due is not looked at while nothing is.
    let args = ["-o", "a.ndjson", "--idle-timeout", "1h", "--max-age", "2h"];
    let mut tape = Tape::listen(&args);
    let at_first = peak_memory(tape.pid());
    let streams: Vec<TcpStream> = (0..peers).map(|_| tape.connect()).collect();
    until_written(&tape.path("a.ndjson"), "\"type\":\"open\"", peers);
    let more = peak_memory(tape.pid()) - at_first;
    assert!(more <= 32 * MIB, "{more} bytes");
    let before = ticks(tape.pid());
    tape.stand_still(Duration::from_secs(2));
    assert!(ticks(tape.pid()) - before <= 1, "it does something");
    drop(streams);
    assert_eq!(tape.stop().status, Some(0));
}

// --- one who shouts ------------------------------------------------------------------------------

fn micros_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is later").as_micros() as u64
}

/// Promise 8: one floods, and many have a word to say now and then.
#[test]
fn who_says_little_is_heard_beside_one_who_floods() {
    const PEERS: usize = 50;
    const ROUNDS: usize = 8;
    let folder = fast_folder();
    let tape = Tape::spawn(listen_command_in(folder.path(), &["-o", "a.ndjson"]));
    let is_over = AtomicBool::new(false);
    let flooding = tape.connect();
    let flooder = flooding.local_addr().expect("it is connected").to_string();
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| tape.connect()).collect();
    thread::scope(|scope| {
        let is_over = &is_over;
        scope.spawn(move || {
            let mut flooding = flooding;
            while !is_over.load(SeqCst) {
                flooding.write_all(&[b'x'; 256 * 1024]).expect("it reads");
            }
        });
        let len = || Some(fs::metadata(folder.path().join("a.ndjson")).ok()?.len());
        for _ in 0..ROUNDS {
            let before = len().expect("it is there");
            eventually("the flood goes on", || {
                (len()? > before + MIB as u64).then_some(())
            });
            for stream in &mut streams {
                // In one piece, or it may be read in two.
                let line = format!("{}\n", micros_now());
                stream.write_all(line.as_bytes()).expect("it reads");
            }
        }
        is_over.store(true, SeqCst);
    });
    drop(streams);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let mut lines: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut waits = Vec::new();
    for record in records(&folder.path().join("a.ndjson")) {
        let Event::Data { conn, payload, .. } = &record.event else {
            continue;
        };
        if conn.peer == flooder {
            continue;
        }
        for line in String::from_utf8_lossy(payload).lines() {
            let said: u64 = line.parse().expect("a time");
            let heard = record.time.wall.unix_micros();
            waits.push(Duration::from_micros(heard.saturating_sub(said)));
            lines.entry(conn.peer.to_string()).or_default().push(said);
        }
    }
    assert_eq!(lines.len(), PEERS);
    for said in lines.values() {
        assert!(said.len() == ROUNDS && said.is_sorted());
    }
    waits.sort();
    let (usual, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(usual < Duration::from_millis(250), "{usual:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}
