//! Files, their rotation and its faults in simulation: a seed chooses records, limits, and which
//! calls to the disk fail and how; what lies on the disk afterwards is joined and must be what was
//! recorded, each record once, in order.
//!
//! `WIRETAPE_SIM_SEEDS=N` walks as many seeds as wanted; a failing one is printed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;

use super::compress::unpack;
use super::disk::{Disk, DiskFile, Location};
use super::housekeeping::{Housekeeper, Task};
use super::live::{END_SIZE, LiveFile, Moment};
use super::options::{Compression, Options, Rotation, SyncPolicy};
use super::outlet::{Outlet, Scribe};
use super::queue::{Job, Queue};
use crate::codec::ndjson::Reader;
use crate::codec::{Audience, Encoder, Format};
use crate::notice::{Notice, Notify};
use crate::record::chunk::Chunk;
use crate::record::doorbell::Doorbell;
use crate::record::framing::Framing;
use crate::record::time::{Clock, WallTime, micros};
use crate::record::{Conn, ConnId, Direction, EndReason, Event, Record, RunId, Start, Timestamp};

const SEEDS: u64 = 600;

/// A disk in memory, whose calls fail as a seed has it.
#[derive(Clone, Debug)]
struct MemoryDisk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    names: BTreeMap<PathBuf, usize>,
    /// In the order in which they were made.
    files: Vec<Vec<u8>>,
    random: fastrand::Rng,
    /// One call in so many fails; none at 0.
    trouble: u32,
    /// While this is above zero, every write finds the disk full.
    full_for: u32,
    /// Where an administrator asks for a new file.
    queue: Option<Arc<Queue>>,
    moved: usize,
    is_compressed: bool,
    seen: Coverage,
}

/// What the seeds came to. A simulation that never gets there proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    rotations: u64,
    failed_renames: u64,
    failed_opens: u64,
    failed_writes: u64,
    torn_writes: u64,
    failed_syncs: u64,
    failed_cuts: u64,
    full: u64,
    moved_when_full: u64,
    moved: u64,
    escapes: u64,
}

impl Platter {
    fn fails(&mut self) -> bool {
        self.trouble > 0 && self.random.u32(0..self.trouble) == 0
    }

    fn error(&mut self) -> io::Error {
        let errno = self.random.choice([Errno::IO, Errno::ACCESS, Errno::NOSPC]);
        errno.unwrap_or(Errno::IO).into()
    }

    /// Somebody moves the live file away and asks for a new one.
    fn move_away(&mut self) {
        let Some(file) = self.names.remove(Path::new("a.ext")) else {
            return;
        };
        self.moved += 1;
        self.seen.moved += 1;
        self.names
            .insert(format!("moved.{}", self.moved).into(), file);
        if let Some(queue) = &self.queue {
            queue.push(Job::Reopen(Timestamp::default()));
        }
    }
}

