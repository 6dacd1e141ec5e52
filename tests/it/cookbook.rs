//! The recipes of `man/wiretape-cookbook.7`, each run as it stands there, what it prints compared with what
//! stands there. Times, ports that the kernel chose and durations may differ; nothing else may.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use regex_lite::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::tape::{PATIENCE, program};

const PAGE: &str = include_str!("../../man/wiretape-cookbook.7");

/// Ports that recipes speak of; a test has others, which are free.
const PORTS: [&str; 5] = ["1234", "6379", "6380", "6400", "9000"];

/// A recipe needs them, where they stand in it.
const PROGRAMS: [&str; 9] = [
    "jq",
    "nc",
    "redis-cli",
    "redis-server",
    "logrotate",
    "pkill",
    "systemd-socket-activate",
    "curl",
    "zstd",
];

/// A recipe.
#[derive(Debug)]
struct Recipe {
    title: String,
    steps: Vec<Step>,
}

/// A command, and what it prints.
#[derive(Debug)]
struct Step {
    command: String,
    printed: Vec<String>,
}

/// What mdoc shows of a literal line.
fn shown(line: &str) -> String {
    line.replace("\\-", "-")
        .replace("\\(aq", "'")
        .replace("\\&", "")
        .replace("\\e", "\\")
}

/// All recipes of the page.
fn recipes() -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = Vec::new();
    let mut is_literal = false;
    let mut is_open = false;
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix(".Ss ") {
            recipes.push(Recipe {
                title: title.to_owned(),
                steps: Vec::new(),
            });
        }
        match line {
            _ if line.starts_with(".Bd -literal") => is_literal = true,
            ".Ed" => is_literal = false,
            _ if is_literal => {
                let line = shown(line);
                let recipe = recipes.last_mut().expect("a block is in a recipe");
                if let Some(command) = line.strip_prefix("$ ").filter(|_| !is_open) {
                    recipe.steps.push(Step {
                        command: command.to_owned(),
                        printed: Vec::new(),
                    });
                } else if is_open {
                    let step = recipe.steps.last_mut().expect("it was begun");
                    step.command.push('\n');
                    step.command.push_str(&line);
                } else if let Some(step) = recipe.steps.last_mut() {
                    step.printed.push(line);
                }
                let last = recipe.steps.last();
                is_open =
                    last.is_some_and(|step| step.printed.is_empty() && goes_on(&step.command));
            }
            _ => {}
        }
    }
    recipes.retain(|recipe| !recipe.steps.is_empty());
    recipes
}

/// Whether the next line is still the command's.
fn goes_on(command: &str) -> bool {
    let is_quoted = command.matches('\'').count() % 2 == 1;
    is_quoted || command.contains("<<EOF") && !command.ends_with("\nEOF")
}

/// What is another each time.
fn masked(line: &str) -> String {
    const MASKS: [(&str, &str); 9] = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\d{8}T\d{6}Z", "TIME"),
        (r"(?i)listening on \S+", "listening on ADDRESS"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\b\d+(us|ms|s|m)( \d+(us|ms|s))*\b", "DURATION"),
        (r"\b[0-9a-f]{16}\b", "RUN"),
        (r"\d+ of (\d+) by more", "N of $1 by more"),
        (r"\d+ B written", "N B written"),
        (r" +", " "),
    ];
    let mut line = line.trim_end().to_owned();
    for (mask, name) in MASKS {
        let mask = Regex::new(mask).expect("it is one");
        line = mask.replace_all(&line, name).into_owned();
    }
    line
}

/// A shell, as somebody at a terminal has it, in a folder of its own.
struct Shell {
    shell: Child,
    folder: TempDir,
    /// Lines of the transcript that were compared.
    seen: usize,
    steps: usize,
}

