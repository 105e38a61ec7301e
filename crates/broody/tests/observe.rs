//! What a pool tells of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use broody::observe::What;
use broody::policy::Scheduling;
use broody::{Error, Pool, TaskOptions};

fn square(x: u64) -> u64 {
    x * x
}

fn abort(_: u64) -> u64 {
    std::process::abort()
}

#[test]
fn each_task_is_told_of_once_and_each_loss() {
    let pool = Pool::builder().workers(2).build().unwrap();
    assert_eq!(pool.map(square, 0..10).unwrap().len(), 10);
    let events = pool.events().unwrap();
    pool.map(square, 0..1000).unwrap();
    let lost = pool.with(TaskOptions::new().retries(1)).apply(abort, 7);
    assert!(matches!(lost, Err(Error::WorkerLost { task: 1010, .. })), "{lost:?}");
    pool.close().unwrap();
    pool.join().unwrap();
    let workers = pool.stats().started;
    drop(pool);
    let (mut ended, mut queued, mut leased, mut losses, mut retries) = (BTreeSet::new(), 0, 0, 0, 0);
    let (mut started, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        match event.what {
            What::Queued { tasks, function, .. } => {
                assert!(function.contains("square") || function.contains("abort"), "{function}");
                queued += tasks;
            }
            What::Leased { tasks, .. } => leased += tasks,
            What::Ended { task, took, cpu, peak, argument, result, failed, worker, .. } => {
                assert!(ended.insert(task), "task {task} ended twice");
                assert!(started.contains(&worker));
                assert!(!failed && argument > 0 && result > 0 && peak > 100_000);
                assert!(took < Duration::from_secs(60) && cpu < Duration::from_secs(60));
            }
            What::Lost { task, .. } => {
                assert_eq!(task, 1010);
                losses += 1;
            }
            What::Retried { task, retry } => {
                assert_eq!((task, retry), (1010, 1));
                retries += 1;
            }
            What::WorkerStarted { worker, .. } => _ = started.insert(worker),
            What::WorkerEnded { worker, .. } => _ = gone.insert(worker),
            other => panic!("{other:?}"),
        }
    }
    assert!(ended.into_iter().eq(10..1010));
    assert_eq!((queued, losses, retries), (1001, 2, 1));
    assert!(leased >= 1002, "what was taken back is leased again: {leased}");
    assert_eq!(started, gone);
    assert_eq!(started.len() as u64, workers);
}

#[test]
fn counts_add_up() {
    let pool = Pool::builder().workers(2).build().unwrap();
    pool.map(square, 0..100).unwrap();
    let failing = |x: u64| assert!(x % 10 != 3, "on purpose");
    pool.try_map(failing, 0..100).unwrap();
    pool.apply(abort, 0).unwrap_err();
    let stats = pool.stats();
    assert_eq!((stats.done, stats.failed, stats.lost, stats.retried), (201, 11, 1, 0));
    assert_eq!((stats.waiting, stats.leased, stats.paused), (0, 0, 0));
    assert!(stats.started >= 2);
}

#[test]
fn a_trace_is_a_timeline_of_the_tasks() {
    let quantum = Duration::from_millis(5);
    let pool = Pool::builder().workers(1).scheduling(Scheduling::RoundRobin { quantum }).build().unwrap();
    let mut trace = pool.trace().unwrap();
    let event = broody::Event::new().unwrap();
    let long = pool.apply_async(
        |event: broody::Event| {
            while !event.is_set() {
                std::hint::spin_loop();
            }
        },
        event.clone(),
    );
    let long = long.unwrap();
    pool.apply(square, 3).unwrap();
    event.set().unwrap();
    long.get().unwrap();
    assert!(pool.stats().preempted >= 1);
    let path = std::env::temp_dir().join(format!("broody-trace-{}.json", std::process::id()));
    trace.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = parsed["traceEvents"].as_array().unwrap();
    let bars = |name: &str| {
        let is_one =
            |entry: &&serde_json::Value| entry["ph"] == "X" && entry["name"].as_str().unwrap().contains(name);
        entries.iter().filter(is_one).count()
    };
    assert_eq!(bars("square"), 1);
    assert!(bars("paused") >= 1, "{text}");
    assert!(entries.iter().any(|entry| entry["name"] == "thread_name"));
    assert!(matches!(trace.write("/no/such/directory"), Err(Error::Os(_))));
}

#[test]
fn who_listens_no_more_is_forgotten() {
    let pool = Pool::builder().workers(1).build().unwrap();
    drop(pool.events().unwrap());
    pool.map(square, 0..100).unwrap();
    let events = pool.events().unwrap();
    pool.map(square, 0..5).unwrap();
    assert!(events.so_far().count() >= 5);
}

#[test]
fn progress_is_told_and_ends_with_all() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    let slow = |x: u64| {
        std::thread::sleep(Duration::from_millis(2));
        x
    };
    let with = pool.with(TaskOptions::new()).on_progress(move |done, all| sender.send((done, all)).unwrap());
    with.map(slow, 0..100).unwrap();
    let mut last = 0;
    loop {
        let (done, all) = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(done > last && all == 100);
        last = done;
        if done == all {
            return;
        }
    }
}

#[test]
fn events_end_with_the_pool_though_a_result_is_kept() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let (events, others) = (pool.events().unwrap(), pool.events().unwrap());
    let result = pool.apply_async(square, 3).unwrap();
    pool.close().unwrap();
    pool.join().unwrap();
    let introduced = |event: &broody::observe::Event| matches!(event.what, What::WorkerStarted { .. });
    assert_eq!(events.filter(introduced).count(), 1, "each listener is told once of a worker");
    assert_eq!(others.filter(introduced).count(), 1);
    assert_eq!(result.get().unwrap(), 9);
}
