//! Listening sockets: bound, accepted from, brought to rest.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::address::{Address, shown};
use super::keepalive::Keepalive;
use super::stream::{self, Stream, drop_all_packets, is_ready};
use super::systemd::Handed;

/// Peers that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Peers that are accepted at the end of a run where the kernel goes on to let others in: whoever comes as fast
/// as they are accepted must not keep a run from ending. Twice the longest queue.
const LAST_CALLS: usize = 2 * BACKLOG as usize;

/// Errors one behind the other, each of which could be one peer's, until it is plain that they are not.
const ABORTED_IN_A_ROW: u32 = 256;

/// Why an address could not be listened on.
#[derive(Debug)]
pub struct ListenError {
    address: String,
    error: io::Error,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Resolve,
    Bind,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = crate::notice::describe(&self.error);
        let (address, hint) = (&self.address, self.hint());
        match self.step {
            Step::Resolve => write!(f, "cannot resolve {address}: {cause}"),
            Step::Bind => write!(f, "cannot listen on {address}: {cause}{hint}"),
        }
    }
}

impl ListenError {
    fn hint(&self) -> &'static str {
        match self.error.kind() {
            io::ErrorKind::AddrInUse if self.address.starts_with("unix:") => {
                " (somebody listens there, or the file is no socket)"
            }
            io::ErrorKind::AddrInUse => " (another program listens there; port 0 takes a free one)",
            io::ErrorKind::PermissionDenied if self.address.starts_with("unix:") => {
                " (the folder must be writable)"
            }
            io::ErrorKind::PermissionDenied => " (ports below 1024 need privileges)",
            io::ErrorKind::AddrNotAvailable => " (no interface of this machine has it)",
            _ => "",
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A socket that is bound but does not listen yet: nobody can connect before the outputs are open.
#[derive(Debug)]
pub(super) struct BoundSocket {
    socket: Socket,
    name: String,
    file: Option<SocketFile>,
    keeper: Keeper,
}

/// Who has a listening socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// This process alone.
    Us,
    /// systemd, too. The socket, and who waits in its queue, outlive the run; so does every option that is
    /// set on it.
    Systemd,
}

/// The file of a Unix socket, removed when the socket is done with.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Another program may have put its own in that place.
    id: Option<FileId>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            id: file_id(path),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && self.id == file_id(&self.path) {
            // Somebody may remove it at this moment, which is as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(path: &Path) -> Option<FileId> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Binds every socket that these addresses stand for, or takes it over from systemd.
pub(super) fn bind_all(
    addresses: &[Address],
    keepalive: Keepalive,
    unsent_max: Option<u32>,
) -> Result<Vec<BoundSocket>, ListenError> {
    let error = |address: String| {
        move |error| ListenError {
            address,
            error,
            step: Step::Bind,
        }
    };
    let mut handed = Handed::take().map_err(error("systemd".to_owned()))?;
    let mut bound = Vec::new();
    for address in addresses {
        match address {
            Address::Systemd(name) => {
                let claimed = handed.claim(name.as_deref());
                for socket in claimed.map_err(error(address.to_string()))? {
                    let socket = take_over(socket, keepalive, unsent_max);
                    bound.push(socket.map_err(error(address.to_string()))?);
                }
            }
            _ => bound.extend(bind(address, keepalive, unsent_max)?),
        }
    }
    match handed.unclaimed() {
        None => Ok(bound),
        Some(name) => {
            let why = "it was handed over, and no address on the command line means it";
            let error = error(format!("systemd:{name}"));
            Err(error(io::Error::new(io::ErrorKind::InvalidInput, why)))
        }
    }
}

/// Binds every socket that `address` stands for: a name may have several addresses.
fn bind(
    address: &Address,
    keepalive: Keepalive,
    unsent_max: Option<u32>,
) -> Result<Vec<BoundSocket>, ListenError> {
    let error = |name: String, step| {
        move |error| ListenError {
            address: name,
            error,
            step,
        }
    };
    if let Address::Unix(path) = address {
        let bound = bind_unix(path).map_err(error(address.to_string(), Step::Bind))?;
        return Ok(vec![bound]);
    }
    let mut addresses = address
        .resolve()
        .map_err(error(address.to_string(), Step::Resolve))?;
    if let Address::AnyInterface(_) = address {
        // The IPv6 wildcard takes IPv4 peers as well, if there is IPv6 at all.
        let [dual_stack, ipv4] = addresses[..] else {
            unreachable!("every interface is the two wildcards");
        };
        let result = match bind_tcp(dual_stack, keepalive, unsent_max) {
            Err(error) if lacks_ipv6(&error) => bind_tcp(ipv4, keepalive, unsent_max),
            result => result,
        };
        let bound = result.map_err(error(address.to_string(), Step::Bind))?;
        return Ok(vec![bound]);
    }
    let mut sockets: Vec<BoundSocket> = Vec::new();
    for address in &mut addresses {
        // With port 0 the kernel chooses once, and the other addresses of the name follow.
        if let (0, Some(first)) = (address.port(), sockets.first()) {
            address.set_port(first.port());
        }
        let bound = bind_tcp(*address, keepalive, unsent_max);
        sockets.push(bound.map_err(error(address.to_string(), Step::Bind))?);
    }
    Ok(sockets)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

fn bind_tcp(
    address: SocketAddr,
    keepalive: Keepalive,
    unsent_max: Option<u32>,
) -> io::Result<BoundSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for the last run's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    set_tcp_options(&socket, keepalive, unsent_max)?;
    socket.bind(&address.into())?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket {
        socket,
        name: local.to_string(),
        file: None,
        keeper: Keeper::Us,
    })
}

/// Accepted sockets inherit all options of their listener, at no call each.
fn set_tcp_options(
    socket: &Socket,
    keepalive: Keepalive,
    unsent_max: Option<u32>,
) -> io::Result<()> {
    keepalive.apply(&SockRef::from(socket))?;
    // What goes to a peer goes at once.
    socket.set_tcp_nodelay(true)?;
    if let Some(unsent_max) = unsent_max {
        let _ = socket.set_tcp_notsent_lowat(unsent_max);
    }
    // Urgent data are bytes like all others; the kernel would else leave one out of the stream.
    socket.set_out_of_band_inline(true)
}

/// Takes over a socket that systemd listens on.
fn take_over(
    socket: OwnedFd,
    keepalive: Keepalive,
    unsent_max: Option<u32>,
) -> io::Result<BoundSocket> {
    let socket = Socket::from(socket);
    let local = socket.local_addr()?;
    let is_known = local.is_unix() || local.as_socket().is_some();
    if !is_known || socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        let why =
            "what was handed over is no stream socket that listens (ListenStream=, Accept=no)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    socket.set_nonblocking(true)?;
    let name = match local.as_socket() {
        Some(address) => {
            if keepalive == Keepalive(None) {
                // The unit may have set it, or an earlier run.
                socket.set_keepalive(false)?;
            }
            set_tcp_options(&socket, keepalive, unsent_max)?;
            address.to_string()
        }
        None => unix_name(&local),
    };
    Ok(BoundSocket {
        socket,
        name,
        file: None,
        keeper: Keeper::Systemd,
    })
}

fn unix_name(address: &SockAddr) -> String {
    match (address.as_pathname(), address.as_abstract_namespace()) {
        (Some(path), _) => format!("unix:{}", path.display()),
        (None, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
        (None, None) => "unix:".to_owned(),
    }
}

fn bind_unix(path: &Path) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let address = SockAddr::unix(path)?;
    let result = match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path)? => {
            fs::remove_file(path)?;
            socket.bind(&address)
        }
        result => result,
    };
    result?;
    Ok(BoundSocket {
        socket,
        name: format!("unix:{}", path.display()),
        file: Some(SocketFile::new(path)),
        keeper: Keeper::Us,
    })
}

