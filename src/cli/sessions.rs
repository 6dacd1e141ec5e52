//! The sessions of captures: a table, or JSON; and how much came when.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::args;
use super::captures::{selection, sources};
use super::reading::{Found, Reading};
use super::report::say;
use super::words::{bytes, counted};
use super::{exit, fail};
use crate::codec::ndjson::{Object, close_name};
use crate::codec::{Audience, escaped};
use crate::input::Source;
use crate::notice::describe;
use crate::record::time::WallTimeText;
use crate::record::{CloseReason, RunId};
use crate::review::{Review, Session, State, Totals, Volume};

/// Faults of a file that are said; more are only counted.
const FAULTS_SAID: u64 = 10;

/// Columns of the bar where the terminal does not tell how many it has.
const COLUMNS: u16 = 80;

/// `wiretape sessions`.
pub(super) fn run(args: &args::Sessions) -> ExitCode {
    let meant = sources(&args.files).and_then(|sources| {
        let selection = selection(&args.selection)?;
        Ok((sources, selection))
    });
    let (sources, selection) = match meant {
        Ok(meant) => meant,
        Err(error) => return fail(&error, exit::USAGE),
    };
    let stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    let form = match (args.json, is_terminal) {
        (true, true) => Form::Json(Audience::Terminal),
        (true, false) => Form::Json(Audience::Program),
        (false, _) => Form::Table { run: None },
    };
    let mut list = List {
        review: Review::new(selection),
        printer: Printer {
            form,
            wall: WallTimeText::default(),
            out: BufWriter::new(stdout),
        },
        status: 0,
    };
    match list.all(&sources, is_terminal) {
        Ok(()) => ExitCode::from(list.status),
        // Who reads has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            drop(list.printer.out.into_parts());
            ExitCode::SUCCESS
        }
        Err(error) => fail(
            &format_args!("write to standard output: {}", describe(&error)),
            exit::FAILURE,
        ),
    }
}

struct List<'a> {
    review: Review,
    printer: Printer<'a>,
    status: u8,
}

impl List<'_> {
    fn all(&mut self, sources: &[Source], is_terminal: bool) -> io::Result<()> {
        self.printer.begin()?;
        for source in sources {
            self.file(source)?;
        }
        self.review.handle_end();
        self.print_sessions()?;
        let totals = self.review.totals();
        if totals.gaps > 0 {
            self.worsen(exit::NOT_WHOLE);
        }
        self.printer.totals(&totals)?;
        if let (Form::Table { .. }, true) = (&self.printer.form, is_terminal) {
            self.printer.bar(&totals, self.review.volume())?;
        }
        self.printer.out.flush()
    }

    /// A failure is worse than something missing.
    fn worsen(&mut self, status: u8) {
        if self.status != exit::FAILURE {
            self.status = status;
        }
    }

    fn file(&mut self, source: &Source) -> io::Result<()> {
        let mut reading = match Reading::open(source, &mut self.review) {
            Ok(reading) => reading,
            Err(error) => {
                say(&error);
                self.worsen(exit::FAILURE);
                return Ok(());
            }
        };
        let mut faults = 0;
        loop {
            if reading.would_wait() {
                self.printer.out.flush()?;
            }
            let found = reading.step(&mut self.review);
            while let Some(fault) = reading.poll_fault() {
                faults += 1;
                if faults <= FAULTS_SAID {
                    let what = fault.what;
                    match fault.line {
                        0 => say(&format_args!("{source}: {what}")),
                        line => say(&format_args!("{source}: line {line}: {what}")),
                    }
                }
            }
            while self.review.poll_finding().is_some() {}
            self.print_sessions()?;
            match found {
                Ok(Found::Good | Found::Nothing) => {}
                Ok(Found::End(_)) => break,
                Err(error) => {
                    say(&error);
                    self.worsen(exit::FAILURE);
                    break;
                }
            }
        }
        if faults > FAULTS_SAID {
            let more = faults - FAULTS_SAID;
            say(&format_args!("{source}: and {more} more"));
        }
        if faults > 0 {
            self.worsen(exit::NOT_WHOLE);
        }
        Ok(())
    }

    fn print_sessions(&mut self) -> io::Result<()> {
        while let Some(session) = self.review.poll_session() {
            if let State::Damaged | State::Missing(_) = session.state {
                self.worsen(exit::NOT_WHOLE);
            }
            self.printer.session(&session)?;
        }
        Ok(())
    }
}

