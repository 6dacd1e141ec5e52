//! As much of the shell as is needed to read the examples in the manual: the commands of a script, and
//! their words.

use std::iter::Peekable;
use std::str::Chars;

/// The commands, each in words: without what the shell keeps for itself, such as redirections.
pub fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut chars = script.chars().peekable();
    // What stands behind `>` is where to, and no word of the command.
    let mut is_redirected = false;
    while let Some(&next) = chars.peek() {
        match next {
            '|' | '&' | ';' | '\n' | '(' | ')' => {
                chars.next();
                commands.push(Vec::new());
                is_redirected = false;
            }
            '>' | '<' => {
                chars.next();
                is_redirected = true;
            }
            ' ' => {
                chars.next();
            }
            '#' => while chars.next_if(|&c| c != '\n').is_some() {},
            _ => {
                let word = word(&mut chars);
                let is_descriptor = word == "2" && chars.peek() == Some(&'>');
                let Some(word) = Some(word).filter(|_| !is_descriptor && !is_redirected) else {
                    is_redirected = false;
                    continue;
                };
                let command = commands.last_mut().expect("there is one");
                // A line that was broken is a word of nothing.
                if !word.is_empty() {
                    command.push(word);
                }
            }
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

fn word(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(next) = chars.next_if(|c| !" |&;\n()<>".contains(*c)) {
        match next {
            '\'' => word.extend(chars.by_ref().take_while(|&c| c != '\'')),
            '"' => word.extend(chars.by_ref().take_while(|&c| c != '"')),
            '\\' => word.extend(chars.next().filter(|&c| c != '\n')),
            _ => word.push(next),
        }
    }
    word
}

#[test]
fn commands_are_read_as_the_shell_reads_them() {
    fn check(script: &str, expected: &[&[&str]]) {
        assert_eq!(commands(script), expected, "{script}");
    }
    check("a b  c", &[&["a", "b", "c"]]);
    check("a 'b  c' \"d e\"f", &[&["a", "b  c", "d ef"]]);
    check("a \\\n    b\nc", &[&["a", "b"], &["c"]]);
    check("a 2> x | b > y & c && d", &[&["a"], &["b"], &["c"], &["d"]]);
    check("a 2 # b", &[&["a", "2"]]);
    check("a '|\n' b < x", &[&["a", "|\n", "b"]]);
}
