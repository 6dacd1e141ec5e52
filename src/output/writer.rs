//! An output without a thread: what is read from captures is written on the spot.
//!
//! It writes what an [`Output`](super::Output) would, by the same means, but for one thing: the records
//! are not those of the run at hand. Runs follow each other in it, each with a `start` of its own, and any
//! record may be missing.

use std::sync::Arc;

use super::State;
use super::live::Moment;
use super::outlet::Outlet;
use super::target::Target;
use crate::record::{EndReason, Endpoints, Event, Record, Start, Timestamp};

/// An output that is written to on the thread of whoever reads the captures.
#[derive(Debug)]
pub struct Writer {
    outlet: Outlet,
    /// Until nothing can be written to it any more.
    target: Option<Target>,
    /// Behind the record that was written last.
    at: Moment,
}

impl Writer {
    pub(super) fn new(outlet: Outlet, target: Target) -> Self {
        Self {
            outlet,
            target: Some(target),
            at: Moment {
                time: Timestamp::default(),
                seq: 0,
            },
        }
    }

    /// Whether it asks where a connection comes from and goes to.
    pub fn needs_endpoints(&self) -> bool {
        matches!(self.target, Some(Target::Many(_)))
    }

    /// The records that follow are those of another run. Files that hold a part of the one before are
    /// closed.
    pub fn begin_run(&mut self, mut start: Arc<Start>) {
        self.leave_run();
        if let Some(Target::Many(many)) = &self.target {
            if many.holds_parts() {
                Arc::make_mut(&mut start).part = true;
            }
        }
        self.outlet.scribe.adopt(start);
    }

    /// Writes a record. `endpoints` are those of the connection that it speaks of, where they are known.
    pub fn record(&mut self, record: &Record<'_>, endpoints: Option<&Endpoints>) {
        let Some(target) = &mut self.target else {
            return;
        };
        self.at = Moment {
            time: record.time,
            seq: record.next_seq(),
        };
        // A file a connection has segments of its own, and the run goes on behind this one.
        let is_turn = matches!(
            record.event,
            Event::End {
                reason: EndReason::Rotated
            }
        );
        if is_turn && matches!(target, Target::Many(_)) {
            return;
        }
        let result = target.record(record, endpoints, &mut self.outlet);
        if let Err(error) = result {
            self.end(Err(error));
        }
    }

    /// Writes what is encoded.
    pub fn flush(&mut self) {
        if let Some(target) = &mut self.target {
            if let Err(error) = target.flush(&mut self.outlet) {
                self.end(Err(error));
            }
        }
    }

    /// Writes everything, has it synced, and tells how it has ended.
    pub fn finish(mut self) -> State {
        self.leave_run();
        if let Some(target) = self.target.take() {
            let result = target.finish(&mut self.outlet);
            self.outlet.end(result);
        }
        self.outlet.queue.state()
    }

    /// Whether nothing can be written to it any more.
    pub fn has_ended(&self) -> bool {
        self.target.is_none()
    }

    /// Whether something is missing in it, or may be, though it went on.
    pub fn is_torn(&self) -> bool {
        self.outlet.queue.is_torn()
    }

    fn leave_run(&mut self) {
        if let Some(Target::Many(many)) = &mut self.target {
            many.leave_run(self.at, &mut self.outlet);
        }
    }

    fn end(&mut self, result: std::io::Result<()>) {
        self.target = None;
        self.outlet.end(result);
    }
}
