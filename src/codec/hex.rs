//! Hex: each payload as `hexdump -C` shows it, below a line that says whose it is.
//!
//! ```text
//! 2026-11-22T12:02:59.907682Z #3 192.0.2.9:50122 > 20 bytes
//! 00002000  68 65 6c 6c 6f 20 77 6f  72 6c 64 0d 0a ff 00 01  |hello world.....|
//! 00002010  02 03 04 05                                       |....|
//! ```
//!
//! The offset counts the connection's bytes in that direction, so rows of two chunks can be joined.

use super::Audience;
use super::annotate::{Annotator, hex_digits};
use super::number::push_number;
use crate::record::{Event, Record};

const ROW: usize = 16;
/// Columns between the offset and the ASCII: three a byte and one in the middle.
const HEX_WIDTH: usize = ROW * 3 + 1;

/// Writes a dump a record.
#[derive(Debug)]
pub struct HexEncoder(Annotator);

impl HexEncoder {
    pub(super) fn new(audience: Audience) -> Self {
        Self(Annotator::new(audience))
    }

    pub(super) fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &record.event {
            Event::Data {
                conn,
                direction,
                offset,
                payload,
                ..
            } => {
                self.0.data(record, conn, *direction, out);
                push_number(out, payload.len() as u64);
                out.extend_from_slice(match payload.len() {
                    1 => b" byte\n",
                    _ => b" bytes\n",
                });
                for (nth, row) in payload.chunks(ROW).enumerate() {
                    dump_row(offset + (nth * ROW) as u64, row, out);
                }
            }
            _ => self.0.event(record, out),
        }
    }
}

fn dump_row(offset: u64, row: &[u8], out: &mut Vec<u8>) {
    // Eight digits as hexdump writes them, more once a connection has passed 4 GiB.
    let bytes = offset.to_be_bytes();
    let skip = bytes[..4].iter().take_while(|&&byte| byte == 0).count();
    out.extend(bytes[skip..].iter().flat_map(|&byte| hex_digits(byte)));
    out.extend_from_slice(b"  ");
    let hex_start = out.len();
    for (column, &byte) in row.iter().enumerate() {
        if column == ROW / 2 {
            out.push(b' ');
        }
        out.extend_from_slice(&hex_digits(byte));
        out.push(b' ');
    }
    out.resize(hex_start + HEX_WIDTH, b' ');
    out.extend_from_slice(b" |");
    out.extend(row.iter().map(|&byte| match byte {
        0x20..=0x7e => byte,
        _ => b'.',
    }));
    out.extend_from_slice(b"|\n");
}
