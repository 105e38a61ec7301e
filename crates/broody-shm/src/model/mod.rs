//! Models of the protocols, checked by loom: every interleaving of a few threads, and every value that the memory model lets a load see.
//!
//! A *death* is a thread that stops before one of its operations on shared words, for good and without any cleaning up. Each model is tried for
//! a death at every operation; then the repair runs, and the broadcast, and whoever is left must get on. Sleeps have no bound here: a lost
//! wake-up is a deadlock, which loom reports.

// Loom's threads are all on one thread of the kernel's.
#![allow(clippy::arc_with_non_send_sync)]

mod doorbell;
mod mailbox;
mod queue;
mod robust;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::owner::Owner;
use crate::sync::{Deadline, Parking, Slept, Word};

loom::thread_local! {
    /// How many operations this thread may still do before it dies.
    static LIFE: Cell<Option<u32>> = Cell::new(None);
}

/// What a dying thread unwinds with.
struct Death;

/// A word of the model.
#[derive(Debug)]
struct ModelWord(AtomicU32);

impl Default for ModelWord {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

fn live() {
    let left = LIFE.with(|life| {
        let left = life.get();
        life.set(left.map(|left| left.saturating_sub(1)));
        left
    });
    if left == Some(0) {
        std::panic::resume_unwind(Box::new(Death));
    }
}

/// What another thread, which does not die, would do now.
fn immortal(work: impl FnOnce()) {
    let left = LIFE.with(|life| life.replace(None));
    work();
    LIFE.with(|life| life.set(left));
}

impl Word for ModelWord {
    fn load(&self, order: Ordering) -> u32 {
        live();
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        live();
        self.0.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        live();
        self.0.swap(value, order)
    }

    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        live();
        self.0.compare_exchange(current, new, success, failure)
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        live();
        self.0.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        live();
        self.0.fetch_sub(value, order)
    }

    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// The kernel's futexes, with one place to sleep for all words: a wake that was meant for another word is a spurious one.
///
/// A wake wakes `count` of the sleepers of its word, and no others.
#[derive(Default)]
struct Kernel {
    /// For each sleeper: which word, and whether it was woken.
    sleepers: Mutex<Vec<Sleeper>>,
    woken: Condvar,
    /// Nobody sleeps any more: set and read under the lock.
    is_over: Cell<bool>,
}

#[derive(Clone)]
struct Sleeper {
    thread: usize,
    word: usize,
    woken: bool,
}

fn place(word: &ModelWord) -> usize {
    std::ptr::from_ref(word).addr()
}

impl Kernel {
    fn sleep_on(&self, thread: usize, word: &ModelWord, value: u32) -> Slept {
        live();
        let mut sleepers = self.sleepers.lock().unwrap();
        // Compared and queued in one step, as futex(2) promises.
        if self.is_over.get() || word.0.load(Ordering::SeqCst) != value {
            return Slept::Perhaps;
        }
        sleepers.push(Sleeper { thread, word: place(word), woken: false });
        loop {
            sleepers = self.woken.wait(sleepers).unwrap();
            if let Some(at) = sleepers.iter().position(|sleeper| sleeper.thread == thread && sleeper.woken) {
                sleepers.remove(at);
                return Slept::Perhaps;
            }
        }
    }

    fn wake_some(&self, word: &ModelWord, count: u32) {
        live();
        let mut sleepers = self.sleepers.lock().unwrap();
        let asleep = sleepers.iter_mut().filter(|sleeper| sleeper.word == place(word) && !sleeper.woken);
        asleep.take(count as usize).for_each(|sleeper| sleeper.woken = true);
        self.woken.notify_all();
    }

    /// The bound of all sleeps is over.
    fn end_all_sleeps(&self) {
        let mut sleepers = self.sleepers.lock().unwrap();
        self.is_over.set(true);
        sleepers.iter_mut().for_each(|sleeper| sleeper.woken = true);
        self.woken.notify_all();
    }

    /// What follows every repair.
    fn broadcast(&self) {
        loom::sync::atomic::fence(Ordering::SeqCst);
        self.sleepers.lock().unwrap().iter_mut().for_each(|sleeper| sleeper.woken = true);
        self.woken.notify_all();
    }
}

/// The kernel as one thread uses it.
struct Thread<'a>(&'a Kernel, usize);

impl Parking<ModelWord> for Thread<'_> {
    fn sleep(&self, word: &ModelWord, value: u32, deadline: Deadline) -> Slept {
        assert_eq!(deadline, Deadline::Never);
        self.0.sleep_on(self.1, word, value)
    }

    fn wake(&self, word: &ModelWord, count: u32) {
        self.0.wake_some(word, count);
    }

    fn may_spin(&self) -> bool {
        false
    }

    fn bury(&self, _: Owner) -> bool {
        false
    }

    fn note_rescue(&self) {}
}

/// Runs `work` in a thread that dies before its operation number `life`, if it comes so far; then `repair`, and the broadcast.
///
/// Gives whether it lived.
fn mortal(
    kernel: Arc<Kernel>,
    life: Option<u32>,
    work: impl FnOnce() + 'static,
    repair: impl FnOnce() + 'static,
) -> thread::JoinHandle<bool> {
    mortal_alone(life, work, move || {
        repair();
        kernel.broadcast();
    })
}

/// As [`mortal`], outside of an arena: nobody is woken but by what is done `after` the death.
///
/// What `work` captures is in std's `Arc`s: dying drops them, and must not be seen by loom as something that the thread does.
fn mortal_alone(
    life: Option<u32>,
    work: impl FnOnce() + 'static,
    after: impl FnOnce() + 'static,
) -> thread::JoinHandle<bool> {
    thread::spawn(move || {
        LIFE.with(|left| left.set(life));
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        LIFE.with(|left| left.set(None));
        match lived {
            Ok(()) => true,
            Err(payload) => {
                if !payload.is::<Death>() {
                    std::panic::resume_unwind(payload);
                }
                after();
                false
            }
        }
    })
}

fn owner(number: u32) -> Owner {
    Owner::new(number, 0)
}

/// Tries `model` with a death at each operation, until there are so many lives that nobody dies, and once without any.
fn for_every_death(most: u32, model: impl Fn(Option<u32>) + Sync + Send + Copy + 'static) {
    for life in (0..most).map(Some).chain([None]) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(move || model(life));
    }
}
