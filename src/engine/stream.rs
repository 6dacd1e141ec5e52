//! A connection's socket: read from, written to, retired, closed.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;

use super::address::shown;
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
    /// The kernel has said that the peer ended.
    has_ended: bool,
    /// The kernel has said that the peer sent urgent data.
    has_urgent: bool,
    /// It was reset, and the error that a read would tell has been taken.
    was_reset: bool,
    deaf: Option<Deaf>,
    retired: Option<Retired>,
}

/// The kernel takes nothing more from the peer.
#[derive(Clone, Copy, Debug)]
struct Deaf {
    /// The peer had ended its direction before.
    had_ended: bool,
}

/// A stream that is read to its end and then closed, though its peer has not ended it.
#[derive(Clone, Debug)]
struct Retired {
    reason: CloseReason,
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
            has_ended: false,
            has_urgent: false,
            was_reset: false,
            deaf: None,
            retired: None,
        }
    }

    /// Has the kernel speak of it: of what can be read, and, if it `writes`, of room to write.
    pub(super) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        writes: bool,
    ) -> io::Result<()> {
        registry.register(self.source(), token, interest(writes))
    }

    /// The kernel has said something about it.
    pub(super) fn latch(&mut self, event: &Event) {
        self.has_ended |= event.is_read_closed() || event.is_error();
        self.has_urgent |= event.is_priority();
    }

    /// Whether the kernel has said that the peer ended it.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether there may be more to read behind a read of `len` bytes into room for `room`. One that does
    /// not fill its room has emptied the socket, and the kernel tells of whatever comes after (epoll(7),
    /// question 9), but for what ends a read early: the end of the stream behind it, which was told
    /// already; urgent data; and, on a Unix socket, messages with descriptors.
    pub(super) fn may_have_more(&self, len: usize, room: usize) -> bool {
        let is_early = self.has_ended || self.has_urgent || self.deaf.is_some();
        let is_tcp = matches!(self.socket, Socket::Tcp(_));
        len == room || is_early || !is_tcp || !cfg!(target_os = "linux")
    }

    /// Has the kernel speak of it by another token; see [`Stream::register`].
    pub(super) fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        writes: bool,
    ) -> io::Result<()> {
        registry.reregister(self.source(), token, interest(writes))
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp,
            Socket::Unix(unix) => unix,
        }
    }

    /// Reads once. `buffer` is not empty.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let result = match &mut self.socket {
            Socket::Tcp(tcp) => tcp.read(buffer),
            Socket::Unix(unix) => unix.read(buffer),
        };
        self.came_to(result)
    }

    /// Reads once, and leaves in the kernel what it has read.
    pub(super) fn peek(&mut self, buffer: &mut [u8]) -> Read {
        let result = match &self.socket {
            Socket::Tcp(tcp) => recv(tcp, &mut *buffer, RecvFlags::PEEK),
            Socket::Unix(unix) => recv(unix, &mut *buffer, RecvFlags::PEEK),
        };
        self.came_to(result.map(|(len, _)| len).map_err(io::Error::from))
    }

    fn came_to(&mut self, result: io::Result<usize>) -> Read {
        match result {
            // This side's own shutdown reads as an end, too.
            Ok(0) if self.is_end_its_own() => self.nothing(),
            Ok(0) if self.was_reset => Read::Over(CloseReason::Reset),
            Ok(0) => Read::Eof,
            Ok(len) => Read::Bytes(len),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.nothing(),
                io::ErrorKind::Interrupted => Read::Again,
                io::ErrorKind::ConnectionReset => Read::Over(CloseReason::Reset),
                _ => Read::Over(CloseReason::Error(describe(&error).into())),
            },
        }
    }

    fn is_end_its_own(&self) -> bool {
        let is_deaf = self.deaf.is_some_and(|deaf| !deaf.had_ended);
        is_deaf && matches!(self.socket, Socket::Unix(_))
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
        self.deafen();
        self.retired = Some(Retired {
            reason,
            is_told: false,
        });
    }

    /// Stops the kernel from taking more of what the peer sends. What it has taken is still to be read.
    pub(super) fn deafen(&mut self) {
        if self.deaf.is_some() {
            return;
        }
        // Where the kernel refuses, it ends as well as it can without.
        let had_ended = match &self.socket {
            Socket::Tcp(tcp) => {
                let socket = SockRef::from(tcp);
                let _ = drop_data(&socket);
                // What the peer acknowledges with data is not seen any more.
                let _ = socket.set_tcp_user_timeout(None);
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
        self.deaf = Some(Deaf { had_ended });
    }

    /// Closes it, for this reason.
    pub(super) fn close(self, reason: &CloseReason) {
        if self.retired.is_some() && *reason != CloseReason::Eof {
            // Behind the FIN: the kernel would else keep a socket that no data reaches, and the peer
            // would send to it for minutes.
            self.reset();
        }
    }

    /// Closes it in good order: all that was written still goes. If that `is_taken` already, what a peer
    /// that was deafened sends from here on is answered with a reset, and never acknowledged. Else that
    /// would throw away what is still on its way: the kernel delivers it, remains deaf, and resets the
    /// peer when it forgets the connection, a minute after its last byte.
    pub(super) fn finish(self, is_taken: bool) {
        if let (Socket::Tcp(tcp), Some(_), true) = (&self.socket, &self.deaf, is_taken) {
            // Once the socket is shut both ways the kernel itself refuses data (RFC 1122, 4.2.2.13).
            let _ = tcp.shutdown(Shutdown::Both);
            let _ = hear_again(&SockRef::from(tcp));
        }
    }
}

/// A stream that this side has opened: connecting, sending, and the end of it.
impl Stream {
    /// Whether it has connected; `None` while that is not decided.
    pub(super) fn connected(&mut self) -> Option<io::Result<()>> {
        if let Err(error) = self.take_error() {
            // Who does not listen refuses (RFC 9293, section 3.10.7.3); a reset is of a connection that was
            // there, and may have brought something.
            self.was_reset = broken(&error) == CloseReason::Reset;
            return Some(if self.was_reset { Ok(()) } else { Err(error) });
        }
        let peer = match &self.socket {
            Socket::Tcp(tcp) => tcp.peer_addr().map(drop),
            Socket::Unix(unix) => unix.peer_addr().map(drop),
        };
        match peer {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            result => Some(result),
        }
    }

    /// This side's address.
    pub(super) fn local(&self) -> String {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.local_addr().map(shown).unwrap_or_default(),
            Socket::Unix(_) => "unix:".to_owned(),
        }
    }

    /// Whether the kernel has connected it to its own port, as it may where it is told to connect to
    /// one of those that it gives to clients, and nobody listens there.
    pub(super) fn is_connected_to_itself(&self) -> bool {
        match &self.socket {
            Socket::Tcp(tcp) => match (tcp.local_addr(), tcp.peer_addr()) {
                (Ok(local), Ok(peer)) => local == peer,
                _ => false,
            },
            Socket::Unix(_) => false,
        }
    }

    /// Sends the first of `pieces`, and says how many bytes.
    pub(super) fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let result = match (&mut self.socket, pieces) {
                // The kernel has less to do for one piece.
                (Socket::Tcp(tcp), [piece]) => tcp.write(piece),
                (Socket::Tcp(tcp), _) => tcp.write_vectored(pieces),
                (Socket::Unix(unix), _) => unix.write_vectored(pieces),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Tells the peer that nothing more comes. Where that fails, the connection has broken, which a
    /// read tells.
    pub(super) fn end_sending(&self) {
        let _ = match &self.socket {
            Socket::Tcp(tcp) => tcp.shutdown(Shutdown::Write),
            Socket::Unix(unix) => unix.shutdown(Shutdown::Write),
        };
    }

    /// Once both sides have ended: whether the peer's kernel has taken everything; `None` while that
    /// is not known. A TCP socket has no peer any more when the last acknowledgement has come, or a
    /// reset, which is an error then.
    pub(super) fn is_over(&self) -> Option<io::Result<()>> {
        if let Err(error) = self.take_error() {
            return Some(Err(error));
        }
        match &self.socket {
            Socket::Tcp(tcp) => tcp.peer_addr().is_err().then_some(Ok(())),
            Socket::Unix(_) => Some(Ok(())),
        }
    }

    /// Asks the kernel to call the socket writable only once everything is on its way.
    pub(super) fn await_sent(&self) {
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = SockRef::from(tcp).set_tcp_notsent_lowat(1);
        }
    }

    /// Lets the kernel take what it likes to: nothing more is to come, and it goes on delivering what it
    /// has when this process has gone.
    pub(super) fn take_all(&self) {
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = SockRef::from(tcp).set_tcp_notsent_lowat(u32::MAX);
        }
    }

    /// Asks the kernel to call the socket writable only once the peer's kernel has taken all but the last
    /// few bytes: no more is unacknowledged than the smallest send buffer holds, `SOCK_MIN_SNDBUF`.
    pub(super) fn await_taken(&self) {
        self.await_sent();
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = SockRef::from(tcp).set_send_buffer_size(1);
        }
    }

    /// Whether everything is on its way; see [`Stream::await_sent`] and [`Stream::await_taken`].
    pub(super) fn is_sent(&self) -> bool {
        match &self.socket {
            Socket::Tcp(tcp) => is_ready(tcp, PollFlags::OUT).unwrap_or(false),
            // What was written has arrived.
            Socket::Unix(_) => true,
        }
    }

    /// Closes it with a reset. A Unix socket has none: it is closed.
    pub(super) fn reset(self) {
        if let Socket::Tcp(tcp) = &self.socket {
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }

    /// What has broken it, if anything has; told once.
    pub(super) fn take_error(&self) -> io::Result<()> {
        let error = match &self.socket {
            Socket::Tcp(tcp) => tcp.take_error(),
            Socket::Unix(unix) => unix.take_error(),
        };
        error?.map_or(Ok(()), Err)
    }
}

