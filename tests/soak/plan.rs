//! What a round does: all of it follows from its seed.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::talk::Flow;

/// What a round is about. Rounds with seeds that follow each other take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everybody sends when TERM comes.
    Term,
    /// Killed while everybody sends, and run again in the same folder.
    Kill,
    /// A proxy before a server; everybody comes to an end before TERM does.
    Proxy,
    /// Thousands of connections, with pauses in which what is left of them is looked for.
    Long,
    /// Standard output has a slow reader, who holds up everybody.
    Slow,
    /// Told twice to stop, and run again.
    Twice,
    /// A slow reader misses records.
    Drop,
    /// A proxy that is stopped while both sides send.
    ProxyTerm,
}

const KINDS: [Kind; 8] = [
    Kind::Term,
    Kind::Kill,
    Kind::Proxy,
    Kind::Slow,
    Kind::Long,
    Kind::Drop,
    Kind::ProxyTerm,
    Kind::Twice,
];

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everybody comes to an end, and then TERM.
    Quiet,
    Term,
    Kill,
    Twice,
}

/// What happens to the program while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Files are moved away, and HUP.
    MoveAway,
    /// USR1.
    Ask,
    /// STOP, and CONT after a while.
    Halt(Duration),
    /// Hardly a descriptor more than it has, for a while.
    Shortage(Duration),
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub args: Vec<String>,
    /// The capture that every round has: JSON, plain or compressed as it is written.
    pub capture: &'static str,
    /// All raw bytes in one file, beside it.
    pub has_mixed: bool,
    /// Raw bytes in a file for each connection.
    pub has_separate: bool,
    /// JSON on standard output, whose reader waits so long after every 64 KiB.
    pub reader: Option<Duration>,
    pub frame_max: Option<usize>,
    pub buffer: usize,
    pub has_limits: bool,
    /// Each life's ending.
    pub lives: Vec<Ending>,
    pub workers: usize,
    /// Clients in all, in each stretch of a life.
    pub clients: u32,
    pub stretches: usize,
    /// What a life's clients send.
    pub flow: Flow,
    /// When, of each life.
    pub disturbances: Vec<(Duration, Disturbance)>,
    pub replays: bool,
}

/// Where all raw bytes go, if they do.
pub const MIXED: &str = "m.bin";

/// The folder of the files for each connection.
pub const SEPARATE: &str = "separate";

const MIB: usize = 1 << 20;

impl Plan {
    pub fn choose(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        let random = &mut random;
        let buffer = pick(random, &[MIB, 4 * MIB, 16 * MIB, 64 * MIB]);
        let mut plan = Self {
            seed,
            kind,
            args: Vec::new(),
            capture: pick(
                random,
                &["a.ndjson", "a.ndjson", "a.ndjson.zst", "a.ndjson.gz"],
            ),
            has_mixed: false,
            has_separate: false,
            reader: None,
            frame_max: None,
            buffer,
            has_limits: false,
            lives: kind.lives(),
            workers: pick(random, &[10, 40, 80, 150, 200]),
            clients: 1 << 20,
            stretches: 1,
            flow: Flow {
                bytes: 64 << 20,
                time: Duration::from_millis(random.u64(1_500..7_000)),
                bursts: random.u32(1..9),
            },
            disturbances: Vec::new(),
            replays: random.bool(),
        };
        plan.choose_outputs(random);
        plan.choose_files(random);
        plan.choose_limits(random);
        plan.choose_disturbances(random);
        if kind == Kind::Long {
            (plan.clients, plan.stretches) = (random.u32(1_000..6_000), 4);
            plan.workers = plan.workers.min(80);
        }
        plan
    }

