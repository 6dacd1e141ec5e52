//! One life of the program within a round: it is started, spoken to by a crowd, disturbed, and ended.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::crowd::{Casting, Crowd, Ids};
use crate::kernel::{peak_memory, ticks};
use crate::plan::{Disturbance, Ending, Kind, Plan};
use crate::server::Server;
use crate::talk::{Manner, Stage, Told};
use crate::tape::{Ended, Tape, eventually, wiretape};

/// What the program takes beside the buffer.
const OTHER_MEMORY: usize = 64 << 20;

/// How long it must have done next to nothing to count as idle.
const IDLE_TIME: Duration = Duration::from_millis(200);

/// What is known of a life when it is over.
#[derive(Debug)]
pub struct Lived {
    pub ending: Ending,
    pub clients: Vec<Told>,
    /// What the server behind a proxy knows.
    pub servers: Vec<Told>,
    /// When it was told to end.
    pub told_at: Instant,
    pub status: Option<i32>,
    pub said: Vec<String>,
}

/// A life that goes on.
struct Life<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    tape: Tape,
    /// Descriptors of the program when nobody has connected yet.
    descriptors: usize,
}

/// Lives the `nth` life of a round, from 0, in its folder.
pub fn live(plan: &Plan, nth: usize, folder: &Path, ids: &Ids) -> Lived {
    let ending = plan.lives[nth];
    let is_quiet = ending == Ending::Quiet;
    let mut stage = Arc::new(Stage::new(plan.flow));
    let is_proxy = plan.kind.is_proxy();
    let server = is_proxy.then(|| Server::open(plan.seed, &stage, Manner::choose));
    let mut life = Life::begin(plan, folder, server.as_ref());
    let reader = (plan.reader).map(|pause| life.read_slowly(nth, pause, &stage));
    let casting = Casting {
        seed: plan.seed,
        ids: ids.clone(),
        workers: plan.workers,
        manner: match plan.kind {
            Kind::Long => Manner::short,
            _ => Manner::choose,
        },
        clients: plan.clients,
    };
    let (mut clients, mut crowd) = (Vec::new(), None);
    for stretch in 0..if is_quiet { plan.stretches } else { 1 } {
        if stretch > 0 {
            stage = Arc::new(Stage::new(plan.flow));
        }
        let present = Crowd::gather(&stage, &casting, &life.tape.addresses[0]);
        life.disturb(&present, &stage);
        if is_quiet {
            stage.is_over.store(true, SeqCst);
            clients.extend(present.disperse());
            life.check_rest();
        } else {
            crowd = Some(present);
        }
    }
    life.check_memory();
    stage.is_ending.store(true, SeqCst);
    let told_at = Instant::now();
    let ended = life.end(ending);
    stage.is_over.store(true, SeqCst);
    clients.extend(crowd.map(Crowd::disperse).unwrap_or_default());
    if let Some(reader) = reader {
        reader.join().expect("what a reader fails by is said");
    }
    Lived {
        ending,
        clients,
        servers: server.as_ref().map(Server::told).unwrap_or_default(),
        told_at,
        status: ended.status,
        said: ended.said,
    }
}

impl<'a> Life<'a> {
    fn begin(plan: &'a Plan, folder: &'a Path, server: Option<&Server>) -> Self {
        let mut command = wiretape();
        match server {
            Some(server) => command.args(["proxy", "127.0.0.1:0", &server.address]),
            None => command.args(["listen", "127.0.0.1:0"]),
        };
        command.args(&plan.args).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut life = Self {
            plan,
            folder,
            tape: Tape::spawn(command),
            descriptors: 0,
        };
        // Who answers has opened all that it needs.
        life.suffer(Disturbance::Ask);
        life.descriptors = descriptors(life.tape.pid());
        life
    }

