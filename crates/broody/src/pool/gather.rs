//! The answers of a fixed number of tasks, waited for together: `map`, `apply`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use broody_shm::ring::Record;
use serde::de::DeserializeOwned;

use super::batch::Answer;
use super::completion::{Callback, Completion, put_aside};
use super::failure::Failure;
use super::objects::WithObjects;
use super::signal::Signal;
use crate::context::lock;
use crate::{Error, Result, codec};

/// Collects answers by index.
pub(super) struct Gather {
    state: Mutex<State>,
    complete: Signal,
    /// Changes under the pool's lock.
    cancelled: AtomicBool,
    /// Of one task.
    single: bool,
}

/// As small as can be: there is one for each task that was handed in by itself.
struct State {
    places: Places,
    extra: Option<Box<Extra>>,
}

enum Places {
    /// Of a single task.
    One(Place),
    Many(Box<Many>),
}

struct Many {
    /// Results that came through a ring, one behind the other as they came.
    arena: Vec<u8>,
    places: Vec<Place>,
    missing: usize,
}

/// What few have.
#[derive(Default)]
struct Extra {
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
    /// In the arena of many.
    Arena {
        start: usize,
        length: u32,
    },
    /// Of a single task.
    #[expect(clippy::box_collection, reason = "a place is as small as can be")]
    Alone(Box<Vec<u8>>),
    WithObjects(Box<WithObjects>),
    Failed(Box<Failure>),
    /// Nobody asks for it any more.
    Taken,
}

impl Gather {
    pub(super) fn new(tasks: usize) -> Self {
        let many = || Many {
            arena: Vec::new(),
            places: std::iter::repeat_with(|| Place::Missing).take(tasks).collect(),
            missing: tasks,
        };
        let places = if tasks == 1 { Places::One(Place::Missing) } else { Places::Many(Box::new(many())) };
        Self {
            state: Mutex::new(State { places, extra: None }),
            complete: Signal::default(),
            cancelled: AtomicBool::new(false),
            single: tasks == 1,
        }
    }

    /// No task begins any more. The indices of those that have no answer, except of those that are `running`: they are to be given one.
    pub(super) fn cancel(&self, running: &[usize]) -> Vec<usize> {
        self.cancelled.store(true, Ordering::Relaxed);
        let state = lock(&self.state);
        let is_missing =
            |index: &usize| matches!(state.places.all()[*index], Place::Missing) && !running.contains(index);
        (0..state.places.all().len()).filter(is_missing).collect()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Has it told from now on how far the tasks have come.
    pub(super) fn follow(&self, tell: OnProgress) {
        lock(&self.state).extra().progress = Some(Progress { tell, told_at: Instant::now() });
    }

    /// Whether it is for one task.
    pub(super) fn is_single(&self) -> bool {
        self.single
    }

    /// Whether every answer has come.
    pub(super) fn is_complete(&self) -> bool {
        lock(&self.state).places.missing() == 0
    }

    /// Waits for every answer, at most until `deadline`. Whether they have come.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        self.complete.wait(deadline, || self.is_complete().then_some(())).is_some()
    }

    /// The result at `index`, which has come, of a task of `function`.
    pub(super) fn get<R: DeserializeOwned>(&self, index: usize, function: &str) -> Result<R> {
        lock(&self.state).places.get(index, function)
    }

    /// The result or the failure of each in order. All have come.
    pub(super) fn get_each<R: DeserializeOwned>(&self, function: &str) -> Vec<Result<R>> {
        let state = lock(&self.state);
        (0..state.places.all().len()).map(|index| state.places.get(index, function)).collect()
    }

    /// Whether every answer has come; if not, `waker` is woken when they have.
    pub(super) fn wake_when_complete(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        let is_complete = state.places.missing() == 0;
        if !is_complete && !state.extra().waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.extra().waker = Some(waker.clone());
        }
        is_complete
    }

    /// Has `callback` run when every answer has come; gives it back if they have.
    pub(super) fn call_when_complete(&self, callback: Callback) -> Option<Callback> {
        let mut state = lock(&self.state);
        if state.places.missing() == 0 {
            return Some(callback);
        }
        state.extra().callbacks.push(callback);
        None
    }

    /// As [`get_all`](Self::get_all), for who asks once: each goes as soon as it is decoded, so that no two copies of all are there at once.
    pub(super) fn take_all<R: DeserializeOwned>(&self, function: &str) -> Result<Vec<R>> {
        let mut state = lock(&self.state);
        let count = state.places.all().len();
        let take = |index| {
            let result = state.places.get(index, function);
            state.places.forget(index);
            result
        };
        (0..count).map(take).collect()
    }

    /// Every result in order, or the first failure. All have come.
    pub(super) fn get_all<R: DeserializeOwned>(&self, function: &str) -> Result<Vec<R>> {
        let state = lock(&self.state);
        (0..state.places.all().len()).map(|index| state.places.get(index, function)).collect()
    }
}

