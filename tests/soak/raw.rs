//! Raw outputs: one with the bytes of all, and files of one connection each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use wiretape::record::Direction;

use crate::bytes::{NAME_LEN, Stream};
use crate::capture::{Capture, Run, files_by_stem, files_of};
use crate::plan::{MIXED, SEPARATE};

/// Hands out what is in a file, decompressed, piece by piece.
fn read(path: &Path, mut each: impl FnMut(&[u8])) {
    let file = File::open(path).expect("it can be opened");
    let mut plain: Box<dyn Read> = match path.extension().and_then(|found| found.to_str()) {
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file).expect("there is memory")),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut buffer = vec![0; 1 << 16];
    loop {
        match plain.read(&mut buffer).expect("it is whole") {
            0 => return,
            len => each(&buffer[..len]),
        }
    }
}

/// The bytes of all connections are those of the capture, in its order.
pub fn check_mixed(folder: &Path, capture: &Capture) {
    let mut hasher = Hasher::new();
    for path in files_of(folder, MIXED) {
        read(&path, |piece| hasher.update(piece));
    }
    assert_eq!(hasher.finalize(), capture.payload_crc32, "{MIXED}");
}

/// The files of a connection hold what its client sent; and, if the run came to a good end, as much
/// of it as the capture.
pub fn check_separate(seed: u64, folder: &Path, capture: &Capture) {
    let folder = folder.join(SEPARATE);
    if !folder.exists() {
        // Nothing came, or all of it was lost.
        let is_empty = |run: &Run| !run.is_ended || run.conns.is_empty();
        return assert!(capture.runs.iter().all(is_empty));
    }
    let lens: BTreeMap<String, u64> = files_by_stem(&folder)
        .into_iter()
        .map(|(connection, files)| {
            let len = check_one(seed, &connection, &files);
            (connection, len)
        })
        .collect();
    for run in capture.runs.iter().filter(|run| run.is_ended) {
        for (conn, recorded) in &run.conns {
            let [came, _] = recorded.lens();
            let connection = format!("{}-{conn}", run.id);
            let len = lens.get(&connection).copied().unwrap_or_default();
            assert_eq!(len, came, "{connection}");
        }
    }
}

/// Checks the files of a connection, and gives how much is in them.
fn check_one(seed: u64, connection: &str, files: &[PathBuf]) -> u64 {
    let (mut front, mut follower) = (Vec::new(), None);
    for path in files {
        read(path, |piece| {
            let mut piece = piece;
            if follower.is_none() {
                let (these, behind) = piece.split_at(piece.len().min(NAME_LEN - front.len()));
                front.extend_from_slice(these);
                piece = behind;
            }
            if follower.is_none() && front.len() == NAME_LEN {
                let named = Stream::named(&front);
                let (client, way) = named.unwrap_or_else(|| panic!("{connection}: {front:?}"));
                assert_eq!(way, Direction::In, "{connection}");
                let mut begun = Stream::new(seed, client, way).follow();
                begun.follow(&front);
                follower = Some(begun);
            }
            if let Some(follower) = &mut follower {
                follower.follow(piece);
            }
        });
    }
    match follower {
        Some(follower) => follower.at(),
        None => front.len() as u64,
    }
}
