//! Models of the protocols, checked by loom: every interleaving of a few threads, and every value that the memory model lets a load see.
//!
//! A *death* is a thread that stops before one of its operations on shared words, for good and without any cleaning up. Each model is tried for
//! a death at every operation; then the repair runs, and the broadcast, and whoever is left must get on. Sleeps have no bound here: a lost
//! wake-up is a deadlock, which loom reports.

// Loom's threads are all on one thread of the kernel's.
#![allow(clippy::arc_with_non_send_sync)]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::owner::Owner;
use crate::queue::sleepers::Sleepers;
use crate::robust::condition::{self, Condition, Line, Lines};
use crate::robust::event::Event;
use crate::robust::lock::LockWord;
use crate::robust::semaphore::Semaphore;
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
        if word.0.load(Ordering::SeqCst) != value {
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
/// Gives whether it lived. What `work` captures is in std's `Arc`s: dying drops them, and must not be seen by loom as something that
/// the thread does.
fn mortal(
    kernel: Arc<Kernel>,
    life: Option<u32>,
    work: impl FnOnce() + 'static,
    repair: impl FnOnce() + 'static,
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
                repair();
                kernel.broadcast();
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

#[test]
fn a_lock_excludes_and_survives_its_holder_at_every_operation() {
    for_every_death(6, |life| {
        let kernel = Arc::new(Kernel::default());
        let lock = Arc::new(LockWord::<ModelWord>::default());
        // Not atomic: loom fails where two threads touch it without an order between them.
        let guarded = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let (theirs, their_data, their_kernel) = (lock.clone(), guarded.clone(), kernel.clone());
        let to_repair = lock.clone();
        let mortal = mortal(
            kernel.clone(),
            life,
            move || {
                let parking = Thread(&their_kernel, 1);
                theirs.acquire(owner(1), &parking, Deadline::Never).unwrap();
                // SAFETY: under the lock.
                their_data.with_mut(|data| unsafe { *data += 1 });
                assert!(theirs.release(owner(1), &parking));
            },
            move || _ = to_repair.repair(owner(1)),
        );
        let parking = Thread(&kernel, 0);
        for _ in 0..2 {
            lock.acquire(owner(0), &parking, Deadline::Never).unwrap();
            // SAFETY: under the lock.
            guarded.with_mut(|data| unsafe { *data += 1 });
            assert!(lock.release(owner(0), &parking));
        }
        mortal.join().unwrap();
        assert!(lock.try_acquire(owner(0)).is_some());
    });
}

#[test]
fn a_lock_wakes_both_of_two_sleepers() {
    for_every_death(5, |life| {
        let kernel = Arc::new(Kernel::default());
        let lock = Arc::new(LockWord::<ModelWord>::default());
        lock.try_acquire(owner(0)).unwrap();
        let spawn = |number: u32, life| {
            let (theirs, their_kernel, to_repair) = (lock.clone(), kernel.clone(), lock.clone());
            mortal(
                kernel.clone(),
                life,
                move || {
                    let parking = Thread(&their_kernel, number as usize);
                    theirs.acquire(owner(number), &parking, Deadline::Never).unwrap();
                    theirs.release(owner(number), &parking);
                },
                move || _ = to_repair.repair(owner(number)),
            )
        };
        let (first, second) = (spawn(1, life), spawn(2, None));
        lock.release(owner(0), &Thread(&kernel, 0));
        first.join().unwrap();
        assert!(second.join().unwrap());
    });
}

#[test]
fn a_semaphores_token_reaches_a_sleeper() {
    for_every_death(8, |life| {
        let kernel = Arc::new(Kernel::default());
        let semaphore = Arc::new(Semaphore::<ModelWord>::default());
        let (theirs, their_kernel) = (semaphore.clone(), kernel.clone());
        let taker = mortal(
            kernel.clone(),
            life,
            move || theirs.acquire(&Thread(&their_kernel, 1), Deadline::Never).unwrap(),
            || {},
        );
        let (theirs, their_kernel) = (semaphore.clone(), kernel.clone());
        let other =
            thread::spawn(move || theirs.acquire(&Thread(&their_kernel, 2), Deadline::Never).unwrap());
        // One for each, whether or not the first one lives to take it.
        semaphore.release(&Thread(&kernel, 0), 1).unwrap();
        semaphore.release(&Thread(&kernel, 0), 1).unwrap();
        other.join().unwrap();
        taker.join().unwrap();
    });
}

#[test]
fn an_event_wakes_its_waiters() {
    for_every_death(6, |life| {
        let kernel = Arc::new(Kernel::default());
        let event = Arc::new(Event::<ModelWord>::default());
        let (theirs, their_kernel) = (event.clone(), kernel.clone());
        let setter = mortal(kernel.clone(), life, move || theirs.set(&Thread(&their_kernel, 1)), || {});
        let (theirs, their_kernel) = (event.clone(), kernel.clone());
        let waiter = thread::spawn(move || assert!(theirs.wait(&Thread(&their_kernel, 2), Deadline::Never)));
        if !setter.join().unwrap() {
            event.set(&Thread(&kernel, 0));
        }
        waiter.join().unwrap();
    });
}

struct Table {
    lines: [Line<ModelWord>; 2],
    tickets: AtomicU32,
}

impl Lines<ModelWord> for Table {
    fn lines(&self) -> impl Iterator<Item = &Line<ModelWord>> {
        self.lines.iter()
    }

    fn next_ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed).into()
    }
}

