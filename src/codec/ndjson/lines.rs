//! Whole lines of plain text, which most `data` records are, many in one go.
//!
//! From line to line little changes: some digits of two numbers, the length, the text. All before the length is
//! kept as it stands, and copied in pieces of a fixed size, longer than it is; what follows lies over the rest of
//! it. So a line is written without a call, and what it needs of room is asked for once.

use super::super::buffer::Buffer;
use super::super::number::{digits_4, digits_4_and_4, push_number};
use super::scan::Look;
use crate::record::Framing;
use crate::record::chunk::Chunk;

/// The longest front.
const FRONT: usize = 192;

/// Written for the digits of the length and the key of the text, which are fewer.
const KEY: usize = 16;

/// Written for what stands behind the text, which is less.
const ENDING: usize = 8;

/// Room for a line, beside that for its text.
const ROOM: usize = FRONT + KEY + ENDING;

/// Bytes that are too few to look at them first.
const FEW: usize = 200;

/// Numbers that have all digits but the last four in common.
const RANGE: u64 = 10_000;

/// The first number that has so many.
const LEAST: u64 = 1_000;

/// What stands between the length and the text, behind so many digits.
const KEYS: [u128; 5] = {
    let key = u128::from_le_bytes(*b",\"text\":\"\0\0\0\0\0\0\0");
    [key, key << 8, key << 16, key << 24, key << 32]
};

/// How long it is without them.
const KEY_LEN: usize = 9;

/// Writes lines of one connection and direction that were seen at the same time.
#[derive(Debug, Default)]
pub(super) struct Lines {
    front: Front,
    look: Look,
}

/// All before the number of the length.
#[derive(Debug)]
struct Front {
    state: State,
    text: [u8; FRONT],
    len: usize,
    seq: Digits,
    offset: Digits,
    /// Where it is put together.
    scratch: Vec<u8>,
}

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

/// What is to be written.
#[derive(Clone, Copy, Debug)]
struct Source<'a> {
    text: &'a [u8],
    /// How many of the bytes at which was looked stand before it.
    skipped: usize,
    /// The longest line.
    max: usize,
    /// The numbers of the first.
    seq: u64,
    offset: u64,
}

/// What was written in one go.
#[derive(Debug)]
struct Progress {
    lines: u64,
    read: usize,
    written: usize,
    /// Where the last line begins.
    last: usize,
    stop: Stop,
}

/// Why no more was.
#[derive(Debug)]
enum Stop {
    /// It is enough.
    Enough,
    /// So much room is needed.
    Room(usize),
    /// More digits change than the front knows.
    Numbers,
    /// Where the next line ends has not been looked for, or not that far.
    Unseen,
    /// What comes next is no such line.
    Other,
}

impl Lines {
    /// The time or the flow is another one.
    pub(super) fn forget_front(&mut self) {
        self.front.state = State::Unknown;
    }

    /// The text is another one.
    pub(super) fn forget_text(&mut self) {
        self.look.forget();
    }

