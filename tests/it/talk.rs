//! What `connect` and `proxy` are tried with: captures of both directions, ports that nobody else
//! gets, and peers with very little room.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};
use wiretape::record::{Close, Direction, Event, Record, Start};

use crate::hand::Heard;
use crate::tape::{Ended, PATIENCE, Tape, eventually, records, wiretape};

pub const MIB: usize = 1 << 20;

/// Which of a pair is what the peer sent, and which is what it was sent.
pub const IN: usize = 0;
pub const OUT: usize = 1;

pub fn connect_command(args: &[&str]) -> Command {
    let mut command = wiretape();
    command.arg("connect").args(args);
    command
}

/// `wiretape proxy 127.0.0.1:0 TARGET ARGS…`
pub fn proxy_command(target: &str, args: &[&str]) -> Command {
    let mut command = wiretape();
    command.args(["proxy", "127.0.0.1:0", target]).args(args);
    command
}

/// That, running, with its capture in `a.ndjson`.
pub fn proxy(target: &str, args: &[&str]) -> Tape {
    let mut command = proxy_command(target, &["-o", "a.ndjson"]);
    command.args(args);
    Tape::spawn(command)
}

/// What a capture says of a connection.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    pub peer: String,
    pub local: String,
    pub target: Option<String>,
    /// What went [`IN`] and [`OUT`].
    pub bytes: [Vec<u8>; 2],
    /// The same, record by record, and whether each is partial, both directions in their order.
    pub pieces: Vec<(usize, Vec<u8>, bool)>,
    /// Which directions ended, in that order.
    pub ends: Vec<usize>,
    pub close: Option<Close>,
}

impl Conversation {
    pub fn close(&self) -> &Close {
        self.close.as_ref().expect("it was closed")
    }

    /// Why it ended, as the capture has it.
    pub fn reason(&self) -> wiretape::record::CloseReason {
        self.close().reason.clone()
    }
}

pub fn nth(direction: Direction) -> usize {
    match direction {
        Direction::In => IN,
        Direction::Out => OUT,
    }
}

/// The connections of the capture of one run, by their numbers, checked to be consistent: no number of
/// a record is left out, numbers of connections in order, offsets, totals and checksums right.
pub fn conversations(records: &[Record<'_>]) -> BTreeMap<u64, Conversation> {
    let mut all: BTreeMap<u64, Conversation> = BTreeMap::new();
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record.seq, number as u64, "a hole");
        let Some(conn) = record.event.conn() else {
            continue;
        };
        let id = conn.id.0;
        if let Event::Open { local, target, .. } = &record.event {
            assert_eq!(id, all.len() as u64 + 1, "numbers in order");
            let conversation = Conversation {
                peer: conn.peer.to_string(),
                local: local.to_string(),
                target: target.as_ref().map(ToString::to_string),
                ..Conversation::default()
            };
            all.insert(id, conversation);
            continue;
        }
        let conversation = all.get_mut(&id).expect("it was opened");
        assert_eq!(conversation.peer, conn.peer);
        assert_eq!(conversation.close, None, "a record behind the close");
        match &record.event {
            Event::Data {
                direction,
                offset,
                payload,
                partial,
                ..
            } => {
                let direction = nth(*direction);
                assert!(!conversation.ends.contains(&direction), "data behind eof");
                let bytes = &mut conversation.bytes[direction];
                assert_eq!(*offset, bytes.len() as u64);
                bytes.extend_from_slice(payload);
                let piece = (direction, payload.to_vec(), *partial);
                conversation.pieces.push(piece);
            }
            Event::Eof { direction, .. } => conversation.ends.push(nth(*direction)),
            Event::Close { close, .. } => {
                let [came, went] = &conversation.bytes;
                assert_eq!(close.in_bytes, came.len() as u64);
                assert_eq!(close.out_bytes, went.len() as u64);
                assert_eq!(close.in_crc32, crc32fast::hash(came));
                let expected = (!went.is_empty()).then(|| crc32fast::hash(went));
                assert_eq!(close.out_crc32, expected);
                conversation.close = Some(close.clone().into_owned());
            }
            _ => {}
        }
    }
    all
}

