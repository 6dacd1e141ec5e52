//! What a round has captured, sent again: what arrives is what was recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use wiretape::record::CloseReason;

use crate::bytes::NAME_LEN;
use crate::capture::{Capture, Recorded};
use crate::server::Server;
use crate::talk::{Flow, Manner, Stage, Told};
use crate::tape::{Tape, wiretape};

/// Bytes that a round may have captured to be sent again.
const MAX_BYTES: u64 = 64 << 20;

/// Whether the capture can be played: what is missing cannot be sent.
pub fn is_possible(capture: &Capture) -> bool {
    let is_whole = capture.runs.iter().all(|run| run.missing.0 == 0);
    is_whole && capture.bytes() <= MAX_BYTES
}

/// Answers a little when all has been heard.
fn manner(random: &mut fastrand::Rng) -> Manner {
    Manner {
        len: random.u64(0..5_000),
        ..Manner::short(random)
    }
}

/// Plays it as fast as it goes.
pub fn check(seed: u64, folder: &Path, capture: &Capture) {
    let stage = Arc::new(Stage::new(Flow::UNBOUNDED));
    let server = Server::open(seed, &stage, manner);
    let mut command = wiretape();
    command
        .arg("replay")
        .args(&capture.files)
        .arg(&server.address);
    command.args(["--speed", "max", "-o", "answers.ndjson"]);
    command.current_dir(folder).stdout(Stdio::null());
    let ended = Tape::spawn(command).wait();
    let expected = if capture.torn > 0 { 3 } else { 0 };
    assert_eq!(ended.status, Some(expected), "{:?}", ended.said);
    let arrived: BTreeMap<u32, Told> = (server.told().into_iter())
        .map(|told| (told.id, told))
        .collect();
    let mut named = 0;
    for recorded in capture.runs.iter().flat_map(|run| run.conns.values()) {
        let [sent, _] = recorded.lens();
        if sent < NAME_LEN as u64 {
            continue;
        }
        let told = arrived.get(&recorded.client);
        named += usize::from(told.is_some());
        check_session(recorded, sent, told);
    }
    assert_eq!(named, arrived.len(), "somebody came who was not recorded");
}

fn check_session(recorded: &Recorded, sent: u64, told: Option<&Told>) {
    let reason = recorded.close.as_ref().map(|close| &close.reason);
    if reason == Some(&CloseReason::Reset) {
        // Nobody knows how much of it the target has read.
        return assert!(told.is_none_or(|told| told.heard <= sent), "{told:?}");
    }
    let told = told.unwrap_or_else(|| panic!("not replayed: {recorded:?}"));
    assert_eq!((told.heard, told.heard_end), (sent, true), "{recorded:?}");
}
