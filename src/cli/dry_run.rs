//! What a replay would do, printed: one line a step, and nobody is connected to.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::mem;

use super::words::counted;
use crate::codec::escaped;
use crate::engine::replay::{self, Config};
use crate::engine::{Error, Outcome};
use crate::notice::{Notice, Notify};
use crate::replay::{Act, Ending, Pace, Place, Schedule, Sessions, Sink, Speed, Step};

/// Bytes of a send that are shown at most.
const SHOWN: usize = 60;

/// Prints the steps, and says how much they are.
///
/// # Errors
/// What cannot be read or is no capture, and a standard output that cannot be written to.
pub(super) fn print(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let mut captures = replay::open(config, notify)?;
    let schedule = Schedule::new(config.max_gap);
    let mut sessions = Sessions::new(config.selection.clone(), config.direction, schedule);
    let mut printer = Printer {
        config,
        lines: String::new(),
    };
    let mut stdout = BufWriter::new(io::stdout().lock());
    for nth in 0..config.times {
        if nth > 0 {
            captures.rewind();
        }
        loop {
            // What was printed so far is seen while the next is waited for.
            let mut flushed = Ok(());
            let advanced = captures.advance(|| flushed = stdout.flush());
            if !written(flushed)? {
                return Ok(Outcome::Whole);
            }
            if !advanced.map_err(Error::Read)? {
                break;
            }
            let record = captures.record().map_err(Error::Read)?;
            let Ok(()) = sessions.handle_record(&record, &mut printer);
            (captures.check_open(sessions.open())).map_err(Error::Read)?;
            let lines = mem::take(&mut printer.lines);
            if !written(stdout.write_all(lines.as_bytes()))? {
                return Ok(Outcome::Whole);
            }
        }
        let Ok(()) = sessions.handle_end(&mut printer);
        let lines = mem::take(&mut printer.lines);
        let result = stdout.write_all(lines.as_bytes());
        if !written(result.and_then(|()| stdout.flush()))? {
            return Ok(Outcome::Whole);
        }
        if sessions.totals().sessions == 0 {
            break;
        }
    }
    let found = sessions.totals();
    replay::check_found(config, &found)?;
    notify.say(Notice::WouldReplay(found));
    if captures.torn() > 0 || found.gaps > 0 {
        return Ok(Outcome::NotWhole);
    }
    Ok(Outcome::Whole)
}

struct Printer<'a> {
    config: &'a Config,
    lines: String,
}

/// Whether it was written; not, where nobody reads.
fn written(result: io::Result<()>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::System("write to standard output", error)),
    }
}

impl Sink for Printer<'_> {
    type Error = Infallible;

    fn push(&mut self, step: Step<&[u8]>) -> Result<Place, Infallible> {
        let what = match &step.act {
            Act::Open(origin) => {
                format!(
                    "connect, as #{} {}",
                    origin.conn,
                    escaped(origin.peer.as_bytes())
                )
            }
            Act::Send { seq, payload } => {
                let shown = &payload[..payload.len().min(SHOWN)];
                let more = if shown.len() < payload.len() {
                    "…"
                } else {
                    ""
                };
                let size = counted(payload.len() as u64, "byte");
                format!("send {size} of record {seq}: {}{more}", escaped(shown))
            }
            Act::HalfClose => "end the sending".to_owned(),
            Act::End(Ending::Orderly) => "close".to_owned(),
            Act::End(Ending::Reset) => "reset".to_owned(),
        };
        let when = match self.config.player.speed {
            Speed::Max => "at once".to_owned(),
            speed => {
                let due_us = speed.due_us(step.at_us);
                format!("{}.{:06}", due_us / 1_000_000, due_us % 1_000_000)
            }
        };
        let session = step.session;
        let replies = match self.config.player.pace {
            Pace::Reply if step.replies > 0 => {
                format!(" after {} of replies", counted(step.replies, "byte"))
            }
            _ => String::new(),
        };
        let line = format!("{when:>12} session {session}{replies}: {what}\n");
        self.lines.push_str(&line);
        Ok(Place::default())
    }

    fn end_at(&mut self, _: Place) -> bool {
        false
    }
}
