//! The server behind a proxy, or what a replay is sent to: each connection that names itself is answered
//! with the stream of that name, in a manner of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use wiretape::record::Direction;

use crate::bytes::Stream;
use crate::talk::{Manner, Stage, Talk, Told, hear_name};
use crate::tape::eventually;

/// A connection, and who has made it.
type Served = (SocketAddr, JoinHandle<Option<Told>>);

#[derive(Debug)]
pub struct Server {
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    served: Mutex<Vec<Served>>,
    is_closed: AtomicBool,
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, Vec<Served>> {
        self.served.lock().expect("nobody fails while holding it")
    }
}

impl Server {
    /// Answers those of the round of `seed`.
    pub fn open(seed: u64, stage: &Arc<Stage>, manner: fn(&mut fastrand::Rng) -> Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one").to_string();
        let shared = Arc::new(Shared::default());
        let (stage, own) = (Arc::clone(stage), Arc::clone(&shared));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if own.is_closed.load(SeqCst) {
                    return;
                }
                // Who has reset the connection already has no name any more.
                let Ok(peer) = socket.peer_addr() else {
                    continue;
                };
                let stage = Arc::clone(&stage);
                let talk = thread::spawn(move || answer(seed, &stage, socket, manner));
                own.served().push((peer, talk));
            }
        });
        Self { address, shared }
    }

    /// What all connections that were made so far have come to, those that did not name themselves left
    /// out.
    pub fn told(&self) -> Vec<Told> {
        // They are accepted in their order: once this one is, all are.
        let last = TcpStream::connect(&self.address).expect("it listens");
        let name = last.local_addr().expect("it is connected");
        eventually("all are accepted", || {
            let served = self.shared.served();
            let is_last = |(peer, _): &Served| *peer == name;
            served.iter().any(is_last).then_some(())
        });
        drop(last);
        let served = std::mem::take(&mut *self.shared.served());
        let join = |(_, talk): Served| talk.join().expect("what a talk fails by is said");
        served.into_iter().filter_map(join).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, SeqCst);
        // It looks up when somebody comes.
        let _ = TcpStream::connect(&self.address);
    }
}

fn answer(
    seed: u64,
    stage: &Stage,
    socket: TcpStream,
    manner: fn(&mut fastrand::Rng) -> Manner,
) -> Option<Told> {
    let (id, name) = hear_name(&socket)?;
    let [says, hears] = [Direction::Out, Direction::In].map(|way| Stream::new(seed, id, way));
    let mut random = fastrand::Rng::with_seed(seed ^ u64::from(id));
    let talk = Talk::new(stage, socket, says, hears).behind(&name);
    Some(talk.run(id, manner(&mut random)))
}
