//! What is meant by the flags for outputs, validated together: the same for every subcommand.

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::args::{Compress, FileArgs, PlaceArgs, Stall, When};
use super::plan::{UsageError, usage};
use crate::codec::Format;
use crate::output::options::{Compression, OnStall, Options, Retention, Rotation};
use crate::output::template::Template;
use crate::output::{Color, OutputSpec, PlaceSpec, RawToTerminal};
use crate::record::Direction;

/// <https://no-color.org>: set and not empty.
fn environment_allows_color() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The outputs that are wanted; `default`, where none is.
pub(super) fn outputs(
    args: &PlaceArgs,
    default: Option<&'static str>,
) -> Result<Vec<OutputSpec>, UsageError> {
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
        wanted.extend(default.map(|text| (String::new(), text)));
    }
    let raw_to_terminal = if args.force {
        RawToTerminal::Forced
    } else {
        RawToTerminal::Refused
    };
    let mut specs: Vec<OutputSpec> = Vec::new();
    let mut taken: Vec<(PathBuf, String)> = Vec::new();
    for (name, text) in wanted {
        let WantedOutput {
            format,
            place,
            compression,
        } = text.parse()?;
        let spec = OutputSpec {
            format,
            color: color(args, &place),
            place,
            compression,
            raw_to_terminal,
        };
        let place = match &spec.place {
            PlaceSpec::Stdout => PathBuf::from("-"),
            PlaceSpec::File(path) => plain_path(path),
            PlaceSpec::Template(template) => plain_path(Path::new(&template.to_string())),
        };
        if let Some((_, other)) = taken.iter().find(|(taken, _)| *taken == place) {
            return usage(match &spec.place {
                PlaceSpec::Stdout => format!(
                    "{other} and {name} both write to standard output: give one of them a file"
                ),
                PlaceSpec::File(_) | PlaceSpec::Template(_) => format!(
                    "{other} and {name} write to the same file: give each output a file of its own"
                ),
            });
        }
        taken.push((place, name));
        specs.push(spec);
    }
    Ok(specs)
}

/// Whether one of these writes to the terminal.
pub(super) fn is_seen(outputs: &[OutputSpec]) -> bool {
    let mut places = outputs.iter().map(|spec| &spec.place);
    places.any(|place| *place == PlaceSpec::Stdout) && io::stdout().is_terminal()
}

/// Two spellings of one path, as far as can be told without looking at the disk.
fn plain_path(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

/// Only standard output is coloured without a terminal.
fn color(args: &PlaceArgs, place: &PlaceSpec) -> Color {
    match args.color {
        When::Always if *place == PlaceSpec::Stdout => Color::Always,
        When::Always => Color::OnTerminal,
        When::Auto if environment_allows_color() => Color::OnTerminal,
        When::Auto | When::Never => Color::Never,
    }
}

/// What one `-o` says: `[FORMAT:]PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOutput {
    /// What it looks like: as it is named, or as the extension tells.
    pub format: Format,
    /// Where it goes.
    pub place: PlaceSpec,
    /// How it is compressed as it is written, if it is.
    pub compression: Option<Compression>,
}

impl FromStr for WantedOutput {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let (format, path) = split_format(text)?;
        if path.is_empty() {
            return usage(format!(
                "-o {text}: the path is missing; `-` is standard output"
            ));
        }
        if path == "-" {
            return Ok(Self {
                format: format.unwrap_or(Format::Text),
                place: PlaceSpec::Stdout,
                compression: None,
            });
        }
        let place = match Template::parse(path) {
            None => PlaceSpec::File(path.into()),
            Some(Ok(template)) => PlaceSpec::Template(template),
            Some(Err(error)) => return usage(format!("-o {text}: {error}")),
        };
        let (name, compression) = split_compression(Path::new(path));
        let extension = name.extension().unwrap_or_default();
        let format = format.unwrap_or(
            match extension.to_string_lossy().to_ascii_lowercase().as_str() {
                "ndjson" | "jsonl" | "json" => Format::Json,
                "txt" | "log" => Format::Text,
                _ => Format::Raw(Direction::In),
            },
        );
        Ok(Self {
            format,
            place,
            compression,
        })
    }
}

/// A path without `.zst` or `.gz`, and what that means.
fn split_compression(path: &Path) -> (PathBuf, Option<Compression>) {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match Compression::of_extension(&extension) {
        Some(compression) => (path.with_extension(""), Some(compression)),
        None => (path.to_owned(), None),
    }
}

/// The smallest segment: smaller ones are mostly `start` and `end`, and mostly a unit forgotten.
const SMALLEST_SEGMENT: u64 = 4096;

