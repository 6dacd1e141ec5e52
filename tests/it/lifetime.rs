//! How long a run lasts, by connections and by time; and what is said of it meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wiretape::record::{CloseReason, EndReason, Event};

use crate::tape::{Ended, Tape, end, eventually, numbered_sessions, records, sessions, wiretape};

/// The record is that of a run that came to its end in good order.
fn check_whole(ended: &Ended) {
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let records = records(&ended.path("a.ndjson"));
    let last = records.last().map(|record| &record.event);
    let reason = EndReason::Shutdown;
    assert_eq!(last, Some(&Event::End { reason }));
}

/// As that, with a connection that had said hello and was closed because the run ended.
fn check_stopped(ended: &Ended) {
    check_whole(ended);
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    let session = sessions.into_values().next().expect("there is one");
    assert_eq!(session.bytes, b"hello");
    let close = session.close.expect("it was closed");
    assert_eq!(close.reason, CloseReason::Shutdown);
}

#[test]
fn it_ends_when_the_last_of_so_many_connections_is_closed() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--exit-after", "3"]);
    tape.send(b"one");
    let mut second = tape.connect();
    let mut third = tape.connect();
    // Nobody listens any more once the last one has come.
    eventually("nobody listens", || {
        TcpStream::connect(&tape.addresses[0]).err()
    });
    end(third.try_clone().expect("a second handle"));
    assert_eq!(third.read(&mut [0]).expect("an orderly end"), 0);
    second
        .write_all(b"two, which is still open")
        .expect("it reads");
    end(second);
    let ended = tape.wait();
    check_whole(&ended);
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    let mut bytes: Vec<_> = sessions
        .into_values()
        .map(|session| session.bytes)
        .collect();
    bytes.sort();
    assert_eq!(bytes, [&b""[..], b"one", b"two, which is still open"]);
}

#[test]
fn peers_that_wait_behind_the_last_connection_are_reset() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--exit-after", "1", "--max-conns", "1"]);
    let streams: Vec<_> = (0..20)
        .filter_map(|_| TcpStream::connect(&tape.addresses[0]).ok())
        .collect();
    let mut streams = streams.into_iter();
    end(streams.next().expect("one was let in"));
    let ended = tape.wait();
    check_whole(&ended);
    assert_eq!(records(&ended.path("a.ndjson")).len(), 5);
    for mut stream in streams {
        // One that was connecting at that very moment is told when it speaks.
        let told = stream.write_all(b"x");
        told.and_then(|()| stream.read(&mut [0]))
            .expect_err("it was reset");
    }
}

#[test]
fn it_can_be_told_to_stop_before_its_last_connection_is_closed() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--exit-after", "1"]);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it reads");
    eventually("nobody listens", || {
        TcpStream::connect(&tape.addresses[0]).err()
    });
    check_stopped(&tape.stop());
}

#[test]
fn devices_are_connected_to_so_many_times() {
    let device = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = device.local_addr().expect("it has one").to_string();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let absent = nobody.local_addr().expect("it has one").to_string();
    drop(nobody);
    let answering = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = device.accept().expect("somebody comes");
            stream.write_all(b"reading\n").expect("it reads");
        }
        device
    });
    let mut command = wiretape();
    command.args(["connect", &address, &absent, "-o", "a.ndjson"]);
    command.args(["--exit-after", "2", "--reconnect", "1ms"]);
    let ended = Tape::spawn(command).wait();
    check_whole(&ended);
    let device = answering.join().expect("two came");
    device.set_nonblocking(true).expect("it is a socket");
    device.accept().expect_err("a third came");
    let sessions = numbered_sessions(&records(&ended.path("a.ndjson")));
    assert_eq!(sessions.len(), 2);
    assert!(
        sessions
            .values()
            .all(|session| session.bytes == b"reading\n")
    );
}

#[test]
fn a_proxy_ends_behind_its_last_conversation() {
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it has one").to_string();
    let answering = thread::spawn(move || {
        let (mut stream, _) = target.accept().expect("somebody comes");
        let mut question = Vec::new();
        stream.read_to_end(&mut question).expect("an orderly end");
        stream.write_all(&question).expect("it is heard");
    });
    let mut command = wiretape();
    command.args(["proxy", "127.0.0.1:0", &address, "-o", "a.ndjson"]);
    command.args(["--exit-after", "1"]);
    let tape = Tape::spawn(command);
    let mut client = tape.connect();
    client.write_all(b"again, please").expect("it reads");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an orderly end");
    assert_eq!(answer, b"again, please");
    answering.join().expect("it answered");
    check_whole(&tape.wait());
}

