//! A running wiretape, and how tests speak to it and wait for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use wiretape::codec::ndjson::Reader;
use wiretape::record::{Close, Conn, EndReason, Event, Record};

/// How long anything may take before a test gives up: far longer than it ever takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// The program, not started yet.
pub fn wiretape() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wiretape"));
    command.env_remove("NO_COLOR");
    command
}

/// A program of the system, or `None` (said aloud) where it is not installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Says aloud that a test does nothing, or fails if all are wanted.
#[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("WIRETAPE_TEST_ALL").is_none(),
        "{why}, and WIRETAPE_TEST_ALL is set"
    );
    eprintln!("skipped: {why}");
}

/// `strace OPTIONS`, to run another program under, itself out of the way: the process that is started
/// is that program. `None` (said aloud) where nothing can be traced.
pub fn strace(options: &[&str]) -> Option<Command> {
    let strace = program("strace")?;
    let mut command = Command::new(strace);
    command.args(["-D", "-f", "-qq"]);
    let can_trace = Command::new(command.get_program())
        .args(command.get_args())
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status();
    if !can_trace.is_ok_and(|status| status.success()) {
        skip("strace may not trace");
        return None;
    }
    command.args(options);
    // Where cargo sets it, libraries are looked for in many places, how many depends on the processor, and
    // each look is a call that is counted.
    command.env_remove("LD_LIBRARY_PATH");
    Some(command)
}

/// `outer`, with `inner` as its last arguments.
pub fn under(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    if let Some(folder) = inner.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

/// A temporary folder in memory where that can be had: forcing files to the disk costs nothing there.
pub fn fast_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary folder")
}

/// A running wiretape.
pub struct Tape {
    child: Child,
    stderr: Receiver<String>,
    said: Vec<String>,
    /// What it listens on, in order.
    pub addresses: Vec<String>,
    pub folder: TempDir,
}

/// How it ended.
pub struct Ended {
    pub status: Option<i32>,
    pub said: Vec<String>,
    pub folder: TempDir,
}

impl Tape {
    /// `wiretape listen ARGS…` in a folder of its own, on a free port of 127.0.0.1 unless `args`
    /// begin with an address.
    pub fn listen(args: &[&str]) -> Self {
        Self::spawn(listen_command(args))
    }

    /// The same in a folder that outlives it.
    pub fn listen_in(folder: &Path, args: &[&str]) -> Self {
        Self::spawn(listen_command_in(folder, args))
    }

    pub fn spawn(command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::spawn_in(folder, command)
    }

    /// The same in this folder, unless the command names another.
    pub fn spawn_in(folder: TempDir, mut command: Command) -> Self {
        if command.get_current_dir().is_none() {
            command.current_dir(folder.path());
        }
        let is_address = |arg: &&OsStr| arg.to_str().is_some_and(is_address);
        let does = |name: &str| command.get_args().any(|arg| arg == name);
        let addresses = match () {
            // These listen nowhere, and a proxy's other address is its target.
            () if does("replay") || does("connect") => 0,
            () if does("proxy") => 1,
            () => command.get_args().filter(is_address).count(),
        };
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("wiretape starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut tape = Self {
            child,
            stderr: receiver,
            said: Vec::new(),
            addresses: Vec::new(),
            folder,
        };
        for _ in 0..addresses {
            let line = tape.wait_for_line("listening on ");
            let address = line.rsplit("listening on ").next().expect("it has one");
            tape.addresses.push(address.to_owned());
        }
        tape
    }

    /// Waits until it says a line with `text` in it.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("not said: {text}; said: {:?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.addresses[0]).expect("it listens")
    }

    /// Sends `bytes` over a connection of their own, and waits until it has been closed.
    pub fn send(&self, bytes: &[u8]) {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("it reads");
        end(stream);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Lets time pass in which it says nothing: for what must not happen however long one waits.
    pub fn stand_still(&mut self, time: Duration) {
        if let Ok(line) = self.stderr.recv_timeout(time) {
            panic!("it said {line:?}");
        }
    }

    /// Sends a signal to a process that may have ended already.
    pub fn try_signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Its status, once it has ended.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.try_wait().expect("it is a child")?;
        Some(status.code())
    }

    /// Its standard output, to be another program's standard input.
    pub fn pipe(&mut self) -> Stdio {
        self.child.stdout.take().expect("it is piped").into()
    }

    pub fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is piped")
    }

    /// Nobody reads its standard output any more: not even the child of another test that is being forked, which
    /// has every descriptor for a moment.
    pub fn close_stdout(&mut self) {
        drop(self.take_stdout());
        // It may have gone already, and its descriptors with it.
        let path = format!("/proc/{}/fd/1", self.child.id());
        let Ok(pipe) = File::options().write(true).open(path) else {
            return;
        };
        eventually("the last reader has gone", || {
            let mut pipes = [PollFd::new(&pipe, PollFlags::empty())];
            let _ = poll(&mut pipes, Some(&Timespec::default()));
            pipes[0].revents().contains(PollFlags::ERR).then_some(())
        });
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Ended {
        let status = eventually("wiretape ends", || {
            self.child.try_wait().expect("it is a child")
        });
        self.said.extend(self.stderr.iter());
        let folder = tempfile::tempdir().expect("a temporary folder");
        Ended {
            status: status.code(),
            said: std::mem::take(&mut self.said),
            folder: std::mem::replace(&mut self.folder, folder),
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("the output exists")
    }

    pub fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }
}

