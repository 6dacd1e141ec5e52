//! Nothing that a peer sends steers a terminal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::hand::Script;
use crate::talk::Port;
use crate::tape::{Tape, eventually, listen_command, wiretape};

/// Every byte, every control character in every form, and what terminals and readers are attacked with.
fn hostile() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(('\u{80}'..='\u{9f}').collect::<String>().bytes());
    bytes.extend("\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{9d}8;;\u{9c}\u{90}q\u{1b}\\".bytes());
    // CSI, OSC, DCS, PM and APC in eight bits each, and the string terminator.
    bytes.extend(b"\x9b2J\x9d0;title\x9c\x90q\x9c\x9ex\x9c\x9fx\x9c");
    for (first, last) in INVISIBLE {
        bytes.extend(format!("{first}{last}").bytes());
    }
    bytes
}

const READABLE: &str = "Ålesund +4.6°C 札幌 ☂ ∠225°";

/// What turns the direction of a text, hides in it or is taken for the end of a line, from and to.
const INVISIBLE: [(char, char); 8] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{e0001}', '\u{e007f}'),
];

fn is_hostile(c: char) -> bool {
    let is_invisible = INVISIBLE.iter().any(|&(from, to)| (from..=to).contains(&c));
    // The last of these was not UTF-8.
    (c.is_control() && c != '\n') || is_invisible || c == char::REPLACEMENT_CHARACTER
}

/// A terminal: what the user sees, and what a program writes to.
fn terminal() -> (File, File) {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&screen).expect("it is ours");
    unlockpt(&screen).expect("it is ours");
    let name = ptsname(&screen, Vec::new()).expect("it has a name");
    let name = name.to_str().expect("it is ASCII");
    let program = File::options().read(true).write(true).open(name);
    (screen.into(), program.expect("it is there"))
}

/// Standard output of a run that was sent hostile bytes, then readable ones.
fn shown(args: &[&str], on_terminal: bool) -> String {
    shown_of(args, on_terminal, |tape| {
        tape.send(&hostile());
        tape.send(READABLE.as_bytes());
    })
}

/// Standard output of a run with such peers.
fn shown_of(args: &[&str], on_terminal: bool, peers: impl FnOnce(&Tape)) -> String {
    let mut command = listen_command(args);
    let screen = on_terminal.then(|| {
        let (screen, program) = terminal();
        command.stdout(program);
        screen
    });
    if screen.is_none() {
        command.stdout(Stdio::piped());
    }
    let mut tape = Tape::spawn(command);
    let mut reader: Box<dyn Read + Send> = match screen {
        Some(screen) => Box::new(screen),
        None => Box::new(tape.take_stdout()),
    };
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        // The end of a terminal reads as an error, not as an end.
        let _ = reader.read_to_end(&mut seen);
        seen
    });
    peers(&tape);
    assert_eq!(tape.stop().status, Some(0));
    let seen = reader.join().expect("no panic");
    // The terminal itself adds a carriage return to every newline.
    String::from_utf8_lossy(&seen).replace("\r\n", "\n")
}

fn check(args: &[&str], on_terminal: bool) {
    check_harmless(&shown(args, on_terminal));
}

fn check_harmless(shown: &str) {
    let found = shown.chars().find(|&c| is_hostile(c));
    assert_eq!(found, None, "in {shown:?}");
    assert!(!shown.is_empty());
}

#[test]
fn text_and_hex_are_safe_everywhere() {
    for on_terminal in [false, true] {
        check(&["--color", "never"], on_terminal);
        check(&["--hex", "--color", "never"], on_terminal);
        check(&["--frame", "line", "--color", "never"], on_terminal);
    }
}

#[test]
fn json_is_safe_on_a_terminal() {
    check(&["--json"], true);
}

/// The client of a Unix socket chooses its name: a path, in which all but `/` and zero may stand.
#[test]
fn a_peer_with_a_hostile_name_is_shown_without_harm() {
    let name = b"\x1b]0;x\x07\xe2\x80\xae\xc2\x9b2J\n#9 forged > \r";
    let speak = |tape: &Tape| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let path = tape.folder.path().join(OsStr::from_bytes(name));
        let bound = SockAddr::unix(path).and_then(|path| socket.bind(&path));
        bound.expect("the folder is writable");
        let at = SockAddr::unix(tape.path("socket")).expect("it is short");
        socket.connect(&at).expect("it listens");
        socket.send(b"hello").expect("it reads");
        socket.shutdown(Shutdown::Write).expect("it is open");
        let left = (&socket).read(&mut [0]).expect("an orderly end");
        assert_eq!(left, 0);
    };
    for format in [
        &["--color", "never"][..],
        &["--hex", "--color", "never"],
        &["--json"],
    ] {
        let shown = shown_of(&[&["unix:socket"], format].concat(), true, speak);
        check_harmless(&shown);
        assert!(
            shown.contains("forged") && !shown.contains("\n#9"),
            "{shown}"
        );
    }
}