/// How sessions look.
enum Form {
    /// A line each, and a line before those of another run.
    Table { run: Option<Option<RunId>> },
    /// An object each.
    Json(Audience),
}

struct Printer<'a> {
    form: Form,
    wall: WallTimeText,
    out: BufWriter<StdoutLock<'a>>,
}

impl Printer<'_> {
    fn begin(&mut self) -> io::Result<()> {
        match self.form {
            Form::Json(_) => Ok(()),
            Form::Table { .. } => {
                let heads: [&dyn fmt::Display; 6] =
                    [&"CONN", &"START", &"DURATION", &"IN", &"OUT", &"RECORDS"];
                line(&mut self.out, heads, "END", "STATE", "PEER")
            }
        }
    }

    fn session(&mut self, session: &Session) -> io::Result<()> {
        match &mut self.form {
            Form::Json(audience) => {
                let object = object(session, *audience, &mut self.wall);
                self.out.write_all(&object)
            }
            Form::Table { run } => {
                if *run != Some(session.run) {
                    *run = Some(session.run);
                    match session.run {
                        Some(run) => writeln!(self.out, "run {run}")?,
                        None => writeln!(self.out, "a run without its start")?,
                    }
                }
                let mut peer = escaped(session.peer.as_bytes());
                if let Some(target) = &session.target {
                    peer.push_str(" for ");
                    peer.push_str(&escaped(target.as_bytes()));
                }
                if let Some(CloseReason::Error(error)) = &session.ended {
                    peer.push_str(": ");
                    peer.push_str(&escaped(error.as_bytes()));
                }
                let ended = session.ended.as_ref().map_or("-", close_name);
                let ended = match &session.ended {
                    // Not one of this version's own.
                    Some(CloseReason::Other(_)) => &escaped(ended.as_bytes()),
                    _ => ended,
                };
                let state = match session.state {
                    State::Missing(missing) => format!("{} missing", bytes(missing)),
                    state => state_name(state).replace('_', " "),
                };
                let (incoming, outgoing) = (bytes(session.in_bytes), bytes(session.out_bytes));
                let columns: [&dyn fmt::Display; 6] = [
                    &session.conn.0,
                    &text(self.wall.render(session.start.wall)),
                    &clock(session.duration_us),
                    &incoming,
                    &outgoing,
                    &session.records,
                ];
                line(&mut self.out, columns, ended, &state, &peer)
            }
        }
    }

    fn totals(&mut self, totals: &Totals) -> io::Result<()> {
        if let Form::Json(audience) = self.form {
            let mut object = Object::new("totals", audience)
                .number("runs", totals.runs)
                .number("sessions", totals.sessions)
                .number("not_whole", totals.torn)
                .number("records", totals.records)
                .number("in_bytes", totals.in_bytes)
                .number("out_bytes", totals.out_bytes)
                .number("gaps", totals.gaps)
                .number("missed", totals.missed);
            if let Some((from, to)) = totals.span {
                object = object.word("from", &from.to_string());
                object = object.word("to", &to.to_string());
            }
            return self.out.write_all(&object.finish());
        }
        writeln!(
            self.out,
            "{} of {}, {} not whole; {} in, {} out, {}",
            counted(totals.sessions, "session"),
            counted(totals.runs, "run"),
            totals.torn,
            bytes(totals.in_bytes),
            bytes(totals.out_bytes),
            counted(totals.records, "record"),
        )?;
        if totals.gaps > 0 {
            let (gaps, missed) = (
                counted(totals.gaps, "gap"),
                counted(totals.missed, "record"),
            );
            writeln!(self.out, "{gaps}: {missed} were never captured")?;
        }
        match totals.span {
            Some((from, to)) => writeln!(self.out, "{from} to {to}"),
            None => Ok(()),
        }
    }

    /// How much came when, across the terminal.
    fn bar(&mut self, totals: &Totals, volume: &Volume) -> io::Result<()> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let Some((from, to)) = totals.span.filter(|(from, to)| from < to && !is_dumb) else {
            return Ok(());
        };
        let columns = rustix::termios::tcgetwinsize(self.out.get_ref());
        let columns = columns.ok().map(|size| size.ws_col);
        let columns = columns.filter(|&columns| columns > 0).unwrap_or(COLUMNS);
        let rates = volume.rates(from, to, columns.into());
        let peak = rates.iter().copied().fold(0.0, f64::max);
        if peak <= 0.0 {
            return Ok(());
        }
        let column_us = (to.unix_micros() - from.unix_micros()) / u64::from(columns);
        writeln!(
            self.out,
            "{}\npeak {}/s; a column is {}",
            drawn(&rates, peak),
            bytes(peak.round() as u64),
            humantime::format_duration(rounded(column_us)),
        )
    }
}

