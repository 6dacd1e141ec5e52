//! Paths with places for values in them: a file a connection, a peer, a day.
//!
//! The part before the first place is a folder that the user named. What is below it is made up of
//! values, some of which a peer has a say in: none of them ever holds a separator, is `.` or `..`, or
//! is longer than a file name may be, so that no value leads out of that folder.

use std::fmt;
use std::path::PathBuf;

use crate::record::time::WallTime;
use crate::record::{ConnId, Endpoints, RunId};

/// A value longer than this is cut. The longest address, an IPv6 one with its zone, has 50 bytes.
const MAX_VALUE: usize = 64;

/// A path with places for values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    folder: PathBuf,
    /// The names below the folder, each in pieces.
    names: Vec<Vec<Piece>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Place(Place),
}

/// What can stand in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Conn,
    PeerIp,
    PeerPort,
    LocalPort,
    Date,
    Run,
}

const PLACES: [(&str, Place); 6] = [
    ("{conn}", Place::Conn),
    ("{peer_ip}", Place::PeerIp),
    ("{peer_port}", Place::PeerPort),
    ("{local_port}", Place::LocalPort),
    ("{date}", Place::Date),
    ("{run}", Place::Run),
];

/// What a path with braces in it cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// No place is called so.
    Unknown(String),
    /// The path ends where a file's name should stand.
    NoFile,
    /// One of the names would be longer than this many bytes.
    TooLong(usize),
    /// `..` below a place.
    Parent,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(f, "{word} is not known; there are")?;
                for (nth, (name, _)) in PLACES.iter().enumerate() {
                    write!(f, "{} {name}", if nth == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::NoFile => f.write_str("the path names a folder; name a file in it"),
            Self::TooLong(most) => write!(f, "a name could grow longer than {most} bytes"),
            Self::Parent => f.write_str("`..` cannot stand behind a value in braces"),
        }
    }
}

/// Bytes of a file name at most, with room for what a closed segment's name has more.
const MAX_NAME: usize = 255 - ".20261122T120259Z.000001.zst.tmp".len();

/// What is filled in.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The run.
    pub run: RunId,
    /// When the record was seen.
    pub wall: WallTime,
    /// Absent where no connection is spoken of; then only the run and the date are known.
    pub endpoints: Option<&'a Endpoints>,
}

impl Template {
    /// Reads `text`; `None` where no word stands in braces, so that it is a plain path.
    ///
    /// # Errors
    /// [`TemplateError`]: a word that is no place, or names that no file can have.
    pub fn parse(text: &str) -> Option<Result<Self, TemplateError>> {
        braced_words(text).next()?;
        Some(Self::parse_words(text))
    }

    fn parse_words(text: &str) -> Result<Self, TemplateError> {
        let is_known = |word: &str| PLACES.iter().any(|(name, _)| *name == word);
        if let Some(word) = braced_words(text).find(|word| !is_known(word)) {
            return Err(TemplateError::Unknown(word.to_owned()));
        }
        let mut folder = PathBuf::new();
        if text.starts_with('/') {
            folder.push("/");
        }
        let mut names: Vec<Vec<Piece>> = Vec::new();
        for name in text.split('/').filter(|name| !matches!(*name, "" | ".")) {
            let pieces = pieces(name);
            if names.is_empty() && matches!(pieces[..], [Piece::Literal(_)]) {
                folder.push(name);
                continue;
            }
            if name == ".." {
                return Err(TemplateError::Parent);
            }
            if longest(&pieces) > MAX_NAME {
                return Err(TemplateError::TooLong(MAX_NAME));
            }
            names.push(pieces);
        }
        if text.ends_with('/') {
            return Err(TemplateError::NoFile);
        }
        Ok(Self {
            text: text.to_owned(),
            folder,
            names,
        })
    }

