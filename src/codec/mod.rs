//! Records to bytes and back: one module a format, each pure.
//!
//! This is the only room that knows JSON. An [`Encoder`] turns a record into text at the end of a
//! buffer; the [`ndjson::Reader`] turns a capture's lines into records again. Neither opens a file.

mod annotate;
pub mod buffer;
mod escape;
mod hex;
pub mod ndjson;
mod number;
mod text;

use std::str::FromStr;

use self::buffer::Buffer;
use crate::record::chunk::Chunk;
use crate::record::{Direction, Event, Record};

/// Bytes as a person reads them and no terminal obeys them: printable text as it is, all else as
/// escapes.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    annotate::escape_bytes(bytes, &mut out);
    String::from_utf8(out).expect("escapes are ASCII, and the rest is text")
}

/// What an output looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line a record, bytes escaped so that a person reads them.
    Text,
    /// A canonical hex dump.
    Hex,
    /// The capture format, one JSON object a line.
    Json,
    /// The bytes that went this way, and nothing else.
    Raw(Direction),
}

impl Format {
    /// Whether it tells the checksums of a connection.
    pub fn tells_checksums(self) -> bool {
        self == Self::Json
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "text" => Ok(Self::Text),
            "hex" => Ok(Self::Hex),
            "json" => Ok(Self::Json),
            "raw" => Ok(Self::Raw(Direction::In)),
            _ => Err(UnknownFormat),
        }
    }
}

/// The name is none of `text`, `hex`, `json`, `raw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFormat;

/// Who reads the bytes that an encoder writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A file, a pipe, a program.
    Program,
    /// A terminal: no byte from a peer may steer it.
    Terminal,
    /// A terminal that shows colours.
    ColorTerminal,
}

/// Turns records into bytes of one format.
#[derive(Debug)]
pub enum Encoder {
    /// [`Format::Text`].
    Text(text::TextEncoder),
    /// [`Format::Hex`].
    Hex(hex::HexEncoder),
    /// [`Format::Json`].
    Json(Box<ndjson::Encoder>),
    /// [`Format::Raw`].
    Raw(Direction),
}

impl Encoder {
    /// An encoder of `format` for `audience`.
    pub fn new(format: Format, audience: Audience) -> Self {
        match format {
            Format::Text => Self::Text(text::TextEncoder::new(audience)),
            Format::Hex => Self::Hex(hex::HexEncoder::new(audience)),
            Format::Json => Self::Json(Box::new(ndjson::Encoder::new(audience))),
            Format::Raw(direction) => Self::Raw(direction),
        }
    }

    /// Appends `record` to `out`.
    pub fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(encoder) => encoder.encode(record, out),
            Self::Hex(encoder) => encoder.encode(record, out),
            Self::Json(encoder) => encoder.encode(record, out),
            Self::Raw(_) => out.extend_from_slice(self.raw_bytes(record).unwrap_or_default()),
        }
    }

    /// Appends records of `chunk`, which has some, to `out` until it has more than `enough` bytes; at least one.
    /// Tells where the last of them begins.
    pub fn encode_chunk(
        &mut self,
        chunk: &mut Chunk<'_>,
        out: &mut Buffer,
        enough: usize,
    ) -> usize {
        if let Self::Json(encoder) = self {
            return encoder.encode_chunk(chunk, out, enough);
        }
        let mut last = out.len();
        for record in chunk {
            last = out.len();
            self.encode(&record, out.vec());
            if out.len() > enough {
                break;
            }
        }
        last
    }

    /// Whether each record becomes one line.
    pub fn writes_lines(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Text(_))
    }

    /// The bytes of `record` that [`Format::Raw`] keeps, as they lie there.
    pub fn raw_bytes<'a>(&self, record: &'a Record<'_>) -> Option<&'a [u8]> {
        match (self, &record.event) {
            (
                Self::Raw(kept),
                Event::Data {
                    direction, payload, ..
                },
            ) if kept == direction => Some(payload),
            _ => None,
        }
    }
}