    fn say(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(ToString::to_string));
    }

    fn choose_outputs(&mut self, random: &mut fastrand::Rng) {
        self.say(&["-o", self.capture]);
        match self.kind {
            Kind::Slow => self.reader = Some(Duration::from_millis(random.u64(1..8))),
            Kind::Drop => self.reader = Some(Duration::from_millis(random.u64(10..50))),
            // Bytes that one output has and the other not yet cannot be told from wrong ones.
            Kind::Kill => self.has_separate = random.bool(),
            // Or there would be nothing left to do when it is told twice.
            Kind::Twice => self.reader = Some(Duration::from_secs(1)),
            _ => {
                self.has_mixed = random.u32(..3) == 0;
                self.has_separate = random.u32(..3) == 0;
            }
        }
        if self.kind == Kind::Drop {
            self.buffer = self.buffer.min(4 * MIB);
            self.say(&["--on-stall", "drop"]);
        } else if self.kind.is_proxy() {
            self.say(&["--on-stall", "block"]);
        }
        let buffer = self.buffer.to_string();
        self.say(&["--buffer", &buffer]);
        if self.reader.is_some() {
            self.say(&["--json"]);
        }
        if self.has_mixed {
            self.say(&["-o", MIXED]);
        }
        if self.has_separate {
            self.say(&["-o", &format!("{SEPARATE}/{{run}}-{{conn}}.bin")]);
        }
        if random.u32(..3) == 0 {
            let frame_max = pick(random, &[64 << 10, 1 << 10, 200]);
            self.frame_max = Some(frame_max);
            self.say(&["--frame", "line", "--frame-max", &frame_max.to_string()]);
            // Short lines make many records.
            self.flow.bytes /= 4;
        }
    }

    fn choose_files(&mut self, random: &mut fastrand::Rng) {
        if random.u32(..3) > 0 {
            let size = pick(random, &["4KiB", "64KiB", "1MiB", "4MiB"]);
            self.say(&["--rotate", size]);
            if size == "4KiB" {
                // Thousands of segments are enough.
                self.flow.bytes /= 8;
            }
            match random.u32(..3) {
                0 => self.say(&["--compress", "zstd"]),
                1 => self.say(&["--compress", "gzip"]),
                _ => {}
            }
        }
        match random.u32(..6) {
            0 => self.say(&["--sync", "always"]),
            1 => self.say(&["--sync", "50ms"]),
            _ => {}
        }
    }

    fn choose_limits(&mut self, random: &mut fastrand::Rng) {
        if random.u32(..4) == 0 {
            self.say(&["--idle-timeout", pick(random, &["100ms", "300ms", "1s"])]);
            self.has_limits = true;
        }
        if random.u32(..6) == 0 {
            self.say(&["--max-age", pick(random, &["200ms", "2s"])]);
            self.has_limits = true;
        }
        if random.u32(..4) == 0 {
            self.say(&["--max-conns", pick(random, &["2", "7", "30"])]);
        }
        // Longer than it ever takes on a busy machine.
        self.say(&["--drain", "25s"]);
    }

    fn choose_disturbances(&mut self, random: &mut fastrand::Rng) {
        for _ in 0..random.usize(..6) {
            let at = self.flow.time.mul_f64(random.f64() * 0.9);
            let time = Duration::from_millis(random.u64(20..400));
            let what = match random.u32(..4) {
                0 => Disturbance::Ask,
                1 => Disturbance::Halt(time),
                2 => Disturbance::Shortage(time),
                _ => Disturbance::MoveAway,
            };
            self.disturbances.push((at, what));
        }
        self.disturbances.sort_by_key(|(at, _)| *at);
    }

    /// Whether records may be missing, told by a gap.
    pub fn may_miss(&self) -> bool {
        self.kind == Kind::Drop
    }

    /// The files that may be moved away, and what their names have before and behind the first point.
    /// Of raw segments nothing but their names tells the order, which a file moved away has none in.
    pub fn movable(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let split = |name: &'static str| {
            let (first, last) = name.split_once('.').expect("it has an extension");
            (name, first, last)
        };
        let is_mixed = self.has_mixed && !self.has("--rotate");
        let mixed = is_mixed.then_some(MIXED);
        [self.capture].into_iter().chain(mixed).map(split).collect()
    }

    /// Whether this option was chosen.
    pub fn has(&self, option: &str) -> bool {
        self.args.iter().any(|arg| arg == option)
    }
}

/// What it is about, and what happens in it.
impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.args.join(" "))?;
        let mut disturbances = self.disturbances.iter();
        disturbances.try_for_each(|(_, disturbance)| match disturbance {
            Disturbance::MoveAway => write!(f, ", HUP"),
            Disturbance::Ask => write!(f, ", USR1"),
            Disturbance::Halt(time) => write!(f, ", STOP for {time:?}"),
            Disturbance::Shortage(time) => write!(f, ", no descriptors for {time:?}"),
        })
    }
}

impl Kind {
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::Proxy | Self::ProxyTerm)
    }

    fn lives(self) -> Vec<Ending> {
        match self {
            Self::Term | Self::ProxyTerm => vec![Ending::Term],
            Self::Slow | Self::Drop => vec![Ending::Term, Ending::Quiet],
            Self::Long | Self::Proxy => vec![Ending::Quiet],
            Self::Kill => vec![Ending::Kill, Ending::Kill, Ending::Quiet],
            Self::Twice => vec![Ending::Twice, Ending::Quiet],
        }
    }
}

fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}