    /// The folder that everything lies in, which the user named; empty for the current one.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.names.iter().flatten().filter_map(|piece| match piece {
            Piece::Place(place) => Some(*place),
            Piece::Literal(_) => None,
        })
    }

    /// Whether a file holds one connection only.
    pub(super) fn is_by_connection(&self) -> bool {
        self.places().any(|place| place == Place::Conn)
    }

    /// Whether a time comes when nothing more is written to a file.
    pub fn finishes_files(&self) -> bool {
        self.is_by_connection() || self.is_by_date()
    }

    /// Whether the path of a record depends on its connection at all.
    pub(super) fn needs_connection(&self) -> bool {
        self.places()
            .any(|place| !matches!(place, Place::Date | Place::Run))
    }

    /// Whether another day is another file.
    pub(super) fn is_by_date(&self) -> bool {
        self.places().any(|place| place == Place::Date)
    }

    /// The path below the folder, with all values filled in.
    pub fn expand(&self, values: &Values<'_>) -> PathBuf {
        let mut path = PathBuf::new();
        for pieces in &self.names {
            let mut name = String::new();
            for piece in pieces {
                match piece {
                    Piece::Literal(text) => name.push_str(text),
                    Piece::Place(place) => name.push_str(&sanitized(&place.value(values))),
                }
            }
            path.push(name);
        }
        path
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Place {
    fn value(self, values: &Values<'_>) -> String {
        let unknown = || "none".to_owned();
        let of = |text: fn(&Endpoints) -> String| values.endpoints.map_or_else(unknown, text);
        match self {
            Self::Conn => of(|endpoints| {
                let ConnId(number) = endpoints.conn;
                number.to_string()
            }),
            Self::PeerIp => of(|endpoints| split_address(&endpoints.peer).0.to_owned()),
            Self::PeerPort => of(|endpoints| split_address(&endpoints.peer).1.to_owned()),
            Self::LocalPort => of(|endpoints| split_address(&endpoints.local).1.to_owned()),
            Self::Date => date(values.wall),
            Self::Run => values.run.to_string(),
        }
    }
}

/// The day, in UTC: `2026-11-22`.
pub(super) fn date(wall: WallTime) -> String {
    let text = wall.to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// `IP:PORT`, `[IPv6]:PORT`; a Unix socket is `unix` without a port, whatever its path.
fn split_address(address: &str) -> (&str, &str) {
    if address.starts_with("unix:") {
        return ("unix", "none");
    }
    let (ip, port) = address.rsplit_once(':').unwrap_or((address, "none"));
    (ip.trim_start_matches('[').trim_end_matches(']'), port)
}

/// A value that is a piece of a file name whatever it was: letters, digits, `.`, `-` and `_` stay, the
/// `%` before an IPv6 zone becomes `-`, all else `_`, colons among it, and so does a `.` or a `-` at
/// the front, which would hide the file or look like an option. Never empty.
fn sanitized(value: &str) -> String {
    let mut name: String = value
        .chars()
        .take(MAX_VALUE)
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
            '%' => '-',
            _ => '_',
        })
        .collect();
    if name.starts_with(['.', '-']) || name.is_empty() {
        name.replace_range(..name.len().min(1), "_");
    }
    name
}

/// Words of letters and `_` in braces, with the braces.
fn braced_words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('}').filter_map(|part| {
        let word = &part[part.rfind('{')?..];
        let inner = word.strip_prefix('{')?.strip_suffix('}')?;
        let is_word = inner
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (is_word && !inner.is_empty()).then_some(word)
    })
}

fn pieces(mut name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !name.is_empty() {
        let found = PLACES
            .iter()
            .filter_map(|(word, place)| Some((name.find(word)?, *word, *place)))
            .min_by_key(|(start, ..)| *start);
        let (start, len) = found.map_or((name.len(), 0), |(start, word, _)| (start, word.len()));
        if start > 0 {
            pieces.push(Piece::Literal(name[..start].to_owned()));
        }
        pieces.extend(found.map(|(.., place)| Piece::Place(place)));
        name = &name[start + len..];
    }
    pieces
}

