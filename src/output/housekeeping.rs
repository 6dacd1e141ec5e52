//! What is done with files once they are closed, on a thread of its own: synced, compressed, shown to
//! a command, deleted in the end.
//!
//! A segment is compressed into a file with another name, which is synced and then renamed; only then
//! is the plain one removed. So whatever a crash leaves, the segment is there whole at least once, and
//! what is left half done is told by its name ([`Chores::recover`]).
//!
//! The worker waits for none of it, unless files are closed faster than the disk can sync them.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::compress::{compress, holds_the_same};
use super::disk::{DiskFile, SystemFile, is_out_of_descriptors, rename_new, sync_name};
use super::options::{Compression, Options, Retention};
use super::outlet::can_pass;
use super::queue::Queue;
use super::segment::{SegmentName, SegmentNames, UNFINISHED, with_extension_added};
use crate::notice::{Notice, Notify, Recovered};

/// Closed files that wait to be synced at most: each holds a descriptor.
const WAITING_FILES: usize = 6;

/// Segments that wait for their command at most; beyond that it is not run, and said so.
const WAITING_HOOKS: usize = 4096;

/// The worker's end.
#[derive(Debug, Default)]
pub(super) struct Housekeeper {
    tasks: Option<SyncSender<Task>>,
}

/// What the worker has for it.
#[derive(Debug)]
pub(super) enum Task {
    /// A file that is not written to any more, and not this output's to keep house over.
    Seal {
        file: Box<dyn DiskFile>,
        path: PathBuf,
    },
    /// A closed segment.
    Closed {
        file: Box<dyn DiskFile>,
        path: PathBuf,
    },
    /// Everything before this has been synced: tell so.
    Barrier(SyncSender<()>),
}

impl Housekeeper {
    /// Begins with what an earlier run left half done among the segments that were `found`.
    ///
    /// # Errors
    /// The kernel would not start a thread.
    pub(super) fn start(
        found: Vec<FoundSegment>,
        options: &Options,
        streamed: Option<Compression>,
        queue: Arc<Queue>,
        notify: Notify,
    ) -> io::Result<Self> {
        let (keeper, tasks) = Self::unattended();
        let hooks = match &options.on_rotate {
            Some(command) => Some(Hooks::start(
                command.clone(),
                Arc::clone(&queue),
                notify.clone(),
            )?),
            None => None,
        };
        let chores = Chores {
            tasks,
            // What was compressed as it was written is not compressed again.
            compression: options.compression.filter(|_| streamed.is_none()),
            retention: options.retention,
            hooks,
            kept: VecDeque::new(),
            plain: VecDeque::new(),
            queue,
            notify,
        };
        std::thread::Builder::new()
            .name("housekeeper".to_owned())
            .spawn(move || chores.run(found))?;
        Ok(keeper)
    }

    /// One whose tasks somebody else does.
    pub(super) fn unattended() -> (Self, Receiver<Task>) {
        let (sender, tasks) = sync_channel(WAITING_FILES);
        let keeper = Self {
            tasks: Some(sender),
        };
        (keeper, tasks)
    }

    /// Has a file synced that somebody else moved away.
    pub(super) fn seal(&self, file: Box<dyn DiskFile>, path: PathBuf) {
        // It may be begun again before it is synced.
        file.unlock();
        self.send(Task::Seal { file, path });
    }

    /// Has a closed segment looked after.
    pub(super) fn closed(&self, file: Box<dyn DiskFile>, path: PathBuf) {
        self.send(Task::Closed { file, path });
    }

    /// Waits until every closed file is synced. What else there is to do goes on.
    pub(super) fn finish(&self) {
        let (done, synced) = sync_channel(1);
        self.send(Task::Barrier(done));
        let _ = synced.recv();
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // It ends only after its sender.
            let _ = tasks.send(task);
        }
    }
}

/// The thread's end.
#[derive(Debug)]
struct Chores {
    tasks: Receiver<Task>,
    compression: Option<Compression>,
    retention: Retention,
    hooks: Option<Hooks>,
    /// Closed segments that are there, the oldest first, if they are deleted some day.
    kept: VecDeque<Segment>,
    /// Those that are still to be compressed.
    plain: VecDeque<Plain>,
    queue: Arc<Queue>,
    notify: Notify,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    size: u64,
}

#[derive(Clone, Debug)]
struct Plain {
    path: PathBuf,
    /// An earlier run closed it.
    is_left_over: bool,
    /// The end of the run waits for it.
    is_chore: bool,
}

impl Chores {
    fn run(mut self, found: Vec<FoundSegment>) {
        self.recover(found);
        self.prune();
        self.compress_all();
        while let Ok(task) = self.tasks.recv() {
            self.handle(task);
            self.compress_all();
        }
    }

    fn handle(&mut self, task: Task) {
        match task {
            Task::Seal { file, path } => self.seal(file, &path),
            Task::Closed { file, path } => {
                self.seal(file, &path);
                self.keep(path);
            }
            Task::Barrier(done) => {
                let _ = done.send(());
            }
        }
    }

