//! What is to be done when the last answer has come: waking a future, running a callback.
//!
//! Answers are delivered under the pool's lock, where nobody else's code may run. Whatever is due is put aside there, and done when the lock
//! has been given back: futures are woken by the thread at hand, callbacks run in a thread of their own, one after the other, so that a
//! slow one keeps no task waiting.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
use std::task::Waker;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use crate::context::lock;
use crate::helper;

/// A callback, with everything that it needs.
pub(super) type Callback = Box<dyn FnOnce() + Send>;

/// What is to be done.
pub(super) enum Completion {
    Wake(Waker),
    Call(Callback),
    Drop(Box<dyn Send>),
}

/// The longest wait without another look.
const LOOK: Duration = Duration::from_secs(1);

thread_local! {
    static DUE: RefCell<Vec<Completion>> = const { RefCell::new(Vec::new()) };
}

/// With the pool's lock: `completion` is done when it is given back.
pub(super) fn put_aside(completion: Completion) {
    // At the end of a program its main thread may have no such place any more: nobody waits for anything then.
    let _ = DUE.try_with(|due| due.borrow_mut().push(completion));
}

/// A schedule, locked.
pub(super) struct Locked<'a> {
    /// `None` only while it is dropped.
    schedule: Option<MutexGuard<'a, Schedule>>,
    callbacks: &'a Callbacks,
    /// Who waits here for room is told when this is over, where there is a bound on what waits.
    room: Option<&'a Condvar>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(
        schedule: &'a Mutex<Schedule>,
        callbacks: &'a Callbacks,
        room: Option<&'a Condvar>,
    ) -> Self {
        Self { schedule: Some(lock(schedule)), callbacks, room }
    }
}

impl<'a> Locked<'a> {
    /// Gives the lock back, waits for `change`, at most until `deadline`, and takes it again.
    pub(super) fn wait(mut self, change: &Condvar, deadline: Option<Instant>) -> Locked<'a> {
        if let Some(schedule) = self.schedule.take() {
            debug_assert!(
                DUE.try_with(|due| due.borrow().is_empty()).unwrap_or(true),
                "who waits has delivered nothing"
            );
            let poisoned = std::sync::PoisonError::into_inner;
            let limit = deadline
                .map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now()).min(LOOK));
            self.schedule = Some(change.wait_timeout(schedule, limit).unwrap_or_else(poisoned).0);
        }
        self
    }
}

impl Deref for Locked<'_> {
    type Target = Schedule;

    fn deref(&self) -> &Schedule {
        self.schedule.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Schedule {
        self.schedule.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let due = DUE.try_with(RefCell::take).unwrap_or_default();
        // Before anybody can see the answers: who waits for callbacks finds these among them.
        let others: Vec<_> =
            due.into_iter().filter_map(|completion| self.callbacks.queue(completion)).collect();
        self.schedule = None;
        self.room.into_iter().for_each(Condvar::notify_all);
        for completion in others {
            match completion {
                Completion::Wake(waker) => waker.wake(),
                Completion::Call(callback) => callback(),
                Completion::Drop(done_with) => drop(done_with),
            }
        }
    }
}

/// The thread that runs a pool's callbacks, once there is one.
#[derive(Default)]
pub(super) struct Callbacks(Mutex<Option<Runner>>);

struct Runner {
    callbacks: mpsc::Sender<Callback>,
    thread: ThreadId,
}

impl Runner {
    fn start() -> std::io::Result<Self> {
        let (ours, theirs) = mpsc::channel::<Callback>();
        let started = helper::start("broody-calls", move || {
            for callback in theirs {
                // Its panic has been shown by the hook, and is nobody else's.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback));
            }
        });
        // It ends when the pool is gone and it has nothing more to run.
        started.map(|thread| Self { callbacks: ours, thread: thread.thread().id() })
    }
}

impl Callbacks {
    /// Has it run.
    pub(super) fn run(&self, callback: Callback) {
        if let Some(Completion::Call(callback)) = self.queue(Completion::Call(callback)) {
            callback();
        }
    }

    /// Has it run, if it is a callback; gives it back if it is not, or if there is no thread to be had: late is better than never.
    fn queue(&self, completion: Completion) -> Option<Completion> {
        let Completion::Call(callback) = completion else { return Some(completion) };
        let mut runner = lock(&self.0);
        if runner.is_none() {
            *runner = Runner::start().ok();
        }
        match runner.as_ref() {
            Some(runner) => {
                let _ = runner.callbacks.send(callback);
                None
            }
            None => Some(Completion::Call(callback)),
        }
    }

    /// Waits until those have run that were to be run before, at most until `deadline`. Whether they have. One of them does not wait for itself.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        let (tell, told) = mpsc::channel();
        match lock(&self.0).as_ref() {
            Some(runner) if runner.thread != std::thread::current().id() => {
                let _ = runner.callbacks.send(Box::new(move || _ = tell.send(())));
            }
            _ => return true,
        }
        match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                !matches!(told.recv_timeout(left), Err(mpsc::RecvTimeoutError::Timeout))
            }
            None => told.recv().is_ok(),
        }
    }
}
