//! The schema, once: every key of every type of record, in the order in which they are written.
//!
//! One flat struct serves all types, because the format is flat and the order of keys is the same
//! in all of them. What a type must have, the decoder demands.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::PEER_LIMIT;
use crate::record::{
    Close, CloseReason, Conn, ConnId, Direction, EndReason, Event, GapReason, Record, RunId, Start,
    Timestamp, WallTime,
};

#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) v: Option<u32>,
    #[serde(borrow)]
    ts: Cow<'a, str>,
    elapsed_us: u64,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    peer: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    local: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    dir: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_crc32: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_crc32: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<bool>,
}

/// Enough of a line to know what it is, whatever else it holds.
#[derive(Debug, Deserialize)]
pub(super) struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    pub(super) v: Option<u64>,
}

/// Why a well-formed JSON object is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    Missing(&'static str),
    Invalid(&'static str),
    Base64,
    Length { stated: u64, found: u64 },
}

pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

/// What the format calls the reason of a `close`.
pub fn close_name(reason: &CloseReason) -> &str {
    match reason {
        CloseReason::Eof => "eof",
        CloseReason::Reset => "reset",
        CloseReason::TargetReset => "target_reset",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::Limit => "limit",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Done => "done",
        CloseReason::Error(_) => "error",
        CloseReason::Other(name) => name,
    }
}

/// The `reason` of a `close` that has this `error`, if any.
pub(super) fn close_reason(name: &str, error: Option<&str>) -> CloseReason {
    match name {
        "eof" => CloseReason::Eof,
        "reset" => CloseReason::Reset,
        "target_reset" => CloseReason::TargetReset,
        "idle_timeout" => CloseReason::IdleTimeout,
        "limit" => CloseReason::Limit,
        "shutdown" => CloseReason::Shutdown,
        "done" => CloseReason::Done,
        "error" => CloseReason::Error(error.unwrap_or_default().into()),
        other => CloseReason::Other(other.into()),
    }
}

pub(super) fn end_name(reason: &EndReason) -> &str {
    match reason {
        EndReason::Rotated => "rotated",
        EndReason::Closed => "closed",
        EndReason::Shutdown => "shutdown",
        EndReason::Other(name) => name,
    }
}

pub(super) fn gap_name(reason: &GapReason) -> &str {
    match reason {
        GapReason::StalledOutput => "stalled_output",
        GapReason::Other(name) => name,
    }
}

#[cfg(test)]
impl<'a> From<&'a Record<'_>> for Wire<'a> {
    fn from(record: &'a Record<'_>) -> Self {
        let mut wire = Self {
            ts: record.time.wall.to_string().into(),
            elapsed_us: record.time.elapsed_us,
            seq: record.seq,
            conn: record.event.conn().map(|conn| conn.id.0),
            peer: record.event.conn().map(|conn| (&*conn.peer).into()),
            ..Self::default()
        };
        match &record.event {
            Event::Start(start) => {
                wire.kind = "start".into();
                wire.v = Some(super::VERSION);
                wire.run = Some(start.run.to_string().into());
                wire.mode = Some((&*start.mode).into());
                wire.listen = Some(start.listen.iter().map(|at| (&**at).into()).collect());
                if !start.connect.is_empty() {
                    let connect = start.connect.iter().map(|at| (&**at).into());
                    wire.connect = Some(connect.collect());
                }
                wire.tool = Some((&*start.tool).into());
                wire.segment = Some(start.segment);
                wire.conn = start.conn.map(|conn| conn.0);
                wire.part = start.part.then_some(true);
            }
            Event::Open { local, target, .. } => {
                wire.kind = "open".into();
                wire.local = Some((&**local).into());
                wire.target = target.as_deref().map(Into::into);
            }
            Event::Data {
                direction,
                offset,
                payload,
                partial,
                ..
            } => {
                wire.kind = "data".into();
                wire.dir = Some(direction_name(*direction).into());
                wire.offset = Some(*offset);
                wire.len = Some(payload.len() as u64);
                if let Ok(text) = std::str::from_utf8(payload) {
                    wire.text = Some(text.into());
                } else {
                    let base64: String = base64_simd::STANDARD.encode_to_string(payload);
                    wire.base64 = Some(base64.into());
                }
                wire.partial = partial.then_some(true);
            }
            Event::Eof { direction, .. } => {
                wire.kind = "eof".into();
                wire.dir = Some(direction_name(*direction).into());
            }
            Event::Close { close, .. } => {
                wire.kind = "close".into();
                wire.reason = Some(close_name(&close.reason).into());
                if let CloseReason::Error(error) = &close.reason {
                    wire.error = Some((&**error).into());
                }
                wire.in_bytes = Some(close.in_bytes);
                wire.out_bytes = Some(close.out_bytes);
                wire.in_crc32 = Some(format!("{:08x}", close.in_crc32).into());
                wire.out_crc32 = close.out_crc32.map(|crc| format!("{crc:08x}").into());
                wire.duration_us = Some(close.duration_us);
            }
            Event::Gap {
                records,
                bytes,
                reason,
            } => {
                wire.kind = "gap".into();
                wire.records = Some(*records);
                wire.bytes = Some(*bytes);
                wire.reason = Some(gap_name(reason).into());
            }
            Event::End { reason } => {
                wire.kind = "end".into();
                wire.reason = Some(end_name(reason).into());
            }
        }
        wire
    }
}

