//! A connection's socket: read from, brought to rest, closed.

use std::io::{self, Read};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

/// A socket of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection's socket, and what the loop knows of it.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    /// It is in the loop's list of those that may have something to read.
    pub(super) is_listed: bool,
    /// The kernel has said that the peer ended: there is one more thing to read behind the bytes.
    pub(super) has_ended: bool,
    rest: Rest,
}

/// How far a stream has been brought to rest at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    Live,
    /// The kernel acknowledges nothing more of what the peer sends.
    Quiet,
    /// The peer has been told, and with it the last byte that was acknowledged.
    Told,
}

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            is_listed: false,
            has_ended: false,
            rest: Rest::Live,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.register(registry, token, Interest::READABLE),
            Socket::Unix(unix) => unix.register(registry, token, Interest::READABLE),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.read(buffer),
            Socket::Unix(unix) => unix.read(buffer),
        }
    }

    /// Stops the kernel from taking more of what the peer sends; what it has taken can still be
    /// read. Without it a flood would never come to an end that can be named: bytes that arrive
    /// between the last read and the close have been acknowledged to the peer, and would be lost.
    pub(super) fn quiet(&mut self) {
        if self.rest != Rest::Live {
            return;
        }
        self.rest = Rest::Quiet;
        // Where the kernel refuses, the run ends as well as it can without.
        let _ = match &self.socket {
            Socket::Tcp(tcp) => drop_all_packets(&SockRef::from(tcp)),
            // A Unix socket has no packets in flight: the peer's next write fails.
            Socket::Unix(unix) => unix.shutdown(Shutdown::Read),
        };
    }

    /// Nothing was left to read after [`Stream::quiet`]. Says whether that is final; if not, the
    /// stream is to be read once more.
    ///
    /// Between the two looks the peer is sent a FIN, which acknowledges all that was taken: what the
    /// peer then counts as delivered is exactly what was read, and a peer that reads sees an
    /// orderly end.
    pub(super) fn is_drained(&mut self) -> bool {
        if self.rest == Rest::Told {
            return true;
        }
        self.rest = Rest::Told;
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = tcp.shutdown(Shutdown::Write);
        }
        false
    }

    /// Closes it. After [`Stream::quiet`] a TCP peer is reset, behind the FIN: the kernel would else
    /// keep a socket that no packet reaches, and the peer would send to it for minutes.
    pub(super) fn close(self) {
        if let (Socket::Tcp(tcp), true) = (&self.socket, self.rest > Rest::Live) {
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Makes the kernel drop every packet that comes to this socket, before it is acknowledged, with a
/// classic BPF program of one instruction (socket(7), `SO_ATTACH_FILTER`). On a listener that
/// holds for handshakes too, while connections that wait to be accepted are left as they are.
#[cfg(target_os = "linux")]
pub(super) fn drop_all_packets(socket: &socket2::Socket) -> io::Result<()> {
    /// `BPF_RET | BPF_K`: accept `k` bytes of the packet.
    const RET: u16 = 0x06;
    socket.attach_filter(&[socket2::SockFilter::new(RET, 0, 0, 0)])
}

/// Elsewhere there is no such filter; bytes in flight at the end of a run may be lost.
#[cfg(not(target_os = "linux"))]
pub(super) fn drop_all_packets(_: &socket2::Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
