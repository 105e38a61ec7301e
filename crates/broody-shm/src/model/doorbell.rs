//! The doorbell of a link: a worker at its inbox, a caller at his worker's answers, the pool's thread at a descriptor.
//!
//! A link is outside of the arena: a death wakes nobody by itself. It is seen by the pool's thread, which takes what the dead worker had published and
//! rouses the caller; a worker whose host is dead is ended as well, or sees at the [bound](crate::sleep::BOUND) of its sleep what there is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::{Kernel, ModelWord, for_every_death, immortal, live, mortal_alone};
use crate::sleep::Doorbell;
use crate::sync::Word;

/// The bell's word. A store comes behind all that were executed before it, which is one of the orders that are tried.
///
/// Loom knows of two stores which one is the later by what has happened before them. It does not conclude from a read-modify-write, which lies directly behind
/// what it has read, that the next store of that other thread lies behind both, and so lets a ringer see his own swap after a fence that forbids it.
#[derive(Debug, Default)]
struct BellWord(ModelWord);

impl Word for BellWord {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.0.swap(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.0.swap(value, order)
    }

    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.0.compare_exchange(current, new, success, failure)
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.0.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.0.fetch_sub(value, order)
    }

    fn fence() {
        ModelWord::fence();
    }
}

const RECORDS: u32 = 2;

/// A ring that is long enough, and the bell of who takes from it.
#[derive(Default)]
struct Link {
    bell: Doorbell<BellWord>,
    tail: ModelWord,
    /// Not atomic: loom fails where a record is read that was not published.
    records: [UnsafeCell<u32>; RECORDS as usize],
}

impl Link {
    /// Publishes the next record and rings. Whether the descriptor is to be used.
    fn put(&self, kernel: &Kernel) -> bool {
        self.publish();
        self.bell.ring_with(7, |word| kernel.wake_some(&word.0, 1))
    }

    fn publish(&self) {
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: from tail on they are the producer's.
        self.records[tail as usize].with_mut(|record| unsafe { *record = tail + 1 });
        self.tail.store(tail + 1, Ordering::Release);
    }

    fn is_empty(&self, head: u32) -> bool {
        self.tail.load(Ordering::Relaxed) == head
    }

    /// Takes everything that there is, and looks at it.
    fn drain(&self, head: &mut u32) {
        let tail = self.tail.load(Ordering::Acquire);
        while *head < tail {
            // SAFETY: between head and tail they are the consumer's.
            let record = self.records[*head as usize].with(|record| unsafe { *record });
            *head += 1;
            assert_eq!(record, *head, "records come whole and in order");
        }
    }

    /// Between `attend` and `cancel`, as [`Doorbell::sleep`] does it.
    fn sleep(&self, kernel: &Kernel, looks: bool) {
        // A look that sees nothing is the end of looking, as after many of them.
        if !looks || self.bell.is_attended() {
            self.bell.sleep_with(|word, value| _ = kernel.sleep_on(0, &word.0, value));
        }
    }
}

#[test]
fn a_worker_does_not_sleep_through_a_record_however_it_looks() {
    for looks in [false, true] {
        for_every_death(16, move |life| {
            let (kernel, link) = (Arc::new(Kernel::default()), Arc::new(Link::default()));
            let host_is_dead = Arc::new(Mutex::new(false));
            let (theirs, their_kernel) = (link.clone(), kernel.clone());
            let (dead, bound) = (host_is_dead.clone(), kernel.clone());
            let host = mortal_alone(
                life,
                move || (0..RECORDS).for_each(|_| assert!(!theirs.put(&their_kernel))),
                move || {
                    *dead.lock().unwrap() = true;
                    bound.end_all_sleeps();
                },
            );
            let mut head = 0;
            loop {
                let was_dead = *host_is_dead.lock().unwrap();
                link.drain(&mut head);
                if head == RECORDS || was_dead {
                    break;
                }
                link.bell.attend();
                if link.is_empty(head) {
                    link.sleep(&kernel, looks);
                }
                link.bell.cancel();
            }
            let lived = host.join().unwrap();
            assert_eq!(head, link.tail.load(Ordering::SeqCst), "what was published is not lost");
            assert!(!lived || head == RECORDS);
        });
    }
}

/// What the pool's lock guards.
#[derive(Default)]
struct Slot {
    head: u32,
    has_sleeper: bool,
    /// The worker has ended, and what it left was taken.
    is_buried: bool,
}

#[derive(Default)]
struct Pool {
    kernel: Kernel,
    link: Link,
    slot: Mutex<Slot>,
}

impl Pool {
    /// The caller: at his worker's bell, until `wanted` answers are there or the worker is dead. How many there are.
    fn wait(&self, wanted: u32, looks: bool) -> u32 {
        loop {
            let mut slot = self.slot.lock().unwrap();
            self.link.bell.attend();
            slot.has_sleeper = self.link.is_empty(slot.head) && slot.head < wanted && !slot.is_buried;
            if slot.has_sleeper {
                drop(slot);
                self.link.sleep(&self.kernel, looks);
                slot = self.slot.lock().unwrap();
                slot.has_sleeper = false;
            }
            self.link.bell.listen();
            self.link.drain(&mut slot.head);
            if slot.head >= wanted || slot.is_buried {
                return slot.head;
            }
        }
    }

    /// Another thread of the host takes what there is.
    fn collect(&self, is_dead: bool) {
        let mut slot = self.slot.lock().unwrap();
        let before = slot.head;
        self.link.drain(&mut slot.head);
        slot.is_buried |= is_dead;
        if slot.has_sleeper && (slot.head > before || is_dead) {
            self.link.bell.rouse_with(|word| self.kernel.wake_some(&word.0, 1));
        }
    }

