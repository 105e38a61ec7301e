//! The answers of a fixed number of tasks, waited for together: `map`, `apply`.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use broody_os::memory::SealedBytes;
use serde::de::DeserializeOwned;

use super::batch::{Answer, Sink};
use super::failure::Failure;
use crate::context::lock;
use crate::{Error, Result, codec};

/// Collects answers by index.
pub(super) struct Gather {
    state: Mutex<State>,
    complete: Condvar,
}

struct State {
    /// Results that came through a ring, one behind the other as they came.
    arena: Vec<u8>,
    places: Vec<Place>,
    missing: usize,
}

enum Place {
    Missing,
    Arena { start: usize, length: u32 },
    Apart(Box<SealedBytes>),
    Failed(Box<Failure>),
}

impl Gather {
    pub(super) fn new(tasks: usize) -> Self {
        let places = std::iter::repeat_with(|| Place::Missing).take(tasks).collect();
        Self {
            state: Mutex::new(State { arena: Vec::new(), places, missing: tasks }),
            complete: Condvar::new(),
        }
    }

    /// Whether every answer has come.
    pub(super) fn is_complete(&self) -> bool {
        lock(&self.state).missing == 0
    }

    /// Waits for every answer, at most until `deadline`. Whether they have come.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while state.missing > 0 {
            let poisoned = std::sync::PoisonError::into_inner;
            state = match deadline.map(|at| at.checked_duration_since(Instant::now())) {
                None => self.complete.wait(state).unwrap_or_else(poisoned),
                Some(None) => return false,
                Some(Some(left)) => {
                    self.complete.wait_timeout(state, left).unwrap_or_else(|error| error.into_inner()).0
                }
            };
        }
        true
    }

    /// The result at `index`, which has come, of a task of `function`.
    pub(super) fn get<R: DeserializeOwned>(&self, index: usize, function: &str) -> Result<R> {
        lock(&self.state).get(index, function)
    }

    /// Every result in order, or the first failure. All have come.
    pub(super) fn get_all<R: DeserializeOwned>(&self, function: &str) -> Result<Vec<R>> {
        let state = lock(&self.state);
        (0..state.places.len()).map(|index| state.get(index, function)).collect()
    }
}

impl State {
    fn get<R: DeserializeOwned>(&self, index: usize, function: &str) -> Result<R> {
        let bytes = match &self.places[index] {
            Place::Arena { start, length } => &self.arena[*start..*start + *length as usize],
            Place::Apart(bytes) => bytes,
            Place::Failed(failure) => return Err(failure.to_error(function)),
            Place::Missing => return Err(Error::Invalid { what: "the task has no answer yet".to_owned() }),
        };
        codec::decode(bytes).map_err(|reason| Error::Decode {
            what: "the result",
            function: function.to_owned(),
            reason,
        })
    }
}

impl Sink for Gather {
    fn deliver(&self, index: u64, answer: Answer<'_>) {
        let mut state = lock(&self.state);
        let place = match answer {
            Answer::Returned(record) => {
                let start = state.arena.len();
                record.copy_to(&mut state.arena);
                Place::Arena { start, length: record.len() as u32 }
            }
            Answer::Apart(bytes) => Place::Apart(Box::new(bytes)),
            Answer::Failed(failure) => Place::Failed(Box::new(failure)),
        };
        let old = std::mem::replace(&mut state.places[index as usize], place);
        debug_assert!(matches!(old, Place::Missing), "a task was answered twice");
        state.missing -= 1;
        if state.missing == 0 {
            drop(state);
            self.complete.notify_all();
        }
    }
}
