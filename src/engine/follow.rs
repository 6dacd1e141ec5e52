//! A capture that is still being written: read to its end, waited for, and followed from one file to the
//! next however it is rotated.
//!
//! Who writes renames the file, makes a new one under the old name, writes what is left into the old one,
//! and only then begins the new one. So a file has been read to its end when its name leads to another one
//! that is not empty, or when that one has been closed as well, and nothing more is found behind that look. wiretape counts the files that it closes,
//! in their names, so that of several that were closed between two looks none is passed over.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::input::Body;
use crate::notice::{Notice, Notify};
use crate::output::closed_segments;

const FOLDER: Token = Token(0);
const SIGNALS: Token = Token(1);

/// How long to wait at most before the next look: not every file system tells what others do to it.
const LOOK: Duration = Duration::from_secs(1);

/// What is read of the kernel's news by one call, in bytes.
const NEWS: usize = 4096;

/// … and how many of them between two looks at the files.
const NEWS_AT_ONCE: usize = 256;

/// The bytes of a capture as it grows, decompressed, from one file to the next. They end when a signal asks
/// for it.
pub(super) struct Following {
    path: PathBuf,
    watch: Arc<Mutex<Watch>>,
    current: Option<Current>,
    /// Number of the file that was closed last of those that were read, or were there at the beginning.
    last: u64,
    /// Those behind it that were found closed, the next one first: a folder is not listed for each.
    waiting: VecDeque<(u64, PathBuf)>,
    missed: Arc<AtomicU64>,
    notify: Notify,
}

/// The file at hand.
struct Current {
    body: Body,
    id: FileId,
    /// The number that it was closed by, if it was when it was opened.
    number: Option<u64>,
}

/// Device and inode.
type FileId = (u64, u64);

type Opened = (File, FileId);

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

fn is_file(path: &Path, id: FileId) -> bool {
    fs::metadata(path).is_ok_and(|found| file_id(&found) == id)
}

