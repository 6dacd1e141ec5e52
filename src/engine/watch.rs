//! What happens to the files of one name, as the kernel tells it, and the signals that end the waiting for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::output::ClosedSegments;

const FOLDER: Token = Token(0);
const SIGNALS: Token = Token(1);

/// How long to wait at most before the next look: not every file system tells what others do to it.
const LOOK: Duration = Duration::from_secs(1);

/// What is read of the kernel's news by one call, in bytes.
const NEWS: usize = 4096;

/// … and how many of them between two looks at the files.
const NEWS_AT_ONCE: usize = 256;

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
pub(super) struct Watch {
    poll: Poll,
    events: Events,
    /// What happens in the folder, where the kernel tells.
    news: Option<OwnedFd>,
    /// The name that is written under, and those of what was closed.
    name: OsString,
    closed: ClosedSegments,
    signals: Signals,
    is_stopped: bool,
}

impl Watch {
    /// # Errors
    /// The folder of `path` is none, or must not be read.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
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
            name: path.file_name().unwrap_or_default().to_owned(),
            closed: ClosedSegments::of(path),
            signals,
            is_stopped: false,
        })
    }

    /// Whether a signal has asked to stop.
    pub(super) fn is_stopped(&mut self) -> bool {
        self.is_stopped |= self.signals.pending().next().is_some();
        self.is_stopped
    }

    /// Waits until there is news, a signal, or for long enough.
    pub(super) fn wait(&mut self) {
        while !self.is_stopped() && !self.read_news() {
            // It fails only where a signal interrupts it.
            let _ = self.poll.poll(&mut self.events, Some(LOOK));
            if self.events.is_empty() {
                break;
            }
        }
    }

    /// Whether there was news of these files since the last look.
    pub(super) fn read_news(&mut self) -> bool {
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
                let name = OsStr::from_bytes(name.to_bytes());
                name == self.name || self.closed.have(name)
            });
        }
        // Somebody writes faster than that is read: to be looked at, whatever it is.
        true
    }
}
