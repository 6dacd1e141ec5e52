//! `proxy`: what passes between a client and a server, how either's end is passed on, and what of it is
//! in the capture.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use wiretape::record::{CloseReason, Event};

use crate::hand::{Heard, Target, Untouched, listening, reset, take};
use crate::kernel::unacknowledged;
use crate::talk::{
    IN, MIB, OUT, Port, accept, call, captured, check_refused, check_status, conversations,
    end_sending, name, patient, proxy, proxy_command, random, start, times_said, until_written,
};
use crate::tape::{Tape, end, eventually, joined, records, wiretape};

/// What the target answers to this.
fn answer(question: &[u8], len: usize) -> Vec<u8> {
    random(u64::from(crc32fast::hash(question)), len)
}

/// A target that hears a client to its end, answers at such length, and ends.
fn answering(len: usize) -> Target<Vec<u8>> {
    Target::serve(move |_, mut stream| {
        let heard = Heard::listen(&stream);
        assert_eq!(heard.error, None);
        let written = stream.write_all(&answer(&heard.bytes, len));
        written.expect("it reads");
        heard.bytes
    })
}

/// A target that says whatever it hears.
fn echo() -> Target<Option<ErrorKind>> {
    Target::serve(|_, mut stream| {
        let mut from = stream.try_clone().expect("a second handle");
        let copied = std::io::copy(&mut from, &mut stream);
        copied.err().map(|error| error.kind())
    })
}

// --- everything, both ways -----------------------------------------------------------------------

#[test]
fn conversations_pass_unchanged_and_are_captured_both_ways() {
    check_conversations();
}

pub fn check_conversations() {
    const CLIENTS: u64 = 20;
    let target = answering(MIB);
    let tape = proxy(&target.address, &[]);
    let address = tape.addresses[0].clone();
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|nth| {
            let address = address.clone();
            thread::spawn(move || {
                let mut stream = call(&address);
                let question = random(nth, 200_000);
                stream.write_all(&question).expect("it reads");
                end_sending(&stream);
                let heard = Heard::listen(&stream);
                assert_eq!(heard.error, None);
                assert!(heard.bytes == answer(&question, MIB), "another answer");
                (name(&stream), question)
            })
        })
        .collect();
    let asked: BTreeMap<_, _> = clients
        .into_iter()
        .map(|client| client.join().expect("it is answered"))
        .collect();
    let mut heard = target.results(CLIENTS as usize);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let mut questions: Vec<_> = asked.values().cloned().collect();
    questions.sort();
    heard.sort();
    assert!(heard == questions);
    let start = start(&records(&ended.path("a.ndjson")));
    assert_eq!(
        (&start.mode[..], &start.listen[..]),
        ("proxy", &[address.clone()][..])
    );
    assert_eq!(start.connect, std::slice::from_ref(&target.address));
    let found = captured(&ended);
    assert_eq!(found.len(), CLIENTS as usize);
    for talk in &found {
        let question = &asked[&talk.peer];
        assert_eq!(talk.local, address);
        assert_eq!(talk.target.as_ref(), Some(&target.address));
        assert!(talk.bytes[IN] == *question);
        assert!(talk.bytes[OUT] == answer(question, MIB));
        assert_eq!(talk.ends, [IN, OUT]);
        assert_eq!(talk.reason(), CloseReason::Eof);
    }
}