/// Two wait for a flag under a lock, one of them mortal. One notification is given; who has used it gives the next one.
#[test]
fn a_notification_that_a_dead_waiter_had_got_is_passed_on() {
    for_every_death(16, |life| {
        let kernel = Arc::new(Kernel::default());
        let lock = Arc::new(LockWord::<ModelWord>::default());
        let condition = Arc::new(Condition::<ModelWord>::default());
        let table = Arc::new(Table { lines: Default::default(), tickets: AtomicU32::new(0) });
        let flag = Arc::new(loom::cell::UnsafeCell::new(false));
        // Seen by nobody but this test: the mortal one has used its notification.
        let used = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let waiter = {
            let (lock, condition, table) = (lock.clone(), condition.clone(), table.clone());
            let (flag, kernel, used) = (flag.clone(), kernel.clone(), used.clone());
            move |number: usize| {
                let (parking, me) = (Thread(&kernel, number), owner(number as u32));
                lock.acquire(me, &parking, Deadline::Never).unwrap();
                // SAFETY: under the lock.
                while !flag.with(|flag| unsafe { *flag }) {
                    let release = || assert!(lock.release(me, &parking));
                    let sleep = |word: &ModelWord, value| kernel.sleep_on(number, word, value);
                    assert!(condition.wait(&*table, &table.lines[number], 5, release, sleep, || {}));
                    lock.acquire(me, &parking, Deadline::Never).unwrap();
                    // From here on the notification is used: who gets the lock of a dead holder is told.
                    if number == 1 {
                        used.store(true, Ordering::SeqCst);
                    }
                    table.lines[number].clear();
                }
                condition.notify(&*table, 5, 1, |word| parking.wake(word, 1));
                lock.release(me, &parking);
            }
        };
        let (first, second) = (waiter.clone(), waiter);
        let (dead_lock, dead_table) = (lock.clone(), table.clone());
        let mortal = mortal(
            kernel.clone(),
            life,
            move || first(1),
            move || {
                // As the arena does it.
                dead_lock.repair(owner(1));
                let pass_on = |index| _ = condition::notify_waiters(&*dead_table, index, 1, |_| {});
                dead_table.lines[1].bury(pass_on);
            },
        );
        let immortal = thread::spawn(move || second(0));
        let parking = Thread(&kernel, 2);
        let notify = || {
            let acquired = lock.acquire(owner(2), &parking, Deadline::Never).unwrap();
            // SAFETY: under the lock.
            flag.with_mut(|flag| unsafe { *flag = true });
            condition.notify(&*table, 5, 1, |word| parking.wake(word, 1));
            lock.release(owner(2), &parking);
            acquired
        };
        notify();
        if !mortal.join().unwrap() && used.load(Ordering::SeqCst) {
            notify();
        }
        immortal.join().unwrap();
    });
}

