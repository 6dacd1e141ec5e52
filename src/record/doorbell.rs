//! How threads that work for the loop wake it, and only when it waits for them.
//!
//! Waking costs a system call, so it must be rare; a missed one would leave the loop asleep for
//! ever, so it must be sure. The loop *arms* the bell, looks once more whether what it wants is
//! there, and sleeps only if not. A worker makes the thing available first and *rings* afterwards.
//! With both sides sequentially consistent one of them sees the other: either the loop's second
//! look finds the thing, or the worker finds the bell armed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Wakes the loop if it has said that it waits.
pub struct Doorbell {
    armed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Doorbell {
    /// `wake` must end the loop's sleep, now or the next one; it is called from any thread.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            armed: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// The loop is about to sleep. It must look once more before it does.
    pub fn arm(&self) {
        self.armed.store(true, SeqCst);
    }

    /// The loop does not sleep after all, or has woken.
    pub fn disarm(&self) {
        self.armed.store(false, SeqCst);
    }

    /// Wakes the loop whether it is armed or not: for what it must learn of even if it waits for
    /// nothing, such as the end of an output.
    pub fn call(&self) {
        (self.wake)();
    }

    /// Something that the loop may wait for has become available.
    pub fn ring(&self) {
        // The load first: most rings come while nobody waits, and a swap would bounce the line.
        if self.armed.load(SeqCst) && self.armed.swap(false, SeqCst) {
            (self.wake)();
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}
