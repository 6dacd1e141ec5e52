//! `connect`: devices that listen, come and go, answer and do not.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use wiretape::record::{CloseReason, EndReason, Event};

use crate::hand::{Heard, Target, Untouched, reset, take};
use crate::shutdown::send_until_reset;
use crate::talk::{
    IN, OUT, Port, accept, captured, check_refused, check_status, connect_command, name, start,
    times_said, until_written,
};
use crate::tape::{Ended, Tape, eventually, program, records, skip, under};

/// `wiretape connect ADDRESS -o a.ndjson ARGS…`, which comes back soon to whom it has lost.
fn connect(address: &str, args: &[&str]) -> Tape {
    let mut command = connect_command(&[address, "-o", "a.ndjson"]);
    if !args.iter().any(|arg| arg.contains("reconnect")) {
        command.args(["--reconnect", "20ms"]);
    }
    command.args(args);
    Tape::spawn(command)
}

// --- lost and found ------------------------------------------------------------------------------

#[test]
fn a_device_that_goes_away_is_connected_to_again() {
    let port = Port::new();
    let address = port.address();
    let mut tape = connect(&address, &[]);
    let refused = format!("cannot connect to {address}: connection refused; trying again");
    let mut locals = Vec::new();
    for nth in 1..=3 {
        tape.wait_for_line(&refused);
        let listener = port.listen();
        let mut stream = accept(&listener);
        tape.wait_for_line(&format!("connected to {address}"));
        locals.push(stream.peer_addr().expect("it is connected").to_string());
        stream
            .write_all(format!("reading {nth}\n").as_bytes())
            .expect("it reads");
        // Nobody else comes meanwhile.
        drop(listener);
    }
    tape.wait_for_line(&refused);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert_eq!(times_said(&ended, "connected to"), 3, "{:?}", ended.said);
    let start = start(&records(&ended.path("a.ndjson")));
    assert_eq!(start.mode, "connect");
    assert_eq!(start.connect, std::slice::from_ref(&address));
    assert!(start.listen.is_empty());
    let found = captured(&ended);
    assert_eq!(found.len(), 3);
    for (nth, (device, local)) in found.iter().zip(&locals).enumerate() {
        assert_eq!(device.peer, address);
        assert_eq!(device.target.as_deref(), Some(&address[..]));
        assert_eq!(device.local, *local);
        assert_eq!(
            device.bytes[IN],
            format!("reading {}\n", nth + 1).as_bytes()
        );
        assert_eq!(device.ends, [IN]);
        assert_eq!(device.reason(), CloseReason::Eof);
    }
}

#[test]
fn why_a_device_does_not_answer_is_said_once_until_that_changes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("device");
    let address = format!("unix:{}", path.display());
    let mut tape = connect(&address, &["--reconnect", "10ms"]);
    let failed = format!("cannot connect to {address}: ");
    tape.wait_for_line(&format!("{failed}no such file or directory; trying again"));
    // It is tried several times.
    tape.stand_still(Duration::from_millis(150));
    drop(UnixListener::bind(&path).expect("the folder is writable"));
    tape.wait_for_line(&format!("{failed}connection refused; trying again"));
    fs::remove_file(&path).expect("it is left there");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    let line = tape.wait_for_line("connect");
    // Between the two there was no file again, which it may have seen.
    let line = match line.contains(&failed) {
        true => tape.wait_for_line("connect"),
        false => line,
    };
    assert_eq!(line, format!("wiretape: connected to {address}"));
    let (mut stream, _) = listener.accept().expect("it is connected");
    stream.write_all(b"hello").expect("it reads");
    // As many who come and go say nothing, where the next one answers at once.
    drop(stream);
    drop(listener.accept().expect("it comes again"));
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert_eq!(times_said(&ended, "connected to"), 1, "{:?}", ended.said);
    let found = captured(&ended);
    assert_eq!((&found[0].peer, &found[0].local[..]), (&address, "unix:"));
    assert_eq!(found[0].bytes[IN], b"hello");
    assert_eq!(found[0].reason(), CloseReason::Eof);
}