    /// The pool's thread, when its descriptor has told it of something: it listens again.
    fn be_told(&self) {
        self.collect(false);
        let mut slot = self.slot.lock().unwrap();
        if !slot.has_sleeper {
            self.link.bell.listen();
            self.link.drain(&mut slot.head);
        }
    }
}

/// The worker's part: rings after each answer.
fn answer(pool: &Pool) {
    for _ in 0..RECORDS {
        if pool.link.put(&pool.kernel) {
            immortal(|| pool.be_told());
        }
    }
}

#[test]
fn a_caller_gets_what_his_worker_has_published_and_sees_its_death() {
    for looks in [false, true] {
        for_every_death(16, move |life| {
            let pool = Arc::new(Pool::default());
            let (theirs, undertaker) = (pool.clone(), pool.clone());
            let worker = mortal_alone(life, move || answer(&theirs), move || undertaker.collect(true));
            let answered = pool.wait(RECORDS, looks);
            let lived = worker.join().unwrap();
            assert_eq!(answered, pool.link.tail.load(Ordering::SeqCst), "what was published is not lost");
            assert!(!lived || answered == RECORDS);
        });
    }
}

#[test]
fn a_caller_whose_answer_another_thread_takes_is_roused() {
    for_every_death(12, |life| {
        let pool = Arc::new(Pool::default());
        let (theirs, undertaker) = (pool.clone(), pool.clone());
        // It rings for the first answer only: it has more to do.
        let work = move || {
            if theirs.link.put(&theirs.kernel) {
                immortal(|| theirs.be_told());
            }
            theirs.link.publish();
            immortal(|| theirs.collect(false));
        };
        let worker = mortal_alone(life, work, move || undertaker.collect(true));
        let theirs = pool.clone();
        let other = thread::spawn(move || theirs.collect(false));
        let answered = pool.wait(RECORDS, true);
        other.join().unwrap();
        assert!(!worker.join().unwrap() || answered == RECORDS);
    });
}

#[test]
fn the_pools_thread_is_told_of_what_comes_when_a_caller_has_his_answer() {
    for looks in [false, true] {
        for_every_death(16, move |life| {
            let pool = Arc::new(Pool::default());
            let (theirs, undertaker) = (pool.clone(), pool.clone());
            let worker = mortal_alone(life, move || answer(&theirs), move || undertaker.collect(true));
            pool.wait(1, looks);
            worker.join().unwrap();
            let taken = pool.slot.lock().unwrap().head;
            assert_eq!(taken, pool.link.tail.load(Ordering::SeqCst), "somebody has taken all of it");
        });
    }
}

/// What the pool's thread sleeps on: the descriptor of its doorbell, and the worker's pidfd.
#[derive(Default)]
struct Poll {
    /// Whether the descriptor can be read, and whether the worker is dead.
    ready: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Poll {
    fn set(&self, set: impl FnOnce(&mut (bool, bool))) {
        set(&mut self.ready.lock().unwrap());
        self.changed.notify_one();
    }

    /// Waits for one of them. Whether the worker is dead.
    fn wait(&self) -> bool {
        let mut ready = self.ready.lock().unwrap();
        loop {
            match *ready {
                (_, true) => return true,
                (true, _) => {
                    ready.0 = false;
                    return false;
                }
                _ => ready = self.changed.wait(ready).unwrap(),
            }
        }
    }
}

#[test]
fn who_listens_is_told_of_every_record_or_of_a_death() {
    for_every_death(16, |life| {
        let (kernel, link, poll) =
            (Arc::new(Kernel::default()), Arc::new(Link::default()), Arc::new(Poll::default()));
        let (theirs, told, pidfd) = (link.clone(), poll.clone(), poll.clone());
        let answer = move || {
            for _ in 0..RECORDS {
                if theirs.put(&kernel) {
                    live();
                    told.set(|(is_readable, _)| *is_readable = true);
                }
            }
        };
        let worker = mortal_alone(life, answer, move || pidfd.set(|(_, is_dead)| *is_dead = true));
        let (mut head, mut is_dead) = (0, false);
        loop {
            link.bell.cancel();
            link.drain(&mut head);
            if head == RECORDS || is_dead {
                break;
            }
            link.bell.listen();
            if link.is_empty(head) {
                is_dead = poll.wait();
            }
        }
        let lived = worker.join().unwrap();
        assert_eq!(head, link.tail.load(Ordering::SeqCst), "what was published is not lost");
        assert!(!lived || head == RECORDS);
    });
}

#[test]
fn a_dead_sleeper_costs_its_ringer_one_wake_at_most() {
    for looks in [false, true] {
        for_every_death(6, move |life| {
            let (kernel, link) = (Arc::new(Kernel::default()), Arc::new(Link::default()));
            let (theirs, their_kernel) = (link.clone(), kernel.clone());
            // Rung in the end, so that it does not sleep for ever where it lives.
            let wait = move || {
                theirs.bell.attend();
                if theirs.is_empty(0) {
                    theirs.sleep(&their_kernel, looks);
                }
            };
            let sleeper = mortal_alone(life, wait, || {});
            link.put(&kernel);
            let lived = sleeper.join().unwrap();
            let wakes = std::cell::Cell::new(0);
            let ring = || assert!(!link.bell.ring_with(7, |_| wakes.set(wakes.get() + 1)));
            (0..2).for_each(|_| ring());
            assert!(wakes.get() <= 1 && !(lived && wakes.get() > 0));
        });
    }
}
