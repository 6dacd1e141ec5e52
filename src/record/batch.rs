//! The one memory concept: a [`Batch`] is an arena of payload bytes and the heads of the records
//! that point into it, and a [`BatchPool`] bounds all of them together.
//!
//! The loop reads sockets straight into a batch's arena, so a chunk costs no allocation and no copy.
//! A full batch is [sealed](Batch::seal) and shared by all outputs; when the last of them drops it,
//! its memory goes back and the [`Doorbell`] rings. Where the pool has nothing to give, the loop
//! stops reading and TCP holds the senders: backpressure is not beside the buffer, it is the buffer.

use std::borrow::Cow;
use std::mem::{self, size_of};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chunk::Chunk;
use super::doorbell::Doorbell;
use super::framing::Framing;
use super::{Close, Conn, Direction, EndReason, Endpoints, Event, Record, Start, Timestamp};

/// Bytes of a batch's arena where nothing calls for more: four reads of 64 KiB, and a file write large
/// enough that its system call does not show.
pub const ARENA_SIZE: usize = 256 * 1024;

/// Heads in a batch at most, so that peers who send a byte at a time fill it too.
pub const MAX_HEADS: usize = 2048;

/// What a head can cost at most: itself, a boxed [`Close`], its connection's entry.
const HEAD_COST: usize = size_of::<Head>() + size_of::<Close>() + size_of::<Arc<Endpoints>>();

/// What a small sealed batch costs beside its contents: itself behind an `Arc`, a place in the
/// queues, and what the allocator adds to four small blocks of memory.
const SEALED_COST: usize = size_of::<Batch>() + 160;

/// Where a connection stands in a batch's table; see [`Batch::intern`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnIndex(u32);

/// A record in a batch. Its number follows from its place.
#[derive(Debug)]
struct Head {
    time: Timestamp,
    conn: ConnIndex,
    kind: HeadKind,
}

#[derive(Debug)]
enum HeadKind {
    Start(Box<Start>),
    Open,
    /// One or more records, as the framing splits the bytes.
    Data {
        direction: Direction,
        start: u32,
        len: u32,
        records: u32,
        offset: u64,
    },
    Eof(Direction),
    Close(Box<Close>),
    End(EndReason),
}

impl HeadKind {
    fn records(&self) -> u64 {
        match *self {
            Self::Data { records, .. } => records.into(),
            _ => 1,
        }
    }
}

/// What a batch owns. Kept and used again, so that the arena stays warm.
#[derive(Debug, Default)]
struct Storage {
    arena: Vec<u8>,
    heads: Vec<Head>,
    conns: Vec<Arc<Endpoints>>,
}

impl Storage {
    fn size(&self) -> usize {
        self.arena.capacity()
            + self.heads.capacity() * size_of::<Head>()
            + self.conns.capacity() * size_of::<Arc<Endpoints>>()
    }
}

/// Payload bytes and the records that point into them. Written by one thread, then sealed and read
/// by many.
#[derive(Debug)]
pub struct Batch {
    storage: Storage,
    used: usize,
    first_seq: u64,
    records: u64,
    closes: usize,
    charge: usize,
    pool: Arc<Shared>,
}

impl Batch {
    /// Numbers the records: the first that is pushed is record `seq` of the run.
    pub fn start_at(&mut self, seq: u64) {
        debug_assert!(self.is_empty());
        self.first_seq = seq;
    }

    /// No record is in it.
    pub fn is_empty(&self) -> bool {
        self.storage.heads.is_empty()
    }

