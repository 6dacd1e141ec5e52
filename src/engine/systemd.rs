//! What systemd hands over, and what it is told: sockets that it listens on for this process
//! (sd_listen_fds(3)), and how far the run is (sd_notify(3)). Both are asked for by variables of the
//! environment, and where these are not set there is neither.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::record::time::micros;

/// What a socket is called that was handed over without a name (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// Sockets that are taken over at most.
const HANDED_MAX: u64 = 1024;

/// Sockets that were handed over and are not taken yet, with their names (`FileDescriptorName=`).
#[derive(Debug, Default)]
pub(super) struct Handed(Vec<(String, OwnedFd)>);

impl Handed {
    /// All that were handed over to this process. A descriptor has one owner: who asks again gets none.
    ///
    /// # Errors
    /// What the environment says of them makes no sense, or they are not there.
    pub(super) fn take() -> io::Result<Self> {
        static IS_TAKEN: AtomicBool = AtomicBool::new(false);
        if IS_TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        // The crate makes room for as many as are said to be there.
        let said = env::var("LISTEN_FDS")
            .ok()
            .and_then(|count| count.parse::<u64>().ok());
        if said.is_some_and(|count| count > HANDED_MAX) {
            return Err(refusal(format!("LISTEN_FDS is more than {HANDED_MAX}")));
        }
        let found = sd_listen_fds::get()
            .map_err(|_| refusal("LISTEN_PID or LISTEN_FDS is no number".to_owned()))?;
        let handed: Vec<_> = found
            .into_iter()
            .map(|(name, socket)| (name.unwrap_or(UNNAMED.to_owned()), socket.into_std()))
            .collect();
        // No command that is run for a closed file is to have them.
        let close_on_exec = |(_, socket): &(String, OwnedFd)| fcntl_setfd(socket, FdFlags::CLOEXEC);
        if let Err(error) = handed.iter().try_for_each(close_on_exec) {
            // What is not there must not be closed.
            mem::forget(handed);
            return Err(error.into());
        }
        Ok(Self(handed))
    }

    /// Takes those of this name; without one, all.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn claim(&mut self, name: Option<&str>) -> io::Result<Vec<OwnedFd>> {
        let is_meant = |found: &str| name.is_none_or(|name| name == found);
        let (claimed, left): (Vec<_>, Vec<_>) =
            (self.0.drain(..)).partition(|(found, _)| is_meant(found));
        self.0 = left;
        if !claimed.is_empty() {
            return Ok(claimed.into_iter().map(|(_, socket)| socket).collect());
        }
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        Err(refusal(match names[..] {
            [] => "no socket was handed over (a .socket unit of systemd does that)".to_owned(),
            _ => format!(
                "no socket of that name was handed over, but {}",
                names.join(", ")
            ),
        }))
    }

    /// The name of one that nobody has taken. Its peers would be let in by the kernel, and never heard.
    pub(super) fn unclaimed(&self) -> Option<&str> {
        self.0.first().map(|(name, _)| name.as_str())
    }
}

fn refusal(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// How long a message waits for systemd to have room for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the end of a run may take beyond the time to drain: the last lines on standard error, and the end of
/// the process.
const MARGIN: Duration = Duration::from_secs(5);

/// Who started this process and wants to know how far it is, if anybody does.
#[derive(Debug)]
pub(super) struct Supervisor(Option<Socket>);

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` names. Where it cannot be reached there is none: it will say so itself.
    pub(super) fn from_env() -> Self {
        let name = env::var_os("NOTIFY_SOCKET");
        Self(name.and_then(|name| connect(&name).ok()))
    }

    /// The run does what it is there for.
    pub(super) fn tell_ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The run is ending, and may take so long, whatever the unit's own limit is.
    pub(super) fn tell_stopping(&self, status: &str, left: Duration) {
        let left_us = micros(left.saturating_add(MARGIN));
        self.tell(&format!(
            "STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={left_us}\n"
        ));
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.0 {
            // A run goes on whether that is known or not.
            let _ = socket.send(state.as_bytes());
        }
    }
}

fn connect(name: &OsStr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut name = name.as_bytes().to_vec();
    // An abstract name (unix(7)) begins with a zero byte, which the environment cannot hold.
    if let Some(first @ b'@') = name.first_mut() {
        *first = 0;
    }
    socket.connect(&SockAddr::unix(OsStr::from_bytes(&name))?)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
