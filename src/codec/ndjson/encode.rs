//! Records to NDJSON: the hot path of every capture.
//!
//! Each record is appended to the output's buffer in one pass: no intermediate value, no
//! allocation; strings are copied in runs between the bytes that want an escape. What the
//! `wire` structs and `serde_json` would write is what this writes (DEL aside: see [`wants_escape`]).
//!
//! Lines are written by `lines`, many in one go; here is what all other records are written by.

use super::super::Audience;
use super::super::buffer::Buffer;
use super::super::escape::is_deceptive;
use super::super::number::push_number;
use super::VERSION;
use super::lines::Lines;
use super::scan::{BITS, bits, filled, plain_len, wants_escape};
use super::wire::{close_name, direction_name, end_name, gap_name};
use crate::record::chunk::{Chunk, Piece};
use crate::record::time::WallTimeText;
use crate::record::{Close, CloseReason, Conn, ConnId, Direction, Event, Record, Start, Timestamp};

/// How the record begins that nearly every record is.
const DATA: &[u8] = b"{\"type\":\"data\"";

/// Writes records as lines of the capture format.
///
/// Many records share their time (all lines of one read) or their connection with the one before,
/// so both are kept as text.
#[derive(Debug)]
pub struct Encoder {
    terminal: bool,
    wall: WallTimeText,
    /// `{"type":"data","ts":…,"elapsed_us":…,"seq":` of this time; other records take it from behind
    /// [`DATA`] on.
    time: (Option<Timestamp>, Vec<u8>),
    /// `,"conn":…,"peer":…,"dir":…,"offset":` of this connection and direction.
    flow: (Option<(ConnId, String, Direction)>, Vec<u8>),
    lines: Lines,
}

impl Encoder {
    /// For a terminal, C1 controls and format controls are escaped too; JSON would allow them.
    pub fn new(audience: Audience) -> Self {
        let terminal = audience != Audience::Program;
        Self {
            terminal,
            wall: WallTimeText::default(),
            time: (None, Vec::new()),
            flow: (None, Vec::new()),
            lines: Lines::new(!terminal),
        }
    }