/// The file at `path`, if there is one.
fn open(path: &Path) -> io::Result<Option<Opened>> {
    match File::open(path).and_then(|file| Ok((file_id(&file.metadata()?), file))) {
        Ok((id, file)) => Ok(Some((file, id))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Following {
    /// Follows the file at `path`, which may be still to come, behind those of its closed files that were
    /// `read` before. Counts in `missed` the files that were deleted before they were read.
    ///
    /// # Errors
    /// Its folder cannot be read, or is none.
    pub(super) fn new(
        path: &Path,
        read: &[PathBuf],
        missed: Arc<AtomicU64>,
        notify: Notify,
    ) -> io::Result<Self> {
        // Where it is a link, the files beside what it leads to are its own.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let watch = Watch::new(&path)?;
        let closed = closed_segments(&path)?;
        let read: Vec<FileId> = (read.iter())
            .filter_map(|path| fs::metadata(path).ok())
            .map(|found| file_id(&found))
            .collect();
        let was_read = |path: &Path| read.iter().any(|&id| is_file(path, id));
        // What was closed before is not waited for, unless it is of a row that was begun to be read: the
        // reading may take long, and the row grows meanwhile.
        let last = (closed.iter().rev())
            .find(|(_, path)| was_read(path))
            .or(closed.last());
        Ok(Self {
            last: last.map_or(0, |(number, _)| *number),
            watch: Arc::new(Mutex::new(watch)),
            path,
            current: None,
            waiting: VecDeque::new(),
            missed,
            notify,
        })
    }

    /// Opens what is to be read next; waits until it is there. `None` when it was told to stop.
    fn open_next(&mut self) -> io::Result<Option<Current>> {
        loop {
            if self.with_watch(Watch::is_stopped) {
                return Ok(None);
            }
            if self.waiting.is_empty() {
                self.waiting = self.closed()?.into();
            }
            let next = match self.waiting.pop_front() {
                Some((number, path)) => open(&path)?.map(|file| (file, Some(number))),
                None => match self.open_live()? {
                    None => {
                        self.with_watch(Watch::wait);
                        continue;
                    }
                    live => live,
                },
            };
            let Some(((file, id), number)) = next else {
                // What was found is compressed by now, or gone.
                self.waiting.clear();
                continue;
            };
            if let Some(number) = number {
                self.pass(number);
            }
            let tail = Tail {
                file,
                id,
                path: self.path.clone(),
                successor: match self.waiting.is_empty() {
                    true => Successor::Unknown,
                    false => Successor::HasBegun,
                },
                watch: Arc::clone(&self.watch),
            };
            let body = Body::new(Box::new(tail))?;
            return Ok(Some(Current { body, id, number }));
        }
    }

    /// The file under its own name, unless others were closed before it was opened; and its number, if it
    /// has been closed itself since.
    fn open_live(&mut self) -> io::Result<Option<(Opened, Option<u64>)>> {
        let Some(live) = open(&self.path)? else {
            return Ok(None);
        };
        Ok(match self.closed()?.first() {
            None => Some((live, None)),
            Some((number, path)) if is_file(path, live.1) => Some((live, Some(*number))),
            Some(_) => None,
        })
    }

    /// The files that were closed and have not been read, in their order.
    fn closed(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut closed = closed_segments(&self.path)?;
        closed.retain(|(number, _)| *number > self.last);
        Ok(closed)
    }

    /// The file under the name has been read to its end. By which number it was closed, if by one, is
    /// found here.
    fn leave_live(&mut self, id: FileId) -> io::Result<()> {
        let closed = self.closed()?;
        let Some((first, _)) = closed.first() else {
            return Ok(());
        };
        let found = closed.iter().find(|(_, path)| is_file(path, id));
        // Compressed it is another file, and it may be deleted by now; but its number was the next, unless
        // none was known before.
        self.last = match (found, self.last) {
            (Some((number, _)), _) => *number,
            (None, 0) => *first,
            (None, _) => self.next_number(),
        };
        Ok(())
    }

    fn next_number(&self) -> u64 {
        self.last + 1
    }

    /// The file of this number is at hand; those before it are gone.
    fn pass(&mut self, number: u64) {
        let gone = number - self.next_number().min(number);
        if gone > 0 {
            self.missed.fetch_add(gone, Relaxed);
            self.notify.say(Notice::SegmentsGone {
                path: self.path.clone(),
                count: gone,
            });
        }
        self.last = number;
    }

    fn with_watch<T>(&self, what: impl FnOnce(&mut Watch) -> T) -> T {
        what(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.current.is_none() {
                self.current = self.open_next()?;
            }
            let Some(current) = &mut self.current else {
                return Ok(0);
            };
            let len = current.body.read(buffer)?;
            if len > 0 {
                return Ok(len);
            }
            let live = current.number.is_none().then_some(current.id);
            self.current = None;
            match live {
                Some(id) if !self.with_watch(Watch::is_stopped) => self.leave_live(id)?,
                _ => {}
            }
        }
    }
}

/// One file as it grows. It ends when another has its name, or had.
struct Tail {
    file: File,
    id: FileId,
    /// Where its like is written.
    path: PathBuf,
    successor: Successor,
    watch: Arc<Mutex<Watch>>,
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
        let Ok(live) = fs::metadata(&self.path) else {
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
    fn is_cut(&mut self) -> io::Result<bool> {
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
            if self.is_cut()? {
                self.file.rewind()?;
            } else if !is_told {
                let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
                watch.wait();
            }
        }
    }
}

/// Has the kernel tell what happens to the files in a folder.
fn watch_folder(folder: &Path) -> Result<OwnedFd, Errno> {
    let news = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let what = WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&news, folder, what)?;
    Ok(news)
}

/// Waits until something has happened to the files of one name.
struct Watch {
    poll: Poll,
    events: Events,
    /// What happens in the folder, where the kernel tells.
    news: Option<OwnedFd>,
    /// How the names begin that matter.
    stem: OsString,
    signals: Signals,
    is_stopped: bool,
}

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let news = match watch_folder(folder) {
            Ok(news) => Some(news),
            Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => return Err(error.into()),
            // Others watch as much as the kernel allows: it is looked at once in a while.
            Err(_) => None,
        };
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let poll = Poll::new()?;
        if let Some(news) = &news {
            let mut news = SourceFd(&news.as_raw_fd());
            (poll.registry()).register(&mut news, FOLDER, Interest::READABLE)?;
        }
        (poll.registry()).register(&mut signals, SIGNALS, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(2),
            news,
            stem: path.file_stem().unwrap_or_default().to_owned(),
            signals,
            is_stopped: false,
        })
    }

    fn is_stopped(&mut self) -> bool {
        self.is_stopped |= self.signals.pending().next().is_some();
        self.is_stopped
    }

    /// Waits until there is news, a signal, or for long enough.
    fn wait(&mut self) {
        while !self.is_stopped() && !self.read_news() {
            // It fails only where a signal interrupts it.
            let _ = self.poll.poll(&mut self.events, Some(LOOK));
            if self.events.is_empty() {
                break;
            }
        }
    }

    /// Whether there was news of these files since the last look.
    fn read_news(&mut self) -> bool {
        let Some(news) = &self.news else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); NEWS];
        let mut news = inotify::Reader::new(news, &mut buffer);
        let mut is_any = false;
        for _ in 0..NEWS_AT_ONCE {
            // There being none at the moment is an error, too.
            let Ok(event) = news.next() else {
                return is_any;
            };
            is_any |= event.file_name().is_none_or(|name| {
                let name = name.to_bytes();
                name.starts_with(OsStr::as_encoded_bytes(&self.stem))
            });
        }
        // Somebody writes faster than that is read: to be looked at, whatever it is.
        true
    }
}
