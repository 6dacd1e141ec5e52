//! One end in the simulation: what its application does, and the socket that this side's kernel has
//! for it.

use fastrand::Rng;

/// An application that reads all that comes.
const INSATIABLE: usize = usize::MAX;

/// Of the bytes that the application sends, `taken` are in the kernel or beyond, and `recorded` have
/// been read. Of those that are for it, `written` were given to the kernel, `gone` are on their way,
/// `received` it has read.
#[derive(Debug, Default)]
pub(super) struct End {
    /// All that it would send.
    pub(super) script: Vec<u8>,
    /// It ends its direction behind that.
    ends: bool,
    /// It resets, some time after so many bytes were sent, and so many received.
    resets: Option<(usize, usize)>,
    /// It reads so many bytes, and then no more.
    appetite: usize,
    pub(super) taken: usize,
    pub(super) recorded: usize,
    /// What the kernel takes before it is read.
    room_in: usize,
    pub(super) has_fin: bool,
    pub(super) has_rst: bool,
    /// The reset has not been told by any call yet.
    pub(super) has_error: bool,
    pub(super) is_deaf: bool,
    /// Bytes were dropped, so that no FIN is in order any more.
    has_lost: bool,
    pub(super) written: usize,
    gone: usize,
    pub(super) received: usize,
    /// What the kernel takes before it is on its way.
    room_out: usize,
    /// What may be on its way before it is received.
    window: usize,
    /// The engine waits for word that there is room, or that all is on its way.
    pub(super) waits_for_room: bool,
    pub(super) waits_for_sent: bool,
    // What has been told, in either direction.
    /// A read has told its end.
    pub(super) has_ended: bool,
    /// It was told the end.
    pub(super) is_told: bool,
    /// A read has told its reset.
    pub(super) is_broken: bool,
    /// A write has.
    pub(super) has_failed: bool,
    // What is to come of it.
    /// It is to be reset in the end,
    pub(super) is_reset: bool,
    /// for not having taken what there was.
    pub(super) is_behind: bool,
}

/// What an application does, or the network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Bytes for it are on their way.
    Deliver,
    Receive,
    Send,
    /// It sends, and the kernel is deaf.
    Lose,
    Fin,
    Rst,
}

impl End {
    pub(super) fn new(random: &mut Rng) -> Self {
        let len = random.usize(0..80);
        let stalls = random.u8(0..5) == 0;
        let resets = random.u8(0..5) == 0;
        Self {
            script: (0..len).map(|_| random.u8(..)).collect(),
            ends: random.u8(0..4) > 0,
            resets: resets.then(|| (random.usize(0..=len), random.usize(0..30))),
            appetite: if stalls {
                random.usize(0..40)
            } else {
                INSATIABLE
            },
            room_in: random.usize(1..40),
            room_out: random.usize(1..20),
            window: random.usize(1..20),
            ..Self::default()
        }
    }

    /// What the kernel has taken and nobody has read.
    pub(super) fn unread(&self) -> usize {
        self.taken - self.recorded
    }

    /// What was written and is not on its way. Nothing goes anywhere after a reset.
    pub(super) fn unsent(&self) -> usize {
        if self.has_rst {
            return 0;
        }
        self.written - self.gone
    }

    /// It takes nothing any more, and that was told.
    pub(super) fn is_gone(&self) -> bool {
        self.is_broken || self.has_failed
    }

    /// Nothing more can come that is not known.
    pub(super) fn is_finite(&self) -> bool {
        self.is_deaf || self.has_ended || self.is_broken
    }

    /// Its application takes everything, sooner or later.
    pub(super) fn reads_all(&self) -> bool {
        self.appetite == INSATIABLE && !self.has_rst
    }

    /// Its application may take nothing any more, though it is there.
    pub(super) fn may_stall(&self) -> bool {
        self.appetite != INSATIABLE && !self.has_rst
    }

    /// What can happen here now.
    pub(super) fn acts(&self) -> Vec<Act> {
        let in_flight = self.gone - self.received;
        let has_more = self.taken < self.script.len();
        let is_heard = !self.is_deaf && self.unread() < self.room_in;
        let fin = self.ends && !has_more && !self.has_fin && !self.has_lost;
        let is_due = |&(sent, received): &_| self.taken >= sent && self.received >= received;
        let all = [
            (self.unsent() > 0 && in_flight < self.window, Act::Deliver),
            (in_flight > 0 && self.received < self.appetite, Act::Receive),
            (has_more && is_heard, Act::Send),
            (has_more && self.is_deaf && !self.has_lost, Act::Lose),
            (fin, Act::Fin),
            (self.resets.as_ref().is_some_and(is_due), Act::Rst),
        ];
        let all = all.into_iter().filter(|_| !self.has_rst);
        all.filter_map(|(can, act)| can.then_some(act)).collect()
    }

    /// It happens, with at most so many bytes.
    pub(super) fn perform(&mut self, act: Act, most: usize) {
        let in_flight = self.gone - self.received;
        match act {
            Act::Deliver => self.gone += most.min(self.unsent()).min(self.window - in_flight),
            Act::Receive => {
                self.received += most.min(in_flight).min(self.appetite - self.received);
            }
            Act::Send => {
                let room = self.room_in - self.unread();
                self.taken += most.min(self.script.len() - self.taken).min(room);
            }
            Act::Lose => self.has_lost = true,
            Act::Fin => self.has_fin = true,
            Act::Rst => {
                self.has_rst = true;
                self.has_error = true;
            }
        }
    }

    /// So many bytes are written to it, at most. How many the kernel takes; `None` where it has had a
    /// reset.
    pub(super) fn write(&mut self, len: usize, most: usize) -> Option<usize> {
        if self.has_rst {
            self.has_error = false;
            self.has_failed = true;
            return None;
        }
        let taken = len.min(most).min(self.room_out - self.unsent());
        self.written += taken;
        self.waits_for_room = taken < len;
        Some(taken)
    }

    /// Whether word is to be sent that there is room, or that all is on its way; once.
    pub(super) fn has_word(&mut self) -> bool {
        let is_roomy = self.waits_for_room && self.unsent() < self.room_out;
        let is_sent = self.waits_for_sent && self.unsent() == 0;
        if is_roomy || is_sent {
            self.waits_for_room = false;
            self.waits_for_sent = false;
        }
        is_roomy || is_sent
    }
}
