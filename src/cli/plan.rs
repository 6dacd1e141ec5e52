//! What is meant: arguments, validated together, become the engine's configuration. Nothing is opened
//! and nothing changed here but the process's own open-file limit.

use std::env;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::args::{Frame, Listen, When};
use crate::capture;
use crate::codec::Format;
use crate::codec::ndjson::FRAME_LIMIT;
use crate::engine::address::Address;
use crate::engine::{Config, limits};
use crate::output::{Color, OutputSpec, PlaceSpec, RawToTerminal};
use crate::record::Framing;

/// Arguments that make no sense, alone or together. One sentence, with what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn usage<T>(message: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError(message.into()))
}

/// Of the buffer, with line framing, this part is for lines whose end has not come.
const CARRY_SHARE: usize = 4;

pub(super) fn listen(args: &Listen) -> Result<Config, UsageError> {
    let outputs = outputs(args)?;
    for (nth, address) in args.addresses.iter().enumerate() {
        let is_free = matches!(address, Address::AnyInterface(0) | Address::Host(_, 0));
        if !is_free && args.addresses[..nth].contains(address) {
            return usage(format!("{address} is given twice: once is enough"));
        }
    }
    let framing = framing(args)?;
    let buffer = usize::try_from(args.buffer.as_u64()).unwrap_or(usize::MAX);
    let carry_limit = match framing {
        Framing::Chunk => 0,
        // However small the buffer, one line of every length it may have can be waited for.
        Framing::Line { max } => (buffer / CARRY_SHARE).max(2 * max),
    };
    let own_descriptors = args.addresses.len() + outputs.len();
    let room = limits::max_conns(own_descriptors);
    Ok(Config {
        listen: args.addresses.clone(),
        outputs,
        capture: capture::Config {
            framing,
            max_conns: (args.max_conns).map_or(room, |most| room.min(most as usize)),
            idle_timeout: args.idle_timeout,
            max_age: args.max_age,
            drain: args.drain,
            carry_limit,
        },
        buffer: buffer.saturating_sub(carry_limit),
    })
}

/// <https://no-color.org>: set and not empty.
fn environment_allows_color() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn framing(args: &Listen) -> Result<Framing, UsageError> {
    let max = args.frame_max.as_u64();
    if max == 0 || max > FRAME_LIMIT as u64 {
        return usage(format!(
            "--frame-max {}: a record holds 1 byte to {}",
            args.frame_max,
            bytesize::ByteSize(FRAME_LIMIT as u64),
        ));
    }
    Ok(match args.frame {
        Frame::Chunk => Framing::Chunk,
        Frame::Line => Framing::Line { max: max as usize },
    })
}

fn outputs(args: &Listen) -> Result<Vec<OutputSpec>, UsageError> {
    let short = [
        (args.json, "--json", "json:-"),
        (args.raw, "--raw", "raw:-"),
        (args.hex, "--hex", "hex:-"),
    ];
    let mut wanted: Vec<(String, &str)> = Vec::new();
    wanted.extend(
        args.outputs
            .iter()
            .map(|text| (format!("-o {text}"), text.as_str())),
    );
    wanted.extend(
        short
            .iter()
            .filter(|(given, ..)| *given)
            .map(|(_, flag, text)| ((*flag).to_owned(), *text)),
    );
    if wanted.is_empty() {
        wanted.push((String::new(), "text:-"));
    }
    let raw_to_terminal = if args.force {
        RawToTerminal::Forced
    } else {
        RawToTerminal::Refused
    };
    let mut specs: Vec<OutputSpec> = Vec::new();
    let mut taken: Vec<(PathBuf, String)> = Vec::new();
    for (name, text) in wanted {
        let (format, place) = format_and_place(text)?;
        let spec = OutputSpec {
            format,
            color: color(args, &place),
            place,
            raw_to_terminal,
        };
        let place = match &spec.place {
            PlaceSpec::Stdout => PathBuf::from("-"),
            PlaceSpec::File(path) => plain_path(path),
        };
        if let Some((_, other)) = taken.iter().find(|(taken, _)| *taken == place) {
            return usage(match &spec.place {
                PlaceSpec::Stdout => format!(
                    "{other} and {name} both write to standard output: give one of them a file"
                ),
                PlaceSpec::File(_) => format!(
                    "{other} and {name} write to the same file: give each output a file of its own"
                ),
            });
        }
        taken.push((place, name));
        specs.push(spec);
    }
    Ok(specs)
}