impl State {
    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Has it told, now and then, and in the end.
    fn tell_progress(&mut self) {
        let (all, missing) = (self.places.all().len(), self.places.missing());
        let done = all - missing;
        let Some(progress) = self.extra.as_mut().and_then(|extra| extra.progress.as_mut()) else { return };
        if missing == 0 || progress.told_at.elapsed() >= TELL {
            progress.told_at = Instant::now();
            let tell = progress.tell.clone();
            put_aside(Completion::Call(Box::new(move || tell(done, all))));
        }
    }
}

impl Places {
    fn all(&self) -> &[Place] {
        match self {
            Self::One(place) => std::slice::from_ref(place),
            Self::Many(many) => &many.places,
        }
    }

    fn forget(&mut self, index: usize) {
        match self {
            Self::One(place) => *place = Place::Taken,
            Self::Many(many) => many.places[index] = Place::Taken,
        }
    }

    fn missing(&self) -> usize {
        match self {
            Self::One(place) => usize::from(matches!(place, Place::Missing)),
            Self::Many(many) => many.missing,
        }
    }

    fn put(&mut self, index: usize, answer: Answer<'_>) {
        let answer = match answer {
            Answer::Returned(record) => return self.put_bytes(index, &record),
            Answer::WithObjects(result) => Place::WithObjects(Box::new(result)),
            Answer::Failed(failure) => Place::Failed(Box::new(failure)),
        };
        self.put_place(index, answer);
    }

    fn put_bytes(&mut self, index: usize, record: &Record<'_>) {
        let place = match self {
            Self::One(_) => {
                let mut bytes = Vec::with_capacity(record.len());
                record.copy_to(&mut bytes);
                Place::Alone(Box::new(bytes))
            }
            Self::Many(many) => {
                let start = many.arena.len();
                record.copy_to(&mut many.arena);
                Place::Arena { start, length: record.len() as u32 }
            }
        };
        self.put_place(index, place);
    }

    fn put_place(&mut self, index: usize, answer: Place) {
        let place = match self {
            Self::One(place) => place,
            Self::Many(many) => {
                many.missing -= 1;
                &mut many.places[index]
            }
        };
        let old = std::mem::replace(place, answer);
        debug_assert!(matches!(old, Place::Missing), "a task was answered twice");
    }

    fn get<R: DeserializeOwned>(&self, index: usize, function: &str) -> Result<R> {
        let undecodable =
            |reason| Error::Decode { what: "the result", function: function.to_owned(), reason };
        let bytes = match (&self.all()[index], self) {
            (Place::Arena { start, length }, Self::Many(many)) => {
                &many.arena[*start..*start + *length as usize]
            }
            (Place::Alone(bytes), _) => bytes,
            (Place::WithObjects(result), _) => result.open().map_err(undecodable)?,
            (Place::Failed(failure), _) => return Err(failure.to_error(function)),
            (Place::Missing | Place::Taken | Place::Arena { .. }, _) => {
                return Err(Error::Invalid { what: "the task has no answer yet".to_owned() });
            }
        };
        codec::decode(bytes).map_err(undecodable)
    }
}

impl Gather {
    /// The answer of the task `index`. Comes exactly once for each. Whether it was the last one.
    pub(super) fn deliver(&self, index: usize, answer: Answer<'_>) -> bool {
        let mut state = lock(&self.state);
        state.places.put(index, answer);
        state.tell_progress();
        let is_complete = state.places.missing() == 0;
        if is_complete {
            if let Some(mut extra) = state.extra.take() {
                extra.waker.take().map(Completion::Wake).into_iter().for_each(put_aside);
                extra.callbacks.drain(..).map(Completion::Call).for_each(put_aside);
            }
            drop(state);
            self.complete.send();
        }
        is_complete
    }
}
