//! What is measured: loads, and who bears them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::Args;
use crate::contenders::{Contender, Habit, Taken, bare, other, wiretapes};
use crate::load::{Load, binary, text};
use crate::measure::{cpu, median, resident};
use crate::table::Table;
use crate::{latency, proxy, replay};

/// A load, and how it is measured.
#[derive(Debug)]
pub struct Workload {
    pub name: &'static str,
    run: fn(&Args) -> io::Result<Table>,
}

impl Workload {
    pub fn run(&self, args: &Args) -> io::Result<Table> {
        (self.run)(args)
    }
}

/// All of them, in the order in which they are measured.
pub fn all() -> Vec<Workload> {
    fn workload(name: &'static str, run: fn(&Args) -> io::Result<Table>) -> Workload {
        Workload { name, run }
    }
    vec![
        workload("bulk-text-1", |args| bulk(args, 1, &text(100), "text")),
        workload("bulk-text-64", |args| bulk(args, 64, &text(100), "text")),
        workload("bulk-binary-1", |args| bulk(args, 1, &binary(), "binary")),
        workload("bulk-binary-64", |args| bulk(args, 64, &binary(), "binary")),
        workload("lines", lines),
        workload("churn", churn),
        workload("idle", idle),
        workload("latency", latency::latency),
        workload("replay", replay::replay),
        workload("proxy-1", |args| proxy::proxy(args, 1)),
        workload("proxy-16", |args| proxy::proxy(args, 16)),
    ]
}

const GIB: u64 = 1 << 30;

/// A folder in memory where there is one: it is the programs that are to be measured.
pub fn folder() -> io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

/// Memory for what the contenders write: it was used before, and the host of a virtual machine cannot take it
/// back between two of them. Where it has to find it anew, a page costs several times as much, and whoever meets
/// that would be told to be slow.
///
/// A host takes back what is free in pieces of 2 MiB (free page reporting). So a file is written as long as what is
/// needed, and all of it given back but one page in each piece: what lies between is free, and never whole.
#[derive(Debug)]
struct Memory {
    _held: File,
}

