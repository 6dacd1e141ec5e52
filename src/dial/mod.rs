//! Dialling, as far as it needs neither sockets nor a clock: which of a name's addresses is tried when
//! ([`race`]), and when it is tried again where none answered or the connection was lost ([`backoff`]).

pub mod backoff;
pub mod race;
