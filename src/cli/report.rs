//! What is said to a person: every notice's words, on standard error.

use std::fmt;
use std::io::{self, Write};

use bytesize::ByteSize;

use crate::notice::{Notice, Notify, Statistics, describe};

/// Says `message` on standard error, as one line of this program. Nothing can be done if that fails.
pub(super) fn say(message: &dyn fmt::Display) {
    // One write, so that lines of two threads do not mix.
    let line = format!("wiretape: {message}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Puts notices into words, or leaves them out.
#[derive(Debug)]
pub(super) struct Reporter {
    is_quiet: bool,
    outputs: usize,
}

impl Reporter {
    /// With `is_quiet`, only where it listens and what goes wrong. `outputs` is how many there are.
    pub(super) fn new(is_quiet: bool, outputs: usize) -> Self {
        Self { is_quiet, outputs }
    }

    pub(super) fn into_notify(self) -> Notify {
        Notify::new(move |notice| {
            for line in self.lines(&notice) {
                say(&line);
            }
        })
    }

    fn lines(&self, notice: &Notice) -> Vec<String> {
        let line = match notice {
            Notice::Listening(address) => format!("listening on {address}"),
            Notice::AcceptFailed(error) => format!(
                "accept: {}; trying again as connections close",
                describe(error)
            ),
            Notice::OutputStalled { output, error } => format!(
                "write {output}: {}; its bytes are kept, and writing is tried again",
                describe(error)
            ),
            Notice::OutputFailed {
                output,
                action,
                error,
            } => format!(
                "{action} {output}: {}; this output has ended",
                describe(error)
            ),
            Notice::ReopenFailed { output, error } => format!(
                "reopen {output}: {}; the file that is open is written on",
                describe(error)
            ),
            Notice::TornEnd { output } => format!(
                "{output} ends in the middle of a line, as a crash leaves it; going on in a new line"
            ),
            Notice::DrainTimeout { unread, unwritten } => drain_timeout(*unread, unwritten),
            Notice::Interrupted => "told twice to stop: what was left to write is lost".to_owned(),
            Notice::Statistics(statistics) => return statistics_lines(statistics),
            _ if self.is_quiet => return Vec::new(),
            Notice::OutputClosed { output } if self.outputs > 1 => {
                format!("{output} is closed: nobody reads it; the other outputs go on")
            }
            // `wiretape … | head` ends quietly.
            Notice::OutputClosed { .. } => return Vec::new(),
            Notice::OutputResumed { output } => format!("write {output}: it can be written again"),
            Notice::Stopping { open: 0 } => "stopping".to_owned(),
            Notice::Stopping { open } => {
                format!("stopping: reading what {} sent", connections(*open))
            }
            Notice::Finished(statistics) => return statistics_lines(statistics),
        };
        vec![line]
    }
}

fn drain_timeout(unread: u64, unwritten: &[String]) -> String {
    let mut line = "the time to stop in (--drain) has passed".to_owned();
    if unread > 0 {
        line += &format!("; {} not read to the end", connections(unread));
    }
    if !unwritten.is_empty() {
        line += &format!("; not all written: {}", unwritten.join(", "));
    }
    line
}

fn connections(count: u64) -> String {
    counted(count, "connection")
}

fn records(count: u64) -> String {
    counted(count, "record")
}

fn counted(count: u64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

fn statistics_lines(statistics: &Statistics) -> Vec<String> {
    let totals = statistics.totals;
    let (held, limit) = statistics.buffered;
    let elapsed = std::time::Duration::from_millis(statistics.elapsed.as_millis() as u64);
    let mut lines = vec![format!(
        "ran {}; {}, {} open; {} in, {}; buffer {} of {}",
        humantime::format_duration(elapsed),
        connections(totals.opened),
        totals.open,
        bytes(totals.bytes),
        records(totals.records),
        bytes(held as u64),
        bytes(limit as u64),
    )];
    lines.extend(statistics.outputs.iter().map(|output| {
        format!(
            "{}: {} written, {} waiting",
            output.name,
            bytes(output.written),
            records(output.waiting)
        )
    }));
    lines
}

fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}
