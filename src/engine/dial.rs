//! Connecting: names resolved, their addresses tried side by side, and the first that answers.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};
use mio::{Registry, Token};
use rustix::io::Errno;
use slab::Slab;
use socket2::SockRef;

use super::address::{Address, shown};
use super::bind::{FileId, file_id};
use super::keepalive::Keepalive;
use super::listen::Listener;
use super::resolve::Resolver;
use super::stream::{Socket, Stream};
use crate::dial::race::{Race, alternate};
use crate::notice::describe;
use crate::record::deadline::Deadlines;
use crate::record::doorbell::Doorbell;
use crate::record::time::micros;

/// How connections are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the addresses of a name are tried before that has failed.
    pub timeout: Duration,
    /// How a peer that has vanished is noticed.
    pub keepalive: Keepalive,
    /// Whether a peer that acknowledges nothing for as long as keepalive would wait is given up, too:
    /// keepalive itself rests while anything is under way.
    pub gives_up_silence: bool,
    /// Bytes that the kernel takes beyond what the peer has room for; what it likes to, without it.
    pub unsent_max: Option<u32>,
}

/// Tokens from here on are those of sockets that are connecting; every loop's others are below.
const FIRST_TOKEN: usize = 1 << (usize::BITS - 2);

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
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

/// A connection that was made.
#[derive(Debug)]
pub(super) struct Connected {
    /// Registered with the poll, by a token that is not its last.
    pub(super) stream: Stream,
    pub(super) peer: String,
    pub(super) local: String,
}

/// What dialling came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Connected(Connected),
    /// The system has no room for one more connection now: it may have later.
    Shortage(String),
    /// Nobody answers, for this reason, which names the address.
    Failed(String),
}

/// Names a dial that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DialId {
    nth: usize,
    serial: u64,
}

/// Dials, each for somebody whom `K` names.
#[derive(Debug)]
pub(super) struct Dialler<K> {
    options: Options,
    registry: Registry,
    resolver: Resolver,
    /// Where this process listens itself: nobody is connected to there.
    own: Own,
    /// Names that were resolved once and for all.
    pinned: HashMap<Address, Vec<Destination>>,
    /// Which address of a name answered last: it is tried first.
    winners: HashMap<Address, Destination>,
    dials: Slab<Dial<K>>,
    serial: u64,
    attempts: Slab<Attempt>,
    deadlines: Deadlines<DialId>,
    decided: VecDeque<(K, Outcome)>,
}

#[derive(Debug)]
struct Dial<K> {
    key: K,
    serial: u64,
    address: Address,
    until_us: u64,
    stage: Stage,
    /// What the last attempt failed for.
    why: Option<String>,
}

#[derive(Debug)]
enum Stage {
    /// The resolver is asked.
    Resolving,
    Racing {
        race: Race,
        destinations: Vec<Destination>,
        attempts: Vec<usize>,
    },
}

/// A socket that is connecting.
#[derive(Debug)]
struct Attempt {
    dial: usize,
    destination: usize,
    stream: Stream,
}

impl<K: Copy> Dialler<K> {
    /// Its sockets' tokens begin at [`FIRST_TOKEN`].
    pub(super) fn new(
        registry: &Registry,
        options: Options,
        doorbell: &Arc<Doorbell>,
    ) -> io::Result<Self> {
        Ok(Self {
            options,
            registry: registry.try_clone()?,
            resolver: Resolver::new(Arc::clone(doorbell)),
            own: Own::default(),
            pinned: HashMap::new(),
            winners: HashMap::new(),
            dials: Slab::new(),
            serial: 0,
            attempts: Slab::new(),
            deadlines: Deadlines::default(),
            decided: VecDeque::new(),
        })
    }

    /// Where this process listens itself. A proxy that connects to itself would do so without an end.
    pub(super) fn avoid(&mut self, listeners: &[Listener]) {
        self.own = Own {
            addresses: listeners.iter().filter_map(Listener::address).collect(),
            files: listeners.iter().filter_map(Listener::file).collect(),
        };
    }

