//! What stands on every line of a capture is short, and put there in steps of a fixed size, a little too
//! much rather than exactly: a step compiles to a few moves, where a length that is not known is a call.
//! All of it is to become one function with the loop over the lines (`inline(always)`): where each step has
//! to fetch the length of the buffer that the one before has stored, waiting for that is most of the work.

use std::ops::Range;

use super::super::number::{digits_4, push_number};

/// Bytes that are copied at once.
const STEP: usize = 64;

/// A text that is put on many lines: filled up to whole steps.
#[derive(Debug, Default)]
pub(super) struct Text<const STEP: usize> {
    steps: Vec<u8>,
    len: usize,
}

impl<const STEP: usize> Text<STEP> {
    /// Becomes what `write` writes.
    pub(super) fn set(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.steps.clear();
        write(&mut self.steps);
        self.len = self.steps.len();
        self.steps.resize(self.len.next_multiple_of(STEP), b' ');
    }

    /// Appends it to `out`.
    #[inline(always)]
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        push_steps::<STEP>(&self.steps, self.len, out);
    }
}

/// A text and a number behind it that grows by little from line to line: all but its last four digits are
/// taken for text.
#[derive(Debug, Default)]
pub(super) struct Counter {
    text: Vec<u8>,
    /// The same, and the first digits of the numbers of this range.
    front: (Text<STEP>, Range<u64>),
}

impl Counter {
    const LOW: u64 = 10_000;

    /// Its text becomes what `write` writes.
    pub(super) fn set(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.front.1 = 0..0;
        self.text.clear();
        write(&mut self.text);
    }

    /// Its text alone.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Appends its text and `number` to `out`.
    #[inline(always)]
    pub(super) fn push(&mut self, number: u64, out: &mut Vec<u8>) {
        let (front, range) = &self.front;
        if range.contains(&number) {
            front.push(out);
            out.extend_from_slice(&digits_4((number - range.start) as u32));
        } else {
            self.push_anew(number, out);
        }
    }

    #[cold]
    fn push_anew(&mut self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.text);
        push_number(out, number);
        let (front, range) = &mut self.front;
        let high = number / Self::LOW;
        if high > 0 {
            *range = high * Self::LOW..(high * Self::LOW).saturating_add(Self::LOW);
            front.set(|front| {
                front.extend_from_slice(&self.text);
                push_number(front, high);
            });
        }
    }
}

/// Appends the first `len` of `bytes` to `out`: in steps, where there are enough behind them.
#[inline(always)]
pub(super) fn push_front(bytes: &[u8], len: usize, out: &mut Vec<u8>) {
    match bytes.get(..len.next_multiple_of(STEP)) {
        Some(steps) => push_steps::<STEP>(steps, len, out),
        None => out.extend_from_slice(&bytes[..len]),
    }
}

/// Appends the first `len` bytes of `steps` to `out`.
#[inline(always)]
fn push_steps<const STEP: usize>(steps: &[u8], len: usize, out: &mut Vec<u8>) {
    let end = out.len() + len;
    for step in steps.chunks_exact(STEP) {
        let step: &[u8; STEP] = step.try_into().expect("it is as long");
        out.extend_from_slice(step);
    }
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_put_there_as_there_is() {
        let mut random = fastrand::Rng::with_seed(29);
        for len in 0..300 {
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let mut text = Text::<STEP>::default();
            text.set(|text| text.resize(100, b'x'));
            text.set(|text| text.extend_from_slice(&bytes));
            let mut out = b"before".to_vec();
            text.push(&mut out);
            out.extend_from_slice(b"behind");
            assert_eq!(out, [b"before", &bytes[..], b"behind"].concat());
        }
    }
}
