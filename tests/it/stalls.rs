//! `proxy` when something stands still or ends before its time: it is told to stop, a side that does
//! not read, an output that takes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use socket2::SockRef;
use wiretape::codec::ndjson::Reader;
use wiretape::record::{CloseReason, Event};

use crate::hand::{Heard, Target, take};
use crate::kernel::peak_memory;
use crate::review::check_finds_only_gaps;
use crate::shutdown::{Sent, send_until_reset, until_held};
use crate::talk::{
    IN, MIB, OUT, Port, accept, call, call_narrowly, captured, check_status, end_sending, hear,
    name, proxy, proxy_command, random, until_written,
};
use crate::tape::{Ended, Tape, eventually};

/// The buffer where nothing else is said, and what the program itself takes.
const OTHER_MEMORY: usize = 32 * MIB;

// --- told to stop --------------------------------------------------------------------------------

/// Bytes of which the kernel has said that they arrived.
pub fn acknowledged(sent: &Sent) -> &[u8] {
    &sent.bytes[..sent.bytes.len() - sent.unacknowledged]
}

/// A side that hears the other one, and floods it or not.
struct Flood {
    heard: JoinHandle<Heard>,
    sent: Option<JoinHandle<Sent>>,
}

impl Flood {
    fn begin(stream: TcpStream, floods: bool, seed: u64) -> Self {
        Self {
            heard: hear(&stream),
            sent: floods.then(|| send_until_reset(stream, seed)),
        }
    }

    /// What it heard, and what of its own was acknowledged.
    fn end(self) -> (Heard, Vec<u8>) {
        let sent = self.sent.map(|sent| sent.join().expect("it ends as well"));
        let heard = self.heard.join().expect("it ends with the connection");
        let acknowledged = sent.as_ref().map(acknowledged).unwrap_or_default();
        (heard, acknowledged.to_vec())
    }
}

/// Ten conversations in which either side floods the other or does not, when TERM comes.
fn term_in_mid_flood(client_floods: bool, target_floods: bool) {
    const CLIENTS: usize = 10;
    let target = Target::serve(move |nth, stream| {
        // Which client it is.
        let seed = take(&stream, 8);
        let flood = Flood::begin(stream, target_floods, 100 + nth as u64);
        (seed, flood.end())
    });
    let tape = proxy(&target.address, &[]);
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|seed| {
            let mut stream = call(&tape.addresses[0]);
            stream.write_all(&seed.to_be_bytes()).expect("it reads");
            (name(&stream), Flood::begin(stream, client_floods, seed))
        })
        .collect();
    let file = tape.path("a.ndjson");
    eventually("the flood is in the file", || {
        let len = fs::metadata(&file).ok()?.len();
        (len > 10_000_000).then_some(())
    });
    let ended = stop_within(tape, Duration::from_secs(5));
    check_status(&ended, 0, &[]);
    let found: BTreeMap<_, _> = captured(&ended)
        .into_iter()
        .map(|talk| (talk.peer.clone(), talk))
        .collect();
    assert_eq!(found.len(), CLIENTS);
    let at_target: BTreeMap<_, _> = target.results(CLIENTS).into_iter().collect();
    for (seed, (name, client)) in clients.into_iter().enumerate() {
        let talk = &found[&name];
        assert_eq!(talk.reason(), CloseReason::Shutdown);
        let seed = (seed as u64).to_be_bytes();
        let (at_client, from_client) = client.end();
        let (at_target, from_target) = &at_target[&seed[..]];
        // What each side knows to have arrived is captured, ...
        let [incoming, outgoing] = &talk.bytes;
        assert_eq!(incoming.len(), 8 + from_client.len(), "in");
        assert!(incoming.starts_with(&seed) && incoming[8..] == from_client);
        assert_eq!(outgoing.len(), from_target.len(), "out");
        assert!(outgoing == from_target);
        // ... and passed on.
        assert_eq!(at_target.bytes.len(), from_client.len(), "at the target");
        assert!(at_target.bytes == from_client);
        assert_eq!(at_client.bytes.len(), from_target.len(), "at the client");
        assert!(at_client.bytes == *from_target);
        assert_eq!((at_client.error, at_target.error), (None, None));
    }
}

#[test]
fn term_in_mid_flood_passes_on_and_captures_every_acknowledged_byte() {
    term_in_mid_flood(true, false);
    term_in_mid_flood(false, true);
}

#[test]
fn term_in_mid_flood_both_ways_passes_on_and_captures_every_acknowledged_byte() {
    term_in_mid_flood(true, true);
}

