//! What a capture looks like, byte for byte.
//!
//! `devices` holds the encoders to the files in `expected/`: what a device sent, in each format. A
//! change that is meant is blessed with `WIRETAPE_BLESS=1 cargo test --test golden`, and its diff is
//! read before it is committed. `samples` holds the reader and the encoder to captures that were not
//! written by them.

mod devices;
mod expected;
mod ledger;
mod samples;

use std::fs;
use std::path::PathBuf;

/// Where `name` lies in the project's folder of samples.
fn sample_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("samples")
        .join(name)
}

fn read_sample(name: &str) -> Vec<u8> {
    let path = sample_path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
