//! Captures as a round leaves them: all files of an output in their order, read in flat memory, and
//! held to what the format promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use wiretape::input::{Captures, Source};
use wiretape::notice::Notify;
use wiretape::record::{
    Close, CloseReason, Conn, Direction, EndReason, Event, Record, RunId, Start,
};

use crate::bytes::{Follower, Stream};
use crate::crowd::client_of;

/// What was recorded of one direction of a connection.
#[derive(Clone, Debug)]
pub struct Way {
    follower: Follower,
    crc32: Hasher,
    /// Bytes that are there; with a gap not all that were.
    pub len: u64,
    has_ended: bool,
}

/// What was recorded of a connection.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub client: u32,
    pub ways: [Way; 2],
    pub close: Option<Close>,
}

/// What a capture has of a run.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: RunId,
    pub conns: BTreeMap<u64, Recorded>,
    pub is_ended: bool,
    pub records: u64,
    pub segments: u64,
    /// Records that are missing, and their bytes, as the gaps say.
    pub missing: (u64, u64),
    next_seq: u64,
    between_segments: bool,
}

/// All runs of an output, in the order in which they were.
#[derive(Clone, Debug)]
pub struct Capture {
    pub files: Vec<PathBuf>,
    pub runs: Vec<Run>,
    pub torn: u64,
    /// Of all that the clients have sent, in the order of the records.
    pub payload_crc32: u32,
}

/// What a file begins with.
#[derive(Clone, Copy, Debug)]
struct Front {
    run: RunId,
    segment: u64,
    began_us: u64,
}

/// What is in a folder by the stems of the names, in the order of the names: each file once, those left
/// out that were not finished.
pub fn files_by_stem(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let all: BTreeSet<PathBuf> = (entries)
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    let mut by_stem: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in &all {
        // A kill between two steps of compressing a file leaves both of its forms.
        let is_twin = is_packed(path) && all.contains(&path.with_extension(""));
        if is_twin || path.extension().is_some_and(|found| found == "tmp") {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('.').next().unwrap_or_default().to_owned();
        by_stem.entry(stem).or_default().push(path.clone());
    }
    by_stem
}

/// The files of an output whose live one has this name.
pub fn files_of(folder: &Path, live: &str) -> Vec<PathBuf> {
    let (stem, _) = live.split_once('.').expect("it has an extension");
    files_by_stem(folder).remove(stem).unwrap_or_default()
}

pub fn is_packed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|found| found == "zst" || found == "gz")
}

