//! The manual pages, the help and the completions against clap's tree: what one of them tells, all do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, Parser};
use wiretape::cli::args::Args;

use crate::mdoc::{Item, Page};
use crate::shell::commands;
use crate::tape::{program, wiretape};

/// Options of other programs that the pages speak of.
const FOREIGN: [&str; 2] = ["--kill-whom", "-N"];

fn subcommands() -> Vec<clap::Command> {
    // Building gives every subcommand its --help.
    let mut tree = Args::command();
    tree.build();
    tree.get_subcommands().cloned().collect()
}

fn page(subcommand: &clap::Command) -> Page {
    Page::read(&format!("wiretape-{}.1", subcommand.get_name()))
}

/// All pages of this program.
fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let entries = fs::read_dir(folder).expect("it is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    names
        .map(|name| Page::read(&name.to_string_lossy()))
        .collect()
}

/// `-o` and `--output`; none for an argument that is no option.
fn flags(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    short.into_iter().chain(long).collect()
}

fn all_flags(command: &clap::Command) -> BTreeSet<String> {
    command.get_arguments().flat_map(flags).collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn help(args: &[&str]) -> String {
    output(wiretape().args(args).env("COLUMNS", "100"))
}

#[test]
fn every_subcommand_has_a_page_and_is_in_that_of_the_program() {
    let main = Page::read("wiretape.1");
    for subcommand in subcommands() {
        let name = subcommand.get_name();
        let page = page(&subcommand);
        assert!(page.has_line(&format!(".Dt WIRETAPE-{} 1", name.to_uppercase())));
        assert!(page.has_line(&format!(".Cm {name}")), "{name}: SYNOPSIS");
        for line in [format!(".Cm {name}"), format!(".It Cm {name}")] {
            assert!(main.has_line(&line), "wiretape.1 has no {line}");
        }
        let link = format!(".Xr wiretape-{name} 1");
        let is_linked = ["", " ,", " .", " )"].map(|end| main.has_line(&format!("{link}{end}")));
        assert!(is_linked.contains(&true), "wiretape.1 has no {link}");
    }
}

#[test]
fn the_pages_tell_every_option_with_its_values_and_its_default() {
    let listen = Page::read("wiretape-listen.1").options();
    for subcommand in subcommands() {
        let name = subcommand.get_name();
        let items = page(&subcommand).options();
        for arg in subcommand
            .get_arguments()
            .filter(|arg| !arg.is_positional())
        {
            let flags = flags(arg);
            let of_flags = |item: &&Item| flags.iter().all(|flag| item.flags.contains(flag));
            let item = items.iter().find(of_flags);
            let item =
                item.unwrap_or_else(|| panic!("wiretape-{name}.1 has no item for {flags:?}"));
            let values = arg.get_possible_values();
            let values: BTreeSet<String> =
                match values.is_empty() || !arg.get_action().takes_values() {
                    false => values
                        .iter()
                        .map(|value| value.get_name().to_owned())
                        .collect(),
                    true => value_names(arg),
                };
            let missing: Vec<_> = values.difference(&item.words).collect();
            assert!(
                missing.is_empty(),
                "wiretape-{name}.1 {flags:?}: {missing:?}"
            );
            // What is the same everywhere is told in one place.
            let there = listen.iter().find(of_flags);
            for default in arg
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy())
            {
                let is_told = |item: &Item| item.words.contains(&*default);
                let is_told = is_told(item) || there.is_some_and(is_told);
                assert!(
                    is_told || !arg.get_action().takes_values(),
                    "wiretape-{name}.1 {flags:?}: the default is {default}"
                );
            }
        }
    }
}

/// The words in which the help names the value: `format` and `path` of `[FORMAT:]PATH`.
fn value_names(arg: &Arg) -> BTreeSet<String> {
    let names = arg.get_value_names().unwrap_or_default().iter();
    let words = names.flat_map(|name| name.split(|c: char| !c.is_alphanumeric()));
    let words = words.filter(|word| !word.is_empty());
    match arg.get_action().takes_values() {
        true => words.map(str::to_lowercase).collect(),
        false => BTreeSet::new(),
    }
}

