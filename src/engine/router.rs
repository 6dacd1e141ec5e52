//! From the capture core to the outputs: every sealed batch goes to each of them.

use super::Pacing;
use super::lead::Lead;
use crate::output::{Errand, Output, State};
use crate::record::Timestamp;
use crate::record::batch::{Batch, BatchPool};
use crate::record::time::micros;

/// The outputs, and the memory between them and the sockets.
#[derive(Debug)]
pub struct Router {
    pub(super) pool: BatchPool,
    outputs: Vec<Output>,
    is_finishing: bool,
    pacing: Pacing,
    /// By output: since when it has had no room and worked nothing off, and how much it had by then.
    standing: Vec<Option<Standing>>,
    lead: Lead,
}

/// How the buffer is shared out, so that outputs that may miss records hold half of it at most, and the
/// others never wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allotment {
    /// Bytes in all.
    pub limit: usize,
    /// Bytes that one output that may miss records holds at most.
    pub share: usize,
}

impl Allotment {
    /// Of `buffer` bytes, raised to what is needed for batches with arenas of `arena` bytes and for so
    /// many outputs that may miss records.
    pub fn of(buffer: usize, arena: usize, missing: usize) -> Self {
        let limit = buffer.max((2 + missing) * BatchPool::batch_cost(arena));
        Self {
            limit,
            share: limit / 2 / missing.max(1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    since_us: u64,
    worked_off: u64,
}

impl Router {
    /// `pool` is the memory; how far it waits for outputs, `pacing` says.
    pub fn new(pool: BatchPool, outputs: Vec<Output>, pacing: Pacing) -> Self {
        Self {
            pool,
            standing: vec![None; outputs.len()],
            lead: Lead::of(pacing.lead, &outputs),
            outputs,
            is_finishing: false,
            pacing,
        }
    }

    /// Until when the next batch is to wait for outputs, if it is.
    pub(super) fn waits_until_us(&mut self, now_us: u64) -> Option<u64> {
        let until_us = self.waits_for_full_until_us(now_us);
        until_us.max(self.lead.until_us(&self.pool, &self.outputs, now_us))
    }

    /// … for those that may miss it, have no room for it and still work. Where an output may miss nothing, the
    /// pool bounds what it holds.
    fn waits_for_full_until_us(&mut self, now_us: u64) -> Option<u64> {
        let charge = self.pool.batch_charge();
        let mut latest_us = None;
        let mut is_any_roomy = false;
        for (output, standing) in self.outputs.iter().zip(&mut self.standing) {
            if output.has_ended() {
                *standing = None;
            } else if !output.is_full(charge) {
                is_any_roomy = true;
                *standing = None;
            } else {
                let worked_off = output.worked_off();
                let since = standing.filter(|standing| standing.worked_off == worked_off);
                let since = standing.insert(since.unwrap_or(Standing {
                    since_us: now_us,
                    worked_off,
                }));
                latest_us = latest_us.max(Some(since.since_us + micros(self.pacing.time)));
            }
        }
        let waits = !is_any_roomy || self.pacing.is_for_each;
        latest_us.filter(|&until_us| waits && now_us < until_us)
    }

    pub(super) fn send(&self, batch: Batch) {
        let batch = batch.seal();
        for output in &self.outputs {
            output.send(&batch);
        }
    }

    /// Sends a batch, too, one output's part of it as an errand of the caller's, if one gives it.
    pub(super) fn send_as_errand(&self, batch: Batch) -> Option<Errand> {
        let batch = batch.seal();
        let mut errand = None;
        for output in &self.outputs {
            if errand.is_none() {
                errand = output.send_as_errand(&batch);
                if errand.is_some() {
                    continue;
                }
            }
            output.send(&batch);
        }
        errand
    }

    /// Whether one of the outputs may give errands.
    pub(super) fn gives_errands(&self) -> bool {
        self.outputs.iter().any(Output::gives_errands)
    }

    pub(super) fn reopen(&self, now: Timestamp) {
        for output in &self.outputs {
            output.reopen(now);
        }
    }

    /// Sends the last batch, and has every output end behind it.
    pub(super) fn finish(&mut self, last: Option<Batch>) {
        self.is_finishing = true;
        let last = last.map(Batch::seal);
        for output in &self.outputs {
            if let Some(last) = &last {
                output.send_last(last);
            }
            output.finish();
        }
    }

    /// Whether a batch would be written at once by at least one output.
    pub(super) fn is_any_idle(&self) -> bool {
        self.outputs.iter().any(Output::is_idle)
    }

    pub(super) fn have_all_ended(&self) -> bool {
        self.outputs.iter().all(Output::has_ended)
    }

    /// Whether there were outputs, and none is left.
    pub(super) fn have_all_gone(&self) -> bool {
        !self.outputs.is_empty() && self.have_all_ended()
    }

    pub(super) fn has_any_failed(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| output.state() == State::Failed || output.is_torn())
    }

    /// What the outputs have still to do for closed files.
    pub(super) fn chores(&self) -> usize {
        self.outputs.iter().map(Output::chores).sum()
    }

    /// Whether the outputs were told to finish.
    pub(super) fn is_finishing(&self) -> bool {
        self.is_finishing
    }

    /// Outputs that have not written all they were given.
    pub(super) fn unwritten(&self) -> Vec<String> {
        let is_behind =
            |output: &&Output| !output.has_ended() && (self.is_finishing || output.is_behind());
        let behind = self.outputs.iter().filter(is_behind);
        behind.map(|output| output.name().to_owned()).collect()
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }
}