#[test]
fn many_short_conversations_are_all_captured() {
    const CLIENTS: usize = 8;
    const EACH: usize = 250;
    let target = echo();
    let tape = proxy(&target.address, &[]);
    let address = tape.addresses[0].clone();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let address = address.clone();
            thread::spawn(move || {
                for nth in 0..EACH {
                    let mut stream = call(&address);
                    let said = format!("{client}.{nth}");
                    stream.write_all(said.as_bytes()).expect("it reads");
                    end_sending(&stream);
                    assert_eq!(Heard::listen(&stream).bytes, said.as_bytes());
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("each is answered");
    }
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let mut said: Vec<_> = captured(&ended)
        .into_iter()
        .map(|talk| {
            assert_eq!(talk.reason(), CloseReason::Eof);
            assert_eq!(talk.bytes[IN], talk.bytes[OUT]);
            talk.bytes[IN].clone()
        })
        .collect();
    said.sort();
    let all = (0..CLIENTS).flat_map(|client| (0..EACH).map(move |nth| format!("{client}.{nth}")));
    let mut all: Vec<_> = all.map(String::into_bytes).collect();
    all.sort();
    assert!(said == all);
}

/// A client of either kind, and what it must be able to do.
trait Client: Read + Write {
    fn end_sending(&self);
}

impl Client for TcpStream {
    fn end_sending(&self) {
        end_sending(self);
    }
}

impl Client for UnixStream {
    fn end_sending(&self) {
        self.shutdown(Shutdown::Write).expect("it is open");
    }
}

#[test]
fn unix_sockets_can_be_at_either_side() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("target");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).expect("it ends");
                stream.write_all(&answer(&heard, MIB)).expect("it reads");
            });
        }
    });
    let unix = format!("unix:{}", path.display());
    let tcp = answering(MIB);
    for (listen, target) in [
        ("unix:socket", &tcp.address),
        ("unix:socket", &unix),
        ("127.0.0.1:0", &unix),
    ] {
        let mut command = wiretape();
        command.args(["proxy", listen, target, "-o", "a.ndjson"]);
        let tape = Tape::spawn(command);
        let mut client: Box<dyn Client> = match listen.starts_with("unix:") {
            true => Box::new(UnixStream::connect(tape.path("socket")).expect("it listens")),
            false => Box::new(call(&tape.addresses[0])),
        };
        let question = random(1, 700_000);
        client.write_all(&question).expect("it reads");
        client.end_sending();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("an orderly end");
        assert!(heard == answer(&question, MIB));
        let ended = tape.stop();
        check_status(&ended, 0, &[]);
        assert!(!ended.path("socket").exists(), "the socket's file is left");
        let found = captured(&ended);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].target.as_ref(), Some(target));
        assert_eq!(
            found[0].local.starts_with("unix:"),
            listen.starts_with("unix:")
        );
        assert!(found[0].bytes == [question, heard]);
        assert_eq!(found[0].ends, [IN, OUT]);
        assert_eq!(found[0].reason(), CloseReason::Eof);
    }
}

#[test]
fn lines_are_told_apart_in_both_directions() {
    let target = Target::serve(|_, mut stream| {
        let mut heard = Vec::new();
        for (request, reply) in [
            (&b"one\ntw"[..], &b"first\nsec"[..]),
            (b"o\nthr", b"ond\nthird\nand"),
            (b"ee\nrest", b" no more"),
        ] {
            heard.extend(take(&stream, request.len()));
            stream.write_all(reply).expect("it reads");
        }
        heard
    });
    let tape = proxy(&target.address, &["--frame", "line"]);
    let stream = call(&tape.addresses[0]);
    for (request, reply) in [("one\ntw", 9), ("o\nthr", 13), ("ee\nrest", 8)] {
        (&stream).write_all(request.as_bytes()).expect("it reads");
        take(&stream, reply);
    }
    end(stream);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    let pieces = |direction: usize| {
        let pieces = found[0].pieces.iter();
        let pieces = pieces.filter(move |(of, _, _)| *of == direction);
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("it is text");
        pieces
            .map(|(_, bytes, partial)| (text(bytes), *partial))
            .collect::<Vec<_>>()
    };
    let lines = |lines: [(&str, bool); 4]| lines.map(|(line, partial)| (line.to_owned(), partial));
    let sent = [
        ("one\n", false),
        ("two\n", false),
        ("three\n", false),
        ("rest", true),
    ];
    assert_eq!(pieces(IN), lines(sent));
    let replied = [
        ("first\n", false),
        ("second\n", false),
        ("third\n", false),
        ("and no more", true),
    ];
    assert_eq!(pieces(OUT), lines(replied));
}

