//! What outputs ask of a file system, and the one that the machine has.
//!
//! The rotation and its faults are played through on another [`Disk`], in memory, by the simulation
//! in `live`.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use rustix::io::Errno;

use crate::record::time::WallTime;

/// Captures hold what people sent, secrets among it: the owner alone may read them (less umask).
pub const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Where a file of an output lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Location {
    /// The whole path.
    pub(super) path: PathBuf,
    /// How much of it, from its end, is made of values in a template: there no symbolic link is
    /// followed, and folders are made as needed.
    pub(super) made_up: usize,
}

/// A place for files.
pub(super) trait Disk: fmt::Debug + Send {
    /// Opens the regular file at `location` to append to it, or creates it, and locks it against
    /// other writers.
    fn open(&self, location: &Location) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, unless something is called so already
    /// ([`io::ErrorKind::AlreadyExists`]).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Whether something is called so.
    fn exists(&self, path: &Path) -> bool;
}

/// A file that is appended to.
pub(super) trait DiskFile: fmt::Debug + Send {
    /// Appends the first of `bytes`, and says how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until a write would not be told to wait.
    fn wait_writable(&self);

    /// Whether a write that is not long need not wait, as far as can be told beforehand.
    fn is_writable(&self) -> bool;

    /// Forces what was written to the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Forces the name to the disk that it has: `path`.
    fn sync_name(&self, path: &Path) -> io::Result<()>;

    /// Lets other writers have it. Nothing more is written to it.
    fn unlock(&self);

    /// How long it is.
    fn len(&self) -> io::Result<u64>;

    /// Takes away its end.
    fn cut(&mut self, len: u64) -> io::Result<()>;

    /// Whether `path` leads to it.
    fn is_at(&self, path: &Path) -> bool;

    /// Whether no name leads to it any more.
    fn is_deleted(&self) -> bool;

    /// Whether it ends in the middle of a line, as a crash leaves it.
    fn ends_torn(&self) -> bool;

    /// When it was made, as far as that is known.
    fn began(&self) -> Option<WallTime>;
}

/// The machine's own.
#[derive(Debug)]
pub(super) struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, location: &Location) -> io::Result<Box<dyn DiskFile>> {
        // Whoever rotates the same file may have moved it between its opening and its locking.
        for _ in 0..8 {
            let file = open_to_append(location)?;
            file.lock()?;
            if file.is_at(&location.path) {
                return Ok(Box::new(file));
            }
        }
        Err(io::Error::other("it is moved away as soon as it is opened"))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename_new(from, to)
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }
}

fn open_to_append(location: &Location) -> io::Result<SystemFile> {
    let file = if location.made_up > 0 {
        open_made_up(location)?
    } else {
        // What took its place may be a pipe, whose opening would wait for a reader.
        if fs::metadata(&location.path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("no regular file any more"));
        }
        append().create(true).open(&location.path)?
    };
    let file = SystemFile { file };
    match file.id() {
        Some(_) => Ok(file),
        None => Err(io::Error::other("no regular file")),
    }
}

/// How every file is opened. Rust's standard library sets `O_CLOEXEC`.
fn append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(FILE_MODE);
    options
}

/// Walks down the made-up part of a path name by name, so that no link in it leads elsewhere.
fn open_made_up(location: &Location) -> io::Result<File> {
    let names: Vec<_> = location.path.components().collect();
    let (folder, below) = names.split_at(names.len().saturating_sub(location.made_up));
    let folder: PathBuf = match folder {
        [] => ".".into(),
        names => names.iter().collect(),
    };
    make_folder(&folder)?;
    // To go through a folder it need not be read.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, &folder, flags, Mode::empty())?;
    let (Component::Normal(file), folders) = below
        .split_last()
        .map_or((Component::CurDir, &[][..]), |(file, folders)| {
            (*file, folders)
        })
    else {
        return Err(io::Error::other("no file name"));
    };
    for name in folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&folder, name.as_os_str(), flags, Mode::empty());
        folder = match open() {
            Err(Errno::NOENT) => {
                match mkdirat(&folder, name.as_os_str(), Mode::from_raw_mode(FOLDER_MODE)) {
                    // Another output may have made it in between.
                    Ok(()) | Err(Errno::EXIST) => open()?,
                    Err(error) => return Err(error.into()),
                }
            }
            opened => opened?,
        };
    }
    // A pipe that somebody put there would wait for a reader: `NONBLOCK`.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(FILE_MODE);
    Ok(File::from(openat(&folder, file, flags, mode)?))
}

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
}

