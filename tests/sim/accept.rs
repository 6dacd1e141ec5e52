//! Who is let in, in the simulation: as the engine has it (`engine/accept.rs`), and what the model says of it.

use wiretape::capture::Slot;
use wiretape::capture::admission::Refusal;
use wiretape::capture::shutdown::Phase;
use wiretape::record::time::Clock;
use wiretape::record::{CloseReason, Endpoints};

use crate::choices::DENIED;
use crate::peer::{Kind, Peer};
use crate::world::World;

/// Accepts a turn.
const ACCEPTS_A_TURN: usize = 4;

/// Peers that are decided on in the next turn.
const UNDECIDED_MAX: usize = 2;

/// When accepting has failed it is tried again after this long.
const ACCEPT_RETRY_US: u64 = 100_000;

impl World<'_> {
    pub fn accept(&mut self) {
        let now_us = self.clock.now_us();
        let has_rested = self.accept_rests_until.take_if(|until| *until <= now_us);
        let somebody_waits = !self.kernel.backlog.is_empty();
        self.seen.see_if(
            has_rested.is_some() && somebody_waits,
            "accepting: is tried again by the clock",
        );
        self.decide();
        for _ in 0..ACCEPTS_A_TURN {
            if !self.recorder.capture.may_open() {
                self.seen.see("accepting: nobody more is let in");
                break;
            }
            if !self.accepts() || !self.may_accept {
                break;
            }
            if !self.make_room(None) {
                return;
            }
            if self.kernel.shortage > 0 {
                self.kernel.shortage -= 1;
                self.seen.see("accepting: fails");
                self.rest_accepting();
            } else if let Some(peer) = self.kernel.backlog.pop_front() {
                self.receive(peer);
            } else {
                self.may_accept = false;
            }
        }
        self.close_if_all_came();
    }

    fn accepts(&self) -> bool {
        let has_place = self.undecided.len() < UNDECIDED_MAX;
        self.recorder.capture.may_open() && self.accept_rests_until.is_none() && has_place
    }

    /// Whether the next turn lets somebody in.
    pub fn has_callers(&self) -> bool {
        let may_decide = !self.undecided.is_empty() && self.recorder.capture.may_open();
        may_decide || self.accepts() && self.has_unaccepted()
    }

    /// Whether somebody may wait to be let in.
    pub fn has_unaccepted(&self) -> bool {
        !self.undecided.is_empty() || self.may_accept
    }

    fn rest_accepting(&mut self) {
        self.accept_rests_until = Some(self.clock.now_us() + ACCEPT_RETRY_US);
    }

    /// What becomes of one who was accepted.
    fn receive(&mut self, peer: Peer) {
        match self.admit(&peer) {
            Ok(()) => {
                self.open(peer);
            }
            Err(Refusal::TooMany) if !self.refused_now.contains(&peer.ip) => {
                self.undecided.push_back(peer);
            }
            Err(_) => self.refuse(),
        }
    }

    /// What becomes of those that are undecided.
    fn decide(&mut self) {
        self.refused_now.clear();
        while !self.undecided.is_empty() && self.recorder.capture.may_open() {
            if !self.make_room(None) {
                return;
            }
            let peer = self.undecided.pop_front().expect("there is one");
            match self.admit(&peer) {
                Ok(()) => {
                    self.seen.see("admission: not one too many after all");
                    let has_ended = peer.kind == Kind::Source && peer.has_end();
                    if let Some(slot) = self.open(peer).filter(|_| has_ended) {
                        self.seen.see("admission: ended before it was let in");
                        self.handle_ending(slot);
                    }
                }
                Err(_) => {
                    self.refused_now.push(peer.ip);
                    self.refuse();
                }
            }
        }
    }

    /// The kernel knows that a peer that only speaks has ended.
    pub fn handle_ending(&mut self, slot: Slot) {
        let peer = self.peers.get_mut(&slot).expect("it is open");
        let was_counted = std::mem::take(&mut peer.is_counted);
        let is_unread = was_counted && !peer.is_read();
        self.seen.see_if(is_unread, "admission: ended, and unread");
        self.recorder.capture.handle_ending(slot);
    }

    /// What the core says, which is what the model says.
    fn admit(&mut self, peer: &Peer) -> Result<(), Refusal> {
        let ip = peer.ip.to_canonical();
        let rules = &self.choices.config.admission;
        let here = self.peers.values();
        let here = here.filter(|other| other.is_counted && other.ip.to_canonical() == ip);
        let here = here.count();
        let expected = match rules.max_conns_per_ip {
            _ if !rules.deny.is_empty() && ip == DENIED => Err(Refusal::Denied),
            Some(most) if here >= most => Err(Refusal::TooMany),
            _ => Ok(()),
        };
        assert_eq!(self.recorder.capture.admit(Some(peer.ip)), expected);
        expected
    }

    fn refuse(&mut self) {
        self.seen.see("admission: refused");
        self.recorder.capture.handle_refused();
        self.transcript.totals.refused += 1;
        self.check_totals();
    }

    /// Once as many have come as ever are to, nobody listens any more.
    fn close_if_all_came(&mut self) {
        if self.recorder.capture.has_opened_all() {
            let most = self.choices.config.exit_after;
            assert_eq!(Some(self.transcript.totals.opened), most);
            self.seen.see("accepting: the last one has come");
            self.kernel.is_quiet = true;
            self.kernel.backlog.clear();
            self.may_accept = false;
            self.undecided.clear();
        }
    }

    fn open(&mut self, mut peer: Peer) -> Option<Slot> {
        let now = self.clock.now();
        let endpoints = Endpoints {
            conn: self.recorder.capture.next_conn(),
            peer: peer.name.as_str().into(),
            local: "192.0.2.1:1234".into(),
            target: (peer.kind == Kind::Relayed).then(|| "192.0.2.2:80".into()),
        };
        peer.id = endpoints.conn;
        peer.is_counted = true;
        peer.opened_us = now.elapsed_us;
        peer.active_us = now.elapsed_us;
        self.transcript.handle_open(endpoints.clone(), now);
        assert!((self.transcript.totals.open as usize) <= self.choices.config.max_conns);
        let slot = self.recorder.capture.next_slot();
        let capture = &mut self.recorder.capture;
        assert_eq!(capture.handle_open(endpoints, Some(peer.ip), now), slot);
        self.seen
            .see_if(!peer.is_read(), "conn: bytes before it is accepted");
        assert!(self.peers.insert(slot, peer).is_none(), "a slot twice");
        self.check_totals();
        if self.kernel.cannot_watch > 0 {
            self.kernel.cannot_watch -= 1;
            self.seen.see("accepting: the new one cannot be watched");
            let reason = CloseReason::Error("no space left on device".into());
            self.handle_close(slot, reason);
            self.rest_accepting();
            return None;
        }
        self.list(slot);
        if self.recorder.capture.shutdown.phase() != Phase::Running {
            self.seen
                .see("accepting: somebody was in the queue when it was to stop");
            self.retire(slot, CloseReason::Shutdown);
        }
        Some(slot)
    }
}
