//! The books of a capture: whether its numbers, offsets, totals and checksums agree.
//!
//! It knows the format from its description and nothing of the code that writes it, so that both
//! are held to the same. What jq has filtered out is not missed: a capture without `start` may have
//! holes in its numbers, a connection without `open` begins at its first record.

use std::collections::{HashMap, HashSet};

use wiretape::record::{
    Close, Conn, ConnId, Direction, EndReason, Event, Record, RunId, Start, Timestamp,
};

/// Takes the records of a capture in order; see the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    run: Option<RunId>,
    next_seq: u64,
    elapsed_us: u64,
    open: HashMap<ConnId, Account>,
    closed: HashSet<ConnId>,
    /// Bytes that gaps have told of and that no connection has missed yet.
    missing: u64,
}

#[derive(Debug, Default)]
struct Account {
    peer: String,
    opened_us: Option<u64>,
    incoming: Flow,
    outgoing: Flow,
}

/// What went one way.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes so far, where the beginning is known.
    bytes: Option<u64>,
    /// Of all bytes so far, where all were seen.
    crc32: Option<crc32fast::Hasher>,
}

impl Flow {
    /// A flow that is seen from its first byte.
    fn whole() -> Self {
        Self {
            bytes: Some(0),
            crc32: Some(crc32fast::Hasher::new()),
        }
    }

    /// Goes on to byte `offset` and says how many bytes were left out before it.
    fn skip_to(&mut self, offset: u64) -> Result<u64, String> {
        if self.bytes.is_none() && offset == 0 {
            *self = Self::whole();
        }
        let bytes = self.bytes.replace(offset).unwrap_or(offset);
        let hole = offset
            .checked_sub(bytes)
            .ok_or_else(|| format!("byte {offset} again: {bytes} were there"))?;
        if hole > 0 {
            self.crc32 = None;
        }
        Ok(hole)
    }

    fn add(&mut self, payload: &[u8]) {
        self.bytes = self.bytes.map(|bytes| bytes + payload.len() as u64);
        if let Some(crc32) = &mut self.crc32 {
            crc32.update(payload);
        }
    }

    /// Compares with what `close` says, where all bytes were seen. Nothing sent has no checksum.
    fn settle(self, stated: Option<u32>) -> Result<(), String> {
        let Some(crc32) = self.crc32 else {
            return Ok(());
        };
        let found = crc32.finalize();
        let stated = stated.unwrap_or_default();
        if found != stated {
            return Err(format!("CRC-32 {stated:08x}, but {found:08x} is right"));
        }
        Ok(())
    }
}

impl Ledger {
    /// Enters the next record.
    ///
    /// # Errors
    /// What does not agree with the records before it.
    pub(crate) fn enter(&mut self, record: &Record<'_>) -> Result<(), String> {
        if let Event::Start(start) = &record.event {
            self.start(start);
        }
        self.number(record)?;
        self.time(record.time)?;
        match &record.event {
            Event::Start(_) => Ok(()),
            Event::Open { conn, .. } => self.open(conn, record.time),
            Event::Data {
                conn,
                direction,
                offset,
                payload,
                ..
            } => self.data(conn, *direction, *offset, payload),
            Event::Eof { conn, .. } => self.account(conn).map(|_| ()),
            Event::Close { conn, close } => self.close(conn, close, record.time),
            Event::Gap { bytes, .. } => {
                self.missing += bytes;
                Ok(())
            }
            Event::End { reason } => self.end(reason),
        }
    }

    fn start(&mut self, start: &Start) {
        if self.run != Some(start.run) {
            *self = Self {
                run: Some(start.run),
                ..Self::default()
            };
        }
    }

    fn number(&mut self, record: &Record<'_>) -> Result<(), String> {
        let (seq, next) = (record.seq, self.next_seq);
        if seq < next || seq > next && self.run.is_some() {
            return Err(format!("number {seq} where {next} was to come"));
        }
        self.next_seq = seq
            + match &record.event {
                Event::Gap { records, .. } => *records,
                // Between two segments: the record behind them has the number.
                Event::Start(start) if start.segment > 1 => 0,
                Event::End {
                    reason: EndReason::Rotated,
                } => 0,
                _ => 1,
            };
        Ok(())
    }

    fn time(&mut self, time: Timestamp) -> Result<(), String> {
        let before = std::mem::replace(&mut self.elapsed_us, time.elapsed_us);
        if time.elapsed_us < before {
            return Err(format!("{} µs after {before} µs", time.elapsed_us));
        }
        Ok(())
    }

    fn open(&mut self, conn: &Conn<'_>, time: Timestamp) -> Result<(), String> {
        let account = Account {
            peer: conn.peer.to_string(),
            opened_us: Some(time.elapsed_us),
            incoming: Flow::whole(),
            outgoing: Flow::whole(),
        };
        let is_new = !self.closed.contains(&conn.id);
        match self.open.insert(conn.id, account) {
            None if is_new => Ok(()),
            _ => Err(format!("connection {} opened twice", conn.id)),
        }
    }