#[test]
fn urgent_bytes_pass_as_bytes_where_they_stand() {
    let target = listening();
    let tape = proxy(&target.address, &[]);
    let mut stream = call(&tape.addresses[0]);
    stream.write_all(b"abc").expect("it reads");
    let urgent = socket2::SockRef::from(&stream).send_out_of_band(b"X");
    assert_eq!(urgent.expect("it is a TCP socket"), 1);
    stream.write_all(b"def").expect("it reads");
    end_sending(&stream);
    assert_eq!(target.result().1.bytes, b"abcXdef");
    assert_eq!(Heard::listen(&stream).error, None);
    assert_eq!(captured(&tape.stop())[0].bytes[IN], b"abcXdef");
}

// --- ends ----------------------------------------------------------------------------------------

#[test]
fn either_side_may_end_first_and_the_other_goes_on() {
    for first in [IN, OUT] {
        let target = Target::serve(move |_, mut stream| {
            if first == OUT {
                stream.write_all(b"that is all").expect("it reads");
                end_sending(&stream);
            }
            let heard = Heard::listen(&stream);
            if first == IN {
                for _ in 0..10 {
                    stream.write_all(&[b'y'; 50_000]).expect("it reads");
                }
            }
            heard
        });
        let tape = proxy(&target.address, &[]);
        let mut stream = call(&tape.addresses[0]);
        if first == OUT {
            let heard = Heard::listen(&stream);
            assert_eq!((&heard.bytes[..], heard.error), (&b"that is all"[..], None));
            // Its end is recorded while the other direction is open.
            until_written(&tape.path("a.ndjson"), "\"eof\"", 1);
        }
        for _ in 0..10 {
            stream.write_all(&[b'x'; 50_000]).expect("it reads");
        }
        end_sending(&stream);
        let (_, heard) = target.result();
        assert_eq!((heard.bytes.len(), heard.error), (500_000, None));
        let answered = Heard::listen(&stream);
        assert_eq!(answered.error, None);
        let ended = tape.stop();
        check_status(&ended, 0, &[]);
        let found = captured(&ended);
        assert_eq!(found[0].ends, [first, 1 - first]);
        assert_eq!(found[0].reason(), CloseReason::Eof);
        assert_eq!(found[0].bytes[IN].len(), 500_000);
        let out = if first == OUT { 11 } else { 500_000 };
        assert_eq!(found[0].bytes[OUT].len(), out);
    }
}

#[test]
fn a_client_that_resets_is_passed_on_as_that() {
    let target = Target::serve(|_, mut stream| {
        stream.write_all(b"welcome").expect("it reads");
        Heard::listen(&stream)
    });
    let tape = proxy(&target.address, &[]);
    let mut stream = call(&tape.addresses[0]);
    assert_eq!(take(&stream, 7), b"welcome");
    stream.write_all(b"hello").expect("it reads");
    until_written(&tape.path("a.ndjson"), "hello", 1);
    reset(stream);
    let (_, heard) = target.result();
    assert_eq!(heard.bytes, b"hello");
    assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    let found = captured(&tape.stop());
    assert_eq!(found[0].bytes, [b"hello".to_vec(), b"welcome".to_vec()]);
    assert_eq!(found[0].reason(), CloseReason::Reset);
    assert!(found[0].ends.is_empty());
}

/// Also one that had ended its direction before.
#[test]
fn a_client_that_resets_behind_its_end_is_passed_on_as_that() {
    let (tell, told) = channel();
    let target = Target::serve(move |_, mut stream| {
        let heard = Heard::listen(&stream);
        tell.send(()).expect("the test waits");
        let broken = eventually("it is reset", || stream.write_all(b"more").err());
        (heard.bytes, broken.kind())
    });
    let tape = proxy(&target.address, &[]);
    let mut stream = call(&tape.addresses[0]);
    stream.write_all(b"hello").expect("it reads");
    end_sending(&stream);
    told.recv().expect("the target hears its end");
    reset(stream);
    let (_, (heard, broken)) = target.result();
    assert_eq!(heard, b"hello");
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(kinds.contains(&broken), "{broken}");
    let found = captured(&tape.stop());
    assert_eq!(found[0].bytes[IN], b"hello");
    assert_eq!(found[0].ends, [IN]);
    assert_eq!(found[0].reason(), CloseReason::Reset);
}