#[test]
fn a_device_that_resets_is_connected_to_again() {
    let port = Port::new();
    let listener = port.listen();
    let tape = connect(&port.address(), &[]);
    let mut stream = accept(&listener);
    stream.write_all(b"one").expect("it reads");
    until_written(&tape.path("a.ndjson"), "\"one\"", 1);
    reset(stream);
    let mut stream = accept(&listener);
    stream.write_all(b"two").expect("it reads");
    until_written(&tape.path("a.ndjson"), "\"two\"", 1);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert_eq!(times_said(&ended, "connect to"), 0, "{:?}", ended.said);
    let found = captured(&ended);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].bytes[IN], b"one");
    assert_eq!(found[0].reason(), CloseReason::Reset);
    assert!(found[0].ends.is_empty());
    assert_eq!(found[1].bytes[IN], b"two");
    assert_eq!(found[1].reason(), CloseReason::Shutdown);
    // That was told to the device.
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

#[test]
fn term_reads_all_that_the_devices_were_told_has_arrived() {
    let port = Port::new();
    let listener = port.listen();
    let tape = connect(&port.address(), &[]);
    let sender = send_until_reset(accept(&listener), 1);
    let file = tape.path("a.ndjson");
    eventually("the flood is in the file", || {
        let len = fs::metadata(&file).ok()?.len();
        (len > 5_000_000).then_some(())
    });
    let ended = tape.stop();
    let sent = sender.join().expect("it ends with the connection");
    check_status(&ended, 0, &["stopping: reading what 1 connection sent"]);
    let found = captured(&ended);
    assert_eq!(found.len(), 1);
    let acknowledged = sent.bytes.len() - sent.unacknowledged;
    assert_eq!(found[0].bytes[IN].len(), acknowledged);
    assert!(found[0].bytes[IN] == sent.bytes[..acknowledged]);
    assert_eq!(found[0].reason(), CloseReason::Shutdown);
    let records = records(&ended.path("a.ndjson"));
    let reason = EndReason::Shutdown;
    assert_eq!(records[records.len() - 1].event, Event::End { reason });
}

#[test]
fn term_ends_it_while_nobody_answers() {
    let port = Port::new();
    let mut tape = connect(&port.address(), &["--reconnect", "1h"]);
    tape.wait_for_line("trying again");
    check_status(&tape.stop(), 0, &["stopping"]);
    // Nor does it wait for one that keeps silent: its queue is full.
    let socket = socket2::Socket::from(port.listen());
    socket.listen(0).expect("it is bound");
    let first = TcpStream::connect(port.address()).expect("there is room for one");
    let tape = connect(&port.address(), &["--connect-timeout", "1h"]);
    until_written(&tape.path("a.ndjson"), "\"start\"", 1);
    let ended = tape.stop();
    check_status(&ended, 0, &["stopping"]);
    assert!(captured(&ended).is_empty());
    drop(first);
}

#[test]
fn a_device_that_keeps_silent_is_given_up_after_the_connect_timeout() {
    let port = Port::new();
    let socket = socket2::Socket::from(port.listen());
    socket.listen(0).expect("it is bound");
    let first = TcpStream::connect(port.address()).expect("there is room for one");
    let args = ["--no-reconnect", "--connect-timeout", "100ms"];
    let ended = connect(&port.address(), &args).wait();
    check_status(&ended, 1, &["timed out; given up"]);
    drop(first);
}