    /// The connection that a record speaks of; a new one where the record that opened it is not
    /// there.
    fn account(&mut self, conn: &Conn<'_>) -> Result<&mut Account, String> {
        if self.closed.contains(&conn.id) {
            return Err(format!("connection {} is closed", conn.id));
        }
        let account = self.open.entry(conn.id).or_insert_with(|| Account {
            peer: conn.peer.to_string(),
            ..Account::default()
        });
        if account.peer != conn.peer {
            return Err(format!("connection {} is {}'s", conn.id, account.peer));
        }
        Ok(account)
    }

    fn data(
        &mut self,
        conn: &Conn<'_>,
        direction: Direction,
        offset: u64,
        payload: &[u8],
    ) -> Result<(), String> {
        let account = self.account(conn)?;
        let flow = match direction {
            Direction::In => &mut account.incoming,
            Direction::Out => &mut account.outgoing,
        };
        let hole = flow.skip_to(offset)?;
        flow.add(payload);
        self.miss(hole)
    }

    fn close(&mut self, conn: &Conn<'_>, close: &Close, time: Timestamp) -> Result<(), String> {
        self.account(conn)?;
        self.closed.insert(conn.id);
        let mut account = self.open.remove(&conn.id).unwrap_or_default();
        let hole = account.incoming.skip_to(close.in_bytes)?
            + account.outgoing.skip_to(close.out_bytes)?;
        self.miss(hole)?;
        account.incoming.settle(Some(close.in_crc32))?;
        account.outgoing.settle(close.out_crc32)?;
        match account.opened_us {
            Some(opened_us) if time.elapsed_us - opened_us != close.duration_us => {
                Err(format!("{} µs long", time.elapsed_us - opened_us))
            }
            _ => Ok(()),
        }
    }

    /// Bytes are not there; a gap must have told of them.
    fn miss(&mut self, bytes: u64) -> Result<(), String> {
        self.missing = (self.missing.checked_sub(bytes))
            .ok_or_else(|| format!("{bytes} bytes are missing without a gap"))?;
        Ok(())
    }

    fn end(&mut self, reason: &EndReason) -> Result<(), String> {
        if *reason == EndReason::Rotated {
            return Ok(());
        }
        if !self.open.is_empty() {
            return Err(format!("{} connections without a close", self.open.len()));
        }
        if self.missing > 0 {
            return Err(format!("nobody misses the {} bytes of a gap", self.missing));
        }
        Ok(())
    }
}

/// Changes one thing in the full sample, and expects the books not to agree.
fn check(written: &str, changed: &str, expected: &str) {
    let sample = String::from_utf8(crate::read_sample("full.ndjson")).expect("JSON is UTF-8");
    assert_eq!(sample.matches(written).count(), 1, "{written}");
    let sample = sample.replace(written, changed);
    let mut reader = wiretape::codec::ndjson::Reader::new("full", sample.as_bytes());
    let mut ledger = Ledger::default();
    while let Some(record) = reader.next_record().expect("it still is a capture") {
        if let Err(error) = ledger.enter(&record) {
            assert_eq!(error, expected, "{changed}");
            return;
        }
    }
    panic!("nobody notices {changed}");
}

#[test]
fn books_that_do_not_agree_are_found() {
    check(
        "\"elapsed_us\":3000,\"seq\":8,",
        "\"elapsed_us\":3000,\"seq\":9,",
        "number 9 where 8 was to come",
    );
    check(
        "\"offset\":36,",
        "\"offset\":37,",
        "1 bytes are missing without a gap",
    );
    check(
        "\"offset\":36,",
        "\"offset\":35,",
        "byte 35 again: 36 were there",
    );
    check(
        "\"in_bytes\":58,",
        "\"in_bytes\":59,",
        "1 bytes are missing without a gap",
    );
    check(
        "\"9c5de8e2\"",
        "\"9c5de8e3\"",
        "CRC-32 9c5de8e3, but 9c5de8e2 is right",
    );
    check(
        "\"25d1bb8b\"",
        "\"00000000\"",
        "CRC-32 00000000, but 25d1bb8b is right",
    );
    check(
        "\"bytes\":24,",
        "\"bytes\":25,",
        "nobody misses the 1 bytes of a gap",
    );
    check(
        "\"records\":2,",
        "\"records\":1,",
        "number 9 where 8 was to come",
    );
    check(
        "\"duration_us\":4035",
        "\"duration_us\":4034",
        "4035 µs long",
    );
    check(
        "\"elapsed_us\":7000,",
        "\"elapsed_us\":5999,",
        "5999 µs after 6000 µs",
    );
    check(
        "\"seq\":17,\"conn\":4,",
        "\"seq\":17,\"conn\":3,",
        "connection 3 opened twice",
    );
    check(
        "\"seq\":15,\"conn\":2,",
        "\"seq\":15,\"conn\":1,",
        "connection 1 is closed",
    );
    check(
        "\"seq\":15,\"conn\":2,",
        "\"seq\":15,\"conn\":3,",
        "connection 3 is [2001:db8::9]:50200's",
    );
}
