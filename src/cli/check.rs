//! Whether captures are whole: what is wrong with each, and a verdict.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args;
use super::captures::sources;
use super::reading::{Found, Reading};
use super::report::say;
use super::words::{bytes, counted};
use super::{exit, fail};
use crate::input::Source;
use crate::notice::describe;
use crate::output::FILE_MODE;
use crate::record::selection::Selection;
use crate::review::{Report, Review};

/// Findings of a file that are printed; more are only counted.
const FINDINGS_SHOWN: u64 = 100;

/// Bytes of good lines that are kept back until they are written.
const WRITE_SIZE: usize = 256 * 1024;

/// `wiretape check`.
pub(super) fn run(args: &args::Check) -> ExitCode {
    let sources = match sources(&args.files) {
        Ok(sources) => sources,
        Err(error) => return fail(&error, exit::USAGE),
    };
    let salvage = match args.salvage.as_deref().map(Salvage::create).transpose() {
        Ok(salvage) => salvage,
        Err(error) => return fail(&error, exit::FAILURE),
    };
    let place = match (args.quiet, &salvage) {
        (true, _) => Verdicts::nowhere(),
        (false, Some(Salvage { path: None, .. })) => Verdicts::to(io::stderr()),
        (false, _) => Verdicts::to(io::stdout()),
    };
    let mut check = Check {
        review: Review::new(Selection::default()),
        verdicts: place,
        salvage,
        tally: Tally::default(),
    };
    let salvaged = check.all(&sources).and_then(|()| match &mut check.salvage {
        Some(salvage) => salvage.finish(),
        None => Ok(()),
    });
    match (salvaged, &check.salvage) {
        (Err(error), _) => return fail(&error, exit::FAILURE),
        (Ok(()), Some(salvage)) if !args.quiet => salvage.tell(),
        (Ok(()), _) => {}
    }
    ExitCode::from(check.tally.status())
}

struct Check {
    review: Review,
    verdicts: Verdicts,
    salvage: Option<Salvage>,
    tally: Tally,
}

/// How many files are what.
#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    not_whole: u64,
    unreadable: u64,
}

impl Tally {
    fn status(&self) -> u8 {
        match self {
            _ if self.unreadable > 0 => exit::FAILURE,
            _ if self.not_whole > 0 => exit::NOT_WHOLE,
            _ => 0,
        }
    }
}

impl Check {
    fn all(&mut self, sources: &[Source]) -> Result<(), SalvageError> {
        for source in sources {
            match self.file(source)? {
                Some(report) => self.judge(source, &report),
                None => self.tally.unreadable += 1,
            }
        }
        if let [_, _, ..] = sources {
            let Tally {
                whole,
                not_whole,
                unreadable,
            } = self.tally;
            let unreadable = match unreadable {
                0 => String::new(),
                _ => format!(", {unreadable} cannot be read"),
            };
            let files = counted(sources.len() as u64, "file");
            self.verdicts.print(format_args!(
                "{files}: {whole} whole, {not_whole} not whole{unreadable}"
            ));
        }
        self.verdicts.flush();
        Ok(())
    }

    /// Reads a file to its end; `None`, and why is said, where it cannot be read.
    fn file(&mut self, source: &Source) -> Result<Option<Report>, SalvageError> {
        let mut reading = match Reading::open(source, &mut self.review) {
            Ok(reading) => reading,
            Err(error) => return Ok(self.give_up(&error)),
        };
        if self.salvage.is_some() {
            reading.keep_lines();
        }
        let mut shown = 0;
        loop {
            if reading.would_wait() {
                self.verdicts.flush();
            }
            let found = reading.step(&mut self.review);
            while let Some(fault) = reading.poll_fault() {
                self.finding(source, &mut shown, fault.line, &fault.what);
            }
            while let Some(finding) = self.review.poll_finding() {
                self.finding(source, &mut shown, finding.line, &finding.flaw);
            }
            while self.review.poll_session().is_some() {}
            match found {
                Ok(Found::Good) => {
                    if let Some(salvage) = &mut self.salvage {
                        salvage.keep(reading.raw_line())?;
                    }
                }
                Ok(Found::Nothing) => {}
                Ok(Found::End(report)) => return Ok(Some(report)),
                Err(error) => return Ok(self.give_up(&error)),
            }
        }
    }

    fn give_up(&mut self, error: &dyn fmt::Display) -> Option<Report> {
        self.verdicts.flush();
        say(error);
        None
    }

    fn finding(&mut self, source: &Source, shown: &mut u64, line: u64, what: &dyn fmt::Display) {
        *shown += 1;
        if *shown > FINDINGS_SHOWN {
            return;
        }
        match line {
            0 => self.verdicts.print(format_args!("{source}: {what}")),
            _ => (self.verdicts).print(format_args!("{source}: line {line}: {what}")),
        }
    }

