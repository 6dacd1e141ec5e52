//! A connection, as the simulated kernel has it: what has arrived and was not read, and how it ends.

use std::collections::VecDeque;
use std::net::IpAddr;

use fastrand::Rng;
use wiretape::record::{CloseReason, ConnId, Direction};

/// What a connection is to the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A peer that only speaks.
    Source,
    /// A device: what is sent to it is recorded, by the one who sends it.
    Device,
    /// A peer and a target: what either sends is read, and recorded.
    Relayed,
    /// A session that is replayed: what is sent to it is only counted.
    Session,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Source, Self::Device, Self::Relayed, Self::Session];

    /// Which ways bytes are read.
    pub fn directions(self) -> &'static [Direction] {
        match self {
            Self::Relayed => &[Direction::In, Direction::Out],
            Self::Source | Self::Device | Self::Session => &[Direction::In],
        }
    }
}

/// What a read comes to.
#[derive(Debug)]
pub enum Got {
    Bytes(Vec<u8>),
    Nothing,
    /// The end, told once.
    End,
    Broken(CloseReason),
}

/// One way.
#[derive(Debug, Default)]
struct Side {
    pending: VecDeque<u8>,
    /// How it ends behind the pending bytes.
    end: Option<CloseReason>,
    /// Its end was told by a read.
    has_ended: bool,
}

#[derive(Debug)]
pub struct Peer {
    pub name: String,
    pub ip: IpAddr,
    /// Its number, once it is accepted.
    pub id: ConnId,
    pub kind: Kind,
    incoming: Side,
    outgoing: Side,
    /// Something has happened that the loop was not told of.
    pub has_news: bool,
    /// The kernel takes nothing more for it.
    is_deaf: bool,
    /// Why it ends, once what was taken is read.
    pub ending: Option<CloseReason>,
    /// What is still to be sent to it.
    pub to_send: usize,
    // As the loop has it:
    pub is_listed: bool,
    /// It counts among those of its address.
    pub is_counted: bool,
    pub is_suspect: bool,
    pub opened_us: u64,
    pub active_us: u64,
    /// That its time is over was told.
    pub expired: Option<CloseReason>,
}

impl Peer {
    pub fn new(ip: IpAddr, port: u64, kind: Kind) -> Self {
        Self {
            name: format!("{ip}:{port}"),
            ip,
            id: ConnId(0),
            kind,
            incoming: Side::default(),
            outgoing: Side::default(),
            has_news: false,
            is_deaf: false,
            ending: None,
            to_send: 0,
            is_listed: false,
            is_counted: false,
            is_suspect: false,
            opened_us: 0,
            active_us: 0,
            expired: None,
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::In => &mut self.incoming,
            Direction::Out => &mut self.outgoing,
        }
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        let directions = self.kind.directions().iter();
        directions.map(|direction| match direction {
            Direction::In => &self.incoming,
            Direction::Out => &self.outgoing,
        })
    }

    /// Whether nothing is left of it to be read.
    pub fn is_read(&self) -> bool {
        self.sides().all(|side| side.pending.is_empty())
    }

    /// Whether it is over, if it may be closed now, and why.
    pub fn over(&self) -> Option<CloseReason> {
        if self.sides().all(|side| side.has_ended) {
            return Some(CloseReason::Eof);
        }
        self.ending.clone().filter(|_| self.is_read())
    }

    /// Whether the kernel knows of an end of it.
    pub fn has_end(&self) -> bool {
        self.sides().any(|side| side.end.is_some())
    }

    /// Whether a direction has ended and another has not.
    pub fn is_half_closed(&self) -> bool {
        self.sides().any(|side| side.has_ended) && !self.sides().all(|side| side.has_ended)
    }

    /// Whether the kernel will tell nothing of it that would not be news.
    pub fn may_have_more(&self) -> bool {
        self.ending.is_some()
            || self.sides().any(|side| {
                let ends = side.end.is_some() && !side.has_ended;
                !side.pending.is_empty() || ends
            })
    }

    // --- what others do --------------------------------------------------------------------------

    /// Bytes arrive. Who is deaf takes none.
    pub fn arrive(&mut self, direction: Direction, bytes: Vec<u8>) -> bool {
        if self.is_deaf || self.side(direction).end.is_some() {
            return false;
        }
        self.side(direction).pending.extend(bytes);
        self.has_news = true;
        true
    }

    /// This way ends.
    pub fn end(&mut self, direction: Direction, reason: CloseReason, rng: &mut Rng) {
        let is_reset = reason != CloseReason::Eof;
        let is_deaf = self.is_deaf;
        let side = self.side(direction);
        if side.end.is_some() || is_deaf && !side.pending.is_empty() && !is_reset {
            return;
        }
        // What was not read may go with a reset.
        if is_reset && rng.bool() {
            side.pending.clear();
        }
        side.end = Some(reason);
        self.has_news = true;
    }

    /// Both ways end in good order, if they have not ended.
    pub fn end_all(&mut self) {
        let is_deaf = self.is_deaf;
        for side in [&mut self.incoming, &mut self.outgoing] {
            if !is_deaf {
                side.end.get_or_insert(CloseReason::Eof);
            }
        }
        self.has_news = true;
    }

    // --- what the loop does ----------------------------------------------------------------------

    /// It is to end, for the first reason that there was.
    pub fn retire(&mut self, reason: CloseReason) {
        self.is_deaf = true;
        self.ending.get_or_insert(reason);
    }

    /// Reads at most so many bytes; it may be fewer than there are.
    pub fn read(&mut self, direction: Direction, room: usize, rng: &mut Rng) -> Got {
        let side = self.side(direction);
        if side.pending.is_empty() {
            return match side.end.clone() {
                _ if side.has_ended => Got::Nothing,
                None => Got::Nothing,
                Some(CloseReason::Eof) => {
                    side.has_ended = true;
                    Got::End
                }
                Some(reason) => Got::Broken(reason),
            };
        }
        let most = side.pending.len().min(room);
        let len = if rng.bool() {
            most
        } else {
            rng.usize(1..=most)
        };
        Got::Bytes(side.pending.drain(..len).collect())
    }
}
