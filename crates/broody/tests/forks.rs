//! Shared objects in forks of a program with threads and guards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broody::{Child, Queue, wait};

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