#[test]
fn term_between_question_and_answer_ends_both_sides_in_good_order() {
    let target = Target::serve(|_, mut stream| {
        let heard = take(&stream, 8);
        stream.write_all(b"wait").expect("it reads");
        (heard, Heard::listen(&stream))
    });
    let tape = proxy(&target.address, &[]);
    let mut stream = call(&tape.addresses[0]);
    stream.write_all(b"question").expect("it reads");
    assert_eq!(take(&stream, 4), b"wait");
    let ended = tape.stop();
    check_status(&ended, 0, &["stopping: reading what 1 connection sent"]);
    assert_eq!(Heard::listen(&stream).error, None);
    let (_, (heard, rest)) = target.result();
    assert_eq!(
        (&heard[..], &rest.bytes[..], rest.error),
        (&b"question"[..], &b""[..], None)
    );
    let found = captured(&ended);
    assert_eq!(found[0].bytes, [b"question".to_vec(), b"wait".to_vec()]);
    assert_eq!(found[0].reason(), CloseReason::Shutdown);
}

#[test]
fn term_while_a_target_is_dialled_resets_its_client_and_keeps_what_it_had_sent() {
    let port = Port::new();
    let socket = socket2::Socket::from(port.listen());
    socket.listen(0).expect("it is bound");
    let first = call(&port.address());
    let tape = proxy(&port.address(), &["--connect-timeout", "1h"]);
    let mut stream = call(&tape.addresses[0]);
    stream
        .write_all(b"is anybody there?")
        .expect("the kernel takes it");
    until_written(&tape.path("a.ndjson"), "\"open\"", 1);
    let ended = tape.stop();
    check_status(&ended, 0, &["stopping"]);
    assert_eq!(
        Heard::listen(&stream).error,
        Some(ErrorKind::ConnectionReset)
    );
    let found = captured(&ended);
    assert_eq!(found[0].bytes[IN], b"is anybody there?");
    assert_eq!(found[0].reason(), CloseReason::Shutdown);
    drop(first);
}

/// Connections of a target whose test decides when they are read.
pub fn holding() -> (String, Receiver<TcpStream>) {
    let (hold, held) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let small = SockRef::from(&listener).set_recv_buffer_size(4096);
    small.expect("it can be small");
    let address = listener.local_addr().expect("it has one").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if hold.send(crate::talk::patient(stream)).is_err() {
                return;
            }
        }
    });
    (address, held)
}

#[test]
fn term_with_a_target_that_reads_nothing_captures_what_was_acknowledged() {
    let (address, held) = holding();
    let tape = proxy(&address, &["--drain", "1s"]);
    let stream = call(&tape.addresses[0]);
    let watched = stream.try_clone().expect("a second handle");
    let sender = send_until_reset(stream, 1);
    let at_target = held.recv().expect("the target is connected to");
    until_held(&watched);
    let ended = stop_within(tape, Duration::from_secs(1));
    check_status(&ended, 0, &[]);
    let sent = sender.join().expect("it ends with the connection");
    let found = captured(&ended);
    assert_eq!(found[0].bytes[IN].len(), acknowledged(&sent).len());
    assert!(found[0].bytes[IN] == acknowledged(&sent));
    assert_eq!(found[0].reason(), CloseReason::Shutdown);
    // Either the kernel had room for all of it, and delivers it still, or the target is told so.
    let heard = Heard::listen(&at_target);
    match heard.error {
        None => assert!(heard.bytes == acknowledged(&sent)),
        error => {
            assert_eq!(error, Some(ErrorKind::ConnectionReset));
            assert!(acknowledged(&sent).starts_with(&heard.bytes));
        }
    }
}

#[test]
fn term_waits_for_a_target_that_reads_late() {
    let (address, held) = holding();
    let mut tape = proxy(&address, &[]);
    let stream = call(&tape.addresses[0]);
    let watched = stream.try_clone().expect("a second handle");
    let sender = send_until_reset(stream, 1);
    let at_target = held.recv().expect("the target is connected to");
    until_held(&watched);
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let heard = Heard::listen(&at_target);
    let ended = tape.wait();
    check_status(&ended, 0, &[]);
    let sent = sender.join().expect("it ends with the connection");
    assert_eq!(heard.error, None);
    assert_eq!(heard.bytes.len(), acknowledged(&sent).len());
    assert!(heard.bytes == acknowledged(&sent));
    assert!(captured(&ended)[0].bytes[IN] == heard.bytes);
}

