//! How far a replay has come, and the line on a terminal that changes as it comes further.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words::{bytes, counted};
use crate::notice::Progress;

/// Steps of the bar.
const STEPS: u64 = 1000;

/// The line. There is none until something is shown.
#[derive(Debug, Default)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    /// Draws it anew: what is to be said, behind how much of the whole is done, where that is known.
    pub(super) fn show(&mut self, done: Option<f64>, text: String) {
        let bar = self.0.get_or_insert_with(|| {
            let template = match done {
                Some(_) => "{bar:24} {percent}% {msg}",
                None => "{spinner} {wide_msg}",
            };
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let target = ProgressDrawTarget::stderr_with_hz(10);
            ProgressBar::with_draw_target(Some(STEPS), target).with_style(style)
        });
        bar.set_message(text);
        match done {
            Some(done) => bar.set_position((done * STEPS as f64) as u64),
            None => bar.tick(),
        }
    }

    /// Says a line above it.
    pub(super) fn above(&self, say: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// Takes it away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// The same in words.
pub(super) fn line(progress: &Progress) -> String {
    let (over, failed) = progress.over;
    let sessions = match progress.sessions {
        Some(sessions) => format!("{over} of {}", counted(sessions, "session")),
        None => counted(over, "session"),
    };
    let failed = match failed {
        0 => String::new(),
        _ => format!(", {failed} failed"),
    };
    let (sent, received) = progress.bytes;
    let left =
        time_left(progress).map_or(String::new(), |left| format!(", {} left", seconds(left)));
    format!(
        "{sessions}, {} active{failed}; {} sent, {} received; at {}{left}",
        progress.active,
        bytes(sent),
        bytes(received),
        seconds(progress.at),
    )
}

/// What its speed says, where all has been read; else, as long for the rest as for what was played.
fn time_left(progress: &Progress) -> Option<Duration> {
    progress.left.or_else(|| {
        let played = progress.played.filter(|&played| played > 0.0)?;
        let elapsed = progress.elapsed.as_secs_f64();
        Duration::try_from_secs_f64(elapsed * (1.0 - played).max(0.0) / played).ok()
    })
}

fn seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_the_schedule_or_by_what_was_played() {
        let progress = Progress {
            elapsed: Duration::from_secs(10),
            active: 3,
            over: (12, 1),
            sessions: Some(50),
            bytes: (2048, 10),
            at: Duration::from_millis(62_900),
            left: Some(Duration::from_secs(7)),
            played: Some(0.25),
        };
        assert_eq!(
            line(&progress),
            "12 of 50 sessions, 3 active, 1 failed; 2.0 KiB sent, 10 B received; at 1m 2s, 7s left"
        );
        let unknown = Progress {
            left: None,
            sessions: None,
            ..progress
        };
        assert!(line(&unknown).ends_with(", 30s left"));
        assert!(line(&unknown).starts_with("12 sessions, "));
    }
}
