//! What was handed to a pool and is taken back, stopped, or listened to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use broody::policy::Scheduling;
use broody::{Error, Imap, Pool, TaskOptions};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn square(x: u64) -> u64 {
    x * x
}

fn nap(milliseconds: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(milliseconds));
    milliseconds
}

fn forever(_: u64) -> u64 {
    loop {
        std::thread::sleep(PATIENCE);
    }
}

/// Says that it has begun.
fn begin_forever(begun: broody::Value<u64>) -> u64 {
    begun.fetch_add(1);
    forever(0)
}

fn pools(workers: usize) -> impl Iterator<Item = Pool> {
    ["fcfs", "sjf", "round_robin", "mlfq"].into_iter().map(move |policy| {
        let policy: Scheduling = policy.parse().unwrap();
        Pool::builder().workers(workers).scheduling(policy).build().unwrap()
    })
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_task_is_taken_back_only_before_it_begins() {
    for pool in pools(1) {
        let done = pool.apply_async(square, 3).unwrap();
        assert_eq!(done.get().unwrap(), 9);
        assert!(!done.revoke().unwrap(), "it is over");
        let running = pool.apply_async(forever, 0).unwrap();
        eventually(|| running.is_running());
        let waiting: Vec<_> = (0..50).map(|x| pool.apply_async(square, x).unwrap()).collect();
        assert!(!running.revoke().unwrap(), "it runs");
        // In whatever order.
        for index in [49, 0, 25, 1] {
            assert!(!waiting[index].is_running());
            assert!(waiting[index].revoke().unwrap());
            assert!(!waiting[index].revoke().unwrap(), "it has its answer");
            assert!(matches!(waiting[index].get(), Err(Error::Cancelled { .. })));
        }
        assert!(matches!(waiting[2].try_get(), Ok(None)));
        running.cancel().unwrap();
        for (index, task) in waiting.iter().enumerate().filter(|(index, _)| ![49, 0, 25, 1].contains(index)) {
            assert_eq!(task.get().unwrap(), square(index as u64));
        }
        assert_eq!(waiting[2].try_get().unwrap(), Some(4));
        let several = pool.map_async(square, [1, 2]).unwrap();
        assert!(matches!(several.revoke(), Err(Error::Invalid { .. })));
    }
}

#[test]
fn everything_that_has_not_begun_is_given_up_and_the_rest_is_done() {
    for pool in pools(2) {
        let running: Vec<_> = (0..2).map(|_| pool.apply_async(nap, 300).unwrap()).collect();
        eventually(|| running.iter().all(|task| task.is_running()));
        let single = pool.apply_async(square, 1).unwrap();
        let many = pool.map_async(square, 0..1000).unwrap();
        let mut stream = pool.imap(square, 0..1000).unwrap();
        stream.begin();
        assert!(pool.cancel_waiting().unwrap() > 1000);
        assert!(matches!(single.get(), Err(Error::Cancelled { .. })));
        assert!(matches!(many.get(), Err(Error::Cancelled { .. })));
        assert!(matches!(stream.next(), Some(Err(Error::Cancelled { .. }))));
        drop(stream);
        for task in running {
            assert_eq!(task.get().unwrap(), 300);
        }
        assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
        pool.close().unwrap();
        pool.join().unwrap();
    }
}

#[test]
fn tasks_that_wait_for_another_try_are_given_up_too() {
    fn die(_: ()) {
        std::process::abort()
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    let options = TaskOptions::new().retries(10).backoff(PATIENCE);
    let dying = pool.with(options).apply_async(die, ()).unwrap();
    eventually(|| pool.stats().retried == 1);
    assert_eq!(pool.cancel_waiting().unwrap(), 1);
    assert!(matches!(dying.get(), Err(Error::Cancelled { .. })));
}

#[test]
fn an_iterator_that_is_stopped_gives_what_is_under_way_and_says_why_it_ends() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut endless = pool.imap(square, 0..).unwrap();
    assert_eq!(endless.next().unwrap().unwrap(), 0);
    pool.close().unwrap();
    assert!(!pool.join_timeout(Duration::from_millis(50)).unwrap(), "there may be more to come");
    endless.stop();
    pool.join().unwrap();
    let rest: Vec<_> = endless.collect();
    let (last, others) = rest.split_last().unwrap();
    assert!(matches!(last, Err(Error::PoolClosed)));
    assert!(others.iter().zip(1..).all(|(result, x)| *result.as_ref().unwrap() == square(x)));
}

#[test]
fn an_iterator_that_is_cancelled_ends_what_runs() {
    for pool in pools(2) {
        let begun = broody::Value::new(0u64).unwrap();
        let mut results = pool.imap_unordered(begin_forever, std::iter::repeat(begun.clone())).unwrap();
        results.begin();
        eventually(|| begun.get().unwrap() >= 1);
        let before = pool.worker_pids();
        results.cancel().unwrap();
        assert!(results.next().is_none());
        eventually(|| pool.worker_pids().iter().any(|pid| !before.contains(pid)));
        assert_eq!(pool.map(square, 0..10).unwrap().len(), 10);
        pool.close().unwrap();
        pool.join().unwrap();
    }
}

#[test]
fn what_an_iterator_has_handed_in_is_done_if_it_is_to_be() {
    let counted = broody::Value::new(0u64).unwrap();
    fn count(counted: broody::Value<u64>) {
        counted.fetch_add(1);
    }
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut kept = pool.imap(count, std::iter::repeat_with(|| counted.clone()).take(500)).unwrap();
    kept.hand_in_all();
    kept.keep_going(true);
    drop(kept);
    pool.close().unwrap();
    pool.join().unwrap();
    assert_eq!(counted.get().unwrap(), 500);
}

/// Takes everything without waiting: only when it is told that there is something.
fn take_when_told(mut results: Imap<impl Iterator<Item = u64>, u64>) -> Vec<u64> {
    let (tell, told) = mpsc::channel();
    let mut taken = Vec::new();
    loop {
        match results.next_timeout(Duration::ZERO) {
            Some(Some(result)) => taken.push(result.unwrap()),
            Some(None) => return taken,
            None => {
                let tell = tell.clone();
                results.on_ready(move || tell.send(()).unwrap()).unwrap();
                told.recv_timeout(PATIENCE).expect("nobody has told");
            }
        }
    }
}

#[test]
fn an_iterator_tells_when_there_is_something() {
    let pool = Pool::builder().workers(2).build().unwrap();
    assert_eq!(
        take_when_told(pool.imap(square, 0..5000).unwrap()),
        (0..5000).map(square).collect::<Vec<_>>()
    );
    assert_eq!(take_when_told(pool.imap(nap, [20, 1, 1]).unwrap()), [20, 1, 1]);
    assert_eq!(take_when_told(pool.imap_unordered(nap, [100, 1]).unwrap()), [1, 100]);
    assert!(take_when_told(pool.imap(square, []).unwrap()).is_empty());
    // Also of its end by that of the pool.
    let (tell, told) = mpsc::channel();
    let mut lost = pool.imap(forever, [1]).unwrap();
    lost.on_ready(move || tell.send(()).unwrap()).unwrap();
    pool.terminate().unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(lost.next(), Some(Err(Error::PoolTerminated { .. }))));
}

