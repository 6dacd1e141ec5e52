//! Programs that this project did not write, as they come: nc, logger, curl, jq behind it, and redis
//! as the target of a replay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use wiretape::record::{Direction, Event};

use crate::hand::replay_command;
use crate::tape::{
    Tape, eventually, listen_command, numbered_sessions, program, records, sessions,
};

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

/// redis-server on a socket of its own.
pub struct Redis {
    child: Child,
    folder: TempDir,
}

impl Redis {
    pub fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(program);
        command.args(["--port", "0", "--unixsocket", "socket", "--save", ""]);
        command.args(["--appendonly", "no", "--dir", "."]);
        command.current_dir(folder.path()).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server starts");
        let redis = Self { child, folder };
        eventually("redis listens", || UnixStream::connect(redis.socket()).ok());
        redis
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Every key and its value, as redis itself would move them to another server.
    pub fn dump(&self, cli: &Path) -> BTreeMap<String, Vec<u8>> {
        let ask = |args: &[&str]| {
            let mut command = Command::new(cli);
            let socket = self.socket();
            let output = command.arg("-s").arg(socket).args(args).output();
            output.expect("redis-cli starts").stdout
        };
        let keys = String::from_utf8(ask(&["--raw", "keys", "*"])).expect("it is text");
        let dump = |key: &str| (key.to_owned(), ask(&["dump", key]));
        keys.lines().map(dump).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_replay_to_redis_comes_to_the_same_keys_and_the_same_answers() {
    let programs = (program("redis-server"), program("redis-cli"));
    let (Some(server), Some(cli)) = programs else {
        return;
    };
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/redis.ndjson");
    // By hand: every request in the order of the recording, and its reply read.
    let expected = Redis::start(&server);
    let mut streams: BTreeMap<u64, UnixStream> = BTreeMap::new();
    let mut replies: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for record in records(&sample) {
        let Event::Data {
            conn,
            direction,
            payload,
            ..
        } = record.event
        else {
            continue;
        };
        let connect = || UnixStream::connect(expected.socket()).expect("it listens");
        let stream = streams.entry(conn.id.0).or_insert_with(connect);
        match direction {
            Direction::In => stream.write_all(&payload).expect("it reads"),
            Direction::Out => {
                let mut reply = vec![0; payload.len()];
                stream.read_exact(&mut reply).expect("it answers");
                assert_eq!(reply, *payload);
                replies.entry(conn.id.0).or_default().extend(reply);
            }
        }
    }
    let expected = expected.dump(&cli);
    assert!(expected.len() >= 2, "{expected:?}");

    let redis = Redis::start(&server);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (sample, target) = (sample.display(), redis.socket());
    let (sample, target) = (sample.to_string(), format!("unix:{}", target.display()));
    let mut command = replay_command(&[&sample, &target, "-o", "answers.ndjson"]);
    command.args(["--pace", "reply", "--speed", "max"]);
    let ended = Tape::spawn_in(folder, command).wait();
    assert_eq!(ended.status, Some(0), "{:?}", ended.said);
    assert!(ended.has_said("2 sessions, 0 failed"));
    assert_eq!(redis.dump(&cli), expected);
    // Its sessions open in the order of their numbers.
    let answers = numbered_sessions(&records(&ended.path("answers.ndjson")));
    let answers = answers
        .into_iter()
        .map(|(nth, session)| (nth, session.bytes));
    assert_eq!(answers.collect::<BTreeMap<_, _>>(), replies);
}
