//! What is said to a person: every notice's words, on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::progress::{Bar, line};
use super::status::{self, Meter, output_line};
use super::words::{bytes, counted, milliseconds};
use crate::capture::admission::Refusal;
use crate::codec::escaped;
use crate::notice::{Notice, Notify, Progress, Recovered, Replayed, Statistics, Then, describe};
use crate::replay::Totals;

/// Says `message` on standard error, as one line of this program. Nothing can be done if that fails.
pub(super) fn say(message: &dyn fmt::Display) {
    // One write, so that lines of two threads do not mix.
    let line = format!("wiretape: {message}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Lines that wait to be said at most. Beyond it they are left out: whoever reads standard error has
/// stopped.
const WAITING_LINES: usize = 1024;

/// How long the end of the program waits for its last lines to be taken.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Says notices, on a thread of its own: a standard error that nobody reads must not hold up a
/// capture, nor keep it from ending.
#[derive(Debug)]
pub(super) struct Reporter {
    speaker: SyncSender<Message>,
    wording: Arc<Wording>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// How far it has come: drawn.
    Progress(Progress),
    /// How things stand, once in a while: drawn.
    Status(Statistics),
    /// The same, asked for.
    Statistics(Statistics),
    /// All lines before this have been said: tell so.
    Flush(SyncSender<()>),
}

impl Reporter {
    /// With `is_quiet`, only where it listens and what goes wrong. `outputs` is how many there are, and
    /// `shares_terminal` whether one of them writes to the terminal, too: nothing is drawn there.
    pub(super) fn new(is_quiet: bool, outputs: usize, shares_terminal: bool) -> Self {
        let (speaker, messages) = sync_channel(WAITING_LINES);
        std::thread::spawn(move || {
            let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            let draws = io::stderr().is_terminal() && !is_dumb && !shares_terminal;
            let mut bar = Bar::default();
            let (mut status, mut asked) = (Meter::default(), Meter::default());
            for message in messages {
                match message {
                    Message::Line(line) => bar.above(|| say(&line)),
                    Message::Progress(progress) if draws => {
                        bar.show(progress.played, line(&progress));
                    }
                    Message::Progress(progress) => say(&line(&progress)),
                    Message::Status(statistics) => {
                        let rates = status.read(&statistics);
                        match status::line(&statistics, rates) {
                            line if draws => bar.show(None, line),
                            line => say(&line),
                        }
                    }
                    Message::Statistics(statistics) => {
                        let rates = asked.read(&statistics);
                        for line in status::lines(&statistics, Some(rates)) {
                            bar.above(|| say(&line));
                        }
                    }
                    Message::Flush(done) => {
                        bar.clear();
                        let _ = done.send(());
                    }
                }
            }
        });
        let wording = Arc::new(Wording { is_quiet, outputs });
        Self { speaker, wording }
    }

    /// Where notices go to be said.
    pub(super) fn notify(&self) -> Notify {
        let (speaker, wording) = (self.speaker.clone(), Arc::clone(&self.wording));
        Notify::new(move |notice| {
            let messages = match notice {
                Notice::Progress(progress) => vec![Message::Progress(progress)],
                Notice::Status(statistics) => vec![Message::Status(statistics)],
                Notice::Statistics(statistics) => vec![Message::Statistics(statistics)],
                notice => {
                    let lines = wording.lines(&notice).into_iter();
                    lines.map(Message::Line).collect()
                }
            };
            for message in messages {
                let _ = speaker.try_send(message);
            }
        })
    }

    /// Waits, but not for long, until everything has been said.
    pub(super) fn finish(&self) {
        let (done, said) = sync_channel(1);
        if self.speaker.try_send(Message::Flush(done)).is_ok() {
            let _ = said.recv_timeout(LAST_LINES);
        }
    }
}

/// Puts notices into words, or leaves them out.
#[derive(Debug)]
struct Wording {
    is_quiet: bool,
    outputs: usize,
}

impl Wording {
    fn lines(&self, notice: &Notice) -> Vec<String> {
        let line = match notice {
            Notice::Listening(address) => format!("listening on {address}"),
            Notice::ConnectFailed { target, why, then } => format!(
                "cannot connect to {target}: {why}; {}",
                match then {
                    Then::TriesAgain => "trying again",
                    Then::GivesUp => "given up",
                    Then::ResetsPeer => "its clients are reset until it answers",
                }
            ),
            Notice::AcceptFailed(error) => format!(
                "accept: {}; trying again as connections close",
                describe(error)
            ),
            Notice::OutputStalled { output, error } => format!(
                "write {output}: {}; its bytes are kept, and writing is tried again",
                describe(error)
            ),
            Notice::OutputFailed { output, error } => {
                format!("write {output}: {}; this output has ended", describe(error))
            }
            Notice::OpenFailed {
                output: _,
                path,
                error,
            } => format!(
                "open {}: {}; its bytes are kept, and it is tried again",
                path.display(),
                describe(error)
            ),
            Notice::SegmentFailed {
                output,
                action,
                error,
            } => format!(
                "{action} {output}: {}; some of it may be lost; going on in a new file",
                describe(error)
            ),
            Notice::SyncFailed { path, error } => format!(
                "sync {}: {}; some of it may be lost",
                path.display(),
                describe(error)
            ),
            Notice::RotateFailed {
                output,
                action,
                error,
            } => format!(
                "rotate {output}: cannot {action} it: {}; the file that is open is written on",
                describe(error)
            ),
            Notice::SegmentTrouble {
                path,
                action,
                error,
            } => format!("{action} {}: {}", path.display(), describe(error)),
            Notice::HookFailed { path, error } => {
                format!("--on-rotate {}: {error}", path.display())
            }
            Notice::ChoresLeft { count } => format!(
                "the time to stop in (--drain) has passed: all is written, but {} not done for closed files (--compress, --on-rotate)",
                match count {
                    1 => "1 thing was".to_owned(),
                    _ => format!("{count} things were"),
                }
            ),
            Notice::Missing { output } => {
                format!("{output} does not keep up: it misses records (--on-stall)")
            }
            Notice::Missed {
                output,
                records: count,
                bytes: lost,
            } => format!(
                "{output} missed {} with {}",
                records(*count),
                counted(*lost, "byte")
            ),
            Notice::ReopenFailed { output, error } => format!(
                "reopen {output}: {}; the file that is open is written on",
                describe(error)
            ),
            Notice::OutputDeleted { output } => {
                format!("{output} has been deleted: what was written to it since is lost")
            }
            Notice::TornEnd { output } => format!(
                "{output} ends in the middle of a line, as a crash leaves it; going on in a new line"
            ),
            Notice::TornCapture { name, line } => match line {
                Some((line, offset)) => format!(
                    "{name}: line {line}, at byte {offset}, breaks off, as a crash leaves it; it is left out"
                ),
                None => {
                    format!(
                        "{name}: breaks off, as a crash leaves it; all that can be read is used"
                    )
                }
            },
            Notice::SegmentsGone { capture, count } => format!(
                "{capture}: {} missing: deleted before they could be read",
                counted(*count, "closed file")
            ),
            Notice::CaptureCut { capture } => format!(
                "{capture}: it was cut shorter; what was written just before may be missing, and it is read from its beginning again"
            ),
            Notice::DrainTimeout {
                unread,
                has_unaccepted,
                unwritten,
            } => drain_timeout(*unread, *has_unaccepted, unwritten),
            Notice::Interrupted => "told twice to stop: what was left to write is lost".to_owned(),
            Notice::SessionFailed(ended) => format!(
                "session {} (#{} {}) failed after {}: {}",
                ended.session,
                ended.origin.conn,
                escaped(ended.origin.peer.as_bytes()),
                counted(ended.sent, "byte"),
                ended
                    .failure
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ),
            // Drawn, or measured against the last time, by the thread that says them.
            Notice::Progress(_) | Notice::Status(_) | Notice::Statistics(_) => return Vec::new(),
            _ if self.is_quiet => return Vec::new(),
            Notice::Connected { target, peer } if target == peer => {
                format!("connected to {target}")
            }
            Notice::Connected { target, peer } => format!("connected to {target}, at {peer}"),
            Notice::OutputClosed { output } if self.outputs > 1 => {
                format!("{output} is closed: nobody reads it; the other outputs go on")
            }
            // `wiretape … | head` ends quietly.
            Notice::OutputClosed { .. } => return Vec::new(),
            Notice::Reopened { output, segment } => {
                format!("{output}: opened anew, segment {segment}")
            }
            Notice::Recovered { path, what } => {
                let path = path.display();
                match what {
                    Recovered::Unfinished => {
                        format!("{path}: half compressed by an earlier run; removed")
                    }
                    Recovered::Compressed => {
                        format!("{path}: compressed by an earlier run; removed")
                    }
                    Recovered::Uncompressed => {
                        format!("{path}: left by an earlier run; compressed")
                    }
                }
            }
            Notice::OutputResumed { output } => format!("write {output}: it can be written again"),
            Notice::Stopping { open: 0 } => "stopping".to_owned(),
            Notice::Stopping { open } => {
                format!("stopping: reading what {} sent", connections(*open))
            }
            Notice::Finished(statistics) => return status::lines(statistics, None),
            Notice::Refused {
                count,
                total,
                peer,
                why,
            } => refused(*count, *total, &peer, *why),
            Notice::Crowded { open } => format!(
                "{} open, as many as --max-conns or the open-file limit allow; others wait to be accepted",
                match open {
                    1 => "1 connection is".to_owned(),
                    _ => format!("{open} connections are"),
                }
            ),
            Notice::Replayed(replayed) => return replayed_lines(replayed),
            Notice::WouldReplay(found) => return would_replay_lines(found),
            Notice::StoppingReplay { active } => {
                format!("stopping: closing {}", counted(*active as u64, "session"))
            }
        };
        vec![line]
    }
}

fn drain_timeout(unread: u64, has_unaccepted: bool, unwritten: &[String]) -> String {
    let parts = [
        (unread > 0).then(|| format!("{} not read to the end", connections(unread))),
        has_unaccepted.then(|| "the accept queue was not looked into".to_owned()),
        (!unwritten.is_empty()).then(|| format!("not all written: {}", unwritten.join(", "))),
    ];
    let said = "the time to stop in (--drain) has passed".to_owned();
    let parts = std::iter::once(said).chain(parts.into_iter().flatten());
    parts.collect::<Vec<_>>().join("; ")
}

fn refused(count: u64, total: u64, peer: &dyn fmt::Display, why: Refusal) -> String {
    let why = match why {
        Refusal::Denied => "it is denied (--deny)",
        Refusal::NotAllowed => "it is not allowed (--allow)",
        Refusal::TooMany => "it has as many connections as it may (--max-conns-per-ip)",
    };
    match count {
        1 => format!("refused {peer}: {why}; {total} refused in all"),
        _ => format!(
            "refused {}, the last from {peer}: {why}; {total} refused in all",
            connections(count)
        ),
    }
}

fn connections(count: u64) -> String {
    counted(count, "connection")
}

fn records(count: u64) -> String {
    counted(count, "record")
}

fn replayed_lines(replayed: &Replayed) -> Vec<String> {
    let (tally, found) = (&replayed.tally, &replayed.found);
    let mut lines = vec![format!(
        "replayed {}, {} failed; {} with {} sent, {} received; took {}, recorded in {}",
        counted(tally.done + tally.failed, "session"),
        tally.failed,
        records(tally.sends),
        bytes(tally.sent),
        bytes(tally.received),
        milliseconds(replayed.elapsed),
        milliseconds(Duration::from_micros(found.length_us)),
    )];
    if let Some([p50, p99, max]) = tally.lateness_us() {
        lines.push(format!(
            "sends were late by {p50}us (p50), {p99}us (p99), {max}us (max); {} of {} by more than 1ms",
            tally.late,
            tally.lateness.len(),
        ));
    }
    if replayed.unsaid > 0 {
        lines.push(format!(
            "{} failed beside those named above",
            counted(replayed.unsaid, "session")
        ));
    }
    if tally.quiet > 0 {
        lines.push(format!(
            "{} closed because the target did not end within --timeout",
            counted(tally.quiet, "session")
        ));
    }
    lines.extend(hole_lines(found));
    lines.extend(replayed.outputs.iter().map(output_line));
    lines
}

fn would_replay_lines(found: &Totals) -> Vec<String> {
    let mut lines = vec![format!(
        "would play {} with {} of {}",
        counted(found.sessions, "session"),
        counted(found.sends, "send"),
        bytes(found.bytes),
    )];
    lines.extend(hole_lines(found));
    lines
}

/// What the captures do not hold.
fn hole_lines(found: &Totals) -> Vec<String> {
    let mut lines = Vec::new();
    if found.missing > 0 {
        lines.push(format!(
            "{} within sessions are not in the captures: passed over",
            counted(found.missing, "byte")
        ));
    }
    if found.gaps > 0 {
        lines.push(format!(
            "the captures tell of {}: what they missed is not sent",
            counted(found.gaps, "gap")
        ));
    }
    lines
}