/// A queue's way to put and take, with one slot for a message.
#[derive(Default)]
struct Ring {
    tx: LockWord<ModelWord>,
    rx: LockWord<ModelWord>,
    tail: ModelWord,
    head: ModelWord,
    items: Sleepers<ModelWord>,
    messages: [loom::cell::UnsafeCell<u32>; 4],
}

impl Ring {
    fn put(&self, me: Owner, parking: &Thread<'_>, message: u32) {
        self.tx.acquire(me, parking, Deadline::Never).unwrap();
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: between tail and head, under the lock of putters.
        self.messages[tail as usize].with_mut(|place| unsafe { *place = message });
        self.tail.store(tail + 1, Ordering::Release);
        self.tx.release(me, parking);
        ModelWord::fence();
        self.items.wake(parking, 1);
    }

    fn take(&self, me: Owner, parking: &Thread<'_>) -> u32 {
        loop {
            self.rx.acquire(me, parking, Deadline::Never).unwrap();
            let head = self.head.load(Ordering::Relaxed);
            let taken = (head != self.tail.load(Ordering::Acquire)).then(|| {
                // SAFETY: between head and tail, under the lock of takers.
                let message = self.messages[head as usize].with(|place| unsafe { *place });
                self.head.store(head + 1, Ordering::Release);
                message
            });
            self.rx.release(me, parking);
            if let Some(message) = taken {
                return message;
            }
            let look = || self.head.load(Ordering::Acquire) != self.tail.load(Ordering::Acquire);
            self.items.sleep(look, |word, value| parking.sleep(word, value, Deadline::Never));
        }
    }

    fn repair(&self, dead: Owner) {
        self.tx.repair(dead);
        self.rx.repair(dead);
        self.items.repair();
    }
}

#[test]
fn a_message_is_whole_and_reaches_the_taker_whatever_becomes_of_another_putter() {
    for_every_death(24, |life| {
        let kernel = Arc::new(Kernel::default());
        let ring = Arc::new(Ring::default());
        let (theirs, their_kernel, to_repair) = (ring.clone(), kernel.clone(), ring.clone());
        let putter = mortal(
            kernel.clone(),
            life,
            move || theirs.put(owner(1), &Thread(&their_kernel, 1), 7),
            move || to_repair.repair(owner(1)),
        );
        let (theirs, their_kernel) = (ring.clone(), kernel.clone());
        let taker = thread::spawn(move || theirs.take(owner(2), &Thread(&their_kernel, 2)));
        if !putter.join().unwrap() {
            // It may have published before it died.
            ring.put(owner(0), &Thread(&kernel, 0), 7);
        }
        assert_eq!(taker.join().unwrap(), 7);
    });
}

#[test]
fn a_message_whose_taker_dies_is_taken_by_another_or_was_taken() {
    for_every_death(24, |life| {
        let kernel = Arc::new(Kernel::default());
        let ring = Arc::new(Ring::default());
        ring.put(owner(0), &Thread(&kernel, 0), 1);
        let (theirs, their_kernel, to_repair) = (ring.clone(), kernel.clone(), ring.clone());
        let mortal = mortal(
            kernel.clone(),
            life,
            move || _ = theirs.take(owner(1), &Thread(&their_kernel, 1)),
            move || to_repair.repair(owner(1)),
        );
        let (theirs, their_kernel) = (ring.clone(), kernel.clone());
        let other = thread::spawn(move || theirs.take(owner(2), &Thread(&their_kernel, 2)));
        ring.put(owner(0), &Thread(&kernel, 0), 2);
        let got = other.join().unwrap();
        let lived = mortal.join().unwrap();
        assert!(got == 1 || got == 2);
        // One message each; what the dead one had not taken is still there.
        let taken = ring.head.load(Ordering::SeqCst);
        assert!(taken == 2 || (!lived && taken == 1), "{taken} taken");
    });
}
