//! One end of a connection: it sends a stream, hears the other's, and knows at the end what the kernel
//! has taken and what the other side has acknowledged. Clients and the servers behind a proxy are the
//! same in this.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::bytes::{Follower, NAME_LEN, Stream};
use crate::kernel::unacknowledged;
use crate::tape::PATIENCE;

/// How long an end waits for its socket before it looks whether the round is over.
const LOOK: Duration = Duration::from_millis(20);

/// What is sent in a life, all connections together: the bound on what it puts on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub bytes: u64,
    pub time: Duration,
    /// It comes in so many parts, each as fast as it is taken.
    pub bursts: u32,
}

impl Flow {
    pub const UNBOUNDED: Self = Self {
        bytes: u64::MAX,
        time: Duration::MAX,
        bursts: 1,
    };
}

/// What all ends of a life have in common.
#[derive(Debug)]
pub struct Stage {
    /// Who still talks comes to an end.
    pub is_over: AtomicBool,
    /// The program is about to end: connections that are refused or cut are no surprise.
    pub is_ending: AtomicBool,
    flow: Flow,
    sent: AtomicU64,
    begun: Instant,
}

impl Stage {
    pub fn new(flow: Flow) -> Self {
        Self {
            is_over: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            flow,
            sent: AtomicU64::new(0),
            begun: Instant::now(),
        }
    }

    /// The burst that it is, from 1.
    fn burst(&self) -> u32 {
        let time = self.begun.elapsed().as_secs_f64() / self.flow.time.as_secs_f64();
        let bursts = self.flow.bursts;
        ((time * f64::from(bursts)) as u32 + 1).min(bursts)
    }

    /// Whether bytes may be sent now.
    fn flows(&self) -> bool {
        let burst = self.flow.bytes / u64::from(self.flow.bursts);
        self.sent.load(SeqCst) < burst * u64::from(self.burst())
    }

    fn is_spent(&self) -> bool {
        self.burst() == self.flow.bursts && !self.flows()
    }

    /// Whether it is time to end, if it is to be in the midst of a burst: half of the last is sent.
    pub fn is_late(&self) -> bool {
        let rest = self.flow.bytes / u64::from(self.flow.bursts) / 2;
        self.begun.elapsed() >= self.flow.time || self.sent.load(SeqCst) + rest >= self.flow.bytes
    }
}

/// How an end behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Bytes that it sends.
    pub len: u64,
    /// Bytes that it sends at once.
    pub piece: usize,
    /// Between two pieces.
    pub pause: Duration,
    /// It stays so long behind its last byte.
    pub hold: Duration,
    /// It hears nothing before.
    pub deaf: Duration,
    pub last: Last,
}

/// How an end leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It ends its direction and waits for the end of the other.
    Finish,
    /// It closes and looks at nothing any more.
    Vanish,
    Reset,
}

impl Manner {
    /// One by chance.
    pub fn choose(random: &mut fastrand::Rng) -> Self {
        let ms = Duration::from_millis;
        let mut manner = Self::short(random);
        match random.u32(..12) {
            // Floods.
            0..3 => {
                manner.len = 1 << random.u64(16..24);
                manner.piece = random.usize(1..200_000);
            }
            // Drips.
            3 => {
                (manner.len, manner.piece) = (random.u64(1..300), 1);
                manner.pause = ms(random.u64(0..15));
            }
            // Says nothing for a while, or nothing more.
            4 => (manner.len, manner.hold) = (0, ms(random.u64(0..2_000))),
            5 => manner.hold = ms(random.u64(0..2_000)),
            // Now and then a piece.
            6 => {
                (manner.len, manner.piece) = (random.u64(1..200_000), random.usize(1..20_000));
                manner.pause = ms(random.u64(0..100));
            }
            // Opens and is gone.
            7 => (manner.len, manner.last) = (0, Last::Vanish),
            _ => {}
        }
        match random.u32(..10) {
            0 => manner.last = Last::Reset,
            1 => manner.last = Last::Vanish,
            _ => {}
        }
        if random.u32(..8) == 0 {
            manner.deaf = ms(random.u64(0..700));
        }
        manner
    }

