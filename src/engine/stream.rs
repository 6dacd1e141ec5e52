//! A connection's socket: read from, retired, closed.

use std::io::{self, Read as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::notice::describe;
use crate::record::CloseReason;

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
    /// The kernel has said that the peer ended.
    pub(super) has_ended: bool,
    /// It was idle for too long, unless something has arrived that was not read yet.
    pub(super) is_suspect: bool,
    retired: Option<Retired>,
}

/// A stream that is read to its end and then closed, though its peer has not ended it.
#[derive(Clone, Debug)]
struct Retired {
    reason: CloseReason,
    /// The peer had ended it all the same.
    had_ended: bool,
    /// The peer has been told, and with it the last byte that was acknowledged.
    is_told: bool,
}

/// What a read came to.
#[derive(Debug)]
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; the kernel will tell of more.
    Nothing,
    /// To be tried again: it was interrupted, or looks once more at what the end has left.
    Again,
    /// The peer ended its direction.
    Eof,
    /// There is nothing more to come, for this reason.
    Over(CloseReason),
}

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            is_listed: false,
            has_ended: false,
            is_suspect: false,
            retired: None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.register(registry, token, Interest::READABLE),
            Socket::Unix(unix) => unix.register(registry, token, Interest::READABLE),
        }
    }

    /// Reads once. `buffer` is not empty.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let result = match &mut self.socket {
            Socket::Tcp(tcp) => tcp.read(buffer),
            Socket::Unix(unix) => unix.read(buffer),
        };
        match result {
            Ok(0) => self.eof(),
            Ok(len) => Read::Bytes(len),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.nothing(),
                io::ErrorKind::Interrupted => Read::Again,
                io::ErrorKind::ConnectionReset => Read::Over(CloseReason::Reset),
                _ => Read::Over(CloseReason::Error(describe(&error).into())),
            },
        }
    }

    fn eof(&self) -> Read {
        match (&self.socket, &self.retired) {
            // This side's own shutdown reads as an end, too.
            (Socket::Unix(_), Some(retired)) if !retired.had_ended => {
                Read::Over(retired.reason.clone())
            }
            _ => Read::Eof,
        }
    }

    /// Nothing is left to read. For a retired stream that is final at the second look: between the
    /// two the peer is sent a FIN, which acknowledges all that was taken. What the peer then counts
    /// as delivered is exactly what was read, and a peer that reads sees an orderly end.
    fn nothing(&mut self) -> Read {
        let Some(retired) = &mut self.retired else {
            return Read::Nothing;
        };
        if retired.is_told {
            return Read::Over(retired.reason.clone());
        }
        retired.is_told = true;
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = tcp.shutdown(Shutdown::Write);
        }
        Read::Again
    }

    /// Stops the kernel from taking more of what the peer sends; what it has taken is still to be
    /// read, and then the stream is over, for this reason. Without it a flood would never come to an
    /// end that can be named: bytes that arrive between the last read and the close have been
    /// acknowledged to the peer, and would be lost.
    pub(super) fn retire(&mut self, reason: CloseReason) {
        if self.retired.is_some() {
            return;
        }
        // Where the kernel refuses, it ends as well as it can without.
        let had_ended = match &self.socket {
            Socket::Tcp(tcp) => {
                let _ = drop_all_packets(&SockRef::from(tcp));
                self.has_ended
            }
            Socket::Unix(unix) => {
                // From here on, both ends look the same.
                let had_ended = self.has_ended || has_hung_up(unix);
                // A Unix socket has no packets in flight: the peer's next write fails.
                let _ = unix.shutdown(Shutdown::Read);
                had_ended
            }
        };
        self.retired = Some(Retired {
            reason,
            had_ended,
            is_told: false,
        });
    }

    /// Closes it, for this reason.
    pub(super) fn close(self, reason: &CloseReason) {
        let (Socket::Tcp(tcp), Some(_)) = (&self.socket, &self.retired) else {
            return;
        };
        let socket = SockRef::from(tcp);
        let _ = match reason {
            // Both sides end in good order, and the last packets must reach this one.
            CloseReason::Eof => take_packets_again(&socket),
            // A reset, behind the FIN: the kernel would else keep a socket that no packet reaches,
            // and the peer would send to it for minutes.
            _ => socket.set_linger(Some(Duration::ZERO)),
        };
    }
}

/// Whether the peer has ended its direction, though bytes of it may still be unread.
fn has_hung_up(unix: &UnixStream) -> bool {
    let mut fds = [PollFd::new(unix, PollFlags::RDHUP)];
    // Without a wait, so there is nothing to be interrupted.
    let _ = poll(&mut fds, Some(&Timespec::default()));
    fds[0].revents().intersects(PollFlags::RDHUP)
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

/// Undoes [`drop_all_packets`].
#[cfg(target_os = "linux")]
fn take_packets_again(socket: &socket2::Socket) -> io::Result<()> {
    socket.detach_filter()
}

/// There is nothing to undo.
#[cfg(not(target_os = "linux"))]
fn take_packets_again(_: &socket2::Socket) -> io::Result<()> {
    Ok(())
}

/// Elsewhere there is no such filter; bytes in flight at the end of a run may be lost.
#[cfg(not(target_os = "linux"))]
pub(super) fn drop_all_packets(_: &socket2::Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
