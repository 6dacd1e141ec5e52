//! What is recorded: the vocabulary that every other room shares.
//!
//! A [`Record`] is one stored event. The capture core writes records into a [`batch::Batch`],
//! where payloads lie in one arena; a decoder makes them from a capture's lines. Both give the same
//! type, borrowed where it can be, so that encoders, readers and tests speak of one thing.
//! Nothing here does I/O or reads a clock.

pub mod batch;
pub mod chunk;
pub mod deadline;
pub mod doorbell;
pub mod framing;
pub mod selection;
pub mod time;

use std::borrow::Cow;
use std::fmt;

pub use framing::Framing;
pub use time::{Timestamp, WallTime};

/// Number of a connection within its run: 1, 2, 3… in the order of accept or dial, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a run: 64 random bits, written as 16 hexadecimal digits. (`run`, `conn`) names a
/// connection anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer sent them.
    In,
    /// They were sent to the peer.
    Out,
}

/// Both ends of a connection, as text: `IP:PORT`, `[IPv6]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The connection.
    pub conn: ConnId,
    /// The other side.
    pub peer: Box<str>,
    /// This side.
    pub local: Box<str>,
    /// What was dialled for it, as it was given: the server behind a proxied connection, or the peer's
    /// name where this side dialled the peer.
    pub target: Option<Box<str>>,
}

/// The first record of a run, and of each of its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The run.
    pub run: RunId,
    /// What wiretape was told to do: `listen`, `connect`, `proxy`, `replay`.
    pub mode: String,
    /// Addresses that it listened on, with the ports the kernel gave.
    pub listen: Vec<String>,
    /// Addresses that it dialled, as they were given.
    pub connect: Vec<String>,
    /// Program and version that wrote the capture.
    pub tool: String,
    /// Number of this segment in its run, from 1.
    pub segment: u64,
    /// The only connection in this file, where it holds but one.
    pub conn: Option<ConnId>,
    /// This file has a part of the run's records: numbers that are missing in it are those of others.
    pub part: bool,
}

/// How a connection ended, and what went over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// What ended it.
    pub reason: CloseReason,
    /// Bytes the peer sent.
    pub in_bytes: u64,
    /// Bytes sent to the peer.
    pub out_bytes: u64,
    /// CRC-32 (IEEE 802.3) of all that the peer sent; 0, as of no bytes, in a run where no output tells it.
    pub in_crc32: u32,
    /// CRC-32 of all that was sent to the peer, where anything was.
    pub out_crc32: Option<u32>,
    /// From `open` to here, in microseconds.
    pub duration_us: u64,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer ended it in good order.
    Eof,
    /// The peer reset it.
    Reset,
    /// The target of a proxied connection reset it.
    TargetReset,
    /// Nothing came for as long as `--idle-timeout` allows.
    IdleTimeout,
    /// It grew older than `--max-age` allows.
    Limit,
    /// wiretape was told to stop.
    Shutdown,
    /// wiretape ended it: a replay that resets the connection, as had been recorded.
    Done,
    /// The kernel reported something else: its text.
    Error(Box<str>),
    /// A reason that a later program recorded.
    Other(Box<str>),
}

/// Why a segment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The run goes on in the next segment.
    Rotated,
    /// The only connection of the file was closed.
    Closed,
    /// The run ended.
    Shutdown,
    /// A reason that a later program recorded.
    Other(Box<str>),
}

/// Why records are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The output did not take them in time and was allowed to miss some.
    StalledOutput,
    /// A reason that a later program recorded.
    Other(Box<str>),
}

/// What was captured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Peers that were not let in. Nothing is recorded of them.
    pub refused: u64,
    /// Bytes recorded that peers sent.
    pub in_bytes: u64,
    /// Bytes recorded that were sent to peers.
    pub out_bytes: u64,
    /// Records, of every type.
    pub records: u64,
}

/// Which connection a record speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conn<'a> {
    /// Its number.
    pub id: ConnId,
    /// Its peer, as text; see [`Endpoints`].
    pub peer: Cow<'a, str>,
}

/// One stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was seen.
    pub time: Timestamp,
    /// Its number in the run. A [`Event::Gap`] takes the number of the first record that is missing;
    /// a `start` or `end` between two segments that of the record behind it, without using it up.
    pub seq: u64,
    /// What was seen.
    pub event: Event<'a>,
}

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A run or a segment begins.
    Start(Cow<'a, Start>),
    /// A connection begins.
    Open {
        /// The connection.
        conn: Conn<'a>,
        /// This side's address.
        local: Cow<'a, str>,
        /// What was dialled for it; see [`Endpoints`].
        target: Option<Cow<'a, str>>,
    },
    /// Bytes came or went.
    Data {
        /// The connection.
        conn: Conn<'a>,
        /// Which way.
        direction: Direction,
        /// Bytes of that connection and direction before these.
        offset: u64,
        /// The bytes.
        payload: Cow<'a, [u8]>,
        /// With line framing: only a part of a line.
        partial: bool,
    },
    /// One direction of a connection ended.
    Eof {
        /// The connection.
        conn: Conn<'a>,
        /// Which way.
        direction: Direction,
    },
    /// A connection ended.
    Close {
        /// The connection.
        conn: Conn<'a>,
        /// How, and what went over it.
        close: Cow<'a, Close>,
    },
    /// Records that this output missed.
    Gap {
        /// How many.
        records: u64,
        /// How many payload bytes they held.
        bytes: u64,
        /// Why.
        reason: GapReason,
    },
    /// A segment or a run ends.
    End {
        /// Why.
        reason: EndReason,
    },
}

impl Record<'_> {
    /// Number of the record behind it; the last there is stays the last.
    pub fn next_seq(&self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// The same record, holding its own bytes.
    pub fn into_owned(self) -> Record<'static> {
        Record {
            time: self.time,
            seq: self.seq,
            event: self.event.into_owned(),
        }
    }
}

impl Event<'_> {
    /// The connection that it speaks of.
    pub fn conn(&self) -> Option<&Conn<'_>> {
        match self {
            Self::Open { conn, .. }
            | Self::Data { conn, .. }
            | Self::Eof { conn, .. }
            | Self::Close { conn, .. } => Some(conn),
            Self::Start(_) | Self::Gap { .. } | Self::End { .. } => None,
        }
    }

    fn into_owned(self) -> Event<'static> {
        fn own<T: ?Sized + ToOwned>(cow: Cow<'_, T>) -> Cow<'static, T> {
            Cow::Owned(cow.into_owned())
        }
        let conn = |conn: Conn<'_>| Conn {
            id: conn.id,
            peer: own(conn.peer),
        };
        match self {
            Self::Start(start) => Event::Start(own(start)),
            Self::Open {
                conn: c,
                local,
                target,
            } => Event::Open {
                conn: conn(c),
                local: own(local),
                target: target.map(own),
            },
            Self::Data {
                conn: c,
                direction,
                offset,
                payload,
                partial,
            } => Event::Data {
                conn: conn(c),
                direction,
                offset,
                payload: own(payload),
                partial,
            },
            Self::Eof { conn: c, direction } => Event::Eof {
                conn: conn(c),
                direction,
            },
            Self::Close { conn: c, close } => Event::Close {
                conn: conn(c),
                close: own(close),
            },
            Self::Gap {
                records,
                bytes,
                reason,
            } => Event::Gap {
                records,
                bytes,
                reason,
            },
            Self::End { reason } => Event::End { reason },
        }
    }
}
