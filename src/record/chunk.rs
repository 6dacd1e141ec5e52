//! Bytes of one connection that are recorded at once, mostly what one read brought, as the records that they
//! are: these share their time, connection and direction, and follow each other in number and offset. Who
//! writes many of them says once what they share.

use std::borrow::Cow;

use super::framing::Pieces;
use super::{Conn, Direction, Event, Record, Timestamp};

/// `data` records that share what they can, those of them that are still to come.
#[derive(Clone, Debug)]
pub struct Chunk<'a> {
    /// When they were seen.
    pub time: Timestamp,
    /// From whom or to whom.
    pub conn: Conn<'a>,
    /// Which way.
    pub direction: Direction,
    /// Number in the run of the record that comes next.
    pub next_seq: u64,
    /// Bytes of its connection and direction before that.
    pub next_offset: u64,
    /// The payloads.
    pub pieces: Pieces<'a>,
}

/// A record of a [`Chunk`]: what it does not share with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its number in the run.
    pub seq: u64,
    /// Bytes of its connection and direction before it.
    pub offset: u64,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Only a part of a line.
    pub partial: bool,
}

impl<'a> Chunk<'a> {
    /// None is to come.
    pub fn is_empty(&self) -> bool {
        self.pieces.rest().is_empty()
    }

    /// The next `records`, which have so many bytes, were taken from [`Pieces::rest`].
    pub fn pass(&mut self, records: u64, bytes: usize) {
        self.next_seq += records;
        self.next_offset += bytes as u64;
        self.pieces.pass(bytes);
    }

    /// The next record, without what it shares with the others.
    pub fn next_piece(&mut self) -> Option<Piece<'a>> {
        let payload = self.pieces.next()?;
        let piece = Piece {
            seq: self.next_seq,
            offset: self.next_offset,
            payload,
            partial: self.pieces.framing().is_partial(payload),
        };
        self.next_seq += 1;
        self.next_offset += payload.len() as u64;
        Some(piece)
    }
}

impl<'a> Iterator for Chunk<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let piece = self.next_piece()?;
        Some(Record {
            time: self.time,
            seq: piece.seq,
            event: Event::Data {
                conn: self.conn.clone(),
                direction: self.direction,
                offset: piece.offset,
                payload: Cow::Borrowed(piece.payload),
                partial: piece.partial,
            },
        })
    }
}
