//! What is wrong with a capture, in words.

use std::fmt;

use crate::record::{ConnId, Direction};

/// Something in a capture that does not agree with the rest of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Number of the line that tells it, from 1.
    pub line: u64,
    /// What it tells.
    pub flaw: Flaw,
}

/// What can be wrong. Numbers are those of the format (`man 5 wiretape-capture`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The file, or what follows the `end` of a run, does not begin with a `start`.
    NoStart,
    /// A segment has no `end`: it was cut short, or goes on being written.
    NoEnd,
    /// Another segment was to follow.
    Segment {
        /// This one.
        expected: u64,
        /// That is found.
        found: u64,
    },
    /// Behind a run that goes on in another segment stands another run.
    GoesOn,
    /// A run behind another begins with this segment.
    BeginsLate(u64),
    /// Records are missing.
    Missing {
        /// Number of the first.
        first: u64,
        /// Number of the last.
        last: u64,
    },
    /// A number that was there before, or that is lower than one that was.
    Back {
        /// What was to come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The capture says itself that records are missing.
    Gap {
        /// How many.
        records: u64,
        /// Payload bytes in them.
        bytes: u64,
    },
    /// `elapsed_us` is less than that of the record before.
    TimeBack {
        /// That of the record before.
        before: u64,
        /// This one.
        found: u64,
    },
    /// A record of a connection that was not opened, or is closed.
    NotOpen(ConnId),
    /// An `open` of a connection that had one.
    OpenAgain(ConnId),
    /// The connection had another peer before.
    OtherPeer(ConnId),
    /// Bytes of a connection are missing.
    Hole {
        /// The connection.
        conn: ConnId,
        /// Which way they went.
        direction: Direction,
        /// Bytes before the first of them.
        from: u64,
        /// Bytes before the first behind them.
        to: u64,
    },
    /// Bytes of a connection that were there before.
    Overlap {
        /// The connection.
        conn: ConnId,
        /// Which way they went.
        direction: Direction,
        /// Bytes that were there.
        expected: u64,
        /// Where the record says that it begins.
        found: u64,
    },
    /// A record behind the end of its direction.
    BehindEof {
        /// The connection.
        conn: ConnId,
        /// Which way.
        direction: Direction,
    },
    /// `in_bytes` or `out_bytes` of a `close` is not what is there.
    Total {
        /// The connection.
        conn: ConnId,
        /// Which way.
        direction: Direction,
        /// What the `close` says.
        stated: u64,
        /// Where the bytes end.
        found: u64,
    },
    /// `in_crc32` or `out_crc32` of a `close` is not that of the bytes.
    Crc32 {
        /// The connection.
        conn: ConnId,
        /// Which way.
        direction: Direction,
        /// What the `close` says, if anything.
        stated: Option<u32>,
        /// What the bytes have.
        found: u32,
    },
    /// `duration_us` of a `close` is not the time since its `open`.
    Duration {
        /// The connection.
        conn: ConnId,
        /// What the `close` says.
        stated: u64,
        /// The time between the two.
        found: u64,
    },
    /// Connections without a `close`, though nothing more can come of them.
    StillOpen {
        /// The lowest of them.
        first: ConnId,
        /// How many more they are.
        others: u64,
    },
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

fn counted(count: u64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStart => write!(f, "no start: what came before is not here"),
            Self::NoEnd => write!(f, "no end: cut short, or still going on"),
            Self::GoesOn => write!(f, "the next segment of the run before is missing"),
            Self::BeginsLate(segment) => {
                write!(
                    f,
                    "the run begins with segment {segment}: what came before is missing"
                )
            }
            Self::Segment { expected, found } if found > expected => {
                write!(f, "segment {expected} is missing before segment {found}")
            }
            Self::Segment { expected, found } => write!(
                f,
                "segment {found} comes behind segment {}: out of order, or given twice",
                expected.saturating_sub(1)
            ),
            Self::Missing { first, last } if first == last => {
                write!(f, "record {first} is missing")
            }
            Self::Missing { first, last } => write!(f, "records {first} to {last} are missing"),
            Self::Back { expected, found } => {
                write!(f, "record {found} where {expected} was to come")
            }
            Self::Gap { records, bytes } => {
                let (records, bytes) = (counted(*records, "record"), counted(*bytes, "byte"));
                write!(f, "a gap: {records} with {bytes} not captured")
            }
            Self::TimeBack { before, found } => {
                write!(
                    f,
                    "elapsed_us goes back from {before} to {found}: time does not"
                )
            }
            Self::NotOpen(conn) => write!(f, "connection {conn} is not open"),
            Self::OpenAgain(conn) => write!(f, "connection {conn} is opened again"),
            Self::OtherPeer(conn) => write!(f, "connection {conn} has another peer than before"),
            Self::Hole {
                conn,
                direction,
                from,
                to,
            } => write!(
                f,
                "connection {conn}: {} {} missing at offset {from}",
                counted(to - from, "byte"),
                name(*direction)
            ),
            Self::Overlap {
                conn,
                direction,
                expected,
                found,
            } => write!(
                f,
                "connection {conn}: offset {found} {} where {expected} was to come",
                name(*direction)
            ),
            Self::BehindEof { conn, direction } => write!(
                f,
                "connection {conn}: more behind the eof of {}",
                name(*direction)
            ),
            Self::Total {
                conn,
                direction,
                stated,
                found,
            } => write!(
                f,
                "close of connection {conn}: {}_bytes is {stated}, the bytes here end at {found}",
                name(*direction)
            ),
            Self::Crc32 {
                conn,
                direction,
                stated,
                found,
            } => {
                let name = name(*direction);
                write!(f, "close of connection {conn}: ")?;
                match stated {
                    Some(stated) => write!(f, "{name}_crc32 is {stated:08x}")?,
                    None => write!(f, "{name}_crc32 is left out")?,
                }
                write!(f, ", the bytes have {found:08x}")
            }
            Self::Duration {
                conn,
                stated,
                found,
            } => write!(
                f,
                "close of connection {conn}: duration_us is {stated}, it was open for {found}"
            ),
            Self::StillOpen { first, others } => match others {
                0 => write!(f, "connection {first} has no close"),
                1 => write!(f, "connection {first} and one more have no close"),
                _ => write!(f, "connection {first} and {others} more have no close"),
            },
        }
    }
}
