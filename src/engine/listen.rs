//! Listening sockets: accepted from, brought to rest.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{SockRef, Socket};

use super::address::shown;
use super::bind::{BACKLOG, FileId, Keeper, SocketFile, file_id};
use super::stream::{self, Stream, drop_all_packets, is_ready};

/// Peers that are accepted at the end of a run where the kernel goes on to let others in: whoever comes as fast
/// as they are accepted must not keep a run from ending. Twice the longest queue.
const LAST_CALLS: usize = 2 * BACKLOG as usize;

/// Errors one behind the other, each of which could be one peer's, until it is plain that they are not.
const ABORTED_IN_A_ROW: u32 = 256;

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: ListenSocket,
    name: Arc<str>,
    file: Option<SocketFile>,
    keeper: Keeper,
    /// Somebody may be waiting: set by the kernel's word, cleared by an accept that found nobody.
    pub(super) may_accept: bool,
    /// How many are still accepted, where the kernel goes on to let peers in.
    last_calls: Option<usize>,
    /// Errors since the last accept that came to something else: each was one peer's, it seemed.
    aborted: u32,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    socket: stream::Socket,
    peer: Peer,
    /// What the listener is called.
    listener: Arc<str>,
}

#[derive(Debug)]
enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Accepted {
    /// The address of its peer; a Unix socket's has none.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match &self.peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix(_) => None,
        }
    }

    /// Its peer, as records show it.
    pub(super) fn peer(&self) -> String {
        match &self.peer {
            Peer::Tcp(address) => shown(*address),
            Peer::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// This side, as records show it.
    pub(super) fn local(&self) -> String {
        let local = match &self.socket {
            stream::Socket::Tcp(tcp) => tcp.local_addr().ok(),
            stream::Socket::Unix(_) => None,
        };
        // A peer that is gone already leaves its socket without an address.
        local.map_or_else(|| self.listener.to_string(), shown)
    }

    /// Whether its peer has ended its direction already.
    pub(super) fn has_ended(&self) -> bool {
        let has_ended = match &self.socket {
            stream::Socket::Tcp(tcp) => is_ready(tcp, PollFlags::RDHUP),
            stream::Socket::Unix(unix) => is_ready(unix, PollFlags::RDHUP),
        };
        has_ended.unwrap_or(false)
    }

    pub(super) fn into_socket(self) -> stream::Socket {
        self.socket
    }

    /// Closes it with a reset: nothing is left of it, here or in the kernel.
    pub(super) fn refuse(self) {
        Stream::new(self.socket).reset();
    }
}

impl Listener {
    /// Of a socket that listens.
    pub(super) fn new(
        socket: Socket,
        name: String,
        file: Option<SocketFile>,
        keeper: Keeper,
    ) -> io::Result<Self> {
        let socket = match socket.local_addr()?.is_unix() {
            true => ListenSocket::Unix(UnixListener::from_std(socket.into())),
            false => ListenSocket::Tcp(TcpListener::from_std(socket.into())),
        };
        Ok(Self {
            socket,
            name: name.into(),
            file,
            keeper,
            may_accept: false,
            last_calls: None,
            aborted: 0,
        })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.socket {
            ListenSocket::Tcp(tcp) => tcp.register(registry, token, Interest::READABLE),
            ListenSocket::Unix(unix) => unix.register(registry, token, Interest::READABLE),
        }
    }

    /// The kernel says that somebody waits.
    pub(super) fn latch(&mut self) {
        // When the run ends, those are left to systemd and the next run who come after the queue was empty.
        self.may_accept = self.may_accept || self.last_calls.is_none();
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn accept(&mut self) -> io::Result<Accepted> {
        if let Some(left) = &mut self.last_calls {
            *left = left.checked_sub(1).ok_or(Errno::AGAIN)?;
        }
        let (socket, peer) = match &self.socket {
            ListenSocket::Tcp(tcp) => {
                let (stream, peer) = tcp.accept()?;
                (stream::Socket::Tcp(stream), Peer::Tcp(peer))
            }
            ListenSocket::Unix(unix) => {
                let (stream, peer) = unix.accept()?;
                // As above; here it is not inherited.
                let _ = SockRef::from(&stream).set_out_of_band_inline(true);
                // Clients of Unix sockets seldom have a name.
                let peer = peer.as_pathname().unwrap_or(Path::new("")).to_owned();
                (stream::Socket::Unix(stream), Peer::Unix(peer))
            }
        };
        self.aborted = 0;
        Ok(Accepted {
            socket,
            peer,
            listener: Arc::clone(&self.name),
        })
    }

    /// Whether somebody waits to be accepted, as the kernel says now, or may.
    pub(super) fn has_waiting(&self) -> bool {
        let has_waiting = match &self.socket {
            ListenSocket::Tcp(tcp) => is_ready(tcp, PollFlags::IN),
            ListenSocket::Unix(unix) => is_ready(unix, PollFlags::IN),
        };
        has_waiting.unwrap_or(true)
    }

    /// What to do about an accept that failed. Where it is always for the peer at hand there is no such
    /// peer: to go on to the next at once would be to go on for ever.
    pub(super) fn remedy(&mut self, error: &io::Error) -> Remedy {
        let remedy = Remedy::of(error);
        self.aborted = match remedy {
            Remedy::Next => self.aborted + 1,
            Remedy::Wait | Remedy::Rest => 0,
        };
        if self.aborted < ABORTED_IN_A_ROW {
            return remedy;
        }
        // From here on each is tried alone, until one comes to something else.
        self.aborted = ABORTED_IN_A_ROW - 1;
        Remedy::Rest
    }

    /// The file of a Unix socket, as the kernel knows it.
    pub(super) fn file(&self) -> Option<FileId> {
        match (&self.socket, &self.file) {
            (ListenSocket::Tcp(_), _) => None,
            (ListenSocket::Unix(_), Some(file)) => file.id(),
            (ListenSocket::Unix(unix), None) => file_id(unix.local_addr().ok()?.as_pathname()?),
        }
    }

    /// Where it listens; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenSocket::Tcp(tcp) => tcp.local_addr().ok(),
            ListenSocket::Unix(_) => None,
        }
    }

    /// Lets nobody new in, while those who are in the queue can still be accepted. Closing it
    /// instead would reset them, and their bytes are acknowledged. A socket that systemd has, too, must not
    /// be deafened: it would be deaf for the next run as well. Its queue is emptied once; whoever comes
    /// behind that waits for the next run.
    pub(super) fn quiet(&mut self) {
        match (&self.socket, self.keeper) {
            (_, Keeper::Systemd) => self.last_calls = Some(LAST_CALLS),
            (ListenSocket::Tcp(tcp), Keeper::Us) => {
                // Where the kernel refuses, whoever comes between the last accept and the close is reset.
                let _ = drop_all_packets(&SockRef::from(tcp));
            }
            (ListenSocket::Unix(_), Keeper::Us) => self.file = None,
        }
        self.may_accept = true;
    }
}

