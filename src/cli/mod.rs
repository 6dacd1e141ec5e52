//! The command line: what was typed, what is meant by it, and what is said back.
//!
//! [`args`] is clap's tree and nothing else, and `values` what stands in it; `plan`, `captures` and `outputs` turn
//! what was typed into a validated configuration of the engine, with strings ending there; `report` gives every notice
//! its words, with the numbers as `words` has them, `progress` and `status` those that change from one time to
//! the next. `dry_run` prints a replay instead of playing it, `message` reads what a device is to be sent,
//! `sessions` and `check` tell what captures hold, which `reading` reads for them, and `completions` writes clap's
//! tree down for a shell.

pub mod args;
mod captures;
mod check;
mod completions;
mod dry_run;
mod message;
mod outputs;
mod plan;
mod progress;
mod reading;
mod report;
mod sessions;
mod status;
mod values;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::Parser;

use crate::engine::devices::Message;
use crate::engine::{self, Outcome};
use crate::notice::Notify;
use crate::output::OutputSpec;
use args::{Args, Command};
pub use outputs::WantedOutput;
use outputs::is_seen;
pub use plan::UsageError;
use report::Reporter;

/// Exit statuses, beside 0 for success.
mod exit {
    /// It could not be done.
    pub(super) const FAILURE: u8 = 1;
    /// It was not understood. clap uses the same.
    pub(super) const USAGE: u8 = 2;
    /// It ended, but not everything is in the outputs.
    pub(super) const NOT_WHOLE: u8 = 3;
}

/// Runs the program with these arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" too; a closed pipe is nothing to complain of.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    match &args.command {
        Command::Listen(args) => listen(args),
        Command::Connect(args) => connect(args),
        Command::Proxy(args) => proxy(args),
        Command::Replay(args) => replay(args),
        Command::Cat(args) => cat(args),
        Command::Sessions(args) => sessions::run(args),
        Command::Check(args) => check::run(args),
        Command::Completions(args) => completions(args),
    }
}

fn listen(args: &args::Listen) -> ExitCode {
    match plan::listen(args) {
        Ok(plan) => run(args.output.quiet, &plan.recording.outputs, |notify| {
            engine::listen(&plan, notify)
        }),
        Err(error) => fail(&error, exit::USAGE),
    }
}

fn connect(args: &args::Connect) -> ExitCode {
    let mut plan = match plan::connect(args) {
        Ok(plan) => plan,
        Err(error) => return fail(&error, exit::USAGE),
    };
    if let Some(path) = &args.send {
        match message::read(path) {
            Ok(bytes) => {
                plan.message = Some(Message {
                    bytes,
                    every: args.send_every,
                });
            }
            Err(error) => return fail(&error, exit::FAILURE),
        }
    }
    run(args.output.quiet, &plan.recording.outputs, |notify| {
        engine::devices::connect(&plan, notify)
    })
}

fn proxy(args: &args::Proxy) -> ExitCode {
    match plan::proxy(args) {
        Ok(plan) => run(args.output.quiet, &plan.recording.outputs, |notify| {
            engine::proxy::proxy(&plan, notify)
        }),
        Err(error) => fail(&error, exit::USAGE),
    }
}

fn replay(args: &args::Replay) -> ExitCode {
    match plan::replay(args) {
        Ok(plan) => run(
            args.output.quiet,
            &plan.recording.outputs,
            |notify| match args.dry_run {
                true => dry_run::print(&plan, notify),
                false => engine::replay::replay(&plan, notify),
            },
        ),
        Err(error) => fail(&error, exit::USAGE),
    }
}

fn cat(args: &args::Cat) -> ExitCode {
    match plan::cat(args) {
        Ok(plan) => run(false, &plan.outputs, |notify| {
            engine::cat::cat(&plan, notify)
        }),
        Err(error) => fail(&error, exit::USAGE),
    }
}

fn completions(args: &args::Completions) -> ExitCode {
    match completions::print(args.shell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, exit::FAILURE),
    }
}

/// Does what was planned, with somebody there to say what happens.
fn run(
    is_quiet: bool,
    outputs: &[OutputSpec],
    work: impl FnOnce(&Notify) -> Result<Outcome, engine::Error>,
) -> ExitCode {
    let reporter = Reporter::new(is_quiet, outputs.len(), is_seen(outputs));
    let result = work(&reporter.notify());
    reporter.finish();
    match result {
        Ok(Outcome::Whole) => ExitCode::SUCCESS,
        Ok(Outcome::NotWhole) => ExitCode::from(exit::NOT_WHOLE),
        Err(error) => fail(&error, exit::FAILURE),
    }
}

fn fail(error: &dyn fmt::Display, status: u8) -> ExitCode {
    report::say(error);
    ExitCode::from(status)
}
