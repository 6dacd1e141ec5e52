//! The load: one process, one loop, bounded in connections and bytes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

/// Bytes written at once.
const WRITE: usize = 256 * 1024;

/// Addresses of the loopback network that short connections come from: a closed one keeps its port for a
/// minute, and an address has 28,000 of them (`net.ipv4.ip_local_port_range`).
const SOURCES: u8 = 250;

/// What connections send.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many in all.
    pub connections: usize,
    /// How many at once.
    pub at_once: usize,
    /// How much each sends before it ends.
    pub bytes_each: u64,
    /// Of what, over and over.
    pub pattern: Arc<[u8]>,
}

/// Bytes that come in lines of `len`, their ends included, as a device would send them.
pub fn text(len: usize) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    // Whole lines, however the pattern is repeated.
    for nth in 0..WRITE / len * 4 {
        let mut line =
            format!("2026-11-22T12:02:59Z station-{:02} temperature=", nth % 16).into_bytes();
        while line.len() < len - 1 {
            line.push(b'0' + (line.len() * 7 + nth) as u8 % 10);
        }
        line.truncate(len - 1);
        line.push(b'\n');
        bytes.extend(line);
    }
    bytes.into()
}

/// Bytes without any order.
pub fn binary() -> Arc<[u8]> {
    let mut bytes = vec![0; 4 * WRITE];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes.into()
}

impl Load {
    /// Bytes that are sent in all.
    pub fn bytes(&self) -> u64 {
        self.connections as u64 * self.bytes_each
    }

    /// Sends everything, ends each connection, and waits until the other side has ended it, too.
    ///
    /// # Errors
    /// The kernel's; a connection that is refused or reset.
    pub fn run(&self, to: SocketAddr) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(1024);
        let mut senders: Vec<Option<Sender>> = Vec::new();
        senders.resize_with(self.at_once.min(self.connections), || None);
        let mut begun = 0;
        let mut free: VecDeque<usize> = (0..senders.len()).collect();
        let mut open = 0;
        while begun < self.connections || open > 0 {
            while begun < self.connections {
                let Some(slot) = free.pop_front() else {
                    break;
                };
                let mut sender = Sender::connect(to, begun, self.at_once > 1)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                (poll.registry()).register(&mut sender.stream, Token(slot), interest)?;
                senders[slot] = Some(sender);
                begun += 1;
                open += 1;
            }
            poll.poll(&mut events, None)?;
            for event in &events {
                let Token(slot) = event.token();
                let Some(sender) = &mut senders[slot] else {
                    continue;
                };
                if sender.send(self)? {
                    senders[slot] = None;
                    free.push_back(slot);
                    open -= 1;
                }
            }
        }
        Ok(())
    }
}

/// One connection.
#[derive(Debug)]
struct Sender {
    stream: TcpStream,
    sent: u64,
    has_ended: bool,
}

impl Sender {
    fn connect(to: SocketAddr, nth: usize, moves: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        if moves {
            let last = 2 + (nth % SOURCES as usize) as u8;
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error);
            }
            _ => {}
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            sent: 0,
            has_ended: false,
        })
    }

    /// Sends what is taken. Whether the connection is over.
    fn send(&mut self, load: &Load) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        while self.sent < load.bytes_each {
            let at = (self.sent % load.pattern.len() as u64) as usize;
            let left = usize::try_from(load.bytes_each - self.sent).unwrap_or(usize::MAX);
            let rest = &load.pattern[at..];
            let piece = &rest[..rest.len().min(WRITE).min(left)];
            match self.stream.write(piece) {
                Ok(len) => self.sent += len as u64,
                Err(error) if is_for_later(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if !self.has_ended {
            self.stream.shutdown(Shutdown::Write)?;
            self.has_ended = true;
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => Err(io::Error::other("an answer")),
            Err(error) if is_for_later(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}