/// What to do about an accept that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nobody is waiting.
    Wait,
    /// That peer is gone, or its network's error was handed to accept (accept(2), "Error
    /// handling"): on to the next.
    Next,
    /// Something has run out. Those who wait keep waiting until a connection closes.
    Rest,
}

impl Remedy {
    fn of(error: &io::Error) -> Self {
        use Errno as E;
        match Errno::from_io_error(error) {
            Some(E::AGAIN) => Self::Wait,
            Some(
                E::INTR
                | E::CONNABORTED
                | E::PROTO
                | E::PERM
                | E::NETDOWN
                | E::NOPROTOOPT
                | E::HOSTDOWN
                | E::NONET
                | E::HOSTUNREACH
                | E::OPNOTSUPP
                | E::NETUNREACH
                | E::TIMEDOUT,
            ) => Self::Next,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever no manual names.
            _ => Self::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accept_error_ends_or_spins() {
        fn check(errno: Errno, expected: Remedy) {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(Remedy::of(&error), expected, "{error}");
        }
        check(Errno::AGAIN, Remedy::Wait);
        check(Errno::CONNABORTED, Remedy::Next);
        check(Errno::PERM, Remedy::Next);
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::INVAL,
        ] {
            check(errno, Remedy::Rest);
        }
    }
}