fn interest(writes: bool) -> Interest {
    let reads = Interest::READABLE;
    #[cfg(target_os = "linux")]
    let reads = reads | Interest::PRIORITY;
    match writes {
        true => reads | Interest::WRITABLE,
        false => reads,
    }
}

/// Why a connection is over that could not be written to.
pub(super) fn broken(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CloseReason::Reset,
        _ => CloseReason::Error(describe(error).into()),
    }
}

/// Whether the kernel says this of a socket, now; `None` where it says nothing, as without any descriptor to
/// be had (poll(2), `EINVAL`).
pub(super) fn is_ready(socket: &impl AsFd, what: PollFlags) -> Option<bool> {
    let mut fds = [PollFd::new(socket, what)];
    // Without a wait, so there is nothing to be interrupted.
    poll(&mut fds, Some(&Timespec::default())).ok()?;
    Some(fds[0].revents().intersects(what))
}

/// Whether the peer has ended its direction, though bytes of it may still be unread.
fn has_hung_up(unix: &UnixStream) -> bool {
    is_ready(unix, PollFlags::RDHUP).unwrap_or(false)
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

/// Makes the kernel cut off the data of every packet that comes to this socket, before they are
/// acknowledged. The rest still comes through: acknowledgements of what was written, also those that ride on
/// data, the peer's end, its reset. A packet that holds the end, or urgent data, behind what is cut off is
/// dropped. The program sees a packet from its TCP header on (RFC 9293, section 3.1: the header's length, in
/// words of four bytes, is the upper half of byte 12, and the flags are byte 13), and gives the length that
/// is left of it (socket(7), `SO_ATTACH_FILTER`).
#[cfg(target_os = "linux")]
fn drop_data(socket: &socket2::Socket) -> io::Result<()> {
    use socket2::SockFilter;
    // The operations, by their names in linux/bpf_common.h.
    const LD_B_ABS: u16 = 0x30;
    const AND_K: u16 = 0x54;
    const RSH_K: u16 = 0x74;
    const TAX: u16 = 0x07;
    const TXA: u16 = 0x87;
    const LD_W_LEN: u16 = 0x80;
    const JGT_X: u16 = 0x2d;
    const JSET_K: u16 = 0x45;
    const RET_K: u16 = 0x06;
    const RET_A: u16 = 0x16;
    const FIN_OR_URG: u32 = 0x21;
    socket.attach_filter(&[
        SockFilter::new(LD_B_ABS, 0, 0, 12),
        SockFilter::new(AND_K, 0, 0, 0xf0),
        SockFilter::new(RSH_K, 0, 0, 2),
        SockFilter::new(TAX, 0, 0, 0),
        SockFilter::new(LD_W_LEN, 0, 0, 0),
        SockFilter::new(JGT_X, 1, 0, 0),
        SockFilter::new(RET_K, 0, 0, u32::MAX),
        SockFilter::new(LD_B_ABS, 0, 0, 13),
        SockFilter::new(JSET_K, 2, 0, FIN_OR_URG),
        SockFilter::new(TXA, 0, 0, 0),
        SockFilter::new(RET_A, 0, 0, 0),
        SockFilter::new(RET_K, 0, 0, 0),
    ])
}

/// Undoes [`drop_data`].
#[cfg(target_os = "linux")]
fn hear_again(socket: &socket2::Socket) -> io::Result<()> {
    socket.detach_filter()
}

/// There is nothing to undo.
#[cfg(not(target_os = "linux"))]
fn hear_again(_: &socket2::Socket) -> io::Result<()> {
    Ok(())
}

/// As [`drop_all_packets`] elsewhere.
#[cfg(not(target_os = "linux"))]
fn drop_data(_: &socket2::Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Elsewhere there is no such filter; bytes in flight at the end of a run may be lost.
#[cfg(not(target_os = "linux"))]
pub(super) fn drop_all_packets(_: &socket2::Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
