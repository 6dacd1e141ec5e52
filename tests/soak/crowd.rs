//! Clients by the dozen: each worker is one client after another, every one of them with an address of
//! its own, so that a capture tells by the peer whose connection it was.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};
use wiretape::record::Direction;

use crate::bytes::Stream;
use crate::talk::{Manner, Stage, Talk, Told};

/// Clients at once at most, whatever a round chooses.
pub const MAX_CLIENTS: usize = 200;

/// The first client of a round comes from 127.1.0.0.
const FIRST: u32 = u32::from_be_bytes([127, 1, 0, 0]);

/// The client that has this address.
pub fn client_of(peer: &str) -> u32 {
    let peer: SocketAddr = peer.parse().expect("a peer is an address");
    let SocketAddr::V4(peer) = peer else {
        panic!("a peer that is not ours: {peer}");
    };
    u32::from(*peer.ip()) - FIRST
}

/// Connects as this client.
fn connect(id: u32, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let own = SocketAddr::from((Ipv4Addr::from(FIRST + id), 0));
    socket.bind(&own.into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Numbers of clients, each used once in a round.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<AtomicU32>);

impl Ids {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, SeqCst)
    }

    pub fn count(&self) -> u32 {
        self.0.load(SeqCst)
    }
}

/// Who the clients of a crowd are.
#[derive(Clone, Debug)]
pub struct Casting {
    pub seed: u64,
    pub ids: Ids,
    pub workers: usize,
    pub manner: fn(&mut fastrand::Rng) -> Manner,
    /// Clients in all, at most.
    pub clients: u32,
}

/// Clients that are at it.
#[derive(Debug)]
pub struct Crowd {
    workers: Vec<JoinHandle<Vec<Told>>>,
}

impl Crowd {
    pub fn gather(stage: &Arc<Stage>, casting: &Casting, address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("it listens on TCP");
        let last = casting.ids.count() + casting.clients;
        let workers = 0..casting.workers.min(MAX_CLIENTS) as u64;
        let work = |nth| {
            let (stage, casting) = (Arc::clone(stage), casting.clone());
            thread::spawn(move || {
                let seed = casting.seed ^ nth << 40 ^ u64::from(last);
                let mut random = fastrand::Rng::with_seed(seed);
                let mut told = Vec::new();
                while !stage.is_over.load(SeqCst) {
                    let id = casting.ids.next();
                    if id >= last {
                        break;
                    }
                    match connect(id, address) {
                        Ok(socket) => {
                            let [says, hears] = [Direction::In, Direction::Out]
                                .map(|way| Stream::new(casting.seed, id, way));
                            let talk = Talk::new(&stage, socket, says, hears);
                            told.push(talk.run(id, (casting.manner)(&mut random)));
                        }
                        // Nobody listens any more.
                        Err(_) if stage.is_ending.load(SeqCst) => break,
                        Err(error) => panic!("client {id} cannot connect: {error}"),
                    }
                }
                told
            })
        };
        Self {
            workers: workers.map(work).collect(),
        }
    }

    /// Whether all clients that were to come have been.
    pub fn is_done(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Waits until everybody has come to an end.
    pub fn disperse(self) -> Vec<Told> {
        let join = |worker: JoinHandle<_>| worker.join().expect("what a worker fails by is said");
        self.workers.into_iter().flat_map(join).collect()
    }
}
