//! map to come
#![forbid(unsafe_code)]
pub mod codec;
pub mod record;
