//! Who is let in: accepted, admitted or refused; and what happens where that has its limits.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::IpAddr;

use mio::Token;

use super::FIRST_LISTENER;
use super::listen::{Accepted, Listener, Remedy};
use super::proxy::Relayed;
use super::stream::Stream;
use super::turn::{Engine, Kind};
use crate::capture::Slot;
use crate::capture::admission::Refusal;
use crate::capture::shutdown::Phase;
use crate::notice::{Notice, Patience, describe};
use crate::record::time::Clock;
use crate::record::{CloseReason, Endpoints};
use crate::relay::Side;

/// Peers let in a turn and listener, so that a storm of connections does not starve those that are open.
const ACCEPTS_A_TURN: usize = 64;

/// Peers looked at a turn and listener. To refuse one costs little, and who may come waits behind those who
/// may not.
const LOOKS_A_TURN: usize = 256;

/// Peers that are decided on in the next turn, at most: each has a descriptor of those that are kept back for
/// other things.
const UNDECIDED_MAX: usize = 16;

/// When accepting has failed for want of something, it is tried again after this long, if no
/// connection closes before.
const ACCEPT_RETRY_US: u64 = 100_000;

/// The listening sockets of a run, and what there is to say of those who come.
#[derive(Debug)]
pub(super) struct Door {
    listeners: Vec<Listener>,
    /// Tokens from here on are those of connections.
    first_conn: usize,
    /// The listener whose turn it is to be the first.
    first: usize,
    /// Accepting failed for want of something; microseconds since the start of the run.
    rests_until_us: Option<u64>,
    /// Those that would be one too many of their address. They are decided on in the next turn: the end of
    /// another that came before may be known to the kernel and not to the loop.
    undecided: VecDeque<Accepted>,
    /// Addresses that one was refused of in this turn: more of them need not be thought over.
    refused_now: Vec<IpAddr>,
    trouble: Patience,
    crowd: Patience,
    refusals: Refusals,
}

impl Door {
    /// Listeners that are registered by [`FIRST_LISTENER`] and their place.
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        Self {
            first_conn: FIRST_LISTENER + listeners.len(),
            listeners,
            first: 0,
            rests_until_us: None,
            undecided: VecDeque::new(),
            refused_now: Vec::new(),
            trouble: Patience::default(),
            crowd: Patience::default(),
            refusals: Refusals::default(),
        }
    }

    /// The first token that is a connection's.
    pub(super) fn first_conn(&self) -> usize {
        self.first_conn
    }

    /// The kernel has said something of this token, which is below [`Door::first_conn`].
    pub(super) fn latch(&mut self, token: Token) {
        // It may have been closed since the kernel spoke.
        if let Some(listener) = self.listeners.get_mut(token.0 - FIRST_LISTENER) {
            listener.latch();
        }
    }

    /// What the listeners are called.
    pub(super) fn names(&self) -> Vec<&str> {
        self.listeners.iter().map(Listener::name).collect()
    }

    /// Whether somebody may wait to be let in.
    pub(super) fn has_unaccepted(&self) -> bool {
        !self.undecided.is_empty() || self.listeners.iter().any(|listener| listener.may_accept)
    }

    /// Whether it rests, for want of something.
    pub(super) fn rests(&self) -> bool {
        self.rests_until_us.is_some()
    }

    /// Something has come free: there is no more reason to rest.
    pub(super) fn wake(&mut self) {
        self.rests_until_us = None;
    }

    /// When to look again.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        let refusals = self.refusals.deadline_us();
        self.rests_until_us.into_iter().chain(refusals).min()
    }

    /// Lets nobody new in; those who wait in the kernel's queue still come.
    pub(super) fn quiet(&mut self) {
        self.wake();
        for listener in &mut self.listeners {
            listener.quiet();
        }
    }

    /// Listens no more. Whoever waits is reset.
    fn close(&mut self) {
        self.listeners.clear();
        self.undecided.drain(..).for_each(Accepted::refuse);
    }

    fn was_refused_now(&self, ip: Option<IpAddr>) -> bool {
        ip.is_some_and(|ip| self.refused_now.contains(&ip))
    }

    fn rest(&mut self, now_us: u64) {
        self.rests_until_us = Some(now_us + ACCEPT_RETRY_US);
    }
}

/// Refusals, said at once and then once in a while.
#[derive(Debug, Default)]
struct Refusals {
    unsaid: u64,
    last: Option<(IpAddr, Refusal)>,
    patience: Patience,
}