#[test]
fn an_idle_device_is_connected_to_again_however_often_it_is_asked() {
    let port = Port::new();
    let listener = port.listen();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let poll = folder.path().join("poll");
    fs::write(&poll, "poll").expect("the folder is writable");
    let poll = poll.display().to_string();
    let args = [
        "--send",
        &poll,
        "--send-every",
        "10ms",
        "--idle-timeout",
        "100ms",
    ];
    let tape = connect(&port.address(), &args);
    // The device does not end its own direction.
    let devices = [(); 2].map(|()| {
        let stream = accept(&listener);
        let heard = Heard::listen(&stream);
        assert!(heard.bytes.len() >= 2 * 4, "{heard:?}");
        stream
    });
    let _third = accept(&listener);
    drop(devices);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert!(found.len() >= 2);
    for device in &found[..2] {
        assert_eq!(device.reason(), CloseReason::IdleTimeout);
        assert!(device.bytes[OUT].len() >= 2 * 4);
        assert!(device.close().duration_us >= 100_000);
    }
}

// --- once ----------------------------------------------------------------------------------------

/// `--no-reconnect` with devices that send something and end, and such as there are not.
fn check_once(devices: usize, missing: usize) -> Ended {
    let target = Target::serve(|nth, mut stream| {
        stream.write_all(format!("device {nth}").as_bytes()).is_ok()
    });
    let others: Vec<_> = (1..devices)
        .map(|_| Target::serve(|_, mut stream| stream.write_all(b"device").is_ok()))
        .collect();
    let ports: Vec<_> = (0..missing).map(|_| Port::new()).collect();
    let mut addresses: Vec<String> = ports.iter().map(Port::address).collect();
    if devices > 0 {
        addresses.push(target.address.clone());
    }
    addresses.extend(others.iter().map(|other| other.address.clone()));
    let addresses: Vec<&str> = addresses.iter().map(|address| &address[..]).collect();
    let mut command = connect_command(&addresses);
    command.args(["--no-reconnect", "-o", "a.ndjson"]);
    let ended = Tape::spawn(command).wait();
    for port in &ports {
        let failed = format!(
            "cannot connect to {}: connection refused; given up",
            port.address()
        );
        assert_eq!(times_said(&ended, &failed), 1, "{:?}", ended.said);
    }
    let found = captured(&ended);
    assert_eq!(found.len(), devices);
    for device in &found {
        assert!(device.bytes[IN].starts_with(b"device"), "{device:?}");
        assert_eq!(device.reason(), CloseReason::Eof);
    }
    let start = start(&records(&ended.path("a.ndjson")));
    assert_eq!(start.connect, addresses);
    ended
}

#[test]
fn without_reconnecting_it_ends_by_itself() {
    check_status(&check_once(1, 0), 0, &[]);
    check_status(&check_once(3, 0), 0, &[]);
    let nobody = "nobody could be connected to: ";
    check_status(&check_once(0, 1), 1, &[nobody]);
    check_status(&check_once(0, 2), 1, &[nobody]);
    let ended = check_once(1, 1);
    check_status(&ended, 3, &[]);
    assert!(!ended.has_said("nobody"), "{:?}", ended.said);
}

#[test]
fn without_reconnecting_the_first_that_ends_does_not_end_the_others() {
    let (one, other) = (Port::new(), Port::new());
    let (first, second) = (one.listen(), other.listen());
    let addresses = [&one.address()[..], &other.address()];
    let mut command = connect_command(&addresses);
    command.args(["--no-reconnect", "-o", "a.ndjson"]);
    let mut tape = Tape::spawn(command);
    drop(accept(&first));
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let mut stream = accept(&second);
    stream.write_all(b"still here").expect("it reads");
    until_written(&tape.path("a.ndjson"), "still here", 1);
    assert_eq!(tape.ended(), None);
    drop(stream);
    let ended = tape.wait();
    check_status(&ended, 0, &[]);
    assert!(!ended.has_said("stopping"), "{:?}", ended.said);
    assert_eq!(captured(&ended).len(), 2);
}

