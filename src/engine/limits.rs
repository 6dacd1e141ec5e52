//! How many connections the kernel will let this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept back from connections: standard streams, the poll, the waker, signals, and
/// files that are opened while the old ones are still written.
const RESERVE: u64 = 32;

/// What is assumed where the kernel sets no limit at all.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard one, and says how many connections it leaves room
/// for beside `others` descriptors. At least one.
pub fn max_conns(others: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let left = (limit.unwrap_or(UNLIMITED)).saturating_sub(RESERVE + others as u64);
    usize::try_from(left).unwrap_or(usize::MAX).max(1)
}