/// The records of one file, to be read one by one; and in the end, how many lines were torn.
fn each_record(path: &Path, mut each: impl FnMut(&Record<'_>) -> bool) -> u64 {
    let unheard = Notify::new(|_| ());
    let source = [Source::File(path.to_owned())];
    let mut captures = Captures::open(&source, &unheard).expect("it can be opened");
    while captures.advance(|| ()).expect("a good capture") {
        if !each(&captures.record().expect("a good record")) {
            break;
        }
    }
    captures.torn()
}

/// The first record, which is a `start`, if the file has come so far.
fn front(path: &Path) -> Option<Front> {
    let mut front = None;
    each_record(path, |record| {
        let Event::Start(start) = &record.event else {
            panic!("{} begins with {record:?}", path.display());
        };
        front = Some(Front {
            run: start.run,
            segment: start.segment,
            began_us: record.time.wall.unix_micros() - record.time.elapsed_us,
        });
        false
    });
    front
}

/// Files in the order in which they were written: a run's by the numbers of its segments.
fn in_order(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let fronts = files.into_iter().map(|path| (front(&path), path));
    let mut fronts: Vec<_> = fronts
        .filter_map(|(front, path)| Some((front?, path)))
        .collect();
    let mut began: BTreeMap<u64, u64> = BTreeMap::new();
    for (front, _) in &fronts {
        let first = began.entry(front.run.0).or_insert(front.began_us);
        *first = (*first).min(front.began_us);
    }
    fronts.sort_by_key(|(front, _)| (began[&front.run.0], front.segment));
    fronts.into_iter().map(|(_, path)| path).collect()
}

impl Capture {
    /// Reads all of an output; `line` is the longest record of a line, where lines are framed.
    pub fn read(seed: u64, files: Vec<PathBuf>, line: Option<usize>) -> Self {
        let mut reading = Reading {
            seed,
            line,
            runs: Vec::new(),
            payload: Hasher::new(),
        };
        let files = in_order(files);
        let mut torn = 0;
        for path in &files {
            torn += each_record(path, |record| {
                reading.take(record);
                true
            });
        }
        Self {
            files,
            runs: reading.runs,
            torn,
            payload_crc32: reading.payload.finalize(),
        }
    }

    /// Segments beyond the first of each run.
    pub fn rotations(&self) -> u64 {
        self.runs.iter().map(|run| run.segments - 1).sum()
    }

    pub fn records(&self) -> u64 {
        self.runs.iter().map(|run| run.records).sum()
    }

    /// Bytes of both directions that are there.
    pub fn bytes(&self) -> u64 {
        let conns = self.runs.iter().flat_map(|run| run.conns.values());
        let ways = conns.flat_map(|recorded| &recorded.ways);
        ways.map(|way| way.len).sum()
    }
}

/// A capture as far as it has been read.
struct Reading {
    seed: u64,
    line: Option<usize>,
    runs: Vec<Run>,
    payload: Hasher,
}

impl Reading {
    fn take(&mut self, record: &Record<'_>) {
        if let Event::Start(start) = &record.event {
            return self.start(start, record.seq);
        }
        let (seed, line) = (self.seed, self.line);
        let run = self.runs.last_mut().expect("a start is the first record");
        assert!(!run.is_ended, "behind the end: {record:?}");
        assert!(!run.between_segments, "between two segments: {record:?}");
        assert_eq!(record.seq, run.next_seq, "a hole before {record:?}");
        match &record.event {
            Event::End { reason } => return run.end(reason),
            Event::Gap { records, bytes, .. } => {
                run.next_seq += records;
                run.missing.0 += records;
                run.missing.1 += bytes;
                return;
            }
            _ => {}
        }
        run.next_seq += 1;
        run.records += 1;
        let conn = record.event.conn().expect("all others are of a connection");
        let is_new = !run.conns.contains_key(&conn.id.0);
        let recorded = run
            .conns
            .entry(conn.id.0)
            .or_insert_with(|| Recorded::new(seed, conn));
        assert_eq!(recorded.client, client_of(&conn.peer));
        assert_eq!(recorded.close, None, "behind the close: {record:?}");
        let has_gap = run.missing.0 > 0;
        match &record.event {
            Event::Open { .. } => assert!(is_new),
            _ => assert!(!is_new || has_gap, "before the open: {record:?}"),
        }
        match &record.event {
            Event::Data {
                direction,
                offset,
                payload,
                partial,
                ..
            } => {
                recorded.data(*direction, *offset, payload, has_gap);
                check_framing(line, payload, *partial);
                if *direction == Direction::In {
                    self.payload.update(payload);
                }
            }
            Event::Eof { direction, .. } => recorded.eof(*direction),
            Event::Close { close, .. } => recorded.close(close, has_gap),
            _ => {}
        }
    }

    fn start(&mut self, start: &Start, seq: u64) {
        match self.runs.last_mut().filter(|run| run.id == start.run) {
            Some(run) => {
                assert!(
                    run.between_segments,
                    "a segment that was not ended: {start:?}"
                );
                assert_eq!((start.segment, seq), (run.segments + 1, run.next_seq));
                run.segments += 1;
                run.between_segments = false;
            }
            None => {
                assert!(
                    self.runs.iter().all(|run| run.id != start.run),
                    "{start:?} comes back"
                );
                assert_eq!((start.segment, seq), (1, 0), "{start:?}");
                self.runs.push(Run::new(start.run));
            }
        }
    }
}

impl Run {
    fn new(id: RunId) -> Self {
        Self {
            id,
            conns: BTreeMap::new(),
            is_ended: false,
            records: 1,
            segments: 1,
            missing: (0, 0),
            next_seq: 1,
            between_segments: false,
        }
    }

    fn end(&mut self, reason: &EndReason) {
        match reason {
            EndReason::Rotated => self.between_segments = true,
            EndReason::Shutdown => {
                self.is_ended = true;
                self.records += 1;
            }
            other => panic!("a segment ends with {other:?}"),
        }
    }
}

impl Recorded {
    fn new(seed: u64, conn: &Conn<'_>) -> Self {
        let client = client_of(&conn.peer);
        let way = |direction| Way {
            follower: Stream::new(seed, client, direction).follow(),
            crc32: Hasher::new(),
            len: 0,
            has_ended: false,
        };
        Self {
            client,
            ways: [way(Direction::In), way(Direction::Out)],
            close: None,
        }
    }

    /// How much of it there was: of a connection that was closed all, else what was seen.
    pub fn lens(&self) -> [u64; 2] {
        match &self.close {
            Some(close) => [close.in_bytes, close.out_bytes],
            None => [0, 1].map(|nth| self.ways[nth].follower.at()),
        }
    }

    fn data(&mut self, direction: Direction, offset: u64, payload: &[u8], has_gap: bool) {
        let way = &mut self.ways[nth(direction)];
        assert!(!way.has_ended, "data behind the eof");
        if has_gap && offset > way.follower.at() {
            way.follower.skip_to(offset);
        }
        assert_eq!(offset, way.follower.at(), "bytes of client {}", self.client);
        way.follower.follow(payload);
        way.crc32.update(payload);
        way.len += payload.len() as u64;
    }

    fn eof(&mut self, direction: Direction) {
        let has_ended = &mut self.ways[nth(direction)].has_ended;
        assert!(!std::mem::replace(has_ended, true), "a second eof");
    }

    fn close(&mut self, close: &Close, has_gap: bool) {
        let totals = [close.in_bytes, close.out_bytes];
        let sums = [Some(close.in_crc32), close.out_crc32];
        for (way, (total, sum)) in self.ways.iter().zip(totals.into_iter().zip(sums)) {
            let sum = sum.unwrap_or_default();
            // Where records are missing, the sum is that of what was sent, which is known, too.
            if has_gap && way.len < total {
                assert_eq!(sum, way.follower.stream().crc32(total));
            } else {
                assert_eq!((total, sum), (way.len, way.crc32.clone().finalize()));
            }
        }
        if close.reason == CloseReason::Eof && !has_gap {
            assert!(
                self.ways[0].has_ended,
                "it closed in good order without an eof"
            );
        }
        self.close = Some(close.clone());
    }
}

fn nth(direction: Direction) -> usize {
    usize::from(direction == Direction::Out)
}

/// A record is a line, or a part of one that says so.
fn check_framing(line: Option<usize>, payload: &[u8], partial: bool) {
    let Some(longest) = line else {
        return assert!(!partial);
    };
    let newline = memchr::memchr(b'\n', payload).map(|at| at + 1);
    assert!(
        newline.is_none_or(|at| at == payload.len()),
        "two lines in a record"
    );
    assert!(
        payload.len() <= longest,
        "{} bytes in a record",
        payload.len()
    );
    assert_eq!(partial, newline.is_none());
}