#[test]
fn raw_output_is_what_the_device_sent_and_nothing_else() {
    let target = Target::serve(|_, mut stream| {
        let greeting = take(&stream, 6);
        stream.write_all(b"reading\n").expect("it reads");
        greeting
    });
    let mut command = connect_command(&[&target.address, "--no-reconnect", "--raw"]);
    command.args(["--send", "-"]).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("wiretape starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // Nobody is connected to before all of it is there.
    stdin.write_all(b"hel").expect("it reads");
    stdin.write_all(b"lo\n").expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it is a child");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(target.result().1, b"hello\n");
    assert_eq!(output.stdout, b"reading\n");
}

// --- what a device is sent -----------------------------------------------------------------------

#[test]
fn a_greeting_is_sent_on_every_connection_and_recorded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("greeting");
    // Longer than a read, a batch and what a socket takes at once.
    let greeting = crate::talk::random(1, 3_000_000);
    fs::write(&path, &greeting).expect("the folder is writable");
    let port = Port::new();
    let listener = port.listen();
    let tape = connect(&port.address(), &["--send", &path.display().to_string()]);
    for nth in 1..=3 {
        let mut stream = accept(&listener);
        assert!(take(&stream, greeting.len()) == greeting);
        stream
            .write_all(format!("reading {nth}").as_bytes())
            .expect("it reads");
        until_written(&tape.path("a.ndjson"), &format!("reading {nth}"), 1);
        if nth < 3 {
            continue;
        }
        // Nothing more is sent, and the file was read once.
        fs::remove_file(&path).expect("it is there");
        let ended = tape.stop();
        assert_eq!(Heard::listen(&stream).bytes, b"");
        check_status(&ended, 0, &[]);
        let found = captured(&ended);
        assert_eq!(found.len(), 3);
        for (nth, device) in found.iter().enumerate() {
            assert!(device.bytes[OUT] == greeting);
            assert_eq!(device.bytes[IN], format!("reading {}", nth + 1).as_bytes());
        }
        return;
    }
}

#[test]
fn a_poll_is_sent_again_and_again_and_answered() {
    let target = Target::serve(|_, mut stream| {
        let mut heard = Vec::new();
        for nth in 1..=5 {
            heard.extend(take(&stream, 5));
            stream
                .write_all(format!("reading {nth}\n").as_bytes())
                .expect("it reads");
        }
        heard.extend(Heard::listen(&stream).bytes);
        heard
    });
    let mut command = connect_command(&[&target.address, "-o", "a.ndjson", "--frame", "line"]);
    command.args(["--send", "-", "--send-every", "15ms"]);
    command.stdin(Stdio::from(text("poll\n")));
    let tape = Tape::spawn(command);
    until_written(&tape.path("a.ndjson"), "reading 5", 1);
    until_written(&tape.path("a.ndjson"), "\"poll\\n\"", 7);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found.len(), 1);
    let device = &found[0];
    assert_eq!(target.result().1, device.bytes[OUT]);
    for (direction, line, partial) in &device.pieces {
        assert!(!partial);
        match *direction {
            OUT => assert_eq!(line, b"poll\n"),
            _ => assert!(line.starts_with(b"reading "), "{line:?}"),
        }
    }
    // The first one goes before the first answer comes.
    assert_eq!(device.pieces[0].0, OUT);
    assert_eq!(
        device.bytes[IN]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count(),
        5
    );
}

/// A file with this text, to be read from its beginning.
fn text(text: &str) -> fs::File {
    use std::io::{Seek, SeekFrom};
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("there is room");
    file.seek(SeekFrom::Start(0)).expect("it is a file");
    file
}

/// A device that does not read yet is sent more than there is room for, and answers.
fn unread(len: usize) -> (tempfile::TempDir, TcpStream, Tape) {
    let port = Port::new();
    let listener = port.listen();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("message");
    fs::write(&path, vec![b'x'; len]).expect("the folder is writable");
    let path = path.display().to_string();
    let tape = connect(&port.address(), &["--send", &path]);
    let mut stream = accept(&listener);
    // Nobody listens there any more.
    drop(listener);
    stream.write_all(b"reading").expect("it reads");
    until_written(&tape.path("a.ndjson"), "reading", 1);
    (folder, stream, tape)
}

