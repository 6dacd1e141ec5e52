//! What a seed chooses once for a run: how it is configured, and what kind of a world it is in.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fastrand::Rng;
use wiretape::capture::{Config, READ_MIN, admission};
use wiretape::engine::Pacing;
use wiretape::engine::lead::Length;
use wiretape::engine::router::Allotment;
use wiretape::record::Framing;
use wiretape::record::batch::BatchPool;
use wiretape::record::time::micros;

use crate::peer::{Kind, Peer};

/// Smaller than the real one, so that batches fill up within a few steps.
pub const ARENA: usize = 16 * 1024;

/// The address that is denied, where one is.
pub const DENIED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Where peers come from: one of them by an IPv6 socket, as which it is no other.
pub const ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
    IpAddr::V6(Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped()),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
    DENIED,
];

fn admission(rng: &mut Rng) -> admission::Config {
    let denied = rng.bool().then(|| DENIED.into());
    admission::Config {
        allow: Vec::new(),
        deny: denied.into_iter().collect(),
        max_conns_per_ip: rng.bool().then(|| rng.usize(1..4)),
    }
}

/// How the run is to end, once it has been running for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is told to, and everything moves.
    Patient,
    /// It is told to, and an output stands still, or what is done for closed files.
    Frozen,
    /// It is told to once more, though everything moves.
    Hurried,
    /// Nobody is left to be captured, and nobody comes.
    ByItself,
}

#[derive(Debug)]
pub struct Choices {
    pub config: Config,
    pub pacing: Pacing,
    pub allotment: Allotment,
    /// By output: whether it may miss records.
    pub may_miss: Vec<bool>,
    /// What connections are.
    pub kinds: Vec<Kind>,
    pub ending: Ending,
    /// Peers send far more than the outputs take.
    pub is_flood: bool,
    /// Of 100 things that happen, so many are new connections.
    pub calls: u8,
    /// Of 100 things that happen, so many are steps of workers.
    pub diligence: u8,
    /// Of 100 things that happen, so many are stalls, and their ends.
    pub stalls: u8,
    /// Outputs fail, files are torn, nobody can be accepted.
    pub has_trouble: bool,
    /// Time passes in steps of microseconds, as in a loop that always has something to do.
    pub is_fine: bool,
    /// Some records of the first output go through the capture format and back.
    pub reads_back: bool,
}

impl Choices {
    pub fn new(rng: &mut Rng) -> Self {
        let framing = match rng.u8(0..3) {
            0 => Framing::Chunk,
            1 => Framing::Line {
                max: rng.usize(1..64),
            },
            _ => Framing::Line {
                max: rng.usize(64..(ARENA - READ_MIN) / 2),
            },
        };
        let mut maybe = |from: u64, to: u64| {
            let chosen = rng.bool();
            chosen.then(|| Duration::from_micros(rng.u64(from..to)))
        };
        let (idle_timeout, max_age) = (maybe(1_000, 200_000), maybe(10_000, 500_000));
        let carry_limit = match rng.bool() {
            true => rng.usize(0..4_096),
            false => usize::MAX,
        };
        let config = Config {
            max_conns: rng.usize(1..12),
            admission: admission(rng),
            exit_after: (rng.u8(0..8) == 0).then(|| rng.u64(1..20)),
            run_for: (rng.u8(0..8) == 0).then(|| Duration::from_micros(rng.u64(1..3_000_000))),
            idle_timeout,
            max_age,
            drain: Duration::from_micros(rng.u64(1..600_000)),
            carry_limit,
            ..Config::new(framing)
        };
        let pacing = Pacing {
            time: Duration::from_micros(*rng.choice(&[0, 5_000, 1_000_000]).expect("some")),
            is_for_each: rng.bool(),
            lead: Length(*rng.choice(&[1, 2, 4, usize::MAX]).expect("some")),
        };
        let missing_of_8 = rng.choice([0, 4, 4, 8]).expect("some");
        let outputs = match rng.u8(0..16) {
            0 => 0,
            _ => rng.usize(1..4),
        };
        let may_miss: Vec<_> = (0..outputs).map(|_| rng.u8(0..8) < missing_of_8).collect();
        let missing = may_miss.iter().filter(|&&may_miss| may_miss).count();
        let buffer = rng.usize(0..8 * BatchPool::batch_cost(ARENA));
        let kinds = match rng.u8(0..8) {
            0..4 => vec![rng.choice(Kind::ALL).expect("some")],
            _ => Kind::ALL.to_vec(),
        };
        let endings = [
            Ending::Patient,
            Ending::Patient,
            Ending::Frozen,
            Ending::Hurried,
            Ending::ByItself,
        ];
        Self {
            config,
            pacing,
            allotment: Allotment::of(buffer, ARENA, missing),
            may_miss,
            kinds,
            ending: rng.choice(endings).expect("some"),
            is_flood: framing == Framing::Chunk && rng.u8(0..4) == 0,
            calls: rng.choice([1, 6]).expect("some"),
            diligence: rng.choice([3, 15, 40]).expect("some"),
            stalls: rng.choice([0, 2, 6]).expect("some"),
            has_trouble: rng.u8(0..4) == 0,
            is_fine: rng.bool(),
            reads_back: rng.u8(0..4) == 0,
        }
    }

    /// When the peer is idle for too long, and too old.
    pub fn dues_us(&self, peer: &Peer) -> [Option<u64>; 2] {
        let due = |since_us: u64, limit: Option<Duration>| Some(since_us + micros(limit?));
        [
            due(peer.active_us, self.config.idle_timeout),
            due(peer.opened_us, self.config.max_age),
        ]
    }
}