impl MemoryDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Disk for MemoryDisk {
    fn open(&self, location: &Location) -> io::Result<Box<dyn DiskFile>> {
        let mut platter = self.platter();
        if platter.fails() {
            platter.seen.failed_opens += 1;
            return Err(platter.error());
        }
        let next = platter.files.len();
        let number = *platter.names.entry(location.path.clone()).or_insert(next);
        if number == next {
            platter.files.push(Vec::new());
        }
        Ok(Box::new(MemoryFile {
            number,
            disk: self.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut platter = self.platter();
        if platter.fails() {
            platter.seen.failed_renames += 1;
            return Err(platter.error());
        }
        assert!(!platter.names.contains_key(to), "{to:?} is overwritten");
        let number = platter.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.names.insert(to.to_owned(), number);
        platter.seen.rotations += 1;
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.platter().names.contains_key(path)
    }
}

#[derive(Debug)]
struct MemoryFile {
    number: usize,
    disk: MemoryDisk,
}

impl DiskFile for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut platter = self.disk.platter();
        if platter.full_for > 0 {
            platter.full_for -= 1;
            platter.seen.full += 1;
            if platter.random.u8(0..8) == 0 {
                platter.seen.moved_when_full += 1;
                platter.move_away();
            }
            return Err(Errno::NOSPC.into());
        }
        if platter.fails() {
            platter.seen.failed_writes += 1;
            let errno = platter.random.choice([Errno::IO, Errno::IO, Errno::INTR]);
            if platter.random.bool() {
                platter.full_for = platter.random.u32(0..20);
            }
            return Err(errno.unwrap_or(Errno::IO).into());
        }
        let mut len = bytes.len();
        if platter.trouble > 0 && platter.random.u8(0..4) == 0 {
            len = platter.random.usize(1..=len);
            platter.seen.torn_writes += 1;
        }
        platter.files[self.number].extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn wait_writable(&self) {}

    fn is_writable(&self) -> bool {
        true
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.disk.platter();
        if platter.fails() {
            platter.seen.failed_syncs += 1;
            return Err(Errno::IO.into());
        }
        Ok(())
    }

    fn sync_name(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) {}

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.platter().files[self.number].len() as u64)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut platter = self.disk.platter();
        // Of a compressed file it cannot be told which records are in a part that was not cut off: then
        // some are there twice.
        if !platter.is_compressed && platter.fails() {
            platter.seen.failed_cuts += 1;
            return Err(Errno::IO.into());
        }
        platter.files[self.number].truncate(len as usize);
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.disk.platter().names.get(path) == Some(&self.number)
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn ends_torn(&self) -> bool {
        let last = self.disk.platter().files[self.number].last().copied();
        last.is_some_and(|byte| byte != b'\n')
    }

    fn began(&self) -> Option<WallTime> {
        None
    }
}

/// Goes on by itself, now and then by a lot.
#[derive(Debug)]
struct SimClock(Mutex<(Timestamp, fastrand::Rng)>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let (now, random) = &mut *self.0.lock().expect("nobody panics with it");
        let step = match random.u8(0..10) {
            0 => random.u64(0..3_000_000),
            _ => random.u64(0..2_000),
        };
        now.elapsed_us += step;
        let wall = now.wall.unix_micros() + step;
        // The wall clock is set now and then.
        let wall = match random.u8(0..200) {
            0 => wall.saturating_sub(random.u64(0..10_000_000_000)),
            _ => wall,
        };
        now.wall = WallTime::from_unix_micros(wall);
        *now
    }
}