#[test]
fn callbacks_can_be_waited_for() {
    let pool = Arc::new(Pool::builder().workers(2).build().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..100).map(|x| pool.apply_async(square, x).unwrap()).collect();
    for task in &tasks {
        let (count, pool) = (count.clone(), pool.clone());
        task.when_done(move || {
            std::thread::sleep(Duration::from_millis(1));
            count.fetch_add(1, Ordering::Relaxed);
            // One of them does not wait for itself.
            assert!(pool.await_callbacks(PATIENCE).unwrap());
        })
        .unwrap();
    }
    for task in &tasks {
        task.get().unwrap();
    }
    assert!(pool.await_callbacks(PATIENCE).unwrap());
    assert_eq!(count.load(Ordering::Relaxed), 100);
    let slow = pool.apply_async(square, 1).unwrap();
    slow.when_done(|| std::thread::sleep(Duration::from_millis(500))).unwrap();
    slow.get().unwrap();
    assert!(!pool.await_callbacks(Duration::from_millis(20)).unwrap());
}

#[test]
fn workers_may_be_asked_to_end() {
    fn deaf(begun: broody::Value<u64>) -> u64 {
        broody_os::signals::set_disposition(
            broody_os::signals::SIGTERM,
            broody_os::signals::Disposition::Ignore,
        );
        begin_forever(begun)
    }
    for (is_deaf, grace) in [(false, PATIENCE), (true, Duration::from_millis(300))] {
        let pool = Pool::builder().workers(2).build().unwrap();
        let begun = broody::Value::new(0u64).unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|_| match is_deaf {
                true => pool.apply_async(deaf, begun.clone()),
                false => pool.apply_async(begin_forever, begun.clone()),
            })
            .map(Result::unwrap)
            .collect();
        eventually(|| begun.get().unwrap() == 2);
        let began = Instant::now();
        let undone = pool.terminate_within(grace).unwrap();
        assert_eq!((undone.begun, undone.waiting), (2, 2));
        assert!(tasks.iter().all(|task| matches!(task.get(), Err(Error::PoolTerminated { .. }))));
        pool.join().unwrap();
        assert!(began.elapsed() < PATIENCE / 2);
        assert!(!is_deaf || began.elapsed() >= grace);
    }
}
