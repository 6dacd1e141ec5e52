//! A file that is being written: what is encoded for it, how much of that the kernel has taken, and
//! where records end in it.
//!
//! A failed write leaves everything where it was, so that it can be tried again ([`Sink::drain`]) or
//! taken elsewhere ([`Sink::carry`]): a record that the kernel took only in part is cut off and goes
//! with the rest, so that none is in two files or in none.

use std::io;

use super::compress::Packer;
use super::disk::DiskFile;
use super::outlet::Scribe;
use crate::codec::buffer::Buffer;
use crate::record::chunk::Chunk;

/// Encoded bytes that are worth a write while more is queued.
pub(super) const WRITE_SIZE: usize = 256 * 1024;

/// Raw bytes this long are written from where they lie, without a copy.
pub(super) const DIRECT_SIZE: usize = 32 * 1024;

/// … and so many at once: what is compressed, or not taken, lies in memory of its own.
pub(super) const DIRECT_MAX: usize = 1024 * 1024;

/// A file, and what is on its way to it.
#[derive(Debug)]
pub(super) struct Sink {
    file: Box<dyn DiskFile>,
    /// Bytes the file holds.
    len: u64,
    /// Encoded, and not all of it written.
    buffer: Buffer,
    /// Where records end in `buffer`, in order. Raw bytes can be cut anywhere and have none. Between two can be
    /// several lines, each a record.
    marks: Vec<Mark>,
    /// Number of the record behind what was written last.
    next_seq: u64,
    is_compressed: bool,
    /// Until the trailer is written.
    packer: Option<Packer>,
    /// All of `buffer` compressed, once it is being written.
    packed: Vec<u8>,
    /// Bytes of `packed`, or without a packer of `buffer`, that the file has taken.
    written: usize,
    /// The packer's trailer is to be written too.
    is_closing: bool,
    /// Nothing has been written to the end yet.
    is_fresh: bool,
}

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: usize,
    /// Number of the record behind it.
    pub(super) next_seq: u64,
}

/// Whole records that were not written.
#[derive(Debug)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    /// Number of the first of them, or of the record that comes next.
    pub(super) first_seq: u64,
    /// The file they come from ends with a whole record.
    pub(super) is_clean: bool,
}

impl Carry {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Sink {
    pub(super) fn new(file: Box<dyn DiskFile>, packer: Option<Packer>) -> Self {
        Self {
            // Where it cannot be told, only the size of a segment is less exact.
            len: file.len().unwrap_or(0),
            file,
            buffer: Buffer::default(),
            marks: Vec::new(),
            next_seq: 0,
            is_compressed: packer.is_some(),
            packer,
            packed: Vec::new(),
            written: 0,
            is_closing: false,
            is_fresh: true,
        }
    }

    pub(super) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    pub(super) fn into_file(self) -> Box<dyn DiskFile> {
        self.file
    }

    /// Where to encode to. Then comes [`Sink::mark`].
    pub(super) fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    /// What is encoded next is the record of this number. Called before and behind every record, but those of
    /// [`Sink::encode_chunk`].
    pub(super) fn mark(&mut self, next_seq: u64) {
        self.push_mark(Mark {
            at: self.buffer.len(),
            next_seq,
        });
    }

    fn push_mark(&mut self, mark: Mark) {
        if self.marks.last() != Some(&mark) {
            self.marks.push(mark);
        }
    }

    /// Encodes records of `chunk`, which has some, until the buffer has more than `enough` bytes; at least one.
    /// Tells where the last of them begins.
    pub(super) fn encode_chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        scribe: &mut Scribe,
        enough: usize,
    ) -> Mark {
        self.mark(chunk.next_seq);
        // Between any two records a mark can be missing only where a line tells.
        let at_once = if scribe.writes_lines() { enough } else { 0 };
        loop {
            let last = Mark {
                at: scribe.chunk(chunk, &mut self.buffer, at_once),
                next_seq: chunk.next_seq - 1,
            };
            self.push_mark(last);
            if chunk.is_empty() || self.buffer.len() > enough {
                self.mark(chunk.next_seq);
                return last;
            }
        }
    }

