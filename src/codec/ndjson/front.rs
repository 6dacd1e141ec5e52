//! The front of a `data` record: all before the number of its length.

use std::ops::Range;

use super::super::number::{digits_4, push_number};

/// It is kept as text in which, from line to line, only the last digits of two numbers change. While one of
/// them has no digits before these, it is put together anew each time.
#[derive(Debug, Default)]
pub(super) struct Front {
    text: Vec<u8>,
    seq: Digits,
    offset: Digits,
}

/// The last four digits of a number.
#[derive(Debug, Default)]
struct Digits {
    /// The numbers that have the digits before them in common.
    numbers: Range<u64>,
    /// Where they stand in the text.
    at: usize,
}

impl Front {
    /// What stands before its numbers has changed.
    pub(super) fn forget(&mut self) {
        self.seq.numbers = 0..0;
    }

    /// Appends it with these numbers to `out`; `false`, and nothing is appended, where more than their last
    /// digits are others than before.
    #[inline(always)]
    pub(super) fn push(&self, seq: u64, offset: u64, out: &mut Vec<u8>) -> bool {
        let is_near = self.seq.numbers.contains(&seq) && self.offset.numbers.contains(&offset);
        if is_near {
            let start = out.len();
            out.extend_from_slice(&self.text);
            self.seq.put(seq, &mut out[start..]);
            self.offset.put(offset, &mut out[start..]);
        }
        is_near
    }

    /// Appends it, put together anew: what stands before the number of the record and before that of the
    /// offset, and these.
    #[cold]
    pub(super) fn push_anew(
        &mut self,
        (time, seq): (&[u8], u64),
        (flow, offset): (&[u8], u64),
        out: &mut Vec<u8>,
    ) {
        self.text.clear();
        self.text.extend_from_slice(time);
        push_number(&mut self.text, seq);
        self.seq = Digits::last(seq, &self.text);
        self.text.extend_from_slice(flow);
        push_number(&mut self.text, offset);
        self.offset = Digits::last(offset, &self.text);
        self.text.extend_from_slice(b",\"len\":");
        out.extend_from_slice(&self.text);
    }
}

impl Digits {
    const RANGE: u64 = 10_000;

    /// Those of `number`, with which `text` ends.
    fn last(number: u64, text: &[u8]) -> Self {
        let first = number - number % Self::RANGE;
        if first == 0 {
            // There may be fewer.
            return Self::default();
        }
        Self {
            numbers: first..first.saturating_add(Self::RANGE),
            at: text.len() - 4,
        }
    }

    #[inline(always)]
    fn put(&self, number: u64, text: &mut [u8]) {
        let digits = digits_4((number - self.numbers.start) as u32);
        text[self.at..self.at + digits.len()].copy_from_slice(&digits);
    }
}
