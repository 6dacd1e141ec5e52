//! The loop: the only room with sockets and clocks.
//!
//! One thread at a time waits, latches what the kernel says is ready, then does bounded work: some accepts a
//! listener, one read a connection, whatever is due. What came goes into the capture core's batch;
//! a batch leaves when it is full or when an output is idle. When the outputs hold all memory, or are
//! waited for, the loop reads nothing, keeps every latch (the kernel tells only once) and sleeps until
//! one of them rings.

mod accept;
pub mod address;
mod bind;
pub mod cat;
mod clock;
pub mod devices;
pub mod dial;
mod feed;
mod follow;
mod helm;
pub mod keepalive;
pub mod lead;
pub mod limits;
mod listen;
pub mod proxy;
pub mod recorder;
pub mod replay;
mod resolve;
pub mod router;
mod stream;
mod systemd;
mod timer;
mod turn;
mod watch;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mio::{Poll, Token, Waker};
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook_mio::v1_0::Signals;

use crate::capture;
use crate::codec::ndjson::ReadError;
use crate::input;
use crate::notice::{Notify, describe};
use crate::output::{self, OutputSpec};
use crate::record::doorbell::Doorbell;
use crate::record::{RunId, Start};
use address::Address;
pub use bind::ListenError;
use bind::{BoundSocket, TcpOptions, bind_all};
use devices::Devices;
pub use dial::ResolveError;
use keepalive::Keepalive;
use listen::Listener;
use recorder::Recorder;
use turn::{Calls, Engine};

/// What wakes the loop: outputs, signals, then listeners, then connections by slot.
const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_LISTENER: usize = 2;

/// What to capture, and where to.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// How a peer that has vanished is noticed.
    pub keepalive: Keepalive,
    /// What becomes of what comes.
    pub recording: Recording,
}

/// What becomes of the bytes that peers send.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Where the records go.
    pub outputs: Vec<OutputSpec>,
    /// How the outputs are to behave.
    pub output_options: output::options::Options,
    /// Framing, limits and the drain time.
    pub capture: capture::Config,
    /// Bytes between sockets and outputs.
    pub buffer: usize,
    /// Bytes of a batch's arena.
    pub arena: usize,
    /// How far the senders wait for outputs that may miss records.
    pub pacing: Pacing,
    /// How often it is told how things stand.
    pub status_every: Option<Duration>,
}

/// How far the senders wait for outputs that still work.
///
/// For one that may miss records and has no room: if it only is slow it sets the pace; if it stands still
/// for longer than this it has stalled, and misses what comes.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// How long an output may stand still. Zero: none is waited for.
    pub time: Duration,
    /// Whether each is waited for; else only where none has room, so that one misses nothing that all
    /// could have had, and holds up no other.
    pub is_for_each: bool,
    /// Batches that are on their way before the next is begun, room or not, while outputs keep up.
    pub lead: lead::Length,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that was taken from the peers is written.
    Whole,
    /// Something is missing, and was named.
    NotWhole,
}

/// Why a run did not begin, with nothing created or changed; or, if the kernel fails it, broke off.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// An output cannot be opened.
    Output(output::OpenError),
    /// A capture cannot be opened.
    Input(input::OpenError),
    /// What is to be replayed cannot be read, or is no capture.
    Read(ReadError),
    /// The target's name stands for no address.
    Resolve(ResolveError),
    /// Nothing in the captures is a session, or none is selected.
    NothingToReplay,
    /// Replies were to be waited for, and none were recorded.
    NoReplies,
    /// `--dir out`, and nothing had been sent to a peer.
    NothingOut,
    /// This is to be read several times, and cannot be.
    ReadOnce(String),
    /// No session could connect, for this reason.
    NothingPlayed(Box<str>),
    /// No device could be connected to; why the first could not.
    Unreachable(Box<str>),
    /// The system refused something that every run needs.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Output(error) => error.fmt(f),
            Self::Input(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::Resolve(error) => error.fmt(f),
            Self::NothingToReplay => {
                f.write_str("nothing to replay: no session in the captures, or none is selected")
            }
            Self::NoReplies => f.write_str(
                "--pace reply: the captures hold no replies (records that went the other way) to wait for",
            ),
            Self::NothingOut => {
                f.write_str("--dir out: the captures hold nothing that was sent to a peer")
            }
            Self::ReadOnce(name) => {
                write!(f, "--repeat: {name} can be read only once; name a file")
            }
            Self::NothingPlayed(why) => write!(f, "no session could connect: {why}"),
            Self::Unreachable(why) => write!(f, "nobody could be connected to: {why}"),
            Self::System(action, error) => {
                write!(f, "cannot {action}: {}", describe(error))
            }
        }
    }
}

