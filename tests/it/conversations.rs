//! Conversations of programs that this project did not write, through a proxy: redis-cli with
//! redis-server, curl with a TLS server.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::hand::replay_command;
use crate::programs::Redis;
use crate::talk::{IN, OUT, Port, captured, check_status, proxy, until_written};
use crate::tape::{Tape, eventually, numbered_sessions, program, records};

fn port(tape: &Tape) -> &str {
    let address = &tape.addresses[0];
    address.rsplit(':').next().expect("it has a port")
}

/// `redis-cli` at this port, with these commands; what it printed.
fn ask(cli: &Path, port: &str, folder: &Path, commands: &str) -> String {
    let path = folder.join("commands");
    fs::write(&path, commands).expect("the folder is writable");
    let mut command = Command::new(cli);
    command.args(["-h", "127.0.0.1", "-p", port]);
    command.stdin(fs::File::open(path).expect("it is there"));
    let output = command.output().expect("redis-cli starts");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn what_redis_was_told_through_a_proxy_can_be_told_another() {
    let programs = (program("redis-server"), program("redis-cli"));
    let (Some(server), Some(cli)) = programs else {
        return;
    };
    let first = Redis::start(&server);
    let tape = proxy(&format!("unix:{}", first.socket().display()), &[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut commands = String::from("SET pump running\nRPUSH log one two three\nINCR starts\n");
    for nth in 0..500 {
        commands += &format!("HSET sensors s{nth} {}\nINCR starts\n", nth * nth);
    }
    let big = "x".repeat(100_000);
    commands += &format!("SET big {big}\nGET big\n");
    let printed = ask(&cli, port(&tape), folder.path(), &commands);
    assert!(printed.starts_with("OK\n3\n1\n"), "{printed}");
    assert!(printed.ends_with(&format!("501\nOK\n{big}\n")));
    // What overlaps is played side by side, and asks for what the other has not said yet.
    until_written(&tape.path("a.ndjson"), "\"close\"", 1);
    let printed = ask(&cli, port(&tape), folder.path(), "GET pump\nNONSENSE\n");
    assert!(
        printed.starts_with("running\nERR unknown command"),
        "{printed}"
    );
    until_written(&tape.path("a.ndjson"), "\"close\"", 2);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found.len(), 2);
    // In front of what it was told, redis-cli asks for its help.
    for (nth, direction, text) in [
        (
            0,
            IN,
            "*3\r\n$3\r\nSET\r\n$4\r\npump\r\n$7\r\nrunning\r\n*5\r\n$5\r\nRPUSH\r\n",
        ),
        (0, OUT, "+OK\r\n:3\r\n:1\r\n"),
        (1, OUT, "$7\r\nrunning\r\n-ERR unknown"),
    ] {
        let found = memchr::memmem::find(&found[nth].bytes[direction], text.as_bytes());
        assert!(found.is_some(), "{text}");
    }

    let second = Redis::start(&server);
    let capture = ended.path("a.ndjson").display().to_string();
    let target = format!("unix:{}", second.socket().display());
    let mut command = replay_command(&[&capture, &target, "-o", "answers.ndjson"]);
    command.args(["--pace", "reply", "--speed", "max"]);
    let replayed = Tape::spawn(command).wait();
    check_status(&replayed, 0, &["2 sessions, 0 failed"]);
    assert_eq!(second.dump(&cli), first.dump(&cli));
    let answers = numbered_sessions(&records(&replayed.path("answers.ndjson")));
    for (talk, answer) in found.iter().zip(answers.values()) {
        // Its help comes in another order from each server.
        let (said, answered) = (&talk.bytes[OUT], &answer.bytes);
        assert_eq!(said.len(), answered.len());
        let words = |bytes: &Vec<u8>| {
            let mut words: Vec<_> = bytes
                .split(|&byte| byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect();
            words.sort();
            words
        };
        assert!(words(said) == words(answered));
    }
}

/// `openssl s_server`, which tells a browser about the connection.
struct TlsServer {
    child: Child,
    port: Port,
    _folder: TempDir,
}

impl TlsServer {
    fn start(openssl: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new(openssl)
            .args(["req", "-x509", "-newkey", "ec"])
            .args([
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=localhost", "-keyout", "key", "-out", "cert"])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl starts").success());
        let port = Port::new();
        let child = Command::new(openssl)
            .args(["s_server", "-key", "key", "-cert", "cert", "-www", "-quiet"])
            .args(["-accept", &port.address()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        eventually("openssl listens", || {
            TcpStream::connect(port.address()).ok()
        });
        Self {
            child,
            port,
            _folder: folder,
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(curl: &PathBuf, port: &str) -> String {
    let mut command = Command::new(curl);
    // As it would be without a proxy of its own.
    command.args(["-k", "--silent", "--show-error", "--noproxy", "*"]);
    command.args(["--max-time", "20"]);
    let output = command.arg(format!("https://127.0.0.1:{port}/")).output();
    let output = output.expect("curl starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tls_passes_a_proxy_unharmed() {
    let programs = (program("openssl"), program("curl"));
    let (Some(openssl), Some(curl)) = programs else {
        return;
    };
    let server = TlsServer::start(&openssl);
    let tape = proxy(&server.port.address(), &[]);
    for _ in 0..3 {
        let page = get(&curl, port(&tape));
        assert!(page.contains("s_server"), "{page}");
    }
    until_written(&tape.path("a.ndjson"), "\"close\"", 3);
    let ended = tape.stop();
    check_status(&ended, 0, &[]);
    let found = captured(&ended);
    assert_eq!(found.len(), 3);
    for talk in &found {
        // A handshake record of TLS (RFC 8446, section 5.1), and nobody can read the page.
        for bytes in &talk.bytes {
            assert_eq!(bytes[..2], [0x16, 0x03]);
            assert_eq!(memchr::memmem::find(bytes, b"s_server"), None);
        }
    }
}
