//! One connection, as its records show it: what went each way, and whether they agree.

use super::finding::Flaw;
use crate::record::{Close, ConnId, Direction};

/// Where records can be out of step.
pub(super) type Flaws<'a> = &'a mut dyn FnMut(Flaw);

/// What is kept of a connection while it is open.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) conn: ConnId,
    pub(super) peer: Box<str>,
    /// `elapsed_us` of its `open`, if that was seen.
    opened_us: Option<u64>,
    incoming: Flow,
    outgoing: Flow,
    /// Bytes that are known to be missing.
    pub(super) missing: u64,
    /// Something else is wrong with it.
    pub(super) is_damaged: bool,
}

/// What went one way.
#[derive(Debug, Default)]
struct Flow {
    /// Where the next bytes begin, if that is known.
    next: Option<u64>,
    /// Of all bytes so far, where all were seen.
    crc32: Option<crc32fast::Hasher>,
    has_ended: bool,
}

impl Flow {
    /// Seen from its first byte.
    fn whole() -> Self {
        Self {
            next: Some(0),
            crc32: Some(crc32fast::Hasher::new()),
            has_ended: false,
        }
    }
}

impl Account {
    /// A connection that is seen from its `open`.
    pub(super) fn opened(conn: ConnId, peer: &str, elapsed_us: u64) -> Self {
        Self {
            opened_us: Some(elapsed_us),
            incoming: Flow::whole(),
            outgoing: Flow::whole(),
            ..Self::joined(conn, peer)
        }
    }

    /// A connection whose `open` was not seen: it is known from here on.
    pub(super) fn joined(conn: ConnId, peer: &str) -> Self {
        Self {
            conn,
            peer: peer.into(),
            opened_us: None,
            incoming: Flow::default(),
            outgoing: Flow::default(),
            missing: 0,
            is_damaged: false,
        }
    }

    /// Whether its `open` was seen.
    pub(super) fn has_open(&self) -> bool {
        self.opened_us.is_some()
    }

    fn flow(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::In => &mut self.incoming,
            Direction::Out => &mut self.outgoing,
        }
    }

    /// A record of it that has this peer.
    pub(super) fn handle_peer(&mut self, peer: &str, flaws: Flaws<'_>) {
        if *self.peer != *peer {
            self.is_damaged = true;
            // Found where it changes, not in every record from there on.
            self.peer = peer.into();
            flaws(Flaw::OtherPeer(self.conn));
        }
    }

    /// Bytes.
    pub(super) fn handle_data(
        &mut self,
        direction: Direction,
        offset: u64,
        payload: &[u8],
        flaws: Flaws<'_>,
    ) {
        let conn = self.conn;
        let (mut missing, mut is_damaged) = (0, false);
        let flow = self.flow(direction);
        if flow.has_ended {
            is_damaged = true;
            flaws(Flaw::BehindEof { conn, direction });
        }
        match flow.next {
            None if offset == 0 => *flow = Flow::whole(),
            None => {}
            Some(expected) if offset > expected => {
                missing = offset - expected;
                flow.crc32 = None;
                flaws(Flaw::Hole {
                    conn,
                    direction,
                    from: expected,
                    to: offset,
                });
            }
            Some(expected) if offset < expected => {
                is_damaged = true;
                flow.crc32 = None;
                flaws(Flaw::Overlap {
                    conn,
                    direction,
                    expected,
                    found: offset,
                });
            }
            Some(_) => {}
        }
        flow.next = Some(offset.saturating_add(payload.len() as u64));
        if let Some(crc32) = &mut flow.crc32 {
            crc32.update(payload);
        }
        self.missing = self.missing.saturating_add(missing);
        self.is_damaged |= is_damaged;
    }

    /// The end of a direction.
    pub(super) fn handle_eof(&mut self, direction: Direction, flaws: Flaws<'_>) {
        let conn = self.conn;
        if std::mem::replace(&mut self.flow(direction).has_ended, true) {
            self.is_damaged = true;
            flaws(Flaw::BehindEof { conn, direction });
        }
    }

    /// The end of it all. `has_out` is whether what was sent to the peer is in the capture at all.
    pub(super) fn handle_close(
        &mut self,
        close: &Close,
        elapsed_us: u64,
        sent: Sent,
        flaws: Flaws<'_>,
    ) {
        self.settle(Direction::In, close.in_bytes, Some(close.in_crc32), flaws);
        if sent == Sent::Recorded {
            self.settle(Direction::Out, close.out_bytes, close.out_crc32, flaws);
        }
        let conn = self.conn;
        let stated = close.duration_us;
        let found = self.opened_us.map(|at| elapsed_us.saturating_sub(at));
        if let Some(found) = found.filter(|&found| found != stated) {
            self.is_damaged = true;
            flaws(Flaw::Duration {
                conn,
                stated,
                found,
            });
        }
    }

    fn settle(
        &mut self,
        direction: Direction,
        stated: u64,
        stated_crc32: Option<u32>,
        flaws: Flaws<'_>,
    ) {
        let conn = self.conn;
        let flow = self.flow(direction);
        let Some(found) = flow.next else {
            return;
        };
        let crc32 = flow.crc32.take().map(crc32fast::Hasher::finalize);
        if found != stated {
            match stated.checked_sub(found) {
                Some(missing) => self.missing = self.missing.saturating_add(missing),
                None => self.is_damaged = true,
            }
            return flaws(Flaw::Total {
                conn,
                direction,
                stated,
                found,
            });
        }
        // Where nothing was sent, nothing need be said of it.
        let expected = match found {
            0 => Some(stated_crc32.unwrap_or_default()),
            _ => stated_crc32,
        };
        if let Some(found) = crc32.filter(|&crc32| expected != Some(crc32)) {
            self.is_damaged = true;
            flaws(Flaw::Crc32 {
                conn,
                direction,
                stated: stated_crc32,
                found,
            });
        }
    }
}

/// What a capture holds of the bytes that were sent to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of them.
    Recorded,
    /// None, though `close` counts them: a replay sends what is recorded already.
    Counted,
}
