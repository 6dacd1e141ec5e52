//! Objects about a capture, in the style of its records: flat, one a line, strings escaped alike.

use super::super::Audience;
use super::encode::{Encoder, number, word};

/// One line of JSON, being written.
#[derive(Debug)]
pub struct Object {
    encoder: Encoder,
    line: Vec<u8>,
}

impl Object {
    /// An object of this `type`, a word of this program.
    pub fn new(kind: &'static str, audience: Audience) -> Self {
        let mut line = b"{\"type\":\"".to_vec();
        line.extend_from_slice(kind.as_bytes());
        line.push(b'"');
        Self {
            encoder: Encoder::new(audience),
            line,
        }
    }

    /// A string, whatever is in it.
    pub fn string(mut self, key: &'static str, value: &str) -> Self {
        self.encoder.string(key, value, &mut self.line);
        self
    }

    /// A word of this program, or a time: nothing to escape.
    pub fn word(mut self, key: &'static str, value: &str) -> Self {
        word(key, value, &mut self.line);
        self
    }

    /// A number.
    pub fn number(mut self, key: &'static str, value: u64) -> Self {
        number(key, value, &mut self.line);
        self
    }

    /// The line, with its newline.
    pub fn finish(mut self) -> Vec<u8> {
        self.line.extend_from_slice(b"}\n");
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json_whatever_its_strings_hold() {
        let text = "a\"\\\n\u{7f}\u{9b}ü\u{202e}";
        for audience in [Audience::Program, Audience::Terminal] {
            let object = Object::new("session", audience).string("peer", text);
            let line = object.number("conn", 7).word("state", "whole").finish();
            let read: serde_json::Value = serde_json::from_slice(&line).expect("it is JSON");
            let expected = serde_json::json!({
                "type": "session", "peer": text, "conn": 7, "state": "whole"
            });
            assert_eq!(read, expected);
            let is_plain = line[..line.len() - 1].iter().all(|byte| *byte >= 0x20);
            assert!(is_plain);
        }
    }
}
