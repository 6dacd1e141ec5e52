//! Which characters must not reach a terminal as they are.

/// Whether `c`, beyond ASCII, could steer a terminal or deceive its reader: C1 controls, characters
/// that turn the writing direction or cannot be seen (format controls, Cf in the Unicode Character
/// Database), and the two separators that some programs take for the end of a line.
pub(super) fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}'        // C1: U+009B is CSI, U+009D is OSC
        | '\u{ad}'                 // soft hyphen
        | '\u{61c}'                // Arabic letter mark
        | '\u{180e}'               // Mongolian vowel separator
        | '\u{200b}'..='\u{200f}'  // zero width, left-to-right and right-to-left marks
        | '\u{2028}'..='\u{202e}'  // line and paragraph separator, embeddings and overrides
        | '\u{2060}'..='\u{206f}'  // word joiner, invisible operators, isolates
        | '\u{feff}'               // byte order mark
        | '\u{fff9}'..='\u{fffb}'  // interlinear annotation
        | '\u{e0000}'..='\u{e0fff}' // tags and selectors, used to smuggle text
    )
}