struct World {
    disk: MemoryDisk,
    outlet: Outlet,
    live: LiveFile,
    random: fastrand::Rng,
    format: Format,
    next_seq: u64,
    offset: u64,
    sent: Vec<u8>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let trouble = random.choice([0, 3, 10, 40]).unwrap_or(0);
        let format = random.choice([Format::Json, Format::Json, Format::Raw(Direction::In)]);
        let format = format.unwrap_or(Format::Json);
        let compression = match random.u8(0..4) {
            0 => Some(Compression::Zstd),
            1 => Some(Compression::Gzip),
            _ => None,
        };
        let queue = Arc::new(Queue::new(None, Arc::new(Doorbell::new(|| {}))));
        let disk = MemoryDisk(Arc::new(Mutex::new(Platter {
            names: BTreeMap::new(),
            files: Vec::new(),
            random: random.fork(),
            trouble,
            full_for: 0,
            queue: Some(Arc::clone(&queue)),
            moved: 0,
            is_compressed: compression.is_some(),
            seen: Coverage::default(),
        })));
        let options = Options {
            rotation: Rotation {
                size: random.bool().then(|| random.u64(600..20_000)),
                every: random
                    .bool()
                    .then(|| Duration::from_millis(random.u64(1..5_000))),
            },
            sync: match random.u8(0..3) {
                0 => SyncPolicy::Always,
                1 => SyncPolicy::Every(Duration::from_millis(random.u64(0..50))),
                _ => SyncPolicy::Seal,
            },
            ..Options::default()
        };
        let (housekeeper, tasks) = Housekeeper::unattended();
        std::thread::spawn(move || {
            for task in tasks {
                if let Task::Barrier(done) = task {
                    let _ = done.send(());
                }
            }
        });
        let start = Arc::new(start());
        let now = Timestamp {
            wall: WallTime::from_unix_micros(1_795_348_979_907_656),
            elapsed_us: 0,
        };
        let seen = disk.clone();
        let mut outlet = Outlet {
            name: "a.ext".to_owned(),
            options,
            compression,
            scribe: Scribe::new(Encoder::new(format, Audience::Program), start, 1),
            disk: Box::new(disk.clone()),
            housekeeper,
            queue,
            clock: Arc::new(SimClock(Mutex::new((now, random.fork())))),
            notify: Notify::new(move |notice| {
                if let Notice::SegmentFailed { .. } = notice {
                    seen.platter().seen.escapes += 1;
                }
            }),
            retry: Duration::ZERO,
            next_number: 1,
        };
        let location = Location {
            path: "a.ext".into(),
            made_up: 0,
        };
        let sink = loop {
            if let Ok(sink) = outlet.open(&location) {
                break sink;
            }
        };
        let live = LiveFile::new(location, sink, None, &mut outlet);
        Self {
            disk,
            outlet,
            live,
            random,
            format,
            next_seq: 0,
            offset: 0,
            sent: Vec::new(),
        }
    }

    fn run(mut self) -> Coverage {
        self.record(Event::Start(Cow::Owned(start())));
        for _ in 0..self.random.usize(10..200) {
            match self.random.u8(0..20) {
                0 => self.live.flush(&mut self.outlet),
                1 => {
                    self.live.flush(&mut self.outlet);
                    let at = self.moment();
                    self.live.expire(at, &mut self.outlet);
                }
                2 => {
                    let mut platter = self.disk.platter();
                    platter.move_away();
                }
                _ => self.send(),
            }
            while let Some(job) = self.outlet.queue.pop() {
                if let Job::Reopen(_) = job {
                    let at = self.moment();
                    self.live.reopen(at, &mut self.outlet);
                }
            }
        }
        let reason = EndReason::Shutdown;
        self.record(Event::End { reason });
        let (live, mut outlet) = (self.live, self.outlet);
        let _ = live.finish(None, &mut outlet);
        outlet.housekeeper.finish();
        let platter = self.disk.platter();
        check(
            &platter,
            self.format,
            outlet.compression,
            &self.sent,
            self.next_seq,
        );
        if self.format == Format::Json && outlet.compression.is_none() && platter.trouble == 0 {
            for file in &platter.files {
                check_limits(file, &outlet.options.rotation);
            }
        }
        platter.seen
    }

    fn moment(&self) -> Moment {
        Moment {
            time: self.outlet.now(),
            seq: self.outlet.scribe.next_seq(),
        }
    }

    /// One record, or as many as the bytes of one read have lines.
    fn send(&mut self) {
        let len = match self.random.u8(0..30) {
            0 => self.random.usize(1..60_000),
            _ => self.random.usize(1..700),
        };
        let mut bytes: Vec<u8> = (0..len).map(|_| self.random.alphanumeric() as u8).collect();
        let conn = Conn {
            id: ConnId(1),
            peer: "192.0.2.9:50122".into(),
        };
        let offset = self.offset;
        self.offset += len as u64;
        if self.random.bool() {
            self.sent.extend_from_slice(&bytes);
            return self.record(Event::Data {
                conn,
                direction: Direction::In,
                offset,
                payload: bytes.into(),
                partial: false,
            });
        }
        for _ in 0..len / 50 {
            bytes[self.random.usize(0..len)] = b'\n';
        }
        self.sent.extend_from_slice(&bytes);
        let framing = Framing::Line {
            max: self.random.usize(20..2_000),
        };
        let mut chunk = Chunk {
            time: self.outlet.now(),
            conn,
            direction: Direction::In,
            next_seq: self.next_seq,
            next_offset: offset,
            pieces: framing.split(&bytes),
        };
        self.live.chunk(&mut chunk, &mut self.outlet);
        self.next_seq = chunk.next_seq;
    }

    fn record(&mut self, event: Event<'_>) {
        let record = Record {
            time: self.outlet.now(),
            seq: self.next_seq,
            event,
        };
        self.next_seq += 1;
        self.live.record(&record, &mut self.outlet);
    }
}

fn start() -> Start {
    Start {
        run: RunId(7),
        mode: "listen".to_owned(),
        listen: Vec::new(),
        connect: Vec::new(),
        tool: "wiretape".to_owned(),
        segment: 1,
        conn: None,
        part: false,
    }
}