    /// Appends the next records of `chunk`, as long as they are such lines, until `out` has more than `enough`
    /// bytes. `time` and `flow` are what stands before the number of a record and before its offset. Tells where
    /// the last of them begins, if there was one.
    pub(super) fn write(
        &mut self,
        chunk: &mut Chunk<'_>,
        time: &[u8],
        flow: &[u8],
        out: &mut Buffer,
        enough: usize,
    ) -> Option<usize> {
        let max = match chunk.pieces.framing() {
            Framing::Line { max } if chunk.pieces.rest().len() >= FEW => max,
            _ => return None,
        };
        let mut last = None;
        let mut room = ROOM;
        loop {
            let text = chunk.pieces.rest();
            let source = Source {
                text,
                skipped: self.look.skipped(text),
                max,
                seq: chunk.next_seq,
                offset: chunk.next_offset,
            };
            if !self.front.fits(&source) && !self.front.renew(time, flow, &source) {
                return last;
            }
            let most = enough.saturating_sub(out.len());
            let progress = self.front.write(&source, &self.look, most, out.room(room));
            if progress.lines > 0 {
                last = Some(out.len() + progress.last);
                out.advance(progress.written);
                chunk.pass(progress.lines, progress.read);
            }
            match progress.stop {
                Stop::Enough | Stop::Other => return last,
                Stop::Room(least) => room = least,
                Stop::Numbers => {}
                Stop::Unseen => {
                    let text = chunk.pieces.rest();
                    if text.is_empty() || self.look.skipped(text) == 0 {
                        return last;
                    }
                    self.look.look(text);
                }
            }
        }
    }
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

impl Front {
    /// Makes it that of these lines, if it can be: their numbers may have fewer digits, or what stands beside them
    /// be long.
    fn renew(&mut self, time: &[u8], flow: &[u8], source: &Source<'_>) -> bool {
        if self.state == State::TooLong || source.seq.min(source.offset) < LEAST {
            return false;
        }
        let text = &mut self.scratch;
        text.clear();
        text.extend_from_slice(time);
        self.seq = Digits::push(source.seq, text);
        text.extend_from_slice(flow);
        self.offset = Digits::push(source.offset, text);
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

    /// Whether only last digits are others.
    fn fits(&self, source: &Source<'_>) -> bool {
        let fits = |digits: Digits, number: u64| {
            number >= LEAST && number.wrapping_sub(digits.first) < RANGE
        };
        self.state == State::Known && fits(self.seq, source.seq) && fits(self.offset, source.offset)
    }

    /// Writes lines until they have more than `most` bytes.
    fn write(&self, source: &Source<'_>, look: &Look, most: usize, room: &mut [u8]) -> Progress {
        let &Source {
            text, skipped, max, ..
        } = source;
        // Both in one: what their first digits leave.
        let mut numbers = (source.seq - self.seq.first) | (source.offset - self.offset.first) << 32;
        let (mut lines, mut read, mut written, mut last) = (0, 0, 0, 0);
        let stop = loop {
            if numbers as u32 >= RANGE as u32 || numbers >> 32 >= RANGE {
                break Stop::Numbers;
            }
            let Some(plain) = look.plain_len(skipped.wrapping_add(read)) else {
                break Stop::Unseen;
            };
            let rest = &text[read..];
            let Some((body, behind)) = rest.split_at_checked(plain) else {
                break Stop::Other;
            };
            let (ending, ending_len, len) = match behind {
                [b'\n', ..] => (*b"\\n\"}\n\0\0\0", 5, plain + 1),
                [b'\r', b'\n', ..] => (*b"\\r\\n\"}\n\0", 7, plain + 2),
                _ => break Stop::Other,
            };
            if len > max {
                break Stop::Other;
            }
            let least = ROOM + plain;
            let Some(line) = room.get_mut(written..).filter(|line| line.len() >= least) else {
                break Stop::Room(least);
            };
            let start = self.begin(numbers, len, line);
            line[start..][..plain].copy_from_slice(body);
            line[start + plain..][..ENDING].copy_from_slice(&ending);
            last = written;
            written += start + plain + ending_len;
            lines += 1;
            read += len;
            numbers += 1 | (len as u64) << 32;
            if written > most {
                break Stop::Enough;
            }
        };
        Progress {
            lines,
            read,
            written,
            last,
            stop,
        }
    }

    /// Writes all before the text of a line, and tells how much that is.
    #[inline(always)]
    fn begin(&self, numbers: u64, len: usize, line: &mut [u8]) -> usize {
        // A longer copy would be a call.
        let (first, second) = self.text.split_at(FRONT / 2);
        line[..FRONT / 2].copy_from_slice(first);
        line[FRONT / 2..FRONT].copy_from_slice(second);
        let [seq, offset] = digits_4_and_4(numbers);
        line[self.seq.at..][..seq.len()].copy_from_slice(&seq);
        line[self.offset.at..][..offset.len()].copy_from_slice(&offset);
        let digits = 1 + usize::from(len > 9) + usize::from(len > 99) + usize::from(len > 999);
        let number = u32::from_le_bytes(digits_4(len as u32)) >> (32 - 8 * digits);
        let key = KEYS[digits] | u128::from(number);
        line[self.len..][..KEY].copy_from_slice(&key.to_le_bytes());
        self.len + digits + KEY_LEN
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
