//! Values as people write them: sizes, durations, times, numbers of connections.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

use crate::engine::keepalive::Keepalive;
use crate::output::options::SyncPolicy;
use crate::record::WallTime;

/// A number of bytes, as bytesize reads it.
pub(super) fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse()
        .map_err(|_| "a size is a number with a unit: B, KiB, MiB, GiB, KB, MB, GB")
}

/// `seal`, `always`, or a duration.
pub(super) fn sync(text: &str) -> Result<SyncPolicy, String> {
    match text {
        "seal" => Ok(SyncPolicy::Seal),
        "always" => Ok(SyncPolicy::Always),
        _ => duration(text)
            .map(SyncPolicy::Every)
            .map_err(|error| format!("neither `seal` nor `always` nor a duration: {error}")),
    }
}

/// A duration above zero, as humantime reads it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A duration after which something is done again.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < Duration::from_millis(1) => Err("it is 1ms or longer".to_owned()),
        duration => Ok(duration),
    }
}

/// A duration, zero among them.
pub(super) fn any_duration(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// A duration that the kernel takes for TCP keepalive, or zero.
pub(super) fn keepalive(text: &str) -> Result<Keepalive, String> {
    let time = any_duration(text)?;
    match time {
        Duration::ZERO => Ok(Keepalive(None)),
        _ if Keepalive::RANGE_SECS.contains(&time.as_secs()) => Ok(Keepalive(Some(time))),
        _ => Err("it is 0, or from 1s to 32767s".to_owned()),
    }
}

/// `3` or `10-20`.
pub(super) fn conns(text: &str) -> Result<RangeInclusive<u64>, &'static str> {
    let number = |text: &str| text.parse::<u64>();
    let range = match text.split_once('-') {
        None => number(text).map(|conn| conn..=conn),
        Some((first, last)) => {
            number(first).and_then(|first| number(last).map(|last| first..=last))
        }
    };
    match range {
        Ok(range) if !range.is_empty() => Ok(range),
        _ => Err("a connection is a number, or two for all between them, as in 10-20"),
    }
}

/// RFC 3339 in UTC; the `T` and the `Z` may be left out.
pub(super) fn time(text: &str) -> Result<WallTime, &'static str> {
    humantime::parse_rfc3339_weak(text)
        .map(WallTime::from)
        .map_err(|_| "a time is a day and a time in UTC, as in 2026-11-22T12:02:59Z")
}
