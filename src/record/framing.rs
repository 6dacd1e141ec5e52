//! Where one record ends and the next begins within the bytes of a connection.
//!
//! The rule is kept in one place because two threads follow it: the capture core counts records to
//! number them, and an output's encoder splits the same bytes again to write them.

use std::iter::FusedIterator;

use wide::{CmpEq, i8x16};

/// The longest record of [`Framing::Chunk`], in bytes.
pub const CHUNK_MAX: usize = 64 * 1024;

/// Bytes that are counted at once: half of what the first cache of a processor holds, or less, and as many as the
/// lanes of [`count_ends`] can.
const PART: usize = u8::MAX as usize * VECTORS * LANES;

/// Bytes of a vector, and how many are counted in at once, so that none waits for the one before.
const LANES: usize = 16;
const VECTORS: usize = 4;

/// How a connection's bytes become `data` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A record is what one read returned, cut where it is longer than [`CHUNK_MAX`].
    Chunk,
    /// A record is one line with its `\n`, cut where it grows past `max` bytes.
    Line {
        /// The longest record, in bytes, its `\n` included. At least 1.
        max: usize,
    },
}

impl Framing {
    /// How many of `bytes`, which start where a record starts, make whole records now. The rest is
    /// a line that still wants its end. The first `seen` bytes are known to hold no `\n`.
    pub fn whole(self, bytes: &[u8], seen: usize) -> usize {
        match self {
            Self::Chunk => bytes.len(),
            Self::Line { max } => {
                let lines = memchr::memrchr(b'\n', &bytes[seen..]).map_or(0, |at| seen + at + 1);
                let rest = bytes.len() - lines;
                lines + rest - rest % max
            }
        }
    }

    /// The records in `bytes`, which start where a record starts.
    pub fn split(self, bytes: &[u8]) -> Pieces<'_> {
        Pieces {
            framing: self,
            rest: bytes,
        }
    }

    /// How many records [`Framing::split`] gives. `look` is shown the bytes, too, with line framing in parts: each is
    /// in the processor's first cache for whoever comes second.
    pub fn count(self, bytes: &[u8], mut look: impl FnMut(&[u8])) -> usize {
        let Self::Line { max } = self else {
            look(bytes);
            return bytes.len().div_ceil(CHUNK_MAX);
        };
        let is_short = bytes.len() <= max;
        let half_len = if is_short { PART } else { (max / 2).max(1) };
        let mut ends = 0;
        // Where each half of the longest line has an end, none is longer.
        let mut are_close = true;
        for part in bytes.chunks(PART) {
            look(part);
            for half in part.chunks(half_len) {
                if !are_close && !is_short {
                    break;
                }
                let ended = count_ends(half);
                are_close &= ended > 0;
                ends += ended;
            }
        }
        // Where no line can be too long only their ends count.
        match are_close || is_short {
            true => ends + usize::from(bytes.last().is_some_and(|&last| last != b'\n')),
            false => self.split(bytes).count(),
        }
    }

    /// Whether `record` is only a part of a line: it was too long, or its end never came.
    pub fn is_partial(self, record: &[u8]) -> bool {
        match self {
            Self::Chunk => false,
            Self::Line { .. } => record.last() != Some(&b'\n'),
        }
    }
}

/// How many `\n` are in `bytes`, at most [`PART`]. Each lane counts its own; where they are few, adding up what the
/// lanes have would be most of it.
fn count_ends(bytes: &[u8]) -> usize {
    const FEW: usize = 512;
    if bytes.len() < FEW {
        return memchr::memchr_iter(b'\n', bytes).count();
    }
    debug_assert!(bytes.len() <= PART);
    let end = i8x16::splat(b'\n' as i8);
    let mut counts = [i8x16::ZERO; VECTORS];
    let blocks = bytes.chunks_exact(VECTORS * LANES);
    let tail = blocks.remainder().iter().filter(|&&byte| byte == b'\n');
    for block in blocks {
        for (count, bytes) in counts.iter_mut().zip(block.chunks_exact(LANES)) {
            let bytes: &[u8; LANES] = bytes.try_into().expect("they are as many");
            // What is equal is -1.
            *count -= i8x16::new(bytes.map(|byte| byte as i8)).cmp_eq(end);
        }
    }
    let counts = counts.iter().flat_map(|count| count.to_array());
    counts.map(|count| usize::from(count as u8)).sum::<usize>() + tail.count()
}

