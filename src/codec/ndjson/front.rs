//! The front of a `data` record: all before its payload, kept as it stands from line to line.

use super::super::number::{digits_4, digits_4_and_4, push_number};

/// The longest that is kept.
const FRONT: usize = 192;

/// Written for the digits of the length and the key of the payload, which are fewer.
const KEY: usize = 16;

/// Written at most.
pub(super) const ROOM: usize = FRONT + KEY;

/// Numbers that have all digits but the last four in common.
const RANGE: u64 = 10_000;

/// The first number that has so many.
const LEAST: u64 = 1_000;

/// What stands between the length and the payload, for each number of digits behind so many bytes, and how long
/// it is without them.
pub(super) type Key = ([u128; 5], usize);

pub(super) const TEXT: Key = key(*b",\"text\":\"\0\0\0\0\0\0\0", 9);
pub(super) const BASE64: Key = key(*b",\"base64\":\"\0\0\0\0\0", 11);

const fn key(key: [u8; KEY], len: usize) -> Key {
    let key = u128::from_le_bytes(key);
    ([key, key << 8, key << 16, key << 24, key << 32], len)
}

/// All before the number of the length, of which from line to line only the last digits of two numbers change. It
/// is copied in pieces of a fixed size, longer than it is; what follows lies over the rest.
#[derive(Debug)]
pub(super) struct Front {
    state: State,
    text: [u8; FRONT],
    len: usize,
    seq: Digits,
    offset: Digits,
    /// Where it is put together.
    scratch: Vec<u8>,
}

/// What the first digits leave of the number of a record and of its offset: the one in the lower half, the other in
/// the upper.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Known,
    TooLong,
}

/// The last four digits of a number.
#[derive(Clone, Copy, Debug, Default)]
struct Digits {
    /// The number with zeros for them.
    first: u64,
    /// Where they stand.
    at: usize,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            text: [0; FRONT],
            len: 0,
            seq: Digits::default(),
            offset: Digits::default(),
            scratch: Vec::new(),
        }
    }
}

impl Numbers {
    /// Those of the record behind this one, which has so many bytes.
    #[inline(always)]
    pub(super) fn next(self, len: usize) -> Self {
        Self(self.0 + (1 | (len as u64) << 32))
    }

    /// Whether no more than last digits have changed.
    #[inline(always)]
    pub(super) fn are_near(self) -> bool {
        self.0 & u64::from(u32::MAX) < RANGE && self.0 >> 32 < RANGE
    }
}

impl Front {
    /// What stands beside the numbers is to change.
    pub(super) fn forget(&mut self) {
        self.state = State::Unknown;
    }

    /// Makes it that of a record with these numbers, where `time` stands before its own and `flow` before its
    /// offset. `None` if it cannot be: where they have fewer digits, or the others are long.
    pub(super) fn fit(
        &mut self,
        time: &[u8],
        flow: &[u8],
        seq: u64,
        offset: u64,
    ) -> Option<Numbers> {
        let fits = |digits: Digits, number: u64| number.wrapping_sub(digits.first) < RANGE;
        let can = self.state != State::TooLong && seq.min(offset) >= LEAST;
        let fits = self.state == State::Known && fits(self.seq, seq) && fits(self.offset, offset);
        let is_so = can && (fits || self.renew(time, flow, seq, offset));
        is_so.then(|| Numbers((seq - self.seq.first) | (offset - self.offset.first) << 32))
    }

    fn renew(&mut self, time: &[u8], flow: &[u8], seq: u64, offset: u64) -> bool {
        let text = &mut self.scratch;
        text.clear();
        text.extend_from_slice(time);
        self.seq = Digits::push(seq, text);
        text.extend_from_slice(flow);
        self.offset = Digits::push(offset, text);
        text.extend_from_slice(b",\"len\":");
        self.len = text.len();
        self.state = match self.text.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                State::Known
            }
            None => State::TooLong,
        };
        self.state == State::Known
    }

    /// Writes all before a payload of so many bytes, at most 9,999, and tells how much that is.
    #[inline(always)]
    pub(super) fn write(
        &self,
        numbers: Numbers,
        len: usize,
        (keys, key_len): Key,
        to: &mut [u8],
    ) -> usize {
        // A longer copy would be a call.
        let (first, second) = self.text.split_at(FRONT / 2);
        to[..FRONT / 2].copy_from_slice(first);
        to[FRONT / 2..FRONT].copy_from_slice(second);
        let [seq, offset] = digits_4_and_4(numbers.0);
        to[self.seq.at..][..seq.len()].copy_from_slice(&seq);
        to[self.offset.at..][..offset.len()].copy_from_slice(&offset);
        let digits = 1 + usize::from(len > 9) + usize::from(len > 99) + usize::from(len > 999);
        let number = u32::from_le_bytes(digits_4(len as u32)) >> (32 - 8 * digits);
        let key = keys[digits] | u128::from(number);
        to[self.len..][..KEY].copy_from_slice(&key.to_le_bytes());
        self.len + digits + key_len
    }
}

impl Digits {
    /// Appends `number`, which has so many.
    fn push(number: u64, text: &mut Vec<u8>) -> Self {
        push_number(text, number);
        Self {
            first: number - number % RANGE,
            at: text.len() - 4,
        }
    }
}
