//! The answers of tasks that are handed in little by little: `imap`, `imap_unordered`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::batch::Answer;
use super::completion::{Callback, Completion, put_aside};
use super::failure::Failure;
use super::objects::WithObjects;
use super::signal::Signal;
use crate::context::lock;

/// An answer, kept until the caller comes for it.
pub(super) enum Kept {
    Bytes(Vec<u8>),
    WithObjects(WithObjects),
    Failed(Failure),
}

/// Collects answers, and gives them in the order of their tasks or of their arrival.
pub(super) struct Stream {
    ordered: bool,
    state: Mutex<State>,
    arrival: Signal,
    /// Nobody waits any more. Changes under the pool's lock.
    abandoned: AtomicBool,
}

#[derive(Default)]
struct State {
    /// How many answers were given to the caller; in order, also the index of the next one.
    given: u64,
    /// Ordered: those that came before their turn. Each index is there once.
    early: BTreeMap<u64, Kept>,
    /// Those whose turn it is.
    due: VecDeque<Kept>,
    /// The index of the first task that is neither due nor given.
    next_due: u64,
    /// To be run when one is due.
    callback: Option<Callback>,
}

impl Stream {
    pub(super) fn new(ordered: bool) -> Self {
        Self {
            ordered,
            state: Mutex::default(),
            arrival: Signal::default(),
            abandoned: AtomicBool::new(false),
        }
    }

    /// The caller has gone: what has not begun is forgotten. With the pool's lock.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// How many answers were given to the caller so far.
    pub(super) fn given(&self) -> u64 {
        lock(&self.state).given
    }

    /// Has `callback` run when an answer is due; gives it back if one is. In the place of one that was given before.
    pub(super) fn call_when_due(&self, callback: Callback) -> Option<Callback> {
        let mut state = lock(&self.state);
        if !state.due.is_empty() {
            return Some(callback);
        }
        state.callback = Some(callback);
        None
    }

    /// Waits for the next answer, at most until `deadline`. There must be one to come.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Option<Kept> {
        self.arrival.wait(deadline, || {
            let mut state = lock(&self.state);
            let kept = state.due.pop_front()?;
            state.given += 1;
            Some(kept)
        })
    }
}

impl Stream {
    /// Whether the caller has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The answer of the task `index`, counted from the first one of this stream. Comes exactly once for each.
    pub(super) fn deliver(&self, index: u64, answer: Answer<'_>) {
        let kept = match answer {
            Answer::Returned(record) => {
                let mut bytes = Vec::with_capacity(record.len());
                record.copy_to(&mut bytes);
                Kept::Bytes(bytes)
            }
            Answer::WithObjects(result) => Kept::WithObjects(result),
            Answer::Failed(failure) => Kept::Failed(failure),
        };
        let mut state = lock(&self.state);
        if !self.ordered {
            state.due.push_back(kept);
        } else if index == state.next_due {
            state.due.push_back(kept);
            state.next_due += 1;
            loop {
                let next = state.next_due;
                let Some(kept) = state.early.remove(&next) else { break };
                state.due.push_back(kept);
                state.next_due += 1;
            }
        } else {
            state.early.insert(index, kept);
        }
        let is_due = !state.due.is_empty();
        let callback = if is_due { state.callback.take() } else { None };
        drop(state);
        if is_due {
            callback.map(Completion::Call).into_iter().for_each(put_aside);
            self.arrival.send();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(stream: &Stream, index: u64) {
        stream.deliver(index, Answer::Failed(Failure::Terminated { task: index }));
    }

    fn next(stream: &Stream) -> u64 {
        match stream.next(None) {
            Some(Kept::Failed(Failure::Terminated { task })) => task,
            _ => panic!("not what was delivered"),
        }
    }

    #[test]
    fn answers_come_in_the_order_that_was_asked_for() {
        let (ordered, unordered) = (Stream::new(true), Stream::new(false));
        for index in [2, 0, 3, 1] {
            fail(&ordered, index);
            fail(&unordered, index);
        }
        assert_eq!([0; 4].map(|_| next(&ordered)), [0, 1, 2, 3]);
        assert_eq!([0; 4].map(|_| next(&unordered)), [2, 0, 3, 1]);
        assert_eq!(ordered.given(), 4);
    }
}
