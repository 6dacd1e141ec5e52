//! What text and hex share: the time, the tag of a connection, the arrow, and the lines for events
//! that carry no bytes.
//!
//! ```text
//! 2026-11-22T12:02:59.907656Z #3 192.0.2.9:50122 * connected to 192.0.2.1:1234
//! 2026-11-22T12:02:59.907682Z #3 192.0.2.9:50122 > hi\r\n
//! 2026-11-22T12:03:01.204200Z #3 192.0.2.9:50122 * closed: eof, 4 bytes in, 0 bytes out, 1s 296ms 544us
//! ```
//!
//! The arrow tells which way the bytes went, seen from the peer's name: `>` it sent them, `<` they
//! were sent to it. `*` marks what the capture itself has to say.

use std::time::Duration;

use super::Audience;
use super::escape::is_deceptive;
use super::number::push_number;
use crate::record::time::WallTimeText;
use crate::record::{CloseReason, Conn, Direction, Event, GapReason, Record};

/// Colours of connections, as SGR parameters: no red, which reads as failure.
const COLORS: [&str; 10] = ["32", "33", "34", "35", "36", "92", "93", "94", "95", "96"];

#[derive(Debug)]
pub(super) struct Annotator {
    wall: WallTimeText,
    color: bool,
}

impl Annotator {
    pub(super) fn new(audience: Audience) -> Self {
        Self {
            wall: WallTimeText::default(),
            color: audience == Audience::ColorTerminal,
        }
    }

    /// Begins a line for bytes: time, tag and arrow.
    pub(super) fn data(
        &mut self,
        record: &Record<'_>,
        conn: &Conn<'_>,
        direction: Direction,
        out: &mut Vec<u8>,
    ) {
        self.tag(record, Some(conn), out);
        out.extend_from_slice(match direction {
            Direction::In => b"> ",
            Direction::Out => b"< ",
        });
    }

    /// The whole line for an event without bytes. A run's `start` and `end` have none, because
    /// they speak of the capture; nor has `eof`, because `closed` tells it.
    pub(super) fn event(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let text = match &record.event {
            Event::Open {
                local,
                target: None,
                ..
            } => format!("connected to {local}"),
            Event::Open {
                local,
                target: Some(target),
                ..
            } => format!("connected at {local}, target {target}"),
            Event::Close { close, .. } => {
                let reason = match &close.reason {
                    CloseReason::Eof => "eof",
                    CloseReason::Reset => "reset by peer",
                    CloseReason::TargetReset => "reset by target",
                    CloseReason::IdleTimeout => "idle for too long",
                    CloseReason::Limit => "open for too long",
                    CloseReason::Shutdown => "wiretape is stopping",
                    CloseReason::Done => "replayed reset",
                    CloseReason::Error(text) | CloseReason::Other(text) => text,
                };
                let duration = Duration::from_micros(close.duration_us);
                format!(
                    "closed: {reason}, {} bytes in, {} bytes out, {}",
                    close.in_bytes,
                    close.out_bytes,
                    humantime::format_duration(duration)
                )
            }
            Event::Gap {
                records,
                bytes,
                reason,
            } => {
                let reason = match reason {
                    GapReason::StalledOutput => "output stalled",
                    GapReason::Other(text) => text,
                };
                format!("GAP: {records} records with {bytes} bytes are missing here: {reason}")
            }
            Event::Start(_) | Event::Data { .. } | Event::Eof { .. } | Event::End { .. } => return,
        };
        self.tag(record, record.event.conn(), out);
        out.extend_from_slice(b"* ");
        escape_bytes(text.as_bytes(), out);
        out.push(b'\n');
    }

    fn tag(&mut self, record: &Record<'_>, conn: Option<&Conn<'_>>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.wall.render(record.time.wall));
        out.push(b' ');
        let Some(conn) = conn else { return };
        if self.color {
            let color = COLORS[(conn.id.0 % COLORS.len() as u64) as usize];
            out.extend_from_slice(b"\x1b[");
            out.extend_from_slice(color.as_bytes());
            out.push(b'm');
        }
        out.push(b'#');
        push_number(out, conn.id.0);
        out.push(b' ');
        escape_bytes(conn.peer.as_bytes(), out);
        if self.color {
            out.extend_from_slice(b"\x1b[0m");
        }
        out.push(b' ');
    }
}

/// Appends `bytes` as a reader would write them in a string: printable text as it is, controls and
/// what is not UTF-8 as escapes. `\` is doubled, so the bytes can be told from their escapes.
pub(super) fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), out);
        for &byte in chunk.invalid() {
            push_hex_escape(byte, out);
        }
    }
}

/// What is not printable ASCII, and `\`.
fn is_special(byte: u8) -> bool {
    !(0x20..0x7f).contains(&byte) | (byte == b'\\')
}

/// How many bytes at the front of `bytes` are not special. Looks at blocks first, in a form that compiles to
/// vector instructions.
fn plain_run(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let any = block
            .iter()
            .fold(0, |any, &byte| any | u8::from(is_special(byte)));
        if any != 0 {
            break;
        }
        at += BLOCK;
    }
    let rest = &bytes[at..];
    let found = rest.iter().position(|&byte| is_special(byte));
    at + found.unwrap_or(rest.len())
}

fn escape_text(mut text: &str, out: &mut Vec<u8>) {
    loop {
        let (plain, rest) = text.split_at(plain_run(text.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        let mut chars = rest.chars();
        let Some(special) = chars.next() else { return };
        text = chars.as_str();
        match special {
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if control.is_ascii() => push_hex_escape(control as u8, out),
            c if is_deceptive(c) => {
                out.extend_from_slice(c.escape_unicode().to_string().as_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn push_hex_escape(byte: u8, out: &mut Vec<u8>) {
    let [high, low] = hex_digits(byte);
    out.extend_from_slice(&[b'\\', b'x', high, low]);
}

/// The two lower-case hexadecimal digits of `byte`.
pub(super) fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 0xf)],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        let mut out = Vec::new();
        escape_bytes(bytes, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn bytes_are_shown_as_a_reader_would_write_them() {
        check(b"hi\r\n\t\\n", r"hi\r\n\t\\n");
        check(b"\0\x1b[31m\x7f", r"\x00\x1b[31m\x7f");
        check(b"\xff\xe2\x82", r"\xff\xe2\x82");
        check("+4.6°C 札幌 ☂".as_bytes(), "+4.6°C 札幌 ☂");
        check(
            "\u{9b}31m \u{202e}abc\u{2066}".as_bytes(),
            r"\u{9b}31m \u{202e}abc\u{2066}",
        );
        for len in 0..100 {
            let plain = "a".repeat(len);
            check(
                format!("{plain}\x1b\\{plain}").as_bytes(),
                &format!(r"{plain}\x1b\\{plain}"),
            );
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_ever_left() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..random.usize(0..80))
                .map(|_| {
                    random
                        .choice([0x1b, 0xc2, 0x9b, 0xe2, 0x80, 0xae, 7])
                        .unwrap_or(0)
                })
                .collect();
            let mut out = Vec::new();
            escape_bytes(&bytes, &mut out);
            let text = String::from_utf8(out).expect("escaped bytes are text");
            assert!(
                !text.chars().any(|c| c.is_control() || is_deceptive(c)),
                "{bytes:?}"
            );
        }
    }
}
