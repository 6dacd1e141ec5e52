//! The doorbell, as somebody hears it who sleeps and is woken at the worst of all moments: as soon as
//! it rings, with the rest of what the worker is about not done yet. He looks at once, and if he finds
//! nothing, arms it again and sleeps on. What he sleeps for and nobody rings for then is a lost wake-up.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use wiretape::output::queue::Queue;
use wiretape::record::batch::BatchPool;
use wiretape::record::doorbell::Doorbell;

/// What the loop sleeps for.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// It needs memory, or outputs that it waits for to have room.
    pub needs_room: bool,
    /// With no more bytes than this on their way, nobody is waited for.
    pub few: usize,
    /// It has records for an output that is idle.
    pub has_records: bool,
    /// The outputs are to end.
    pub is_flushing: bool,
}

/// What there is to be seen.
#[derive(Debug)]
pub struct Watched {
    pub pool: BatchPool,
    pub queues: Vec<Arc<Queue>>,
    /// Whether each output that may miss records is waited for.
    pub is_for_each: bool,
}

#[derive(Clone, Debug)]
pub struct Bell {
    pub doorbell: Arc<Doorbell>,
    ear: Arc<Ear>,
}

#[derive(Debug, Default)]
struct Ear {
    doorbell: OnceLock<Weak<Doorbell>>,
    watched: Mutex<Option<Watched>>,
    sleeper: Mutex<Sleeper>,
}

#[derive(Debug, Default)]
struct Sleeper {
    /// While it sleeps, or is about to.
    wants: Option<Wants>,
    /// It is awake by the next sleep at the latest.
    has_rung: bool,
    /// When it rang, what it sleeps for was there.
    has_found: bool,
}

impl Wants {
    /// Whether an output can bring it.
    pub fn is_of_outputs(self) -> bool {
        self.needs_room || self.has_records
    }
}

impl Bell {
    pub fn new() -> Self {
        let ear = Arc::new(Ear::default());
        let listening = Arc::clone(&ear);
        let doorbell = Arc::new(Doorbell::new(move || listening.hear()));
        let own = Arc::downgrade(&doorbell);
        ear.doorbell.set(own).expect("it is set once");
        Self { doorbell, ear }
    }

    pub fn watch(&self, watched: Watched) {
        *self.ear.watched() = Some(watched);
    }

    /// Lets go of what is watched, which holds the bell itself.
    pub fn unwatch(&self) {
        *self.ear.watched() = None;
    }

    /// The loop is about to sleep, with the bell armed where an output can bring what it wants.
    pub fn arm(&self, wants: Wants) {
        self.ear.sleeper().wants = Some(wants);
        if wants.is_of_outputs() {
            self.doorbell.arm();
        }
    }

    /// The loop is awake, and has heard what rang.
    pub fn disarm(&self) {
        self.doorbell.disarm();
        *self.ear.sleeper() = Sleeper::default();
    }

    pub fn has_rung(&self) -> bool {
        self.ear.sleeper().has_rung
    }

    /// Checks that what the loop sleeps for was rung for.
    pub fn check(&self) {
        let sleeper = self.ear.sleeper();
        if let Some(wants) = sleeper.wants {
            let is_there = self.ear.finds(wants);
            assert!(!is_there || sleeper.has_found, "not woken: {sleeper:?}");
        }
    }
}

impl Ear {
    fn sleeper(&self) -> MutexGuard<'_, Sleeper> {
        // Who panics drops batches, and they ring.
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Option<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        let mut sleeper = self.sleeper();
        sleeper.has_rung = true;
        if let Some(wants) = sleeper.wants {
            sleeper.has_found |= self.finds(wants);
            if wants.is_of_outputs() {
                let doorbell = self.doorbell.get().and_then(Weak::upgrade);
                doorbell.expect("it rings").arm();
            }
        }
    }

    /// Whether what is slept for is there for certain.
    fn finds(&self, wants: Wants) -> bool {
        let watched = self.watched();
        let Some(watched) = &*watched else {
            return false;
        };
        let Watched { pool, queues, .. } = watched;
        let have_ended = !queues.is_empty() && queues.iter().all(|queue| queue.has_ended());
        let have_chores = queues.iter().any(|queue| queue.chores() > 0);
        (wants.needs_room && pool.has_batch() && !watched.may_wait_for_outputs(wants.few))
            || (wants.has_records && queues.iter().any(|queue| queue.is_idle()))
            || (have_ended && !(wants.is_flushing && have_chores))
    }
}

impl Watched {
    /// Whether outputs may be waited for, if they do not stand still: because one has no room, or because
    /// much is on its way.
    fn may_wait_for_outputs(&self, few: usize) -> bool {
        if self.pool.charged() > few {
            return true;
        }
        let charge = self.pool.batch_charge();
        let live = self.queues.iter().filter(|queue| !queue.has_ended());
        let (full, roomy): (Vec<_>, Vec<_>) = live.partition(|queue| queue.is_full(charge));
        !full.is_empty() && (self.is_for_each || roomy.is_empty())
    }
}