    /// What came meanwhile.
    fn handle_waiting(&mut self) {
        while let Ok(task) = self.tasks.try_recv() {
            self.handle(task);
        }
    }

    /// Forces a file and its name to the disk, and closes it.
    fn seal(&self, mut file: Box<dyn DiskFile>, path: &Path) {
        if let Err(error) = file.sync().and_then(|()| file.sync_name(path)) {
            self.queue.tear();
            self.notify.say(Notice::SyncFailed {
                path: path.to_owned(),
                error,
            });
        }
        // A command that is being started has a copy of it for a moment, and with that of its lock.
        file.unlock();
    }

    /// A segment has come.
    fn keep(&mut self, path: PathBuf) {
        if self.retention.is_wanted() {
            // The file of a peer can be closed more than once.
            self.kept.retain(|segment| segment.path != path);
            self.kept.push_back(segment(&path));
        }
        self.prune();
        if self.compression.is_some() {
            self.queue.add_chore();
            self.plain.push_back(Plain {
                path,
                is_left_over: false,
                is_chore: true,
            });
        } else if self.is_wanted(&path) {
            self.hook(path);
        }
    }

    fn hook(&self, path: PathBuf) {
        if let Some(hooks) = &self.hooks {
            hooks.run(path);
        }
    }

    // --- retention -------------------------------------------------------------------------------

    /// Deletes what is too much.
    fn prune(&mut self) {
        let sizes = self.kept.iter().map(|segment| segment.size);
        let surplus = self.retention.surplus(sizes);
        for segment in self.kept.drain(..surplus) {
            match fs::remove_file(&segment.path) {
                // Somebody else has taken it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.notify.say(Notice::SegmentTrouble {
                    path: segment.path,
                    action: "delete",
                    error,
                }),
                Ok(()) => {}
            }
        }
    }

    // --- compression -----------------------------------------------------------------------------

    fn compress_all(&mut self) {
        while let Some(plain) = self.plain.front().cloned() {
            if self.is_wanted(&plain.path) {
                match self.compress_one(&plain) {
                    Ok(()) => {}
                    // Somebody else has taken it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let passes = can_pass(&error) || is_out_of_descriptors(&error);
                        self.notify.say(Notice::SegmentTrouble {
                            path: plain.path.clone(),
                            action: "compress",
                            error,
                        });
                        if passes {
                            // With the next segment it is tried again, and the end does not wait.
                            return self.drop_chores();
                        }
                        self.hook(plain.path);
                    }
                }
            }
            self.plain.pop_front();
            if plain.is_chore {
                self.queue.chore_done();
            }
        }
    }

    fn drop_chores(&mut self) {
        for plain in &mut self.plain {
            if std::mem::take(&mut plain.is_chore) {
                self.queue.chore_done();
            }
        }
    }

    /// Whether a segment has not been deleted for its age.
    fn is_wanted(&self, path: &Path) -> bool {
        !self.retention.is_wanted() || self.kept.iter().any(|segment| segment.path == path)
    }

    fn compress_one(&mut self, plain: &Plain) -> io::Result<()> {
        let Some(compression) = self.compression else {
            return Ok(());
        };
        let packed = with_extension_added(&plain.path, compression.extension());
        let unfinished = with_extension_added(&packed, UNFINISHED);
        let locked = match self.compress_to(compression, &plain.path, &unfinished) {
            // It may be too old by now.
            Ok(locked) if self.is_wanted(&plain.path) => locked,
            given_up => {
                let _ = fs::remove_file(&unfinished);
                return given_up.map(drop);
            }
        };
        if let Err(error) = rename_new(&unfinished, &packed) {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        sync_name(&locked, &packed)?;
        fs::remove_file(&plain.path)?;
        let mut kept = self.kept.iter_mut();
        if let Some(kept) = kept.find(|segment| segment.path == plain.path) {
            *kept = segment(&packed);
        }
        if plain.is_left_over {
            self.notify.say(Notice::Recovered {
                path: plain.path.clone(),
                what: Recovered::Uncompressed,
            });
        }
        self.hook(packed);
        Ok(())
    }

    /// Gives the plain file, which is locked against other writers until it is dropped. Meanwhile,
    /// closed files are synced: what keeps the disk busy does not hold up the worker.
    fn compress_to(
        &mut self,
        compression: Compression,
        from: &Path,
        to: &Path,
    ) -> io::Result<File> {
        let mut plain = File::open(from)?;
        // Whoever waits for the file of a connection has it now: then it is not finished after all.
        SystemFile::from(plain.try_clone()?).lock()?;
        let metadata = plain.metadata()?;
        // Only this program ends a name so: it is its own, from before a crash.
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut packed = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(metadata.mode() & 0o777)
            .open(to)?;
        compress(compression, &mut plain, &mut packed, || {
            self.handle_waiting();
        })?;
        // A tool that looks for old files looks at this.
        packed.set_modified(metadata.modified()?)?;
        packed.sync_all()?;
        Ok(plain)
    }

    // --- recovery --------------------------------------------------------------------------------

    /// Finishes, or removes, what an earlier run left half done.
    fn recover(&mut self, mut found: Vec<FoundSegment>) {
        found.sort_by_key(|(name, _)| (name.order.clone(), name.compression.is_some()));
        for (name, path) in &found {
            if name.is_unfinished {
                self.remove_left_over(path, Recovered::Unfinished);
            } else if let Some(compression) = name.compression {
                // The plain form comes before it, if it is there.
                let is_plain = |plain: &Plain| {
                    with_extension_added(&plain.path, compression.extension()) == *path
                };
                let twin = self.plain.iter().position(is_plain);
                if let Some(plain) = twin.and_then(|nth| self.plain.remove(nth)) {
                    self.settle_twins(&plain.path, path, compression);
                } else {
                    self.recall(path);
                }
            } else {
                self.recall(path);
                self.plain.push_back(Plain {
                    path: path.clone(),
                    is_left_over: true,
                    is_chore: true,
                });
            }
        }
        if self.compression.is_none() {
            self.plain.clear();
        }
        for _ in &self.plain {
            self.queue.add_chore();
        }
    }

    fn recall(&mut self, path: &Path) {
        if self.retention.is_wanted() {
            self.kept.push_back(segment(path));
        }
    }

    /// A segment is there plain and compressed: the crash came before the plain one was removed.
    fn settle_twins(&mut self, plain: &Path, packed: &Path, compression: Compression) {
        let mut same = || {
            let packed = File::open(packed)?;
            let mut plain = File::open(plain)?;
            holds_the_same(compression, packed, &mut plain, || self.handle_waiting())
        };
        match same() {
            Ok(true) => {
                self.kept.retain(|segment| segment.path != plain);
                self.recall(packed);
                self.remove_left_over(plain, Recovered::Compressed);
            }
            // Somebody else's, whatever it is called.
            Ok(false) => self.notify.say(Notice::SegmentTrouble {
                path: packed.to_owned(),
                action: "compare",
                error: io::Error::other("it does not hold what its plain form does; both are left"),
            }),
            Err(error) => self.notify.say(Notice::SegmentTrouble {
                path: packed.to_owned(),
                action: "compare",
                error,
            }),
        }
    }

    fn remove_left_over(&self, path: &Path, what: Recovered) {
        self.notify.say(match fs::remove_file(path) {
            Ok(()) => Notice::Recovered {
                path: path.to_owned(),
                what,
            },
            Err(error) => Notice::SegmentTrouble {
                path: path.to_owned(),
                action: "delete",
                error,
            },
        });
    }
}