/// The records of a run of bytes; see [`Framing::split`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    framing: Framing,
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    /// What splits them.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The bytes of those that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The first of them, which have so many bytes, were taken by other means.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = match self.framing {
            Framing::Chunk => self.rest.len().min(CHUNK_MAX),
            Framing::Line { max } => {
                let longest = &self.rest[..max.min(self.rest.len())];
                memchr::memchr(b'\n', longest).map_or(longest.len(), |at| at + 1)
            }
        };
        let (piece, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(piece)
    }
}

impl FusedIterator for Pieces<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(max: usize, bytes: &str, expected: &[&str], carried: &str) {
        let framing = Framing::Line { max };
        let (whole, rest) = bytes.split_at(framing.whole(bytes.as_bytes(), 0));
        let pieces: Vec<&str> = framing
            .split(whole.as_bytes())
            .map(|piece| std::str::from_utf8(piece).expect("ASCII"))
            .collect();
        assert_eq!(pieces, expected, "{bytes:?}");
        assert_eq!(rest, carried, "{bytes:?}");
        assert_eq!(
            framing.count(whole.as_bytes(), |_| ()),
            expected.len(),
            "{bytes:?}"
        );
    }

    #[test]
    fn lines_end_at_newline_or_at_the_longest() {
        check(8, "", &[], "");
        check(8, "ab", &[], "ab");
        check(8, "ab\n", &["ab\n"], "");
        check(8, "a\r\nb", &["a\r\n"], "b");
        check(8, "\n\nc", &["\n", "\n"], "c");
        check(4, "abcdefghij", &["abcd", "efgh"], "ij");
        check(4, "abcdefgh", &["abcd", "efgh"], "");
        check(4, "abcd\nefghi\nj", &["abcd", "\n", "efgh", "i\n"], "j");
        check(1, "a\nb", &["a", "\n", "b"], "");
    }

    #[test]
    fn chunks_are_cut_where_they_are_longest() {
        let bytes = vec![b'x'; 2 * CHUNK_MAX + 1];
        for (len, expected) in [
            (0, &[][..]),
            (1, &[1]),
            (CHUNK_MAX, &[CHUNK_MAX]),
            (CHUNK_MAX + 1, &[CHUNK_MAX, 1]),
            (2 * CHUNK_MAX + 1, &[CHUNK_MAX, CHUNK_MAX, 1]),
        ] {
            let bytes = &bytes[..len];
            assert_eq!(Framing::Chunk.whole(bytes, 0), len);
            let pieces = Framing::Chunk.split(bytes).map(<[u8]>::len);
            assert_eq!(pieces.collect::<Vec<_>>(), expected);
            assert_eq!(Framing::Chunk.count(bytes, |_| ()), expected.len());
        }
    }

    #[test]
    fn count_agrees_with_split_on_random_bytes() {
        let mut random = fastrand::Rng::with_seed(11);
        for nth in 0..5_000 {
            // Now and then so many that they are counted in parts.
            let scale = if nth % 100 == 0 { 500 } else { 1 };
            let framing = Framing::Line {
                max: random.usize(1..40 * scale),
            };
            let ends = random.usize(1..2 * scale + 3);
            let bytes: Vec<u8> = (0..random.usize(0..200 * scale))
                .map(|_| match random.usize(0..ends) {
                    0 => b'\n',
                    _ => random.choice([b'a', b'b', 0xff]).unwrap_or(0),
                })
                .collect();
            let whole = &bytes[..framing.whole(&bytes, 0)];
            let mut seen = Vec::new();
            let count = framing.count(whole, |part| seen.extend_from_slice(part));
            assert_eq!(count, framing.split(whole).count());
            assert_eq!(seen, whole);
            assert_eq!(framing.split(whole).flatten().count(), whole.len());
        }
    }
}