/// A row of the table. What has no bound stands last, so that the rest stays in its columns.
fn line(
    out: &mut impl Write,
    columns: [&dyn fmt::Display; 6],
    end: &str,
    state: &str,
    peer: &str,
) -> io::Result<()> {
    let [conn, start, duration, incoming, outgoing, records] = columns;
    writeln!(
        out,
        "{conn:>7}  {start:<27}  {duration:>13}  {incoming:>10}  {outgoing:>10}  {records:>9}  \
         {end:<12}  {state:<14}  {peer}"
    )
}

/// A duration to three digits or so.
fn rounded(micros: u64) -> Duration {
    let unit = match micros {
        0..10_000 => 1,
        10_000..10_000_000 => 1000,
        _ => 1_000_000,
    };
    Duration::from_micros(micros / unit * unit)
}

/// Rates as a line of blocks: the highest is full, and what is not nothing is seen.
fn drawn(rates: &[f64], peak: f64) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let block = |rate: &f64| match *rate {
        rate if rate <= 0.0 => BLOCKS[0],
        rate => BLOCKS[((rate / peak * 8.0).ceil() as usize).clamp(1, 8)],
    };
    rates.iter().map(block).collect()
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Whole => "whole",
        State::Damaged => "damaged",
        State::Missing(_) => "missing",
        State::NoOpen => "no_open",
        State::NoClose => "no_close",
    }
}

/// A duration as hours, minutes, seconds and milliseconds, so that they stand below each other.
fn clock(micros: u64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

/// A time is ASCII.
fn text(time: &[u8]) -> &str {
    std::str::from_utf8(time).unwrap_or_default()
}

fn object(session: &Session, audience: Audience, wall: &mut WallTimeText) -> Vec<u8> {
    let mut object = Object::new("session", audience);
    object = object.word("ts", text(wall.render(session.start.wall)));
    if let Some(run) = session.run {
        object = object.word("run", &run.to_string());
    }
    object = object.number("conn", session.conn.0);
    object = object.string("peer", &session.peer);
    if let Some(local) = &session.local {
        object = object.string("local", local);
    }
    if let Some(target) = &session.target {
        object = object.string("target", target);
    }
    object = object.number("records", session.records);
    if let Some(reason) = &session.ended {
        object = object.string("reason", close_name(reason));
        if let CloseReason::Error(error) = reason {
            object = object.string("error", error);
        }
    }
    object = object.number("in_bytes", session.in_bytes);
    object = object.number("out_bytes", session.out_bytes);
    object = object.number("duration_us", session.duration_us);
    object = object.word("state", state_name(session.state));
    if let State::Missing(missing) = session.state {
        object = object.number("missing_bytes", missing);
    }
    object.finish()
}
