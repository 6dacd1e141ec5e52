//! What is to be done: the steps of sessions, and the blocks of memory that they come in.

use std::fmt;

use crate::record::ConnId;

/// Names a recorded connection that is played: 1, 2, 3… in the order in which they open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a session comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The recorded connection.
    pub conn: ConnId,
    /// Its peer.
    pub peer: Box<str>,
    /// Sessions that were open in the recording when it had opened, itself counted.
    pub concurrency: usize,
}

/// Something that a session does. `P` is where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<P> {
    /// Position in what is played, in microseconds; no step stands before the one ahead of it.
    pub at_us: u64,
    /// Whose step it is.
    pub session: SessionId,
    /// Bytes that had come back in the session before this, in the recording.
    pub replies: u64,
    /// What is done.
    pub act: Act<P>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act<P> {
    /// Connects. Every session begins so.
    Open(Box<Origin>),
    /// Sends bytes.
    Send {
        /// Number of the record in its run.
        seq: u64,
        /// The bytes.
        payload: P,
    },
    /// Ends the sending; what comes back is still read.
    HalfClose,
    /// Is over.
    End(Ending),
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In good order: the sending ends, and the target is given time to end, too.
    Orderly,
    /// With a reset, once all is on its way.
    Reset,
}

/// Takes steps, in order.
pub trait Sink {
    /// Why it takes no more.
    type Error;

    /// Takes one more, and says where it stands.
    ///
    /// # Errors
    /// It takes no more.
    fn push(&mut self, step: Step<&[u8]>) -> Result<Place, Self::Error>;

    /// The step at `place` turned out to be its session's last: it ends with it. `false` where that
    /// can no longer be noted.
    fn end_at(&mut self, place: Place) -> bool;
}

/// Where a step stands: in which block, from 0, and which step of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the block.
    pub block: u64,
    /// Step in it.
    pub step: usize,
}

/// Bytes of a step in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin.
    pub start: u32,
    /// How many there are.
    pub len: u32,
    /// The rest of the record is in the steps behind.
    pub continues: bool,
}

/// Payload bytes in a block at most.
const BLOCK_BYTES: usize = 256 * 1024;

/// Steps in a block at most.
const BLOCK_STEPS: usize = 1024;

/// What a block costs at most while it is played, in bytes: twice its steps, for those that wait in
/// queues. (Where every second step opens a session that has to wait, those cost as much again.)
pub const BLOCK_COST: usize = BLOCK_BYTES + 2 * BLOCK_STEPS * size_of::<Step<Piece>>();

/// A stretch of steps, and the bytes that they send.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    steps: Vec<Step<Piece>>,
    /// Steps that are their session's last, without saying so.
    last: Vec<usize>,
    /// Bytes of the captures that had been read when it was filled, as they lie in the files.
    pub consumed: u64,
}

impl Block {
    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.steps.clear();
        self.last.clear();
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.steps.len() >= BLOCK_STEPS || self.bytes.len() >= BLOCK_BYTES
    }

    /// Takes a step, and says how many of its bytes: all, or as many as there is room for. It is not
    /// full.
    pub fn push(&mut self, step: &Step<&[u8]>) -> usize {
        debug_assert!(!self.is_full());
        let mut taken = 0;
        let act = match &step.act {
            Act::Send { seq, payload } => {
                taken = payload.len().min(BLOCK_BYTES - self.bytes.len());
                let start = self.bytes.len() as u32;
                if self.bytes.capacity() == 0 {
                    self.bytes.reserve_exact(BLOCK_BYTES);
                }
                self.bytes.extend_from_slice(&payload[..taken]);
                let payload = Piece {
                    start,
                    len: taken as u32,
                    continues: taken < payload.len(),
                };
                Act::Send { seq: *seq, payload }
            }
            Act::Open(origin) => Act::Open(origin.clone()),
            Act::HalfClose => Act::HalfClose,
            Act::End(ending) => Act::End(*ending),
        };
        self.steps.push(Step {
            at_us: step.at_us,
            session: step.session,
            replies: step.replies,
            act,
        });
        taken
    }

    /// Steps in it.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Notes that the session of this step ends with it.
    pub fn end_at(&mut self, step: usize) {
        // They are noted in any order, and looked for in that of the steps.
        if let Err(at) = self.last.binary_search(&step) {
            self.last.insert(at, step);
        }
    }

    pub(super) fn step(&self, nth: usize) -> Option<&Step<Piece>> {
        self.steps.get(nth)
    }

    pub(super) fn is_last(&self, step: usize) -> bool {
        self.last.binary_search(&step).is_ok()
    }

    pub(super) fn bytes(&self, start: u32, len: u32) -> &[u8] {
        &self.bytes[start as usize..start as usize + len as usize]
    }
}