impl<'a> Wire<'a> {
    /// The record.
    pub(super) fn into_record(self) -> Result<Record<'a>, Misfit> {
        let wall = WallTime::parse(&self.ts).ok_or(Misfit::Invalid("ts"))?;
        let time = Timestamp {
            wall,
            elapsed_us: self.elapsed_us,
        };
        let seq = self.seq;
        let event = match &*self.kind {
            "start" => Event::Start(Cow::Owned(self.into_start()?)),
            "open" => Event::Open {
                local: self.local.clone().ok_or(Misfit::Missing("local"))?,
                target: self.target.clone(),
                conn: self.into_conn()?,
            },
            "data" => self.into_data()?,
            "eof" => Event::Eof {
                direction: self.direction()?,
                conn: self.into_conn()?,
            },
            "close" => Event::Close {
                close: Cow::Owned(self.close()?),
                conn: self.into_conn()?,
            },
            "gap" => Event::Gap {
                records: self.records.ok_or(Misfit::Missing("records"))?,
                bytes: self.bytes.ok_or(Misfit::Missing("bytes"))?,
                reason: match self.reason()? {
                    "stalled_output" => GapReason::StalledOutput,
                    other => GapReason::Other(other.into()),
                },
            },
            "end" => Event::End {
                reason: match self.reason()? {
                    "rotated" => EndReason::Rotated,
                    "closed" => EndReason::Closed,
                    "shutdown" => EndReason::Shutdown,
                    other => EndReason::Other(other.into()),
                },
            },
            _ => return Err(Misfit::Invalid("type")),
        };
        Ok(Record { time, seq, event })
    }

    fn into_start(self) -> Result<Start, Misfit> {
        let run = self.run.ok_or(Misfit::Missing("run"))?;
        Ok(Start {
            run: RunId(hex::<16>(&run).ok_or(Misfit::Invalid("run"))?),
            mode: self.mode.ok_or(Misfit::Missing("mode"))?.into_owned(),
            listen: owned(self.listen),
            connect: owned(self.connect),
            tool: self.tool.ok_or(Misfit::Missing("tool"))?.into_owned(),
            segment: self.segment.ok_or(Misfit::Missing("segment"))?,
            conn: self.conn.map(ConnId),
            part: self.part.unwrap_or(false),
        })
    }

    fn into_data(self) -> Result<Event<'a>, Misfit> {
        let direction = self.direction()?;
        let offset = self.offset.ok_or(Misfit::Missing("offset"))?;
        let stated = self.len.ok_or(Misfit::Missing("len"))?;
        let partial = self.partial.unwrap_or(false);
        let id = ConnId(self.conn.ok_or(Misfit::Missing("conn"))?);
        let peer = peer(self.peer)?;
        let payload = match (self.text, self.base64) {
            (Some(Cow::Borrowed(text)), None) => Cow::Borrowed(text.as_bytes()),
            (Some(Cow::Owned(text)), None) => Cow::Owned(text.into_bytes()),
            (None, Some(base64)) => base64_simd::STANDARD
                .decode_to_vec(base64.as_bytes())
                .map(Cow::Owned)
                .map_err(|_| Misfit::Base64)?,
            (None, None) => return Err(Misfit::Missing("text")),
            (Some(_), Some(_)) => return Err(Misfit::Invalid("base64")),
        };
        let found = payload.len() as u64;
        if found != stated {
            return Err(Misfit::Length { stated, found });
        }
        // Checked here so that nothing further on can overflow: offsets are added to.
        if offset.checked_add(found).is_none() {
            return Err(Misfit::Invalid("offset"));
        }
        Ok(Event::Data {
            conn: Conn { id, peer },
            direction,
            offset,
            payload,
            partial,
        })
    }

    fn into_conn(self) -> Result<Conn<'a>, Misfit> {
        Ok(Conn {
            id: ConnId(self.conn.ok_or(Misfit::Missing("conn"))?),
            peer: peer(self.peer)?,
        })
    }

    fn direction(&self) -> Result<Direction, Misfit> {
        match self.dir.as_deref() {
            Some("in") => Ok(Direction::In),
            Some("out") => Ok(Direction::Out),
            Some(_) => Err(Misfit::Invalid("dir")),
            None => Err(Misfit::Missing("dir")),
        }
    }

    fn reason(&self) -> Result<&str, Misfit> {
        self.reason.as_deref().ok_or(Misfit::Missing("reason"))
    }

    fn close(&self) -> Result<Close, Misfit> {
        let reason = close_reason(self.reason()?, self.error.as_deref());
        let crc32 = |key, text: &str| match hex::<8>(text) {
            Some(crc) => Ok(crc as u32),
            None => Err(Misfit::Invalid(key)),
        };
        let in_crc32 = self.in_crc32.as_deref();
        Ok(Close {
            reason,
            in_bytes: self.in_bytes.ok_or(Misfit::Missing("in_bytes"))?,
            out_bytes: self.out_bytes.ok_or(Misfit::Missing("out_bytes"))?,
            in_crc32: crc32("in_crc32", in_crc32.ok_or(Misfit::Missing("in_crc32"))?)?,
            out_crc32: (self.out_crc32.as_deref())
                .map(|text| crc32("out_crc32", text))
                .transpose()?,
            duration_us: self.duration_us.ok_or(Misfit::Missing("duration_us"))?,
        })
    }
}

/// Kept for as long as its connection is open, so that it must not be of any length.
fn peer(peer: Option<Cow<'_, str>>) -> Result<Cow<'_, str>, Misfit> {
    let peer = peer.ok_or(Misfit::Missing("peer"))?;
    match peer.len() <= PEER_LIMIT {
        true => Ok(peer),
        false => Err(Misfit::Invalid("peer")),
    }
}

fn owned(texts: Option<Vec<Cow<'_, str>>>) -> Vec<String> {
    let texts = texts.into_iter().flatten();
    texts.map(Cow::into_owned).collect()
}

/// Exactly `DIGITS` hexadecimal digits, as they are written.
pub(super) fn hex<const DIGITS: usize>(text: &str) -> Option<u64> {
    let fits = text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    fits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}
