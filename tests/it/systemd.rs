//! What systemd hands over and is told. The test plays systemd; one lets a program of systemd's do it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::tape::{
    Ended, PATIENCE, Tape, end, eventually, listen_command, program, records, sessions, wiretape,
};

/// `wiretape ARGS…`, with this as its descriptor 3 and the environment that tells it so.
fn handed(socket: impl Into<OwnedFd>, name: &str, args: &[&str]) -> Command {
    // LISTEN_PID is known only to the process that becomes the program.
    const SCRIPT: &str = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@" 3<&0 </dev/null"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT])
        .arg(wiretape().get_program())
        .args(args)
        .env("LISTEN_FDNAMES", name)
        .stdin(Stdio::from(socket.into()));
    command
}

/// The same, with an output, once it listens.
fn start(socket: impl Into<OwnedFd>, args: &[&str]) -> Tape {
    let args = [args, &["-o", "a.ndjson"]].concat();
    let mut tape = Tape::spawn(handed(socket, "plc", &args));
    // Of a proxy it has been waited for.
    if tape.addresses.is_empty() {
        let line = tape.wait_for_line("listening on ");
        let address = line.rsplit("listening on ").next().expect("it has one");
        tape.addresses.push(address.to_owned());
    }
    tape
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one").to_string();
    (listener, address)
}

fn again(listener: &TcpListener) -> TcpListener {
    listener.try_clone().expect("descriptors are left")
}

fn sent(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the kernel lets it in");
    stream.write_all(bytes).expect("the kernel takes it");
    stream
}

/// What was sent over each connection, sorted.
fn heard(ended: &Ended) -> Vec<Vec<u8>> {
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    let mut heard: Vec<_> = sessions
        .into_values()
        .map(|session| session.bytes)
        .collect();
    heard.sort();
    heard
}

#[test]
fn peers_of_a_socket_that_is_handed_over_wait_for_the_next_run() {
    let (systemd, address) = listener();
    let _early = sent(&address, b"before it was started");
    let tape = start(again(&systemd), &["listen", "systemd"]);
    assert_eq!(tape.addresses, [address.as_str()]);
    tape.send(b"while it runs");
    let expected = [b"before it was started".to_vec(), b"while it runs".to_vec()];
    assert_eq!(heard(&tape.stop()), expected);
    // The socket is as good as new: what the first run has done to it has not stayed.
    let _between = sent(&address, b"between two runs");
    let tape = start(again(&systemd), &["listen", "systemd:plc"]);
    tape.send(b"in the second run");
    let expected = [b"between two runs".to_vec(), b"in the second run".to_vec()];
    assert_eq!(heard(&tape.stop()), expected);
}

#[test]
fn who_waits_when_it_is_told_to_stop_is_heard() {
    let (systemd, address) = listener();
    let mut tape = start(again(&systemd), &["listen", "systemd", "--max-conns", "1"]);
    let streams: Vec<_> = (0..4).map(|nth| sent(&address, &[b'0' + nth])).collect();
    tape.wait_for_line("others wait to be accepted");
    assert_eq!(heard(&tape.stop()), [b"0", b"1", b"2", b"3"]);
    drop(streams);
}

#[test]
fn a_storm_on_a_socket_that_is_handed_over_does_not_keep_it_from_ending() {
    let (systemd, address) = listener();
    let tape = start(again(&systemd), &["listen", "systemd", "--drain", "20s"]);
    let is_over = Arc::new(AtomicBool::new(false));
    let storm: Vec<_> = (0..2)
        .map(|_| {
            let (address, is_over) = (address.clone(), is_over.clone());
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // The queue may be full.
                    let _ = TcpStream::connect(&address);
                }
            })
        })
        .collect();
    let capture = tape.path("a.ndjson");
    eventually("many have come", || {
        let len = fs::metadata(&capture).map_or(0, |metadata| metadata.len());
        (len > 20_000).then_some(())
    });
    let ended = tape.stop();
    is_over.store(true, Ordering::Relaxed);
    // A queue that is full holds a connect up: nobody waits for it any more.
    drop(systemd);
    for thread in storm {
        thread.join().expect("it does not panic");
    }
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
}

