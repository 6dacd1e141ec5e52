//! Records to NDJSON: the hot path of every capture.
//!
//! Each record is appended to the output's buffer in one pass: no intermediate value, no
//! allocation; strings are copied in runs between the bytes that want an escape. What the
//! `wire` structs and `serde_json` would write is what this writes (DEL aside: see [`needs_escape`]).

use super::super::Audience;
use super::super::escape::{is_deceptive, plain_run, push_number};
use super::VERSION;
use super::wire::{close_name, direction_name, end_name, gap_name};
use crate::record::time::WallTimeText;
use crate::record::{Close, CloseReason, Conn, Event, Record, Start};

/// Writes records as lines of the capture format.
#[derive(Debug)]
pub struct Encoder {
    wall: WallTimeText,
    terminal: bool,
}

impl Encoder {
    /// For a terminal, C1 controls and format controls are escaped too; JSON would allow them.
    pub fn new(audience: Audience) -> Self {
        Self {
            wall: WallTimeText::default(),
            terminal: audience != Audience::Program,
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
                self.begin("data", None, record, out);
                self.conn(conn, out);
                key("dir", direction_name(*direction), out);
                number("offset", *offset, out);
                number("len", payload.len() as u64, out);
                self.payload(payload, out);
                if *partial {
                    out.extend_from_slice(b",\"partial\":true");
                }
            }
            Event::Start(start) => {
                self.begin("start", Some(VERSION), record, out);
                self.start(start, out);
            }
            Event::Open { conn, local } => {
                self.begin("open", None, record, out);
                self.conn(conn, out);
                self.string("local", local, out);
            }
            Event::Eof { conn, direction } => {
                self.begin("eof", None, record, out);
                self.conn(conn, out);
                key("dir", direction_name(*direction), out);
            }
            Event::Close { conn, close } => {
                self.begin("close", None, record, out);
                self.conn(conn, out);
                self.close(close, out);
            }
            Event::Gap {
                records,
                bytes,
                reason,
            } => {
                self.begin("gap", None, record, out);
                number("records", *records, out);
                number("bytes", *bytes, out);
                key("reason", gap_name(*reason), out);
            }
            Event::End { reason } => {
                self.begin("end", None, record, out);
                key("reason", end_name(*reason), out);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    fn begin(&mut self, kind: &str, v: Option<u32>, record: &Record<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        if let Some(v) = v {
            number("v", v.into(), out);
        }
        out.extend_from_slice(b",\"ts\":\"");
        out.extend_from_slice(self.wall.render(record.time.wall));
        out.push(b'"');
        number("elapsed_us", record.time.elapsed_us, out);
        number("seq", record.seq, out);
    }

    fn conn(&self, conn: &Conn<'_>, out: &mut Vec<u8>) {
        number("conn", conn.id.0, out);
        self.string("peer", &conn.peer, out);
    }

    fn start(&self, start: &Start, out: &mut Vec<u8>) {
        key("run", &start.run.to_string(), out);
        self.string("mode", &start.mode, out);
        out.extend_from_slice(b",\"listen\":[");
        for (nth, address) in start.listen.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            self.quoted(address, out);
        }
        out.push(b']');
        self.string("tool", &start.tool, out);
        number("segment", start.segment, out);
        if let Some(conn) = start.conn {
            number("conn", conn.0, out);
        }
    }

    fn close(&self, close: &Close, out: &mut Vec<u8>) {
        key("reason", close_name(&close.reason), out);
        if let CloseReason::Error(error) = &close.reason {
            self.string("error", error, out);
        }
        number("in_bytes", close.in_bytes, out);
        number("out_bytes", close.out_bytes, out);
        key("in_crc32", &format!("{:08x}", close.in_crc32), out);
        if let Some(crc) = close.out_crc32 {
            key("out_crc32", &format!("{crc:08x}"), out);
        }
        number("duration_us", close.duration_us, out);
    }

    fn payload(&self, payload: &[u8], out: &mut Vec<u8>) {
        if let Ok(text) = simdutf8::basic::from_utf8(payload) {
            self.string("text", text, out);
        } else {
            out.extend_from_slice(b",\"base64\":\"");
            base64_simd::STANDARD.encode_append(payload, out);
            out.push(b'"');
        }
    }

    fn string(&self, name: &str, text: &str, out: &mut Vec<u8>) {
        begin_key(name, out);
        self.quoted(text, out);
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
                    push_unicode_escape(unit, out);
                }
            }
        } else {
            escape(text.as_bytes(), out);
        }
        out.push(b'"');
    }
}

fn begin_key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A key whose value is one of this program's own words or digits: nothing to escape.
fn key(name: &str, value: &str, out: &mut Vec<u8>) {
    begin_key(name, out);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    begin_key(name, out);
    push_number(out, value);
}

/// What JSON demands, and DEL, which jq (1.5 to 1.8) escapes too: a capture that went through
/// `jq -c .` stays as it was.
fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

fn escape(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let plain = plain_run(bytes, needs_escape);
        out.extend_from_slice(&bytes[..plain]);
        let Some(&special) = bytes.get(plain) else {
            return;
        };
        bytes = &bytes[plain + 1..];
        let short = match special {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                push_unicode_escape(special.into(), out);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

fn push_unicode_escape(unit: u16, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |shift: u32| DIGITS[usize::from(unit >> shift & 0xf)];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}
