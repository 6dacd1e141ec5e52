//! Records out of a fuzzer's bytes: every type, any text as any string, and numbers and peers as far as
//! the format promises them.

use std::borrow::Cow;

use arbitrary::{Arbitrary, Result, Unstructured};
use wiretape::codec::ndjson::PEER_LIMIT;
use wiretape::codec::{Audience, Encoder, Format};
use wiretape::record::{
    Close, CloseReason, Conn, ConnId, Direction, EndReason, Event, GapReason, Record, RunId, Start,
    Timestamp, WallTime,
};

/// The largest number that every reader of JSON takes as it is (RFC 8259, section 6).
const LARGEST: u64 = (1 << 53) - 1;

/// Records as no capture would hold them, one behind the other.
#[derive(Clone, Debug)]
pub struct Records(pub Vec<Record<'static>>);

impl<'a> Arbitrary<'a> for Records {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let records = u.arbitrary_iter::<OneRecord>()?;
        let records = records.map(|record| record.map(|OneRecord(record)| record));
        records.collect::<Result<_>>().map(Self)
    }
}

struct OneRecord(Record<'static>);

impl<'a> Arbitrary<'a> for OneRecord {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(Record {
            time: Timestamp {
                wall: WallTime::from_unix_micros(u.arbitrary()?),
                elapsed_us: number(u)?,
            },
            seq: number(u)?,
            event: event(u)?,
        }))
    }
}

fn event(u: &mut Unstructured<'_>) -> Result<Event<'static>> {
    Ok(match u.int_in_range(0..=6)? {
        0 => Event::Data {
            conn: conn(u)?,
            direction: direction(u)?,
            offset: number(u)?,
            payload: Cow::Owned(u.arbitrary()?),
            partial: u.arbitrary()?,
        },
        1 => Event::Start(Cow::Owned(start(u)?)),
        2 => Event::Open {
            conn: conn(u)?,
            local: Cow::Owned(u.arbitrary()?),
            target: u.arbitrary::<Option<String>>()?.map(Cow::Owned),
        },
        3 => Event::Eof {
            conn: conn(u)?,
            direction: direction(u)?,
        },
        4 => Event::Close {
            conn: conn(u)?,
            close: Cow::Owned(close(u)?),
        },
        5 => Event::Gap {
            records: number(u)?,
            bytes: number(u)?,
            reason: match u.arbitrary()? {
                true => GapReason::StalledOutput,
                false => GapReason::Other(later(u)?),
            },
        },
        _ => Event::End {
            reason: match u.int_in_range(0..=3)? {
                0 => EndReason::Rotated,
                1 => EndReason::Closed,
                2 => EndReason::Shutdown,
                _ => EndReason::Other(later(u)?),
            },
        },
    })
}

fn start(u: &mut Unstructured<'_>) -> Result<Start> {
    Ok(Start {
        run: RunId(u.arbitrary()?),
        mode: u.arbitrary()?,
        listen: u.arbitrary()?,
        connect: u.arbitrary()?,
        tool: u.arbitrary()?,
        segment: number(u)?,
        conn: match u.arbitrary()? {
            true => Some(ConnId(number(u)?)),
            false => None,
        },
        part: u.arbitrary()?,
    })
}

fn close(u: &mut Unstructured<'_>) -> Result<Close> {
    Ok(Close {
        reason: match u.int_in_range(0..=8)? {
            0 => CloseReason::Eof,
            1 => CloseReason::Reset,
            2 => CloseReason::TargetReset,
            3 => CloseReason::IdleTimeout,
            4 => CloseReason::Limit,
            5 => CloseReason::Shutdown,
            6 => CloseReason::Done,
            7 => CloseReason::Error(u.arbitrary()?),
            _ => CloseReason::Other(later(u)?),
        },
        in_bytes: number(u)?,
        out_bytes: number(u)?,
        in_crc32: u.arbitrary()?,
        out_crc32: u.arbitrary()?,
        duration_us: number(u)?,
    })
}

fn conn(u: &mut Unstructured<'_>) -> Result<Conn<'static>> {
    let id = ConnId(number(u)?);
    let mut peer: String = u.arbitrary()?;
    peer.truncate(peer.floor_char_boundary(PEER_LIMIT));
    Ok(Conn {
        id,
        peer: Cow::Owned(peer),
    })
}

fn direction(u: &mut Unstructured<'_>) -> Result<Direction> {
    u.choose(&[Direction::In, Direction::Out]).copied()
}

fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    u.int_in_range(0..=LARGEST)
}

/// A reason that this version does not know, so that it is not read as one that it does.
fn later(u: &mut Unstructured<'_>) -> Result<Box<str>> {
    let reason: &str = u.arbitrary()?;
    Ok(format!("later {reason}").into())
}

/// What one encoder writes for `records`, a text each.
pub fn encode(records: &[Record<'_>], format: Format, audience: Audience) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(format, audience);
    let one = |record| {
        let mut out = Vec::new();
        encoder.encode(record, &mut out);
        out
    };
    records.iter().map(one).collect()
}