pub(super) fn output_options(
    args: &FileArgs,
    on_stall: Option<Stall>,
    outputs: &[OutputSpec],
) -> Result<Options, UsageError> {
    let options = Options {
        rotation: Rotation {
            size: args.rotate.map(|size| size.as_u64()),
            every: args.rotate_every,
        },
        retention: Retention {
            segments: args.keep,
            bytes: args.keep_bytes.map(|size| size.as_u64()),
        },
        compression: args.compress.map(|method| match method {
            Compress::Zstd => Compression::Zstd,
            Compress::Gzip => Compression::Gzip,
        }),
        on_rotate: args.on_rotate.clone(),
        sync: args.sync,
        on_stall: match on_stall {
            None => OnStall::Auto,
            Some(Stall::Block) => OnStall::Block,
            Some(Stall::Drop) => OnStall::Drop,
        },
    };
    if let Some(size) = args.rotate {
        if size.as_u64() < SMALLEST_SEGMENT {
            return usage(format!(
                "--rotate {}: a file holds at least 4096 bytes; is a unit missing, as in 100MiB?",
                size.as_u64()
            ));
        }
        if args.keep_bytes.is_some_and(|keep| keep < size) {
            return usage(format!(
                "--keep-bytes is less than --rotate {size}: nothing would be kept"
            ));
        }
    }
    let given = [
        (args.rotate.is_some(), "--rotate"),
        (args.rotate_every.is_some(), "--rotate-every"),
        (args.keep.is_some(), "--keep"),
        (args.keep_bytes.is_some(), "--keep-bytes"),
        (args.compress.is_some(), "--compress"),
        (args.on_rotate.is_some(), "--on-rotate"),
    ];
    let Some((_, flag)) = given.into_iter().find(|(is_given, _)| *is_given) else {
        return Ok(options);
    };
    if outputs.iter().all(|spec| spec.place == PlaceSpec::Stdout) {
        return usage(format!(
            "{flag} is for files, and there is only standard output: name a file with -o"
        ));
    }
    // The file of a connection or a day is closed without a rotation too.
    let closes = |spec: &OutputSpec| match &spec.place {
        PlaceSpec::Template(template) => template.finishes_files(),
        PlaceSpec::Stdout | PlaceSpec::File(_) => false,
    };
    if !options.rotation.is_wanted() && !outputs.iter().any(closes) {
        return usage(format!(
            "{flag} is for closed files, and none is ever closed: add --rotate or --rotate-every"
        ));
    }
    if options.rotation.is_wanted() {
        same_closed_names(outputs)?;
    }
    Ok(options)
}

/// `a.ndjson`, compressed once it is closed, is called what `a.ndjson.zst` is called when closed.
fn same_closed_names(outputs: &[OutputSpec]) -> Result<(), UsageError> {
    let paths = outputs.iter().filter_map(|spec| match &spec.place {
        PlaceSpec::File(path) => Some((plain_path(path), spec.compression)),
        PlaceSpec::Stdout | PlaceSpec::Template(_) => None,
    });
    let paths: Vec<_> = paths.collect();
    for (path, _) in paths
        .iter()
        .filter(|(_, compression)| compression.is_some())
    {
        let plain = path.with_extension("");
        if paths.iter().any(|(other, _)| *other == plain) {
            return usage(format!(
                "{} and {} would give their closed files the same names: name one of them otherwise",
                plain.display(),
                path.display()
            ));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Args, Command, OutputArgs};

    fn args<'a>(line: impl Iterator<Item = &'a str>) -> OutputArgs {
        match Args::try_parse_from(line).expect("it parses").command {
            Command::Listen(listen) => listen.output,
            Command::Connect(connect) => connect.output,
            Command::Proxy(proxy) => proxy.output,
            Command::Replay(replay) => replay.output,
            other => panic!("it has no outputs: {other:?}"),
        }
    }

    fn planned(line: &str) -> Result<Vec<OutputSpec>, UsageError> {
        let line = ["wiretape", "listen", "0"]
            .into_iter()
            .chain(line.split_whitespace());
        outputs(&args(line).places, Some("text:-"))
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
        check("--raw", &[(Format::Raw(Direction::In), STDOUT)]);
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
            ("a.bin", Format::Raw(Direction::In)),
            ("a", Format::Raw(Direction::In)),
            ("./text:a.json", Format::Json),
            ("/x/a:b.log", Format::Text),
        ] {
            check(&format!("-o {path}"), &[(format, path)]);
        }
        check("-o hex:a.json", &[(Format::Hex, "a.json")]);
        check("-o raw:json:a", &[(Format::Raw(Direction::In), "json:a")]);
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
        check_error("-o {peer}.bin", "{peer} is not known; there are {conn}, ");
        check_error("-o {conn}.bin -o ./{conn}.bin", "the same file");
    }

    #[test]
    fn a_compressed_file_has_the_format_of_what_is_in_it() {
        for (path, format, compression) in [
            ("a.ndjson.zst", Format::Json, Some(Compression::Zstd)),
            ("a.log.GZ", Format::Text, Some(Compression::Gzip)),
            (
                "{conn}.zst",
                Format::Raw(Direction::In),
                Some(Compression::Zstd),
            ),
            ("a.zst.ndjson", Format::Json, None),
        ] {
            let specs = planned(&format!("-o {path}")).expect("it makes sense");
            let seen = (specs[0].format, specs[0].compression);
            assert_eq!(seen, (format, compression), "{path}");
        }
    }

    fn options_error(line: &str, expected: &str) {
        let line = ["wiretape", "listen", "0"]
            .into_iter()
            .chain(line.split_whitespace());
        let args = args(line);
        let outputs = outputs(&args.places, Some("text:-")).expect("they make sense");
        let error = output_options(&args.files, args.on_stall, &outputs).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn flags_that_could_do_nothing_are_refused_with_a_remedy() {
        options_error(
            "--rotate 1MiB",
            "--rotate is for files, and there is only standard output",
        );
        options_error(
            "-o a --keep 3",
            "none is ever closed: add --rotate or --rotate-every",
        );
        options_error("-o a --compress zstd", "--compress is for closed files");
        options_error("-o a --on-rotate x", "--on-rotate is for closed files");
        options_error("-o a --rotate 100", "is a unit missing, as in 100MiB?");
        options_error(
            "-o a --rotate 1MiB --keep-bytes 1MB",
            "nothing would be kept",
        );
        options_error("-o {peer_ip}.bin --keep 3", "none is ever closed");
        options_error("-o a.log -o ./a.log.gz --rotate 1MiB", "the same names");
    }
}