/// Those in `a.ndjson`, each of them closed.
pub fn captured(ended: &Ended) -> Vec<Conversation> {
    let all = conversations(&records(&ended.path("a.ndjson")));
    assert!(
        all.values()
            .all(|conversation| conversation.close.is_some())
    );
    all.into_values().collect()
}

/// The `start` of a capture.
pub fn start(records: &[Record<'_>]) -> Start {
    match &records[0].event {
        Event::Start(start) => start.clone().into_owned(),
        other => panic!("it begins with {other:?}"),
    }
}

/// Waits until the file holds this text so many times.
pub fn until_written(path: &Path, text: &str, times: usize) {
    eventually(&format!("{text} is written {times} times"), || {
        let written = fs::read(path).ok()?;
        let found = memchr::memmem::find_iter(&written, text).count();
        (found >= times).then_some(())
    });
}

/// Demands an exit status, and that this was said.
pub fn check_status(ended: &Ended, status: i32, said: &[&str]) {
    assert_eq!(ended.status, Some(status), "{:?}", ended.said);
    for said in said {
        assert!(ended.has_said(said), "{said}: {:?}", ended.said);
    }
}

/// How often something was said.
pub fn times_said(ended: &Ended, text: &str) -> usize {
    let with = ended.said.iter().filter(|line| line.contains(text));
    with.count()
}

/// Runs a command that is refused: it ends by itself with this status, says this, and leaves nothing.
pub fn check_refused(mut command: Command, status: i32, expected: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shown = format!("{command:?}");
    let output = command
        .args(["-o", "a.ndjson"])
        .current_dir(folder.path())
        .output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{shown}: {said}");
    assert!(said.contains(expected), "{shown}: {said}");
    assert!(!folder.path().join("a.ndjson").exists(), "{shown}");
}

// --- ports and sockets ---------------------------------------------------------------------------

/// A port of 127.0.0.1 where a server can come and go; nobody else gets it meanwhile.
pub struct Port {
    _keeper: Socket,
    at: SocketAddr,
}

impl Port {
    pub fn new() -> Self {
        let keeper = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        keeper.set_reuse_address(true).expect("a TCP socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        keeper.bind(&any.into()).expect("a free port");
        let at = keeper.local_addr().expect("it is bound").as_socket();
        Self {
            _keeper: keeper,
            at: at.expect("it is TCP"),
        }
    }

    pub fn address(&self) -> String {
        self.at.to_string()
    }

    pub fn number(&self) -> u16 {
        self.at.port()
    }

    /// Listens there, until that is dropped.
    pub fn listen(&self) -> TcpListener {
        TcpListener::bind(self.at).expect("nobody else has it")
    }
}

/// The next connection; it is not waited for for ever, nor are its bytes.
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("it is a socket");
    let (stream, _) = eventually("a connection comes", || match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        result => Some(result.expect("a connection")),
    });
    stream.set_nonblocking(false).expect("it is a socket");
    patient(stream)
}

/// A socket on which a test does not wait for ever, and which does not wait itself.
pub fn patient(stream: TcpStream) -> TcpStream {
    let options = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.set_nodelay(true));
    options.expect("it is a TCP socket");
    stream
}

/// A connection to an address.
pub fn call(address: &str) -> TcpStream {
    patient(TcpStream::connect(address).expect("it listens"))
}

/// The same, of a client that has room for very little, and so has whoever sends to it.
pub fn call_narrowly(address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let options = socket
        .set_recv_buffer_size(4096)
        .and_then(|()| socket.set_tcp_mss(536));
    options.expect("it can be small");
    let address: SocketAddr = address.parse().expect("an address");
    socket.connect(&address.into()).expect("it listens");
    patient(TcpStream::from(socket))
}

/// Ends this direction.
pub fn end_sending(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("it is open");
}

/// Hears a connection to its end, on a thread of its own.
pub fn hear(stream: &TcpStream) -> JoinHandle<Heard> {
    let stream = stream.try_clone().expect("a second handle");
    thread::spawn(move || Heard::listen(&stream))
}

/// Bytes that follow from a seed.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The name of this end.
pub fn name(stream: &TcpStream) -> String {
    stream.local_addr().expect("it is connected").to_string()
}
