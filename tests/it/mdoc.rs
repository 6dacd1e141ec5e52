//! As much of the mdoc language (mdoc(7)) as is needed to hold a manual page against clap's tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The source of a page.
pub struct Page {
    pub name: String,
    lines: Vec<String>,
}

/// An item of a list of options: what it is for, and what is said of it.
pub struct Item {
    /// `-o` and `--output`.
    pub flags: Vec<String>,
    pub words: BTreeSet<String>,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
        let source = fs::read_to_string(&path);
        let source = source.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            name: name.to_owned(),
            lines: source.lines().map(str::to_owned).collect(),
        }
    }

    pub fn has_line(&self, wanted: &str) -> bool {
        self.lines.iter().any(|line| line == wanted)
    }

    /// The items whose heads begin with an option.
    pub fn options(&self) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut is_within = false;
        for line in &self.lines {
            if line.starts_with(".It Fl ") {
                is_within = true;
                items.push(Item {
                    flags: flags(line),
                    words: BTreeSet::new(),
                });
            } else if line.starts_with(".Sh ") || line.starts_with(".Ss ") {
                is_within = false;
            }
            if let Some(item) = items.last_mut().filter(|_| is_within) {
                item.words.extend(words(line));
            }
        }
        items
    }

    /// Every option that is named anywhere, in macros.
    pub fn flags(&self) -> BTreeSet<String> {
        let macros = self.lines.iter().filter(|line| line.starts_with('.'));
        macros.flat_map(|line| flags(line)).collect()
    }

    /// The literal displays of a section, as they are shown.
    pub fn displays(&self, section: &str) -> Vec<String> {
        let head = format!(".Sh {section}");
        let lines = self.lines.iter().skip_while(|line| **line != head).skip(1);
        let mut displays = Vec::new();
        let mut is_within = false;
        for line in lines.take_while(|line| !line.starts_with(".Sh ")) {
            match line.as_str() {
                ".Ed" => is_within = false,
                _ if line.starts_with(".Bd -literal") => {
                    is_within = true;
                    displays.push(String::new());
                }
                _ if is_within => {
                    let display = displays.last_mut().expect("it has begun");
                    display.push_str(&shown(line));
                    display.push('\n');
                }
                _ => {}
            }
        }
        displays
    }
}

/// The options behind `Fl`, wherever that stands in a line: `Fl o , -output`, `Fl -json | -raw`.
fn flags(line: &str) -> Vec<String> {
    let mut flags = Vec::new();
    let mut is_flag = false;
    for word in line.trim_start_matches('.').split(' ') {
        let is_macro = word.len() == 2 && word.starts_with(|c: char| c.is_ascii_uppercase());
        let is_name = word.starts_with(|c: char| c == '-' || c.is_ascii_alphanumeric());
        if is_macro {
            is_flag = word == "Fl";
        } else if is_flag && is_name {
            flags.push(format!("-{word}"));
        }
    }
    flags
}

/// The words of a line, without what stands around them.
fn words(line: &str) -> impl Iterator<Item = String> {
    let line = shown(line);
    let words: Vec<String> = line
        .split([' ', '|'])
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    words.into_iter()
}

/// A line as it is shown, of the escapes (mandoc_char(7)) that the pages use.
fn shown(line: &str) -> String {
    let mut shown = line.to_owned();
    for (escape, meaning) in [(r"\-", "-"), (r"\(aq", "'"), (r"\&", ""), (r"\e", r"\")] {
        shown = shown.replace(escape, meaning);
    }
    shown
}