/// What lies on the disk is what was sent.
fn check(
    platter: &Platter,
    format: Format,
    compression: Option<Compression>,
    sent: &[u8],
    records: u64,
) {
    let plain: Vec<Vec<u8>> = match compression {
        None => platter.files.clone(),
        Some(compression) => {
            let unpacked = platter.files.iter().map(|file| unpack(compression, file));
            unpacked.collect()
        }
    };
    let closed: Vec<&PathBuf> = {
        let mut closed: Vec<_> = platter.names.iter().collect();
        closed.retain(|(path, _)| path.to_string_lossy().starts_with("a.2"));
        let by_name: Vec<_> = closed.iter().map(|(_, number)| **number).collect();
        assert!(
            by_name.is_sorted(),
            "names do not sort: {:?}",
            platter.names
        );
        closed.into_iter().map(|(path, _)| path).collect()
    };
    let live = usize::from(platter.names.contains_key(Path::new("a.ext")));
    assert_eq!(closed.len() + platter.moved + live, platter.names.len());
    if format == Format::Raw(Direction::In) {
        assert_eq!(plain.concat(), sent);
        return;
    }
    let (mut seq, mut bytes, mut segment) = (0, Vec::new(), 0);
    for (nth, content) in plain.iter().enumerate() {
        // A file that was made and at once moved away.
        if content.is_empty() {
            continue;
        }
        // What could not be cut off is torn, even if only its newline is missing.
        let whole = content.iter().rposition(|&byte| byte == b'\n');
        let whole = whole.map_or(0, |last| last + 1);
        let mut reader = Reader::new(nth.to_string(), &content[..whole]);
        let mut is_first = true;
        while let Some(record) = reader.next_record().expect("a good capture") {
            match &record.event {
                Event::Start(start) => {
                    assert!(is_first, "a start within a segment");
                    assert_eq!(record.seq, seq, "start of {nth}");
                    // A file that was given up before it took its `start` leaves a hole.
                    assert!(start.segment > segment);
                    segment = start.segment;
                    seq += u64::from(segment == 1);
                }
                Event::End { reason } => {
                    assert_eq!(record.seq, seq, "end of {nth}");
                    seq += u64::from(*reason == EndReason::Shutdown);
                }
                Event::Data {
                    payload, offset, ..
                } => {
                    assert!(!is_first, "no start in {nth}");
                    assert_eq!((record.seq, *offset), (seq, bytes.len() as u64));
                    bytes.extend_from_slice(payload);
                    seq += 1;
                }
                other => panic!("{other:?}"),
            }
            is_first = false;
        }
    }
    assert_eq!((seq, bytes == sent), (records, true));
}

/// No file has more than it may have, nor for longer, but for one that has a single record.
fn check_limits(file: &[u8], rotation: &Rotation) {
    let mut reader = Reader::new("file", file);
    let mut times = Vec::new();
    while let Some(record) = reader.next_record().expect("a good capture") {
        if let Event::Data { .. } = record.event {
            times.push(record.time.elapsed_us);
        }
    }
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return;
    };
    if let Some(every) = rotation.every {
        assert!(*last < first + micros(every) || times.len() == 1);
    }
    let end = memchr::memmem::rfind(file, b"{\"type\":\"end\"");
    if let Some(size) = rotation.size {
        let len = end.unwrap_or(file.len()) as u64;
        assert!(
            len <= size - END_SIZE || times.len() == 1,
            "{len} of {size}"
        );
    }
}

#[test]
fn whatever_the_disk_does_every_record_is_in_one_file_once() {
    let seeds = std::env::var("WIRETAPE_SIM_SEEDS");
    let seeds = seeds.map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut all = Coverage::default();
    let one = std::env::var("WIRETAPE_SIM_SEED").map(|text| text.parse().expect("a number"));
    let seeds = one.map_or(0..seeds, |seed: u64| seed..seed + 1);
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        let seen = run.unwrap_or_else(|_| panic!("seed {seed}"));
        all.rotations += seen.rotations;
        all.failed_renames += seen.failed_renames;
        all.failed_opens += seen.failed_opens;
        all.failed_writes += seen.failed_writes;
        all.torn_writes += seen.torn_writes;
        all.failed_syncs += seen.failed_syncs;
        all.failed_cuts += seen.failed_cuts;
        all.full += seen.full;
        all.moved_when_full += seen.moved_when_full;
        all.moved += seen.moved;
        all.escapes += seen.escapes;
    }
    let each = [
        all.rotations,
        all.failed_renames,
        all.failed_opens,
        all.failed_writes,
        all.torn_writes,
        all.failed_syncs,
        all.failed_cuts,
        all.full,
        all.moved_when_full,
        all.moved,
        all.escapes,
    ];
    if seeds.end - seeds.start >= SEEDS {
        assert!(each.iter().all(|&count| count > 5), "{all:?}");
    }
}
