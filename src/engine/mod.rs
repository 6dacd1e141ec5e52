//! The loop: the only room with sockets and clocks.
//!
//! One thread waits, latches what the kernel says is ready, then does bounded work: some accepts a
//! listener, one read a connection, whatever is due. What came goes into the capture core's batch;
//! a batch leaves when it is full or when an output is idle. When the outputs hold all memory the
//! loop reads nothing, keeps every latch (the kernel tells only once) and sleeps until one of them
//! rings.

pub mod address;
mod clock;
pub mod limits;
mod listen;
mod router;
mod stream;
mod turn;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::{Poll, Token, Waker};
use rustix::rand::{GetRandomFlags, getrandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook_mio::v1_0::Signals;

use crate::capture::{self, Capture};
use crate::notice::{Notice, Notify, describe};
use crate::output::{self, Output, OutputSpec, Surroundings};
use crate::record::batch::{ARENA_SIZE, BatchPool};
use crate::record::doorbell::Doorbell;
use crate::record::{Framing, RunId, Start};
use address::Address;
use clock::SystemClock;
use listen::BoundSocket;
pub use listen::ListenError;
use router::Router;
use turn::{Engine, Wakers};

/// What wakes the loop: outputs, signals, then listeners, then connections by slot.
const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_LISTENER: usize = 2;

/// What to capture, and where to.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// At least one.
    pub outputs: Vec<OutputSpec>,
    /// How they are to behave.
    pub output_options: output::options::Options,
    /// Framing, limits and the drain time.
    pub capture: capture::Config,
    /// Bytes between sockets and outputs.
    pub buffer: usize,
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
    /// The system refused something that every run needs.
    System(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Output(error) => error.fmt(f),
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

/// Captures until told to stop.
///
/// # Errors
/// [`Error`]. Once the run has begun, trouble with a peer or an output is none: it becomes a
/// [`Notice`] and shows in the [`Outcome`].
pub fn run(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let mut bound: Vec<BoundSocket> = Vec::new();
    for address in &config.listen {
        bound.extend(listen::bind(address).map_err(Error::Listen)?);
    }
    let opened =
        output::open_all(&config.outputs, &config.output_options).map_err(Error::Output)?;

    let poll = Poll::new().map_err(system("watch sockets"))?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(system("watch outputs"))?;
    let doorbell = Arc::new(Doorbell::new(move || {
        // It can fail only if the counter is full, and then the loop wakes anyway.
        let _ = waker.wake();
    }));
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).map_err(system("watch signals"))?;
    (poll.registry())
        .register(&mut signals, SIGNALS, mio::Interest::READABLE)
        .map_err(system("watch signals"))?;
    // A file that reaches its size limit is an error of the write, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map_err(system("watch signals"))?;

    let start = Arc::new(Start {
        run: RunId(random_u64().map_err(system("draw a random number"))?),
        mode: "listen".to_owned(),
        listen: bound
            .iter()
            .map(|socket| socket.name().to_owned())
            .collect(),
        tool: concat!("wiretape ", env!("CARGO_PKG_VERSION")).to_owned(),
        segment: 1,
        conn: None,
    });
    // Outputs that may miss records hold half of the buffer at most, so that the others never wait
    // for them.
    let arena = arena_size(config.capture.framing);
    let missing = opened.iter().filter(|output| output.may_miss()).count();
    let buffer = (config.buffer).max((2 + missing) * BatchPool::batch_cost(arena));
    let share = buffer / 2 / missing.max(1);
    let batches = BatchPool::new(arena, buffer, config.capture.framing, Arc::clone(&doorbell));
    let mut listeners = Vec::new();
    for (nth, socket) in bound.into_iter().enumerate() {
        let mut listener = socket.listen().map_err(Error::Listen)?;
        listener
            .register(poll.registry(), Token(FIRST_LISTENER + nth))
            .map_err(system("watch a listener"))?;
        listeners.push(listener);
    }
    let clock = SystemClock::start();
    let surroundings = Surroundings {
        start: Arc::clone(&start),
        options: config.output_options.clone(),
        doorbell: Arc::clone(&doorbell),
        clock: Arc::new(clock),
        notify: notify.clone(),
    };
    let outputs = opened
        .into_iter()
        .map(|output| output.run(share, &surroundings))
        .collect::<io::Result<Vec<Output>>>()
        .map_err(system("start an output"))?;
    for address in &start.listen {
        notify.say(Notice::Listening(address.clone()));
    }

    let capture = Capture::new(config.capture.clone());
    let router = Router::new(batches, outputs);
    let wakers = Wakers {
        poll,
        signals,
        doorbell,
    };
    let engine = Engine::new(wakers, clock, listeners, capture, router, notify.clone());
    engine.run(&start)
}

fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// An arena takes at least two of the longest lines, so that an empty one always has room.
fn arena_size(framing: Framing) -> usize {
    match framing {
        Framing::Chunk => ARENA_SIZE,
        Framing::Line { max } => ARENA_SIZE.max(2 * max),
    }
}