/// Renames without ever overwriting.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
    }
    // A second name fails where there is one already, as the flag would.
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Nor do some know second names; then only looking first is left.
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Forces the name of `file`, which is `path`, to the disk: all names in its folder.
pub(super) fn sync_name(file: &File, path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match File::open(folder) {
        // It was moved, or it can be written to but not read: nothing to force it by.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        // Peers may have all descriptors. The file has one already.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Err(error) if is_out_of_descriptors(&error) => {
            ignore_unsupported(rustix::fs::syncfs(file).map_err(Into::into))
        }
        folder => ignore_unsupported(folder?.sync_all()),
    }
}

/// Whether nothing more can be opened, by this process or by anybody.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Some file systems and devices have nothing to force.
fn ignore_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::INVAL | Errno::NOTSUP | Errno::ROFS)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// A file of the machine, or a pipe or device that is written to like one.
#[derive(Debug)]
pub(super) struct SystemFile {
    file: File,
}

impl SystemFile {
    /// Opens a path for the first time, whatever it leads to, and says whether that made a file.
    pub(super) fn open_first(path: &Path) -> io::Result<(Self, bool)> {
        let (file, is_new) = match append().create_new(true).open(path) {
            Ok(file) => (file, true),
            // There is one, or a link that leads to where there is none yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (append().create(true).open(path)?, false)
            }
            Err(error) => return Err(error),
        };
        Ok((Self { file }, is_new))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Device and inode of a regular file, by which two names of one are known.
    pub(super) fn id(&self) -> Option<(u64, u64)> {
        let metadata = self.file.metadata().ok()?;
        metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
    }

    /// Keeps other writers that ask out of it, until it is closed.
    pub(super) fn lock(&self) -> io::Result<()> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(io::Error::other("another process is writing to it")),
            // A file system without locks is no reason not to write.
            _ => Ok(()),
        }
    }
}

impl From<File> for SystemFile {
    fn from(file: File) -> Self {
        Self { file }
    }
}

impl From<OwnedFd> for SystemFile {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }
}

impl DiskFile for SystemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn wait_writable(&self) {
        // Whatever it returns, the write that follows tells.
        let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
    }

    fn is_writable(&self) -> bool {
        let mut files = [PollFd::new(&self.file, PollFlags::OUT)];
        poll(&mut files, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn sync(&mut self) -> io::Result<()> {
        ignore_unsupported(self.file.sync_data())
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        sync_name(&self.file, path)
    }

    fn unlock(&self) {
        // Where that fails, its closing does it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn is_at(&self, path: &Path) -> bool {
        let there = fs::metadata(path).map(|there| (there.dev(), there.ino()));
        self.id() == there.ok()
    }

    fn is_deleted(&self) -> bool {
        (self.file.metadata()).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 0)
    }

    fn ends_torn(&self) -> bool {
        let last_byte = || {
            // It is open for writing only. This path leads to it whatever it was opened by.
            let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
            let len = file.metadata()?.len();
            let mut last = [b'\n'];
            if len > 0 {
                file.read_exact_at(&mut last, len - 1)?;
            }
            io::Result::Ok(last[0])
        };
        // A pipe must not be opened: a second reader would take what is meant for the first.
        self.id().is_some() && last_byte().is_ok_and(|byte| byte != b'\n')
    }

    fn began(&self) -> Option<WallTime> {
        let metadata = self.file.metadata().ok()?;
        let began = metadata.created().or_else(|_| metadata.modified());
        Some(began.ok()?.into())
    }
}
