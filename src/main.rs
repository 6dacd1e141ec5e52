//! `wiretape`: see the library's documentation for the map, and `wiretape --help` for the use.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    wiretape::cli::main(std::env::args_os())
}
