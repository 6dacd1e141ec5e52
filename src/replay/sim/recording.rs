//! A recording that a seed makes up.

use std::borrow::Cow;
use std::collections::BTreeMap;

use fastrand::Rng;

use crate::record::{Close, CloseReason, Conn, ConnId, Direction, Event, Record, Timestamp};

/// Of each connection: behind how many bytes that were sent so many came back.
pub(super) type Replies = BTreeMap<ConnId, Vec<(usize, u64)>>;

/// Records of a capture, and the replies in it. Connections may have no `close`.
pub(super) fn recording(random: &mut Rng) -> (Vec<Record<'static>>, Replies) {
    let mut records: Vec<(u64, Record<'static>)> = Vec::new();
    let mut replies = Replies::new();
    let mut opens: Vec<u64> = (0..random.u64(1..12))
        .map(|_| random.u64(0..1_000_000))
        .collect();
    opens.sort_unstable();
    opens.dedup();
    let drops_closes = random.u8(0..4) == 0;
    for (nth, open_us) in opens.into_iter().enumerate() {
        let id = ConnId(nth as u64 + 1);
        let conn = || Conn {
            id,
            peer: "192.0.2.9:1".into(),
        };
        let mut at_us = open_us;
        let mut push = |at_us: u64, event: Event<'static>| {
            let time = Timestamp {
                elapsed_us: at_us,
                ..Timestamp::default()
            };
            records.push((
                at_us,
                Record {
                    time,
                    seq: 0,
                    event,
                },
            ));
        };
        push(
            at_us,
            Event::Open {
                conn: conn(),
                local: "192.0.2.1:2".into(),
                target: None,
            },
        );
        let (mut offset, mut out) = (0, 0);
        for _ in 0..random.u8(0..8) {
            at_us += random.u64(0..100_000);
            let direction = if random.u8(0..3) == 0 {
                Direction::Out
            } else {
                Direction::In
            };
            let most = if random.u8(0..20) == 0 { 400_000 } else { 300 };
            let len = random.usize(1..most);
            let payload: Vec<u8> = if direction == Direction::In {
                (0..len)
                    .map(|at| (at as u64 * 31 + nth as u64 + offset) as u8)
                    .collect()
            } else {
                vec![0; len]
            };
            let of = if direction == Direction::In {
                &mut offset
            } else {
                &mut out
            };
            push(
                at_us,
                Event::Data {
                    conn: conn(),
                    direction,
                    offset: *of,
                    payload: payload.into(),
                    partial: false,
                },
            );
            *of += len as u64;
            let entry = replies.entry(id).or_default();
            if direction == Direction::Out {
                entry.push((offset as usize, len as u64));
            }
        }
        replies.entry(id).or_default();
        let ends = random.u8(0..4);
        if ends > 1 {
            at_us += random.u64(0..1000);
            push(
                at_us,
                Event::Eof {
                    conn: conn(),
                    direction: Direction::In,
                },
            );
        }
        if !drops_closes || random.bool() {
            at_us += random.u64(0..1000);
            let reason = if ends == 0 {
                CloseReason::Reset
            } else {
                CloseReason::Eof
            };
            let close = Close {
                reason,
                in_bytes: offset,
                out_bytes: 0,
                in_crc32: 0,
                out_crc32: None,
                duration_us: 0,
            };
            push(
                at_us,
                Event::Close {
                    conn: conn(),
                    close: Cow::Owned(close),
                },
            );
        }
    }
    records.sort_by_key(|(at_us, _)| *at_us);
    let numbered = records
        .into_iter()
        .enumerate()
        .map(|(seq, (_, record))| Record {
            seq: seq as u64,
            ..record
        });
    (numbered.collect(), replies)
}
