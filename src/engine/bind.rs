//! Sockets to listen on: bound, or taken over from systemd, and why that could not be.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::address::Address;
use super::keepalive::Keepalive;
use super::listen::Listener;
use super::systemd::Handed;

/// Peers that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

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
    fn new(address: String, step: Step) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            address,
            error,
            step,
        }
    }

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
pub(super) enum Keeper {
    /// This process alone.
    Us,
    /// systemd, too. The socket, and who waits in its queue, outlive the run; so does every option that is
    /// set on it.
    Systemd,
}

/// The file of a Unix socket, removed when the socket is done with.
#[derive(Debug)]
pub(super) struct SocketFile {
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

    /// What the kernel knows it by.
    pub(super) fn id(&self) -> Option<FileId> {
        self.id
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

/// What is set on the sockets that listen for TCP. Those that they accept inherit it, at no call each.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpOptions {
    pub(super) keepalive: Keepalive,
    /// Bytes that the kernel takes beyond what is on its way.
    pub(super) unsent_max: Option<u32>,
}

impl TcpOptions {
    fn apply(self, socket: &Socket) -> io::Result<()> {
        self.keepalive.apply(&SockRef::from(socket))?;
        // What goes to a peer goes at once.
        socket.set_tcp_nodelay(true)?;
        if let Some(unsent_max) = self.unsent_max {
            let _ = socket.set_tcp_notsent_lowat(unsent_max);
        }
        // Urgent data are bytes like all others; the kernel would else leave one out of the stream.
        socket.set_out_of_band_inline(true)
    }
}

/// Binds every socket that these addresses stand for, or takes it over from systemd.
pub(super) fn bind_all(
    addresses: &[Address],
    options: TcpOptions,
) -> Result<Vec<BoundSocket>, ListenError> {
    let mut handed = Handed::take().map_err(ListenError::new("systemd".to_owned(), Step::Bind))?;
    let mut bound = Vec::new();
    for address in addresses {
        let Address::Systemd(name) = address else {
            bound.extend(bind(address, options)?);
            continue;
        };
        let error = || ListenError::new(address.to_string(), Step::Bind);
        for socket in handed.claim(name.as_deref()).map_err(error())? {
            bound.push(take_over(socket, options).map_err(error())?);
        }
    }
    if let Some(name) = handed.unclaimed() {
        let why = "it was handed over, and no address on the command line means it";
        let error = io::Error::new(io::ErrorKind::InvalidInput, why);
        return Err(ListenError::new(format!("systemd:{name}"), Step::Bind)(
            error,
        ));
    }
    Ok(bound)
}

/// Binds every socket that `address` stands for: a name may have several addresses.
fn bind(address: &Address, options: TcpOptions) -> Result<Vec<BoundSocket>, ListenError> {
    let error = |step| ListenError::new(address.to_string(), step);
    if let Address::Unix(path) = address {
        let bound = bind_unix(path).map_err(error(Step::Bind))?;
        return Ok(vec![bound]);
    }
    let mut addresses = address.resolve().map_err(error(Step::Resolve))?;
    if let Address::AnyInterface(_) = address {
        // The IPv6 wildcard takes IPv4 peers as well, if there is IPv6 at all.
        let [dual_stack, ipv4] = addresses[..] else {
            unreachable!("every interface is the two wildcards");
        };
        let result = match bind_tcp(dual_stack, options) {
            Err(error) if lacks_ipv6(&error) => bind_tcp(ipv4, options),
            result => result,
        };
        let bound = result.map_err(error(Step::Bind))?;
        return Ok(vec![bound]);
    }
    let mut sockets: Vec<BoundSocket> = Vec::new();
    for address in &mut addresses {
        // With port 0 the kernel chooses once, and the other addresses of the name follow.
        if let (0, Some(first)) = (address.port(), sockets.first()) {
            address.set_port(first.port());
        }
        let bound = bind_tcp(*address, options);
        let error = ListenError::new(address.to_string(), Step::Bind);
        sockets.push(bound.map_err(error)?);
    }
    Ok(sockets)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

fn bind_tcp(address: SocketAddr, options: TcpOptions) -> io::Result<BoundSocket> {
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
    options.apply(&socket)?;
    socket.bind(&address.into())?;
    let local = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(BoundSocket {
        socket,
        name: local.to_string(),
        file: None,
        keeper: Keeper::Us,
    })
}

/// Takes over a socket that systemd listens on.
fn take_over(socket: OwnedFd, options: TcpOptions) -> io::Result<BoundSocket> {
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
            if options.keepalive == Keepalive(None) {
                // The unit may have set it, or an earlier run.
                socket.set_keepalive(false)?;
            }
            options.apply(&socket)?;
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
        let error = ListenError::new(self.name.clone(), Step::Bind);
        let begun = match self.keeper {
            Keeper::Us => self.socket.listen(BACKLOG),
            // It does already.
            Keeper::Systemd => Ok(()),
        };
        begun
            .and_then(|()| Listener::new(self.socket, self.name, self.file, self.keeper))
            .map_err(error)
    }
}
