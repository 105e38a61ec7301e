//! Locks, semaphores, events, conditions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::{Kernel, ModelWord, Thread, for_every_death, mortal, owner};
use crate::robust::condition::{self, Condition, Line, Lines};
use crate::robust::event::Event;
use crate::robust::lock::LockWord;
use crate::robust::semaphore::Semaphore;
use crate::sync::{Deadline, Parking};

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
