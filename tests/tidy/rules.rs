//! What is a breach: a function a rule, from one file to its breaches.

use crate::paths::{NamedPath, paths, tokens};
use crate::source::Source;

/// A line that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) line: usize,
    pub(crate) what: String,
}

pub(crate) type Rule = fn(&Source) -> Vec<Breach>;

pub(crate) const RULES: [Rule; 9] = [
    belongs_to_a_room,
    imports_go_one_way,
    super_stays_in_its_room,
    names_stay_at_home,
    nothing_sleeps,
    nothing_is_unsafe,
    files_say_what_they_own,
    files_are_short,
    nothing_is_left_for_later,
];

/// Each room and the rooms that it may know, as `src/lib.rs` tells them.
pub(crate) const ROOMS: [(&str, &[&str]); 12] = [
    ("record", &[]),
    ("codec", &["record"]),
    ("capture", &["record"]),
    ("dial", &[]),
    ("relay", &["record"]),
    ("replay", &["record"]),
    ("review", &["record"]),
    ("notice", &["record", "capture", "replay"]),
    ("input", &["record", "notice", "codec"]),
    ("output", &["record", "notice", "codec"]),
    (
        "engine",
        &[
            "record", "notice", "codec", "capture", "dial", "relay", "replay", "input", "output",
        ],
    ),
    (
        "cli",
        &[
            "record", "notice", "codec", "capture", "dial", "relay", "replay", "review", "input",
            "output", "engine",
        ],
    ),
];

/// Files that are in no room: the map, and the way in.
const ROOMLESS: [&str; 2] = ["src/lib.rs", "src/main.rs"];

/// Names that only some places may speak, wherever in a path they stand, and those places.
const HOMES: [(&[&str], &[&str]); 14] = [
    (&["serde_json"], &["src/codec/"]),
    (
        &["zstd"],
        &["src/output/compress.rs", "src/input/decompress.rs"],
    ),
    (
        &["flate2"],
        &["src/output/compress.rs", "src/input/decompress.rs"],
    ),
    (&["mio"], &["src/engine/"]),
    (&["socket2"], &["src/engine/"]),
    (&["signal_hook"], &["src/engine/"]),
    (&["signal_hook_mio"], &["src/engine/"]),
    (&["sd_listen_fds"], &["src/engine/"]),
    (&["clap_complete"], &["src/cli/"]),
    // Addresses are values, and anybody's: `core::net` has them.
    (&["std", "net"], &["src/engine/"]),
    (&["std", "os", "unix", "net"], &["src/engine/"]),
    // The clocks: their types may be converted anywhere, but read in one place.
    (&["Instant", "now"], &["src/engine/"]),
    (&["SystemTime", "now"], &["src/engine/"]),
    // The engine's files are the socket that it binds, and the capture that it follows.
    (
        &["std", "fs"],
        &[
            "src/input/",
            "src/output/",
            "src/cli/",
            "src/engine/bind.rs",
            "src/engine/follow.rs",
        ],
    ),
];

/// A file beyond this is more than one idea.
const MAX_LINES: usize = 700;

/// Macros that stand for work not done, or not meant to stay.
const UNFINISHED_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Marks that say the same in a comment.
const UNFINISHED_MARKS: [&str; 2] = ["FIXME", "XXX"];

fn breach(line: usize, what: impl Into<String>) -> Breach {
    Breach {
        line,
        what: what.into(),
    }
}

fn is_program(source: &Source) -> bool {
    source.path.starts_with("src/")
}

/// The modules of a file of the program, its room first: `codec`, `ndjson`, `wire`.
fn modules(source: &Source) -> Option<Vec<&str>> {
    if ROOMLESS.contains(&source.path.as_str()) {
        return None;
    }
    let path = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    Some(
        path.strip_suffix("/mod")
            .unwrap_or(path)
            .split('/')
            .collect(),
    )
}