impl std::error::Error for Error {}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::System(action, error)
}

/// What a loop is woken by.
struct Wakers {
    poll: Poll,
    signals: Signals,
    doorbell: Arc<Doorbell>,
}

impl Wakers {
    fn new() -> Result<Self, Error> {
        let poll = Poll::new().map_err(system("watch sockets"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(system("watch outputs"))?;
        let doorbell = Arc::new(Doorbell::new(move || {
            // It can fail only if the counter is full, and then the loop wakes anyway.
            let _ = waker.wake();
        }));
        let signals = Signals::new([0; 0]).map_err(system("watch signals"))?;
        Ok(Self {
            poll,
            signals,
            doorbell,
        })
    }

    /// From here on a signal does nothing but tell the loop.
    fn watch_signals(&mut self) -> Result<(), Error> {
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
            (self.signals.add_signal(signal)).map_err(system("watch signals"))?;
        }
        (self.poll.registry())
            .register(&mut self.signals, SIGNALS, mio::Interest::READABLE)
            .map_err(system("watch signals"))?;
        // A file that reaches its size limit is an error of the write, not the end of the process.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
            .map_err(system("watch signals"))?;
        Ok(())
    }
}

/// Captures what comes to listening sockets, until told to stop.
///
/// # Errors
/// [`Error`]. Once the run has begun, trouble with a peer or an output is none: it becomes a
/// [`Notice`](crate::notice::Notice) and shows in the [`Outcome`].
pub fn listen(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let options = TcpOptions {
        keepalive: config.keepalive,
        unsent_max: None,
    };
    let bound = bind_all(&config.listen, options).map_err(Error::Listen)?;
    let recording = &config.recording;
    let opened =
        output::open_all(&recording.outputs, &recording.output_options).map_err(Error::Output)?;
    let mut wakers = Wakers::new()?;
    wakers.watch_signals()?;
    let (listeners, names) = listen_all(bound, &wakers)?;
    let start = start_record("listen", names, Vec::new())?;
    let recorder = Recorder::start(recording, opened, &wakers.doorbell, start, notify)?;
    let calls = Calls {
        options: dial::Options {
            timeout: Duration::ZERO,
            keepalive: config.keepalive,
            gives_up_silence: false,
            unsent_max: None,
        },
        devices: Devices::default(),
        proxy: None,
    };
    Engine::new(wakers, listeners, recorder, calls, notify.clone())?.run()
}

/// Begins to listen on all of these, and says what they are called.
fn listen_all(
    bound: Vec<BoundSocket>,
    wakers: &Wakers,
) -> Result<(Vec<Listener>, Vec<String>), Error> {
    let (mut listeners, mut names) = (Vec::new(), Vec::new());
    for (nth, socket) in bound.into_iter().enumerate() {
        names.push(socket.name().to_owned());
        let mut listener = socket.listen().map_err(Error::Listen)?;
        listener
            .register(wakers.poll.registry(), Token(FIRST_LISTENER + nth))
            .map_err(system("watch a listener"))?;
        listeners.push(listener);
    }
    Ok((listeners, names))
}

/// The first record of a run that does this.
fn start_record(mode: &str, listen: Vec<String>, connect: Vec<String>) -> Result<Start, Error> {
    Ok(Start {
        run: RunId(random_u64().map_err(system("draw a random number"))?),
        mode: mode.to_owned(),
        listen,
        connect,
        tool: concat!("wiretape ", env!("CARGO_PKG_VERSION")).to_owned(),
        segment: 1,
        conn: None,
        part: false,
    })
}

fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
