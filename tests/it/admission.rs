//! Who is let in: by address, by how many of it are here, and how many are here at all.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use wiretape::record::{CloseReason, Event};

use crate::kernel::{peak_memory, unacknowledged};
use crate::tape::{Tape, end, eventually, records, sessions};

/// A connection to `to` from this address of the loopback network; whether it is let in mostly shows later.
fn try_from(from: &str, to: &str) -> io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("an address");
    socket.bind(&from.into()).expect("it is this machine's");
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn connect_from(from: &str, to: &str) -> TcpStream {
    try_from(from, to).expect("it is let in")
}

/// Connects, and is reset before anything else.
fn check_refused(from: &str, to: &str) {
    match try_from(from, to).and_then(|mut stream| stream.read(&mut [0])) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{from}"),
        Ok(len) => panic!("{from}: an orderly end, with {len} bytes"),
    }
}

/// Sends a few bytes from these addresses, and gives the peers that were recorded.
fn check(args: &[&str], let_in: &[&str], refused: &[&str]) {
    let tape = Tape::listen(&[&["0", "-o", "a.ndjson"], args].concat());
    let port = tape.addresses[0].rsplit(':').next().expect("it has a port");
    let to = format!("127.0.0.1:{port}");
    for from in refused {
        check_refused(from, &to);
    }
    for from in let_in {
        let mut stream = connect_from(from, &to);
        stream.write_all(b"hello").expect("it reads");
        end(stream);
    }
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    let peers: Vec<_> = sessions.keys().map(|peer| peer.split(':').next()).collect();
    let expected: Vec<_> = let_in.iter().map(|ip| Some(*ip)).collect();
    assert_eq!(peers, expected);
    assert!(sessions.values().all(|session| session.bytes == b"hello"));
    let total = format!("{} refused", refused.len());
    assert_eq!(ended.has_said(&total), !refused.is_empty());
}

#[test]
fn peers_of_networks_that_are_not_allowed_or_denied_are_reset() {
    let (one, two, far) = ("127.0.0.1", "127.0.1.2", "127.9.9.9");
    check(&[], &[one, two, far], &[]);
    check(&["--allow", "127.0.0.0/16"], &[one, two], &[far]);
    check(&["--allow", "127.0.0.1,127.9.9.9"], &[one, far], &[two]);
    check(&["--deny", "127.0.1.0/24"], &[one, far], &[two]);
    let both = ["--allow", "127.0.0.0/16", "--deny", "127.0.1.2"];
    check(&both, &[one], &[two, far]);
    // Here they are IPv4 peers of an IPv6 socket.
    check(&["--deny", "::/0"], &[one], &[]);
    check(&["--allow", "::ffff:127.9.0.0/112"], &[far], &[one, two]);
}

#[test]
fn a_hundred_thousand_refused_leave_nothing_and_hold_up_nobody() {
    const REFUSED: usize = 100_000;
    let tape = Tape::listen(&["-o", "a.ndjson", "--deny", "127.0.0.2", "--frame", "line"]);
    let to = tape.addresses[0].clone();
    let mut good = tape.connect();
    let mut sent = Vec::new();
    let file = tape.path("a.ndjson");
    eventually("it is open", || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("\"open\"").then_some(())
    });
    let before = peak_memory(tape.pid());
    let flood = thread::spawn(move || {
        for _ in 0..REFUSED {
            drop(try_from("127.0.0.2", &to));
        }
    });
    let mut lines = 0;
    while !flood.is_finished() {
        // Each is recorded while the flood goes on.
        let line = format!("line {lines}\n");
        good.write_all(line.as_bytes()).expect("it reads");
        sent.extend_from_slice(line.as_bytes());
        lines += 1;
        let expected = format!("line {lines}\\n", lines = lines - 1);
        eventually("the line is recorded", || {
            let text = std::fs::read_to_string(&file).ok()?;
            text.contains(&expected).then_some(())
        });
    }
    flood.join().expect("it came to its end");
    end(good);
    // All have been looked at when one behind them is.
    check_refused("127.0.0.2", &tape.addresses[0]);
    let grown = peak_memory(tape.pid()) - before;
    assert!(grown <= 4 << 20, "{grown} bytes");
    let ended = tape.stop();
    let said = ended.said.iter().filter(|line| line.contains("(--deny)"));
    assert!(said.count() <= 20, "{:?}", ended.said);
    let total = format!("1 connection, 0 open, {} refused", REFUSED + 1);
    assert!(ended.has_said(&total), "{:?}", ended.said);
    let records = records(&ended.path("a.ndjson"));
    assert_eq!(records.len(), 5 + lines);
    let sessions = sessions(&records);
    assert!(sessions.len() == 1 && sessions.values().all(|session| session.bytes == sent));
}

#[test]
fn one_address_has_no_more_connections_than_it_may() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--max-conns-per-ip", "2"]);
    let to = &tape.addresses[0];
    let first = connect_from("127.0.0.2", to);
    let second = connect_from("127.0.0.2", to);
    check_refused("127.0.0.2", to);
    let other = connect_from("127.0.0.3", to);
    end(first);
    let third = connect_from("127.0.0.2", to);
    check_refused("127.0.0.2", to);
    [second, third, other].into_iter().for_each(end);
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    assert!(
        ended.has_said("4 connections, 0 open, 2 refused"),
        "{:?}",
        ended.said
    );
    let why = "refused 127.0.0.2: it has as many connections as it may (--max-conns-per-ip)";
    assert!(ended.has_said(why), "{:?}", ended.said);
}

