//! Reading ahead: a thread that turns captures into blocks of steps, as far as there is memory.
//!
//! The blocks wait in a queue until the player takes them. Until then a session whose last step turns
//! out to be in one of them can still be ended there, and a block that is not full goes on being
//! filled: who reads a pipe hands it over whenever it would have to wait.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::codec::ndjson::ReadError;
use crate::input::Captures;
use crate::record::doorbell::Doorbell;
use crate::replay::{Act, Block, Place, Sessions, Sink, Step, Totals};

/// Blocks that are read before it is worth beginning: 16 MiB to be sent. An error in what is read so
/// far is found while nothing has been sent; to read on would only hold up the beginning.
const READ_FIRST: usize = 64;

/// The reading thread, as the loop sees it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Feed {
    shared: Arc<Shared>,
}

/// How the reading ended.
#[derive(Debug)]
pub(super) struct End {
    /// What was found.
    pub(super) totals: Totals,
    /// Captures that were torn.
    pub(super) torn: u64,
    /// What ended it before the end.
    pub(super) error: Option<ReadError>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A block has come back, or the loop has gone.
    freed: Condvar,
    /// It has read as far ahead as is worth it, or as it can.
    ready: Condvar,
    doorbell: Arc<Doorbell>,
}

#[derive(Debug, Default)]
struct State {
    /// Blocks that wait to be played, in order.
    queue: VecDeque<Block>,
    /// Number of the first block in the queue, from 0.
    first: u64,
    /// Blocks to be filled again.
    free: Vec<Block>,
    /// How many more there may be.
    spare: usize,
    /// The reader waits for one.
    waits: bool,
    /// It has read as far ahead as is worth it, or as it can.
    is_ready: bool,
    end: Option<End>,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Begins to read `captures`, `times` times, into at most `blocks` blocks.
    pub(super) fn start(
        captures: Captures,
        sessions: Sessions,
        times: u64,
        blocks: usize,
        doorbell: Arc<Doorbell>,
    ) -> io::Result<Self> {
        let state = State {
            spare: blocks,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            freed: Condvar::new(),
            ready: Condvar::new(),
            doorbell,
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            block: None,
            number: 0,
            consumed: 0,
        };
        thread::Builder::new()
            .name("read ahead".to_owned())
            .spawn(move || read(captures, sessions, times, writer))?;
        Ok(Self { shared })
    }

    /// The next block.
    pub(super) fn pop(&self) -> Option<Block> {
        let mut state = self.shared.state();
        let block = state.queue.pop_front()?;
        state.first += 1;
        Some(block)
    }

    /// A block has been played, and is empty.
    pub(super) fn give_back(&self, block: Block) {
        let mut state = self.shared.state();
        state.free.push(block);
        if state.waits {
            self.shared.freed.notify_one();
        }
    }

    /// Waits until it is worth beginning: all was read, or enough, or as much as there is memory for, or
    /// as much as there is by now. Then what was read is known to be good; else nothing is done.
    ///
    /// # Errors
    /// What is wrong with what was read.
    pub(super) fn begin(&self) -> Result<Option<Totals>, ReadError> {
        let state = self.shared.state();
        let woken = (self.shared.ready).wait_while(state, |state| !state.is_ready);
        let mut state = woken.unwrap_or_else(PoisonError::into_inner);
        let Some(end) = &mut state.end else {
            return Ok(None);
        };
        end.error.take().map_or(Ok(Some(end.totals)), Err)
    }

    /// Whether a block waits.
    pub(super) fn has_block(&self) -> bool {
        !self.shared.state().queue.is_empty()
    }

    /// Whether nothing comes until a block is given back.
    pub(super) fn is_starved(&self) -> bool {
        let state = self.shared.state();
        // One that has been given back is on its way, though the reader may not have woken yet.
        state.waits && state.queue.is_empty() && state.free.is_empty()
    }

    /// How it ended, once the last block has been taken.
    pub(super) fn poll_end(&self) -> Option<End> {
        let mut state = self.shared.state();
        if state.queue.is_empty() {
            state.end.take()
        } else {
            None
        }
    }

    /// What was found, once all has been read, though not yet taken.
    pub(super) fn totals(&self) -> Option<Totals> {
        self.shared.state().end.as_ref().map(|end| end.totals)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.freed.notify_one();
    }
}

/// Why the reading stops.
#[derive(Debug)]
enum Stop {
    /// The loop has gone.
    Over,
    /// What comes is no capture.
    Unreadable(ReadError),
}

