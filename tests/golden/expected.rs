//! Comparing with what was expected, so that a failure names the line, and blessing what is new.

use std::env;
use std::fs;
use std::path::PathBuf;

/// Set to `1`, it makes what was written the expected.
const BLESS: &str = "WIRETAPE_BLESS";

/// Compares `actual` with the file `name` in `tests/golden/expected`, or makes it that file.
pub(crate) fn assert_expected(name: &str, actual: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/expected")
        .join(name);
    if env::var_os(BLESS).is_some_and(|value| value == "1") {
        fs::write(&path, actual)
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        return;
    }
    let expected = fs::read(&path).unwrap_or_else(|error| {
        panic!("read {}: {error}; {BLESS}=1 would write it", path.display())
    });
    assert_same(name, &expected, actual);
}

/// Panics with the first line of `name` that differs.
pub(crate) fn assert_same(name: &str, expected: &[u8], actual: &[u8]) {
    if let Some(difference) = first_difference(expected, actual) {
        panic!("{name}:{difference}");
    }
}

/// Number of the first line that differs, and both sides of it. A newline is part of its line, so
/// that a missing one at the end is a difference too.
fn first_difference(expected: &[u8], actual: &[u8]) -> Option<String> {
    if expected == actual {
        return None;
    }
    let mut expected = expected.split_inclusive(|&byte| byte == b'\n');
    let mut actual = actual.split_inclusive(|&byte| byte == b'\n');
    let mut number = 1;
    loop {
        let (left, right) = (expected.next(), actual.next());
        if left != right {
            let (left, right) = (shown(left), shown(right));
            return Some(format!("{number}:\n expected {left}\n   actual {right}"));
        }
        number += 1;
    }
}

fn shown(line: Option<&[u8]>) -> String {
    line.map_or("nothing".to_owned(), |line| {
        format!("\"{}\"", line.escape_ascii())
    })
}

fn check(expected: &str, actual: &str, difference: Option<&str>) {
    let found = first_difference(expected.as_bytes(), actual.as_bytes());
    assert_eq!(found.as_deref(), difference);
}

#[test]
fn the_first_differing_line_is_named() {
    check("", "", None);
    check("a\nb\n", "a\nb\n", None);
    check(
        "a\nb\n",
        "a\nc\n",
        Some("2:\n expected \"b\\n\"\n   actual \"c\\n\""),
    );
    check("a\n", "a", Some("1:\n expected \"a\\n\"\n   actual \"a\""));
    check(
        "a\n",
        "a\nb",
        Some("2:\n expected nothing\n   actual \"b\""),
    );
}