#[test]
fn the_pages_tell_of_no_option_that_is_none() {
    let mut everywhere = all_flags(&Args::command());
    everywhere.extend(["-h", "--help", "-V", "--version"].map(str::to_owned));
    for subcommand in subcommands() {
        let known = all_flags(&subcommand);
        let page = page(&subcommand);
        for flag in page.options().iter().flat_map(|item| &item.flags) {
            assert!(known.contains(flag), "{} has an item for {flag}", page.name);
        }
        everywhere.extend(known);
    }
    everywhere.extend(FOREIGN.map(str::to_owned));
    for page in pages() {
        let stray: Vec<_> = page.flags().difference(&everywhere).cloned().collect();
        assert!(stray.is_empty(), "{} speaks of {stray:?}", page.name);
    }
}

#[test]
fn the_help_shows_every_option_and_begins_with_examples() {
    assert!(help(&["-h"]).starts_with("Examples"));
    for subcommand in subcommands() {
        let name = subcommand.get_name();
        assert!(help(&["-h"]).contains(&format!("\n  {name} ")), "{name}");
        for flag in ["-h", "--help"] {
            let help = help(&[name, flag]);
            assert!(help.starts_with("Examples"), "wiretape {name} {flag}");
            let shown: BTreeSet<&str> = help.split([' ', ',', '\n']).collect();
            for flag in all_flags(&subcommand) {
                assert!(shown.contains(&*flag), "wiretape {name} --help: {flag}");
            }
        }
    }
}

/// Demands that clap takes every command of a script that is one of this program.
fn check_script(origin: &str, script: &str) -> usize {
    let commands = commands(script).into_iter();
    let ours: Vec<_> = commands.filter(|words| words[0] == "wiretape").collect();
    for words in &ours {
        if let Err(error) = Args::try_parse_from(words) {
            let is_said = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
            assert!(
                is_said.contains(&error.kind()),
                "{origin}: {words:?}: {error}"
            );
        }
    }
    ours.len()
}

#[test]
fn the_examples_of_the_pages_can_be_typed() {
    for page in pages() {
        let displays = page.displays("EXAMPLES");
        let count: usize = displays
            .iter()
            .map(|display| check_script(&page.name, display))
            .sum();
        // The format is for other programs as well, and the recipes are run: see cookbook.rs.
        let is_section_1 = page.name.ends_with(".1");
        assert!(count > 0 || !is_section_1, "{} has no example", page.name);
    }
}

#[test]
fn the_examples_of_the_help_can_be_typed() {
    let names = subcommands()
        .into_iter()
        .map(|command| command.get_name().to_owned());
    for name in [String::new()].into_iter().chain(names) {
        let help = match name.as_str() {
            "" => help(&["-h"]),
            name => help(&[name, "-h"]),
        };
        let examples = help.lines().skip(1).take_while(|line| !line.is_empty());
        let count: usize = examples.map(|line| check_example(&name, line)).sum();
        assert!(count > 0, "wiretape {name} -h has no example");
    }
}

/// What it does stands two spaces behind it, or more.
fn check_example(name: &str, line: &str) -> usize {
    let command = line.trim_start().split("  ").next().unwrap_or_default();
    check_script(&format!("wiretape {name} -h"), command)
}

