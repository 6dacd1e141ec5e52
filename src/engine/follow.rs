//! A capture that is still being written: its files, one behind the other, however it is rotated.
//!
//! Who writes renames the file, makes a new one under the old name, writes what is left into the old one,
//! and only then begins the new one. So a file is over when its name leads to another one that is not empty,
//! or when that one has been closed as well, and nothing more is found behind that look.
//!
//! Which file is next, the files say themselves: each begins with a `start` of its run and its segment. Names
//! tell only what was closed, and when; they may be given anew, and what they lead to may be compressed, moved
//! or deleted at any time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::watch::Watch;
use crate::input::{self, Beginning, Files, Part, Segment};
use crate::notice::{Notice, Notify};
use crate::output::{ClosedSegments, SegmentOrder};

/// The files of a capture as it grows. They end when a signal asks for it.
pub(super) struct Following {
    path: PathBuf,
    /// As it was given.
    name: String,
    closed: ClosedSegments,
    watch: Arc<Mutex<Watch>>,
    /// Closed files that were read, and how they begin, for a name may be given anew once its file has gone;
    /// and those that are not meant.
    known: BTreeMap<SegmentOrder, (FileId, Option<Segment>)>,
    /// The others that were found: a folder is not listed for each.
    waiting: VecDeque<Closed>,
    current: Option<Current>,
    /// What comes next follows something that was read: between them nothing may be missing.
    goes_on: bool,
    /// Times that something was missing.
    missed: Arc<AtomicU64>,
    notify: Notify,
}

/// A closed file that was not read yet.
struct Closed {
    order: SegmentOrder,
    path: PathBuf,
    id: FileId,
    begins: Option<Segment>,
}

/// The file that was given last.
struct Current {
    id: FileId,
    begins: Option<Segment>,
    /// It was cut shorter while it was read, and begins anew.
    is_cut: Arc<AtomicBool>,
}

/// Device and inode.
type FileId = (u64, u64);

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// What is known of the file that is at `path`, compressed or not.
fn look_at(path: &Path) -> Option<Metadata> {
    ClosedSegments::forms(path).find_map(|path| fs::metadata(path).ok())
}

fn is_file(path: &Path, id: FileId) -> bool {
    look_at(path).is_some_and(|found| file_id(&found) == id)
}

/// A file that is there and has begun.
struct Opened {
    path: PathBuf,
    file: File,
    id: FileId,
    begins: Option<Segment>,
}

/// The file at `path`, compressed or not.
fn open(path: &Path) -> io::Result<Option<Opened>> {
    for path in ClosedSegments::forms(path) {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let begins = match input::beginning(&file)? {
            Beginning::ToCome => return Ok(None),
            Beginning::Segment(segment) => Some(segment),
            Beginning::Other => None,
        };
        let id = file_id(&file.metadata()?);
        return Ok(Some(Opened {
            path,
            file,
            id,
            begins,
        }));
    }
    Ok(None)
}

