//! The answers of a fixed number of tasks, waited for together: `map`, `apply`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::batch::{Answer, Sink};
use super::completion::{Callback, Completion, put_aside};
use super::failure::Failure;
use super::objects::WithObjects;
use crate::context::lock;
use crate::{Error, Result, codec};

/// Collects answers by index.
pub(super) struct Gather {
    state: Mutex<State>,
    complete: Condvar,
    /// Changes under the pool's lock.
    cancelled: AtomicBool,
}

struct State {
    /// Results that came through a ring, one behind the other as they came.
    arena: Vec<u8>,
    places: Vec<Place>,
    missing: usize,
    waker: Option<Waker>,
    /// To be run when all have come.
    callbacks: Vec<Callback>,
    progress: Option<Progress>,
}

/// Tells how far tasks have come: how many are done, of how many.
pub(super) type OnProgress = Arc<dyn Fn(usize, usize) + Send + Sync>;

struct Progress {
    tell: OnProgress,
    told_at: Instant,
}

/// How often progress is told at most.
const TELL: Duration = Duration::from_millis(50);

enum Place {
    Missing,
    Arena {
        start: usize,
        length: u32,
    },
    WithObjects(Box<WithObjects>),
    Failed(Box<Failure>),
    /// Nobody asks for it any more.
    Taken,
}

impl Gather {
    /// Gives every task an answer that has none yet, except those of `running`. Whether there was one, or is one running.
    pub(super) fn cancel(&self, running: &[u64], first_task: u64) -> bool {
        self.cancelled.store(true, Ordering::Relaxed);
        let missing: Vec<u64> = {
            let state = lock(&self.state);
            let is_missing = |(index, place): (usize, &Place)| {
                let index = index as u64;
                (matches!(place, Place::Missing) && !running.contains(&index)).then_some(index)
            };
            state.places.iter().enumerate().filter_map(is_missing).collect()
        };
        for index in &missing {
            self.deliver(*index, Answer::Failed(Failure::Cancelled { task: first_task + index }));
        }
        !missing.is_empty() || !running.is_empty()
    }

    pub(super) fn new(tasks: usize) -> Self {
        let places = std::iter::repeat_with(|| Place::Missing).take(tasks).collect();
        Self {
            state: Mutex::new(State {
                arena: Vec::new(),
                places,
                missing: tasks,
                waker: None,
                callbacks: Vec::new(),
                progress: None,
            }),
            complete: Condvar::new(),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Has it told from now on how far the tasks have come.
    pub(super) fn follow(&self, tell: OnProgress) {
        lock(&self.state).progress = Some(Progress { tell, told_at: Instant::now() });
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

    /// The result or the failure of each in order. All have come.
    pub(super) fn get_each<R: DeserializeOwned>(&self, function: &str) -> Vec<Result<R>> {
        let state = lock(&self.state);
        (0..state.places.len()).map(|index| state.get(index, function)).collect()
    }

    /// Whether every answer has come; if not, `waker` is woken when they have.
    pub(super) fn wake_when_complete(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if state.missing > 0 && !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        state.missing == 0
    }

    /// Has `callback` run when every answer has come; gives it back if they have.
    pub(super) fn call_when_complete(&self, callback: Callback) -> Option<Callback> {
        let mut state = lock(&self.state);
        if state.missing == 0 {
            return Some(callback);
        }
        state.callbacks.push(callback);
        None
    }

    /// As [`get_all`](Self::get_all), for who asks once: each goes as soon as it is decoded, so that no two copies of all are there at once.
    pub(super) fn take_all<R: DeserializeOwned>(&self, function: &str) -> Result<Vec<R>> {
        let mut state = lock(&self.state);
        let count = state.places.len();
        let take = |index| {
            let result = state.get(index, function);
            state.places[index] = Place::Taken;
            result
        };
        (0..count).map(take).collect()
    }

    /// Every result in order, or the first failure. All have come.
    pub(super) fn get_all<R: DeserializeOwned>(&self, function: &str) -> Result<Vec<R>> {
        let state = lock(&self.state);
        (0..state.places.len()).map(|index| state.get(index, function)).collect()
    }
}

impl State {
    /// Has it told, now and then, and in the end.
    fn tell_progress(&mut self) {
        let (all, done) = (self.places.len(), self.places.len() - self.missing);
        let Some(progress) = &mut self.progress else { return };
        if done == all || progress.told_at.elapsed() >= TELL {
            progress.told_at = Instant::now();
            let tell = progress.tell.clone();
            put_aside(Completion::Call(Box::new(move || tell(done, all))));
        }
    }

    fn get<R: DeserializeOwned>(&self, index: usize, function: &str) -> Result<R> {
        let undecodable =
            |reason| Error::Decode { what: "the result", function: function.to_owned(), reason };
        let bytes = match &self.places[index] {
            Place::Arena { start, length } => &self.arena[*start..*start + *length as usize],
            Place::WithObjects(result) => result.open().map_err(undecodable)?,
            Place::Failed(failure) => return Err(failure.to_error(function)),
            Place::Missing | Place::Taken => {
                return Err(Error::Invalid { what: "the task has no answer yet".to_owned() });
            }
        };
        codec::decode(bytes).map_err(undecodable)
    }
}

impl Sink for Gather {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn deliver(&self, index: u64, answer: Answer<'_>) {
        let mut state = lock(&self.state);
        let place = match answer {
            Answer::Returned(record) => {
                let start = state.arena.len();
                record.copy_to(&mut state.arena);
                Place::Arena { start, length: record.len() as u32 }
            }
            Answer::WithObjects(result) => Place::WithObjects(Box::new(result)),
            Answer::Failed(failure) => Place::Failed(Box::new(failure)),
        };
        let old = std::mem::replace(&mut state.places[index as usize], place);
        debug_assert!(matches!(old, Place::Missing), "a task was answered twice");
        state.missing -= 1;
        state.tell_progress();
        if state.missing == 0 {
            state.waker.take().map(Completion::Wake).into_iter().for_each(put_aside);
            state.callbacks.drain(..).map(Completion::Call).for_each(put_aside);
            drop(state);
            self.complete.notify_all();
        }
    }
}
