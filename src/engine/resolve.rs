//! Names looked up beside the loop: the resolver may take as long as it likes.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::address::Address;
use crate::record::doorbell::Doorbell;

/// What a name stands for, or why that is not known.
type Answer = (Address, io::Result<Vec<SocketAddr>>);

/// Asks the resolver, each name on a thread of its own; who asks while one is under way shares the
/// answer. So there are never more threads than names.
#[derive(Debug)]
pub(super) struct Resolver {
    doorbell: Arc<Doorbell>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    asked: HashSet<Address>,
}

impl Resolver {
    /// `doorbell` is rung when an answer is there.
    pub(super) fn new(doorbell: Arc<Doorbell>) -> Self {
        let (sender, answers) = channel();
        Self {
            doorbell,
            sender,
            answers,
            asked: HashSet::new(),
        }
    }

    /// Asks for the addresses of this name, unless that is under way.
    pub(super) fn ask(&mut self, name: &Address) {
        if !self.asked.insert(name.clone()) {
            return;
        }
        let (sender, doorbell, asked) = (
            self.sender.clone(),
            Arc::clone(&self.doorbell),
            name.clone(),
        );
        let thread = thread::Builder::new().spawn(move || {
            let found = asked.resolve();
            // Nobody is there any more to hear it: the run has ended.
            let _ = sender.send((asked, found));
            doorbell.call();
        });
        if let Err(error) = thread {
            let _ = self.sender.send((name.clone(), Err(error)));
            self.doorbell.call();
        }
    }

    /// The next answer, if one has come.
    pub(super) fn poll(&mut self) -> Option<Answer> {
        let answer = self.answers.try_recv().ok()?;
        self.asked.remove(&answer.0);
        Some(answer)
    }
}
