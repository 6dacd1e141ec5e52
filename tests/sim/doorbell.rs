//! The wake-up of a sleeping loop, in every order in which the steps of the two sides can fall.
//!
//! The loop arms, looks, and sleeps if it saw nothing; the worker makes room and rings. Whatever the
//! order, a loop that sleeps must be woken. Workers that ring first lose wake-ups, and this test
//! sees them do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use wiretape::record::doorbell::Doorbell;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Arm,
    Look,
    MakeRoom,
    Ring,
}
use Step::{Arm, Look, MakeRoom, Ring};

/// Every way to merge the two sequences.
fn interleavings(one: &[Step], other: &[Step]) -> Vec<Vec<Step>> {
    match (one, other) {
        ([], rest) | (rest, []) => vec![rest.to_vec()],
        ([first, others @ ..], _) => {
            let with = |step: Step, rest: Vec<Vec<Step>>| {
                rest.into_iter()
                    .map(move |rest| [vec![step], rest].concat())
            };
            let mut all: Vec<_> = with(*first, interleavings(others, other)).collect();
            all.extend(with(other[0], interleavings(one, &other[1..])));
            all
        }
    }
}

/// Whether the loop ends awake: it saw the room, or was woken.
fn ends_awake(steps: &[Step]) -> bool {
    let woken = Arc::new(AtomicBool::new(false));
    let wake = Arc::clone(&woken);
    let doorbell = Doorbell::new(move || wake.store(true, SeqCst));
    let (mut has_room, mut saw_room) = (false, false);
    for step in steps {
        match step {
            Arm => doorbell.arm(),
            Look => saw_room = has_room,
            MakeRoom => has_room = true,
            Ring => doorbell.ring(),
        }
    }
    saw_room || woken.load(SeqCst)
}

fn check(worker: &[Step]) -> bool {
    let orders = interleavings(&[Arm, Look], worker);
    assert!(orders.len() > 1);
    orders.iter().all(|steps| ends_awake(steps))
}

#[test]
fn a_loop_that_sleeps_is_woken_in_every_order() {
    assert!(check(&[MakeRoom, Ring]));
    assert!(check(&[Ring, MakeRoom, Ring]));
    assert!(check(&[MakeRoom, Ring, MakeRoom, Ring]));
}

#[test]
fn ringing_before_there_is_room_would_lose_the_wake_up() {
    assert!(!check(&[Ring, MakeRoom]));
}

#[test]
fn nobody_is_woken_who_does_not_wait() {
    let doorbell = Doorbell::new(|| panic!("the bell was not armed"));
    doorbell.ring();
    doorbell.arm();
    doorbell.disarm();
    doorbell.ring();
}
