//! Programs that this project did not write, as they come: nc, logger, curl, and jq behind it.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::tape::{Tape, listen_command, program, records, sessions};

fn port(tape: &Tape) -> String {
    let address = &tape.addresses[0];
    address
        .rsplit(':')
        .next()
        .expect("it has a port")
        .to_owned()
}

/// The bytes of the only connection in the capture of a run.
fn captured(tape: Tape) -> Vec<u8> {
    let ended = tape.stop();
    assert_eq!(ended.status, Some(0));
    let sessions = sessions(&records(&ended.path("a.ndjson")));
    assert_eq!(sessions.len(), 1);
    sessions.into_values().next().expect("there is one").bytes
}

#[test]
fn nc_sends_a_file() {
    let Some(nc) = program("nc.openbsd") else {
        return;
    };
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/devices/modbus.bin");
    let status = Command::new(nc)
        .args(["-N", "127.0.0.1", &port(&tape)])
        .stdin(File::open(file).expect("it is in the tree"))
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("nc starts").success());
    assert_eq!(
        captured(tape),
        std::fs::read(file).expect("it is in the tree")
    );
}

#[test]
fn logger_sends_a_message() {
    let Some(logger) = program("logger") else {
        return;
    };
    let tape = Tape::listen(&["-o", "a.ndjson", "--frame", "line"]);
    let status = Command::new(logger)
        .args(["--tcp", "--server", "127.0.0.1", "--port", &port(&tape)])
        .args(["--rfc5424", "--tag", "test", "the pump is running"])
        .status();
    assert!(status.expect("logger starts").success());
    let text = String::from_utf8(captured(tape)).expect("it is text");
    assert!(
        text.contains("test") && text.contains("the pump is running"),
        "{text}"
    );
}

#[test]
fn curl_sends_a_request() {
    let Some(curl) = program("curl") else { return };
    let tape = Tape::listen(&["-o", "a.ndjson"]);
    // Nobody answers: curl gives up by itself.
    let url = format!("http://127.0.0.1:{}/status", port(&tape));
    let status = Command::new(curl)
        .args(["--silent", "--max-time", "0.5", &url])
        .status();
    assert_eq!(
        status.expect("curl starts").code(),
        Some(28),
        "it timed out"
    );
    let text = String::from_utf8(captured(tape)).expect("it is text");
    assert!(text.starts_with("GET /status HTTP/1.1\r\n"), "{text}");
}

#[test]
fn jq_reads_along() {
    let Some(jq) = program("jq") else { return };
    let mut command = listen_command(&["--json"]);
    command.stdout(Stdio::piped());
    let mut tape = Tape::spawn(command);
    let mut reader = Command::new(jq)
        .args([
            "--unbuffered",
            "-r",
            "select(.type==\"data\") | .peer + \" \" + .text",
        ])
        .stdin(tape.pipe())
        .stdout(Stdio::piped())
        .spawn()
        .expect("jq starts");
    let stream = tape.connect();
    let name = stream.local_addr().expect("it is connected");
    std::io::Write::write_all(&mut &stream, b"hello").expect("it reads");
    // Seen while the peer still talks.
    let expected = format!("{name} hello\n");
    let mut seen = vec![0; expected.len()];
    let mut stdout = reader.stdout.take().expect("it is piped");
    stdout.read_exact(&mut seen).expect("jq prints it");
    assert_eq!(String::from_utf8_lossy(&seen), expected);
    assert_eq!(tape.stop().status, Some(0));
    assert!(reader.wait().expect("it is a child").success());
}