    /// From here on this name stands for these addresses.
    pub(super) fn pin(&mut self, address: Address, destinations: Vec<Destination>) {
        self.pinned.insert(address, destinations);
    }

    /// Begins to connect to `address`, for `key`.
    pub(super) fn dial(&mut self, key: K, address: &Address, now_us: u64) -> DialId {
        self.serial += 1;
        let until_us = now_us.saturating_add(micros(self.options.timeout));
        let nth = self.dials.insert(Dial {
            key,
            serial: self.serial,
            address: address.clone(),
            until_us,
            stage: Stage::Resolving,
            why: None,
        });
        let dial = DialId {
            nth,
            serial: self.serial,
        };
        match (self.pinned.get(address).cloned()).or_else(|| numeric(address)) {
            Some(destinations) => self.begin(nth, destinations, now_us),
            None => {
                self.deadlines.insert(until_us, dial);
                self.resolver.ask(address);
            }
        }
        dial
    }

    /// Gives a dial up, if it is still under way. Nothing is heard of it.
    pub(super) fn cancel(&mut self, dial: DialId) {
        let is_live = |found: &Dial<K>| found.serial == dial.serial;
        if self.dials.get(dial.nth).is_some_and(is_live) {
            self.remove(dial.nth);
        }
    }

    /// Gives up whatever is under way.
    pub(super) fn cancel_all(&mut self) {
        self.dials.clear();
        self.attempts.clear();
        self.decided.clear();
    }

    // --- what happened ---------------------------------------------------------------------------

    /// Whether the token is one of its sockets'.
    pub(super) fn owns(&self, token: Token) -> bool {
        token.0 >= FIRST_TOKEN
    }

    /// The kernel has said something about one of its sockets.
    pub(super) fn handle_event(&mut self, token: Token, now_us: u64) {
        let nth = token.0 - FIRST_TOKEN;
        // It may have gone since the kernel spoke.
        let Some(attempt) = self.attempts.get_mut(nth) else {
            return;
        };
        let connected = match attempt.stream.connected() {
            None => return,
            Some(Ok(())) if attempt.stream.is_connected_to_itself() => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Some(result) => result,
        };
        match connected {
            Ok(()) => self.win(nth),
            Err(error) => {
                let Attempt {
                    dial, destination, ..
                } = self.attempts.remove(nth);
                if let Stage::Racing { race, attempts, .. } = &mut self.dials[dial].stage {
                    attempts.retain(|&other| other != nth);
                    race.handle_failed(now_us);
                }
                self.blame(dial, destination, &describe(&error));
                self.advance(dial, now_us);
            }
        }
    }

    /// Looks what the resolver has found, and what is due.
    pub(super) fn handle_time(&mut self, now_us: u64) {
        while let Some((address, found)) = self.resolver.poll() {
            let waiting: Vec<usize> = (self.dials.iter())
                .filter(|(_, dial)| matches!(dial.stage, Stage::Resolving))
                .filter(|(_, dial)| dial.address == address)
                .map(|(nth, _)| nth)
                .collect();
            for nth in waiting {
                match &found {
                    Ok(found) => self.begin(nth, destinations(found.clone()), now_us),
                    Err(error) => {
                        let why = format!("cannot resolve {address}: {}", describe(error));
                        self.fail(nth, why);
                    }
                }
            }
        }
        loop {
            let dials = &self.dials;
            let due = self.deadlines.expired(now_us, |id| {
                let dial = dials.get(id.nth).filter(|dial| dial.serial == id.serial)?;
                Some(match &dial.stage {
                    Stage::Resolving => dial.until_us,
                    Stage::Racing { race, .. } => race.due_us(),
                })
            });
            let Some(DialId { nth, .. }) = due else {
                return;
            };
            match self.dials[nth].stage {
                Stage::Resolving => {
                    let why = format!("cannot resolve {}: timed out", self.dials[nth].address);
                    self.fail(nth, why);
                }
                Stage::Racing { .. } => self.advance(nth, now_us),
            }
        }
    }

