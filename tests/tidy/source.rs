//! A source file in two views of the same shape: its code, and its comments.
//!
//! What is not of a view is blank in it, line ends aside, so that a line has the same number in
//! both. Literals are in neither: a rule that speaks of a name must not trip over a message, nor
//! over the examples of its own test.

/// A file, and where it lies below the root of the project, with `/` between folders.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    pub(crate) comments: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = text;
        while !rest.is_empty() {
            let (kind, len) = next_span(rest);
            let (span, behind) = rest.split_at(len);
            match kind {
                Kind::Code => {
                    code.push_str(span);
                    push_blank(span, &mut comments);
                }
                Kind::Comment => {
                    push_blank(span, &mut code);
                    comments.push_str(span);
                }
                Kind::Literal => {
                    push_blank(span, &mut code);
                    push_blank(span, &mut comments);
                }
            }
            rest = behind;
        }
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            comments,
        }
    }
}

fn push_blank(span: &str, view: &mut String) {
    view.extend(span.chars().map(|c| if c == '\n' { c } else { ' ' }));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// What stands at the front of `text`, which is not empty and not in the middle of anything, and how
/// many bytes of it.
fn next_span(text: &str) -> (Kind, usize) {
    if text.starts_with("//") {
        return (Kind::Comment, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (Kind::Comment, block_comment(text));
    }
    // `r`, `b`, `br`… belong to the literal behind them; any other word is code as a whole, so that
    // none of its letters is taken for such a prefix.
    let word = text.len() - text.trim_start_matches(is_word).len();
    let (prefix, behind) = text.split_at(word);
    let literal = match prefix {
        "r" | "br" | "cr" => raw_string(behind),
        "" | "b" | "c" => string(behind).or_else(|| character(behind)),
        _ => None,
    };
    match literal {
        Some(len) => (Kind::Literal, word + len),
        None if word > 0 => (Kind::Code, word),
        None => (Kind::Code, text.chars().next().map_or(0, char::len_utf8)),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How long a comment is, the comments within it included.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.len() - text.trim_start_matches('#').len();
    let body = text[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &text[..hashes]);
    let len = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(hashes + 1 + len)
}

fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('"')?;
    Some(1 + escaped_until('"', body))
}

/// A character, and not a lifetime: `'a'` or `'\n'`, but not `'a`.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let is_closed = body[first.len_utf8()..].starts_with('\'');
    (first == '\\' || is_closed).then(|| 1 + escaped_until('\'', body))
}

/// How many bytes there are up to `end` and with it; what follows a `\` does not end anything.
fn escaped_until(end: char, body: &str) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == end => return at + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}

/// Compares the views of `text`, without what is blank at the ends of their lines.
fn check(text: &str, code: &str, comments: &str) {
    let source = Source::new("a.rs", text);
    let trimmed = |view: &str| -> Vec<String> {
        view.split('\n')
            .map(|line| line.trim_end().to_owned())
            .collect()
    };
    assert_eq!(trimmed(&source.code).join("\n"), code, "{text}");
    assert_eq!(trimmed(&source.comments).join("\n"), comments, "{text}");
}

#[test]
fn code_comments_and_literals_are_told_apart() {
    check("a // b\nc", "a\nc", "  // b\n");
    check(
        "a /* b /* c\n */ */ d",
        "a\n       d",
        "  /* b /* c\n */ */",
    );
    check(r#"f("a // \" b", c)"#, "f(           , c)", "");
    check(r##"f(r#"a " b"#, c)"##, "f(          , c)", "");
    check(r#"f(b"a", br"\", c)"#, "f(    ,      , c)", "");
    check("f('\"', '\\'', b'\\\\', c)", "f(   ,     ,      , c)", "");
    check(
        "f<'a>(x: &'a str) // '",
        "f<'a>(x: &'a str)",
        "                  // '",
    );
    check(
        "r#type /* \" */ bar",
        "r#type         bar",
        "       /* \" */",
    );
    check("f(\"a\nb\") // c", "f(\n  )", "\n    // c");
}