#[test]
fn a_device_that_reads_nothing_is_heard_all_the_same() {
    // More than both kernels hold: it is never on its way.
    let (_folder, mut stream, tape) = unread(15_000_000);
    stream.write_all(b"and another").expect("it reads");
    until_written(&tape.path("a.ndjson"), "and another", 1);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found[0].bytes[IN], b"readingand another");
    assert!(found[0].bytes[OUT].len() < 15_000_000);
}

#[test]
fn a_device_that_reads_late_gets_what_is_recorded_as_sent() {
    let (_folder, stream, tape) = unread(1_000_000);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    let heard = Heard::listen(&stream);
    assert_eq!(heard.bytes.len(), found[0].bytes[OUT].len());
    assert_eq!(heard.error, None);
}

#[test]
fn what_cannot_be_sent_is_refused_before_anybody_is_connected_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("the folder is writable");
        path.display().to_string()
    };
    let (empty, long) = (file("empty", b""), file("long", &vec![0; (16 << 20) + 1]));
    let missing = folder.path().join("missing").display().to_string();
    let itself = folder.path().display().to_string();
    let device = Untouched::new();
    for (path, why) in [
        (&empty[..], "it is empty"),
        ("-", "it is empty"),
        (&missing, "no such file"),
        (&itself, "is a directory"),
        (&long, "it is longer than 16 MiB"),
    ] {
        let mut command = connect_command(&[&device.address(), "--send", path]);
        command.stdin(Stdio::null());
        let said = format!("wiretape: cannot read {path} (--send): {why}");
        check_refused(command, 1, &said);
    }
    device.check();
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for (args, why) in [
        (&["127.0.0.1:0"][..], "port 0 is no port to connect to"),
        (&["0"], "port 0 is no port to connect to"),
        (&["host:7", "host:7"], "host:7 is given twice"),
        (&["7", "localhost:7"], "localhost:7 is given twice"),
        (&["unix:x", "unix:x"], "unix:x is given twice"),
        (&["host:7", "--send-every", "1s"], "--send <FILE>"),
        (
            &["host:7", "--no-reconnect", "--reconnect", "1s"],
            "cannot be used with",
        ),
        (&[], "<ADDR>"),
        (&["host"], "the port is missing"),
    ] {
        check_refused(connect_command(args), 2, why);
    }
}

// --- names ---------------------------------------------------------------------------------------

/// `outer` with the names in `hosts`, in a name space of its own; `None`, said aloud, where there is
/// none to be had.
fn with_hosts(hosts: &str) -> Option<(tempfile::TempDir, Command)> {
    let unshare = program("unshare")?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("hosts");
    fs::write(&path, hosts).expect("the folder is writable");
    let mut command = Command::new(unshare);
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    command.args(["-r", "-m", "sh", "-c", script]).arg(path);
    let mut trial = Command::new(command.get_program());
    trial.args(command.get_args()).arg("true");
    if !trial.output().is_ok_and(|output| output.status.success()) {
        skip("no name space can be had");
        return None;
    }
    Some((folder, command))
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let hosts = "127.0.0.1 device\n::1 device\n127.0.0.1 twin\n127.0.0.2 twin\n";
    for (host, at) in [
        ("device", "127.0.0.1:0"),
        ("device", "[::1]:0"),
        // Two of the same family.
        ("twin", "127.0.0.1:0"),
        ("twin", "127.0.0.2:0"),
    ] {
        let Ok(listener) = TcpListener::bind(at) else {
            skip(&format!("nobody can listen on {at}"));
            continue;
        };
        let Some((_hosts, outer)) = with_hosts(hosts) else {
            return;
        };
        let at = listener.local_addr().expect("it listens");
        let (address, at) = (format!("{host}:{}", at.port()), at.to_string());
        let inner = connect_command(&[&address, "-o", "a.ndjson", "--no-reconnect"]);
        let mut tape = Tape::spawn(under(outer, &inner));
        let mut stream = accept(&listener);
        stream.write_all(b"hello").expect("it reads");
        tape.wait_for_line(&format!("connected to {address}, at {at}"));
        drop(stream);
        let ended = tape.wait();
        check_status(&ended, 0, &[]);
        assert!(!ended.has_said("cannot"), "{:?}", ended.said);
        let found = captured(&ended);
        assert_eq!(found[0].peer, at);
        assert_eq!(found[0].target, Some(address));
        assert_eq!(found[0].bytes[IN], b"hello");
    }
}