    /// When [`Dialler::handle_time`] has something to do, if no answer comes before.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.deadlines.next()
    }

    /// What a dial came to, and for whom it was.
    pub(super) fn poll(&mut self) -> Option<(K, Outcome)> {
        self.decided.pop_front()
    }

    /// Whether [`Dialler::poll`] has something to give.
    pub(super) fn has_decided(&self) -> bool {
        !self.decided.is_empty()
    }

    // --- a dial ----------------------------------------------------------------------------------

    fn begin(&mut self, nth: usize, mut destinations: Vec<Destination>, now_us: u64) {
        let dial = &mut self.dials[nth];
        if let Some(winner) = self.winners.get(&dial.address) {
            // Stable: all others keep their order.
            destinations.sort_by_key(|destination| destination != winner);
        }
        let race = Race::new(destinations.len(), dial.until_us, now_us);
        dial.stage = Stage::Racing {
            race,
            destinations,
            attempts: Vec::new(),
        };
        self.advance(nth, now_us);
    }

    /// Begins the attempts that are due.
    fn advance(&mut self, nth: usize, now_us: u64) {
        loop {
            let dial = &mut self.dials[nth];
            let Stage::Racing {
                race,
                destinations,
                attempts,
            } = &mut dial.stage
            else {
                return;
            };
            let Some(chosen) = race.poll(now_us) else {
                break;
            };
            let is_last = attempts.is_empty() && chosen + 1 == destinations.len();
            let entry = self.attempts.vacant_entry();
            let key = entry.key();
            let begun = match self.own.has(&destinations[chosen]) {
                false => connect(&destinations[chosen], &self.options).and_then(|socket| {
                    let mut stream = Stream::new(socket);
                    stream.register(&self.registry, Token(FIRST_TOKEN + key), true)?;
                    Ok(stream)
                }),
                true => Err(io::Error::other("this is wiretape itself")),
            };
            match begun {
                Ok(stream) => {
                    attempts.push(key);
                    entry.insert(Attempt {
                        dial: nth,
                        destination: chosen,
                        stream,
                    });
                }
                // Without IPv6, say, an address of its kind cannot be reached from any of this machine's.
                Err(error)
                    if is_shortage(&error)
                        && attempts.is_empty()
                        && (is_last || !is_unavailable(&error)) =>
                {
                    let dial = self.remove(nth);
                    let outcome = Outcome::Shortage(describe(&error));
                    return self.decided.push_back((dial.key, outcome));
                }
                Err(error) => {
                    race.handle_failed(now_us);
                    self.blame(nth, chosen, &describe(&error));
                }
            }
        }
        let dial = &self.dials[nth];
        if let Stage::Racing { race, .. } = &dial.stage {
            if race.is_lost(now_us) {
                let why = match &dial.why {
                    Some(why) => why.clone(),
                    None if race.due_us() <= now_us => format!("{}: timed out", dial.address),
                    None => format!("{}: it has no address", dial.address),
                };
                return self.fail(nth, why);
            }
            let id = DialId {
                nth,
                serial: dial.serial,
            };
            self.deadlines.insert(race.due_us(), id);
        }
    }

    /// Keeps why an attempt failed.
    fn blame(&mut self, nth: usize, destination: usize, why: &str) {
        let dial = &mut self.dials[nth];
        if let Stage::Racing { destinations, .. } = &dial.stage {
            dial.why = Some(format!("{}: {why}", destinations[destination]));
        }
    }

    fn win(&mut self, nth: usize) {
        let attempt = self.attempts.remove(nth);
        let dial = self.remove(attempt.dial);
        if let Stage::Racing { destinations, .. } = &dial.stage {
            let winner = &destinations[attempt.destination];
            let connected = Connected {
                peer: winner.to_string(),
                local: attempt.stream.local(),
                stream: attempt.stream,
            };
            if destinations.len() > 1 {
                self.winners.insert(dial.address, winner.clone());
            }
            let outcome = Outcome::Connected(connected);
            self.decided.push_back((dial.key, outcome));
        }
    }

    fn fail(&mut self, nth: usize, why: String) {
        let dial = self.remove(nth);
        self.decided.push_back((dial.key, Outcome::Failed(why)));
    }

    /// Takes a dial away, and every attempt of it.
    fn remove(&mut self, nth: usize) -> Dial<K> {
        let dial = self.dials.remove(nth);
        if let Stage::Racing { attempts, .. } = &dial.stage {
            for &attempt in attempts {
                drop(self.attempts.try_remove(attempt));
            }
        }
        let dials = &self.dials;
        self.deadlines.sweep(dials.len(), |id: DialId| {
            dials
                .get(id.nth)
                .is_some_and(|dial| dial.serial == id.serial)
        });
        dial
    }
}