/// The room of a file, and the rooms that it may know.
fn room(source: &Source) -> Option<(&'static str, &'static [&'static str])> {
    let modules = modules(source)?;
    ROOMS.into_iter().find(|(room, _)| modules[0] == *room)
}

/// Whether `names` stand in `path` one behind the other.
fn names(path: &NamedPath<'_>, names: &[&str]) -> bool {
    path.segments
        .windows(names.len())
        .any(|segments| segments == names)
}

fn belongs_to_a_room(source: &Source) -> Vec<Breach> {
    let stray = modules(source).is_some() && room(source).is_none();
    let breach = || breach(1, "in no room of the table in tests/tidy/rules.rs");
    stray.then(breach).into_iter().collect()
}

fn imports_go_one_way(source: &Source) -> Vec<Breach> {
    let Some((room, known)) = room(source) else {
        return Vec::new();
    };
    let mut breaches = Vec::new();
    for path in paths(&source.code) {
        let ["crate", other, ..] = path.segments[..] else {
            continue;
        };
        if other != room && !known.contains(&other) {
            let what = format!("`{room}` must not know `crate::{other}`");
            breaches.push(breach(path.line, what));
        }
    }
    breaches
}

/// `super` must not be a way around the rule on imports.
fn super_stays_in_its_room(source: &Source) -> Vec<Breach> {
    let Some(modules) = modules(source) else {
        return Vec::new();
    };
    let mut breaches = Vec::new();
    for path in paths(&source.code) {
        let supers = (path.segments.iter())
            .skip_while(|&&segment| segment == "self")
            .take_while(|&&segment| segment == "super")
            .count();
        // `pub(super)` names nothing behind it, and lets nobody know more.
        let leads_somewhere = path.segments.last() != Some(&"super");
        if leads_somewhere && supers >= modules.len() + path.depth {
            let what = format!("`{}` leaves its room", path.segments.join("::"));
            breaches.push(breach(path.line, what));
        }
    }
    breaches
}

fn names_stay_at_home(source: &Source) -> Vec<Breach> {
    if !is_program(source) {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    for path in paths(&source.code) {
        for (name, homes) in HOMES {
            let is_at_home = homes.iter().any(|home| source.path.starts_with(home));
            if names(&path, name) && !is_at_home {
                let what = format!("`{}` outside {}", name.join("::"), homes.join(", "));
                breaches.push(breach(path.line, what));
            }
        }
    }
    breaches
}

/// What waits, waits for something, and is told of it.
fn nothing_sleeps(source: &Source) -> Vec<Breach> {
    named(
        source,
        &["thread", "sleep"],
        "a sleep: wait for a condition",
    )
}

fn nothing_is_unsafe(source: &Source) -> Vec<Breach> {
    if !is_program(source) {
        return Vec::new();
    }
    named(source, &["unsafe"], "unsafe code")
}

fn named(source: &Source, name: &[&str], what: &str) -> Vec<Breach> {
    paths(&source.code)
        .iter()
        .filter(|path| names(path, name))
        .map(|path| breach(path.line, what))
        .collect()
}

fn files_say_what_they_own(source: &Source) -> Vec<Breach> {
    let owns = is_program(source) || source.path.starts_with("fuzz/");
    let is_silent = owns && !source.text.starts_with("//! ");
    let breach = || breach(1, "does not open with `//!` and what it owns");
    is_silent.then(breach).into_iter().collect()
}

fn files_are_short(source: &Source) -> Vec<Breach> {
    let lines = source.text.lines().count();
    let breach = || {
        breach(
            MAX_LINES + 1,
            format!("{lines} lines: look for the second idea"),
        )
    };
    (lines > MAX_LINES).then(breach).into_iter().collect()
}

fn nothing_is_left_for_later(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for pair in tokens(&source.code).windows(2) {
        let ((line, name), (_, behind)) = (pair[0], pair[1]);
        if UNFINISHED_MACROS.contains(&name) && behind == "!" {
            breaches.push(breach(line, format!("`{name}!`")));
        }
    }
    for (line, word) in tokens(&source.comments) {
        if UNFINISHED_MARKS.contains(&word) {
            breaches.push(breach(line, format!("`{word}`")));
        }
    }
    breaches
}

/// Lines that break `rule`, if `text` were the file at `path`.
fn check(rule: Rule, path: &str, text: &str, expected: &[usize]) {
    let breaches = rule(&Source::new(path, text));
    let lines: Vec<usize> = breaches.iter().map(|breach| breach.line).collect();
    assert_eq!(lines, expected, "{path}: {text}: {breaches:?}");
}

#[test]
fn a_file_in_no_room_is_found() {
    check(belongs_to_a_room, "src/tape/mod.rs", "", &[1]);
    check(belongs_to_a_room, "src/recording.rs", "", &[1]);
    for path in [
        "src/lib.rs",
        "src/notice.rs",
        "src/codec/ndjson/wire.rs",
        "tests/it/main.rs",
    ] {
        check(belongs_to_a_room, path, "", &[]);
    }
}

#[test]
fn an_import_against_the_way_is_found() {
    let rule = imports_go_one_way;
    check(rule, "src/record/mod.rs", "use crate::codec::Format;", &[1]);
    check(rule, "src/notice.rs", "\nuse crate::output;", &[2]);
    check(rule, "src/codec/hex.rs", "use crate::notice::Notice;", &[1]);
    check(
        rule,
        "src/capture/mod.rs",
        "use crate::output::Output;",
        &[1],
    );
    check(rule, "src/output/mod.rs", "use crate::capture::Slot;", &[1]);
    check(rule, "src/engine/mod.rs", "use crate::cli;", &[1]);
    // Groups, globs, paths in code, test modules.
    check(
        rule,
        "src/codec/mod.rs",
        "use crate::{\n    record,\n    engine::X,\n};",
        &[3],
    );
    check(rule, "src/codec/mod.rs", "use crate::*;", &[1]);
    check(
        rule,
        "src/record/time.rs",
        "fn f() {\n    crate::cli::run();\n}",
        &[2],
    );
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::engine::X;\n}";
    check(rule, "src/output/file.rs", tests, &[3]);
    check(rule, "src/future/mod.rs", "use crate::cli;", &[]);
}

#[test]
fn an_import_the_right_way_is_none() {
    let rule = imports_go_one_way;
    check(
        rule,
        "src/record/batch.rs",
        "use crate::record::ConnId;",
        &[],
    );
    check(
        rule,
        "src/output/mod.rs",
        "use crate::{codec, notice, record};",
        &[],
    );
    check(rule, "src/engine/mod.rs", "use crate::output::Output;", &[]);
    check(rule, "src/cli/mod.rs", "use crate::engine;", &[]);
    check(
        rule,
        "src/record/mod.rs",
        "pub(crate) fn f() {} // crate::cli",
        &[],
    );
    check(
        rule,
        "src/record/mod.rs",
        "const A: &str = \"crate::cli\";",
        &[],
    );
    check(rule, "tests/it/main.rs", "use crate::cli;", &[]);
}

#[test]
fn a_super_out_of_its_room_is_found() {
    let rule = super_stays_in_its_room;
    check(rule, "src/notice.rs", "use super::record;", &[1]);
    check(
        rule,
        "src/codec/mod.rs",
        "use super::{record, output};",
        &[1, 1],
    );
    check(rule, "src/codec/hex.rs", "use super::super::cli;", &[1]);
    check(
        rule,
        "src/codec/hex.rs",
        "use self::super::super::cli;",
        &[1],
    );
    check(
        rule,
        "src/codec/hex.rs",
        "mod tests {\n    use super::super::super::cli;\n}",
        &[2],
    );
    check(
        rule,
        "src/codec/ndjson/wire.rs",
        "super::super::super::cli::run()",
        &[1],
    );
    check(rule, "src/codec/hex.rs", "use super::Audience;", &[]);
    check(
        rule,
        "src/codec/hex.rs",
        "mod tests {\n    use super::super::Audience;\n}",
        &[],
    );
    check(
        rule,
        "src/codec/ndjson/wire.rs",
        "use super::super::Audience;",
        &[],
    );
    check(
        rule,
        "src/codec/mod.rs",
        "mod tests {\n    use super::*;\n}",
        &[],
    );
    check(rule, "src/codec/mod.rs", "pub(super) struct A;", &[]);
}

#[test]
fn a_name_away_from_home_is_found() {
    let rule = names_stay_at_home;
    check(rule, "src/output/mod.rs", "use serde_json::Value;", &[1]);
    check(
        rule,
        "src/output/mod.rs",
        "use mio::{Poll, Token};",
        &[1, 1],
    );
    check(rule, "src/cli/mod.rs", "fn f(s: &socket2::Socket) {}", &[1]);
    check(rule, "src/cli/mod.rs", "use signal_hook::flag;", &[1]);
    check(rule, "src/main.rs", "use signal_hook_mio::v1_0;", &[1]);
    check(
        rule,
        "src/capture/mod.rs",
        "use std::{io, net::TcpStream};",
        &[1],
    );
    check(
        rule,
        "src/cli/mod.rs",
        "use std::os::unix::net::UnixStream;",
        &[1],
    );
    check(
        rule,
        "src/capture/mod.rs",
        "let now =\n    Instant::now();",
        &[2],
    );
    check(
        rule,
        "src/record/time.rs",
        "std::time::SystemTime::now()",
        &[1],
    );
    check(rule, "src/codec/mod.rs", "use std::fs::File;", &[1]);
    check(rule, "src/engine/mod.rs", "use std::{fs, io};", &[1]);
}

#[test]
fn a_name_at_home_is_none() {
    let rule = names_stay_at_home;
    check(
        rule,
        "src/codec/ndjson/wire.rs",
        "serde_json::from_str(text)",
        &[],
    );
    check(
        rule,
        "src/engine/stream.rs",
        "use std::net::Shutdown; use mio::Token;",
        &[],
    );
    check(
        rule,
        "src/engine/clock.rs",
        "SystemTime::now(); Instant::now()",
        &[],
    );
    check(rule, "src/engine/bind.rs", "use std::fs;", &[]);
    check(
        rule,
        "src/record/time.rs",
        "use std::time::{Duration, SystemTime};",
        &[],
    );
    check(rule, "src/lib.rs", "//! alone knows `serde_json`", &[]);
    check(rule, "tests/it/main.rs", "use std::net::TcpStream;", &[]);
}

#[test]
fn a_sleep_is_found_wherever_it_is() {
    check(
        nothing_sleeps,
        "src/cli/mod.rs",
        "std::thread::sleep(pause)",
        &[1],
    );
    check(
        nothing_sleeps,
        "tests/it/main.rs",
        "use std::thread::{self, sleep};",
        &[1],
    );
    check(
        nothing_sleeps,
        "src/cli/mod.rs",
        "thread::park_timeout(pause)",
        &[],
    );
}

#[test]
fn unsafe_code_is_found_in_the_program() {
    check(
        nothing_is_unsafe,
        "src/cli/mod.rs",
        "fn f() {\n    unsafe { g() }\n}",
        &[2],
    );
    check(
        nothing_is_unsafe,
        "src/lib.rs",
        "#![forbid(unsafe_code)]",
        &[],
    );
}

#[test]
fn a_file_that_says_nothing_of_itself_is_found() {
    let rule = files_say_what_they_own;
    check(rule, "src/cli/mod.rs", "use std::io;\n//! Late.", &[1]);
    check(rule, "src/cli/mod.rs", "//!\n//! Nothing first.", &[1]);
    check(rule, "src/cli/mod.rs", "", &[1]);
    check(rule, "src/cli/mod.rs", "//! What was typed.", &[]);
    check(rule, "fuzz/fuzz_targets/decode.rs", "#![no_main]", &[1]);
}

#[test]
fn a_long_file_is_found() {
    check(
        files_are_short,
        "tests/it/main.rs",
        &"\n".repeat(701),
        &[701],
    );
    check(files_are_short, "src/cli/mod.rs", &"\n".repeat(700), &[]);
}

#[test]
fn work_left_for_later_is_found() {
    let rule = nothing_is_left_for_later;
    check(rule, "src/cli/mod.rs", "fn f() {\n    todo!()\n}", &[2]);
    check(rule, "src/cli/mod.rs", "unimplemented!(\"later\")", &[1]);
    check(rule, "tests/it/main.rs", "let a = dbg!(b);", &[1]);
    check(rule, "src/cli/mod.rs", "a(); // FIXME: slow", &[1]);
    check(rule, "src/cli/mod.rs", "/* one\n   XXX */", &[2]);
    check(rule, "src/cli/mod.rs", "let todo = \"FIXME\"; // XXXX", &[]);
}
