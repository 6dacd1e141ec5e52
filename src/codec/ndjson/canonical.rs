//! The lines that nearly all are: records of a connection as the encoder writes them and jq leaves them,
//! read in one pass, those of data without an allocation.
//!
//! Whatever is unusual about a line (another order of keys, a key of a later version, an error)
//! makes it one for the general parser, which alone decides what is a record and what is not. So
//! this one may refuse what it likes, but must never read a line otherwise; a property test holds
//! the two together.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::PEER_LIMIT;
use super::wire::{close_reason, hex};
use crate::record::{Close, Conn, ConnId, Direction, Event, Record, Timestamp, WallTime};

/// A record of a connection, but for its [`Texts`].
#[derive(Debug)]
pub(super) struct CanonicalLine {
    time: Timestamp,
    seq: u64,
    conn: ConnId,
    what: What,
}

#[derive(Debug)]
enum What {
    Open {
        has_target: bool,
    },
    Data {
        direction: Direction,
        offset: u64,
        partial: bool,
    },
    Eof(Direction),
    Close(Close),
}

/// What a line says in so many bytes. Kept from line to line, for its memory.
#[derive(Debug, Default)]
pub(super) struct Texts {
    peer: String,
    payload: Vec<u8>,
    local: String,
    target: String,
}

/// Reads `line`, its peer and payload into `texts`. `None` where it is not as the encoder would have
/// written it.
pub(super) fn read(line: &[u8], texts: &mut Texts) -> Option<CanonicalLine> {
    let mut cursor = Cursor { line, at: 0 };
    cursor.skip(b"{\"type\":\"")?;
    // Data first: that is most of a capture.
    let kinds: [(&[u8], Rest); 4] = [
        (b"data\",\"ts\":\"", data),
        (b"eof\",\"ts\":\"", eof),
        (b"open\",\"ts\":\"", open),
        (b"close\",\"ts\":\"", close),
    ];
    let (_, rest) = (kinds.into_iter()).find(|(kind, _)| cursor.skip(kind).is_some())?;
    let wall = WallTime::parse(cursor.plain()?)?;
    let elapsed_us = cursor.number(b",\"elapsed_us\":")?;
    let seq = cursor.number(b",\"seq\":")?;
    let conn = ConnId(cursor.number(b",\"conn\":")?);
    cursor.skip(b",\"peer\":\"")?;
    let found = (cursor.plain()).filter(|found| found.len() <= PEER_LIMIT)?;
    keep(&mut texts.peer, found);
    let what = rest(&mut cursor, texts)?;
    cursor.skip(b"}")?;
    matches!(cursor.rest(), b"" | b"\n").then_some(CanonicalLine {
        time: Timestamp { wall, elapsed_us },
        seq,
        conn,
        what,
    })
}