#[test]
fn who_comes_behind_the_last_of_exit_after_waits_for_the_next_run() {
    let (systemd, address) = listener();
    let streams = [sent(&address, b"1"), sent(&address, b"2")];
    let tape = start(again(&systemd), &["listen", "systemd", "--exit-after", "1"]);
    let [first, second] = streams;
    end(first);
    assert_eq!(heard(&tape.wait()), [b"1"]);
    let tape = start(again(&systemd), &["listen", "systemd", "--exit-after", "1"]);
    end(second);
    assert_eq!(heard(&tape.wait()), [b"2"]);
}

#[test]
fn the_file_of_a_unix_socket_that_is_handed_over_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s.sock");
    let systemd = UnixListener::bind(&path).expect("it is new");
    let tape = start(
        systemd.try_clone().expect("it is open"),
        &["listen", "systemd"],
    );
    assert_eq!(tape.addresses, [format!("unix:{}", path.display())]);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"hello").expect("it reads");
    drop(stream);
    let capture = tape.path("a.ndjson");
    eventually("it is recorded", || {
        let text = fs::read_to_string(&capture).unwrap_or_default();
        text.contains(r#""type":"close""#).then_some(())
    });
    assert_eq!(heard(&tape.stop()), [b"hello"]);
    let mut stream = UnixStream::connect(&path).expect("it is still there");
    stream.write_all(b"again").expect("the kernel takes it");
    drop(stream);
    let tape = start(systemd, &["listen", "systemd", "--exit-after", "1"]);
    assert_eq!(heard(&tape.wait()), [b"again"]);
}

#[test]
fn a_proxy_takes_a_socket_that_is_handed_over() {
    let (systemd, address) = listener();
    let (target, at) = listener();
    let tape = start(systemd, &["proxy", "systemd", &at]);
    let mut client = sent(&address, b"question");
    let (mut answering, _) = target.accept().expect("it is dialled");
    (client.shutdown(Shutdown::Write)).expect("it is open");
    let mut asked = Vec::new();
    answering
        .read_to_end(&mut asked)
        .expect("the end is passed on");
    assert_eq!(asked, b"question");
    drop(answering);
    assert_eq!(client.read(&mut [0]).expect("an orderly end"), 0);
    assert_eq!(heard(&tape.stop()), [b"question"]);
}

#[test]
fn commands_do_not_inherit_the_socket() {
    let (systemd, _) = listener();
    let command = "ls -l /proc/self/fd > fds; true";
    let args = [
        "listen",
        "systemd",
        "--rotate",
        "4KiB",
        "--on-rotate",
        command,
    ];
    let tape = start(systemd, &args);
    tape.send(&[b'x'; 9000]);
    tape.send(&[b'x'; 9000]);
    let path = tape.path("fds");
    let fds = eventually("it has run", || {
        fs::read_to_string(&path).ok().filter(|fds| !fds.is_empty())
    });
    assert!(!fds.contains("socket:"), "{fds}");
    assert_eq!(tape.stop().status, Some(0));
}