impl Refusals {
    fn handle_refused(&mut self, peer: IpAddr, why: Refusal) {
        self.unsaid += 1;
        self.last = Some((peer, why));
    }

    /// What is to be said now, with so many in all.
    fn poll(&mut self, total: u64, now_us: u64) -> Option<Notice> {
        let (peer, why) = self.last?;
        if self.unsaid == 0 || !self.patience.is_to_be_said(now_us) {
            return None;
        }
        Some(Notice::Refused {
            count: mem::take(&mut self.unsaid),
            total,
            peer,
            why,
        })
    }

    fn deadline_us(&self) -> Option<u64> {
        (self.unsaid > 0).then(|| self.patience.due_us())
    }
}

impl Engine {
    /// Lets in who waits, so many a turn.
    pub(super) fn accept(&mut self) {
        let now_us = self.clock.now().elapsed_us;
        self.tell_refused(now_us);
        let door = &mut self.door;
        door.rests_until_us = door.rests_until_us.filter(|&until| now_us < until);
        // Each in its turn is the first: where connections come free one by one, all are served.
        door.first = (door.first + 1) % door.listeners.len().max(1);
        self.decide();
        for nth in 0..self.door.listeners.len() {
            let nth = (self.door.first + nth) % self.door.listeners.len();
            self.accept_from(nth);
        }
        if self.recorder.capture.has_opened_all() {
            self.door.close();
        }
        self.tell_crowd(now_us);
    }

    fn accept_from(&mut self, nth: usize) {
        let mut let_in = 0;
        for _ in 0..LOOKS_A_TURN {
            let is_over = let_in == ACCEPTS_A_TURN || !self.door.listeners[nth].may_accept;
            if is_over || !self.accepts() || !self.recorder.make_room(None) {
                return;
            }
            let listener = &mut self.door.listeners[nth];
            match listener.accept() {
                Ok(accepted) => let_in += usize::from(self.receive(accepted)),
                Err(error) => match listener.remedy(&error) {
                    Remedy::Wait => listener.may_accept = false,
                    Remedy::Next => {}
                    // The kernel asks for a descriptor before it looks whether anybody waits.
                    Remedy::Rest if !listener.has_waiting() => listener.may_accept = false,
                    Remedy::Rest => self.rest_accepting(error),
                },
            }
        }
    }

    /// Whether one more may be accepted now.
    fn accepts(&self) -> bool {
        let has_place = self.door.undecided.len() < UNDECIDED_MAX;
        self.recorder.capture.may_open() && !self.door.rests() && has_place
    }

    /// Whether the next turn lets somebody in, if there is room to record that.
    pub(super) fn has_callers(&self) -> bool {
        let may_decide = !self.door.undecided.is_empty() && self.recorder.capture.may_open();
        may_decide || self.accepts() && self.door.has_unaccepted()
    }

    fn rest_accepting(&mut self, error: io::Error) {
        let now_us = self.clock.now().elapsed_us;
        self.door.rest(now_us);
        if self.door.trouble.is_to_be_said(now_us) {
            self.notify.say(Notice::AcceptFailed(error));
        }
    }

    /// What becomes of one who was accepted; whether it is let in.
    fn receive(&mut self, accepted: Accepted) -> bool {
        match self.recorder.capture.admit(accepted.ip()) {
            Ok(()) => {
                self.open(accepted);
                return true;
            }
            Err(Refusal::TooMany) if !self.door.was_refused_now(accepted.ip()) => {
                self.door.undecided.push_back(accepted);
            }
            Err(why) => self.refuse(accepted, why),
        }
        false
    }

    /// What becomes of those that are undecided. Whatever the kernel knew of others when they came is known by
    /// now; of those that are let in here, it is asked.
    fn decide(&mut self) {
        self.door.refused_now.clear();
        while !self.door.undecided.is_empty()
            && self.recorder.capture.may_open()
            && self.recorder.make_room(None)
        {
            let Some(accepted) = self.door.undecided.pop_front() else {
                return;
            };
            match self.recorder.capture.admit(accepted.ip()) {
                Ok(()) => {
                    let has_ended = accepted.has_ended();
                    if let Some(slot) = self.open(accepted).filter(|_| has_ended) {
                        self.handle_ending(slot);
                    }
                }
                Err(why) => {
                    self.door.refused_now.extend(accepted.ip());
                    self.refuse(accepted, why);
                }
            }
        }
    }