fn longest(pieces: &[Piece]) -> usize {
    let len = |piece: &Piece| match piece {
        Piece::Literal(text) => text.len(),
        Piece::Place(_) => MAX_VALUE,
    };
    pieces.iter().map(len).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::path::{Component, Path};

    fn endpoints(peer: &str, local: &str) -> Endpoints {
        Endpoints {
            conn: ConnId(17),
            peer: peer.into(),
            local: local.into(),
            target: None,
        }
    }

    fn expand(text: &str, endpoints: &Endpoints) -> PathBuf {
        let template = Template::parse(text).expect("it has places");
        let template = template.expect("they are known");
        let below = template.expand(&Values {
            run: RunId(0x5f3a_9c1e_20b7_d644),
            wall: WallTime::from_unix_micros(1_795_348_979_907_656),
            endpoints: Some(endpoints),
        });
        template.folder().join(below)
    }

    #[test]
    fn values_are_filled_in() {
        let check = |text: &str, peer: &str, expected: &str| {
            let path = expand(text, &endpoints(peer, "10.0.0.1:1234"));
            assert_eq!(path, Path::new(expected));
        };
        let v4 = "10.0.0.9:50122";
        check("{conn}", v4, "17");
        check("logs/{peer_ip}-{conn}.bin", v4, "logs/10.0.0.9-17.bin");
        check(
            "/a/{date}/{peer_ip}/{peer_port}",
            v4,
            "/a/2026-11-22/10.0.0.9/50122",
        );
        check("./x/y{local_port}.log", v4, "x/y1234.log");
        check("{run}.ndjson", v4, "5f3a9c1e20b7d644.ndjson");
        check("{conn}{conn}{{date}}{}{A}", v4, "1717{2026-11-22}{}{A}");
        check("a/{conn}/b/c.bin", v4, "a/17/b/c.bin");
        check("{peer_ip}_{peer_port}", "[fe80::1%2]:7", "fe80__1-2_7");
        check("{peer_ip}.bin", "[::1]:7", "__1.bin");
        check("{peer_ip}_{peer_port}", "unix:/run/../x", "unix_none");
    }

    #[test]
    fn a_path_without_words_in_braces_is_plain() {
        for text in [
            "a.ndjson", "{", "}{", "a{}b", "{1}", "{A}", "{a", "a}", "{a b}",
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    fn check_error(text: &str, expected: &TemplateError) {
        let error = Template::parse(text)
            .expect("it has places")
            .expect_err(text);
        assert_eq!(error, *expected, "{text}");
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        check_error("{peer}.bin", &TemplateError::Unknown("{peer}".to_owned()));
        check_error("{conn}/{x_y}", &TemplateError::Unknown("{x_y}".to_owned()));
        check_error("{conn}/", &TemplateError::NoFile);
        check_error("{conn}/../x", &TemplateError::Parent);
        check_error(
            &format!("{{conn}}{}", "x".repeat(200)),
            &TemplateError::TooLong(MAX_NAME),
        );
        assert_eq!(
            TemplateError::Unknown("{peer}".to_owned()).to_string(),
            "{peer} is not known; there are {conn}, {peer_ip}, {peer_port}, {local_port}, {date}, {run}"
        );
    }

    proptest! {
        /// Promise 11: whatever an address holds, the path stays below the folder, and is as deep as
        /// it was written.
        #[test]
        fn no_value_leaves_the_folder(peer in any::<String>(), local in any::<String>()) {
            for text in ["x/{peer_ip}", "x/{peer_ip}/{peer_port}", "x/.{local_port}{peer_ip}"] {
                let path = expand(text, &endpoints(&peer, &local));
                let parts: Vec<_> = path.components().collect();
                prop_assert_eq!(parts.len(), text.split('/').count());
                prop_assert_eq!(parts[0], Component::Normal("x".as_ref()));
                for part in parts {
                    prop_assert!(matches!(part, Component::Normal(_)), "{:?}", path);
                    prop_assert!(part.as_os_str().len() <= 255);
                }
            }
        }

        #[test]
        fn a_sanitized_value_is_one_plain_name(value in "[./:\\\\a\0é\n-]{0,100}") {
            let name = sanitized(&value);
            prop_assert!(!name.is_empty() && name.len() <= MAX_VALUE);
            prop_assert!(!name.starts_with(['.', '-']));
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)));
        }
    }
}
