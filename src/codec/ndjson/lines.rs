//! Whole lines of plain text, which most `data` records are, many in one go.
//!
//! From line to line little changes: some digits of two numbers, the length, the text. All before the length is
//! kept as it stands, and copied in pieces of a fixed size, longer than it is; what follows lies over the rest of
//! it. So a line is written without a call, and without asking more than once whether there is room.

use super::super::buffer::Buffer;
use super::super::number::{digits_4, digits_4_and_4, push_number};
use super::scan::Look;
use crate::record::Framing;
use crate::record::chunk::Chunk;

/// The longest front.
const FRONT: usize = 192;

/// Text up to this length is copied as if it had it.
const SHORT: usize = 128;

/// Room for a line, beside its text.
const ROOM: usize = FRONT + KEY + ENDING;

/// The digits of the length, the key of the text, and more.
const KEY: usize = 16;

/// What stands behind the text, and more.
const ENDING: usize = 8;

/// Numbers that have all digits but the last four in common.
const RANGE: u64 = 10_000;

/// Writes lines of one connection and direction that were seen at the same time.
#[derive(Debug, Default)]
pub(super) struct Lines {
    front: Option<Front>,
    look: Look,
}

/// All before the number of the length.
#[derive(Debug)]
struct Front {
    text: [u8; FRONT],
    len: usize,
    seq: Digits,
    offset: Digits,
}

/// The last four digits of a number.
#[derive(Clone, Copy, Debug)]
struct Digits {
    /// The number with zeros for them.
    first: u64,
    /// Where they stand.
    at: usize,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
struct Source<'a> {
    text: &'a [u8],
    /// The longest line.
    max: usize,
}

/// What was written in one go.
#[derive(Debug)]
struct Run {
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
    /// Where the next line ends has not been looked for.
    Unseen,
    /// What comes next is no such line.
    Other,
}

impl Lines {
    /// The time or the flow is another one.
    pub(super) fn forget_front(&mut self) {
        self.front = None;
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
        text: &[u8],
        chunk: &mut Chunk<'_>,
        (time, flow): (&[u8], &[u8]),
        out: &mut Buffer,
        enough: usize,
    ) -> Option<usize> {
        let Framing::Line { max } = chunk.pieces.framing() else {
            return None;
        };
        let mut last = None;
        let mut room = ROOM + SHORT;
        loop {
            let numbers = (chunk.next_seq, chunk.next_offset);
            let front = match &self.front {
                Some(front) if front.is_near(numbers) => front,
                _ => self.front.insert(Front::of(time, flow, numbers)?),
            };
            let at = text.len() - chunk.pieces.rest().len();
            let most = enough.saturating_sub(out.len());
            let run = front.run(
                Source { text, max },
                &self.look,
                at,
                numbers,
                most,
                out.room(room),
            );
            if run.lines > 0 {
                last = Some(out.len() + run.last);
                out.advance(run.written);
                chunk.pass(run.lines, run.read);
            }
            match run.stop {
                Stop::Enough | Stop::Other => return last,
                Stop::Room(least) => room = least,
                Stop::Numbers => {}
                Stop::Unseen => {
                    let at = at + run.read;
                    if self.look.begins_at(at) || at == text.len() {
                        return last;
                    }
                    self.look.look(text, at);
                }
            }
        }
    }
}

impl Front {
    /// What it is for records from these numbers on. Where they have fewer digits, or what stands between is long,
    /// it does not pay.
    fn of(time: &[u8], flow: &[u8], (seq, offset): (u64, u64)) -> Option<Self> {
        const LEN_KEY: &[u8] = b",\"len\":";
        const MOST_DIGITS: usize = 20;
        let most = time.len() + flow.len() + 2 * MOST_DIGITS + LEN_KEY.len();
        if seq.min(offset) < RANGE || most > FRONT {
            return None;
        }
        let mut text = Vec::with_capacity(FRONT);
        text.extend_from_slice(time);
        let seq = Digits::push(seq, &mut text);
        text.extend_from_slice(flow);
        let offset = Digits::push(offset, &mut text);
        text.extend_from_slice(LEN_KEY);
        let len = text.len();
        text.resize(FRONT, 0);
        Some(Self {
            text: text.try_into().expect("it was made as long"),
            len,
            seq,
            offset,
        })
    }

