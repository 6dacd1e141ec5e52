//! Which records of a capture are meant.

use std::ops::RangeInclusive;

use wildmatch::WildMatch;

use super::{Conn, WallTime};

/// Connections by number and by peer, records by time. What is left out asks nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Numbers of connections, in any run.
    pub conns: Vec<RangeInclusive<u64>>,
    /// Peers, as records show them; `*` stands for any characters, `?` for one.
    pub peers: Vec<WildMatch>,
    /// Records of this time or later.
    pub since: Option<WallTime>,
    /// Records before this time.
    pub until: Option<WallTime>,
}

impl Selection {
    /// Whether the connection is meant.
    pub fn takes_conn(&self, conn: &Conn<'_>) -> bool {
        let by_number = |range: &RangeInclusive<u64>| range.contains(&conn.id.0);
        let by_peer = |peer: &WildMatch| peer.matches(&conn.peer);
        (self.conns.is_empty() || self.conns.iter().any(by_number))
            && (self.peers.is_empty() || self.peers.iter().any(by_peer))
    }

    /// Whether a record of this time is meant.
    pub fn takes_time(&self, time: WallTime) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnId;
    use super::*;

    #[test]
    fn what_is_asked_for_is_taken() {
        let conn = |id, peer: &'static str| Conn {
            id: ConnId(id),
            peer: peer.into(),
        };
        let all = Selection::default();
        assert!(all.takes_conn(&conn(1, "x")) && all.takes_time(WallTime::default()));
        let some = Selection {
            conns: vec![3..=3, 10..=12],
            peers: vec![WildMatch::new("192.0.2.?:*"), WildMatch::new("[::1]:*")],
            since: Some(WallTime::from_unix_micros(5)),
            until: Some(WallTime::from_unix_micros(7)),
        };
        assert!(some.takes_conn(&conn(3, "192.0.2.9:5")) && some.takes_conn(&conn(12, "[::1]:5")));
        assert!(!some.takes_conn(&conn(3, "192.0.2.19:5")));
        assert!(!some.takes_conn(&conn(4, "192.0.2.9:5")));
        let taken = (4..9).filter(|&at| some.takes_time(WallTime::from_unix_micros(at)));
        assert_eq!(taken.collect::<Vec<_>>(), [5, 6]);
    }
}
