//! Captures to outputs: what was recorded is printed, converted, taken apart; once, or as it grows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::clock::SystemClock;
use super::follow::Following;
use super::{Error, Outcome, system};
use crate::input::{Captures, OpenError, Source};
use crate::notice::Notify;
use crate::output::options::Options;
use crate::output::{self, OutputSpec, State, Surroundings, Writer};
use crate::record::doorbell::Doorbell;
use crate::record::selection::Selection;
use crate::record::{Conn, ConnId, Direction, Endpoints, Event, Record, RunId, Start};

/// What to read, and where to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The captures, in their order.
    pub sources: Vec<Source>,
    /// One behind them that is read as it grows.
    pub followed: Option<PathBuf>,
    /// Which records are meant.
    pub selection: Selection,
    /// Whose bytes are meant, if not everybody's.
    pub direction: Option<Direction>,
    /// Where they go.
    pub outputs: Vec<OutputSpec>,
}

/// Writes what the captures hold.
///
/// # Errors
/// What cannot be opened, or is no capture. What stands before the line that is none has been written then.
pub fn cat(config: &Config, notify: &Notify) -> Result<Outcome, Error> {
    let missed = Arc::new(AtomicU64::new(0));
    let mut captures = Captures::open(&config.sources, notify).map_err(Error::Input)?;
    if let Some(path) = &config.followed {
        let read = config.sources.iter().filter_map(|source| match source {
            Source::File(path) => Some(path.clone()),
            Source::Stdin => None,
        });
        let read: Vec<PathBuf> = read.collect();
        let following = Following::new(path, &read, Arc::clone(&missed), notify.clone());
        let following =
            following.map_err(|error| Error::Input(OpenError::new(path.clone(), error)))?;
        captures = captures.then(Box::new(following));
    }
    let opened = output::open_all(&config.outputs, &Options::default()).map_err(Error::Output)?;
    let surroundings = Surroundings {
        start: Arc::new(nameless()),
        options: Options::default(),
        // Nobody sleeps.
        doorbell: Arc::new(Doorbell::new(|| {})),
        clock: Arc::new(SystemClock::start()),
        notify: notify.clone(),
    };
    let writers = opened.into_iter().map(|output| output.write(&surroundings));
    let writers = writers.collect::<Result<Vec<_>, _>>();
    let mut cat = Cat::new(config, writers.map_err(system("make a folder"))?);
    let read = cat.read(&mut captures);
    let has_failed = cat.finish();
    read?;
    let is_whole = captures.torn() == 0 && cat.gaps == 0 && missed.load(Relaxed) == 0;
    Ok(match is_whole && !has_failed {
        true => Outcome::Whole,
        false => Outcome::NotWhole,
    })
}

/// The start of a run that has none in the captures: jq may have left it out.
fn nameless() -> Start {
    Start {
        run: RunId(0),
        mode: "cat".to_owned(),
        listen: Vec::new(),
        connect: Vec::new(),
        tool: concat!("wiretape ", env!("CARGO_PKG_VERSION")).to_owned(),
        segment: 1,
        conn: None,
        part: true,
    }
}

struct Cat<'a> {
    config: &'a Config,
    writers: Vec<Writer>,
    /// Some records are left out.
    is_part: bool,
    run: Option<RunId>,
    last_seq: Option<u64>,
    /// Connections that are open in the captures, where an output asks for them.
    open: Option<HashMap<ConnId, Endpoints>>,
    gaps: u64,
}

impl<'a> Cat<'a> {
    fn new(config: &'a Config, writers: Vec<Writer>) -> Self {
        let needs_endpoints = writers.iter().any(Writer::needs_endpoints);
        Self {
            config,
            writers,
            is_part: config.selection != Selection::default() || config.direction.is_some(),
            run: None,
            last_seq: None,
            open: needs_endpoints.then(HashMap::new),
            gaps: 0,
        }
    }

    /// Until the captures end, or nobody reads what is written.
    fn read(&mut self, captures: &mut Captures) -> Result<(), Error> {
        while !self.writers.iter().all(Writer::has_ended) {
            let writers = &mut self.writers;
            // What was written so far is seen while the next is waited for.
            let advanced = captures.advance(|| writers.iter_mut().for_each(Writer::flush));
            if !advanced.map_err(Error::Read)? {
                break;
            }
            let record = captures.record().map_err(Error::Read)?;
            self.record(record);
            let open = self.open.as_ref().map_or(0, HashMap::len);
            captures.check_open(open).map_err(Error::Read)?;
        }
        Ok(())
    }

    fn record(&mut self, mut record: Record<'_>) {
        match &mut record.event {
            Event::Start(start) => {
                let goes_on = self.run == Some(start.run)
                    && self.last_seq.is_none_or(|last| record.seq > last);
                if self.is_part && !start.part {
                    start.to_mut().part = true;
                }
                if !goes_on {
                    self.begin_run(start.as_ref().clone());
                }
                self.run = Some(start.run);
            }
            Event::End { .. } => {}
            Event::Gap { .. } => self.gaps += 1,
            _ => {
                // Numbers grow within a run, whatever was left out of it.
                if self.last_seq.is_some_and(|last| record.seq <= last) {
                    self.begin_run(nameless());
                    self.run = None;
                }
                self.last_seq = Some(record.seq);
            }
        }
        let Some(conn) = record.event.conn() else {
            return self.write(&record, None);
        };
        if !self.config.selection.takes_conn(conn) {
            return;
        }
        let endpoints = self.endpoints(conn, &record.event);
        if self.is_meant(&record) {
            self.write(&record, endpoints.as_ref());
        }
    }

    fn is_meant(&self, record: &Record<'_>) -> bool {
        let way = match &record.event {
            Event::Data { direction, .. } | Event::Eof { direction, .. } => Some(*direction),
            _ => None,
        };
        let goes_that_way =
            way.is_none() || self.config.direction.is_none_or(|meant| way == Some(meant));
        goes_that_way && self.config.selection.takes_time(record.time.wall)
    }

    /// Where a connection comes from and goes to, as far as the captures tell, if an output asks for it.
    fn endpoints(&mut self, conn: &Conn<'_>, event: &Event<'_>) -> Option<Endpoints> {
        let open = self.open.as_mut()?;
        let of = |local: &str, target: Option<&str>| Endpoints {
            conn: conn.id,
            peer: conn.peer.as_ref().into(),
            local: local.into(),
            target: target.map(Into::into),
        };
        match event {
            Event::Open { local, target, .. } => {
                open.insert(conn.id, of(local, target.as_deref()));
            }
            _ if open
                .get(&conn.id)
                .is_some_and(|known| *known.peer == *conn.peer) => {}
            _ => {
                open.insert(conn.id, of("", None));
            }
        }
        match event {
            Event::Close { .. } => open.remove(&conn.id),
            _ => open.get(&conn.id).cloned(),
        }
    }

    fn begin_run(&mut self, start: Start) {
        self.last_seq = None;
        if let Some(open) = &mut self.open {
            open.clear();
        }
        let start = Arc::new(start);
        for writer in &mut self.writers {
            writer.begin_run(Arc::clone(&start));
        }
    }

    fn write(&mut self, record: &Record<'_>, endpoints: Option<&Endpoints>) {
        for writer in &mut self.writers {
            writer.record(record, endpoints);
        }
    }

    /// Everything is written. Whether something could not be.
    fn finish(&mut self) -> bool {
        let mut has_failed = false;
        for writer in self.writers.drain(..) {
            has_failed |= writer.is_torn();
            has_failed |= writer.finish() == State::Failed;
        }
        has_failed
    }
}