    /// Connects, sends, ends.
    pub fn short(random: &mut fastrand::Rng) -> Self {
        Self {
            len: 1 << random.u64(0..14),
            piece: 1 << 16,
            pause: Duration::ZERO,
            hold: Duration::ZERO,
            deaf: Duration::ZERO,
            last: Last::Finish,
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Both directions ended, this side's by itself.
    Finished,
    Vanished,
    Reset,
    /// The other side ended or reset it first.
    Cut,
}

/// What an end knows when it is over.
#[derive(Clone, Debug)]
pub struct Told {
    pub id: u32,
    /// The kernel has taken so many bytes.
    pub sent: u64,
    /// So many were acknowledged when it was looked at last, ...
    pub least: u64,
    /// ... and so many may have been at the end.
    pub most: u64,
    pub heard: u64,
    /// The other side ended its direction, rather than resetting the connection.
    pub heard_end: bool,
    pub parting: Parting,
    pub at: Instant,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Talk<'a> {
    stage: &'a Stage,
    socket: TcpStream,
    says: Stream,
    hears: Follower,
    sent: u64,
    has_ended: bool,
    heard_end: bool,
    is_broken: bool,
}

impl<'a> Talk<'a> {
    pub fn new(stage: &'a Stage, socket: TcpStream, says: Stream, hears: Stream) -> Self {
        socket.set_nonblocking(true).expect("it is a socket");
        Self {
            stage,
            socket,
            says,
            hears: hears.follow(),
            sent: 0,
            has_ended: false,
            heard_end: false,
            is_broken: false,
        }
    }

    /// These bytes were heard already.
    pub fn behind(mut self, heard: &[u8]) -> Self {
        self.hears.follow(heard);
        self
    }

    /// Behaves in this manner until it is over, or the round is.
    pub fn run(mut self, id: u32, manner: Manner) -> Told {
        let begun = Instant::now();
        let (mut due, mut leaves) = (begun, None);
        while !self.is_broken && !self.heard_end && !self.stage.is_over.load(SeqCst) {
            let now = Instant::now();
            let has_more = self.sent < manner.len && !self.stage.is_spent();
            if !has_more && now >= *leaves.get_or_insert(now + manner.hold) {
                break;
            }
            let sends = has_more && now >= due && self.stage.flows();
            let at_most = if now < due { LOOK.min(due - now) } else { LOOK };
            self.wait(sends, now >= begun + manner.deaf, at_most);
            if sends && self.send(manner) {
                due = now + manner.pause;
            }
        }
        match manner.last {
            _ if self.is_broken || self.heard_end => self.finish(id),
            Last::Finish => self.finish(id),
            Last::Vanish => self.leave(id, Parting::Vanished),
            Last::Reset => {
                let linger = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
                linger.expect("it is a TCP socket");
                self.leave(id, Parting::Reset)
            }
        }
    }

    /// Waits until the socket can do something, and hears what there is.
    fn wait(&mut self, sends: bool, hears: bool, at_most: Duration) {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, hears);
        wanted.set(PollFlags::OUT, sends);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: at_most.as_nanos() as i64 + 1,
        };
        let mut fds = [PollFd::new(&self.socket, wanted)];
        poll(&mut fds, Some(&timeout)).expect("a socket can be polled");
        if fds[0]
            .revents()
            .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
        {
            self.hear();
        }
    }

    fn hear(&mut self) {
        let mut buffer = [0; 65536];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.heard_end = true,
            Ok(len) => self.hears.follow(&buffer[..len]),
            Err(error) => self.fail(&error),
        }
    }

    /// The other side has reset the connection, perhaps behind bytes and an end that were not heard yet.
    fn fail(&mut self, error: &std::io::Error) {
        self.is_broken = match error.kind() {
            ErrorKind::WouldBlock => return,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => true,
            _ => panic!("{error}"),
        };
        let mut buffer = [0; 65536];
        while let Ok(len @ 1..) = self.socket.read(&mut buffer) {
            self.hears.follow(&buffer[..len]);
        }
        // So the kernel tells a reset that comes behind the end from one that comes instead.
        self.heard_end |= error.kind() == ErrorKind::BrokenPipe;
    }

    /// Sends a piece, or as much of it as is taken; whether anything was.
    fn send(&mut self, manner: Manner) -> bool {
        let len = (manner.len - self.sent).min(manner.piece as u64) as usize;
        match self.socket.write(&self.says.bytes(self.sent, len)) {
            Ok(len) => {
                self.sent += len as u64;
                self.stage.sent.fetch_add(len as u64, SeqCst);
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Ends this direction, and waits for the end of the other and for the last acknowledgement.
    fn finish(mut self, id: u32) -> Told {
        let was_cut = self.heard_end || self.is_broken;
        if !self.is_broken {
            // Nothing is ended where the other side has reset the connection since.
            self.has_ended = self.socket.shutdown(Shutdown::Write).is_ok();
        }
        let deadline = Instant::now() + 2 * PATIENCE;
        while !self.is_broken && !self.is_done() {
            assert!(Instant::now() < deadline, "no end of client {id}");
            if self.heard_end {
                // To be read there is nothing but the end, for ever.
                std::thread::park_timeout(Duration::from_millis(1));
                self.is_broken = self.socket.take_error().is_ok_and(|error| error.is_some());
            } else {
                self.wait(false, true, LOOK);
            }
        }
        let least = self.sent - self.unacknowledged();
        let parting = match was_cut || !self.is_done() {
            true => Parting::Cut,
            false => Parting::Finished,
        };
        // Who was reset does not know what had arrived and was not acknowledged yet.
        let most = if self.heard_end { least } else { self.sent };
        self.told(id, least, most, parting)
    }

    fn is_done(&self) -> bool {
        let is_taken = !self.has_ended || self.unacknowledged() == 0;
        self.heard_end && is_taken
    }

    /// Closes it without looking back.
    fn leave(self, id: u32, parting: Parting) -> Told {
        let least = self.sent - self.unacknowledged();
        self.told(id, least, self.sent, parting)
    }

    fn unacknowledged(&self) -> u64 {
        let left = unacknowledged(&self.socket) as u64;
        // The end of the direction counts as a byte, the last.
        left - u64::from(self.has_ended && left > 0)
    }

    fn told(&self, id: u32, least: u64, most: u64, parting: Parting) -> Told {
        Told {
            id,
            sent: self.sent,
            least,
            most,
            heard: self.hears.at(),
            heard_end: self.heard_end,
            parting,
            at: Instant::now(),
        }
    }
}

/// The name of the stream that comes; `None` if the other side ends before.
pub fn hear_name(mut socket: &TcpStream) -> Option<(u32, [u8; NAME_LEN])> {
    let timeout = socket.set_read_timeout(Some(2 * PATIENCE));
    timeout.expect("it is longer than zero");
    let mut name = [0; NAME_LEN];
    socket.read_exact(&mut name).ok()?;
    let (id, _) = Stream::named(&name).expect("a client names itself");
    Some((id, name))
}