#[test]
fn what_a_client_sent_before_it_reset_arrives() {
    let target = listening();
    let tape = proxy(&target.address, &[]);
    let mut acknowledged = Vec::new();
    for nth in 1..=20 {
        let mut stream = call(&tape.addresses[0]);
        let bytes = random(nth, 60_000);
        stream.write_all(&bytes).expect("it reads");
        eventually("it is all acknowledged", || {
            (unacknowledged(&stream) == 0).then_some(())
        });
        reset(stream);
        acknowledged.push(bytes);
    }
    let mut heard: Vec<_> = target.results(20);
    for heard in &heard {
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    }
    let found = captured(&tape.stop());
    heard.sort_by(|one, other| one.bytes.cmp(&other.bytes));
    acknowledged.sort();
    let heard: Vec<_> = heard.into_iter().map(|heard| heard.bytes).collect();
    let mut recorded: Vec<_> = found.iter().map(|talk| talk.bytes[IN].clone()).collect();
    recorded.sort();
    assert!(recorded == acknowledged, "recorded");
    assert!(heard == acknowledged, "passed on");
    assert!(found.iter().all(|talk| talk.reason() == CloseReason::Reset));
}

#[test]
fn a_target_that_resets_is_passed_on_behind_all_that_it_sent() {
    let target = Target::serve(|nth, mut stream| {
        assert_eq!(take(&stream, 5), b"hello");
        stream
            .write_all(&random(nth as u64, MIB))
            .expect("it reads");
        eventually("it is all acknowledged", || {
            (unacknowledged(&stream) == 0).then_some(())
        });
        reset(stream);
    });
    let tape = proxy(&target.address, &[]);
    for nth in 1..=5 {
        let mut stream = call(&tape.addresses[0]);
        stream.write_all(b"hello").expect("it reads");
        let heard = Heard::listen(&stream);
        assert_eq!(heard.bytes.len(), MIB);
        assert!(heard.bytes == random(nth, MIB));
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    }
    let found = captured(&tape.stop());
    assert_eq!(found.len(), 5);
    for (nth, talk) in found.iter().enumerate() {
        assert!(talk.bytes[OUT] == random(nth as u64 + 1, MIB));
        assert_eq!(talk.bytes[IN], b"hello");
        assert_eq!(talk.reason(), CloseReason::TargetReset);
    }
}

#[test]
fn a_target_that_is_down_resets_its_clients_until_it_is_up() {
    let port = Port::new();
    let address = port.address();
    let mut tape = proxy(&address, &[]);
    let failed = format!("cannot connect to {address}: connection refused");
    for nth in 1..=3 {
        // It may be reset before it knows that it is connected.
        let heard = match TcpStream::connect(&tape.addresses[0]) {
            Ok(stream) => Heard::listen(&patient(stream)),
            Err(error) => Heard {
                error: Some(error.kind()),
                ..Heard::default()
            },
        };
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
        assert_eq!(heard.bytes, b"");
        if nth == 1 {
            let line = tape.wait_for_line(&failed);
            assert!(
                line.ends_with("; its clients are reset until it answers"),
                "{line}"
            );
        }
    }
    let listener = port.listen();
    let stream = call(&tape.addresses[0]);
    let at_target = accept(&listener);
    tape.wait_for_line(&format!("connected to {address}"));
    (&stream).write_all(b"hello").expect("it reads");
    assert_eq!(take(&at_target, 5), b"hello");
    end_sending(&stream);
    assert_eq!(Heard::listen(&at_target).error, None);
    drop(at_target);
    assert_eq!(Heard::listen(&stream).error, None);
    drop(listener);
    // Down again: that is news.
    let _ = TcpStream::connect(&tape.addresses[0]);
    tape.wait_for_line(&failed);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert_eq!(times_said(&ended, &failed), 2, "{:?}", ended.said);
    assert_eq!(times_said(&ended, "connected to"), 1, "{:?}", ended.said);
    let found = captured(&ended);
    assert_eq!(found.len(), 5);
    for nth in [0, 1, 2, 4] {
        assert_eq!(
            found[nth].reason(),
            CloseReason::Error(failed.clone().into())
        );
        assert_eq!(found[nth].bytes[OUT], b"");
    }
    assert_eq!(found[3].bytes[IN], b"hello");
    assert_eq!(found[3].reason(), CloseReason::Eof);
}