    /// Appends `record` and a newline to `out`.
    pub fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &record.event {
            Event::Data {
                conn,
                direction,
                offset,
                payload,
                partial,
            } => {
                self.keep_time(record.time);
                self.keep_flow(conn, *direction);
                let (seq, offset, partial) = (record.seq, *offset, *partial);
                let piece = Piece {
                    seq,
                    offset,
                    payload,
                    partial,
                };
                return self.piece(&piece, out);
            }
            Event::Start(start) => {
                out.extend_from_slice(b"{\"type\":\"start\"");
                number("v", VERSION.into(), out);
                self.moment(record, out);
                self.start(start, out);
            }
            Event::Open {
                conn,
                local,
                target,
            } => {
                out.extend_from_slice(b"{\"type\":\"open\"");
                self.moment(record, out);
                self.conn(conn, out);
                self.string("local", local, out);
                if let Some(target) = target {
                    self.string("target", target, out);
                }
            }
            Event::Eof { conn, direction } => {
                out.extend_from_slice(b"{\"type\":\"eof\"");
                self.moment(record, out);
                self.conn(conn, out);
                word("dir", direction_name(*direction), out);
            }
            Event::Close { conn, close } => {
                out.extend_from_slice(b"{\"type\":\"close\"");
                self.moment(record, out);
                self.conn(conn, out);
                self.close(close, out);
            }
            Event::Gap {
                records,
                bytes,
                reason,
            } => {
                out.extend_from_slice(b"{\"type\":\"gap\"");
                self.moment(record, out);
                number("records", *records, out);
                number("bytes", *bytes, out);
                self.string("reason", gap_name(reason), out);
            }
            Event::End { reason } => {
                out.extend_from_slice(b"{\"type\":\"end\"");
                self.moment(record, out);
                self.string("reason", end_name(reason), out);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    /// Appends records of `chunk`, which has some, to `out` until it has more than `enough` bytes; at least one.
    /// Tells where the last of them begins.
    pub fn encode_chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        out: &mut Buffer,
        enough: usize,
    ) -> usize {
        self.keep_time(chunk.time);
        self.keep_flow(&chunk.conn, chunk.direction);
        self.lines.forget_text();
        let first = chunk.next_seq;
        let mut last = out.len();
        while !chunk.is_empty() && (chunk.next_seq == first || out.len() <= enough) {
            let start = out.len();
            let (time, flow) = (&self.time.1, &self.flow.1);
            last = match self.lines.write(chunk, time, flow, out, enough) {
                Some(last) => last,
                None => {
                    if let Some(piece) = chunk.next_piece() {
                        self.piece(&piece, out.vec());
                    }
                    start
                }
            };
        }
        last
    }

    /// A `data` record of the time and the flow that are kept.
    fn piece(&self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let payload = piece.payload;
        out.extend_from_slice(&self.time.1);
        push_number(out, piece.seq);
        out.extend_from_slice(&self.flow.1);
        push_number(out, piece.offset);
        number("len", payload.len() as u64, out);
        // Most end a line, and nothing else in them wants an escape.
        let plain = plain_len(beginning(payload));
        let ending: &[u8] = match &payload[plain..] {
            b"\n" if !piece.partial => b"\\n\"}\n",
            b"\r\n" if !piece.partial => b"\\r\\n\"}\n",
            _ => {
                self.payload(payload, out);
                return out.extend_from_slice(match piece.partial {
                    true => b",\"partial\":true}\n",
                    false => b"}\n",
                });
            }
        };
        out.extend_from_slice(b",\"text\":\"");
        out.extend_from_slice(&payload[..plain]);
        out.extend_from_slice(ending);
    }

    /// When it was, and its number.
    fn moment(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        self.keep_time(record.time);
        out.extend_from_slice(&self.time.1[DATA.len()..]);
        push_number(out, record.seq);
    }

    fn keep_time(&mut self, time: Timestamp) {
        let (kept, text) = &mut self.time;
        if *kept != Some(time) {
            *kept = Some(time);
            self.lines.forget_front();
            text.clear();
            text.extend_from_slice(DATA);
            text.extend_from_slice(b",\"ts\":\"");
            text.extend_from_slice(self.wall.render(time.wall));
            text.push(b'"');
            number("elapsed_us", time.elapsed_us, text);
            begin_key("seq", text);
        }
    }

    /// Whose bytes they are and which way they went, up to the number of the offset.
    fn keep_flow(&mut self, conn: &Conn<'_>, direction: Direction) {
        let is_kept = self.flow.0.as_ref().is_some_and(|(id, peer, kept)| {
            (*id, peer.as_str(), *kept) == (conn.id, &conn.peer, direction)
        });
        if !is_kept {
            self.lines.forget_front();
            let (kept, mut text) = std::mem::take(&mut self.flow);
            text.clear();
            self.conn(conn, &mut text);
            word("dir", direction_name(direction), &mut text);
            begin_key("offset", &mut text);
            let mut peer = kept.map(|(_, peer, _)| peer).unwrap_or_default();
            peer.clear();
            peer.push_str(&conn.peer);
            self.flow = (Some((conn.id, peer, direction)), text);
        }
    }

    fn conn(&self, conn: &Conn<'_>, out: &mut Vec<u8>) {
        number("conn", conn.id.0, out);
        self.string("peer", &conn.peer, out);
    }

    fn start(&self, start: &Start, out: &mut Vec<u8>) {
        word("run", &start.run.to_string(), out);
        self.string("mode", &start.mode, out);
        self.strings("listen", &start.listen, out);
        if !start.connect.is_empty() {
            self.strings("connect", &start.connect, out);
        }
        self.string("tool", &start.tool, out);
        number("segment", start.segment, out);
        if let Some(conn) = start.conn {
            number("conn", conn.0, out);
        }
        if start.part {
            out.extend_from_slice(b",\"part\":true");
        }
    }

    fn close(&self, close: &Close, out: &mut Vec<u8>) {
        self.string("reason", close_name(&close.reason), out);
        if let CloseReason::Error(error) = &close.reason {
            self.string("error", error, out);
        }
        number("in_bytes", close.in_bytes, out);
        number("out_bytes", close.out_bytes, out);
        word("in_crc32", &format!("{:08x}", close.in_crc32), out);
        if let Some(crc) = close.out_crc32 {
            word("out_crc32", &format!("{crc:08x}"), out);
        }
        number("duration_us", close.duration_us, out);
    }

    fn payload(&self, payload: &[u8], out: &mut Vec<u8>) {
        if payload.is_ascii() {
            // Most of what devices send. Deceptive characters lie beyond, so a terminal is no exception.
            out.extend_from_slice(b",\"text\":\"");
            escape(payload, out);
            out.push(b'"');
        } else if let Ok(text) = simdutf8::basic::from_utf8(payload) {
            self.string("text", text, out);
        } else {
            out.extend_from_slice(b",\"base64\":\"");
            base64_simd::STANDARD.encode_append(payload, out);
            out.push(b'"');
        }
    }

    pub(super) fn string(&self, name: &str, text: &str, out: &mut Vec<u8>) {
        begin_key(name, out);
        self.quoted(text, out);
    }

    fn strings(&self, name: &str, texts: &[String], out: &mut Vec<u8>) {
        begin_key(name, out);
        out.push(b'[');
        for (nth, text) in texts.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            self.quoted(text, out);
        }
        out.push(b']');
    }

