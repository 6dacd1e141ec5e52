//! How things stand, in words: one line told once in a while, or all there is to know where it was asked.

use std::time::Duration;

use super::words::{bytes, counted, milliseconds};
use crate::notice::{OutputStatistics, Statistics};
use crate::record::Totals;

/// Tells how fast things go: between two looks, or from the start of the run to the first.
#[derive(Debug, Default)]
pub(super) struct Meter {
    elapsed: Duration,
    totals: Totals,
}

/// What comes and goes in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    in_bytes: u64,
    out_bytes: u64,
    records: u64,
}

impl Meter {
    /// Since the last look.
    pub(super) fn read(&mut self, now: &Statistics) -> Rates {
        let seconds = now.elapsed.saturating_sub(self.elapsed).as_secs_f64();
        let rate = |before: u64, after: u64| match seconds > 0.0 {
            true => (after.saturating_sub(before) as f64 / seconds).round() as u64,
            false => 0,
        };
        let rates = Rates {
            in_bytes: rate(self.totals.in_bytes, now.totals.in_bytes),
            out_bytes: rate(self.totals.out_bytes, now.totals.out_bytes),
            records: rate(self.totals.records, now.totals.records),
        };
        *self = Self {
            elapsed: now.elapsed,
            totals: now.totals,
        };
        rates
    }
}

/// All that is known, a line for each output; without rates at the end of a run.
pub(super) fn lines(statistics: &Statistics, rates: Option<Rates>) -> Vec<String> {
    let totals = statistics.totals;
    let out = match totals.out_bytes {
        0 => String::new(),
        out => format!(", {} out", bytes(out)),
    };
    let rates = rates.map_or_else(String::new, |rates| {
        format!("; {}", in_words(rates, totals.out_bytes > 0))
    });
    let mut lines = vec![format!(
        "ran {}; {}, {} open{}; {} in{out}, {}{rates}; {}",
        milliseconds(statistics.elapsed),
        counted(totals.opened, "connection"),
        totals.open,
        refused(totals),
        bytes(totals.in_bytes),
        counted(totals.records, "record"),
        buffer(statistics),
    )];
    lines.extend(statistics.outputs.iter().map(output_line));
    lines
}

/// The same in one line.
pub(super) fn line(statistics: &Statistics, rates: Rates) -> String {
    let totals = statistics.totals;
    let mut line = format!(
        "{} open of {}{}; {}; {}",
        totals.open,
        counted(totals.opened, "connection"),
        refused(totals),
        in_words(rates, totals.out_bytes > 0),
        buffer(statistics),
    );
    for output in &statistics.outputs {
        line.push_str("; ");
        line.push_str(&output_line(output));
    }
    line
}

/// How far an output has come.
pub(super) fn output_line(output: &OutputStatistics) -> String {
    let lag = match output.lag.as_millis() {
        0 => String::new(),
        _ => format!(", {} behind", milliseconds(output.lag)),
    };
    let missed = match output.missed {
        0 => String::new(),
        missed => format!(
            ", {}, {} missed",
            counted(output.gaps, "gap"),
            counted(missed, "record")
        ),
    };
    format!(
        "{}: {} written, {} waiting{lag}{missed}",
        output.name,
        bytes(output.written),
        counted(output.waiting, "record")
    )
}

fn in_words(rates: Rates, has_out: bool) -> String {
    let out = match has_out {
        true => format!("{}/s out, ", bytes(rates.out_bytes)),
        false => String::new(),
    };
    format!(
        "{}/s in, {out}{}/s",
        bytes(rates.in_bytes),
        counted(rates.records, "record")
    )
}

fn refused(totals: Totals) -> String {
    match totals.refused {
        0 => String::new(),
        refused => format!(", {refused} refused"),
    }
}

fn buffer(statistics: &Statistics) -> String {
    let (held, limit) = statistics.buffered;
    format!("buffer {} of {}", bytes(held as u64), bytes(limit as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(seconds: u64, totals: Totals) -> Statistics {
        Statistics {
            elapsed: Duration::from_secs(seconds),
            totals,
            buffered: (1 << 18, 1 << 26),
            outputs: vec![OutputStatistics {
                name: "a.ndjson".to_owned(),
                written: 3 << 20,
                waiting: 7,
                lag: Duration::from_micros(12_345),
                missed: 0,
                gaps: 0,
            }],
        }
    }

    fn totals(records: u64, in_bytes: u64) -> Totals {
        Totals {
            opened: 20,
            open: 3,
            in_bytes,
            records,
            ..Totals::default()
        }
    }

    #[test]
    fn rates_are_those_since_the_last_look() {
        let mut meter = Meter::default();
        let check = |meter: &mut Meter, seconds, records, in_bytes, expected| {
            let rates = meter.read(&statistics(seconds, totals(records, in_bytes)));
            assert_eq!((rates.records, rates.in_bytes), expected);
        };
        check(&mut meter, 10, 100, 5_000, (10, 500));
        check(&mut meter, 12, 100, 5_000, (0, 0));
        check(&mut meter, 14, 300, 5_001, (100, 1));
        // Two looks at one time: nothing can be said.
        check(&mut meter, 14, 400, 9_000, (0, 0));
    }

    #[test]
    fn one_line_tells_how_things_stand() {
        let now = statistics(10, totals(100, 20_480));
        let rates = Meter::default().read(&now);
        assert_eq!(
            line(&now, rates),
            "3 open of 20 connections; 2.0 KiB/s in, 10 records/s; buffer 256.0 KiB of 64.0 MiB; \
             a.ndjson: 3.0 MiB written, 7 records waiting, 12ms behind"
        );
    }

    #[test]
    fn what_was_refused_sent_and_missed_is_told_where_there_is_any() {
        let mut now = statistics(10, totals(100, 20_480));
        now.totals.refused = 5;
        now.totals.out_bytes = 10_240;
        now.outputs[0].missed = 300;
        now.outputs[0].gaps = 2;
        now.outputs[0].lag = Duration::ZERO;
        let rates = Meter::default().read(&now);
        assert_eq!(
            lines(&now, Some(rates)),
            [
                "ran 10s; 20 connections, 3 open, 5 refused; 20.0 KiB in, 10.0 KiB out, 100 records; \
                 2.0 KiB/s in, 1.0 KiB/s out, 10 records/s; buffer 256.0 KiB of 64.0 MiB",
                "a.ndjson: 3.0 MiB written, 7 records waiting, 2 gaps, 300 records missed"
            ]
        );
    }
}
