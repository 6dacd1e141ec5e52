//! What a replay is tried with: captures written by hand, and targets that the test plays itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use socket2::SockRef;

use crate::tape::{Ended, PATIENCE, Tape, wiretape};

/// When runs written by hand begin: 2026-11-22T12:00:00Z, in seconds since 1970.
const BEGAN: u64 = 1_795_348_800;

/// A capture, written record by record. Connection N has the peer `192.0.2.N:40000`.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub text: String,
    at: Duration,
    seq: u64,
    /// What went in and out of each connection.
    bytes: BTreeMap<u64, [Vec<u8>; 2]>,
}

impl Script {
    /// A capture with a `start`.
    pub fn new() -> Self {
        let rest = r#","v":1,"run":"00000000000000a1","mode":"listen","listen":["192.0.2.200:1"],"tool":"by hand","segment":1"#;
        Self::default().record("start", rest)
    }

    /// What follows happens so many milliseconds after the start.
    pub fn at(mut self, ms: u64) -> Self {
        self.at = Duration::from_millis(ms);
        self
    }

    pub fn open(self, conn: u64) -> Self {
        self.of_conn("open", conn, r#","local":"192.0.2.200:1""#)
    }

    /// The peer sent this.
    pub fn send(self, conn: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.data(conn, 0, bytes.as_ref())
    }

    /// This was sent to the peer.
    pub fn reply(self, conn: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.data(conn, 1, bytes.as_ref())
    }

    pub fn eof(self, conn: u64) -> Self {
        self.of_conn("eof", conn, r#","dir":"in""#)
    }

    pub fn close(mut self, conn: u64, reason: &str) -> Self {
        let [sent, replied] = &*self.bytes.entry(conn).or_default();
        let rest = format!(
            r#","reason":"{reason}","in_bytes":{},"out_bytes":{},"in_crc32":"{:08x}","duration_us":1"#,
            sent.len(),
            replied.len(),
            crc32fast::hash(sent),
        );
        self.of_conn("close", conn, &rest)
    }

    /// A whole connection that sends this and ends.
    pub fn session(self, conn: u64, bytes: impl AsRef<[u8]>) -> Self {
        let script = self.open(conn).send(conn, bytes);
        script.eof(conn).close(conn, "eof")
    }

    /// A record of any type, with `rest` behind the keys that all have.
    pub fn record(mut self, kind: &str, rest: &str) -> Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGAN) + self.at;
        let time = humantime::format_rfc3339_micros(time);
        let (elapsed_us, seq) = (self.at.as_micros(), self.seq);
        self.text += &format!(
            r#"{{"type":"{kind}","ts":"{time}","elapsed_us":{elapsed_us},"seq":{seq}{rest}}}"#
        );
        self.text.push('\n');
        self.seq += 1;
        self
    }

