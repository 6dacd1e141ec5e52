//! Records of every kind, shown on a terminal: no byte of a peer steers it, in any format that shows
//! more than the bare bytes.
//!
//! * What is shown is text without controls and without what turns the direction of writing, but for
//!   the newlines between lines.
//! * Text has one line a record at most, JSON one line a record.
//! * Colours change nothing but colours: without them the same is shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wiretape::codec::{Audience, Format};
use wiretape_fuzz::{Records, encode};

fuzz_target!(|records: Records| {
    let Records(records) = records;
    for format in [Format::Text, Format::Hex, Format::Json] {
        let plain = encode(&records, format, Audience::Terminal);
        let colored = encode(&records, format, Audience::ColorTerminal);
        for (plain, colored) in plain.into_iter().zip(colored) {
            let plain = String::from_utf8(plain).expect("what is shown is text");
            let colored = String::from_utf8(colored).expect("so it is in colours");
            assert!(plain.is_empty() || plain.ends_with('\n'));
            assert!(
                !plain.lines().any(|line| line.contains(steers)),
                "{plain:?}"
            );
            match format {
                Format::Text => assert!(plain.matches('\n').count() <= 1),
                Format::Json => assert_eq!(plain.matches('\n').count(), 1),
                Format::Hex | Format::Raw(_) => {}
            }
            assert_eq!(without_colors(&colored), plain);
        }
    }
});

/// A control, or one of the characters with the property `Bidi_Control` (Unicode Standard Annex #9).
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// Without what an escape character begins and an `m` ends.
fn without_colors(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (color, rest) = part.split_once('m').expect("a colour has an end");
        assert!(
            color
                .strip_prefix('[')
                .is_some_and(|color| color.bytes().all(|b| b.is_ascii_digit()))
        );
        plain.push_str(rest);
    }
    plain
}