impl Following {
    /// Follows the file at `path`, which may be still to come, behind those of its closed files that were
    /// `named` to be read before. Counts in `missed` how often something was missing.
    ///
    /// # Errors
    /// It is no regular file, or its folder is none or cannot be read.
    pub(super) fn new(
        path: &Path,
        named: &[PathBuf],
        missed: Arc<AtomicU64>,
        notify: Notify,
    ) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                return Err(io::Error::other(
                    "it is no regular file, which could be followed",
                ));
            }
            _ => {}
        }
        let name = path.display().to_string();
        // Where it is a link, the files beside what it leads to are its own.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let watch = Watch::new(&path)?;
        let closed = ClosedSegments::of(&path);
        let found = closed.list()?;
        let named: Vec<FileId> = (named.iter())
            .filter_map(|path| fs::metadata(path).ok())
            .map(|found| file_id(&found))
            .collect();
        let is_named = |path: &Path| named.iter().any(|&id| is_file(path, id));
        // What was closed before is not meant, unless it is of a row that was begun to be read: the reading
        // may take long, and the row grows meanwhile.
        let last = found.iter().rposition(|(_, path)| is_named(path));
        let count = last.map_or(found.len(), |last| last + 1);
        let known = found.into_iter().take(count).filter_map(|(order, path)| {
            let found = look_at(&path)?;
            Some((order, (file_id(&found), None)))
        });
        Ok(Self {
            known: known.collect(),
            goes_on: last.is_some(),
            watch: Arc::new(Mutex::new(watch)),
            path,
            name,
            closed,
            waiting: VecDeque::new(),
            current: None,
            missed,
            notify,
        })
    }

    /// The next file behind `last`, if it is there.
    fn choose(&mut self, last: Option<Segment>) -> io::Result<Option<Part>> {
        if self.is_begun_anew() {
            let live = open(&self.path)?;
            return Ok(live.map(|live| self.give(live, Successor::Unknown)));
        }
        if self.waiting.is_empty() {
            self.look()?;
        }
        while let Some(next) = next_of(&self.waiting, last).and_then(|nth| self.waiting.remove(nth))
        {
            let Some(opened) = open(&next.path)? else {
                // It is gone.
                continue;
            };
            self.known.insert(next.order, (opened.id, opened.begins));
            self.count_gone(last, opened.begins);
            let successor = match self.waiting.is_empty() {
                true => Successor::Unknown,
                false => Successor::HasBegun,
            };
            return Ok(Some(self.give(opened, successor)));
        }
        // Where it is of one connection, it is compressed when nothing more comes for it.
        let Some(live) = open(&self.path)? else {
            return Ok(None);
        };
        if self.is_current(&live) {
            return Ok(None);
        }
        // Others, and this one too, may have been closed since the folder was looked at.
        self.look()?;
        let (waiting, known) = (&mut self.waiting, &mut self.known);
        waiting.retain(|closed| {
            let is_it =
                closed.id == live.id || live.begins.is_some() && closed.begins == live.begins;
            if is_it {
                known.insert(closed.order.clone(), (live.id, live.begins));
            }
            !is_it
        });
        if !self.waiting.is_empty() {
            return self.choose(last);
        }
        self.count_gone(last, live.begins);
        Ok(Some(self.give(live, Successor::Unknown)))
    }

    /// Whether it is the file that was given last. Compressed it is another, but begins as it did; and once
    /// it was deleted, another may have its inode.
    fn is_current(&self, opened: &Opened) -> bool {
        (self.current.as_ref()).is_some_and(|current| match (current.begins, opened.begins) {
            (Some(current), Some(opened)) => current == opened,
            _ => current.id == opened.id,
        })
    }

    /// Finds what was closed and is neither known nor the file that was given last.
    fn look(&mut self) -> io::Result<()> {
        let found = self.closed.list()?;
        // Nothing is known any more of what has gone.
        let orders: BTreeSet<_> = found.iter().map(|(order, _)| order).collect();
        self.known.retain(|order, _| orders.contains(order));
        self.waiting.clear();
        for (order, path) in found {
            let known = self.known.get(&order).copied();
            let is_known = match known {
                None => false,
                Some((_, None)) => true,
                Some((id, Some(_))) => is_file(&path, id),
            };
            if is_known {
                continue;
            }
            let Some(opened) = open(&path)? else {
                continue;
            };
            let (id, begins) = (opened.id, opened.begins);
            let was_read = known.is_some_and(|(_, begun)| begun == begins);
            match was_read || self.is_current(&opened) {
                true => drop(self.known.insert(order, (id, begins))),
                false => self.waiting.push_back(Closed {
                    order,
                    path,
                    id,
                    begins,
                }),
            }
        }
        Ok(())
    }

    /// Whether the file that was given last was cut shorter, and is still the one under the name.
    fn is_begun_anew(&self) -> bool {
        let is_it =
            |current: &Current| current.is_cut.load(Relaxed) && is_file(&self.path, current.id);
        self.current.as_ref().is_some_and(is_it)
    }

    /// Tells of the files that should stand before one that begins so, and are not there.
    fn count_gone(&mut self, last: Option<Segment>, begins: Option<Segment>) {
        let goes_on = self.goes_on;
        self.goes_on = true;
        let gone = match (last, begins) {
            // Other files have the segments between.
            (_, Some(next)) if next.is_part => 0,
            (Some(last), Some(next)) if last.run == next.run => {
                next.number.saturating_sub(last.number.saturating_add(1))
            }
            (_, Some(next)) if goes_on => next.number.saturating_sub(1),
            _ => 0,
        };
        if gone > 0 {
            self.missed.fetch_add(1, Relaxed);
            self.notify.say(Notice::SegmentsGone {
                capture: self.name.clone(),
                count: gone,
            });
        }
    }

    fn give(&mut self, opened: Opened, successor: Successor) -> Part {
        let is_cut = Arc::new(AtomicBool::new(false));
        self.current = Some(Current {
            id: opened.id,
            begins: opened.begins,
            is_cut: Arc::clone(&is_cut),
        });
        let name = match opened.path == self.path {
            true => self.name.clone(),
            false => opened.path.display().to_string(),
        };
        let tail = Tail {
            file: opened.file,
            id: opened.id,
            path: self.path.clone(),
            name: name.clone(),
            successor,
            watch: Arc::clone(&self.watch),
            is_cut,
            missed: Arc::clone(&self.missed),
            notify: self.notify.clone(),
        };
        Part {
            name,
            reader: Box::new(tail),
        }
    }

    fn with_watch<T>(&self, what: impl FnOnce(&mut Watch) -> T) -> T {
        what(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which of the closed files comes behind `last`: the next of its run; where there is none, the first of
/// another.
fn next_of(waiting: &VecDeque<Closed>, last: Option<Segment>) -> Option<usize> {
    let behind = |closed: &Closed| {
        let (last, begins) = (last?, closed.begins?);
        (last.run == begins.run && begins.number > last.number).then_some(begins.number)
    };
    let of_run = waiting.iter().enumerate();
    let of_run = of_run.filter_map(|(nth, closed)| Some((behind(closed)?, nth)));
    let first = (!waiting.is_empty()).then_some(0);
    of_run.min().map(|(_, nth)| nth).or(first)
}

impl Files for Following {
    fn next(&mut self, last: Option<Segment>) -> io::Result<Option<Part>> {
        loop {
            if self.is_stopped() {
                return Ok(None);
            }
            if let Some(part) = self.choose(last)? {
                return Ok(Some(part));
            }
            self.with_watch(Watch::wait);
        }
    }

    fn is_stopped(&mut self) -> bool {
        self.with_watch(Watch::is_stopped)
    }
}

/// One file as it grows. It ends when another has its name, or had.
struct Tail {
    file: File,
    id: FileId,
    /// Where its like is written.
    path: PathBuf,
    /// What it is called.
    name: String,
    successor: Successor,
    watch: Arc<Mutex<Watch>>,
    is_cut: Arc<AtomicBool>,
    missed: Arc<AtomicU64>,
    notify: Notify,
}

/// What has the name behind a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Successor {
    Unknown,
    /// It was there, and empty.
    IsMade(FileId),
    /// It was written to, or has been closed: nothing more comes of the file before it.
    HasBegun,
}

impl Tail {
    /// Whether nothing is written to it any more.
    fn is_over(&mut self) -> bool {
        if self.successor == Successor::HasBegun {
            return true;
        }
        let Some(live) = look_at(&self.path) else {
            return false;
        };
        let id = file_id(&live);
        if id == self.id {
            return false;
        }
        let is_another = matches!(self.successor, Successor::IsMade(first) if first != id);
        self.successor = match live.len() > 0 || is_another {
            true => Successor::HasBegun,
            false => Successor::IsMade(id),
        };
        self.successor == Successor::HasBegun
    }

    /// Whether somebody has cut it shorter than what was read of it.
    fn has_been_cut(&mut self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.file.stream_position()?)
    }
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            if watch.is_stopped() {
                return Ok(0);
            }
            let is_told = watch.read_news();
            drop(watch);
            // In this order: what was written before the next file began is found behind that look.
            let is_over = self.is_over();
            let len = self.file.read(buffer)?;
            if len > 0 || is_over {
                return Ok(len);
            }
            if self.has_been_cut()? {
                self.is_cut.store(true, Relaxed);
                self.missed.fetch_add(1, Relaxed);
                self.notify.say(Notice::CaptureCut {
                    capture: self.name.clone(),
                });
                return Ok(0);
            }
            if !is_told {
                let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
                watch.wait();
            }
        }
    }
}
