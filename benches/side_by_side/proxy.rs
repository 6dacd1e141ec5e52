//! A redis behind a proxy that captures, beside one that does not.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Args;
use crate::contenders::{free_port, is_installed, said_port, wait_until_listened};
use crate::measure::{median, wait};
use crate::table::Table;
use crate::workloads::{folder, interleaved};

/// Clients at once.
const CLIENTS: &str = "50";

/// A child that is ended with its scope.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `pipeline` requests are on their way at once, of each client.
pub fn proxy(args: &Args, pipeline: usize) -> io::Result<Table> {
    let requests: u64 = match (args.small, pipeline) {
        (true, _) => 2_000,
        (false, 1) => 200_000,
        (false, _) => 2_000_000,
    };
    let title =
        format!("redis SET through a proxy, {CLIENTS} clients, P={pipeline}: {requests} requests");
    let head = [
        "program",
        "requests a second",
        "beside the first",
        "CPU us each",
    ];
    let mut table = Table::new(title, &head);
    if !is_installed("redis-server") || !is_installed("redis-benchmark") {
        table.note("redis is not installed: nothing was measured.");
        return Ok(table);
    }
    let folder = folder()?;
    let target = free_port()?;
    let redis = Command::new("redis-server")
        .args([
            "--port",
            &target.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .stdout(Stdio::null())
        .spawn()?;
    let _redis = Ended(redis);
    wait_until_listened(target)?;
    let mut names = vec!["wiretape proxy -o json"];
    if is_installed("haproxy") {
        names.insert(0, "haproxy, tcp, nbthread 1, capturing nothing");
    }
    names.push("none");
    let taken = interleaved(args, names.len(), |nth| {
        let (proxy, port) = match names[nth] {
            "none" => (None, target),
            name if name.starts_with("haproxy") => haproxy(folder.path(), target)?,
            _ => wiretape(args, folder.path(), target)?,
        };
        let rate = load(port, pipeline, requests)?;
        let cpu = match proxy {
            None => 0.0,
            Some(mut proxy) => {
                kill_process(Pid::from_child(&proxy.0), Signal::TERM)?;
                let (_, cpu) = wait(&mut proxy.0)?;
                cpu.as_secs_f64() * 1e6 / requests as f64
            }
        };
        let _ = fs::remove_file(folder.path().join("proxy.ndjson"));
        Ok((rate, cpu))
    })?;
    let rate = |nth: usize| median(taken[nth].iter().map(|taken| taken.0).collect());
    for (nth, name) in names.iter().enumerate() {
        let cpu = median(taken[nth].iter().map(|taken| taken.1).collect());
        table.row(vec![
            (*name).to_owned(),
            format!("{:.0}", rate(nth)),
            format!("{:.2}", rate(nth) / rate(0)),
            format!("{cpu:.1}"),
        ]);
    }
    Ok(table)
}

type Started = (Option<Ended>, u16);

fn haproxy(folder: &Path, target: u16) -> io::Result<Started> {
    let port = free_port()?;
    let conf = folder.join("haproxy.conf");
    let text = format!(
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
         listen redis\n bind 127.0.0.1:{port}\n server redis 127.0.0.1:{target}\n"
    );
    fs::write(&conf, text)?;
    let child = Command::new("haproxy")
        .arg("-db")
        .arg("-f")
        .arg(&conf)
        .stderr(Stdio::null())
        .spawn()?;
    wait_until_listened(port)?;
    Ok((Some(Ended(child)), port))
}

fn wiretape(args: &Args, folder: &Path, target: u16) -> io::Result<Started> {
    let program = args
        .program
        .first()
        .map_or(env!("CARGO_BIN_EXE_wiretape"), String::as_str);
    let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), target).to_string();
    let mut child = Command::new(program)
        .args(["proxy", "127.0.0.1:0", &target, "-q", "-o"])
        .arg(folder.join("proxy.ndjson"))
        .stderr(Stdio::piped())
        .spawn()?;
    let port = said_port(&mut child)?;
    Ok((Some(Ended(child)), port))
}

/// Requests a second.
fn load(port: u16, pipeline: usize, requests: u64) -> io::Result<f64> {
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-t",
            "set",
            "-c",
            CLIENTS,
            "--csv",
        ])
        .args(["-n", &requests.to_string(), "-P", &pipeline.to_string()])
        .stderr(Stdio::null())
        .output()?;
    // "SET","69444.45",…
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("\"SET\""));
    let rate = line.and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    rate.ok_or_else(|| io::Error::other("redis-benchmark says nothing"))
}