impl Shell {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        symlink(source.join("samples"), folder.path().join("samples")).expect("the folder is new");
        let wiretape = Path::new(env!("CARGO_BIN_EXE_wiretape"));
        let mut path = vec![wiretape.parent().expect("it is in a folder").to_owned()];
        // nc is OpenBSD's, by whatever name.
        let programs = folder.path().join(".programs");
        fs::create_dir(&programs).expect("the folder is new");
        if let Some(nc) = program("nc.openbsd") {
            symlink(nc, programs.join("nc")).expect("the folder is new");
            path.push(programs);
        }
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let transcript = File::create(folder.path().join(".transcript")).expect("it is new");
        let shell = Command::new("bash")
            .env(
                "PATH",
                std::env::join_paths(path).expect("they were joined"),
            )
            .env_remove("NO_COLOR")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(transcript.try_clone().expect("descriptors"))
            .stderr(transcript)
            .process_group(0)
            .spawn()
            .expect("bash starts");
        Self {
            shell,
            folder,
            seen: 0,
            steps: 0,
        }
    }

    fn transcript(&self) -> Vec<String> {
        let text = fs::read(self.folder.path().join(".transcript")).expect("it is there");
        let text = String::from_utf8_lossy(&text).into_owned();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Has the shell run a command, and waits until it has, and until as many lines as `expected` have been
    /// printed, by it or by what goes on behind it.
    fn run(&mut self, command: &str, expected: usize) -> Vec<String> {
        self.steps += 1;
        let done = self.folder.path().join(format!(".done-{}", self.steps));
        // What the next command asks of this one is its status.
        let script = format!(
            "{command}\nstatus=$?; touch .done-{}; (exit $status)\n",
            self.steps
        );
        let stdin = self.shell.stdin.as_mut().expect("it is piped");
        stdin.write_all(script.as_bytes()).expect("bash reads");
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        while std::time::Instant::now() < deadline {
            lines = self.transcript().split_off(self.seen);
            if done.exists() && lines.len() >= expected {
                // What it printed until then stands there by now.
                lines = self.transcript().split_off(self.seen);
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        self.seen += lines.len();
        lines
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Whatever it has started is in its group.
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
    }
}

/// Whether all that a recipe needs is installed; said, where it is not.
fn is_possible(recipe: &Recipe) -> bool {
    let text: String = recipe
        .steps
        .iter()
        .map(|step| step.command.clone() + "\n")
        .collect();
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "|;&()".contains(c))
        .collect();
    PROGRAMS
        .iter()
        .filter(|name| words.contains(name))
        .all(|name| {
            let name = if *name == "nc" { "nc.openbsd" } else { name };
            program(name).is_some()
        })
}

/// A port that nobody listens on, nor is given by the kernel: those that it chooses for others, here and in other
/// tests, lie above (`ip_local_port_range`).
fn free_port() -> String {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Another run of these tests begins elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let mut ports = (0..COUNT).map(|_| {
        let nth = begin.wrapping_add(NEXT.fetch_add(1, Relaxed));
        (FIRST + nth % COUNT) as u16
    });
    let is_free = |port: &u16| TcpListener::bind(("::", *port)).is_ok();
    ports.find(is_free).expect("a free port").to_string()
}

fn check(recipe: &Recipe) -> Result<(), String> {
    let mut shell = Shell::start();
    let ports = PORTS.map(|port| {
        (
            Regex::new(&format!(r"\b{port}\b")).expect("it is one"),
            free_port(),
        )
    });
    let group = shell.shell.id();
    for step in &recipe.steps {
        let mut command = step.command.clone();
        for (port, free) in &ports {
            command = port.replace_all(&command, free.as_str()).into_owned();
        }
        // Those of other tests are not meant.
        let command = command.replace("pkill -HUP", &format!("pkill -HUP -g {group}"));
        let printed = shell.run(&command, step.printed.len());
        let printed: Vec<String> = printed.iter().map(|line| masked(line)).collect();
        let expected: Vec<String> = step.printed.iter().map(|line| masked(line)).collect();
        let ports: Vec<_> = ports.iter().map(|(_, free)| free.clone()).collect();
        let named = |lines: &[String]| -> Vec<String> {
            let mut lines = lines.to_vec();
            for line in &mut lines {
                for port in ports.iter().map(String::as_str).chain(PORTS) {
                    *line = line.replace(port, "PORT");
                }
            }
            lines
        };
        if named(&printed) != named(&expected) {
            return Err(format!(
                "{}: $ {}\nprinted:\n{}\nexpected:\n{}\n",
                recipe.title,
                step.command,
                printed.join("\n"),
                expected.join("\n")
            ));
        }
    }
    Ok(())
}

#[test]
fn every_recipe_prints_what_stands_there() {
    let recipes = recipes();
    assert!(recipes.len() >= 10, "{} recipes", recipes.len());
    if program("bash").is_none() {
        return;
    }
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let checks: Vec<_> = (recipes.iter())
            .filter(|recipe| is_possible(recipe))
            .map(|recipe| scope.spawn(|| check(recipe).err()))
            .collect();
        let results = checks.into_iter();
        results
            .filter_map(|check| check.join().expect("it does not panic"))
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
