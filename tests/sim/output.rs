//! An output whose queue is the real one, and whose worker does one step at a time, as slowly as a seed
//! has it: it stalls, goes on, fails, is closed. All that it is given is held against the transcript.

use std::sync::Arc;

use fastrand::Rng;
use wiretape::codec::{Audience, ndjson};
use wiretape::output::State;
use wiretape::output::queue::{Job, Queue};
use wiretape::record::batch::Batch;
use wiretape::record::{Event, Record};

use crate::coverage::Coverage;
use crate::transcript::Transcript;

/// What a worker is about.
#[derive(Debug)]
enum Doing {
    /// To take what is next.
    Looking,
    Encoding(Arc<Batch>),
    /// It found nothing, has written all, and is to say so.
    Emptied,
    Waiting,
    /// It writes the last, and looks after its files.
    Finishing,
    Failing(State),
    Nothing,
}

#[derive(Debug)]
pub struct Worker {
    pub name: String,
    pub queue: Arc<Queue>,
    /// It may miss records.
    pub may_miss: bool,
    pub is_stalled: bool,
    /// Some records go through the capture format and back before they are looked at.
    reads_back: bool,
    doing: Doing,
    /// Number of the record that must come next.
    pub next_seq: u64,
    /// Records that it has taken, and those that it has written.
    taken: u64,
    written: u64,
    /// Bytes of payload in them.
    pub bytes: u64,
    /// Records that it was told to have missed, and how often.
    told: u64,
    gaps: u64,
    /// What `Queue::missed` was when last looked at.
    pub missed: u64,
    /// It had no room for the batch that is being recorded, when that was begun.
    pub has_no_room: bool,
    reopened: usize,
    /// The last job was a gap.
    was_gap: bool,
    pub chores: usize,
    pub is_torn: bool,
    /// When it last worked something off, or had nothing to do.
    pub moved_us: u64,
    line: Vec<u8>,
}

impl Worker {
    pub fn new(name: String, queue: Arc<Queue>, may_miss: bool, reads_back: bool) -> Self {
        Self {
            name,
            queue,
            may_miss,
            is_stalled: false,
            reads_back,
            doing: Doing::Looking,
            next_seq: 0,
            taken: 0,
            written: 0,
            bytes: 0,
            told: 0,
            gaps: 0,
            missed: 0,
            has_no_room: false,
            reopened: 0,
            was_gap: false,
            chores: 0,
            is_torn: false,
            moved_us: 0,
            line: Vec::new(),
        }
    }

    /// Whether its thread has come to its end.
    pub fn has_ended(&self) -> bool {
        matches!(self.doing, Doing::Nothing)
    }

    /// Whether memory may be there, or be on its way to it.
    pub fn holds_batches(&self) -> bool {
        let is_encoding = matches!(self.doing, Doing::Encoding(_));
        is_encoding || self.queue.waiting() > self.taken - self.written
    }

    /// Whether nothing is wrong with it, or missing in it.
    pub fn is_whole(&self) -> bool {
        self.queue.state() != State::Failed && !self.is_torn && self.queue.missed() == 0
    }

    /// Does the next thing, if there is any.
    pub fn step(
        &mut self,
        transcript: &Transcript,
        now_us: u64,
        rng: &mut Rng,
        seen: &mut Coverage,
    ) -> bool {
        match std::mem::replace(&mut self.doing, Doing::Looking) {
            Doing::Nothing => {
                self.doing = Doing::Nothing;
                // What it had missed by its end, nobody is told any more.
                let left = self.queue.pop();
                let is_dead = matches!(left, None | Some(Job::Gap(_)));
                assert!(is_dead, "{} lives on: {left:?}", self.name);
                return false;
            }
            doing if self.is_stalled => {
                self.doing = doing;
                return false;
            }
            Doing::Encoding(batch) => self.encode(batch, transcript, now_us),
            Doing::Emptied => {
                self.doing = Doing::Waiting;
                self.queue.become_idle();
            }
            Doing::Finishing => {
                self.doing = Doing::Nothing;
                self.queue.end(State::Finished);
            }
            Doing::Failing(state) => {
                self.doing = Doing::Nothing;
                self.queue.end(state);
            }
            Doing::Looking => return self.look(transcript, false, rng, seen),
            Doing::Waiting => {
                // A file that is to be rotated or synced wakes it, too.
                let is_woken = rng.u8(0..16) == 0;
                if is_woken {
                    self.queue.become_busy();
                }
                self.look(transcript, !is_woken, rng, seen);
                return !matches!(self.doing, Doing::Waiting);
            }
        }
        true
    }

