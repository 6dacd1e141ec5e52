//! How long a chunk takes from a socket to whoever reads a pipe, while the machine has nothing else to do.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::Args;
use crate::contenders::{Contender, Habit, bare, other, wiretapes};
use crate::measure::{median, quantile};
use crate::table::Table;
use crate::workloads::{folder, interleaved};

/// Between two chunks: everybody has gone to sleep by then.
const PAUSE: Duration = Duration::from_micros(500);

pub fn latency(args: &Args) -> io::Result<Table> {
    let count = if args.small { 50 } else { 3_000 };
    let mut contenders = vec![bare("a loop that reads and writes", Some(100))];
    contenders.extend(wiretapes(args, "raw", &["raw", "-q"]));
    contenders.extend(wiretapes(args, "json", &["json", "-q"]));
    let socat = &["socat", "-u", "TCP-LISTEN:PORT,bind=127.0.0.1", "STDOUT"];
    contenders.extend(other("socat", socat, Habit::EndsItself));
    let taken = interleaved(args, contenders.len(), |nth| once(&contenders[nth], count))?;
    let head = [
        "program",
        "p50 us",
        "over the first",
        "p99 us",
        "over the first",
    ];
    let mut table = Table::new(
        format!("one chunk of 64 bytes to the reader of a pipe, {count} times"),
        &head,
    );
    let middle = |nth: usize, at: usize| median(taken[nth].iter().map(|taken| taken[at]).collect());
    let (first_p50, first_p99) = (middle(0, 0), middle(0, 1));
    for (nth, contender) in contenders.iter().enumerate() {
        let (p50, p99) = (middle(nth, 0), middle(nth, 1));
        table.row(vec![
            contender.name.clone(),
            format!("{p50:.0}"),
            format!("{:+.0}", p50 - first_p50),
            format!("{p99:.0}"),
            format!("{:+.0}", p99 - first_p99),
        ]);
    }
    Ok(table)
}

/// Microseconds that half of the chunks, and all but a hundredth of them, took at most.
fn once(contender: &Contender, count: usize) -> io::Result<[f64; 2]> {
    let folder = folder()?;
    let mut server = contender.start(folder.path(), true)?;
    let mut pipe = server.child.stdout.take().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    let chunk = [b'x'; 64];
    let mut times = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    // JSON says what else there is to say before the first bytes.
    let is_here = |bytes: &[u8]| bytes.windows(chunk.len()).any(|window| window == chunk);
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(&chunk)?;
        loop {
            let len = pipe.read(&mut buffer)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if is_here(&buffer[..len]) {
                break;
            }
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        std::thread::park_timeout(PAUSE);
    }
    drop(stream);
    std::thread::spawn(move || io::copy(&mut pipe, &mut io::sink()));
    server.finish(Instant::now(), None)?;
    Ok([quantile(&mut times, 0.5), quantile(&mut times, 0.99)])
}