    fn is_near(&self, (seq, offset): (u64, u64)) -> bool {
        let is_near = |digits: Digits, number: u64| number.wrapping_sub(digits.first) < RANGE;
        is_near(self.seq, seq) && is_near(self.offset, offset)
    }

    /// Writes lines from `at` on, the first of which has these numbers, until there are more than `most` bytes.
    fn run(
        &self,
        Source { text, max }: Source<'_>,
        look: &Look,
        at: usize,
        (seq, offset): (u64, u64),
        most: usize,
        room: &mut [u8],
    ) -> Run {
        // Both in one: what their first digits leave.
        let mut numbers = (seq - self.seq.first) | (offset - self.offset.first) << 32;
        let (mut next, mut written, mut last) = (at, 0, 0);
        let stop = loop {
            if numbers as u32 >= RANGE as u32 || numbers >> 32 >= RANGE {
                break Stop::Numbers;
            }
            let Some(plain) = look.plain_len(next) else {
                break Stop::Unseen;
            };
            let Some((body, rest)) = text[next..].split_at_checked(plain) else {
                break Stop::Other;
            };
            let (ending, ending_len, len) = match rest {
                [b'\n', ..] => (*b"\\n\"}\n\0\0\0", 5, plain + 1),
                [b'\r', b'\n', ..] => (*b"\\r\\n\"}\n\0", 7, plain + 2),
                _ => break Stop::Other,
            };
            if len > max {
                break Stop::Other;
            }
            let least = ROOM + plain.max(SHORT);
            let Some(line) = room.get_mut(written..).filter(|line| line.len() >= least) else {
                break Stop::Room(least);
            };
            let behind = self.begin(numbers, len, line);
            match text[next..].first_chunk::<SHORT>() {
                Some(short) if plain <= SHORT => {
                    line[behind..behind + SHORT].copy_from_slice(short)
                }
                _ => line[behind..behind + plain].copy_from_slice(body),
            }
            line[behind + plain..][..ENDING].copy_from_slice(&ending);
            last = written;
            written += behind + plain + ending_len;
            next += len;
            numbers += 1 | (len as u64) << 32;
            if written > most {
                break Stop::Enough;
            }
        };
        Run {
            lines: (numbers & u64::from(u32::MAX)) + self.seq.first - seq,
            read: next - at,
            written,
            last,
            stop,
        }
    }

    /// Writes all before the text, and tells how much that is.
    #[inline(always)]
    fn begin(&self, numbers: u64, len: usize, line: &mut [u8]) -> usize {
        // A copy that is longer would be a call.
        let (first, second) = self.text.split_at(FRONT / 2);
        line[..FRONT / 2].copy_from_slice(first);
        line[FRONT / 2..FRONT].copy_from_slice(second);
        let [seq, offset] = digits_4_and_4(numbers);
        line[self.seq.at..][..4].copy_from_slice(&seq);
        line[self.offset.at..][..4].copy_from_slice(&offset);
        let digits = 1 + usize::from(len > 9) + usize::from(len > 99) + usize::from(len > 999);
        let number = u32::from_le_bytes(digits_4(len as u32)) >> (32 - 8 * digits);
        let key = KEYS[digits] | u128::from(number);
        line[self.len..][..KEY].copy_from_slice(&key.to_le_bytes());
        self.len + digits + TEXT_KEY.len()
    }
}

const TEXT_KEY: &[u8; 9] = b",\"text\":\"";

/// [`TEXT_KEY`] behind so many digits.
const KEYS: [u128; 5] = {
    let mut key = [0; KEY];
    key.split_at_mut(TEXT_KEY.len()).0.copy_from_slice(TEXT_KEY);
    let key = u128::from_le_bytes(key);
    [key, key << 8, key << 16, key << 24, key << 32]
};

impl Digits {
    fn push(number: u64, text: &mut Vec<u8>) -> Self {
        push_number(text, number);
        Self {
            first: number - number % RANGE,
            at: text.len() - 4,
        }
    }
}