    fn look(
        &mut self,
        transcript: &Transcript,
        is_waiting: bool,
        rng: &mut Rng,
        seen: &mut Coverage,
    ) -> bool {
        let was_gap = std::mem::take(&mut self.was_gap);
        match self.queue.pop() {
            Some(Job::Batch(batch)) => {
                assert_eq!(batch.first_seq(), self.next_seq, "{}", self.name);
                seen.see_if(
                    transcript.has_ended && self.may_miss && was_gap,
                    "output: takes the end though it is full",
                );
                self.doing = Doing::Encoding(batch);
            }
            Some(Job::Gap(gap)) => {
                assert!(self.may_miss, "{} misses nothing", self.name);
                assert_eq!(gap.first_seq, self.next_seq, "{}", self.name);
                transcript.check_gap(&gap);
                self.next_seq += gap.records;
                self.told += gap.records;
                self.gaps += 1;
                self.was_gap = true;
                seen.see_if(self.gaps > 1, "output: misses again");
            }
            Some(Job::Reopen(time)) => {
                let asked = transcript.reopenings.get(self.reopened);
                assert_eq!(asked, Some(&(self.next_seq, time)), "{}", self.name);
                self.reopened += 1;
                seen.see("hup: in time");
                seen.see_if(was_gap, "hup: a gap is before it");
                if rng.bool() {
                    self.chores += 1;
                    self.queue.add_chore();
                }
            }
            Some(Job::Finish) => {
                assert!(transcript.has_ended, "{} ends too early", self.name);
                assert_eq!(self.next_seq, transcript.records(), "{}", self.name);
                assert_eq!(self.reopened, transcript.reopenings.len(), "{}", self.name);
                self.flush();
                if rng.bool() {
                    self.chores += 1;
                    self.queue.add_chore();
                }
                self.doing = Doing::Finishing;
            }
            None if is_waiting => self.doing = Doing::Waiting,
            None => {
                self.flush();
                self.doing = Doing::Emptied;
            }
        }
        true
    }

    fn encode(&mut self, batch: Arc<Batch>, transcript: &Transcript, now_us: u64) {
        let mut bytes = 0;
        for record in batch.iter() {
            assert_eq!(record.seq, self.next_seq, "a hole or a repetition");
            self.next_seq += 1;
            if self.reads_back && record.seq % 16 == 0 {
                transcript.check(&through_ndjson(&record, &mut self.line));
            } else {
                transcript.check(&record);
            }
            if let Event::Data { payload, .. } = &record.event {
                bytes += payload.len() as u64;
            }
        }
        self.taken += batch.records();
        self.bytes += bytes;
        self.queue.count_written(bytes);
        self.queue.give_back(batch);
        self.moved_us = now_us;
    }

    fn flush(&mut self) {
        self.queue.count_done(self.taken - self.written);
        self.written = self.taken;
    }

    // --- what happens to it ----------------------------------------------------------------------

    /// Its disk, or its reader, has gone: it takes nothing more.
    pub fn fail(&mut self, state: State, seen: &mut Coverage) {
        if matches!(self.doing, Doing::Nothing | Doing::Failing(_)) {
            return;
        }
        let is_encoding = matches!(self.doing, Doing::Encoding(_));
        seen.see_if(is_encoding, "output: fails and holds a batch");
        seen.see(match state {
            State::Closed => "output: closes",
            _ => "output: fails",
        });
        self.is_stalled = false;
        self.doing = Doing::Failing(state);
    }

    /// A segment is torn, and it goes on in the next.
    pub fn tear(&mut self) {
        if !self.has_ended() {
            self.is_torn = true;
            self.queue.tear();
        }
    }

    /// Its housekeeper does something for a closed file, be the worker there or not.
    pub fn keep_house(&mut self, seen: &mut Coverage) -> bool {
        if self.chores == 0 {
            return false;
        }
        self.chores -= 1;
        self.queue.chore_done();
        seen.see("output: looks after its files");
        true
    }

    // --- what must be true of it -----------------------------------------------------------------

    /// Checks what its queue counts, when all records up to `sent` have been handed to it.
    pub fn check_counts(&self, sent: u64) {
        let queue = &self.queue;
        assert_eq!(queue.chores(), self.chores);
        assert_eq!(queue.has_ended(), self.has_ended());
        assert!(self.may_miss || queue.missed() == 0);
        assert!(self.told <= queue.missed());
        if self.has_ended() {
            assert_eq!(queue.waiting(), 0, "{} has ended", self.name);
            assert!(!queue.is_idle() && !queue.is_full(usize::MAX / 2));
            return;
        }
        assert_eq!(queue.state(), State::Running);
        let counted = self.written + queue.waiting() + queue.missed();
        assert_eq!(counted, sent, "{} counts wrong", self.name);
    }

    /// Checks whether it is known that it is to open its file anew, while it is not to end.
    pub fn check_reopening(&self, transcript: &Transcript) {
        if !self.has_ended() && !transcript.has_ended {
            let is_asked = self.reopened < transcript.reopenings.len();
            assert_eq!(self.queue.wants_reopening(), is_asked, "{}", self.name);
        }
    }

    /// Checks that it has everything, where nothing more is to come for now.
    pub fn check_calm(&self, transcript: &Transcript) {
        assert_eq!(
            self.next_seq,
            transcript.records(),
            "{} is behind",
            self.name
        );
        assert_eq!(self.reopened, transcript.reopenings.len(), "{}", self.name);
        assert_eq!((self.queue.waiting(), self.told), (0, self.queue.missed()));
        assert!(self.queue.is_idle(), "{} has nothing to do", self.name);
    }
}

/// A record that went through the capture format and back.
fn through_ndjson(record: &Record<'_>, line: &mut Vec<u8>) -> Record<'static> {
    line.clear();
    ndjson::Encoder::new(Audience::Program).encode(record, line);
    let mut reader = ndjson::Reader::new("simulation", line.as_slice());
    let read = reader.next_record().expect("it can be read");
    read.expect("there is a record").into_owned()
}
