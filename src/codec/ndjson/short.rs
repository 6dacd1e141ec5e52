//! What stands on every line of a capture is short, and put there in steps of a fixed size, a little too
//! much rather than exactly: a step compiles to a few moves, where a length that is not known is a call.

use wide::u8x16;

use super::super::escape::{LANES, lanes};

/// Bytes of a [`Text`] that are copied at once.
const STEP: usize = 64;

/// A text that is put on many lines: filled up to whole steps.
#[derive(Debug, Default)]
pub(super) struct Text {
    steps: Vec<u8>,
    len: usize,
}

impl Text {
    /// Becomes what `write` writes.
    pub(super) fn set(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.steps.clear();
        write(&mut self.steps);
        self.len = self.steps.len();
        self.steps.resize(self.len.next_multiple_of(STEP), b' ');
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.steps[..self.len]
    }

    /// Appends it to `out`.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let start = out.len();
        for step in self.steps.chunks_exact(STEP) {
            push_exactly::<STEP>(step, out);
        }
        out.truncate(start + self.len);
    }
}

/// Appends `bytes` to `out`; `false`, with a part of them appended, where any wants an escape or is no ASCII.
pub(super) fn push_plain(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut found = u8x16::ZERO;
    for bytes in bytes.chunks_exact(LANES) {
        push_exactly::<LANES>(bytes, out);
        found |= is_not_plain(bytes);
    }
    match bytes.last_chunk::<LANES>() {
        // Some of them for the second time.
        Some(last) => {
            out.truncate(start + bytes.len() - LANES);
            push_exactly::<LANES>(last, out);
            found |= is_not_plain(last);
        }
        None => {
            let mut filled = [b' '; LANES];
            filled[..bytes.len()].copy_from_slice(bytes);
            push_exactly::<LANES>(&filled, out);
            out.truncate(start + bytes.len());
            found |= is_not_plain(&filled);
        }
    }
    found.move_mask() == 0
}

/// Of each byte the highest bit: what JSON demands an escape for, and DEL, which jq (1.5 to 1.8) escapes too: a
/// capture that went through `jq -c .` stays as it was.
pub(super) fn wants_escape(bytes: u8x16) -> u8x16 {
    let is = |byte: u8| bytes.cmp_eq(u8x16::splat(byte));
    let is_control = bytes.min(u8x16::splat(0x1f)).cmp_eq(bytes);
    is_control | is(b'"') | is(b'\\') | is(0x7f)
}

/// … or it is no ASCII, which has that bit itself.
fn is_not_plain(bytes: &[u8]) -> u8x16 {
    let bytes = lanes(bytes);
    wants_escape(bytes) | bytes
}

fn push_exactly<const N: usize>(bytes: &[u8], out: &mut Vec<u8>) {
    let bytes: &[u8; N] = bytes.try_into().expect("it is as long");
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_put_there_as_there_is() {
        let mut random = fastrand::Rng::with_seed(29);
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let mut text = Text::default();
            text.set(|text| text.resize(100, b'x'));
            text.set(|text| text.extend_from_slice(&bytes));
            let mut out = b"before".to_vec();
            text.push(&mut out);
            out.extend_from_slice(b"behind");
            assert_eq!(out, [b"before", &bytes[..], b"behind"].concat());
            assert_eq!(text.bytes(), bytes);
        }
    }

    #[test]
    fn what_wants_an_escape_is_found_wherever_it_stands() {
        let wants_escape = |&byte: &u8| !(0x20..0x7f).contains(&byte) || b"\"\\".contains(&byte);
        for len in 0..100 {
            let mut bytes = vec![b'a'; len];
            let mut out = b"before".to_vec();
            assert!(push_plain(&bytes, &mut out));
            assert_eq!(out, [b"before", &bytes[..]].concat());
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    bytes[at] = byte;
                    let is_plain = push_plain(&bytes, &mut Vec::new());
                    assert_eq!(is_plain, !wants_escape(&byte), "{byte:#x} at {at} of {len}");
                }
                bytes[at] = b'a';
            }
        }
    }
}
