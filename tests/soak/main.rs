//! The soak: for as long as one likes, the real program is flooded, stalled, reset, rotated, killed and
//! stopped, and what it leaves is held against what was sent.
//!
//! ```text
//! cargo test --release --test soak [-- [DURATION] [SEED]]
//! ```
//!
//! Ten minutes are the default. A round takes some seconds; what is done in it follows from its seed, and
//! only what comes first where several are at it does not. A round that fails leaves its folder, and
//! says how to run it again: `-- 1s SEED` is that round alone. `plan` chooses, `life` does it with a
//! `crowd` of clients, `capture` and `raw` read what is left, `ledger` compares, and `replays` sends it
//! again.

mod bytes;
mod capture;
mod crowd;
#[path = "../it/kernel.rs"]
mod kernel;
mod ledger;
mod life;
mod plan;
mod raw;
mod replays;
mod server;
mod talk;
#[path = "../it/tape.rs"]
#[expect(dead_code, reason = "the integration tests need more of it")]
mod tape;

use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use capture::{Capture, files_of, is_packed};
use crowd::Ids;
use life::Lived;
use plan::{Ending, Plan};

/// How long it goes on where nothing else is said.
const DURATION: Duration = Duration::from_secs(600);

/// What rounds have come to.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    connections: u64,
    bytes: u64,
    records: u64,
    rotations: u64,
    replayed: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.records += other.records;
        self.rotations += other.rotations;
        self.replayed += other.replayed;
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} recorded, {} records, {} rotations, {} sessions replayed",
            self.connections,
            ByteSize(self.bytes).display().iec(),
            self.records,
            self.rotations,
            self.replayed,
        )
    }
}

fn main() -> ExitCode {
    let (duration, first) = arguments();
    let begun = Instant::now();
    let mut all = Totals::default();
    for round in 0.. {
        let seed = first.wrapping_add(round);
        let plan = Plan::choose(seed);
        let folder = tape::fast_folder();
        let lived = AssertUnwindSafe(|| run(&plan, folder.path()));
        let Ok(totals) = catch_unwind(lived) else {
            say(format_args!("round {round} FAILED, seed {seed}: {plan:?}"));
            say(format_args!(
                "what it left is in {}",
                folder.keep().display()
            ));
            say(format_args!(
                "again: cargo test --release --test soak -- 1s {seed}"
            ));
            return ExitCode::FAILURE;
        };
        all.add(totals);
        say(format_args!(
            "round {round}, seed {seed}: {plan}: {totals}: good"
        ));
        if begun.elapsed() >= duration {
            say(format_args!(
                "{} rounds in {:.0?}, all good: {all}",
                round + 1,
                begun.elapsed()
            ));
            break;
        }
    }
    ExitCode::SUCCESS
}

/// How long, and the first seed: each if it was given.
fn arguments() -> (Duration, u64) {
    let mut arguments = std::env::args().skip(1);
    let duration = arguments.next().map(|text| {
        humantime::parse_duration(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    let seed = arguments.next().map(|text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    (
        duration.unwrap_or(DURATION),
        seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
    )
}

#[expect(
    clippy::print_stdout,
    reason = "it is a program, and this is what it tells"
)]
fn say(line: impl Display) {
    println!("{line}");
}

/// Lives the lives of a round, and checks what they leave.
fn run(plan: &Plan, folder: &Path) -> Totals {
    let ids = Ids::default();
    let lives: Vec<Lived> = (0..plan.lives.len())
        .map(|nth| life::live(plan, nth, folder, &ids))
        .collect();
    let capture = Capture::read(plan.seed, files_of(folder, plan.capture), plan.frame_max);
    ledger::check(plan, &lives, &capture);
    check_outputs(plan, folder, &lives, &capture);
    let mut totals = Totals {
        connections: lives.iter().map(|life| life.clients.len() as u64).sum(),
        bytes: capture.bytes(),
        records: capture.records(),
        rotations: capture.rotations(),
        replayed: 0,
    };
    if plan.replays && replays::is_possible(&capture) {
        replays::check(plan.seed, folder, &capture);
        totals.replayed = capture.runs.iter().map(|run| run.conns.len() as u64).sum();
    }
    totals
}

/// The outputs beside the capture, and how each life ended.
fn check_outputs(plan: &Plan, folder: &Path, lives: &[Lived], capture: &Capture) {
    let mut has_missed = vec![false; lives.len()];
    for (nth, life) in lives.iter().enumerate() {
        if plan.reader.is_some() {
            let file = folder.join(format!("stdout-{nth}.ndjson"));
            let stdout = Capture::read(plan.seed, vec![file], plan.frame_max);
            ledger::check(plan, std::slice::from_ref(life), &stdout);
            has_missed[nth] = stdout.runs[0].missing.0 > 0 || capture.runs[nth].missing.0 > 0;
        }
        let expected = match life.ending {
            Ending::Kill => None,
            // It may have come to its end before.
            Ending::Twice => Some(if has_said(life, "told twice to stop") {
                3
            } else {
                0
            }),
            Ending::Quiet | Ending::Term => Some(if has_missed[nth] { 3 } else { 0 }),
        };
        assert_eq!(life.status, expected, "{:?}", life.said);
    }
    if plan.has_mixed {
        raw::check_mixed(folder, capture);
    }
    if plan.has_separate {
        raw::check_separate(plan.seed, folder, capture);
    }
    let is_killed = |life: &&Lived| life.ending == Ending::Kill || life.ending == Ending::Twice;
    let killed = lives.iter().filter(is_killed).count() as u64;
    assert!(capture.torn <= killed, "{} torn files", capture.torn);
    check_compressed(plan, folder, lives);
}

fn has_said(life: &Lived, text: &str) -> bool {
    life.said.iter().any(|line| line.contains(text))
}

/// A run that ends in good order leaves nothing half done, whatever the runs before it have left.
fn check_compressed(plan: &Plan, folder: &Path, lives: &[Lived]) {
    let last = lives.last().expect("a round has a life");
    let excuses = [
        "compress ",
        // Then the live file can have the name of a closed one.
        "cannot open it",
        // A busy machine had not the time.
        "not done for closed files",
    ];
    let is_excused = excuses.iter().any(|excuse| has_said(last, excuse));
    if is_excused || !plan.has("--compress") {
        return;
    }
    let closed = tape::segments(folder, "a");
    let plain: Vec<_> = closed.iter().filter(|path| !is_packed(path)).collect();
    assert!(
        plain.is_empty(),
        "not compressed: {plain:?}, {:?}",
        last.said
    );
}
