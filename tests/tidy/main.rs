//! The rules of the source tree that the compiler does not know, each failing with file and line.
//!
//! `source` tells code from comments and literals, `paths` reads the paths that code names, and
//! `rules` says what is a breach. A rule looks at one file and knows no other, so each is shown
//! able to fail on a few lines of text.

mod paths;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{ROOMS, RULES};
use source::Source;

/// Folders whose Rust files are looked at.
const FOLDERS: [&str; 4] = ["src", "tests", "fuzz/src", "fuzz/fuzz_targets"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file in the tree, with its path from the root.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = FOLDERS.map(|folder| root().join(folder)).into();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be read") {
            let path = entry.expect("its entries can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(read(&path));
            }
        }
    }
    sources
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("Rust files are UTF-8");
    let path = path.strip_prefix(root()).expect("it lies in the tree");
    Source::new(path.to_str().expect("names of files are ASCII"), &text)
}

#[test]
fn the_tree_is_tidy() {
    let mut breaches = Vec::new();
    for source in sources() {
        for rule in RULES {
            for breach in rule(&source) {
                breaches.push(format!("{}:{}: {}", source.path, breach.line, breach.what));
            }
        }
    }
    breaches.sort();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

/// A room that is renamed, or added beside the table, must not slip through the rules.
#[test]
fn the_table_of_rooms_is_that_of_the_program() {
    let map = fs::read_to_string(root().join("src/lib.rs")).expect("the program has a map");
    let mut found: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let mut known = ROOMS.map(|(room, _)| room);
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
}
