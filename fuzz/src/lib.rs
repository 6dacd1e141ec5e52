//! What several fuzz targets share. What each holds the program to stands at the head of its file in
//! `fuzz_targets`; README.md tells how to run them.

mod records;

pub use records::{Records, encode};