#[test]
fn a_name_that_stands_for_nothing_is_said() {
    let Some((_hosts, outer)) = with_hosts("127.0.0.1 localhost\n") else {
        return;
    };
    let inner = connect_command(&["nobody.invalid:7", "-o", "a.ndjson", "--no-reconnect"]);
    let ended = Tape::spawn(under(outer, &inner)).wait();
    check_status(
        &ended,
        1,
        &["cannot resolve nobody.invalid:7: ", "given up"],
    );
}

#[test]
fn a_port_alone_is_one_of_this_machine() {
    let port = Port::new();
    let listener = port.listen();
    let tape = connect(&port.number().to_string(), &[]);
    let stream = accept(&listener);
    let at = name(&stream);
    until_written(&tape.path("a.ndjson"), "\"open\"", 1);
    let ended = tape.stop();
    let found = captured(&ended);
    assert_eq!(found[0].peer, at);
    assert_eq!(
        found[0].target,
        Some(format!("localhost:{}", port.number()))
    );
}

/// The kernel connects a socket to itself where it is told to connect to the port that it has just
/// given to it. In a name space that has but two such ports, it does so the first time.
#[test]
fn it_never_connects_to_itself() {
    let (Some(unshare), Some(_)) = (program("unshare"), program("ip")) else {
        return;
    };
    let mut outer = Command::new(unshare);
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    let script = format!(
        r#"ip link set lo up && echo 40000 40001 > {range} && exec "$@" || echo "no name space" >&2"#
    );
    outer.args(["-r", "-n", "sh", "-c", &script, "sh"]);
    let mut trial = Command::new(outer.get_program());
    trial.args(outer.get_args()).arg("true");
    let trial = trial.output().expect("unshare starts");
    if !trial.status.success() || !trial.stderr.is_empty() {
        return skip("no name space can be had");
    }
    let inner = connect_command(&["127.0.0.1:40000", "-o", "a.ndjson", "--reconnect", "10ms"]);
    let mut tape = Tape::spawn(under(outer, &inner));
    tape.wait_for_line("cannot connect to 127.0.0.1:40000: connection refused; trying again");
    // It is tried several times.
    tape.stand_still(Duration::from_millis(150));
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    assert!(captured(&ended).is_empty());
}

// --- like all others -----------------------------------------------------------------------------

#[test]
fn an_output_that_stands_still_holds_the_device_and_loses_nothing() {
    let port = Port::new();
    let listener = port.listen();
    let mut command = connect_command(&[&port.address(), "--raw", "--buffer", "1"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut stream = accept(&listener);
    let sent = crate::talk::random(7, 12_000_000);
    let copy = sent.clone();
    let watched = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || stream.write_all(&copy));
    crate::shutdown::until_held(&watched);
    assert!(!sender.is_finished());
    let mut read = vec![0; sent.len()];
    tape.take_stdout().read_exact(&mut read).expect("it comes");
    assert!(read == sent);
    sender.join().expect("no panic").expect("all is taken");
    drop(watched);
    assert_eq!(tape.stop().status, Some(0));
}

#[test]
fn statistics_can_be_asked_for_and_quiet_is_quiet() {
    let port = Port::new();
    let listener = port.listen();
    let mut tape = connect(&port.address(), &["--quiet"]);
    let mut stream = accept(&listener);
    stream.write_all(b"hello").expect("it reads");
    until_written(&tape.path("a.ndjson"), "hello", 1);
    tape.signal(Signal::USR1);
    tape.wait_for_line("1 connection");
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    for unsaid in ["connected to", "stopping"] {
        assert!(!ended.has_said(unsaid), "{:?}", ended.said);
    }
}
