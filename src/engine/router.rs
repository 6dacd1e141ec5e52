//! From the capture core to the outputs: every sealed batch goes to each of them.

use crate::output::{Output, State};
use crate::record::Timestamp;
use crate::record::batch::{Batch, BatchPool};

/// The outputs, and the memory between them and the sockets.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) pool: BatchPool,
    outputs: Vec<Output>,
    is_finishing: bool,
}

impl Router {
    pub(super) fn new(pool: BatchPool, outputs: Vec<Output>) -> Self {
        Self {
            pool,
            outputs,
            is_finishing: false,
        }
    }

    pub(super) fn send(&self, batch: Batch) {
        let batch = batch.seal();
        for output in &self.outputs {
            output.send(&batch);
        }
    }

    pub(super) fn reopen(&self, now: Timestamp) {
        for output in &self.outputs {
            output.reopen(now);
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
        for output in &self.outputs {
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

    pub(super) fn has_any_failed(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| output.state() == State::Failed || output.is_torn())
    }

    /// Commands for closed files that still run, or wait to.
    pub(super) fn chores(&self) -> usize {
        self.outputs.iter().map(Output::chores).sum()
    }

    /// Whether the outputs were told to finish.
    pub(super) fn is_finishing(&self) -> bool {
        self.is_finishing
    }

    /// Outputs that have not written all they were given.
    pub(super) fn unwritten(&self) -> Vec<String> {
        let is_behind = |output: &&Output| {
            !output.has_ended() && (self.is_finishing || output.statistics().waiting > 0)
        };
        let behind = self.outputs.iter().filter(is_behind);
        behind.map(|output| output.name().to_owned()).collect()
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }
}
