//! Where to connect to, and connecting.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use mio::net::{TcpStream, UnixStream};
use rustix::io::Errno;
use socket2::SockRef;

use super::address::{Address, shown};
use super::stream::Socket;
use crate::notice::describe;

/// Bytes of a connection that the kernel takes beyond what the target has room for. Without a bound
/// it takes megabytes, and what a slow target has still to take cannot be told from what it has.
const UNSENT_MAX: u32 = 256 * 1024;

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(&shown(*address)),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A server: all addresses that its name stands for.
#[derive(Debug)]
pub(super) struct Target {
    destinations: Vec<Destination>,
    /// The one that answered last: it is tried first.
    first: usize,
}

/// A name that stands for no address.
#[derive(Debug)]
pub struct ResolveError {
    address: Address,
    error: io::Error,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, error) = (&self.address, describe(&self.error));
        write!(f, "cannot resolve {address}: {error}")
    }
}

impl std::error::Error for ResolveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// How connecting began.
#[derive(Debug)]
pub(super) enum Dialled {
    /// The socket becomes writable when it is decided.
    Begun(Socket),
    /// The system has no room for one more connection now: it may have later.
    Later(io::Error),
    /// This address does not answer.
    Failed(io::Error),
}

impl Target {
    /// Asks the resolver, and waits for it.
    pub(super) fn resolve(address: &Address) -> Result<Self, ResolveError> {
        let destinations = match address {
            Address::Unix(path) => vec![Destination::Unix(path.clone())],
            _ => {
                let found = address.resolve().map_err(|error| ResolveError {
                    address: address.clone(),
                    error,
                })?;
                found.into_iter().map(Destination::Tcp).collect()
            }
        };
        Ok(Self {
            destinations,
            first: 0,
        })
    }

    /// The addresses, each once, the one that is tried first in front.
    pub(super) fn addresses(&self) -> VecDeque<usize> {
        let count = self.destinations.len();
        (self.first..count).chain(0..self.first).collect()
    }

    /// Begins to connect to this address; `is_last` if no other is left to be tried.
    pub(super) fn dial(&self, address: usize, is_last: bool) -> Dialled {
        let socket = match &self.destinations[address] {
            Destination::Tcp(address) => TcpStream::connect(*address).map(|tcp| {
                let socket = SockRef::from(&tcp);
                // Every send goes at its time. A socket that cannot be told so sends all the same.
                let _ = socket.set_tcp_nodelay(true);
                let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
                Socket::Tcp(tcp)
            }),
            Destination::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        };
        match socket {
            Ok(socket) => Dialled::Begun(socket),
            // Without IPv6, say, an address of its kind cannot be reached from any of this machine's.
            Err(error) if is_shortage(&error) && (is_last || !is_unavailable(&error)) => {
                Dialled::Later(error)
            }
            Err(error) => Dialled::Failed(error),
        }
    }

    /// This address has answered: it is tried first from here on.
    pub(super) fn prefer(&mut self, address: usize) {
        self.first = address;
    }

    /// What this address is called in records.
    pub(super) fn name(&self, address: usize) -> String {
        self.destinations[address].to_string()
    }
}

fn is_unavailable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

/// No descriptors, no memory, no port of this machine left, or, at a Unix socket, a full queue.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| {
        [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::AGAIN,
        ]
        .contains(&errno)
    })
}
