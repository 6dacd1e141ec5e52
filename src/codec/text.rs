//! Text: a line a record, for people and for logs that people read.

use super::Audience;
use super::annotate::{Annotator, escape_bytes};
use crate::record::{Event, Record};

/// Writes a line a record, payloads escaped as a reader would write them in a string.
#[derive(Debug)]
pub struct TextEncoder(Annotator);

impl TextEncoder {
    pub(super) fn new(audience: Audience) -> Self {
        Self(Annotator::new(audience))
    }

    pub(super) fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &record.event {
            Event::Data {
                conn,
                direction,
                payload,
                ..
            } => {
                self.0.data(record, conn, *direction, out);
                escape_bytes(payload, out);
                out.push(b'\n');
            }
            _ => self.0.event(record, out),
        }
    }
}
