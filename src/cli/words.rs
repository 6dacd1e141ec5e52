//! Numbers as a person reads them.

use std::time::Duration;

use bytesize::ByteSize;

/// `1 thing`, `2 things`.
pub(super) fn counted(count: u64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// A size, in the unit that suits it.
pub(super) fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// A duration, to the millisecond.
pub(super) fn milliseconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(duration.as_millis() as u64))
}