    fn quoted(&self, text: &str, out: &mut Vec<u8>) {
        out.push(b'"');
        if self.terminal {
            for run in text.split_inclusive(is_deceptive) {
                let last = run.chars().next_back().filter(|&c| is_deceptive(c));
                let plain = run.len() - last.map_or(0, char::len_utf8);
                escape(&run.as_bytes()[..plain], out);
                for unit in last
                    .iter()
                    .flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec())
                {
                    out.extend_from_slice(&unicode_escape(unit));
                }
            }
        } else {
            escape(text.as_bytes(), out);
        }
        out.push(b'"');
    }
}

/// As much of `bytes` as is worth the attempt to take it for a plain line.
fn beginning(bytes: &[u8]) -> &[u8] {
    const MOST: usize = 512;
    &bytes[..bytes.len().min(MOST)]
}

fn begin_key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A key whose value is one of this program's own words or digits: nothing to escape.
pub(super) fn word(name: &str, value: &str, out: &mut Vec<u8>) {
    begin_key(name, out);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

pub(super) fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    begin_key(name, out);
    push_number(out, value);
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    // What has been copied ends here; what is plain since then is copied as one run.
    let mut copied = 0;
    let mut escape_at = |at: usize, out: &mut Vec<u8>| {
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        push_escape(bytes[at], out);
    };
    let mut escape_block = |start: usize, block: &[u8; BITS], out: &mut Vec<u8>| {
        let mut bits = bits(block, wants_escape);
        while bits != 0 {
            escape_at(start + bits.trailing_zeros() as usize, out);
            bits &= bits - 1;
        }
    };
    let mut blocks = bytes.chunks_exact(BITS);
    for (nth, block) in blocks.by_ref().enumerate() {
        let block = block.try_into().expect("it has that many bytes");
        escape_block(nth * BITS, block, out);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        escape_block(bytes.len() - tail.len(), &filled(tail), out);
    }
    out.extend_from_slice(&bytes[copied..]);
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    // Copies of lengths that are known are no calls.
    match escape_of(byte) {
        ([backslash, letter, ..], 2) => out.extend_from_slice(&[backslash, letter]),
        (escape, _) => out.extend_from_slice(&escape[..6]),
    }
}

/// The escape of an ASCII character, and how long it is.
#[inline(always)]
pub(super) fn escape_of(byte: u8) -> ([u8; 8], usize) {
    let (escape, len) = ESCAPES[usize::from(byte & 0x7f)];
    (escape, usize::from(len))
}

static ESCAPES: [([u8; 8], u8); 128] = {
    let mut escapes = [([0; 8], 0); 128];
    let mut byte = 0;
    while byte < 128 {
        escapes[byte as usize] = match escape_letter(byte) {
            b'u' => {
                let [a, b, c, d, e, f] = unicode_escape(byte as u16);
                ([a, b, c, d, e, f, 0, 0], 6)
            }
            short => ([b'\\', short, 0, 0, 0, 0, 0, 0], 2),
        };
        byte += 1;
    }
    escapes
};

/// What stands behind the backslash; behind a `u` four digits.
const fn escape_letter(byte: u8) -> u8 {
    match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => b'u',
    }
}

const fn unicode_escape(unit: u16) -> [u8; 6] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let [high, low] = unit.to_be_bytes();
    let [a, b, c, d] = [high >> 4, high & 0xf, low >> 4, low & 0xf];
    let [a, b, c, d] = [
        DIGITS[a as usize],
        DIGITS[b as usize],
        DIGITS[c as usize],
        DIGITS[d as usize],
    ];
    [b'\\', b'u', a, b, c, d]
}