/// Reads what a type of record has behind its peer.
type Rest = fn(&mut Cursor<'_>, &mut Texts) -> Option<What>;

fn data(cursor: &mut Cursor<'_>, texts: &mut Texts) -> Option<What> {
    let payload = &mut texts.payload;
    payload.clear();
    let direction = cursor.direction()?;
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
    let is_whole = payload.len() as u64 == len && offset.checked_add(len).is_some();
    is_whole.then_some(What::Data {
        direction,
        offset,
        partial,
    })
}

fn eof(cursor: &mut Cursor<'_>, _: &mut Texts) -> Option<What> {
    cursor.direction().map(What::Eof)
}

fn open(cursor: &mut Cursor<'_>, texts: &mut Texts) -> Option<What> {
    cursor.skip(b",\"local\":\"")?;
    keep(&mut texts.local, cursor.plain()?);
    let has_target = cursor.skip(b",\"target\":\"").is_some();
    if has_target {
        keep(&mut texts.target, cursor.plain()?);
    }
    Some(What::Open { has_target })
}

/// One with an error has that behind its reason, and is left.
fn close(cursor: &mut Cursor<'_>, _: &mut Texts) -> Option<What> {
    cursor.skip(b",\"reason\":\"")?;
    let reason = close_reason(cursor.plain()?, None);
    let in_bytes = cursor.number(b",\"in_bytes\":")?;
    let out_bytes = cursor.number(b",\"out_bytes\":")?;
    let in_crc32 = cursor.crc32(b",\"in_crc32\":\"")??;
    let out_crc32 = match cursor.crc32(b",\"out_crc32\":\"") {
        None => None,
        Some(found) => Some(found?),
    };
    let duration_us = cursor.number(b",\"duration_us\":")?;
    Some(What::Close(Close {
        reason,
        in_bytes,
        out_bytes,
        in_crc32,
        out_crc32,
        duration_us,
    }))
}

/// Most lines say what the one before them said.
fn keep(kept: &mut String, found: &str) {
    if kept != found {
        kept.clear();
        kept.push_str(found);
    }
}

impl CanonicalLine {
    /// The record, with the texts that were read with it.
    pub(super) fn record<'a>(&'a self, texts: &'a Texts) -> Record<'a> {
        let conn = Conn {
            id: self.conn,
            peer: Cow::Borrowed(&*texts.peer),
        };
        let event = match &self.what {
            &What::Data {
                direction,
                offset,
                partial,
            } => Event::Data {
                conn,
                direction,
                offset,
                payload: Cow::Borrowed(&texts.payload),
                partial,
            },
            What::Open { has_target } => Event::Open {
                conn,
                local: Cow::Borrowed(&texts.local),
                target: has_target.then_some(Cow::Borrowed(&*texts.target)),
            },
            &What::Eof(direction) => Event::Eof { conn, direction },
            What::Close(close) => Event::Close {
                conn,
                close: Cow::Borrowed(close),
            },
        };
        Record {
            time: self.time,
            seq: self.seq,
            event,
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

    /// Which way, behind its key.
    fn direction(&mut self) -> Option<Direction> {
        self.skip(b",\"dir\":\"")?;
        match self.plain()? {
            "in" => Some(Direction::In),
            "out" => Some(Direction::Out),
            _ => None,
        }
    }

    /// A checksum behind its key: `None` where the key is not there, and inside where it is no checksum.
    fn crc32(&mut self, key: &[u8]) -> Option<Option<u32>> {
        self.skip(key)?;
        let digits = self.plain().and_then(hex::<8>);
        Some(digits.map(|crc32| crc32 as u32))
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

    const OPEN: &str = r#"{"type":"open","ts":"2026-11-22T12:03:01.110967Z","elapsed_us":1203311,"seq":1,"conn":3,"peer":"192.0.2.9:50122","local":"192.0.2.1:1234","target":"db:5432"}"#;
    const EOF: &str = r#"{"type":"eof","ts":"2026-11-22T12:03:01.111756Z","elapsed_us":1204100,"seq":3,"conn":3,"peer":"192.0.2.9:50122","dir":"in"}"#;
    const CLOSE: &str = r#"{"type":"close","ts":"2026-11-22T12:03:01.111856Z","elapsed_us":1204200,"seq":4,"conn":3,"peer":"192.0.2.9:50122","reason":"eof","in_bytes":6,"out_bytes":8,"in_crc32":"363a3020","out_crc32":"25d1bb8b","duration_us":889}"#;

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
        for line in [LINE, OPEN, EOF, CLOSE] {
            assert!(read(line.as_bytes(), &mut texts).is_some(), "{line}");
            for cut in 0..line.len() {
                assert!(read(&line.as_bytes()[..cut], &mut texts).is_none());
            }
        }
        // What has an error is left.
        let error = CLOSE.replace("\"eof\"", "\"error\",\"error\":\"no route\"");
        assert!(read(error.as_bytes(), &mut texts).is_none());
    }
}