/// Whether the file is a socket that no process has open: a run that was killed left it.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
    // A datagram socket cannot be connected to a stream socket, so this never disturbs one that
    // lives: the kernel says EPROTOTYPE there, and ECONNREFUSED where there is none (unix(7)).
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let is_refused = probe
        .connect(&SockAddr::unix(path)?)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    Ok(is_socket && is_refused)
}

impl BoundSocket {
    fn port(&self) -> u16 {
        let local = self.socket.local_addr().ok();
        local
            .and_then(|local| local.as_socket())
            .map_or(0, |local| local.port())
    }

    /// What it is called: with the port that the kernel gave.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Begins to listen.
    pub(super) fn listen(self) -> Result<Listener, ListenError> {
        let error = |name: &str| {
            let address = name.to_owned();
            move |error| ListenError {
                address,
                error,
                step: Step::Bind,
            }
        };
        if self.keeper == Keeper::Us {
            (self.socket.listen(BACKLOG)).map_err(error(&self.name))?;
        }
        let local = self.socket.local_addr().map_err(error(&self.name))?;
        let socket = match local.is_unix() {
            true => ListenSocket::Unix(UnixListener::from_std(self.socket.into())),
            false => ListenSocket::Tcp(TcpListener::from_std(self.socket.into())),
        };
        Ok(Listener {
            socket,
            name: self.name.into(),
            file: self.file,
            keeper: self.keeper,
            may_accept: false,
            last_calls: None,
            aborted: 0,
        })
    }
}

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
            (ListenSocket::Unix(_), Some(file)) => file.id,
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
