//! TCP keepalive: how a peer that has vanished without a word is noticed.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Probes that may go unanswered.
const PROBES: u32 = 4;

/// How long a connection may be silent before the peer is asked whether it is still there; `None`
/// where it is never asked. It is then asked four times, a quarter of that time apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive(pub Option<Duration>);

impl Keepalive {
    /// The longest time that the kernel takes, `MAX_TCP_KEEPIDLE` in Linux; the shortest is a second.
    pub const RANGE_SECS: std::ops::RangeInclusive<u64> = 1..=32_767;

    fn interval(time: Duration) -> Duration {
        (time / PROBES).max(Duration::from_secs(1))
    }

    /// How long it takes to notice.
    pub(super) fn notices_after(self) -> Option<Duration> {
        self.0.map(|time| time + PROBES * Self::interval(time))
    }

    /// Has the kernel do it. Sockets that are accepted inherit it from their listener.
    pub(super) fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        let Some(time) = self.0 else {
            return Ok(());
        };
        let keepalive = TcpKeepalive::new()
            .with_time(time)
            .with_interval(Self::interval(time))
            .with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)
    }
}