    /// Records in it.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Number in the run of its first record.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Number in the run of the record behind its last.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.records
    }

    /// Payload bytes in its arena, up to where the next chunk goes.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes that it takes of its pool.
    pub fn charge(&self) -> usize {
        self.charge
    }

    /// When its first record was seen, if it has one.
    pub fn time(&self) -> Option<Timestamp> {
        self.storage.heads.first().map(|head| head.time)
    }

    /// How many more heads it takes.
    pub fn spare_heads(&self) -> usize {
        MAX_HEADS - self.storage.heads.len()
    }

    /// The rest of the arena. Bytes are read to its front, then made records by [`Batch::push_data`].
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.storage.arena[self.used..]
    }

    /// How long [`Batch::spare`] is.
    pub fn spare_len(&self) -> usize {
        self.storage.arena.len() - self.used
    }

    /// Gives a connection a place in this batch's table, so that a head names it in four bytes and
    /// sharing it costs one count a batch, not one a record.
    pub fn intern(&mut self, endpoints: &Arc<Endpoints>) -> ConnIndex {
        let index = ConnIndex(self.storage.conns.len() as u32);
        self.storage.conns.push(Arc::clone(endpoints));
        index
    }

    /// Adds the `start` record.
    pub fn push_start(&mut self, time: Timestamp, start: Start) {
        self.push(time, ConnIndex::default(), HeadKind::Start(Box::new(start)));
    }

    /// Adds an `open` record.
    pub fn push_open(&mut self, time: Timestamp, conn: ConnIndex) {
        self.push(time, conn, HeadKind::Open);
    }

    /// Makes the first `len` bytes of [`Batch::spare`] into records, and says how many they are. `look` is
    /// shown them, in parts.
    pub fn push_data(
        &mut self,
        time: Timestamp,
        conn: ConnIndex,
        direction: Direction,
        offset: u64,
        len: usize,
        look: impl FnMut(&[u8]),
    ) -> u64 {
        let bytes = &self.storage.arena[self.used..self.used + len];
        let records = self.pool.framing.count(bytes, look) as u32;
        let data = HeadKind::Data {
            direction,
            start: self.used as u32,
            len: len as u32,
            records,
            offset,
        };
        self.used += len;
        self.push(time, conn, data);
        records.into()
    }

    /// Adds an `eof` record.
    pub fn push_eof(&mut self, time: Timestamp, conn: ConnIndex, direction: Direction) {
        self.push(time, conn, HeadKind::Eof(direction));
    }

    /// Adds a `close` record.
    pub fn push_close(&mut self, time: Timestamp, conn: ConnIndex, close: Close) {
        self.closes += 1;
        self.push(time, conn, HeadKind::Close(Box::new(close)));
    }

    /// Adds the `end` record.
    pub fn push_end(&mut self, time: Timestamp, reason: EndReason) {
        self.push(time, ConnIndex::default(), HeadKind::End(reason));
    }

    fn push(&mut self, time: Timestamp, conn: ConnIndex, kind: HeadKind) {
        debug_assert!(self.spare_heads() > 0);
        self.records += kind.records();
        self.storage.heads.push(Head { time, conn, kind });
    }

    /// Ends the writing and makes it one that outputs share. A batch that is nearly empty moves
    /// into memory of its own size: a lone byte must not hold a whole arena while an output is slow.
    pub fn seal(mut self) -> Arc<Self> {
        let held = self.storage.heads.len() * size_of::<Head>()
            + self.storage.conns.len() * size_of::<Arc<Endpoints>>()
            + self.closes * size_of::<Close>();
        if self.used + held < self.storage.arena.len() / 4 {
            let small = Storage {
                arena: self.storage.arena[..self.used].to_vec(),
                heads: self.storage.heads.drain(..).collect(),
                conns: self.storage.conns.drain(..).collect(),
            };
            let large = mem::replace(&mut self.storage, small);
            self.pool
                .put_back(large, self.charge - self.used - held - SEALED_COST);
            self.charge = self.used + held + SEALED_COST;
        } else {
            self.pool.release(self.charge - self.pool.arena - held);
            self.charge = self.pool.arena + held;
        }
        Arc::new(self)
    }

    /// What it holds, in order, and both ends of the connection that it is of, if of one.
    pub fn entries(&self) -> impl Iterator<Item = (Entry<'_>, Option<&Endpoints>)> {
        let mut seq = self.first_seq;
        self.storage.heads.iter().map(move |head| {
            let first = seq;
            seq += head.kind.records();
            self.entry(head, first)
        })
    }

    /// Its records, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.entries().flat_map(|(entry, _)| entry.records())
    }

    /// Only the bytes that went this way, in order, in as few runs as they lie in.
    pub fn bytes(&self, way: Direction) -> impl Iterator<Item = &[u8]> {
        let mut ranges = self
            .storage
            .heads
            .iter()
            .filter_map(move |head| match head.kind {
                HeadKind::Data {
                    direction,
                    start,
                    len,
                    ..
                } if direction == way => Some(range(start, len)),
                _ => None,
            })
            .peekable();
        std::iter::from_fn(move || {
            let mut run = ranges.next()?;
            while let Some(next) = ranges.next_if(|next| next.start == run.end) {
                run.end = next.end;
            }
            Some(&self.storage.arena[run])
        })
    }

    fn entry<'a>(&'a self, head: &'a Head, seq: u64) -> (Entry<'a>, Option<&'a Endpoints>) {
        let endpoints = &self.storage.conns;
        let endpoints = || &*endpoints[head.conn.0 as usize];
        let conn = || Conn {
            id: endpoints().conn,
            peer: Cow::Borrowed(&endpoints().peer),
        };
        let time = head.time;
        let event = match &head.kind {
            HeadKind::Start(start) => Event::Start(Cow::Borrowed(&**start)),
            HeadKind::Open => Event::Open {
                conn: conn(),
                local: Cow::Borrowed(&endpoints().local),
                target: endpoints().target.as_deref().map(Cow::Borrowed),
            },
            &HeadKind::Data {
                direction,
                start,
                len,
                offset,
                ..
            } => {
                let bytes = &self.storage.arena[range(start, len)];
                let chunk = Chunk {
                    time,
                    conn: conn(),
                    direction,
                    next_seq: seq,
                    next_offset: offset,
                    pieces: self.pool.framing.split(bytes),
                };
                return (Entry::Chunk(chunk), Some(endpoints()));
            }
            &HeadKind::Eof(direction) => Event::Eof {
                conn: conn(),
                direction,
            },
            HeadKind::Close(close) => Event::Close {
                conn: conn(),
                close: Cow::Borrowed(&**close),
            },
            HeadKind::End(reason) => Event::End {
                reason: reason.clone(),
            },
        };
        let ends = event.conn().is_some().then(endpoints);
        (Entry::Record(Record { time, seq, event }), ends)
    }
}