/// Two spellings of one path, as far as can be told without looking at the disk.
fn plain_path(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

/// Only standard output is coloured without a terminal.
fn color(args: &Listen, place: &PlaceSpec) -> Color {
    match args.color {
        When::Always if *place == PlaceSpec::Stdout => Color::Always,
        When::Always => Color::OnTerminal,
        When::Auto if environment_allows_color() => Color::OnTerminal,
        When::Auto | When::Never => Color::Never,
    }
}

fn format_and_place(text: &str) -> Result<(Format, PlaceSpec), UsageError> {
    let (format, path) = split_format(text)?;
    if path.is_empty() {
        return usage(format!(
            "-o {text}: the path is missing; `-` is standard output"
        ));
    }
    if path == "-" {
        return Ok((format.unwrap_or(Format::Text), PlaceSpec::Stdout));
    }
    let extension = Path::new(path).extension().unwrap_or_default();
    let extension = extension.to_string_lossy().to_ascii_lowercase();
    if matches!(extension.as_str(), "zst" | "gz") {
        return usage(format!(
            "-o {text}: this version does not compress; write plain and compress the file afterwards"
        ));
    }
    if let Some(placeholder) = placeholder(path) {
        return usage(format!(
            "-o {text}: this version knows no {placeholder} in a path; name one file for all connections"
        ));
    }
    let format = format.unwrap_or(match extension.as_str() {
        "ndjson" | "jsonl" | "json" => Format::Json,
        "txt" | "log" => Format::Text,
        _ => Format::Raw,
    });
    Ok((format, PlaceSpec::File(path.into())))
}

/// `FORMAT:PATH` or `PATH`. A first part that could be a format's name must be one.
fn split_format(text: &str) -> Result<(Option<Format>, &str), UsageError> {
    let Some((name, path)) = text.split_once(':') else {
        return Ok((None, text));
    };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok((None, text));
    }
    match name.parse() {
        Ok(format) => Ok((Some(format), path)),
        Err(_) => usage(format!(
            "-o {text}: no format is called {name}: there are text, hex, json and raw (a file of that name is ./{text})"
        )),
    }
}

/// A word in braces that later versions give a meaning: no file shall be called so by accident.
fn placeholder(path: &str) -> Option<&str> {
    const RESERVED: [&str; 6] = [
        "{conn}",
        "{peer_ip}",
        "{peer_port}",
        "{local_port}",
        "{date}",
        "{run}",
    ];
    RESERVED.into_iter().find(|word| path.contains(word))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Args, Command};
    use super::*;

    fn planned(line: &str) -> Result<Vec<OutputSpec>, UsageError> {
        let line = ["wiretape", "listen", "0"]
            .into_iter()
            .chain(line.split_whitespace());
        let Command::Listen(args) = Args::try_parse_from(line).expect("it parses").command;
        outputs(&args)
    }

    fn check(line: &str, expected: &[(Format, &str)]) {
        let specs = planned(line).expect("it makes sense");
        let seen: Vec<_> = specs
            .iter()
            .map(|spec| (spec.format, spec.place.to_string()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(format, place)| (*format, (*place).to_owned()))
            .collect();
        assert_eq!(seen, expected, "{line}");
    }

    #[test]
    fn the_format_is_named_or_told_by_the_extension() {
        const STDOUT: &str = "standard output";
        check("", &[(Format::Text, STDOUT)]);
        check("-o -", &[(Format::Text, STDOUT)]);
        check("--json", &[(Format::Json, STDOUT)]);
        check("--raw", &[(Format::Raw, STDOUT)]);
        check(
            "--hex -o a.ndjson",
            &[(Format::Json, "a.ndjson"), (Format::Hex, STDOUT)],
        );
        for (path, format) in [
            ("a.ndjson", Format::Json),
            ("a.jsonl", Format::Json),
            ("a.JSON", Format::Json),
            ("a.txt", Format::Text),
            ("a.log", Format::Text),
            ("a.bin", Format::Raw),
            ("a", Format::Raw),
            ("./text:a.json", Format::Json),
            ("/x/a:b.log", Format::Text),
        ] {
            check(&format!("-o {path}"), &[(format, path)]);
        }
        check("-o hex:a.json", &[(Format::Hex, "a.json")]);
        check("-o raw:json:a", &[(Format::Raw, "json:a")]);
    }

    fn check_error(line: &str, expected: &str) {
        let error = planned(line).expect_err(line).to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
    }

    #[test]
    fn outputs_that_make_no_sense_are_refused_with_a_remedy() {
        check_error(
            "-o xml:a",
            "no format is called xml: there are text, hex, json and raw",
        );
        check_error("-o json:", "the path is missing");
        check_error(
            "--json --hex",
            "--json and --hex both write to standard output",
        );
        check_error("-o - --raw", "-o - and --raw both write to standard output");
        check_error(
            "-o a.log -o ./a.log",
            "-o a.log and -o ./a.log write to the same file",
        );
        check_error("-o json:x/a -o x//a", "the same file");
        check_error("-o a.ndjson.zst", "does not compress");
        check_error("-o {conn}.bin", "knows no {conn} in a path");
    }
}