fn segment(path: &Path) -> Segment {
    Segment {
        size: path.symlink_metadata().map_or(0, |found| found.len()),
        path: path.to_owned(),
    }
}

/// A closed segment that an earlier run left.
pub(super) type FoundSegment = (SegmentName, PathBuf);

/// The closed segments of an output that lie in its folder. To be asked for before it closes one
/// itself.
pub(super) fn find_segments(names: &SegmentNames) -> io::Result<Vec<FoundSegment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(names.folder())? {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if let Some(name) = names.parse(&entry.file_name()).filter(|_| is_file) {
            found.push((name, names.path(&entry.file_name())));
        }
    }
    Ok(found)
}

// --- the command for finished segments -----------------------------------------------------------

/// Runs a command for one segment after the other.
#[derive(Debug)]
struct Hooks {
    segments: SyncSender<PathBuf>,
    queue: Arc<Queue>,
    notify: Notify,
}

impl Hooks {
    fn start(command: String, queue: Arc<Queue>, notify: Notify) -> io::Result<Self> {
        let (segments, waiting) = sync_channel::<PathBuf>(WAITING_HOOKS);
        let hooks = Self {
            segments,
            queue: Arc::clone(&queue),
            notify: notify.clone(),
        };
        std::thread::Builder::new()
            .name("on-rotate".to_owned())
            .spawn(move || {
                for path in waiting {
                    if let Err(error) = run_hook(&command, &path) {
                        notify.say(Notice::HookFailed { path, error });
                    }
                    queue.chore_done();
                }
            })?;
        Ok(hooks)
    }

    fn run(&self, path: PathBuf) {
        self.queue.add_chore();
        if let Err(TrySendError::Full(path) | TrySendError::Disconnected(path)) =
            self.segments.try_send(path)
        {
            self.queue.chore_done();
            let error = format!("not run: {WAITING_HOOKS} others wait");
            self.notify.say(Notice::HookFailed { path, error });
        }
    }
}

/// Runs `command` in a shell, with `path` as one more argument: the shell never reads the path.
fn run_hook(command: &str, path: &Path) -> Result<(), String> {
    let said = |error: io::Error| crate::notice::describe(&error);
    // Standard output may carry a capture.
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(said)?;
    let path = match path.as_os_str().as_bytes().starts_with(b"-") {
        // Nothing that looks like an option.
        true => Path::new(".").join(path),
        false => path.to_owned(),
    };
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{command} \"$@\""))
        .arg("sh")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(stderr)
        // An interrupt from the terminal is meant for the capture.
        .process_group(0)
        .status()
        .map_err(said)?;
    match status.success() {
        true => Ok(()),
        false => Err(status.to_string()),
    }
}