/// What is refused, in one line that holds `expected`.
fn check_refused(socket: impl Into<OwnedFd>, args: &[&str], expected: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = handed(socket, "plc", args);
    let output = command
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(expected) && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn what_is_no_socket_to_listen_on_is_refused() {
    let expected =
        "cannot listen on systemd: what was handed over is no stream socket that listens";
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    check_refused(datagrams, &["listen", "systemd"], expected);
    let (listener, address) = listener();
    let connected = TcpStream::connect(&address).expect("it listens");
    check_refused(connected, &["listen", "systemd"], expected);
    let file = fs::File::open("/dev/null").expect("it is everywhere");
    check_refused(
        file,
        &["listen", "systemd"],
        "socket operation on non-socket",
    );
    let expected = "systemd:web: no socket of that name was handed over, but plc";
    check_refused(again(&listener), &["listen", "systemd:web"], expected);
    let expected = "systemd:plc: it was handed over, and no address on the command line means it";
    check_refused(listener, &["listen", "127.0.0.1:0"], expected);
}

#[test]
fn where_nothing_is_handed_over_it_is_said_who_would() {
    let refused = |command: &mut Command| {
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let args = ["listen", "systemd"];
    let said = refused(wiretape().args(args));
    assert!(
        said.contains("no socket was handed over (a .socket unit of systemd"),
        "{said}"
    );
    // They are for the process that started this one.
    let said = refused(
        wiretape()
            .args(args)
            .env("LISTEN_FDS", "1")
            .env("LISTEN_PID", "1"),
    );
    assert!(said.contains("no socket was handed over"), "{said}");
    let script = r#"export LISTEN_PID=$$ LISTEN_FDS=40; exec "$0" listen systemd"#;
    let said = refused(
        Command::new("sh")
            .args(["-c", script])
            .arg(wiretape().get_program()),
    );
    assert!(
        said.contains("cannot listen on systemd: bad file descriptor"),
        "{said}"
    );
    let script = r#"export LISTEN_PID=$$ LISTEN_FDS=2147483647; exec "$0" listen systemd"#;
    let said = refused(
        Command::new("sh")
            .args(["-c", script])
            .arg(wiretape().get_program()),
    );
    assert!(said.contains("LISTEN_FDS is more than 1024"), "{said}");
}

#[test]
fn a_program_of_systemd_hands_it_over() {
    let Some(activate) = program("systemd-socket-activate") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s.sock");
    let mut command = Command::new(activate);
    command
        .arg("-l")
        .arg(&path)
        .args(["--fdname", "plc"])
        .arg(wiretape().get_program())
        .args([
            "listen",
            "systemd:plc",
            "-o",
            "a.ndjson",
            "--exit-after",
            "1",
        ]);
    let mut tape = Tape::spawn(command);
    let mut stream = eventually("it listens", || UnixStream::connect(&path).ok());
    stream.write_all(b"hello").expect("the kernel takes it");
    tape.wait_for_line(&format!("listening on unix:{}", path.display()));
    drop(stream);
    assert_eq!(heard(&tape.wait()), [b"hello"]);
}

/// The socket of a service manager, in a folder of its own.
fn manager() -> (TempDir, UnixDatagram) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = UnixDatagram::bind(folder.path().join("notify")).expect("it is new");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it is longer than zero");
    (folder, socket)
}

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).expect("it is told in time");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

/// Runs it, and demands that the manager hears that it is ready, and that it stops.
fn check_told(mut command: Command, status: &str) {
    let (folder, socket) = manager();
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    let tape = Tape::spawn(command);
    assert_eq!(
        told(&socket),
        format!(
            "READY=1\nSTATUS={}\n",
            status.replace("ADDR", &tape.addresses.join(", "))
        )
    );
    let ended = tape.stop();
    let told = told(&socket);
    assert!(told.starts_with("STOPPING=1\nSTATUS=stopping"), "{told}");
    // Five seconds to drain, and five for what comes behind that.
    let extended = told
        .lines()
        .find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let extended: u64 = extended.and_then(|us| us.parse().ok()).expect("a number");
    assert!((9_000_000..=10_000_000).contains(&extended), "{told}");
    assert!(ended.status.is_some(), "{:?}", ended.said);
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let (_server, at) = listener();
    check_told(listen_command(&[]), "listening on ADDR");
    check_told(
        listen_command(&["127.0.0.1:0", "127.0.0.1:0"]),
        "listening on ADDR",
    );
    let mut command = wiretape();
    command.args(["proxy", "127.0.0.1:0", &at]);
    check_told(command, "listening on ADDR");
    let mut command = wiretape();
    command.args(["connect", &at]);
    check_told(command, "connecting to devices");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/conversation.ndjson");
    let mut command = wiretape();
    command
        .arg("replay")
        .arg(sample)
        .args([&at, "--pace", "reply"]);
    check_told(command, &format!("replaying to {at}"));
}

#[test]
fn systemd_may_have_an_abstract_name_and_may_be_gone() {
    let name = format!("wiretape-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("it is short");
    let socket = UnixDatagram::bind_addr(&address).expect("it is new");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("it is longer than zero");
    let mut command = listen_command(&[]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let tape = Tape::spawn(command);
    assert!(told(&socket).starts_with("READY=1\n"));
    drop(socket);
    assert_eq!(tape.stop().status, Some(0));
    let mut command = listen_command(&[]);
    command.env("NOTIFY_SOCKET", "/no/such/socket");
    assert_eq!(Tape::spawn(command).stop().status, Some(0));
}
