//! Nothing that a peer sends steers a terminal.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::tape::{Tape, eventually, listen_command};

/// Every byte, every control character, and what terminals and readers are attacked with.
fn hostile() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend("\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{9d}8;;\u{9c}".bytes());
    bytes.extend("\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}\u{feff}\u{2028}".bytes());
    bytes
}

const READABLE: &str = "Ålesund +4.6°C 札幌 ☂ ∠225°";

fn is_hostile(c: char) -> bool {
    let invisible = [
        char::REPLACEMENT_CHARACTER, // it was not UTF-8
        '\u{61c}',
        '\u{200f}',
        '\u{2028}',
        '\u{202e}',
        '\u{2066}',
        '\u{2069}',
        '\u{feff}',
    ];
    (c.is_control() && c != '\n') || invisible.contains(&c)
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
    tape.send(&hostile());
    tape.send(READABLE.as_bytes());
    assert_eq!(tape.stop().status, Some(0));
    let seen = reader.join().expect("no panic");
    // The terminal itself adds a carriage return to every newline.
    String::from_utf8_lossy(&seen).replace("\r\n", "\n")
}

fn check(args: &[&str], on_terminal: bool) {
    let shown = shown(args, on_terminal);
    let found = shown.chars().find(|&c| is_hostile(c));
    assert_eq!(found, None, "in {shown:?}");
    assert!(!shown.is_empty());
}

#[test]
fn text_and_hex_are_safe_everywhere() {
    for on_terminal in [false, true] {
        check(&["--color", "never"], on_terminal);
        check(&["--hex", "--color", "never"], on_terminal);
    }
}

#[test]
fn json_is_safe_on_a_terminal() {
    check(&["--json"], true);
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
