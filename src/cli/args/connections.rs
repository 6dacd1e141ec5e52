//! Flags of the subcommands that have connections: how they are made and accepted, when they end, and
//! how long all of it lasts.

// The comments here are the help text, where brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::time::Duration;

use ipnet::IpNet;

use crate::cli::values::{duration, interval, keepalive};
use crate::engine::address::network;
use crate::engine::keepalive::Keepalive;

/// How connections are accepted.
#[derive(Debug, clap::Args)]
pub struct AcceptArgs {
    /// Connections open at once; more wait to be accepted [default: what the open-file limit allows]
    ///
    /// More than the open-file limit allows are never open: some descriptors are kept for outputs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = CONNECTIONS)]
    pub max_conns: Option<u32>,

    /// Connections of one IP address open at once; more are refused
    ///
    /// Who is refused is reset before anything is read. Peers of a Unix socket have no address.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = CONNECTIONS)]
    pub max_conns_per_ip: Option<u32>,

    /// Accept only peers of these networks; several by commas, or by giving it again
    ///
    /// 10.0.0.0/8, 2001:db8::/32, or one address. An IPv4 peer is matched as IPv4, also where it has
    /// connected to an IPv6 socket. All others are refused: reset before anything is read.
    #[arg(long, value_parser = network, value_delimiter = ',', value_name = "CIDR", help_heading = CONNECTIONS)]
    pub allow: Vec<IpNet>,

    /// Refuse peers of these networks, whatever --allow says
    #[arg(long, value_parser = network, value_delimiter = ',', value_name = "CIDR", help_heading = CONNECTIONS)]
    pub deny: Vec<IpNet>,
}

/// How long a run lasts, and how often it is told how things stand.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Open N connections and no more, and end when all are closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub exit_after: Option<u64>,

    /// End after this long, as if told to stop
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub run_for: Option<Duration>,

    /// Say how things stand on standard error, this often; on a terminal in one line that changes
    ///
    /// Connections, bytes and records a second since the last time, how full the buffer is, and how far
    /// each output has come. USR1 asks for the same once.
    #[arg(long, value_parser = interval, value_name = "DURATION")]
    pub stats: Option<Duration>,
}

/// How connections are made.
#[derive(Debug, clap::Args)]
pub struct DialArgs {
    /// How long to look a name up and try its addresses before that has failed
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "DURATION", help_heading = CONNECTIONS)]
    pub connect_timeout: Duration,
}

/// When a connection is closed.
#[derive(Debug, clap::Args)]
pub struct LimitArgs {
    /// Close a connection on which nothing arrives for this long
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = CONNECTIONS)]
    pub idle_timeout: Option<Duration>,

    /// Close a connection that is older than this
    #[arg(long, value_parser = duration, value_name = "DURATION", help_heading = CONNECTIONS)]
    pub max_age: Option<Duration>,

    /// Ask a peer that is silent for this long whether it is still there (TCP keepalive); 0 never does
    ///
    /// It is asked four times, a quarter of that time apart, but a second at least. One that does not
    /// answer is gone then.
    #[arg(long, value_parser = keepalive, default_value = "60s", value_name = "DURATION", help_heading = CONNECTIONS)]
    pub keepalive: Keepalive,
}

const CONNECTIONS: &str = "Connections";
