//! What the kernel tells of a process and of a socket.

use std::fs;
use std::net::TcpStream;

use rustix::process::Pid;

/// Bytes of this socket that were not acknowledged: `SIOCOUTQ`, tcp(7).
#[expect(unsafe_code, reason = "no safe interface offers this ioctl")]
pub fn unacknowledged(stream: &TcpStream) -> usize {
    use rustix::ioctl::{Getter, Opcode, ioctl};
    const SIOCOUTQ: Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one int, which is the type that is asked for.
    let left = unsafe { ioctl(stream, Getter::<SIOCOUTQ, i32>::new()) };
    left.expect("it is a TCP socket") as usize
}

/// The most memory a process ever had, in bytes.
pub fn peak_memory(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number")
        * 1024
}

/// Processor time of a process so far, in hundredths of a second.
pub fn ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .expect("a name")
        .split(' ')
        .collect();
    let number = |nth: usize| fields[nth].parse::<u64>().expect("a number");
    number(12) + number(13)
}
