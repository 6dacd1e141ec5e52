//! Which bytes of a text want an escape in JSON, sixteen of them looked at at once.

use wide::{CmpEq, CmpGt, CmpLt, i8x16};

/// Bytes that one [`i8x16`] holds.
const LANES: usize = 16;

/// Bytes in a block of [`bits`].
pub(super) const BITS: usize = 64;

/// A bit for each byte of `block`, the first lowest: whether `is_so` sets its highest.
#[inline(always)]
pub(super) fn bits(block: &[u8; BITS], is_so: impl Fn(i8x16) -> i8x16) -> u64 {
    let bits = block.chunks_exact(LANES).map(|bytes| {
        let bytes: &[u8; LANES] = bytes.try_into().expect("they are as many");
        let bits = is_so(i8x16::new(bytes.map(|byte| byte as i8))).move_mask();
        u64::from(bits as u32)
    });
    bits.rfold(0, |sum, bits| sum << LANES | bits)
}

/// A block that begins with `bytes`, which are fewer. What it is filled up with is not plain, and wants no escape.
pub(super) fn filled(bytes: &[u8]) -> [u8; BITS] {
    let mut block = [0x80; BITS];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// Of each byte all bits: what JSON demands an escape for, and DEL, which jq (1.5 to 1.8) escapes too: a
/// capture that went through `jq -c .` stays as it was.
#[inline(always)]
pub(super) fn wants_escape(bytes: i8x16) -> i8x16 {
    // What is no ASCII is below zero.
    let is_control = bytes.cmp_gt(each(-1)) & bytes.cmp_lt(each(0x20));
    is_control | is_quote(bytes) | bytes.cmp_eq(each(0x7f))
}

/// … where it is ASCII and wants none.
#[inline(always)]
fn is_plain(bytes: i8x16) -> i8x16 {
    // DEL becomes the lowest of all.
    let is_printable = (bytes + each(1)).cmp_gt(each(0x20));
    !is_quote(bytes) & is_printable
}

#[inline(always)]
fn is_quote(bytes: i8x16) -> i8x16 {
    bytes.cmp_eq(each(b'"' as i8)) | bytes.cmp_eq(each(b'\\' as i8))
}

fn each(byte: i8) -> i8x16 {
    i8x16::splat(byte)
}

/// How many bytes at the front of `bytes` are plain.
#[inline(always)]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let mut blocks = bytes.chunks_exact(BITS);
    let mut at = 0;
    for block in blocks.by_ref() {
        let block = block.try_into().expect("it has that many bytes");
        let run = bits(block, is_plain).trailing_ones() as usize;
        at += run;
        if run < BITS {
            return at;
        }
    }
    at + bits(&filled(blocks.remainder()), is_plain).trailing_ones() as usize
}

/// Where in a stretch of a text the plain runs end, found for many lines at once.
#[derive(Debug)]
pub(super) struct Look {
    /// Where the stretch begins in the text.
    start: usize,
    /// For each of its bytes, in blocks, whether it is not plain; then zeros.
    ends: [u64; BLOCKS + 2],
}

/// Blocks that are looked at in one go: their text stays in the first cache until it is copied.
const BLOCKS: usize = 64;

/// Farther behind every place in a text than a stretch is long.
const NOWHERE: usize = usize::MAX / 2;

impl Default for Look {
    fn default() -> Self {
        Self {
            start: NOWHERE,
            ends: [0; BLOCKS + 2],
        }
    }
}

impl Look {
    /// Another text is to come.
    pub(super) fn forget(&mut self) {
        self.start = NOWHERE;
    }

    /// Whether it has looked from there on.
    pub(super) fn begins_at(&self, at: usize) -> bool {
        self.start == at
    }

    /// Looks at what stands in `text` from `at` on.
    #[inline(never)]
    pub(super) fn look(&mut self, text: &[u8], at: usize) {
        self.start = at;
        let stretch = &text[at..];
        let stretch = &stretch[..stretch.len().min(BLOCKS * BITS)];
        let (blocks, tail) = (
            stretch.chunks_exact(BITS),
            stretch.chunks_exact(BITS).remainder(),
        );
        let mut ends = self.ends.iter_mut();
        for (block, ends) in blocks.zip(ends.by_ref()) {
            let block = block.try_into().expect("it has that many bytes");
            *ends = !bits(block, is_plain);
        }
        if let (false, Some(ends)) = (tail.is_empty(), ends.next()) {
            *ends = !bits(&filled(tail), is_plain);
        }
        ends.for_each(|ends| *ends = 0);
    }

    /// How many bytes are plain from `at` on, which is not before the stretch, if it is known.
    #[inline(always)]
    pub(super) fn plain_len(&self, at: usize) -> Option<usize> {
        let at = at.wrapping_sub(self.start);
        let (nth, bit) = (at / BITS, at % BITS);
        let &[first, second, third] = self.ends.get(nth..)?.first_chunk()?;
        // The shifts in two steps: one by all bits would do nothing.
        let near = first >> bit | second << 1 << (BITS - 1 - bit);
        if near != 0 {
            return Some(near.trailing_zeros() as usize);
        }
        let far = second >> bit | third << 1 << (BITS - 1 - bit);
        if far != 0 {
            return Some(BITS + far.trailing_zeros() as usize);
        }
        self.further(nth, bit)
    }

    #[cold]
    fn further(&self, nth: usize, bit: usize) -> Option<usize> {
        let skipped = nth + 2;
        let next = self.ends[skipped..].iter().position(|&ends| ends != 0)?;
        let ends = self.ends[skipped + next];
        Some((2 + next) * BITS + ends.trailing_zeros() as usize - bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wants_an_escape_is_found_wherever_it_stands() {
        let wants = |byte: u8| byte < 0x20 || b"\"\\\x7f".contains(&byte);
        for len in 0..150 {
            let mut bytes = vec![b'a'; len];
            assert_eq!(plain_len(&bytes), len);
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    bytes[at] = byte;
                    let is_plain = byte.is_ascii() && !wants(byte);
                    let expected = if is_plain { len } else { at };
                    assert_eq!(plain_len(&bytes), expected, "{byte:#x}");
                    if let Some(block) = bytes.first_chunk() {
                        let found = bits(block, wants_escape);
                        let expected = u64::from(at < BITS && wants(byte)) << (at % BITS);
                        assert_eq!(found, expected, "{byte:#x}");
                    }
                }
                bytes[at] = b'a';
            }
        }
    }
}
