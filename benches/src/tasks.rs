//! What a task costs.

use std::time::{Duration, Instant};

use broody::Pool;

use crate::bare::{self, PingPong, pin, unpin};
use crate::measure::{Table, Times};

const WORKERS: usize = 2;

fn add(x: u64) -> u64 {
    x + 1
}

/// Computes until the thread has used 1 ms of CPU time.
fn one_millisecond(_: u64) -> u64 {
    let start = cpu_time();
    let mut rounds = 0;
    while cpu_time() - start < Duration::from_millis(1) {
        rounds += (0..1000u64).map(std::hint::black_box).sum::<u64>() & 1;
    }
    rounds
}

fn cpu_time() -> Duration {
    bare::clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Where two processes run decides what it costs that they wake each other, ten times over on virtual machines: both are measured in
/// both places.
fn round_trips(table: &mut Table) {
    let pool = Pool::builder().workers(1).build().unwrap();
    let worker = pool.worker_pids()[0];
    for (place, other_cpu) in [("on one CPU", 0), ("on two CPUs", 1)] {
        let ball = PingPong::new();
        let rounds = 10_000;
        let other = broody::fork(|| ball.answer(rounds)).unwrap();
        pin(0, &[0]);
        pin(other.pid(), &[other_cpu]);
        pin(worker, &[other_cpu]);
        let (mut bare, mut apply) = (Times::default(), Times::default());
        for block in 0..rounds / 100 {
            (1..=100).for_each(|turn| bare.time(|| ball.go_round(block * 100 + turn)));
            for _ in 0..100 {
                apply.time(|| pool.apply(add, 1).unwrap());
            }
        }
        other.join().unwrap();
        unpin(0);
        table.row(
            &format!("one `apply`, round trip {place}, p50"),
            format!("{:.1} us, **{:.2} x bare**", apply.median(), apply.median() / bare.median()),
            format!("bare futex ping-pong between two processes: {:.1} us", bare.median()),
            "at most 3 x bare",
        );
    }
}

fn per_second(tasks: usize, time: Duration) -> f64 {
    tasks as f64 / time.as_secs_f64()
}

fn tiny_tasks(table: &mut Table, pool: &Pool) {
    const TASKS: usize = 1_000_000;
    // procspawn keeps several descriptors for each task under way.
    const PEERS: usize = 2_000;
    let peer = procspawn::Pool::new(WORKERS).unwrap();
    let (mut map, mut imap, mut unordered, mut singly, mut theirs) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for _ in 0..5 {
        let start = Instant::now();
        let results = pool.map(add, 0..TASKS as u64).unwrap();
        map = map.max(per_second(TASKS, start.elapsed()));
        assert_eq!(results[TASKS - 1], TASKS as u64);

        let start = Instant::now();
        let sum: u64 = pool.imap(add, 0..TASKS as u64).unwrap().map(Result::unwrap).sum();
        imap = imap.max(per_second(TASKS, start.elapsed()));
        std::hint::black_box(sum);

        let start = Instant::now();
        let sum: u64 = pool.imap_unordered(add, 0..TASKS as u64).unwrap().map(Result::unwrap).sum();
        unordered = unordered.max(per_second(TASKS, start.elapsed()));
        std::hint::black_box(sum);

        let start = Instant::now();
        let handles: Vec<_> = (0..PEERS as u64).map(|x| pool.apply_async(add, x).unwrap()).collect();
        handles.iter().for_each(|handle| assert!(handle.get().unwrap() > 0));
        singly = singly.max(per_second(PEERS, start.elapsed()));

        let start = Instant::now();
        let handles: Vec<_> = (0..PEERS as u64).map(|x| procspawn::spawn!(in peer, (x) || x + 1)).collect();
        handles.into_iter().for_each(|handle| assert!(handle.join().unwrap() > 0));
        theirs = theirs.max(per_second(PEERS, start.elapsed()));
    }
    peer.shutdown();
    let beside = format!("procspawn 1.0.2, pool of {WORKERS}: {theirs:.0} tasks/s");
    let row = |table: &mut Table, name: &str, figure: f64, target: &str| {
        table.row(name, format!("{figure:.0} tasks/s, **{:.0} x**", figure / theirs), beside.clone(), target);
    };
    row(table, "tiny tasks by `map`, pool of 2", map, "at least 500,000 tasks/s and 20 x");
    row(table, "tiny tasks by `imap`", imap, "");
    row(table, "tiny tasks by `imap_unordered`", unordered, "");
    row(table, "tiny tasks one by one, `apply_async`", singly, "");
}

fn long_tasks(table: &mut Table, pool: &Pool) {
    const TASKS: u64 = 1000;
    let (mut ours, mut bare) = (Times::default(), Times::default());
    for _ in 0..3 {
        bare.time(|| {
            let half = || (0..TASKS / WORKERS as u64).for_each(|x| assert!(one_millisecond(x) < u64::MAX));
            let halves: Vec<_> = (0..WORKERS).map(|_| broody::fork(half).unwrap()).collect();
            halves.iter().for_each(|half| half.join().unwrap());
        });
        ours.time(|| pool.map(one_millisecond, 0..TASKS).unwrap());
    }
    table.row(
        "tasks of 1 ms, 1000 of them, pool of 2",
        format!("**{:.1} % efficient**", 100.0 * bare.median() / ours.median()),
        format!("the same work in {WORKERS} processes without a pool: {:.0} ms", bare.median() / 1000.0),
        "at least 95 %",
    );
}

pub fn run(table: &mut Table) {
    round_trips(table);
    let pool = Pool::builder().workers(WORKERS).build().unwrap();
    tiny_tasks(table, &pool);
    long_tasks(table, &pool);
}