#[test]
fn it_ends_after_its_time_as_if_it_were_told() {
    let begun = Instant::now();
    let tape = Tape::listen(&["-o", "a.ndjson", "--for", "300ms"]);
    let mut stream = tape.connect();
    stream.write_all(b"hello").expect("it reads");
    let ended = tape.wait();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    check_stopped(&ended);
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
    assert!(ended.has_said("stopping: reading what 1 connection sent"));
}

/// With an output that takes nothing, the time to stop in is all there is.
#[test]
fn its_time_is_over_though_an_output_stands_still() {
    let args = [
        "--json", "--buffer", "1", "--for", "200ms", "--drain", "200ms",
    ];
    let mut command = crate::tape::listen_command(&args);
    command.stdout(std::process::Stdio::piped());
    let tape = Tape::spawn(command);
    let sender = crate::shutdown::send_until_reset(tape.connect(), 1);
    let ended = tape.wait();
    assert_eq!(ended.status, Some(3), "{:?}", ended.said);
    let said = "not all written: standard output";
    assert!(ended.has_said(said), "{:?}", ended.said);
    sender.join().expect("it ends with the connection");
}

/// Nothing is left to be read then, and nothing says how long writing may take but a signal.
#[test]
fn the_last_connection_is_closed_though_an_output_stands_still() {
    let args = ["--raw", "--exit-after", "1", "--drain", "200ms"];
    let mut command = crate::tape::listen_command(&args);
    command.stdout(std::process::Stdio::piped());
    let mut tape = Tape::spawn(command);
    let sent = vec![b'x'; 1 << 20];
    tape.send(&sent);
    tape.stand_still(Duration::from_millis(500));
    let mut stdout = tape.take_stdout();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).expect("a pipe");
        bytes
    });
    assert_eq!(tape.wait().status, Some(0));
    assert!(reader.join().expect("no panic") == sent);
}

#[test]
fn how_things_stand_is_told_once_in_a_while() {
    let args = ["-o", "a.ndjson", "--frame", "line", "--stats", "20ms"];
    let mut tape = Tape::listen(&args);
    let mut stream = tape.connect();
    stream.write_all(b"one\ntwo\n").expect("it reads");
    let line = tape.wait_for_line("1 open of 1 connection; ");
    assert!(line.contains(" records/s; buffer "), "{line}");
    assert!(line.contains("; a.ndjson: "), "{line}");
    // Then nothing comes, and nothing is written.
    tape.wait_for_line("; 0 B/s in, 0 records/s; buffer 0 B of ");
    end(stream);
    tape.wait_for_line("0 open of 1 connection; ");
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn how_things_stand_is_told_when_it_is_asked() {
    let mut tape = Tape::listen(&["-o", "a.ndjson", "-q"]);
    tape.send(b"hello");
    tape.signal(Signal::USR1);
    let line = tape.wait_for_line("1 connection, 0 open; 5 B in, 5 records; ");
    assert!(line.contains("/s in, "), "{line}");
    tape.wait_for_line("a.ndjson: ");
    // It counts from the last time.
    tape.signal(Signal::USR1);
    tape.wait_for_line("; 0 B/s in, 0 records/s; ");
    assert_eq!(tape.stop().status, Some(0));
}

/// An output that stands still is behind by as long as it does.
#[test]
fn how_far_an_output_is_behind_is_told() {
    let mut command = crate::tape::listen_command(&["--json", "--buffer", "1", "--stats", "50ms"]);
    command.stdout(std::process::Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut stream = tape.connect();
    stream.set_nonblocking(true).expect("it is a socket");
    let _ = stream.write(&[b'x'; 1 << 20]);
    let behind = |line: &str| {
        let (before, _) = line.split_once(" behind")?;
        let lag = before.rsplit(", ").next()?;
        humantime::parse_duration(lag).ok()
    };
    let mut longest = Duration::ZERO;
    while longest < Duration::from_millis(200) {
        let line = tape.wait_for_line(" behind");
        let lag = behind(&line).expect("a duration");
        assert!(lag > longest, "{line}");
        longest = lag;
    }
    drop(tape.take_stdout());
    assert_eq!(tape.wait().status, Some(0));
}