    /// Encoded bytes that are not written, or not known to be.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the file when all is written, as far as that is known: how many a compressed file
    /// will have is known only then.
    pub(super) fn expected_len(&self) -> u64 {
        match self.is_compressed {
            true => self.len,
            false => self.len + (self.buffer.len() - self.written) as u64,
        }
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Whether it has never come to the end of a [`Sink::drain`].
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// What is written next is the end of the file.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Whether it was closed.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Writes until nothing is left. `count` is told of every piece that the file has taken.
    ///
    /// # Errors
    /// What the kernel said; everything is kept, and calling it again goes on where it stopped.
    pub(super) fn drain(&mut self, count: impl Fn(u64)) -> io::Result<()> {
        self.pack()?;
        let bytes = match self.packed.is_empty() {
            true => &*self.buffer,
            false => &self.packed,
        };
        while self.written < bytes.len() {
            let written = write_some(&mut *self.file, &bytes[self.written..])?;
            self.written += written;
            self.len += written as u64;
            count(written as u64);
        }
        self.is_fresh &= bytes.is_empty();
        self.forget();
        Ok(())
    }

    /// Writes `bytes`, which were not encoded into the buffer and need no encoding.
    ///
    /// # Errors
    /// What the kernel said; what the file did not take is in the buffer then.
    pub(super) fn write_through(&mut self, bytes: &[u8], count: impl Fn(u64)) -> io::Result<()> {
        debug_assert!(self.buffer.is_empty() && self.packer.is_none());
        let mut rest = bytes;
        while !rest.is_empty() {
            match write_some(&mut *self.file, rest) {
                Ok(written) => {
                    rest = &rest[written..];
                    self.len += written as u64;
                    self.is_fresh = false;
                    count(written as u64);
                }
                Err(error) => {
                    self.buffer.vec().extend_from_slice(rest);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn pack(&mut self) -> io::Result<()> {
        if !self.packed.is_empty() {
            return Ok(());
        }
        if let Some(packer) = &mut self.packer {
            if !self.buffer.is_empty() {
                packer.pack(&self.buffer, &mut self.packed)?;
            }
        }
        if self.is_closing {
            if let Some(packer) = self.packer.take() {
                packer.finish(&mut self.packed)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        if let Some(mark) = self.marks.last() {
            self.next_seq = mark.next_seq;
        }
        self.buffer.clear();
        self.marks.clear();
        self.packed.clear();
        self.written = 0;
        // One record can be far longer than the rest; its memory is not kept for ever.
        self.buffer.shrink_to(4 * WRITE_SIZE);
        self.packed.shrink_to(4 * WRITE_SIZE);
    }

    /// Takes everything behind `at` out of the buffer, before it is written.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<u8> {
        debug_assert!(self.written == 0 && self.packed.is_empty());
        self.marks.retain(|mark| mark.at <= at);
        self.buffer.vec().split_off(at)
    }

    /// Takes out the records that the file has not taken whole, and cuts a part of one off its end
    /// if it can. What was encoded behind the last [`Sink::mark`] is dropped.
    pub(super) fn carry(&mut self) -> Carry {
        let written = self.written;
        self.mark_lines();
        let end = self.marks.last().map_or(self.buffer.len(), |mark| mark.at);
        // What stands before the first mark is the file's own.
        let first = self.marks.first().map_or(0, |mark| mark.at);
        let (start, is_clean) = if !self.packed.is_empty() {
            // What the compressor was given cannot be had back from its middle: all of it goes.
            (first, self.cut_off(written))
        } else if self.marks.is_empty() {
            (written, true)
        } else {
            let whole = self.marks.iter().rev().find(|mark| mark.at <= written);
            match whole.map(|mark| mark.at) {
                Some(start) => (start, self.cut_off(written - start)),
                None => (first, self.cut_off(written)),
            }
        };
        let marks = self.marks.iter().filter(|mark| mark.at >= start);
        let marks: Vec<Mark> = marks
            .map(|mark| Mark {
                at: mark.at - start,
                ..*mark
            })
            .collect();
        let carry = Carry {
            bytes: self.buffer[start..end].to_vec(),
            first_seq: marks.first().map_or(self.next_seq, |mark| mark.next_seq),
            marks,
            is_clean,
        };
        self.forget();
        carry
    }

    /// Marks every record.
    fn mark_lines(&mut self) {
        let few = std::mem::take(&mut self.marks);
        for (nth, &mark) in few.iter().enumerate() {
            self.marks.push(mark);
            let Some(next) = few.get(nth + 1) else {
                break;
            };
            let lines = memchr::memchr_iter(b'\n', &self.buffer[mark.at..next.at]);
            let ends = lines.map(|end| mark.at + end + 1);
            let inner = (mark.next_seq + 1..next.next_seq).zip(ends);
            let inner = inner.map(|(next_seq, at)| Mark { at, next_seq });
            self.marks.extend(inner.filter(|mark| mark.at < next.at));
        }
    }

    /// Appends what another sink did not write.
    pub(super) fn put(&mut self, carry: Carry) {
        let before = self.buffer.len();
        self.buffer.vec().extend_from_slice(&carry.bytes);
        let marks = carry.marks.into_iter().map(|mark| Mark {
            at: before + mark.at,
            ..mark
        });
        self.marks.extend(marks);
    }

    /// Cuts off the last bytes that were written, if it can; else a reader finds a torn line.
    fn cut_off(&mut self, bytes: usize) -> bool {
        let whole = self.len - bytes as u64;
        // Whatever else somebody appended is not cut.
        let is_all_ours = self.file.len().is_ok_and(|len| len == self.len);
        if bytes > 0 && is_all_ours && self.file.cut(whole).is_ok() {
            self.len = whole;
        }
        self.len == whole
    }

    /// Writes `bytes`, all of them or, if it can be, none; for a last word in a file that has failed.
    pub(super) fn try_write(&mut self, bytes: &[u8]) {
        debug_assert!(self.buffer.is_empty());
        if bytes.is_empty() {
            return;
        }
        if let Ok(written) = self.file.write(bytes) {
            self.len += written as u64;
            if written < bytes.len() {
                self.cut_off(written);
            }
        }
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// One write that took something.
fn write_some(file: &mut dyn DiskFile, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Somebody made the descriptor non-blocking; it is full.
                io::ErrorKind::WouldBlock => file.wait_writable(),
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::codec::{Audience, Encoder, Format};
    use crate::output::queue::Gap;
    use crate::record::time::WallTime;
    use crate::record::{Conn, ConnId, Direction, Framing, RunId, Start, Timestamp};

    /// It has room for so many bytes.
    #[derive(Debug)]
    struct SmallFile {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl DiskFile for SmallFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.bytes.lock().expect("whole");
            let len = bytes.len().min(self.room - all.len());
            all.extend_from_slice(&bytes[..len]);
            match len {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(len),
            }
        }

        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().expect("whole").len() as u64)
        }

        fn cut(&mut self, len: u64) -> io::Result<()> {
            self.bytes.lock().expect("whole").truncate(len as usize);
            Ok(())
        }

        fn wait_writable(&self) {}

        fn is_writable(&self) -> bool {
            true
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn sync_name(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn unlock(&self) {}

        fn is_at(&self, _: &Path) -> bool {
            true
        }

        fn is_deleted(&self) -> bool {
            false
        }

        fn ends_torn(&self) -> bool {
            false
        }

        fn began(&self) -> Option<WallTime> {
            None
        }
    }

    fn sink(room: usize) -> (Sink, Arc<Mutex<Vec<u8>>>) {
        let bytes = Arc::default();
        let file = SmallFile {
            bytes: Arc::clone(&bytes),
            room,
        };
        (Sink::new(Box::new(file), None), bytes)
    }

    fn scribe(format: Format) -> Scribe {
        let start = Start {
            run: RunId(1),
            mode: "listen".to_owned(),
            listen: Vec::new(),
            connect: Vec::new(),
            tool: "test".to_owned(),
            segment: 1,
            conn: None,
            part: false,
        };
        Scribe::new(Encoder::new(format, Audience::Program), Arc::new(start), 1)
    }

    /// Encodes a few chunks and gaps; tells where each record begins, and where the last ends.
    fn fill(sink: &mut Sink, format: Format, random: &mut fastrand::Rng) -> Vec<Mark> {
        let time = Timestamp::default();
        let mut scribe = scribe(format);
        let mut begins = Vec::new();
        let (mut next_seq, mut next_offset) = (random.u64(0..3_000), random.u64(0..3_000));
        for _ in 0..random.usize(1..8) {
            let mut at = sink.buffered();
            if random.u8(0..4) == 0 {
                let gap = Gap {
                    time,
                    first_seq: next_seq,
                    records: random.u64(1..9),
                    bytes: 7,
                };
                sink.mark(next_seq);
                begins.push(Mark { at, next_seq });
                scribe.gap(&gap, sink.buffer().vec());
                next_seq += gap.records;
                sink.mark(next_seq);
                continue;
            }
            let byte = |random: &mut fastrand::Rng| match random.u8(0..20) {
                0 => b'\n',
                1 => random.u8(..),
                _ => b'a',
            };
            let bytes: Vec<u8> = (0..random.usize(1..900)).map(|_| byte(random)).collect();
            let mut chunk = Chunk {
                time,
                conn: Conn {
                    id: ConnId(1),
                    peer: "192.0.2.9:50122".into(),
                },
                direction: Direction::In,
                next_seq,
                next_offset,
                pieces: Framing::Line { max: 100 }.split(&bytes),
            };
            for record in chunk.clone() {
                begins.push(Mark {
                    at,
                    next_seq: record.seq,
                });
                let mut alone = Vec::new();
                Encoder::new(format, Audience::Program).encode(&record, &mut alone);
                at += alone.len();
            }
            while !chunk.is_empty() {
                let enough = sink.buffered() + random.usize(0..2_000);
                let last = sink.encode_chunk(&mut chunk, &mut scribe, enough);
                assert!(begins.contains(&last));
            }
            (next_seq, next_offset) = (chunk.next_seq, chunk.next_offset);
        }
        begins.push(Mark {
            at: sink.buffered(),
            next_seq,
        });
        begins
    }

    #[test]
    fn what_a_file_does_not_take_begins_with_a_whole_record() {
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let format = [Format::Json, Format::Text, Format::Hex][random.usize(0..3)];
            let room = random.usize(1..8_000);
            let (mut sink, file) = sink(room);
            let begins = fill(&mut sink, format, &mut random);
            let all = sink.buffer().to_vec();
            if sink.drain(|_| ()).is_ok() {
                assert_eq!(*file.lock().expect("whole"), all);
                continue;
            }
            let carry = sink.carry();
            let taken = file.lock().expect("whole").len();
            let rest: Vec<Mark> = begins
                .iter()
                .filter(|mark| mark.at >= taken)
                .map(|mark| Mark {
                    at: mark.at - taken,
                    ..*mark
                })
                .collect();
            let last = begins.iter().rfind(|mark| mark.at <= room);
            assert_eq!(Some(taken), last.map(|mark| mark.at), "{seed}");
            assert!(carry.is_clean);
            assert_eq!(carry.marks, rest, "{seed}");
            assert_eq!(carry.first_seq, rest[0].next_seq);
            assert_eq!(carry.bytes, all[taken..]);
        }
    }
}