    fn data(mut self, conn: u64, direction: usize, bytes: &[u8]) -> Self {
        let before = &mut self.bytes.entry(conn).or_default()[direction];
        let offset = before.len();
        before.extend_from_slice(bytes);
        let (name, base64) = (["in", "out"][direction], base64_simd::STANDARD);
        let payload = match std::str::from_utf8(bytes) {
            Ok(text) => format!(r#""text":{}"#, serde_json::json!(text)),
            Err(_) => format!(r#""base64":"{}""#, base64.encode_to_string(bytes)),
        };
        let len = bytes.len();
        let rest = format!(r#","dir":"{name}","offset":{offset},"len":{len},{payload}"#);
        self.of_conn("data", conn, &rest)
    }

    fn of_conn(self, kind: &str, conn: u64, rest: &str) -> Self {
        let rest = format!(r#","conn":{conn},"peer":"192.0.2.{conn}:40000"{rest}"#);
        self.record(kind, &rest)
    }

    /// `wiretape replay a.ndjson TARGET ARGS…` in a folder of its own, where this is `a.ndjson`.
    pub fn start(&self, target: &str, args: &[&str]) -> Tape {
        self.start_with(target, args, |command| command)
    }

    /// The same, with more done to the command.
    pub fn start_with(
        &self,
        target: &str,
        args: &[&str],
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Tape {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("a.ndjson"), &self.text).expect("it is new");
        let mut command = replay_command(&["a.ndjson", target]);
        command.args(args);
        with(&mut command);
        Tape::spawn_in(folder, command)
    }

    /// The same to its end.
    pub fn play(&self, target: &str, args: &[&str]) -> Ended {
        self.start(target, args).wait()
    }
}

pub fn replay_command(args: &[&str]) -> Command {
    let mut command = wiretape();
    command.arg("replay").args(args);
    command
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A target that the test plays: what comes of each connection is told.
pub struct Target<T> {
    pub address: String,
    told: Receiver<(usize, T)>,
}

impl<T: Send + 'static> Target<T> {
    /// Has `handle` deal with each connection, on a thread each, the first one being number 1.
    pub fn serve(handle: impl Fn(usize, TcpStream) -> T + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::serve_at(listener, handle)
    }

    pub fn serve_at(
        listener: TcpListener,
        handle: impl Fn(usize, TcpStream) -> T + Clone + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it has one").to_string();
        let (tell, told) = channel();
        thread::spawn(move || {
            for (before, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let timeout = stream.set_read_timeout(Some(PATIENCE));
                timeout.expect("it is longer than zero");
                let (handle, tell, nth) = (handle.clone(), tell.clone(), before + 1);
                // Nobody listens any more once the test is over.
                thread::spawn(move || drop(tell.send((nth, handle(nth, stream)))));
            }
        });
        Self { address, told }
    }

    /// What came of the next connection that is done with, and its number.
    pub fn result(&self) -> (usize, T) {
        let told = self.told.recv_timeout(PATIENCE);
        told.expect("a connection comes, and is done with")
    }

    /// What came of so many connections, in the order in which they were accepted.
    pub fn results(&self, count: usize) -> Vec<T> {
        let all = (0..count).map(|_| self.result());
        let all: BTreeMap<usize, T> = all.collect();
        assert_eq!(all.len(), count);
        all.into_values().collect()
    }
}

/// What a target heard on a connection.
#[derive(Debug, Default)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// When there were more than so many bytes, and when it ended.
    pub times: Vec<(usize, Instant)>,
    /// It ended with this instead of in good order.
    pub error: Option<ErrorKind>,
}

impl Heard {
    /// Reads until the other side ends.
    pub fn listen(mut stream: &TcpStream) -> Self {
        let mut heard = Self::default();
        let mut buffer = vec![0; 65536];
        loop {
            let result = stream.read(&mut buffer);
            heard.times.push((heard.bytes.len(), Instant::now()));
            match result {
                Ok(0) => return heard,
                Ok(len) => heard.bytes.extend_from_slice(&buffer[..len]),
                Err(error) => {
                    heard.error = Some(error.kind());
                    return heard;
                }
            }
        }
    }

    /// When the byte at `offset` came; at the length of it all, when it ended.
    pub fn when(&self, offset: usize) -> Instant {
        let behind = self.times.iter().rev().find(|(from, _)| *from <= offset);
        behind.expect("the first is at 0").1
    }
}

/// A target that only listens.
pub fn listening() -> Target<Heard> {
    Target::serve(|_, stream| Heard::listen(&stream))
}

/// Reads exactly so many bytes.
pub fn take(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("they come");
    bytes
}

/// Closes a connection with a reset.
pub fn reset(stream: TcpStream) {
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.expect("it is a TCP socket");
}

/// A target that must not be connected to.
pub struct Untouched(TcpListener);

impl Untouched {
    pub fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    pub fn address(&self) -> String {
        self.0.local_addr().expect("it has one").to_string()
    }

    /// Demands that nobody has connected to it: the first one is the test itself.
    pub fn check(&self) {
        let probe = TcpStream::connect(self.address()).expect("it listens");
        let (_, first) = self.0.accept().expect("the probe has connected");
        assert_eq!(first, probe.local_addr().expect("it is connected"));
    }
}