    /// Copies standard output to a file, slowly until the program is about to end.
    fn read_slowly(&mut self, nth: usize, pause: Duration, stage: &Arc<Stage>) -> JoinHandle<()> {
        let path = self.folder.join(format!("stdout-{nth}.ndjson"));
        let (mut stdout, stage) = (self.tape.take_stdout(), Arc::clone(stage));
        let never_hurries = self.plan.lives[nth] == Ending::Twice;
        thread::spawn(move || {
            let mut file = File::create_new(path).expect("it is new");
            let mut buffer = [0; 65536];
            loop {
                let len = stdout.read(&mut buffer).expect("a pipe can be read");
                if len == 0 {
                    return;
                }
                file.write_all(&buffer[..len]).expect("there is room");
                let is_late = stage.is_over.load(SeqCst) || stage.is_ending.load(SeqCst);
                if never_hurries || !is_late {
                    pass(pause);
                }
            }
        })
    }

    /// Does what is planned while the crowd is at it, for as long as it is.
    fn disturb(&mut self, crowd: &Crowd, stage: &Stage) {
        let begun = Instant::now();
        let mut disturbances = self.plan.disturbances.iter().peekable();
        while !stage.is_late() && !crowd.is_done() {
            match disturbances.next_if(|(at, _)| begun.elapsed() >= *at) {
                Some((_, disturbance)) => self.suffer(*disturbance),
                None => thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }

    fn suffer(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::MoveAway => self.move_away(),
            Disturbance::Ask => {
                self.tape.signal(Signal::USR1);
                self.tape.wait_for_line("wiretape: ran ");
            }
            Disturbance::Halt(time) => {
                self.tape.signal(Signal::STOP);
                pass(time);
                self.tape.signal(Signal::CONT);
            }
            Disturbance::Shortage(time) => {
                let pid = self.tape.pid();
                let limit = |current, maximum| Rlimit { current, maximum };
                let set = |limit| prlimit(Some(pid), Resource::Nofile, limit);
                let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
                let few = descriptors(pid) as u64 + 2;
                let before = set(limit(Some(few), maximum)).expect("it is a child");
                pass(time);
                set(before).expect("it is what it was");
            }
        }
    }

    /// Moves files away as logrotate does, and says so.
    fn move_away(&self) {
        for (name, first, last) in self.plan.movable() {
            let live = self.folder.join(name);
            let moved = free_name(self.folder, first, last);
            // Between two steps of a rotation there is no live file.
            eventually("there is a file to move", || fs::rename(&live, &moved).ok());
        }
        self.tape.signal(Signal::HUP);
        for (name, ..) in self.plan.movable() {
            let live = self.folder.join(name);
            eventually("the file is opened anew", || live.exists().then_some(()));
        }
    }

    /// With nobody connected: descriptors are what they were, and nothing is done.
    fn check_rest(&self) {
        let pid = self.tape.pid();
        eventually("descriptors are given back", || {
            (descriptors(pid) <= self.descriptors).then_some(())
        });
        let mut since = (Instant::now(), ticks(pid));
        eventually("it comes to rest", || {
            let used = ticks(pid);
            if used > since.1 + 1 {
                since = (Instant::now(), used);
            }
            (since.0.elapsed() >= IDLE_TIME).then_some(())
        });
    }

    fn check_memory(&self) {
        let memory = peak_memory(self.tape.pid());
        assert!(
            memory <= self.plan.buffer + OTHER_MEMORY,
            "{memory} bytes of memory"
        );
    }

    fn end(mut self, ending: Ending) -> Ended {
        match ending {
            Ending::Quiet | Ending::Term => self.tape.signal(Signal::TERM),
            Ending::Kill => self.tape.signal(Signal::KILL),
            Ending::Twice => {
                self.tape.signal(Signal::TERM);
                // One that follows at once is taken for the same; so they are sent until it ends.
                eventually("the second signal is heard", || {
                    self.tape.try_signal(Signal::INT);
                    self.tape.ended()
                });
            }
        }
        self.tape.wait()
    }
}

/// How many descriptors a process has open.
fn descriptors(pid: Pid) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    open.count()
}

/// The next `FIRST.1-moved-N.LAST` that is free: a name before that of the live file.
fn free_name(folder: &Path, first: &str, last: &str) -> PathBuf {
    let mut names = (1..).map(|nth| folder.join(format!("{first}.1-moved-{nth:03}.{last}")));
    let free = names.find(|path| !path.exists());
    free.expect("there is no end of numbers")
}

/// Lets time pass.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return;
        }
        thread::park_timeout(rest);
    }
}
