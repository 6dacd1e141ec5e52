//! What closed segments are called: `NAME.<UTC start>.<number>.EXT`, beside the live `NAME.EXT`.
//!
//! ```text
//! device.ndjson                             the live file
//! device.20261122T120259Z.000007.ndjson     a closed segment
//! device.20261122T120259Z.000007.ndjson.zst the same, compressed
//! device.20261122T120259Z.000007.ndjson.zst.tmp      … half done
//! ```
//!
//! Nothing here touches a disk. What [`SegmentNames::parse`] does not take apart to the last byte is
//! somebody else's file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::options::Compression;
use crate::record::time::WallTime;

/// Digits of a segment's number at least, so that names sort as numbers do.
const NUMBER_DIGITS: usize = 6;

/// … and at most: one more could not be counted on from.
const MOST_DIGITS: usize = 15;

/// The last number of so many digits. Beyond it nothing is counted on.
pub(super) const LAST_NUMBER: u64 = 999_999_999_999_999;

/// What ends the name of a compressed segment while it is being written.
pub(super) const UNFINISHED: &str = "tmp";

/// The names of one output's segments.
#[derive(Clone, Debug)]
pub(super) struct SegmentNames {
    folder: PathBuf,
    name: OsString,
    /// With its dot; empty where there is none.
    extension: OsString,
}

/// Where a segment stands among its like: by its start, then by its number.
pub type SegmentOrder = (String, u64);

/// What a file name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentName {
    pub(super) order: SegmentOrder,
    /// It was compressed after it was closed.
    pub(super) compression: Option<Compression>,
    /// … but not to the end.
    pub(super) is_unfinished: bool,
}

impl SegmentNames {
    /// For the output whose live file is `path`. `compression` is that of the live file itself,
    /// whose extension then has two parts.
    pub(super) fn new(path: &Path, compression: Option<Compression>) -> Self {
        let split = |name: &OsStr| {
            let name = Path::new(name);
            let stem = name.file_stem().unwrap_or_default().to_owned();
            let mut extension = OsString::new();
            if let Some(found) = name.extension() {
                extension.push(".");
                extension.push(found);
            }
            (stem, extension)
        };
        let (mut name, mut extension) = split(path.file_name().unwrap_or_default());
        if compression.is_some() {
            let (stem, mut first) = split(&name);
            first.push(&extension);
            (name, extension) = (stem, first);
        }
        Self {
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            name,
            extension,
        }
    }

    /// Where they all lie; `.` rather than nothing.
    pub(super) fn folder(&self) -> &Path {
        match self.folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => &self.folder,
        }
    }

    /// The path of a file beside the live one.
    pub(super) fn path(&self, file_name: &OsStr) -> PathBuf {
        self.folder.join(file_name)
    }

    /// The path of a closed segment that began at `start`.
    pub(super) fn closed(&self, start: WallTime, number: u64) -> PathBuf {
        let mut name = self.name.clone();
        name.push(format!(".{}.{number:0NUMBER_DIGITS$}", stamp(start)));
        name.push(&self.extension);
        self.folder.join(name)
    }

    /// The paths that a closed segment may have in its life: plain, and compressed.
    pub(super) fn forms(path: &Path) -> impl Iterator<Item = PathBuf> {
        let compressed =
            Compression::ALL.map(|known| with_extension_added(path, known.extension()));
        std::iter::once(path.to_owned()).chain(compressed)
    }

    /// Whether `file_name` is that of a closed segment of this output.
    pub(super) fn parse(&self, file_name: &OsStr) -> Option<SegmentName> {
        let rest = file_name.as_bytes().strip_prefix(self.name.as_bytes())?;
        let rest = rest.strip_prefix(b".")?;
        let (start, rest) = rest.split_at_checked(STAMP_LEN)?;
        let start = std::str::from_utf8(start)
            .ok()
            .filter(|text| is_stamp(text))?;
        let rest = rest.strip_prefix(b".")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = rest.split_at(digits);
        let is_canonical = digits == NUMBER_DIGITS
            || ((NUMBER_DIGITS..=MOST_DIGITS).contains(&digits) && number[0] != b'0');
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        let rest = rest.strip_prefix(self.extension.as_bytes())?;
        let rest = std::str::from_utf8(rest).ok()?;
        let mut parts = rest.split('.').skip(1);
        let compression = match parts.next() {
            None if rest.is_empty() => None,
            extension => Some(
                (Compression::ALL.into_iter())
                    .find(|known| Some(known.extension()) == extension)?,
            ),
        };
        let is_unfinished = match parts.next() {
            None => false,
            Some(UNFINISHED) => true,
            Some(_) => return None,
        };
        let is_whole = is_canonical && parts.next().is_none();
        is_whole.then(|| SegmentName {
            order: (start.to_owned(), number),
            compression,
            is_unfinished,
        })
    }
}

