//! The replay core: what was recorded, played again. No sockets, no clocks, no threads.
//!
//! ```text
//! records → [`Sessions`]: selection, runs, positions → steps → [`Block`]s → [`Player`] → commands
//! ```
//!
//! [`Sessions`] turns records into steps: a session opens, sends, half-closes, ends. The steps stand
//! in the order of their times, so the player only walks along them; a session has a queue only for
//! what is due and could not be done yet. The player is driven like a protocol: `handle_*` tells it
//! what happened and when, [`Player::poll_command`] tells what is to be done, and
//! [`Player::next_due_us`] when to come back. Memory is bounded by the blocks that there are: the
//! player gives one back when all of it has been sent.

mod player;
mod playing;
mod schedule;
mod script;
mod session;
#[cfg(test)]
mod sim;
mod tally;
#[cfg(test)]
mod tests;

pub use player::{Command, Config, Pace, Player};
pub use schedule::{Schedule, Speed};
pub use script::{Act, BLOCK_COST, Block, Ending, Origin, Piece, Place, SessionId, Sink, Step};
pub use session::{Sessions, Totals};
pub use tally::{Ended, Failure, LATE_US, Tally};
