//! Barriers, conditions and recursive locks, where something goes wrong.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use broody::{Barrier, BoundedSemaphore, Error, Event, Semaphore, wait};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_action_that_panics_breaks_the_barrier_for_all() {
    let barrier = Barrier::new(2).unwrap();
    std::thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| barrier.wait(Some(PATIENCE)));
        while barrier.waiting() == 0 {
            std::thread::yield_now();
        }
        let act = |barrier: Barrier| _ = barrier.wait_and(None, || panic!("in the action"));
        assert!(matches!(broody::spawn(act, barrier.clone()).unwrap().join(), Err(Error::Panicked { .. })));
        assert!(matches!(waiting.join().unwrap(), Err(Error::BrokenBarrier)));
        assert!(start.elapsed() < PATIENCE);
    });
    assert!(barrier.is_broken());
    barrier.reset().unwrap();
    assert!(!barrier.is_broken() && barrier.waiting() == 0);
}

#[test]
fn one_action_runs_in_each_phase_however_many_come() {
    const ROUNDS: u32 = 500;
    let barrier = Barrier::new(2).unwrap();
    let (actions, acting) = (AtomicU32::new(0), AtomicU32::new(0));
    let act = || {
        assert_eq!(acting.fetch_add(1, Ordering::SeqCst), 0, "two act at once");
        std::thread::sleep(Duration::from_micros(50));
        actions.fetch_add(1, Ordering::SeqCst);
        acting.fetch_sub(1, Ordering::SeqCst);
        true
    };
    let met = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // The last ones may have nobody left to meet: they stop when enough have met.
            scope.spawn(|| {
                while met.load(Ordering::SeqCst) < ROUNDS {
                    match barrier.wait_and(Some(Duration::from_secs(1)), act) {
                        Ok(_) => met.fetch_add(1, Ordering::SeqCst),
                        Err(_) => break,
                    };
                }
            });
        }
    });
    let (met, actions) = (met.into_inner(), actions.into_inner());
    assert!(met >= ROUNDS, "{met}");
    // Each action lets two go on; one of the last two may have given up in that instant.
    assert_eq!(actions, met.div_ceil(2));
}

#[test]
fn events_and_semaphores_are_waited_for_together() {
    let (event, semaphore) = (Event::new().unwrap(), Semaphore::new(0).unwrap());
    let permits = BoundedSemaphore::new(1).unwrap();
    assert!(permits.acquire(None).unwrap());
    let things: [&dyn broody::Waitable; 3] = [&event, &semaphore, &permits];
    assert!(wait(&things, Some(Duration::from_millis(20))).unwrap().is_empty());
    let (go, mut late) = (Semaphore::new(0).unwrap(), 0);
    fn change((event, semaphore, permits, go): (Event, Semaphore, BoundedSemaphore, Semaphore)) {
        for round in 0..30 {
            assert!(go.acquire(Some(PATIENCE)).unwrap());
            // So that whoever waits is asleep.
            std::thread::sleep(Duration::from_millis(5));
            match round % 3 {
                0 => event.set().unwrap(),
                1 => semaphore.release(1).unwrap(),
                _ => permits.release().unwrap(),
            }
        }
    }
    let arguments = (event.clone(), semaphore.clone(), permits.clone(), go.clone());
    let child = broody::spawn(change, arguments).unwrap();
    for round in 0..30 {
        go.release(1).unwrap();
        let start = Instant::now();
        assert_eq!(wait(&things, Some(PATIENCE)).unwrap(), [round % 3]);
        late += u32::from(start.elapsed() > Duration::from_millis(700));
        match round % 3 {
            0 => event.clear(),
            1 => assert!(semaphore.acquire(Some(Duration::ZERO)).unwrap()),
            _ => assert!(permits.acquire(Some(Duration::ZERO)).unwrap()),
        }
        assert!(wait(&things, Some(Duration::ZERO)).unwrap().is_empty());
    }
    child.join().unwrap();
    assert!(late <= 5, "{late} of 30: nobody rang");
}

#[test]
fn the_descriptor_of_an_event_follows_it() {
    use broody::Waitable;
    let event = Event::new().unwrap();
    let source = event.source().unwrap();
    let descriptor = source.as_fd().unwrap();
    let is_readable = || !wait(&[&descriptor], Some(Duration::ZERO)).unwrap().is_empty();
    assert!(!is_readable());
    event.set().unwrap();
    assert_eq!(wait(&[&descriptor], Some(PATIENCE)).unwrap(), [0]);
    event.clear();
    assert!(!is_readable());
}
