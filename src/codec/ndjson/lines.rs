//! Whole lines of plain text, which most `data` records are, many in one go.
//!
//! From line to line little changes: some digits of two numbers, the length, the text. All before the length is
//! kept as it stands, and copied in pieces of a fixed size, longer than it is; what follows lies over the rest of
//! it. So a line is written without a call, and what it needs of room is asked for once.

use super::super::buffer::Buffer;
use super::super::number::{digits_4, digits_4_and_4, push_number};
use super::encode::escape_of;
use super::scan::Look;
use crate::record::Framing;
use crate::record::chunk::Chunk;

/// The longest front.
const FRONT: usize = 192;

/// Written for the digits of the length and the key of the text, which are fewer.
const KEY: usize = 16;

/// Written for what stands behind the text, which is less.
const ENDING: usize = 8;

/// Bytes that are copied at once between escapes, be there as many or not.
const BLOCK: usize = 16;

/// The longest escape, and more.
const ESCAPE: usize = 8;

/// Room for a line, beside that for its text.
const ROOM: usize = FRONT + KEY + ENDING;

/// What stands behind the text of a line, and how long it is.
const END: ([u8; ENDING], usize) = (*b"\\n\"}\n\0\0\0", 5);

/// … where `\r` is before its `\n`.
const END_CRLF: ([u8; ENDING], usize) = (*b"\\r\\n\"}\n\0", 7);

/// Bytes that are too few to look at them first.
const FEW: usize = 200;

/// Numbers that have all digits but the last four in common.
const RANGE: u64 = 10_000;

/// The first number that has so many.
const LEAST: u64 = 1_000;

/// What stands between the length and the payload, for each number of digits behind so many bytes, and how long
/// it is without them.
type Key = ([u128; 5], usize);

const TEXT: Key = key(*b",\"text\":\"\0\0\0\0\0\0\0", 9);
const BASE64: Key = key(*b",\"base64\":\"\0\0\0\0\0", 11);

const fn key(key: [u8; KEY], len: usize) -> Key {
    let key = u128::from_le_bytes(key);
    ([key, key << 8, key << 16, key << 24, key << 32], len)
}

/// Writes lines of one connection and direction that were seen at the same time.
#[derive(Debug)]
pub(super) struct Lines {
    /// Valid text that is not ASCII is written as it is, not looked at character by character.
    keeps_unicode: bool,
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
    /// What is not ASCII stays as it is.
    keeps_unicode: bool,
    /// The numbers of the first.
    seq: u64,
    offset: u64,
}

/// How a line is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// With so many escapes before its end.
    Text {
        escapes: usize,
    },
    Base64,
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
    /// The next line wants more escapes than at its end.
    Escapes,
    /// The next line was taken for ASCII, and is not.
    NotAscii,
    /// What comes next is no such line.
    Other,
}

