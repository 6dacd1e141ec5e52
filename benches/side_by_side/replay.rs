//! A capture sent again as fast as it goes, beside its bytes out of a plain file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use crate::Args;
use crate::contenders::{Taken, bare, is_installed, wiretapes};
use crate::load::{Load, text};
use crate::measure::{median, wait};
use crate::table::Table;
use crate::workloads::{folder, interleaved, size};

pub fn replay(args: &Args) -> io::Result<Table> {
    let bytes: u64 = if args.small { 1 << 22 } else { 1 << 30 };
    let folder = folder()?;
    let (plain, capture) = (folder.path().join("plain"), folder.path().join("capture"));
    let load = Load {
        connections: 1,
        at_once: 1,
        bytes_each: bytes,
        pattern: text(100),
    };
    write_plain(&plain, &load.pattern, bytes)?;
    // Of the program that is measured, as its users have it.
    let recorder = wiretapes(args, "json", &["json", "-q"]).remove(0);
    let server = recorder.start(folder.path(), false)?;
    let output = folder.path().join("output");
    fs::hard_link(&output, &capture)?;
    load.run(server.address)?;
    server.finish(Instant::now(), None)?;
    let program = args
        .program
        .first()
        .map_or(env!("CARGO_BIN_EXE_wiretape"), String::as_str);
    let mut names = vec!["wiretape replay --speed max"];
    if is_installed("nc.openbsd") {
        names.insert(0, "nc -N < file");
    }
    let taken = interleaved(args, names.len(), |nth| {
        let sink = bare("", None).start(folder.path(), false)?;
        let mut command = match names[nth].starts_with("nc") {
            true => {
                let mut command = Command::new("nc.openbsd");
                command.args(["-N", "127.0.0.1", &sink.address.port().to_string()]);
                command.stdin(File::open(&plain)?);
                command
            }
            false => {
                let mut command = Command::new(program);
                command
                    .arg("replay")
                    .arg(&capture)
                    .arg(sink.address.to_string());
                command.args(["--speed", "max", "-q"]).stdin(Stdio::null());
                command
            }
        };
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let (status, cpu) = wait(&mut child)?;
        let wall = begun.elapsed();
        if !status.success() {
            return Err(io::Error::other("it has failed"));
        }
        drop(sink);
        Ok(Taken { wall, cpu })
    })?;
    let head = [
        "program",
        "wall s",
        "GB/s",
        "beside the first",
        "CPU s a GB",
    ];
    let mut table = Table::new(format!("one session of {}, sent again", size(bytes)), &head);
    let wall =
        |taken: &[Taken]| median(taken.iter().map(|taken| taken.wall.as_secs_f64()).collect());
    let gigabytes = bytes as f64 / 1e9;
    for (name, taken_by) in names.iter().zip(&taken) {
        let cpu = median(
            taken_by
                .iter()
                .map(|taken| taken.cpu.as_secs_f64())
                .collect(),
        );
        table.row(vec![
            (*name).to_owned(),
            format!("{:.3}", wall(taken_by)),
            format!("{:.2}", gigabytes / wall(taken_by)),
            format!("{:.2}", wall(&taken[0]) / wall(taken_by)),
            format!("{:.2}", cpu / gigabytes),
        ]);
    }
    Ok(table)
}

fn write_plain(path: &Path, pattern: &Arc<[u8]>, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(pattern.len());
        file.write_all(&pattern[..len])?;
        left -= len as u64;
    }
    Ok(())
}
