//! What a program takes of the processor and of memory, and medians.

use std::fs;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

/// Waits until a child has ended, and tells the processor time that it took, of all its threads and of children
/// that it has waited for. No other child of this process may be waited for meanwhile.
pub fn wait(child: &mut Child) -> io::Result<(ExitStatus, Duration)> {
    let before = of_ended()?;
    let status = child.wait()?;
    Ok((status, of_ended()?.saturating_sub(before)))
}

/// The processor time of all children that were waited for.
fn of_ended() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let micros = times.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(micros.iter().sum::<i64>() as u64))
}

/// The processor time that the threads took which a process has now: the first number of each one's
/// `schedstat`, in nanoseconds (sched-stats, in the kernel's documentation).
///
/// # Errors
/// The process is gone, or the kernel does not count it.
pub fn cpu(child: &Child) -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", child.id()))? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = schedstat
            .split(' ')
            .next()
            .and_then(|nanos| nanos.parse::<u64>().ok());
        nanos += first.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The resident memory of a process, in bytes.
pub fn resident(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The middle one of these; zero, of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The value that this part of the others, of 1, is below.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let nth = (values.len() as f64 * part) as usize;
    values
        .get(nth.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}