/// A reason of [`Outcome::Failed`], said of a target that is named already.
pub(super) fn said_of<'a>(target: &str, why: &'a str) -> &'a str {
    let rest = why.strip_prefix(target);
    rest.and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why)
}

/// Asks the resolver, and waits for it.
pub(super) fn resolve(address: &Address) -> Result<Vec<Destination>, ResolveError> {
    if let Some(destinations) = numeric(address) {
        return Ok(destinations);
    }
    let found = address.resolve().map_err(|error| ResolveError {
        address: address.clone(),
        error,
    })?;
    Ok(destinations(found))
}

/// What needs no resolver.
fn numeric(address: &Address) -> Option<Vec<Destination>> {
    match address {
        Address::Unix(path) => Some(vec![Destination::Unix(path.clone())]),
        Address::Host(host, port) => {
            let ip: IpAddr = host.parse().ok()?;
            Some(vec![Destination::Tcp((ip, *port).into())])
        }
        // The one is looked up; the other is nothing to connect to.
        Address::AnyInterface(_) | Address::Systemd(_) => None,
    }
}

fn destinations(found: Vec<SocketAddr>) -> Vec<Destination> {
    let is_ipv6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let order = alternate(found, |address| address.is_ipv6() == is_ipv6);
    order.into_iter().map(Destination::Tcp).collect()
}

/// Where this process listens itself.
#[derive(Debug, Default)]
struct Own {
    addresses: Vec<SocketAddr>,
    files: Vec<FileId>,
}

impl Own {
    /// Whether a connection to there would come to one of these listeners.
    fn has(&self, destination: &Destination) -> bool {
        let to = match destination {
            Destination::Tcp(to) => to,
            Destination::Unix(path) => {
                return !self.files.is_empty()
                    && file_id(path).is_some_and(|id| self.files.contains(&id));
            }
        };
        self.addresses.iter().any(|at| {
            let is_same = at.ip().to_canonical() == to.ip().to_canonical();
            let is_any = at.ip().is_unspecified();
            at.port() == to.port() && (is_same || is_any && is_this_machine(*to))
        })
    }
}

/// Whether an address is one of this machine's: then what goes there comes from there.
fn is_this_machine(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting a datagram socket sends nothing, but chooses the address that it would be sent from.
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address.ip())
}

/// Begins to connect. The socket becomes writable when it is decided.
fn connect(destination: &Destination, options: &Options) -> io::Result<Socket> {
    match destination {
        Destination::Tcp(address) => {
            let tcp = TcpStream::connect(*address)?;
            let socket = SockRef::from(&tcp);
            // Every send goes at its time. A socket that cannot be told so sends all the same.
            let _ = socket.set_tcp_nodelay(true);
            // Urgent data are bytes like all others; the kernel would else leave one out of the stream.
            let _ = socket.set_out_of_band_inline(true);
            let _ = options.keepalive.apply(&socket);
            if options.gives_up_silence {
                let _ = socket.set_tcp_user_timeout(options.keepalive.notices_after());
            }
            if let Some(unsent_max) = options.unsent_max {
                let _ = socket.set_tcp_notsent_lowat(unsent_max);
            }
            Ok(Socket::Tcp(tcp))
        }
        Destination::Unix(path) => {
            let unix = UnixStream::connect(path)?;
            let _ = SockRef::from(&unix).set_out_of_band_inline(true);
            Ok(Socket::Unix(unix))
        }
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