impl Memory {
    fn hold(folder: &Path, bytes: u64) -> io::Result<Self> {
        const PIECE: u64 = 2 << 20;
        const PAGE: u64 = 4 << 10;
        let path = folder.join("memory");
        let mut file = File::create(&path)?;
        fs::remove_file(&path)?;
        let piece = vec![1; PIECE as usize];
        let pieces = bytes.div_ceil(PIECE);
        for _ in 0..pieces {
            file.write_all(&piece)?;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let give_back = |nth| fallocate(&file, flags, nth * PIECE + PAGE, PIECE - PAGE);
        if (0..pieces).try_for_each(give_back).is_err() {
            // A file system that is not in memory, and knows no holes.
            file.set_len(0)?;
        }
        Ok(Self { _held: file })
    }
}

/// Runs every contender once a round, in turn, and gives what each took in each round that counts.
pub fn interleaved<T>(
    args: &Args,
    contenders: usize,
    mut run: impl FnMut(usize) -> io::Result<T>,
) -> io::Result<Vec<Vec<T>>> {
    let mut taken: Vec<Vec<T>> = (0..contenders).map(|_| Vec::new()).collect();
    let warm_up = u32::from(!args.small);
    for round in 0..warm_up + if args.small { 1 } else { args.rounds } {
        for (nth, taken) in taken.iter_mut().enumerate() {
            let result = run(nth)?;
            if round >= warm_up {
                taken.push(result);
            }
        }
    }
    Ok(taken)
}

fn walls(taken: &[Taken]) -> f64 {
    median(taken.iter().map(|taken| taken.wall.as_secs_f64()).collect())
}

fn cpus(taken: &[Taken]) -> f64 {
    median(taken.iter().map(|taken| taken.cpu.as_secs_f64()).collect())
}

/// One load to each of the contenders, `expected` bytes of output where that can be said.
fn measure(
    args: &Args,
    load: &Load,
    contenders: &[Contender],
    expected: impl Fn(&Contender) -> Option<u64>,
) -> io::Result<Vec<Vec<Taken>>> {
    let folder = folder()?;
    let _memory = Memory::hold(folder.path(), 2 * load.bytes())?;
    interleaved(args, contenders.len(), |nth| {
        let server = contenders[nth].start(folder.path(), false)?;
        let begun = Instant::now();
        load.run(server.address)?;
        server.finish(begun, expected(&contenders[nth]))
    })
}

/// As much as goes, of one connection or of many.
fn bulk(args: &Args, connections: usize, pattern: &Arc<[u8]>, what: &str) -> io::Result<Table> {
    let bytes = if args.small { GIB / 64 } else { GIB };
    let load = Load {
        connections,
        at_once: connections,
        bytes_each: bytes / connections as u64,
        pattern: Arc::clone(pattern),
    };
    let single = connections == 1;
    let socat = |buffer: &str| {
        let (address, file, habit) = match single {
            true => ("", "trunc", Habit::EndsItself),
            false => (",fork,backlog=128", "append", Habit::Stays),
        };
        let name = format!("socat -u -b {buffer}");
        let address = format!("TCP-LISTEN:PORT,bind=127.0.0.1{address}");
        let file = format!("OPEN:OUTPUT,creat,{file}");
        other(
            &name,
            &["socat", "-u", "-b", buffer, &address, &file],
            habit,
        )
    };
    let others = [
        socat("1048576"),
        // Which of the two is the better one depends on the machine.
        single.then(|| socat("2097152")).flatten(),
        // It serves one connection after the other.
        single
            .then(|| {
                other(
                    "nc -l",
                    &["nc.openbsd", "-l", "127.0.0.1", "PORT"],
                    Habit::EndsItself,
                )
            })
            .flatten(),
        single
            .then(|| {
                other(
                    "ncat -l",
                    &["ncat", "--recv-only", "-l", "127.0.0.1", "PORT"],
                    Habit::EndsItself,
                )
            })
            .flatten(),
    ];
    let mut contenders: Vec<Contender> = others.into_iter().flatten().collect();
    contenders.extend(wiretapes(args, "raw", &["raw", "-q"]));
    contenders.extend(wiretapes(args, "json", &["json", "-q"]));
    contenders.push(bare("a loop that reads and writes", Some(100)));
    contenders.push(bare("a loop that reads", None));
    let is_raw = |contender: &Contender| {
        !contender.name.ends_with("json") && !contender.name.ends_with("reads")
    };
    let taken = measure(args, &load, &contenders, |contender| {
        is_raw(contender).then_some(bytes)
    })?;
    let mut table = Table::new(
        format!("{what}, {}, {connections} connection(s)", size(bytes)),
        &[
            "program",
            "wall s",
            "GB/s",
            "beside the first",
            "CPU s a GB",
            "beside the first",
        ],
    );
    let (first_wall, first_cpu) = (walls(&taken[0]), cpus(&taken[0]));
    for (contender, taken) in contenders.iter().zip(&taken) {
        let (wall, cpu) = (walls(taken), cpus(taken));
        let gigabytes = bytes as f64 / 1e9;
        // One that forks has its children do the work, and their time is not its own.
        let is_told = single || !contender.name.starts_with("socat");
        let cpu_each = is_told.then(|| format!("{:.2}", cpu / gigabytes));
        let cpu_beside = single.then(|| format!("{:.2}", cpu / first_cpu));
        table.row(vec![
            contender.name.clone(),
            format!("{wall:.3}"),
            format!("{:.2}", gigabytes / wall),
            format!("{:.2}", first_wall / wall),
            cpu_each.unwrap_or_default(),
            cpu_beside.unwrap_or_default(),
        ]);
    }
    Ok(table)
}

/// Bytes of the record of a line of 100 bytes, about.
const LINE_RECORD: u64 = 268;

/// Lines of 100 bytes, a record each.
fn lines(args: &Args) -> io::Result<Table> {
    const CONNECTIONS: usize = 16;
    let count = if args.small { 16_000 } else { 2_000_000 };
    let load = Load {
        connections: CONNECTIONS,
        at_once: CONNECTIONS,
        bytes_each: count / CONNECTIONS as u64 * 100,
        pattern: text(100),
    };
    let mut contenders = wiretapes(
        args,
        "--frame line, json",
        &["json", "-q", "--frame", "line"],
    );
    let rsyslog = &["rsyslogd", "-n", "-f", "FOLDER/conf", "-i", "FOLDER/pid"];
    contenders.extend(other(
        "rsyslog imptcp, json",
        rsyslog,
        Habit::StaysConfigured,
    ));
    let limit = "a loop that reads, and writes as much as wiretape";
    contenders.push(bare(limit, Some(LINE_RECORD)));
    let folder = folder()?;
    let _memory = Memory::hold(folder.path(), 2 * load.bytes() * LINE_RECORD / 100)?;
    let taken = interleaved(args, contenders.len(), |nth| {
        let server = contenders[nth].start(folder.path(), false)?;
        let begun = Instant::now();
        load.run(server.address)?;
        let expected = match contenders[nth].name.starts_with("rsyslog") {
            // Its lines are all equally long.
            true => Some(server.line_len()? * count),
            false => None,
        };
        server.finish(begun, expected)
    })?;
    Ok(counted(
        "lines of 100 bytes, 16 connections",
        "line",
        count,
        &contenders,
        &taken,
    ))
}

/// Connections that send 100 bytes and end.
fn churn(args: &Args) -> io::Result<Table> {
    let count = if args.small { 500 } else { 50_000 };
    let load = Load {
        connections: count as usize,
        at_once: 64,
        bytes_each: 100,
        pattern: text(100),
    };
    let mut contenders = vec![bare("a loop that reads", None)];
    contenders.extend(wiretapes(args, "json", &["json", "-q"]));
    contenders.extend(wiretapes(args, "raw", &["raw", "-q"]));
    let taken = measure(args, &load, &contenders, |_| None)?;
    let title = "connect, send 100 bytes, close; 64 at once";
    Ok(counted(title, "connection", count, &contenders, &taken))
}

fn counted(
    title: &str,
    unit: &str,
    count: u64,
    contenders: &[Contender],
    taken: &[Vec<Taken>],
) -> Table {
    let head = [
        "program",
        "wall s",
        "a second",
        "beside the first",
        "CPU us each",
        "beside the first",
    ];
    let mut table = Table::new(format!("{title}: {count} {unit}s"), &head);
    let (first_wall, first_cpu) = (walls(&taken[0]), cpus(&taken[0]));
    for (contender, taken) in contenders.iter().zip(taken) {
        let (wall, cpu) = (walls(taken), cpus(taken));
        table.row(vec![
            contender.name.clone(),
            format!("{wall:.3}"),
            format!("{:.0}", count as f64 / wall),
            format!("{:.2}", first_wall / wall),
            format!("{:.3}", cpu * 1e6 / count as f64),
            format!("{:.2}", cpu / first_cpu),
        ]);
    }
    table
}

/// Connections that do nothing.
fn idle(args: &Args) -> io::Result<Table> {
    let count: u64 = if args.small { 100 } else { 9_000 };
    let time = if args.small {
        Duration::from_millis(100)
    } else {
        Duration::from_secs(3)
    };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    let folder = folder()?;
    let contenders = wiretapes(args, "json", &["json", "-q"]);
    let taken = interleaved(args, contenders.len(), |nth| {
        idle_once(&contenders[nth], folder.path(), count, time)
    })?;
    let head = ["program", "KiB each", "CPU of one core"];
    let mut table = Table::new(format!("{count} idle connections"), &head);
    for (contender, taken) in contenders.iter().zip(&taken) {
        let bytes = median(taken.iter().map(|taken| taken.0).collect());
        let cpu = median(taken.iter().map(|taken| taken.1).collect());
        table.row(vec![
            contender.name.clone(),
            format!("{:.2}", bytes / 1024.0),
            format!("{:.1} %", cpu * 100.0),
        ]);
    }
    Ok(table)
}

/// Bytes for each, and the part of the time that was worked.
fn idle_once(
    contender: &Contender,
    folder: &Path,
    count: u64,
    time: Duration,
) -> io::Result<(f64, f64)> {
    let server = contender.start(folder, false)?;
    let before = resident(&server.child);
    let streams = (0..count).map(|_| TcpStream::connect(server.address));
    let streams = streams.collect::<io::Result<Vec<_>>>()?;
    // All are served when one behind them is.
    let one = Load {
        connections: 1,
        at_once: 1,
        bytes_each: 100,
        pattern: text(100),
    };
    one.run(server.address)?;
    let grown = resident(&server.child).saturating_sub(before);
    let worked = cpu(&server.child)?;
    std::thread::park_timeout(time);
    let worked = cpu(&server.child)?.saturating_sub(worked);
    drop(streams);
    server.finish(Instant::now(), None)?;
    Ok((
        grown as f64 / count as f64,
        worked.as_secs_f64() / time.as_secs_f64(),
    ))
}

/// A size in words.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
