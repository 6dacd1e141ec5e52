//! Programs that take what comes to a port: how each is started, and when it is done.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Args;
use crate::measure::{cpu, wait};

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that captures, and how it is asked to.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The arguments of `listen`, but for the address.
    Wiretape(PathBuf, &'static [&'static str]),
    /// Another program: it and its arguments, where PORT and OUTPUT stand for the two.
    Other(Vec<String>, Habit),
    /// The loop of this program, and how many bytes it writes for 100 that it reads, if it does.
    Bare(Option<u64>),
}

/// How a program ends, and where it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// With its only connection, and it writes to standard output.
    EndsItself,
    /// Not by itself, and it writes to a file that it opens.
    Stays,
    /// As that, with a configuration that is made for it.
    StaysConfigured,
}

/// The wiretapes to measure, asked to do this.
pub fn wiretapes(args: &Args, what: &str, options: &'static [&'static str]) -> Vec<Contender> {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_wiretape"));
    let programs = match args.program.is_empty() {
        true => vec![built],
        false => args.program.iter().map(PathBuf::from).collect(),
    };
    let many = programs.len() > 1;
    let contender = |program: PathBuf| Contender {
        name: match many {
            true => format!("{} {what}", program.display()),
            false => format!("wiretape {what}"),
        },
        kind: Kind::Wiretape(program, options),
    };
    programs.into_iter().map(contender).collect()
}

/// Another program, if it is installed.
pub fn other(name: &str, command: &[&str], habit: Habit) -> Option<Contender> {
    is_installed(command[0]).then(|| Contender {
        name: name.to_owned(),
        kind: Kind::Other(command.iter().map(|&word| word.to_owned()).collect(), habit),
    })
}

/// The bare loop: one that drops what it reads, or writes so many bytes for 100 of it.
pub fn bare(name: &str, percent: Option<u64>) -> Contender {
    Contender {
        name: name.to_owned(),
        kind: Kind::Bare(percent),
    }
}

#[expect(clippy::print_stderr, reason = "what is left out is said")]
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !is_there {
        eprintln!("left out: {program} is not installed");
    }
    is_there
}

/// A contender that runs.
#[derive(Debug)]
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    output: PathBuf,
    ends_itself: bool,
}

/// What it took until everything was written.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub wall: Duration,
    pub cpu: Duration,
}

impl Contender {
    /// Starts it, to write to a file in this folder, or with `pipe` to standard output, a pipe.
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub fn start(&self, folder: &Path, pipe: bool) -> io::Result<Server> {
        let output = folder.join("output");
        let to = match pipe {
            true => "-".to_owned(),
            false => output.display().to_string(),
        };
        let (mut command, ends_itself, port) = match &self.kind {
            Kind::Wiretape(program, options) => {
                let mut command = Command::new(program);
                let format = options[0];
                command.args(["listen", "127.0.0.1:0", "-o", &format!("{format}:{to}")]);
                command.args(&options[1..]).stderr(Stdio::piped());
                (command, false, None)
            }
            Kind::Bare(percent) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg(crate::bare::COMMAND).stderr(Stdio::piped());
                match percent {
                    Some(percent) => command.args([&to, &percent.to_string()]),
                    None => command.arg("drop"),
                };
                (command, false, None)
            }
            Kind::Other(line, habit) => {
                let port = free_port()?;
                let fill = |word: &str| {
                    let word = word.replace("PORT", &port.to_string());
                    word.replace("OUTPUT", &to)
                        .replace("FOLDER", &folder.display().to_string())
                };
                let mut command = Command::new(&line[0]);
                command.args(line[1..].iter().map(|word| fill(word)));
                command.stderr(Stdio::null());
                if *habit == Habit::StaysConfigured {
                    fs::write(folder.join("conf"), fill(RSYSLOG))?;
                }
                (command, *habit == Habit::EndsItself, Some(port))
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(match (pipe, ends_itself) {
                (true, _) => Stdio::piped(),
                (false, true) => File::create(&output)?.into(),
                (false, false) => Stdio::null(),
            });
        let mut child = command.spawn()?;
        let port = match port {
            Some(port) => wait_until_listened(port).map(|()| port),
            None => said_port(&mut child),
        };
        Ok(Server {
            child,
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port?),
            output,
            ends_itself,
        })
    }
}

/// rsyslog, receiving by TCP and writing a JSON object a line.
const RSYSLOG: &str = r#"
global(workDirectory="FOLDER")
module(load="imptcp")
template(name="json" type="list" option.jsonf="on") {
    property(outname="ts" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="peer" name="fromhost-ip" format="jsonf")
    property(outname="text" name="rawmsg" format="jsonf")
}
ruleset(name="capture") { action(type="omfile" file="OUTPUT" template="json" ioBufferSize="64k") }
input(type="imptcp" port="PORT" address="127.0.0.1" ruleset="capture" supportOctetCountedFraming="off" socketBacklog="128")
"#;

impl Server {
    /// Waits until it has written everything, be it `expected` bytes, and ends it. `begun` is when the load
    /// began.
    ///
    /// # Errors
    /// It takes too long.
    pub fn finish(mut self, begun: Instant, expected: Option<u64>) -> io::Result<Taken> {
        let mut written = None;
        if let Some(expected) = expected {
            wait_until(|| fs::metadata(&self.output).is_ok_and(|output| output.len() >= expected))?;
            written = Some((begun.elapsed(), cpu(&self.child)?));
        }
        if !self.ends_itself {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        let (_, cpu) = wait(&mut self.child)?;
        let wall = begun.elapsed();
        let _ = fs::remove_file(&self.output);
        // One that ends itself, or is told to, has written everything by then.
        let (wall, cpu) = written.unwrap_or((wall, cpu));
        Ok(Taken { wall, cpu })
    }

    /// The length of the first line that it has written.
    pub fn line_len(&self) -> io::Result<u64> {
        let mut line = Vec::new();
        wait_until(|| {
            line.clear();
            let file = File::open(&self.output).map(BufReader::new);
            file.and_then(|mut file| file.read_until(b'\n', &mut line))
                .is_ok()
                && line.ends_with(b"\n")
        })?;
        Ok(line.len() as u64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until this is so.
pub fn wait_until(mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

/// A port that nobody listens on now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens on this port, without a connection of its own: some take only one.
pub fn wait_until_listened(port: u16) -> io::Result<()> {
    // proc_net_tcp(5): the local address, the remote one, the state, where 0A is to listen.
    let local = format!(":{port:04X} ");
    let is_listening = |line: &str| line.contains(&local) && line.contains(" 0A ");
    wait_until(|| {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        tables
            .iter()
            .any(|table| fs::read_to_string(table).is_ok_and(|text| text.lines().any(is_listening)))
    })
}

/// The port that it says it listens on.
pub fn said_port(child: &mut Child) -> io::Result<u16> {
    let stderr = child.stderr.take().ok_or(io::ErrorKind::NotFound)?;
    let mut lines = BufReader::new(stderr).lines();
    let port = loop {
        let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        let port = line
            .contains("listening on ")
            .then(|| line.rsplit(':').next()?.parse().ok());
        if let Some(port) = port.flatten() {
            break port;
        }
    };
    // Whatever else it says is not to hold it up.
    std::thread::spawn(move || lines.for_each(drop));
    Ok(port)
}
