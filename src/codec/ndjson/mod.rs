//! The capture format, version 1: NDJSON, one record a line.
//!
//! `man/wiretape-capture.5` is its description for users. The schema stands once, in `wire`; the
//! encoder writes the same without going through it, because it is the hot path, and a property
//! test holds the two together.

mod canonical;
mod decode;
mod encode;
mod front;
mod lines;
mod object;
mod scan;
#[cfg(test)]
mod tests;
mod wire;

pub use decode::{Cause, Line, ReadError, Reader, Torn};
pub use encode::Encoder;
pub use object::Object;
pub use wire::close_name;

/// The version of the format that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// The longest line that is read, in bytes. The longest that is written is far below: a payload of
/// `FRAME_LIMIT` bytes, six bytes each where every one of them is escaped, and the keys.
pub const LINE_LIMIT: usize = 16 * 1024 * 1024;

/// The longest address of a peer that is read, in bytes. The longest that is written is `unix:` and a
/// path of 108 bytes (unix(7)), each of which may have become a replacement character of three.
pub const PEER_LIMIT: usize = 512;

/// The longest payload of one record, in bytes.
pub const FRAME_LIMIT: usize = 1024 * 1024;