#[test]
fn the_examples_of_the_readme_and_the_units_can_be_typed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(folder.join("README.md")).expect("it is there");
    let blocks = readme.split("\n```").skip(1).step_by(2);
    let typed: usize = blocks
        // Behind the fence is the language.
        .filter_map(|block| block.split_once('\n'))
        .map(|(_, script)| check_script("README.md", script))
        .sum();
    assert!(typed > 0);
    let unit = fs::read_to_string(folder.join("packaging/wiretape@.service"));
    let unit = unit.expect("it is there");
    // What it does, and what it says that it may be made to do.
    let mut starts = 0;
    for line in unit
        .lines()
        .filter_map(|line| line.split_once("ExecStart=/usr/bin/"))
    {
        // The file with options adds some.
        let command = line.1.replace(" $OPTIONS", " --rotate 100MiB --keep 10");
        starts += check_script("wiretape@.service", &command);
    }
    assert_eq!(starts, 2);
}

/// The script for a shell, which must be free of errors in its grammar.
fn completions(shell: &str) -> String {
    let script = output(wiretape().args(["completions", shell]));
    if let Some(shell) = program(shell) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("completions");
        fs::write(&path, &script).expect("it is new");
        output(Command::new(shell).arg("-n").arg(path));
    }
    script
}

/// What a shell offers behind these words, as one script tells.
fn offered(shell: &mut Command) -> BTreeSet<String> {
    let lines = output(shell);
    let words = lines.lines().filter_map(|line| line.split('\t').next());
    words.map(str::to_owned).collect()
}

fn check_offers(offers: impl Fn(&[&str], &str) -> BTreeSet<String>) {
    let all = offers(&[], "");
    for subcommand in subcommands() {
        let name = subcommand.get_name();
        assert!(all.contains(name), "{name}: {all:?}");
        let offered = offers(&[name], "-");
        let flags = all_flags(&subcommand);
        let missing: Vec<_> = flags.difference(&offered).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn bash_completes_every_subcommand_and_option() {
    let script = completions("bash");
    let Some(bash) = program("bash") else { return };
    check_offers(|before, word| {
        let words = [&["wiretape"], before, &[word]].concat();
        let last = before.last().unwrap_or(&"wiretape");
        let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_wiretape wiretape '{word}' '{last}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1,
        );
        offered(Command::new(&bash).args(["--norc", "-c", &script]))
    });
}

#[test]
fn fish_completes_every_subcommand_and_option() {
    let script = completions("fish");
    let Some(fish) = program("fish") else { return };
    let home = tempfile::tempdir().expect("a temporary folder");
    check_offers(|before, word| {
        let line = [&["wiretape"], before, &[word]].concat().join(" ");
        let script = format!("{script}\ncomplete -C '{line}'");
        let offer = |more: &str| {
            let script = format!("{script}\ncomplete -C '{line}{more}'");
            let mut shell = Command::new(&fish);
            shell
                .args(["--no-config", "-c", &script])
                .env("HOME", home.path());
            offered(&mut shell)
        };
        // Behind one hyphen it offers what has one letter, where there is one.
        match word {
            "-" => offer("").into_iter().chain(offer("-")).collect(),
            _ => offer(""),
        }
    });
}

#[test]
fn zsh_knows_every_subcommand_and_option() {
    let script = completions("zsh");
    for subcommand in subcommands() {
        let name = subcommand.get_name();
        // A branch of a `case`.
        let part = script.split_once(&format!("({name})\n"));
        let (_, part) = part.unwrap_or_else(|| panic!("no {name}"));
        let part = part.split("\n;;").next().unwrap_or_default();
        for flag in all_flags(&subcommand) {
            // In front of it may stand what it excludes, behind it how its value is joined.
            let shown = ["[", "+[", "=["].map(|behind| format!("{flag}{behind}"));
            let is_shown = shown.iter().any(|shown| part.contains(shown));
            assert!(is_shown, "{name} {flag}");
        }
    }
}

#[test]
fn completions_that_nobody_reads_end_quietly() {
    let mut command = wiretape();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let result = command
        .args(["completions", "bash"])
        .stdout(Stdio::from(writer))
        .output();
    let result = result.expect("it runs");
    assert_eq!((result.status.code(), result.stderr), (Some(0), Vec::new()));
}
