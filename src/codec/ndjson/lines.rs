//! Whole lines, which most `data` records are with line framing, many in one go.
//!
//! Where they end, and what else wants an escape, is found for many at once; what a line needs of room is asked for
//! once. The short loop is for those in which only their end wants one, as nearly all do: what does not change from
//! one line to the next is not looked at there.

use base64_simd::{Out, STANDARD};

use super::super::buffer::Buffer;
use super::encode::escape_of;
use super::front::{self, BASE64, Front, Numbers, TEXT};
use super::scan::Look;
use crate::record::Framing;
use crate::record::chunk::Chunk;

/// Written for what stands behind the text, which is less.
const ENDING: usize = 8;

/// Bytes that are copied at once between escapes, be there as many or not.
const BLOCK: usize = 16;

/// The longest escape, and more.
const ESCAPE: usize = 8;

/// Room for a line, beside that for its payload.
const ROOM: usize = front::ROOM + ENDING;

/// What stands behind the text of a line, and how long it is.
const END: ([u8; ENDING], usize) = (*b"\\n\"}\n\0\0\0", 5);

/// … where `\r` is before its `\n`.
const END_CRLF: ([u8; ENDING], usize) = (*b"\\r\\n\"}\n\0", 7);

/// … behind base64.
const END_BASE64: &[u8] = b"\"}\n";

/// Bytes that are too few to look at them first.
const FEW: usize = 200;

/// Writes lines of one connection and direction that were seen at the same time.
#[derive(Debug)]
pub(super) struct Lines {
    /// Valid text that is not ASCII is written as it is, not looked at character by character.
    keeps_unicode: bool,
    front: Front,
    look: Look,
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
    /// Those of the first line.
    numbers: Numbers,
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
    /// It is only for one.
    Line,
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
        self.front.forget();
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
            let (seq, offset) = (chunk.next_seq, chunk.next_offset);
            let Some(numbers) = self.front.fit(time, flow, seq, offset) else {
                return last;
            };
            let source = Source {
                text,
                skipped: self.look.skipped(text),
                max,
                keeps_unicode: self.keeps_unicode,
                numbers,
            };
            let most = enough.saturating_sub(out.len());
            let progress = if has_escapes || !self.look.is_ascii() {
                source.write_escaped(&self.front, &self.look, most, out)
            } else {
                source.write(&self.front, &self.look, most, out.room(least))
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
                Stop::Numbers | Stop::Line => {}
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

impl Source<'_> {
    /// Writes lines until they have more than `most` bytes.
    fn write(&self, front: &Front, look: &Look, most: usize, room: &mut [u8]) -> Progress {
        let &Self {
            text,
            skipped,
            max,
            mut numbers,
            ..
        } = self;
        let (mut lines, mut read, mut written, mut last) = (0, 0, 0, 0);
        let stop = loop {
            if !numbers.are_near() {
                break Stop::Numbers;
            }
            let Some(plain) = look.run(skipped + read) else {
                break self.unseen(look, read);
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
            let start = front.write(numbers, len, TEXT, line);
            line[start..][..plain].copy_from_slice(body);
            line[start + plain..][..ENDING].copy_from_slice(&ending);
            last = written;
            written += start + plain + ending_len;
            lines += 1;
            read += len;
            numbers = numbers.next(len);
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
    fn write_escaped(&self, front: &Front, look: &Look, most: usize, out: &mut Buffer) -> Progress {
        let (end, form) = match self.find_end(look) {
            Ok(found) => found,
            Err(stop) => {
                return Progress {
                    lines: 0,
                    read: 0,
                    written: 0,
                    last: 0,
                    stop,
                };
            }
        };
        let len = end + 1;
        let written = match form {
            Form::Text { escapes } => {
                let line = out.room(ROOM + end + escapes * ESCAPE + BLOCK);
                let start = front.write(self.numbers, len, TEXT, line);
                let places = look.escapes_behind(self.skipped).take(escapes);
                start + put_text(self.text, end, places, &mut line[start..])
            }
            Form::Base64 => {
                let line = out.room(ROOM + STANDARD.encoded_length(len));
                let start = front.write(self.numbers, len, BASE64, line);
                let place = Out::from_slice(&mut line[start..]);
                let end = start + STANDARD.encode(&self.text[..len], place).len();
                line[end..][..END_BASE64.len()].copy_from_slice(END_BASE64);
                end + END_BASE64.len()
            }
        };
        Progress {
            lines: 1,
            read: len,
            written,
            last: 0,
            stop: match written > most {
                true => Stop::Enough,
                false => Stop::Line,
            },
        }
    }

    /// What it means that no end is known behind so many bytes: a line that is longer than it may be would be
    /// looked for anew with each of its pieces.
    fn unseen(&self, look: &Look, read: usize) -> Stop {
        match look.known(self.skipped + read) >= self.max {
            true => Stop::Other,
            false => Stop::Unseen,
        }
    }

    /// Where the first line ends, and how it is to be written.
    fn find_end(&self, look: &Look) -> Result<(usize, Form), Stop> {
        let longest = &self.text[..self.text.len().min(self.max)];
        let mut places = look.escapes_behind(self.skipped);
        if look.is_ascii() {
            let mut escapes = 0;
            loop {
                let at = places.next().ok_or_else(|| self.unseen(look, 0))?;
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

/// Writes the text before `end`, with escapes at these places, and what stands behind it.
#[inline(always)]
fn put_text(text: &[u8], end: usize, places: impl Iterator<Item = usize>, to: &mut [u8]) -> usize {
    let (mut written, mut copied) = (0, 0);
    for place in places {
        copy_blocks(&text[copied..], place - copied, &mut to[written..]);
        written += place - copied;
        let (escape, escape_len) = escape_of(text[place]);
        to[written..][..ESCAPE].copy_from_slice(&escape);
        written += escape_len;
        copied = place + 1;
    }
    copy_blocks(&text[copied..], end - copied, &mut to[written..]);
    written += end - copied;
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
