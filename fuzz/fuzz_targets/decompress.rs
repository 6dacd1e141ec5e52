//! A file of any bytes, compressed or not, read as a capture that is to be played.
//!
//! * Nothing panics, it comes to an end, and no allocation is larger than zstd's largest window: what
//!   libFuzzer's limits in `run` see to.
//! * Read a second time, the same comes of it.
//! * Where flate2's own reader of gzip finds nothing wrong, the same comes of the plain bytes.

#![no_main]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use flate2::read::MultiGzDecoder;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use wiretape::codec::ndjson::{ReadError, Reader};
use wiretape::input::{Captures, Source};
use wiretape::notice::Notify;
use wiretape::record::Record;

/// A file without a name, so that nothing is left when the fuzzer ends, however it does.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let file = memfd_create("capture", MemfdFlags::CLOEXEC);
    File::from(file.expect("a file in memory"))
});

fuzz_target!(|bytes: &[u8]| {
    FILE.set_len(0).expect("memory");
    FILE.write_all_at(bytes, 0).expect("memory");
    let path = format!("/proc/self/fd/{}", FILE.as_raw_fd());
    let captures = Captures::open(&[Source::File((&path).into())], &Notify::new(drop));
    let mut captures = captures.expect("it can be opened");
    let first = read_captures(&mut captures);
    assert!(captures.consumed() <= bytes.len() as u64 && captures.torn() <= 1);
    captures.rewind();
    assert_eq!(read_captures(&mut captures), first);

    let mut plain = Vec::new();
    if MultiGzDecoder::new(bytes).read_to_end(&mut plain).is_ok() {
        let mut reader = Reader::new(path, &*plain);
        let expected = read(|| Ok(reader.next_record()?.map(Record::into_owned)));
        assert_eq!(first, expected);
    }
});

fn read_captures(captures: &mut Captures) -> Reading {
    read(|| match captures.advance(|| {})? {
        true => Ok(Some(captures.record()?.into_owned())),
        false => Ok(None),
    })
}

/// The records, and what ended them where that was not the end.
type Reading = (Vec<Record<'static>>, Option<String>);

fn read(mut next: impl FnMut() -> Result<Option<Record<'static>>, ReadError>) -> Reading {
    let mut records = Vec::new();
    loop {
        match next() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => return (records, None),
            Err(error) => return (records, Some(error.to_string())),
        }
    }
}
