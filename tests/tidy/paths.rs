//! The paths that code names: in `use`, where groups are spread out, and in its midst.

/// A path such as `crate::record::Record`, whole, and what is needed to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath<'a> {
    /// The line of its last segment, from 1.
    pub(crate) line: usize,
    /// Modules within the file that it stands in.
    pub(crate) depth: usize,
    /// A name each, `*` for a glob.
    pub(crate) segments: Vec<&'a str>,
}

/// A word, `::`, or any other character by itself, and its line from 1.
pub(crate) type Token<'a> = (usize, &'a str);

/// The tokens of `code`, in which there are no comments and no literals.
pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (nth, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.len() - rest.trim_start_matches(is_word).len();
            let len = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                _ => word,
            };
            tokens.push((nth + 1, &rest[..len]));
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The paths in `code`. A single word is a path too, be it a keyword.
pub(crate) fn paths(code: &str) -> Vec<NamedPath<'_>> {
    let tokens = tokens(code);
    let mut walk = Walk::default();
    let mut at = 0;
    while at < tokens.len() {
        at = walk.step(&tokens, at);
    }
    walk.paths
}

/// What an open brace is for.
#[derive(Debug)]
enum Brace<'a> {
    Module,
    /// The rest of several paths that begin alike.
    Group(Vec<&'a str>),
    Other,
}

#[derive(Debug, Default)]
struct Walk<'a> {
    braces: Vec<Brace<'a>>,
    paths: Vec<NamedPath<'a>>,
}

impl<'a> Walk<'a> {
    /// Reads what begins at `at`, and says where the next begins.
    fn step(&mut self, tokens: &[Token<'a>], at: usize) -> usize {
        let (line, token) = tokens[at];
        match token {
            "{" => {
                let is_module = at >= 2 && tokens[at - 2].1 == "mod";
                self.braces.push(if is_module {
                    Brace::Module
                } else {
                    Brace::Other
                });
            }
            "}" => {
                self.braces.pop();
            }
            // The new name in a group is nobody's path.
            "as" if self.group().is_some() => return at + 2,
            "*" => {
                if let Some(prefix) = self.group() {
                    let segments = [prefix, &["*"]].concat();
                    self.push(line, segments);
                }
            }
            _ if token.starts_with(is_word) => return self.path(tokens, at),
            _ => {}
        }
        at + 1
    }

    /// Reads the path whose first word is at `at`.
    fn path(&mut self, tokens: &[Token<'a>], mut at: usize) -> usize {
        let mut segments = self.group().unwrap_or_default().to_vec();
        segments.push(tokens[at].1);
        loop {
            let next = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.1);
            if next(1) != "::" {
                break;
            }
            match next(2) {
                "{" => {
                    self.braces.push(Brace::Group(segments));
                    return at + 3;
                }
                word if word == "*" || word.starts_with(is_word) => segments.push(word),
                // `::<`: what is in the angle brackets is a path of its own.
                _ => break,
            }
            at += 2;
        }
        self.push(tokens[at].0, segments);
        at + 1
    }

    /// What the paths of the group begin with, if a group is what is read.
    fn group(&self) -> Option<&[&'a str]> {
        match self.braces.last()? {
            Brace::Group(prefix) => Some(prefix),
            _ => None,
        }
    }

    fn push(&mut self, line: usize, segments: Vec<&'a str>) {
        let is_module = |brace: &&Brace<'_>| matches!(brace, Brace::Module);
        self.paths.push(NamedPath {
            line,
            depth: self.braces.iter().filter(is_module).count(),
            segments,
        });
    }
}

/// Compares the paths of more than one segment with `expected`, each as `LINE DEPTH PATH`.
fn check(code: &str, expected: &[&str]) {
    let found: Vec<String> = paths(code)
        .into_iter()
        .filter(|path| path.segments.len() > 1)
        .map(|path| format!("{} {} {}", path.line, path.depth, path.segments.join("::")))
        .collect();
    assert_eq!(found, expected, "{code}");
}

#[test]
fn groups_are_spread_out() {
    check("use a::b;", &["1 0 a::b"]);
    check("pub(crate) use a::b as c;", &["1 0 a::b"]);
    check(
        "use a::{\n    b, c::{self, D as E},\n    f::*,\n};",
        &["2 0 a::b", "2 0 a::c::self", "2 0 a::c::D", "3 0 a::f::*"],
    );
    check("use a::{*, b};", &["1 0 a::*", "1 0 a::b"]);
    check("use {a::b, c::d};", &["1 0 a::b", "1 0 c::d"]);
}

#[test]
fn paths_within_code_are_found() {
    check(
        "fn f(x: a::B<'_>) -> c::D { e::<g::H>::i(x as j::K) }",
        &["1 0 a::B", "1 0 c::D", "1 0 g::H", "1 0 j::K"],
    );
    check("let x = a\n    ::b\n    ::c();", &["3 0 a::b::c"]);
    check("let x = 2 * 3; ::a::b!()", &["1 0 a::b"]);
}

#[test]
fn depth_counts_modules_and_no_other_braces() {
    check(
        "mod a { use super::b; fn f() { c::d } mod e { use super::f; } }\nuse g::h;",
        &["1 1 super::b", "1 1 c::d", "1 2 super::f", "2 0 g::h"],
    );
}