/// What a replay says of a capture is a stranger's in part: the peers of sessions that fail, and what
/// stands where something else should.
#[test]
fn what_a_capture_says_is_said_without_harm() {
    let invisible = INVISIBLE.iter().flat_map(|&(from, to)| [from, to]);
    let all: Vec<char> = ('\0'..='\u{ff}').chain(invisible).collect();
    let said = |rest: &str| {
        let target = Port::new();
        let script = Script::new().record("open", rest);
        let ended = script.play(&target.address(), &[]);
        assert_eq!(ended.status, Some(1), "{:?}", ended.said);
        ended.said.join("\n")
    };
    for some in all.chunks(50) {
        let text = serde_json::json!(some.iter().collect::<String>());
        let failed = said(&format!(r#","conn":1,"peer":{text},"local":"l""#));
        assert!(failed.contains("session 1 (#1 "), "{failed}");
        check_harmless(&failed);
        let refused = said(&format!(r#","conn":{text}"#));
        let expected = "line 2: not a capture record: invalid type: string ";
        assert!(refused.contains(expected), "{refused}");
        check_harmless(&refused);
    }
}

#[test]
fn text_of_any_language_stays_readable() {
    for args in [&[][..], &["--json"]] {
        assert!(shown(args, true).contains(READABLE));
        assert!(shown(args, false).contains(READABLE));
    }
}

#[test]
fn a_terminal_is_coloured_and_a_pipe_is_not() {
    assert!(shown(&[], true).contains("\x1b[33m#1 127.0.0.1:"));
    assert!(!shown(&[], false).contains('\x1b'));
    assert!(shown(&["--color", "always"], false).contains("\x1b[33m#1 127.0.0.1:"));
}

fn check_refused(args: &[&str]) {
    let (_screen, program) = terminal();
    let output = listen_command(args)
        .stdout(program)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force"));
}

#[test]
fn raw_bytes_to_a_terminal_must_be_forced() {
    check_refused(&["--raw"]);
    check_refused(&["-o", "/dev/stdout"]);
    assert!(shown(&["--raw", "--force"], true).contains("\u{1b}[2J"));
}

/// Ctrl-S in a terminal stops what is seen, and not what is captured.
#[test]
fn a_terminal_that_stands_still_does_not_hold_up_a_file() {
    let (screen, program) = terminal();
    let mut command = listen_command(&["-o", "a.bin", "-o", "-", "--buffer", "4MiB"]);
    command.stdout(program);
    let mut tape = Tape::spawn(command);
    let sent = b"a line that nobody sees for now\n".repeat(500_000);
    tape.send(&sent);
    tape.wait_for_line("standard output does not keep up");
    eventually("the file has everything", || {
        let len = fs::metadata(tape.path("a.bin")).ok()?.len();
        (len == sent.len() as u64).then_some(())
    });
    // It is looked at again.
    let mut screen = screen;
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        let _ = screen.read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).into_owned()
    });
    let ended = tape.stop();
    assert_eq!(ended.status, Some(3));
    assert!(ended.read("a.bin") == sent);
    let seen = reader.join().expect("it has ended");
    assert!(seen.contains("* GAP: "), "the gap is not shown");
}

/// What is said on a terminal of a run of a moment, with how things stand told all the while.
fn told_on_a_terminal(args: &[&str], shares: bool) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut screen, program) = terminal();
    let mut command = listen_command(args);
    command
        .args(["--stats", "20ms", "--for", "300ms"])
        .env("TERM", "xterm");
    command.current_dir(folder.path()).stdout(Stdio::null());
    if shares {
        command.stdout(program.try_clone().expect("a second handle"));
    }
    let mut child = command.stderr(program).spawn().expect("it starts");
    // Or this side would keep the terminal open.
    drop(command);
    let mut told = Vec::new();
    let _ = screen.read_to_end(&mut told);
    assert!(child.wait().expect("it is a child").success());
    String::from_utf8_lossy(&told).into_owned()
}

#[test]
fn how_things_stand_is_one_line_on_a_terminal() {
    const LINE: &str = "0 open of 0 connections; ";
    let told = told_on_a_terminal(&["-o", "a.ndjson"], false);
    assert!(told.matches(LINE).count() > 1, "{told}");
    assert!(!told.contains(&format!("wiretape: {LINE}")), "{told}");
    assert!(told.lines().count() < 10, "{told}");
    // Nothing is drawn over what a peer sends.
    let told = told_on_a_terminal(&["-o", "-"], true);
    let lines = told.lines().filter(|line| line.contains(LINE));
    let said = lines.inspect(|line| assert!(line.starts_with("wiretape: "), "{told}"));
    assert!(said.count() > 1, "{told}");
}

/// What `wiretape sessions` shows of a burst, a silence and a burst, on a terminal that is this.
fn sessions_shown(term: &str) -> String {
    let capture = Script::new()
        .session(1, "x".repeat(100))
        .at(10_000)
        .session(2, "y".repeat(50));
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.ndjson"), capture.text).expect("it is new");
    let (mut screen, program) = terminal();
    let mut command = wiretape();
    command.args(["sessions", "a.ndjson"]).env("TERM", term);
    command.current_dir(folder.path()).stdout(program);
    let mut child = command.spawn().expect("it starts");
    // It holds the terminal open, too.
    drop(command);
    let mut seen = Vec::new();
    // The end of a terminal reads as an error, not as an end.
    let _ = screen.read_to_end(&mut seen);
    assert!(child.wait().expect("it ends").code().is_some());
    String::from_utf8(seen).expect("it is text")
}

#[test]
fn sessions_on_a_terminal_show_how_much_came_when() {
    let shown = sessions_shown("xterm");
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let [.., bar, scale] = &lines[..] else {
        panic!("{shown}");
    };
    assert!(bar.starts_with('█') && bar.ends_with('▄'), "{shown}");
    let silence = bar.trim_start_matches('█').trim_end_matches('▄');
    assert!(
        !silence.is_empty() && silence.chars().all(|c| c == ' '),
        "{shown}"
    );
    assert!(
        scale.starts_with("peak ") && scale.contains("/s; a column is "),
        "{shown}"
    );
    let plain = sessions_shown("dumb");
    assert!(!plain.contains("peak "), "{plain}");
}
