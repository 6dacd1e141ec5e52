//! The line that nearly every line is: a `data` record as the encoder writes it and jq leaves it,
//! read in one pass and without an allocation.
//!
//! Whatever is unusual about a line (another order of keys, a key of a later version, an error)
//! makes it one for the general parser, which alone decides what is a record and what is not. So
//! this one may refuse what it likes, but must never read a line otherwise; a property test holds
//! the two together.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::PEER_LIMIT;
use crate::record::{Conn, ConnId, Direction, Event, Record, Timestamp, WallTime};

/// A `data` record, but for its [`Texts`].
#[derive(Debug)]
pub(super) struct DataLine {
    time: Timestamp,
    seq: u64,
    conn: ConnId,
    direction: Direction,
    offset: u64,
    partial: bool,
}

/// What a line says in so many bytes. Kept from line to line, for its memory.
#[derive(Debug, Default)]
pub(super) struct Texts {
    peer: String,
    payload: Vec<u8>,
}

/// Reads `line`, its peer and payload into `texts`. `None` where it is not as the encoder would have
/// written it.
pub(super) fn read(line: &[u8], texts: &mut Texts) -> Option<DataLine> {
    let Texts { peer, payload } = texts;
    payload.clear();
    let mut cursor = Cursor { line, at: 0 };
    cursor.skip(b"{\"type\":\"data\",\"ts\":\"")?;
    let wall = WallTime::parse(cursor.plain()?)?;
    let elapsed_us = cursor.number(b",\"elapsed_us\":")?;
    let seq = cursor.number(b",\"seq\":")?;
    let conn = ConnId(cursor.number(b",\"conn\":")?);
    cursor.skip(b",\"peer\":\"")?;
    let found = (cursor.plain()).filter(|found| found.len() <= PEER_LIMIT)?;
    if peer != found {
        peer.clear();
        peer.push_str(found);
    }
    cursor.skip(b",\"dir\":\"")?;
    let direction = match cursor.plain()? {
        "in" => Direction::In,
        "out" => Direction::Out,
        _ => return None,
    };
    let offset = cursor.number(b",\"offset\":")?;
    let len = cursor.number(b",\"len\":")?;
    if cursor.skip(b",\"text\":\"").is_some() {
        cursor.text(payload)?;
    } else {
        cursor.skip(b",\"base64\":\"")?;
        let base64 = cursor.until_quote()?;
        base64_simd::STANDARD.decode_append(base64, payload).ok()?;
    }
    let partial = cursor.skip(b",\"partial\":true").is_some();
    cursor.skip(b"}")?;
    let is_whole = matches!(cursor.rest(), b"" | b"\n") && payload.len() as u64 == len;
    (is_whole && offset.checked_add(len).is_some()).then_some(DataLine {
        time: Timestamp { wall, elapsed_us },
        seq,
        conn,
        direction,
        offset,
        partial,
    })
}

impl DataLine {
    /// The record, with the texts that were read with it.
    pub(super) fn record<'a>(&self, texts: &'a Texts) -> Record<'a> {
        Record {
            time: self.time,
            seq: self.seq,
            event: Event::Data {
                conn: Conn {
                    id: self.conn,
                    peer: Cow::Borrowed(&texts.peer),
                },
                direction: self.direction,
                offset: self.offset,
                payload: Cow::Borrowed(&texts.payload),
                partial: self.partial,
            },
        }
    }
}

struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.line[self.at..]
    }

    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        self.rest().starts_with(expected).then(|| {
            self.at += expected.len();
        })
    }

    /// What stands in front of the next quote, and that quote.
    fn until_quote(&mut self) -> Option<&'a [u8]> {
        let len = memchr(b'"', self.rest())?;
        let text = &self.rest()[..len];
        self.at += len + 1;
        Some(text)
    }

    /// A string in which nothing is escaped, of printable ASCII, and its closing quote.
    fn plain(&mut self) -> Option<&'a str> {
        let text = self.until_quote()?;
        let is_plain = (text.iter()).fold(true, |is_plain, &byte| {
            is_plain & (0x20..0x7f).contains(&byte) & (byte != b'\\')
        });
        std::str::from_utf8(text).ok().filter(|_| is_plain)
    }

    /// A number behind its key, without a sign, a fraction or leading zeros.
    fn number(&mut self, key: &[u8]) -> Option<u64> {
        self.skip(key)?;
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit());
        let len = digits.count();
        let digits = &self.rest()[..len];
        self.at += len;
        // Nineteen digits fit; where there are more, the general parser sees whether they do.
        let is_canonical = matches!(len, 1..=19) && (len == 1 || digits[0] != b'0');
        is_canonical.then(|| {
            (digits.iter()).fold(0, |number, &digit| number * 10 + u64::from(digit - b'0'))
        })
    }

    /// A string and its closing quote, its escapes resolved.
    fn text(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let start = self.at;
        loop {
            let plain = memchr2(b'"', b'\\', self.rest())?;
            out.extend_from_slice(&self.rest()[..plain]);
            self.at += plain + 1;
            if self.line[self.at - 1] == b'"' {
                break;
            }
            self.escape(out)?;
        }
        // Every escape is ASCII, so the text is as valid as what it was written as.
        let written = &self.line[start..self.at - 1];
        let has_control = (written.iter()).fold(false, |has, &byte| has | (byte < 0x20));
        let is_valid = !has_control && simdutf8::basic::from_utf8(written).is_ok();
        is_valid.then_some(())
    }

    /// What stands behind a backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let kind = *self.rest().first()?;
        self.at += 1;
        out.push(match kind {
            b'"' | b'\\' | b'/' => kind,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'f' => 0x0c,
            b'u' => return self.unicode_escape(out),
            _ => return None,
        });
        Some(())
    }

    /// Four hexadecimal digits, other than half of a surrogate pair.
    fn unicode_escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let digits = self.rest().get(..4)?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit << 4 | char::from(digit).to_digit(16)?;
        }
        self.at += 4;
        let character = char::from_u32(unit)?;
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"type":"data","ts":"2026-11-22T12:03:01.110999Z","elapsed_us":1203340,"seq":2,"conn":3,"peer":"192.0.2.9:50122","dir":"in","offset":8192,"len":5,"text":"hi\r\n\u0000"}"#;

    #[test]
    fn a_line_of_the_encoder_is_read_and_an_unusual_one_is_left() {
        let mut texts = Texts::default();
        let line = read(LINE.as_bytes(), &mut texts).expect("it is canonical");
        assert_eq!(texts.payload, b"hi\r\n\0");
        let record = line.record(&texts);
        assert_eq!((record.seq, record.time.elapsed_us), (2, 1_203_340));
        for (usual, unusual) in [
            ("\"seq\":2", "\"seq\":02"),
            ("\"seq\":2", "\"seq\": 2"),
            ("\"seq\":2", "\"seq\":18446744073709551616"),
            ("\"len\":5", "\"len\":4"),
            ("192", "\\u0031"),
            ("hi", "\\ud83d\\ude00"),
            ("hi", "h\u{1}"),
            ("hi", "\\x"),
            ("}", ",\"new\":1}"),
            ("}", "}}"),
            ("8192", "18446744073709551615"),
            ("2026", "1926"),
        ] {
            let line = LINE.replace(usual, unusual);
            assert!(read(line.as_bytes(), &mut texts).is_none(), "{line}");
        }
        for cut in 0..LINE.len() {
            assert!(read(&LINE.as_bytes()[..cut], &mut texts).is_none());
        }
    }
}
