//! map to come
#![forbid(unsafe_code)]
pub mod capture;
pub mod cli;
pub mod codec;
pub mod engine;
pub mod notice;
pub mod output;
pub mod record;