pub fn listen_command(args: &[&str]) -> Command {
    let mut command = wiretape();
    command.arg("listen");
    if !args.first().is_some_and(|first| is_address(first)) {
        command.arg("127.0.0.1:0");
    }
    command.args(args);
    command
}

pub fn listen_command_in(folder: &Path, args: &[&str]) -> Command {
    let mut command = listen_command(args);
    command.current_dir(folder);
    command
}

fn is_address(arg: &str) -> bool {
    arg == "0" || arg.ends_with(":0") || arg.starts_with("unix:")
}

/// Ends this direction, and waits until the peer has ended the other.
pub fn end(mut stream: TcpStream) {
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("it is open");
    let read = stream.read(&mut [0]).expect("an orderly end");
    assert_eq!(read, 0);
}

/// All records of a capture, none of them torn.
pub fn records(path: &Path) -> Vec<Record<'static>> {
    let bytes = fs::read(path).expect("the capture exists");
    records_in(&path.display().to_string(), &bytes)
}

/// The same, of a capture that has been read.
pub fn records_in(name: &str, bytes: &[u8]) -> Vec<Record<'static>> {
    let mut reader = Reader::new(name, bytes);
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().expect("a good capture") {
        records.push(record.into_owned());
    }
    assert_eq!(reader.torn(), None, "{name}");
    records
}

/// The records of a run that is spread over segments, checked to follow each other. A `start` or an
/// `end` between two of them is left out.
pub fn joined(segments: Vec<Vec<Record<'static>>>) -> Vec<Record<'static>> {
    let mut joined: Vec<Record<'static>> = Vec::new();
    let (mut run, last) = (None, segments.len() - 1);
    for (nth, mut records) in segments.into_iter().enumerate() {
        let Event::Start(start) = &records[0].event else {
            panic!("segment {nth} does not begin with a start: {records:?}");
        };
        assert_eq!(start.segment, nth as u64 + 1);
        assert_eq!(*run.get_or_insert(start.run), start.run);
        let reason = match nth == last {
            true => EndReason::Shutdown,
            false => EndReason::Rotated,
        };
        let end = records.last().map(|record| record.event.clone());
        assert_eq!(end, Some(Event::End { reason }), "segment {nth}");
        if nth > 0 {
            assert_eq!(records.remove(0).seq, joined.len() as u64);
        }
        let end = if nth < last { records.pop() } else { None };
        joined.extend(records);
        // It has the number of the record behind it.
        assert!(end.is_none_or(|end| end.seq == joined.len() as u64));
    }
    joined
}

/// The closed segments of the output `STEM.…` in a folder, in the order of their names.
pub fn segments(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(&format!("{stem}.2"));
        rest.is_some_and(|rest| rest.as_bytes().get(14..16) == Some(b"Z."))
    };
    let entries = fs::read_dir(folder).expect("the folder exists");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let mut segments: Vec<_> = paths.filter(is_segment).collect();
    segments.sort();
    segments
}

/// What a capture says of one connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    pub bytes: Vec<u8>,
    pub eof: bool,
    pub close: Option<Close>,
}

/// The connections of a capture of one run by their peers, checked to be consistent: numbers without
/// a hole, bytes in order, totals and checksums right.
pub fn sessions(records: &[Record<'_>]) -> BTreeMap<String, Session> {
    sessions_by(records, |conn| conn.peer.to_string())
}

/// The same by their numbers.
pub fn numbered_sessions(records: &[Record<'_>]) -> BTreeMap<u64, Session> {
    sessions_by(records, |conn| conn.id.0)
}

fn sessions_by<K: Ord>(
    records: &[Record<'_>],
    key: impl Fn(&Conn<'_>) -> K,
) -> BTreeMap<K, Session> {
    let mut sessions: BTreeMap<K, Session> = BTreeMap::new();
    for (nth, record) in records.iter().enumerate() {
        assert_eq!(record.seq, nth as u64, "a hole");
        let Some(conn) = record.event.conn() else {
            continue;
        };
        let session = sessions.entry(key(conn)).or_default();
        assert_eq!(session.close, None, "a record behind the close");
        match &record.event {
            Event::Data {
                offset, payload, ..
            } => {
                assert_eq!(*offset, session.bytes.len() as u64);
                session.bytes.extend_from_slice(payload);
            }
            Event::Eof { .. } => session.eof = true,
            Event::Close { close, .. } => {
                assert_eq!(close.in_bytes, session.bytes.len() as u64);
                assert_eq!(close.in_crc32, crc32fast::hash(&session.bytes));
                session.close = Some(close.clone().into_owned());
            }
            _ => {}
        }
    }
    sessions
}
