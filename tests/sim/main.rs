//! Captures in simulation: a seed chooses what peers, outputs, clocks and signals do, and a model beside
//! it says what must have been recorded.
//!
//! The capture core, the recorder, the router and the queues of the outputs are real. What stands in
//! for sockets, files and threads is not: their loop (`engine`) and their workers (`output`) do a step
//! at a time, in any order that a seed chooses.
//!
//! A failing seed is printed. `WIRETAPE_SIM_SEED=N` runs that one again, `WIRETAPE_SIM_SEEDS=N` runs
//! as many as wanted.

mod accept;
mod bell;
mod choices;
mod clock;
mod course;
mod coverage;
mod doorbell;
mod engine;
mod output;
mod peer;
mod transcript;
mod world;

use std::env;

use coverage::Coverage;
use world::World;

const SEEDS: u64 = 5_000;

/// Says which seed failed, while the panic passes.
struct Seed(u64);

impl Drop for Seed {
    #[expect(
        clippy::print_stderr,
        reason = "it is what a developer needs to run it again"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with WIRETAPE_SIM_SEED={}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("the variable holds a number"))
}

#[test]
fn whatever_happens_the_record_is_what_the_model_says() {
    let seeds = match number("WIRETAPE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WIRETAPE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut seen = Coverage::new();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        World::new(seed, &mut seen).run();
    }
    if seeds.end - seeds.start >= SEEDS {
        seen.check();
    }
}