fn read(mut captures: Captures, mut sessions: Sessions, times: u64, mut writer: Writer) {
    let mut result = Ok(());
    for nth in 0..times {
        if nth > 0 {
            captures.rewind();
        }
        result = read_once(&mut captures, &mut sessions, &mut writer);
        if matches!(result, Err(Stop::Over)) {
            return;
        }
        // What was read before an error is played to its end.
        if sessions.handle_end(&mut writer).is_err() {
            return;
        }
        if result.is_err() || sessions.totals().sessions == 0 {
            break;
        }
    }
    let end = End {
        totals: sessions.totals(),
        torn: captures.torn(),
        error: match result {
            Err(Stop::Unreadable(error)) => Some(error),
            Ok(()) | Err(Stop::Over) => None,
        },
    };
    writer.hand_over(true, Some(end));
}

fn read_once(
    captures: &mut Captures,
    sessions: &mut Sessions,
    writer: &mut Writer,
) -> Result<(), Stop> {
    loop {
        let advanced = captures.advance(|| writer.hand_over(true, None));
        if !advanced.map_err(Stop::Unreadable)? {
            return Ok(());
        }
        writer.consumed = captures.consumed();
        let record = captures.record().map_err(Stop::Unreadable)?;
        (sessions.handle_record(&record, writer)).map_err(|Over| Stop::Over)?;
        let checked = captures.check_open(sessions.open());
        checked.map_err(Stop::Unreadable)?;
    }
}

/// Fills blocks.
struct Writer {
    shared: Arc<Shared>,
    /// The block at hand.
    block: Option<Block>,
    /// Its number, or that of the next one.
    number: u64,
    consumed: u64,
}

/// The loop has gone.
#[derive(Debug)]
struct Over;

impl Writer {
    /// Puts the block at hand into the queue. Where it `is_all` that there is by now, it is filled
    /// further if it is still there when more has come.
    fn hand_over(&mut self, is_all: bool, end: Option<End>) {
        let mut state = self.shared.state();
        let was_ready = state.is_ready;
        state.end = end;
        state.is_ready |= is_all || state.queue.len() >= READ_FIRST;
        let is_first = self.block.is_some() && state.queue.is_empty();
        if let Some(mut block) = self.block.take() {
            block.consumed = self.consumed;
            state.queue.push_back(block);
            self.number += 1;
        }
        if state.is_ready && !was_ready {
            self.shared.ready.notify_one();
        }
        if is_first || state.end.is_some() {
            self.shared.doorbell.call();
        }
    }

    /// A block with room in it: the one at hand, the one that was handed over last, or another.
    fn block(&mut self) -> Result<&mut Block, Over> {
        if self.block.as_ref().is_some_and(Block::is_full) {
            self.hand_over(false, None);
        }
        if self.block.is_none() {
            let mut state = self.shared.state();
            if state.queue.back().is_some_and(|block| !block.is_full()) {
                self.number -= 1;
                self.block = state.queue.pop_back();
            }
            while self.block.is_none() {
                if state.is_over {
                    return Err(Over);
                }
                self.block = state.free.pop();
                if self.block.is_none() && state.spare > 0 {
                    state.spare -= 1;
                    self.block = Some(Block::default());
                }
                if self.block.is_none() {
                    state.waits = true;
                    state.is_ready = true;
                    self.shared.ready.notify_one();
                    self.shared.doorbell.call();
                    let woken = self.shared.freed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                    state.waits = false;
                }
            }
        }
        Ok(self.block.as_mut().expect("it has just been put there"))
    }
}

impl Sink for Writer {
    type Error = Over;

    fn push(&mut self, mut step: Step<&[u8]>) -> Result<Place, Over> {
        loop {
            let block = self.block()?;
            let taken = block.push(&step);
            let at = block.len() - 1;
            match &mut step.act {
                Act::Send { payload, .. } if taken < payload.len() => *payload = &payload[taken..],
                _ => {
                    return Ok(Place {
                        block: self.number,
                        step: at,
                    });
                }
            }
        }
    }

    fn end_at(&mut self, place: Place) -> bool {
        if place.block == self.number {
            if let Some(block) = &mut self.block {
                block.end_at(place.step);
                return true;
            }
        }
        let mut state = self.shared.state();
        let nth = place.block.checked_sub(state.first);
        let block = nth.and_then(|nth| state.queue.get_mut(nth as usize));
        block.map(|block| block.end_at(place.step)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_has_come_back_is_no_lack_of_memory() {
        let shared = Shared {
            state: Mutex::default(),
            freed: Condvar::new(),
            ready: Condvar::new(),
            doorbell: Arc::new(Doorbell::new(|| {})),
        };
        let feed = Feed {
            shared: Arc::new(shared),
        };
        assert!(!feed.is_starved());
        // The reader waits. It stays so until it wakes, which may be long after a block is there.
        feed.shared.state().waits = true;
        assert!(feed.is_starved());
        feed.give_back(Block::default());
        assert!(!feed.is_starved());
    }
}