fn range(start: u32, len: u32) -> Range<usize> {
    start as usize..start as usize + len as usize
}

impl Drop for Batch {
    fn drop(&mut self) {
        let storage = mem::take(&mut self.storage);
        self.pool.put_back(storage, self.charge);
    }
}

/// What a batch holds in one place; see [`Batch::entries`].
#[derive(Debug)]
pub enum Entry<'a> {
    /// `data` records that were made at once.
    Chunk(Chunk<'a>),
    /// Anything else.
    Record(Record<'a>),
}

impl<'a> Entry<'a> {
    /// Its records, in order.
    pub fn records(self) -> impl Iterator<Item = Record<'a>> {
        let (chunk, record) = match self {
            Self::Chunk(chunk) => (Some(chunk), None),
            Self::Record(record) => (None, Some(record)),
        };
        chunk.into_iter().flatten().chain(record)
    }
}

/// Gives batches while their memory, together, stays within a limit. A clone gives of the same memory.
#[derive(Clone, Debug)]
pub struct BatchPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    framing: Framing,
    arena: usize,
    limit: usize,
    /// Bytes that batches hold. Never above `limit`.
    charged: AtomicUsize,
    /// The bell rings for memory that comes back once no more than this is held.
    rings_at: AtomicUsize,
    free: Mutex<Vec<Storage>>,
    doorbell: Arc<Doorbell>,
}

