//! Shared objects in forks of a program with threads and guards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broody::{Array, Child, Error, Lock, LockError, Queue, RLock, wait};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

fn ends(child: &Child<()>) -> bool {
    !wait(&[child], Some(PATIENCE)).unwrap().is_empty()
}

#[test]
fn a_fork_uses_a_queue_whose_watch_another_thread_was_using() {
    let queue = Queue::<u32>::new().unwrap();
    assert!(wait(&[&queue], Some(Duration::ZERO)).unwrap().is_empty());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = queue.try_get();
            }
        });
        let in_time = (0..200).all(|_| {
            let child = broody::fork(|| _ = queue.try_get()).unwrap();
            let in_time = ends(&child);
            if !in_time {
                child.kill().unwrap();
            }
            in_time
        });
        over.store(true, Ordering::Relaxed);
        assert!(in_time, "a fork hangs");
    });
}

#[test]
fn a_fork_watches_a_queue_that_its_parent_watches() {
    let queue = Queue::<u32>::new().unwrap();
    assert!(wait(&[&queue], Some(Duration::ZERO)).unwrap().is_empty());
    let child = broody::fork(|| {
        assert!(wait(&[&queue], Some(Duration::ZERO)).unwrap().is_empty());
        assert_eq!(wait(&[&queue], Some(PATIENCE)).unwrap(), [0]);
        queue.get().unwrap()
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(20));
    queue.put(7).unwrap();
    assert_eq!(child.join().unwrap(), 7);
    assert!(wait(&[&queue], Some(Duration::ZERO)).unwrap().is_empty());
}

fn panics_about_the_guard<R: serde::Serialize + serde::de::DeserializeOwned>(child: Child<R>) {
    match child.join() {
        Err(Error::Panicked { message, .. }) => assert!(message.contains("guard"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the value was reached without the lock"),
    }
}

#[test]
fn a_guard_in_a_fork_does_not_reach_the_value() {
    let lock = Lock::new(0u64).unwrap();
    let mut guard = lock.lock().unwrap();
    panics_about_the_guard(broody::fork(move || *guard += 1).unwrap());
    let guard = lock.lock().unwrap();
    panics_about_the_guard(broody::fork(|| *guard).unwrap());
    assert_eq!(*guard, 0);
    let array = Array::new(&[1u32, 2]).unwrap();
    let mut guard = array.lock().unwrap();
    panics_about_the_guard(broody::fork(move || guard.set(0, 5).unwrap()).unwrap());
    assert_eq!(array.get(0).unwrap(), 1);
}

#[test]
fn a_guard_in_a_fork_does_not_give_back_what_the_fork_has_taken_since() {
    let (lock, array, recursive) =
        (Lock::new(0u8).unwrap(), Array::new(&[0u8]).unwrap(), RLock::new().unwrap());
    let guards = (lock.lock().unwrap(), array.lock().unwrap(), recursive.lock().unwrap());
    let (lock, array, recursive) = (&lock, &array, &recursive);
    let child = broody::fork(move || {
        // The parent gives its own back, as it was moved out of there, and these are copies.
        let _here = (lock.lock().unwrap(), array.lock().unwrap(), recursive.lock().unwrap());
        drop(guards);
        let is_held = std::thread::scope(|scope| {
            let look =
                || (matches!(array.lock_timeout(Duration::ZERO), Err(LockError::TimedOut)), lock.is_locked());
            scope.spawn(look).join().unwrap()
        });
        (is_held, recursive.depth())
    })
    .unwrap();
    assert_eq!(child.join().unwrap(), ((true, true), 1));
}