    fn judge(&mut self, source: &Source, report: &Report) {
        if report.findings > FINDINGS_SHOWN {
            let more = report.findings - FINDINGS_SHOWN;
            self.verdicts
                .print(format_args!("{source}: and {more} more"));
        }
        if report.findings > 0 {
            self.tally.not_whole += 1;
            let findings = counted(report.findings, "finding");
            return self
                .verdicts
                .print(format_args!("{source}: not whole: {findings}"));
        }
        self.tally.whole += 1;
        let begins = match report.begins_at {
            Some(segment) => format!("; begins with segment {segment}"),
            None => String::new(),
        };
        let goes_on = match report.goes_on {
            Some(0) => "; may go on in another segment".to_owned(),
            Some(open) => {
                let open = counted(open as u64, "session");
                format!("; goes on in another segment with {open} open")
            }
            None => String::new(),
        };
        self.verdicts.print(format_args!(
            "{source}: whole: {}, {}, {}, {}{begins}{goes_on}",
            counted(report.runs, "run"),
            counted(report.sessions, "session"),
            counted(report.records, "record"),
            bytes(report.bytes),
        ));
    }
}

/// Where verdicts are printed. Where nobody reads them any more, the exit status still tells.
struct Verdicts(Option<BufWriter<Box<dyn Write>>>);

impl Verdicts {
    fn nowhere() -> Self {
        Self(None)
    }

    fn to(place: impl Write + 'static) -> Self {
        Self(Some(BufWriter::new(Box::new(place))))
    }

    fn print(&mut self, line: fmt::Arguments<'_>) {
        let written = self.0.as_mut().map(|place| writeln!(place, "{line}"));
        self.note(written);
    }

    fn flush(&mut self) {
        let written = self.0.as_mut().map(Write::flush);
        self.note(written);
    }

    fn note(&mut self, written: Option<io::Result<()>>) {
        if let Some(Err(error)) = written {
            if error.kind() != io::ErrorKind::BrokenPipe {
                say(&format_args!(
                    "write to standard output: {}",
                    describe(&error)
                ));
            }
            // What is buffered must not be tried again when it is dropped.
            if let Some(place) = self.0.take() {
                drop(place.into_parts());
            }
        }
    }
}

/// Where the good lines go.
#[derive(Debug)]
struct Salvage {
    /// Standard output has none.
    path: Option<PathBuf>,
    place: BufWriter<Place>,
    lines: u64,
}

#[derive(Debug)]
enum Place {
    Stdout(io::Stdout),
    File(File),
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// What could not be done with the good lines.
#[derive(Debug)]
struct SalvageError {
    verb: &'static str,
    path: Option<PathBuf>,
    error: io::Error,
}

impl fmt::Display for SalvageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} ", self.verb)?;
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("standard output")?,
        }
        write!(f, ": {}", describe(&self.error))?;
        match self.error.kind() {
            io::ErrorKind::AlreadyExists => f.write_str(" (name a new file)"),
            _ => Ok(()),
        }
    }
}

impl Salvage {
    /// A new file: what is there already is never written over, an input least of all.
    fn create(path: &Path) -> Result<Self, SalvageError> {
        let (path, place) = match path.to_str() {
            Some("-") => (None, Place::Stdout(io::stdout())),
            _ => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(FILE_MODE);
                let file = options.open(path);
                let file = file.map_err(|error| SalvageError {
                    verb: "create",
                    path: Some(path.to_owned()),
                    error,
                })?;
                (Some(path.to_owned()), Place::File(file))
            }
        };
        Ok(Self {
            path,
            place: BufWriter::with_capacity(WRITE_SIZE, place),
            lines: 0,
        })
    }

    fn keep(&mut self, line: &[u8]) -> Result<(), SalvageError> {
        self.lines += 1;
        let written = self.place.write_all(line);
        let written = written.and_then(|()| match line.last() {
            Some(b'\n') => Ok(()),
            _ => self.place.write_all(b"\n"),
        });
        written.map_err(|error| self.failed("write", error))
    }

    /// Writes what is left, and has it reach the disk.
    fn finish(&mut self) -> Result<(), SalvageError> {
        let flushed = self.place.flush();
        let synced = flushed.and_then(|()| match self.place.get_ref() {
            Place::Stdout(_) => Ok(()),
            Place::File(file) => file.sync_all(),
        });
        synced.map_err(|error| self.failed("write", error))
    }

    fn tell(&self) {
        if let Some(path) = &self.path {
            let lines = counted(self.lines, "line");
            say(&format_args!("{}: salvaged {lines}", path.display()));
        }
    }

    /// A file that does not hold all that was to be in it is of no use.
    fn failed(&self, verb: &'static str, error: io::Error) -> SalvageError {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
        SalvageError {
            verb,
            path: self.path.clone(),
            error,
        }
    }
}