// --- sides that do not read ----------------------------------------------------------------------

/// Every client and every connection of the target is a descriptor here too.
pub fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

#[test]
fn clients_that_do_not_read_take_no_memory_and_stop_nobody() {
    const STALLED: usize = 700;
    const LEN: usize = 200_000;
    raise_open_files();
    // The first eight bytes say who it is for: 0 wants its own words back.
    let target = Target::serve(|_, mut stream| {
        let who = take(&stream, 8);
        let who = u64::from_be_bytes(who.try_into().expect("eight bytes"));
        let bytes = match who {
            0 => Heard::listen(&stream).bytes,
            _ => random(who, LEN),
        };
        // Nobody reads it for a while.
        let _ = stream.set_write_timeout(None);
        stream.write_all(&bytes).expect("it is read, in the end");
    });
    let tape = proxy(&target.address, &["--buffer", "4MiB"]);
    let stalled: Vec<_> = (1..=STALLED as u64)
        .map(|who| {
            let mut stream = call_narrowly(&tape.addresses[0]);
            stream.write_all(&who.to_be_bytes()).expect("it reads");
            (who, stream)
        })
        .collect();
    let file = tape.path("a.ndjson");
    // Nothing of that moves any more.
    let mut last = (0, 0);
    eventually("all are stalled", || {
        let len = fs::metadata(&file).ok()?.len();
        last = if len == last.0 {
            (len, last.1 + 1)
        } else {
            (len, 0)
        };
        (len > STALLED as u64 * 20_000 && last.1 > 200).then_some(())
    });
    for nth in 0..20 {
        let mut stream = call(&tape.addresses[0]);
        let said = random(nth, 300_000);
        stream.write_all(&0_u64.to_be_bytes()).expect("it reads");
        stream.write_all(&said).expect("it reads");
        end_sending(&stream);
        let heard = Heard::listen(&stream);
        assert!(heard.bytes == said && heard.error.is_none());
    }
    let memory = peak_memory(tape.pid());
    assert!(memory <= (4 + 16) * MIB + OTHER_MEMORY, "{memory} bytes");
    // All of it comes, once they read.
    let readers: Vec<_> = stalled
        .chunks(STALLED / 4)
        .map(|some| {
            let some: Vec<_> = some
                .iter()
                .map(|(who, stream)| (*who, stream.try_clone().expect("a second handle")))
                .collect();
            thread::spawn(move || {
                for (who, stream) in some {
                    let heard = take(&stream, LEN);
                    assert!(heard == random(who, LEN), "{who}");
                    crate::tape::end(stream);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("all of it comes");
    }
    let memory = peak_memory(tape.pid());
    assert!(memory <= (4 + 16) * MIB + OTHER_MEMORY, "{memory} bytes");
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found.len(), STALLED + 20);
    for talk in &found {
        let who = u64::from_be_bytes(talk.bytes[IN][..8].try_into().expect("eight bytes"));
        match who {
            0 => assert!(talk.bytes[OUT] == talk.bytes[IN][8..]),
            _ => assert!(talk.bytes[OUT] == random(who, LEN)),
        }
        assert_eq!(talk.reason(), CloseReason::Eof);
    }
}

/// Both do nothing but write: each waits for the other, as they would without a proxy.
#[test]
fn both_sides_may_stand_still_and_go_on() {
    let port = Port::new();
    let listener = port.listen();
    let tape = proxy(&port.address(), &[]);
    let client = call(&tape.addresses[0]);
    let server = accept(&listener);
    let writers = [(&client, 1), (&server, 2)].map(|(stream, seed)| {
        let mut stream = stream.try_clone().expect("a second handle");
        thread::spawn(move || {
            stream
                .write_all(&random(seed, 8 * MIB))
                .expect("it is read, in the end");
            end_sending(&stream);
        })
    });
    for stream in [&client, &server] {
        until_held(stream);
    }
    let readers = [hear(&client), hear(&server)];
    for writer in writers {
        writer.join().expect("all was taken");
    }
    let [at_client, at_server] = readers.map(|reader| reader.join().expect("no panic"));
    assert!(at_client.bytes == random(2, 8 * MIB) && at_client.error.is_none());
    assert!(at_server.bytes == random(1, 8 * MIB) && at_server.error.is_none());
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert!(found[0].bytes == [at_server.bytes, at_client.bytes]);
    assert_eq!(found[0].reason(), CloseReason::Eof);
}

// --- outputs that do not take anything -----------------------------------------------------------

/// Questions of this length, and answers as long.
const ROUND: usize = 64 * 1024;

/// So many of them.
const ROUNDS: usize = 200;

/// A target that repeats what it hears.
fn repeating() -> Target<()> {
    Target::serve(|_, stream| {
        let mut stream = crate::talk::patient(stream);
        let mut from = stream.try_clone().expect("a second handle");
        let _ = std::io::copy(&mut from, &mut stream);
    })
}

/// Converses in rounds, and gives how long the slowest one took.
fn converse(stream: &TcpStream) -> Duration {
    let rounds = (0..ROUNDS).map(|nth| {
        let began = Instant::now();
        let question = vec![b'a' + (nth % 26) as u8; ROUND];
        let mut writer = stream;
        writer.write_all(&question).expect("it goes on");
        assert!(take(stream, ROUND) == question);
        began.elapsed()
    });
    rounds.max().expect("there are some")
}

/// Stops a run, which takes no longer than its `--drain` and a second.
pub fn stop_within(mut tape: Tape, drain: Duration) -> Ended {
    tape.signal(Signal::TERM);
    tape.wait_for_line("stopping");
    let told = Instant::now();
    let ended = tape.wait();
    assert!(told.elapsed() < drain + Duration::from_secs(1));
    ended
}

/// Reads all that comes, on a thread of its own.
pub fn drained(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

/// Looks into a capture with gaps: gives the bytes that it holds of both directions, and the records
/// and bytes that it misses.
pub fn check_gaps(capture: &[u8]) -> (u64, u64, u64) {
    let (mut held, mut records, mut missed, mut next_seq) = (0, 0, 0, 0);
    let mut reader = Reader::new("the output", capture);
    let mut last = None;
    while let Some(record) = reader.next_record().expect("a good capture") {
        assert_eq!(record.seq, next_seq);
        next_seq += 1;
        match &record.event {
            Event::Data { payload, .. } => held += payload.len() as u64,
            Event::Gap {
                records: count,
                bytes,
                ..
            } => {
                missed += bytes;
                records += count;
                next_seq = record.seq + count;
            }
            _ => {}
        }
        last = Some(matches!(record.event, Event::End { .. }));
    }
    assert_eq!(reader.torn(), None);
    assert_eq!(last, Some(true), "it ends with the end");
    check_finds_only_gaps(capture, records);
    (held, records, missed)
}

/// Demands that what the capture misses is what was said, and that it and what is there is everything.
fn check_missed(ended: &Ended, capture: &[u8]) {
    let (held, records, missed) = check_gaps(capture);
    assert!(missed > 0);
    assert_eq!(held + missed, 2 * (ROUNDS * ROUND) as u64);
    let mut told = (0, 0);
    for line in &ended.said {
        let Some((_, rest)) = line.split_once(" missed ") else {
            continue;
        };
        let numbers = rest.split(' ').filter_map(|word| word.parse::<u64>().ok());
        let numbers: Vec<u64> = numbers.collect();
        told = (told.0 + numbers[0], told.1 + numbers[1]);
    }
    assert_eq!(told, (records, missed), "{:?}", ended.said);
}

/// A proxy whose only output is read by nobody, and a conversation with it: the output's bytes, and how
/// long the slowest round took.
fn stalled(args: &[&str]) -> (Ended, Vec<u8>, Duration) {
    let target = repeating();
    let mut command = proxy_command(&target.address, &["--json", "--buffer", "4MiB"]);
    command.args(args).stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let stream = call(&tape.addresses[0]);
    let slowest = converse(&stream);
    tape.wait_for_line("standard output does not keep up: it misses records");
    crate::tape::end(stream);
    let stdout = drained(tape.take_stdout());
    let ended = tape.stop();
    (ended, stdout.join().expect("no panic"), slowest)
}

#[test]
fn an_output_that_stands_still_holds_the_conversation_for_a_moment_only() {
    let (ended, capture, slowest) = stalled(&[]);
    check_status(&ended, 3, &[]);
    check_missed(&ended, &capture);
    // With the option it never waits.
    let (ended, capture, at_once) = stalled(&["--on-stall", "drop"]);
    check_status(&ended, 3, &[]);
    check_missed(&ended, &capture);
    let second = Duration::from_secs(1);
    assert!(slowest >= second.mul_f64(0.9), "{slowest:?}");
    assert!(at_once < second.mul_f64(0.9), "{at_once:?}");
}

#[test]
fn a_file_beside_an_output_that_stands_still_has_everything() {
    let target = repeating();
    let mut command = proxy_command(&target.address, &["-o", "a.ndjson", "--buffer", "4MiB"]);
    command.args(["-o", "json:pipe"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &pipe, FileType::Fifo, mode, 0).expect("it is new");
    // Somebody has it open, and reads nothing.
    let reader = fs::File::options().read(true).write(true).open(&pipe);
    let reader = reader.expect("it is a pipe");
    let mut tape = Tape::spawn_in(folder, command);
    let stream = call(&tape.addresses[0]);
    converse(&stream);
    crate::tape::end(stream);
    tape.wait_for_line("pipe does not keep up: it misses records");
    let only_reading = fs::File::open(&pipe).expect("it is a pipe");
    drop(reader);
    let capture = drained(only_reading);
    let ended = tape.stop();
    check_status(&ended, 3, &[]);
    check_missed(&ended, &capture.join().expect("no panic"));
    let found = captured(&ended);
    assert_eq!(found[0].bytes[IN].len(), ROUNDS * ROUND);
    assert!(found[0].bytes[IN] == found[0].bytes[OUT]);
}

#[test]
fn with_block_an_output_that_stands_still_holds_the_conversation() {
    let target = repeating();
    let args = ["--json", "--buffer", "1", "--on-stall", "block"];
    let mut command = proxy_command(&target.address, &args);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let stream = call(&tape.addresses[0]);
    let talk = stream.try_clone().expect("a second handle");
    let talking = thread::spawn(move || converse(&talk));
    // Longer than one that may miss records would wait, and nothing is said.
    tape.stand_still(Duration::from_millis(1500));
    assert!(!talking.is_finished(), "it is held");
    let stdout = drained(tape.take_stdout());
    talking.join().expect("it goes on");
    crate::tape::end(stream);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert!(!ended.has_said("missed"), "{:?}", ended.said);
    let (held, _, missed) = check_gaps(&stdout.join().expect("no panic"));
    assert_eq!((held, missed), (2 * (ROUNDS * ROUND) as u64, 0));
}

/// One that is only slow sets the pace, and misses nothing.
#[test]
fn an_output_that_is_slow_is_waited_for() {
    let target = repeating();
    let mut command = proxy_command(&target.address, &["--json", "--buffer", "4MiB"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut stdout = tape.take_stdout();
    let reader = thread::spawn(move || {
        let (mut all, mut piece) = (Vec::new(), vec![0; 256 * 1024]);
        loop {
            let len = stdout.read(&mut piece).expect("a pipe");
            if len == 0 {
                return all;
            }
            all.extend_from_slice(&piece[..len]);
            thread::park_timeout(Duration::from_millis(2));
        }
    });
    let stream = call(&tape.addresses[0]);
    converse(&stream);
    crate::tape::end(stream);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let (held, _, missed) = check_gaps(&reader.join().expect("no panic"));
    assert_eq!((held, missed), (2 * (ROUNDS * ROUND) as u64, 0));
}

/// Of two the slower one sets the pace, and neither misses anything.
#[test]
fn two_outputs_that_both_go_on_have_everything() {
    const SENT: usize = 48 * MIB;
    let target = repeating();
    let args = ["-o", "a.ndjson", "-o", "a.bin", "--buffer", "8MiB"];
    let tape = Tape::spawn(proxy_command(&target.address, &args));
    let stream = call(&tape.addresses[0]);
    let reader = hear(&stream);
    (&stream).write_all(&random(1, SENT)).expect("it reads");
    end_sending(&stream);
    assert_eq!(reader.join().expect("no panic").bytes.len(), SENT);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert!(!ended.has_said("missed"), "{:?}", ended.said);
    assert_eq!(captured(&ended)[0].bytes[IN].len(), SENT);
    let raw = fs::metadata(ended.path("a.bin"))
        .expect("it is there")
        .len();
    assert_eq!(raw, SENT as u64, "what the client sent");
}

#[test]
fn term_with_an_output_that_stands_still_ends_with_the_drain_time() {
    let target = repeating();
    let args = ["--json", "--buffer", "1", "--drain", "300ms"];
    let mut command = proxy_command(&target.address, &args);
    command.stdout(Stdio::piped());
    let tape = Tape::spawn(command);
    let stream = call(&tape.addresses[0]);
    converse(&stream);
    let ended = stop_within(tape, Duration::from_millis(300));
    check_status(&ended, 3, &["not all written: standard output"]);
}