impl BatchPool {
    /// Arenas of `arena` bytes, `limit` bytes in all (raised to what two batches need), records as
    /// `framing` splits them. `doorbell` rings whenever memory comes back, but see
    /// [`BatchPool::ring_at`].
    pub fn new(arena: usize, limit: usize, framing: Framing, doorbell: Arc<Doorbell>) -> Self {
        let shared = Shared {
            framing,
            arena,
            limit: limit.max(2 * Self::batch_cost(arena)),
            charged: AtomicUsize::new(0),
            rings_at: AtomicUsize::new(usize::MAX),
            free: Mutex::default(),
            doorbell,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What a batch with an arena of `arena` bytes can hold at most, in bytes.
    pub fn batch_cost(arena: usize) -> usize {
        arena + MAX_HEADS * HEAD_COST
    }

    /// An empty batch, or `None` while the outputs hold too much.
    pub fn acquire(&self) -> Option<Batch> {
        let shared = &self.shared;
        let charge = Self::batch_cost(shared.arena);
        shared
            .charged
            .fetch_update(SeqCst, SeqCst, |charged| {
                Some(charged + charge).filter(|&sum| sum <= shared.limit)
            })
            .ok()?;
        let mut storage = shared.free().pop().unwrap_or_default();
        if storage.arena.is_empty() {
            storage.arena = vec![0; shared.arena];
        }
        Some(Batch {
            storage,
            used: 0,
            first_seq: 0,
            records: 0,
            closes: 0,
            charge,
            pool: Arc::clone(shared),
        })
    }

    /// What a batch of this pool takes of it at most.
    pub fn batch_charge(&self) -> usize {
        Self::batch_cost(self.shared.arena)
    }

    /// Whether [`BatchPool::acquire`] would give one.
    pub fn has_batch(&self) -> bool {
        self.charged() + Self::batch_cost(self.shared.arena) <= self.shared.limit
    }

    /// Bytes that batches hold now.
    pub fn charged(&self) -> usize {
        self.shared.charged.load(SeqCst)
    }

    /// Has the bell ring for memory that comes back only once no more than so many bytes are held. Who
    /// waits for that looks once more behind this.
    pub fn ring_at(&self, charged: usize) {
        self.shared.rings_at.store(charged, SeqCst);
    }

    /// Bytes that batches can hold.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<Storage>> {
        // A list of spare memory is right whatever a panicking thread was about.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes memory back and keeps it for the next batch, unless what is kept and what is held
    /// would pass the limit together.
    fn put_back(&self, mut storage: Storage, charge: usize) {
        if storage.arena.len() == self.arena {
            storage.heads.clear();
            storage.conns.clear();
            let held = self.charged.load(SeqCst).saturating_sub(charge);
            let mut free = self.free();
            let kept: usize = free.iter().map(Storage::size).sum();
            if held + kept + storage.size() <= self.limit {
                free.push(storage);
            }
        }
        self.release(charge);
    }

    fn release(&self, charge: usize) {
        let before = self.charged.fetch_sub(charge, SeqCst);
        debug_assert!(before >= charge);
        if before - charge <= self.rings_at.load(SeqCst) {
            self.doorbell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ConnId;

    fn pool(limit: usize, framing: Framing) -> BatchPool {
        BatchPool::new(4096, limit, framing, Arc::new(Doorbell::new(|| {})))
    }

    fn endpoints() -> Arc<Endpoints> {
        Arc::new(Endpoints {
            conn: ConnId(1),
            peer: "192.0.2.1:5000".into(),
            local: "192.0.2.2:1234".into(),
            target: None,
        })
    }

    fn push(batch: &mut Batch, offset: u64, bytes: &[u8]) {
        let conn = batch.intern(&endpoints());
        batch.spare()[..bytes.len()].copy_from_slice(bytes);
        batch.push_data(
            Timestamp::default(),
            conn,
            Direction::In,
            offset,
            bytes.len(),
            |_| (),
        );
    }

    #[test]
    fn lines_are_numbered_and_placed_one_by_one() {
        let pool = pool(0, Framing::Line { max: 4 });
        let mut batch = pool.acquire().expect("an empty pool gives");
        batch.start_at(7);
        push(&mut batch, 100, b"a\nbc\nlonger\n");
        assert_eq!(batch.next_seq(), 11);
        let seen: Vec<_> = batch
            .iter()
            .map(|record| match record.event {
                Event::Data {
                    offset,
                    payload,
                    partial,
                    ..
                } => (record.seq, offset, payload.into_owned(), partial),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (7, 100, b"a\n".to_vec(), false),
            (8, 102, b"bc\n".to_vec(), false),
            (9, 105, b"long".to_vec(), true),
            (10, 109, b"er\n".to_vec(), false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(
            batch.bytes(Direction::In).collect::<Vec<_>>(),
            [b"a\nbc\nlonger\n"]
        );
    }

    #[test]
    fn pool_never_holds_more_than_its_limit_and_gets_everything_back() {
        let pool = pool(8 * BatchPool::batch_cost(4096), Framing::Chunk);
        let mut random = fastrand::Rng::with_seed(3);
        let mut shared: Vec<Arc<Batch>> = Vec::new();
        let mut refused = 0;
        for _ in 0..20_000 {
            if random.u8(0..3) > 0 {
                if let Some(mut batch) = pool.acquire() {
                    for _ in 0..random.usize(0..3) {
                        let len = random.usize(0..=batch.spare_len());
                        push(&mut batch, 0, &vec![b'x'; len]);
                    }
                    shared.push(batch.seal());
                } else {
                    refused += 1;
                    assert!(!pool.has_batch());
                }
            } else if !shared.is_empty() {
                shared.swap_remove(random.usize(0..shared.len()));
            }
            assert!(pool.charged() <= pool.limit());
            let kept: usize = pool.shared.free().iter().map(Storage::size).sum();
            assert!(kept <= pool.limit());
        }
        assert!(refused > 0, "the limit was never reached");
        shared.clear();
        assert_eq!(pool.charged(), 0);
    }

    #[test]
    fn a_lone_byte_does_not_hold_an_arena() {
        let pool = pool(0, Framing::Chunk);
        let mut kept = Vec::new();
        for _ in 0..500 {
            let mut batch = pool.acquire().expect("small batches leave room");
            push(&mut batch, 0, b"x");
            kept.push(batch.seal());
        }
        assert!(pool.charged() < 500 * 512);
    }
}