#[test]
fn what_a_client_had_sent_to_a_target_that_does_not_answer_is_captured() {
    let port = Port::new();
    let socket = socket2::Socket::from(port.listen());
    socket.listen(0).expect("it is bound");
    let first = call(&port.address());
    let tape = proxy(&port.address(), &["--connect-timeout", "300ms"]);
    let mut stream = call(&tape.addresses[0]);
    stream
        .write_all(b"is anybody there?")
        .expect("the kernel takes it");
    let heard = Heard::listen(&stream);
    assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    let ended = tape.stop();
    check_status(&ended, 0, &["timed out; its clients are reset"]);
    let found = captured(&ended);
    assert_eq!(found[0].bytes[IN], b"is anybody there?");
    let why = format!("cannot connect to {}: timed out", port.address());
    assert_eq!(found[0].reason(), CloseReason::Error(why.into()));
    drop(first);
}

// --- limits, and the capture ---------------------------------------------------------------------

#[test]
fn clients_beyond_the_limit_wait_and_are_served() {
    let target = echo();
    let tape = proxy(&target.address, &["--max-conns", "2"]);
    let streams: Vec<_> = (0..6).map(|_| call(&tape.addresses[0])).collect();
    for mut stream in streams {
        stream.write_all(b"hello").expect("the kernel takes it");
        assert_eq!(take(&stream, 5), b"hello");
        end(stream);
    }
    let ended = tape.stop();
    assert_eq!(captured(&ended).len(), 6);
    let (mut open, mut most) = (0, 0);
    for record in records(&ended.path("a.ndjson")) {
        match record.event {
            Event::Open { .. } => open += 1,
            Event::Close { .. } => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    assert_eq!(most, 2);
}

#[test]
fn a_silent_conversation_is_ended_at_both_ends() {
    let target = Target::serve(|_, mut stream| {
        stream.write_all(b"welcome").expect("it reads");
        Heard::listen(&stream)
    });
    let tape = proxy(&target.address, &["--idle-timeout", "80ms"]);
    let mut stream = call(&tape.addresses[0]);
    stream.write_all(b"hello").expect("it reads");
    let heard = Heard::listen(&stream);
    assert_eq!((&heard.bytes[..], heard.error), (&b"welcome"[..], None));
    let (_, heard) = target.result();
    assert_eq!((&heard.bytes[..], heard.error), (&b"hello"[..], None));
    let found = captured(&tape.stop());
    assert_eq!(found[0].reason(), CloseReason::IdleTimeout);
    assert!(found[0].close().duration_us >= 80_000);
}

#[test]
fn a_conversation_in_which_one_side_speaks_is_not_idle() {
    let (go_on, told) = channel::<()>();
    let told = std::sync::Arc::new(std::sync::Mutex::new(told));
    let target = Target::serve(move |_, mut stream| {
        let told = told.lock().expect("one connection");
        // Twice as long as it may be idle.
        for _ in 0..20 {
            stream.write_all(b".").expect("it reads");
            let _ = told.recv_timeout(Duration::from_millis(100));
        }
    });
    let tape = proxy(&target.address, &["--idle-timeout", "1s"]);
    let stream = call(&tape.addresses[0]);
    let heard = Heard::listen(&stream);
    assert_eq!((heard.bytes.len(), heard.error), (20, None));
    end(stream);
    drop(go_on);
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let found = captured(&tape.stop());
    assert_eq!(found[0].reason(), CloseReason::Eof);
}

#[test]
fn an_old_conversation_is_ended_however_busy_and_loses_nothing() {
    let target = listening();
    let tape = proxy(&target.address, &["--max-age", "60ms"]);
    let sent = crate::shutdown::send_until_reset(call(&tape.addresses[0]), 1);
    let sent = sent.join().expect("it ends with the connection");
    let (_, heard) = target.result();
    let found = captured(&tape.stop());
    assert_eq!(found[0].reason(), CloseReason::Limit);
    let acknowledged = &sent.bytes[..sent.bytes.len() - sent.unacknowledged];
    assert!(found[0].bytes[IN] == acknowledged);
    assert_eq!(heard.error, None);
    assert!(heard.bytes == acknowledged);
}

#[test]
fn a_capture_is_rotated_in_mid_conversation() {
    let target = echo();
    let tape = proxy(&target.address, &[]);
    let stream = call(&tape.addresses[0]);
    let talk = |text: &str| {
        (&stream).write_all(text.as_bytes()).expect("it reads");
        assert_eq!(take(&stream, text.len()), text.as_bytes());
    };
    let live = tape.path("a.ndjson");
    for nth in 1..=3 {
        let text = format!("round {nth}");
        talk(&text);
        until_written(&live, &text, 2);
        fs::rename(&live, tape.path(&format!("{nth}.ndjson"))).expect("it is there");
        tape.signal(Signal::HUP);
        eventually("it is opened anew", || live.exists().then_some(()));
    }
    talk("last round");
    end(stream);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let files = ["1.ndjson", "2.ndjson", "3.ndjson", "a.ndjson"];
    let all = joined(files.map(|file| records(&ended.path(file))).into());
    let found = conversations(&all);
    let expected = b"round 1round 2round 3last round".to_vec();
    assert_eq!(found[&1].bytes, [expected.clone(), expected]);
    assert_eq!(found[&1].reason(), CloseReason::Eof);
}

#[test]
fn a_target_by_its_name_is_looked_up() {
    let target = echo();
    let (_, port) = target.address.rsplit_once(':').expect("it has a port");
    for name in [&format!("localhost:{port}"), port] {
        let tape = proxy(name, &[]);
        let stream = call(&tape.addresses[0]);
        (&stream).write_all(b"hello").expect("it reads");
        assert_eq!(take(&stream, 5), b"hello");
        end(stream);
        let found = captured(&tape.stop());
        assert_eq!(found[0].target, Some(format!("localhost:{port}")));
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let target = Untouched::new();
    let address = target.address();
    for (args, status, why) in [
        (
            &["0", "127.0.0.1:0"][..],
            2,
            "port 0 is no port to connect to",
        ),
        (&[&address, &address], 2, "is both ends of the proxy"),
        (&["0"], 2, "<TARGET>"),
        (&["0", "host"], 2, "the port is missing"),
        (&["0", "a:1", "b:2"], 2, "unexpected argument"),
        // Somebody else listens there.
        (&[&address, "127.0.0.1:9"], 1, "address already in use"),
    ] {
        let mut command = wiretape();
        command.arg("proxy").args(args);
        check_refused(command, status, why);
    }
    target.check();
}

/// Nobody is connected to before a client comes.
#[test]
fn without_clients_it_leaves_the_target_alone() {
    let target = Untouched::new();
    let tape = Tape::spawn(proxy_command(&target.address(), &["-o", "a.ndjson"]));
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert!(captured(&ended).is_empty());
    target.check();
}

/// A client that is gone again at once, in either way.
#[test]
fn clients_that_only_look_whether_somebody_listens_are_conversations_too() {
    let target = listening();
    let tape = proxy(&target.address, &[]);
    for nth in 0..40 {
        let stream = call(&tape.addresses[0]);
        match nth % 2 {
            0 => drop(stream),
            _ => reset(stream),
        }
    }
    until_written(&tape.path("a.ndjson"), "\"close\"", 40);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found.len(), 40);
    for talk in &found {
        assert!(talk.bytes.iter().all(Vec::is_empty));
        let reasons = [CloseReason::Eof, CloseReason::Reset];
        assert!(reasons.contains(&talk.reason()), "{talk:?}");
    }
}
