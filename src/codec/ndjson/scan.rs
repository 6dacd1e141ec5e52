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

/// A block that begins with `bytes`, which are fewer. What it is filled up with is no ASCII, and wants no escape.
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

/// … or where it is no ASCII.
#[inline(always)]
fn is_not_plain(bytes: i8x16) -> i8x16 {
    // DEL becomes the lowest of all.
    let is_not_printable = (bytes + each(1)).cmp_lt(each(0x21));
    is_quote(bytes) | is_not_printable
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
        let run = bits(block, is_not_plain).trailing_zeros() as usize;
        at += run;
        if run < BITS {
            return at;
        }
    }
    at + bits(&filled(blocks.remainder()), is_not_plain).trailing_zeros() as usize
}

/// What wants an escape in a stretch of text, found for many lines at once: their ends, and hardly more.
#[derive(Debug)]
pub(super) struct Look {
    /// How long the text is from the beginning of the stretch on.
    text_len: usize,
    len: usize,
    /// The stretch was taken for ASCII.
    is_ascii: bool,
    /// A bit for each byte of the stretch: whether it wants one, or is no ASCII after all. Then zeros.
    escapes: [u64; BLOCKS + 2],
}

/// Blocks in a stretch: what is looked at is still in the first cache when it is copied.
const BLOCKS: usize = 64;

/// Longer than any text: all begins far behind this stretch.
const NO_TEXT: usize = usize::MAX / 2;

impl Default for Look {
    fn default() -> Self {
        Self {
            text_len: NO_TEXT,
            len: 0,
            is_ascii: true,
            escapes: [0; BLOCKS + 2],
        }
    }
}

impl Look {
    /// Another text is to come.
    pub(super) fn forget(&mut self) {
        self.text_len = NO_TEXT;
        self.is_ascii = true;
    }

    /// Looks at the beginning of `rest`, which is what is left of the text. Where there is only ASCII, one look
    /// tells both.
    pub(super) fn look(&mut self, rest: &[u8], is_ascii: bool) {
        self.text_len = rest.len();
        self.is_ascii = is_ascii;
        match is_ascii {
            true => self.find(rest, is_not_plain),
            false => self.find(rest, wants_escape),
        }
    }

    #[inline(always)]
    fn find(&mut self, rest: &[u8], is_so: impl Fn(i8x16) -> i8x16) {
        let stretch = &rest[..rest.len().min(BLOCKS * BITS)];
        self.len = stretch.len();
        let blocks = stretch.chunks_exact(BITS);
        let tail = blocks.remainder();
        let (whole, others) = self.escapes.split_at_mut(blocks.len());
        for (block, found) in blocks.zip(whole) {
            let block = block.try_into().expect("it has that many bytes");
            *found = bits(block, &is_so);
        }
        others.fill(0);
        if !tail.is_empty() {
            others[0] = bits(&filled(tail), is_so);
        }
    }

    /// How many bytes stand between the beginning of the stretch and `rest`, which is what is left of the text.
    pub(super) fn skipped(&self, rest: &[u8]) -> usize {
        debug_assert!(rest.len() <= self.text_len, "it is of another text");
        self.text_len - rest.len()
    }

    /// How many bytes of the stretch stand behind `skipped` others.
    pub(super) fn known(&self, skipped: usize) -> usize {
        self.len.saturating_sub(skipped)
    }

    /// Whether the stretch was taken for ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        self.is_ascii
    }

    /// How many bytes behind `skipped` others are nothing to stop at, if it is known.
    #[inline(always)]
    pub(super) fn run(&self, skipped: usize) -> Option<usize> {
        let (nth, bit) = (skipped / BITS, skipped % BITS);
        let &[first, second, third] = self.escapes.get(nth..)?.first_chunk()?;
        // The shifts in two steps: one by all bits would do nothing.
        let near = first >> bit | second << 1 << (BITS - 1 - bit);
        if near != 0 {
            return Some(near.trailing_zeros() as usize);
        }
        let far = second >> bit | third << 1 << (BITS - 1 - bit);
        if far != 0 {
            return Some(BITS + far.trailing_zeros() as usize);
        }
        self.long_run(skipped)
    }

    #[cold]
    fn long_run(&self, skipped: usize) -> Option<usize> {
        self.escapes_behind(skipped).next()
    }

    /// Where behind `skipped` bytes others are something to stop at, as far as it is known.
    #[inline(always)]
    pub(super) fn escapes_behind(&self, skipped: usize) -> impl Iterator<Item = usize> {
        let (nth, bit) = (skipped / BITS, skipped % BITS);
        let mut words = self.escapes.get(nth..).unwrap_or_default().iter();
        let mut escapes = words.next().map_or(0, |&escapes| escapes >> bit << bit);
        let mut start = 0;
        std::iter::from_fn(move || {
            while escapes == 0 {
                escapes = *words.next()?;
                start += BITS;
            }
            let escape = escapes.trailing_zeros() as usize;
            escapes &= escapes - 1;
            Some(start + escape - bit)
        })
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