impl Lines {
    pub(super) fn new(keeps_unicode: bool) -> Self {
        Self {
            keeps_unicode,
            front: Front::default(),
            look: Look::default(),
        }
    }

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
        let (mut least, mut has_escapes) = (ROOM, false);
        loop {
            let text = chunk.pieces.rest();
            let source = Source {
                text,
                skipped: self.look.skipped(text),
                max,
                keeps_unicode: self.keeps_unicode,
                seq: chunk.next_seq,
                offset: chunk.next_offset,
            };
            if !self.front.fits(source.seq, source.offset) && !self.front.renew(time, flow, &source)
            {
                return last;
            }
            let most = enough.saturating_sub(out.len());
            let progress = if has_escapes || !self.look.is_ascii() {
                self.front.write_escaped(&source, &self.look, most, out)
            } else {
                self.front.write(&source, &self.look, most, out.room(least))
            };
            has_escapes = false;
            if progress.lines > 0 {
                last = Some(out.len() + progress.last);
                out.advance(progress.written);
                chunk.pass(progress.lines, progress.read);
            }
            match progress.stop {
                Stop::Enough | Stop::Other => return last,
                Stop::Room(more) => least = more,
                Stop::Numbers => {}
                Stop::Escapes => has_escapes = true,
                Stop::NotAscii => self.look.look(chunk.pieces.rest(), false),
                Stop::Unseen => {
                    let text = chunk.pieces.rest();
                    if text.is_empty() || self.look.skipped(text) == 0 {
                        return last;
                    }
                    self.look.look(text, true);
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
    fn fits(&self, seq: u64, offset: u64) -> bool {
        let fits = |digits: Digits, number: u64| {
            number >= LEAST && number.wrapping_sub(digits.first) < RANGE
        };
        self.state == State::Known && fits(self.seq, seq) && fits(self.offset, offset)
    }

    /// Writes lines until they have more than `most` bytes.
    fn write(&self, source: &Source<'_>, look: &Look, most: usize, room: &mut [u8]) -> Progress {
        let &Source {
            text, skipped, max, ..
        } = source;
        let mut numbers = self.last_digits(source.seq, source.offset);
        let (mut lines, mut read, mut written, mut last) = (0, 0, 0, 0);
        let stop = loop {
            if numbers as u32 >= RANGE as u32 || numbers >> 32 >= RANGE {
                break Stop::Numbers;
            }
            let Some(plain) = look.run(skipped + read) else {
                break Stop::Unseen;
            };
            let rest = &text[read..];
            let Some((body, behind)) = rest.split_at_checked(plain) else {
                break Stop::Other;
            };
            let ((ending, ending_len), len) = match behind {
                [b'\n', ..] => (END, plain + 1),
                [b'\r', b'\n', ..] => (END_CRLF, plain + 2),
                _ => break Stop::Escapes,
            };
            if len > max {
                break Stop::Other;
            }
            let least = ROOM + plain;
            let Some(line) = room.get_mut(written..).filter(|line| line.len() >= least) else {
                break Stop::Room(least);
            };
            let start = self.begin(numbers, len, TEXT, line);
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

    /// Writes one line that wants more escapes than at its end, or is not ASCII.
    #[inline(never)]
    fn write_escaped(
        &self,
        source: &Source<'_>,
        look: &Look,
        most: usize,
        out: &mut Buffer,
    ) -> Progress {
        let found = source.find_end(look);
        let mut progress = Progress {
            lines: 0,
            read: 0,
            written: 0,
            last: 0,
            stop: Stop::Numbers,
        };
        let (end, form) = match found {
            Ok(found) => found,
            Err(stop) => return Progress { stop, ..progress },
        };
        let numbers = self.last_digits(source.seq, source.offset);
        let len = end + 1;
        progress.lines = 1;
        progress.read = len;
        progress.written = match form {
            Form::Text { escapes } => {
                let room = ROOM + end + escapes * ESCAPE + BLOCK;
                let line = out.room(room);
                let start = self.begin(numbers, len, TEXT, line);
                let places = look.escapes_behind(source.skipped).take(escapes);
                start + push_text(&source.text[..end], places, source.text, &mut line[start..])
            }
            Form::Base64 => {
                let base64 = base64_simd::STANDARD;
                let line = out.room(ROOM + base64.encoded_length(len));
                let start = self.begin(numbers, len, BASE64, line);
                let text = base64.encode(
                    &source.text[..len],
                    base64_simd::Out::from_slice(&mut line[start..]),
                );
                let end = start + text.len();
                line[end..][..3].copy_from_slice(b"\"}\n");
                end + 3
            }
        };
        if progress.written > most {
            progress.stop = Stop::Enough;
        }
        progress
    }

    /// What the first digits leave of both, in one.
    fn last_digits(&self, seq: u64, offset: u64) -> u64 {
        (seq - self.seq.first) | (offset - self.offset.first) << 32
    }

    /// Writes the last digits of both where they stand.
    #[inline(always)]
    fn put(&self, last_digits: u64, line: &mut [u8]) {
        let [seq, offset] = digits_4_and_4(last_digits);
        line[self.seq.at..][..seq.len()].copy_from_slice(&seq);
        line[self.offset.at..][..offset.len()].copy_from_slice(&offset);
    }

    /// Writes all before the text of a line, and tells how much that is.
    #[inline(always)]
    fn begin(&self, last_digits: u64, len: usize, (keys, key_len): Key, line: &mut [u8]) -> usize {
        // A longer copy would be a call.
        let (first, second) = self.text.split_at(FRONT / 2);
        line[..FRONT / 2].copy_from_slice(first);
        line[FRONT / 2..FRONT].copy_from_slice(second);
        self.put(last_digits, line);
        let digits = 1 + usize::from(len > 9) + usize::from(len > 99) + usize::from(len > 999);
        let number = u32::from_le_bytes(digits_4(len as u32)) >> (32 - 8 * digits);
        let key = keys[digits] | u128::from(number);
        line[self.len..][..KEY].copy_from_slice(&key.to_le_bytes());
        self.len + digits + key_len
    }
}

impl Source<'_> {
    /// Where the first line ends, and how it is to be written.
    fn find_end(&self, look: &Look) -> Result<(usize, Form), Stop> {
        let longest = &self.text[..self.text.len().min(self.max)];
        let mut places = look.escapes_behind(self.skipped);
        if look.is_ascii() {
            let mut escapes = 0;
            loop {
                let at = places.next().ok_or(Stop::Unseen)?;
                match longest.get(at).ok_or(Stop::Other)? {
                    b'\n' => return Ok((at, Form::Text { escapes })),
                    0x80.. => return Err(Stop::NotAscii),
                    _ => escapes += 1,
                }
            }
        }
        let end = memchr::memchr(b'\n', longest).ok_or(Stop::Other)?;
        if end >= look.known(self.skipped) {
            return Err(Stop::Unseen);
        }
        let line = &longest[..end];
        if !line.is_ascii() {
            if !is_utf8(line) {
                return Ok((end, Form::Base64));
            }
            if !self.keeps_unicode {
                return Err(Stop::Other);
            }
        }
        let escapes = places.take_while(|&at| at < end).count();
        Ok((end, Form::Text { escapes }))
    }
}

fn is_utf8(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

/// Writes text with escapes at these places, and the end of its line.
#[inline(always)]
fn push_text(
    text: &[u8],
    places: impl Iterator<Item = usize>,
    source: &[u8],
    to: &mut [u8],
) -> usize {
    let (mut written, mut copied) = (0, 0);
    for place in places {
        copy_blocks(&source[copied..], place - copied, &mut to[written..]);
        written += place - copied;
        let (escape, escape_len) = escape_of(source[place]);
        to[written..][..ESCAPE].copy_from_slice(&escape);
        written += escape_len;
        copied = place + 1;
    }
    copy_blocks(&source[copied..], text.len() - copied, &mut to[written..]);
    written += text.len() - copied;
    let (ending, ending_len) = END;
    to[written..][..ENDING].copy_from_slice(&ending);
    written + ending_len
}

/// Copies the first `len` of `bytes`, and some more.
#[inline(always)]
fn copy_blocks(bytes: &[u8], len: usize, to: &mut [u8]) {
    let mut at = 0;
    while at < len {
        match (
            bytes[at..].first_chunk::<BLOCK>(),
            to[at..].first_chunk_mut(),
        ) {
            (Some(block), Some(to)) => *to = *block,
            _ => return to[at..len].copy_from_slice(&bytes[at..len]),
        }
        at += BLOCK;
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
