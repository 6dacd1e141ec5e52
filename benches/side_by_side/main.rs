//! wiretape beside the programs that do a part of what it does, and beside loops that do nothing else: the
//! same load, one after the other, again and again, and the medians in a table.
//!
//! `cargo bench` runs all workloads, `cargo bench -- bulk churn` some, `cargo bench -- --small` each for a
//! moment. What is not installed is left out, and said. One round is every contender once, so that what else
//! the machine does falls upon all alike; the first round warms it up and is not counted.

mod bare;
mod contenders;
mod latency;
mod load;
mod measure;
mod proxy;
mod replay;
mod table;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

/// Measures wiretape beside other programs, and prints tables in Markdown.
#[derive(Debug, Parser)]
pub struct Args {
    /// Workloads whose names begin so; all, without any
    workloads: Vec<String>,

    /// Rounds that count; the medians are taken over them
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Each workload once and small: whether it runs, not how fast
    #[arg(long)]
    small: bool,

    /// wiretapes to measure, such as one of an earlier version; by default the one that was just built
    #[arg(long, value_name = "PATH")]
    program: Vec<String>,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are what it is for"
)]
fn main() -> ExitCode {
    // This program is its own bare loop: a process apart, so that its time can be told.
    let mut given = std::env::args().skip(1);
    if given.next().as_deref() == Some(bare::COMMAND) {
        return bare::run(given);
    }
    let args = Args::parse();
    for workload in workloads::all() {
        let is_wanted = |name: &String| workload.name.starts_with(name.as_str());
        if !args.workloads.is_empty() && !args.workloads.iter().any(is_wanted) {
            continue;
        }
        match workload.run(&args) {
            Ok(table) => println!("{table}"),
            Err(error) => {
                eprintln!("{}: {error}", workload.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