    /// The kernel knows that a peer has ended its direction. One that only speaks counts no more among those
    /// of its address; a client may still be answered.
    pub(super) fn handle_ending(&mut self, slot: Slot) {
        if self.proxy.is_none() {
            self.recorder.capture.handle_ending(slot);
        }
    }

    /// Sends one away before anything is read of it.
    fn refuse(&mut self, accepted: Accepted, why: Refusal) {
        // Only those who have an address are refused.
        if let Some(ip) = accepted.ip() {
            self.door.refusals.handle_refused(ip.to_canonical(), why);
        }
        accepted.refuse();
        self.recorder.capture.handle_refused();
    }

    /// Takes one in; its place, unless nothing can be heard of it.
    fn open(&mut self, accepted: Accepted) -> Option<Slot> {
        let now = self.clock.now();
        let target = self.proxy.as_ref().map(|proxy| proxy.name().into());
        let endpoints = Endpoints {
            conn: self.recorder.capture.next_conn(),
            peer: accepted.peer().into(),
            local: accepted.local().into(),
            target,
        };
        let id = endpoints.conn;
        let capture = &mut self.recorder.capture;
        let slot = capture.handle_open(endpoints, accepted.ip(), now);
        let mut stream = Stream::new(accepted.into_socket());
        let writes = self.proxy.is_some();
        let token = self.token(slot, Side::Peer);
        if let Err(error) = stream.register(self.poll.registry(), token, writes) {
            let reason = CloseReason::Error(describe(&error).into());
            self.recorder.capture.handle_close(slot, reason, now);
            self.rest_accepting(error);
            return None;
        }
        let kind = match self.proxy {
            None => Kind::Source(stream),
            Some(_) => Kind::Relayed(Box::new(Relayed::new(stream))),
        };
        self.insert(slot, id, kind);
        if self.recorder.capture.shutdown.phase() != Phase::Running {
            self.retire(slot, CloseReason::Shutdown);
        } else if self.proxy.is_some() {
            self.dial_target(slot, id);
        }
        Some(slot)
    }

    // --- what is said ----------------------------------------------------------------------------

    /// Says that peers wait because as many are here as may be, where that is so.
    fn tell_crowd(&mut self, now_us: u64) {
        let capture = &self.recorder.capture;
        let is_full = !capture.may_open() && capture.shutdown.phase() == Phase::Running;
        let door = &mut self.door;
        if !is_full || !door.crowd.is_due(now_us) {
            return;
        }
        for listener in &mut door.listeners {
            // The kernel tells of whoever comes after this.
            listener.may_accept = listener.may_accept && listener.has_waiting();
        }
        if door.has_unaccepted() && door.crowd.is_to_be_said(now_us) {
            let open = capture.totals().open;
            self.notify.say(Notice::Crowded { open });
        }
    }

    fn tell_refused(&mut self, now_us: u64) {
        let total = self.recorder.capture.totals().refused;
        if let Some(notice) = self.door.refusals.poll(total, now_us) {
            self.notify.say(notice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::NOTICE_INTERVAL_US;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// Refusals at these times, in milliseconds, and what is said of how many at each.
    fn check(script: &[(u64, u64, Option<u64>)]) {
        let mut refusals = Refusals::default();
        let mut total = 0;
        for &(at_ms, refused, expected) in script {
            for _ in 0..refused {
                total += 1;
                refusals.handle_refused(PEER, Refusal::Denied);
            }
            let said = refusals
                .poll(total, at_ms * 1000)
                .map(|notice| match notice {
                    Notice::Refused { count, .. } => count,
                    other => panic!("{other:?}"),
                });
            assert_eq!(said, expected, "at {at_ms} ms");
        }
    }

    #[test]
    fn refusals_are_said_at_once_and_then_once_in_a_while() {
        check(&[
            (0, 0, None),
            (10, 1, Some(1)),
            (20, 1000, None),
            (5_000, 1000, None),
            (5_010, 0, Some(2000)),
            (60_000, 0, None),
            (60_001, 3, Some(3)),
        ]);
    }

    #[test]
    fn what_was_not_said_is_said_in_its_time_though_nobody_comes() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.deadline_us(), None);
        refusals.handle_refused(PEER, Refusal::TooMany);
        assert!(refusals.poll(1, 7).is_some());
        assert_eq!(refusals.deadline_us(), None);
        refusals.handle_refused(PEER, Refusal::TooMany);
        assert_eq!(refusals.deadline_us(), Some(7 + NOTICE_INTERVAL_US));
    }
}
