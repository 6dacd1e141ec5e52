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

/// Where the plain runs in a stretch of text end, found for many lines at once.
#[derive(Debug)]
pub(super) struct Look {
    /// How long the text is from the beginning of the stretch on.
    text_len: usize,
    /// A bit for each byte of the stretch: whether it is not plain. Then zeros.
    ends: [u64; BLOCKS + 2],
}

/// Blocks in a stretch: what is looked at is still in the first cache when it is copied.
const BLOCKS: usize = 64;

/// Longer than any text: all begins far behind this stretch.
const NO_TEXT: usize = usize::MAX / 2;

impl Default for Look {
    fn default() -> Self {
        Self {
            text_len: NO_TEXT,
            ends: [0; BLOCKS + 2],
        }
    }
}

impl Look {
    /// Another text is to come.
    pub(super) fn forget(&mut self) {
        self.text_len = NO_TEXT;
    }

    /// Looks at the beginning of `rest`, which is what is left of the text.
    pub(super) fn look(&mut self, rest: &[u8]) {
        self.text_len = rest.len();
        let blocks = rest[..rest.len().min(BLOCKS * BITS)].chunks_exact(BITS);
        let tail = blocks.remainder();
        let (whole, others) = self.ends.split_at_mut(blocks.len());
        for (block, ends) in blocks.zip(whole) {
            let block = block.try_into().expect("it has that many bytes");
            *ends = !bits(block, is_plain);
        }
        others.fill(0);
        if !tail.is_empty() {
            others[0] = !bits(&filled(tail), is_plain);
        }
    }

    /// How many bytes stand between the beginning of the stretch and `rest`, which is what is left of the text.
    pub(super) fn skipped(&self, rest: &[u8]) -> usize {
        self.text_len - rest.len()
    }

    /// How many bytes are plain behind `skipped` others, if it is known.
    #[inline(always)]
    pub(super) fn plain_len(&self, skipped: usize) -> Option<usize> {
        let (nth, bit) = (skipped / BITS, skipped % BITS);
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

    /// Where behind `skipped` bytes what is not plain stands, as far as it is known.
    #[inline(always)]
    pub(super) fn ends(&self, skipped: usize) -> impl Iterator<Item = usize> {
        let (first, bit) = (skipped / BITS, skipped % BITS);
        let mut words = self.ends.get(first..).unwrap_or_default().iter();
        let mut ends = words.next().map_or(0, |&ends| ends >> bit << bit);
        let mut start = 0;
        std::iter::from_fn(move || {
            while ends == 0 {
                ends = *words.next()?;
                start += BITS;
            }
            let end = ends.trailing_zeros() as usize;
            ends &= ends - 1;
            Some(start + end - bit)
        })
    }

    #[cold]
    fn further(&self, nth: usize, bit: usize) -> Option<usize> {
        let (_, further) = self.ends.split_at(nth + 2);
        let empty = further.iter().position(|&ends| ends != 0)?;
        let end = further[empty].trailing_zeros() as usize;
        Some((2 + empty) * BITS + end - bit)
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