/// What is left of its last connection is still to be read: that is no reason to refuse it.
#[test]
fn a_device_that_connects_again_at_once_is_not_one_too_many() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--max-conns-per-ip", "1"]);
    // As much as the kernel takes at once, the end behind it included.
    let sent = vec![b'x'; 20_000];
    for _ in 0..1_000 {
        let mut stream = tape.connect();
        stream.write_all(&sent).expect("it is let in");
        // The end has come to the other side's kernel, which on a busy machine can take longer than the next
        // connection; whether it was read is open.
        stream.shutdown(Shutdown::Write).expect("it is open");
        eventually("the end is acknowledged", || {
            (unacknowledged(&stream) == 0).then_some(())
        });
    }
    end(tape.connect());
    let ended = tape.stop();
    assert!(
        ended.has_said("1001 connections, 0 open; "),
        "{:?}",
        ended.said
    );
    let records = records(&ended.path("a.ndjson"));
    let closes = records.iter().filter_map(|record| match &record.event {
        Event::Close { close, .. } => Some((&close.reason, close.in_bytes)),
        _ => None,
    });
    let whole = closes.filter(|close| *close == (&CloseReason::Eof, 20_000));
    assert_eq!(whole.count(), 1_000);
}

#[test]
fn clients_of_a_proxy_are_let_in_by_the_same_rules() {
    let mut command = crate::tape::wiretape();
    command.args(["proxy", "127.0.0.1:0", "127.0.0.1:9", "-o", "a.ndjson"]);
    command.args(["--deny", "127.0.0.2"]);
    let tape = Tape::spawn(command);
    check_refused("127.0.0.2", &tape.addresses[0]);
    let ended = tape.stop();
    assert!(
        ended.has_said("0 connections, 0 open, 1 refused"),
        "{:?}",
        ended.said
    );
    // The target was not dialled.
    assert!(!ended.has_said("cannot connect"), "{:?}", ended.said);
}

/// The places of an address come free however its conversations end.
#[test]
fn clients_of_a_proxy_that_come_one_after_another_are_all_let_in() {
    const CLIENTS: usize = 300;
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it has one").to_string();
    thread::spawn(move || {
        for (nth, stream) in target.incoming().enumerate() {
            let mut stream = stream.expect("somebody comes");
            let len = stream.read(&mut [0; 100]).unwrap_or(0);
            if nth % 3 == 0 && len > 0 {
                let socket = socket2::SockRef::from(&stream);
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
    });
    let mut command = crate::tape::wiretape();
    command.args(["proxy", "127.0.0.1:0", &address, "-o", "a.ndjson"]);
    command.args(["--max-conns-per-ip", "1"]);
    let tape = Tape::spawn(command);
    for nth in 0..CLIENTS {
        let mut stream = tape.connect();
        stream.write_all(b"hello").expect("it is let in");
        if nth % 2 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        // It is over when the target has ended it.
        let _ = stream.read(&mut [0]);
        drop(stream);
        let file = tape.path("a.ndjson");
        eventually("it is closed", || {
            let text = std::fs::read(&file).ok()?;
            let closes = memchr::memmem::find_iter(&text, "\"type\":\"close\"");
            (closes.count() > nth).then_some(())
        });
    }
    let ended = tape.stop();
    let total = format!("{CLIENTS} connections, 0 open; ");
    assert!(ended.has_said(&total), "{:?}", ended.said);
}

/// Who is one too many, again and again, holds up neither those who send nor those who come.
#[test]
fn a_crowd_at_its_limit_holds_up_nobody_else() {
    let tape = Tape::listen(&["-o", "a.bin", "--max-conns-per-ip", "1"]);
    let to = tape.addresses[0].clone();
    let first = connect_from("127.0.0.2", &to);
    let is_over = Arc::new(AtomicBool::new(false));
    let crowds = [(); 2].map(|()| {
        let (to, is_over) = (to.clone(), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut refused = 0;
            while !is_over.load(SeqCst) {
                check_refused("127.0.0.2", &to);
                refused += 1;
            }
            refused
        })
    });
    for nth in 0..200 {
        let mut stream = connect_from(&format!("127.0.1.{}", nth + 1), &to);
        stream.write_all(b"hello").expect("it reads");
        end(stream);
    }
    is_over.store(true, SeqCst);
    let refused: u64 = crowds
        .map(|crowd| crowd.join().expect("no panic"))
        .iter()
        .sum();
    end(first);
    let ended = tape.stop();
    assert_eq!(ended.read("a.bin"), b"hello".repeat(200));
    let total = format!("201 connections, 0 open, {refused} refused; ");
    assert!(ended.has_said(&total), "{:?}", ended.said);
}

#[test]
fn that_peers_wait_is_said_once_in_a_while() {
    let mut tape = Tape::listen(&["-o", "a.ndjson", "--max-conns", "2"]);
    let streams: Vec<_> = (0..5).map(|_| tape.connect()).collect();
    tape.wait_for_line(
        "2 connections are open, as many as --max-conns or the open-file limit allow",
    );
    streams.into_iter().for_each(end);
    let ended = tape.stop();
    let said = ended
        .said
        .iter()
        .filter(|line| line.contains("others wait"));
    assert!(said.count() <= 3, "{:?}", ended.said);
}

#[test]
fn that_nobody_waits_is_not_said() {
    let tape = Tape::listen(&["-o", "a.ndjson", "--max-conns", "2"]);
    let streams = [tape.connect(), tape.connect()];
    streams.into_iter().for_each(end);
    let ended = tape.stop();
    assert!(!ended.has_said("others wait"), "{:?}", ended.said);
}