/// `path` with another extension behind those that it has.
pub(super) fn with_extension_added(path: &Path, extension: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

const STAMP_LEN: usize = "20261122T120259Z".len();

/// ISO 8601, basic format, to the second: no byte in it means anything to a shell or a file system.
fn stamp(time: WallTime) -> String {
    let text = time.to_string();
    let date_and_time = text.split('.').next().unwrap_or_default();
    let mut stamp: String = date_and_time
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    stamp.push('Z');
    stamp
}

fn is_stamp(text: &str) -> bool {
    text.len() == STAMP_LEN
        && text.bytes().enumerate().all(|(nth, byte)| match nth {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, compression: Option<Compression>) -> SegmentNames {
        SegmentNames::new(Path::new(path), compression)
    }

    #[test]
    fn a_closed_segment_keeps_folder_name_and_extension() {
        fn check(live: &str, compression: Option<Compression>, expected: &str) {
            let start = WallTime::from_unix_micros(1_795_348_979_907_656);
            let path = names(live, compression).closed(start, 7);
            assert_eq!(path, Path::new(expected));
            // What it is called, it is known by.
            let name = path.file_name().expect("it has a name");
            let parsed = names(live, compression)
                .parse(name)
                .expect("it is one of its own");
            assert_eq!(parsed.order, ("20261122T120259Z".to_owned(), 7));
            assert_eq!((parsed.compression, parsed.is_unfinished), (None, false));
        }
        check(
            "device.ndjson",
            None,
            "device.20261122T120259Z.000007.ndjson",
        );
        check("/x/a.b.log", None, "/x/a.b.20261122T120259Z.000007.log");
        check("x/capture", None, "x/capture.20261122T120259Z.000007");
        check(".hidden", None, ".hidden.20261122T120259Z.000007");
        check("a.", None, "a.20261122T120259Z.000007.");
        let streamed = Some(Compression::Zstd);
        check(
            "a.ndjson.zst",
            streamed,
            "a.20261122T120259Z.000007.ndjson.zst",
        );
        check("a.zst", streamed, "a.20261122T120259Z.000007.zst");
    }

    #[test]
    fn numbers_of_any_size_are_read_back() {
        for number in [0, 1, 999_999, 1_000_000, 999_999_999_999_999] {
            let path = names("a.bin", None).closed(WallTime::default(), number);
            let parsed = names("a.bin", None).parse(path.file_name().expect("it has a name"));
            assert_eq!(parsed.map(|name| name.order.1), Some(number));
        }
    }

    fn check(file_name: &str, expected: Option<(Option<Compression>, bool)>) {
        let parsed = names("dir/a.ndjson", None).parse(OsStr::new(file_name));
        let parsed = parsed.map(|name| (name.compression, name.is_unfinished));
        assert_eq!(parsed, expected, "{file_name}");
    }

    #[test]
    fn only_its_own_segments_are_known() {
        use Compression::{Gzip, Zstd};
        check("a.20261122T120259Z.000001.ndjson", Some((None, false)));
        check(
            "a.20261122T120259Z.000001.ndjson.zst",
            Some((Some(Zstd), false)),
        );
        check(
            "a.20261122T120259Z.000001.ndjson.gz",
            Some((Some(Gzip), false)),
        );
        check(
            "a.20261122T120259Z.000001.ndjson.zst.tmp",
            Some((Some(Zstd), true)),
        );
        for other in [
            "a.ndjson",
            "a.ndjson.zst",
            "ab.20261122T120259Z.000001.ndjson",
            "a.b.20261122T120259Z.000001.ndjson",
            "a.20261122T120259Z.1.ndjson",
            "a.20261122T120259Z.0000001.ndjson",
            "a.20261122T120259Z.1000000000000000.ndjson",
            "a.20261122T120259Z..ndjson",
            "a.20261122 120259Z.000001.ndjson",
            "a.20261122T120259.000001.ndjson",
            "a.20261122T120259Z.000001.log",
            "a.20261122T120259Z.000001.ndjson.bz2",
            "a.20261122T120259Z.000001.ndjson.tmp",
            "a.20261122T120259Z.000001.ndjson.zst.tmp.tmp",
            "a.20261122T120259Z.000001.ndjson.zst.bak",
            "a.20261122T120259Z.000001.ndjson.",
            "a.20261122T120259Z.000001.ndjsonzst",
            "a.20261122T120259Z.000001",
            "a.20261122T12025éZ.000001.ndjson",
            "a.",
            "",
        ] {
            check(other, None);
        }
    }
}
