//! What a task costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use broody::{Barrier, Pid, Pool, StartMethod, TaskOptions};
use broody_os::{fork, signals};
use rayon::prelude::*;

use crate::bare::{self, PingPong, pin, unpin};
use crate::measure::{Race, Table, Times};

const WORKERS: usize = 2;

fn add(x: u64) -> u64 {
    x + 1
}

/// Computes until the thread has used 1 ms of CPU time.
fn one_millisecond(_: u64) -> u64 {
    let start = cpu_time();
    let mut rounds = 0;
    while cpu_time() - start < Duration::from_millis(1) {
        rounds += (0..1000u64).map(black_box).sum::<u64>() & 1;
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
    const ONES: usize = 300_000;
    // procspawn keeps several descriptors for each task under way.
    const PEERS: usize = 2_000;
    let peer = procspawn::Pool::new(WORKERS).unwrap();
    let threads = rayon::ThreadPoolBuilder::new().num_threads(WORKERS).build().unwrap();
    let (mut map, mut imap, mut unordered, mut singly, mut theirs) = (0f64, 0f64, 0f64, 0f64, 0f64);
    let (mut ones, mut limit) = (0f64, 0f64);
    for _ in 0..5 {
        let start = Instant::now();
        let results = pool.map(add, 0..TASKS as u64).unwrap();
        map = map.max(per_second(TASKS, start.elapsed()));
        assert_eq!(results[TASKS - 1], TASKS as u64);

        let start = Instant::now();
        let results = pool.with(TaskOptions::new().chunk_size(1)).map(add, 0..ONES as u64).unwrap();
        ones = ones.max(per_second(ONES, start.elapsed()));
        assert_eq!(results[ONES - 1], ONES as u64);

        let start = Instant::now();
        let work = || (0..TASKS as u64).into_par_iter().map(|x| black_box(add(black_box(x)))).collect();
        let results: Vec<u64> = threads.install(work);
        limit = limit.max(per_second(TASKS, start.elapsed()));
        assert_eq!(results[TASKS - 1], TASKS as u64);

        let start = Instant::now();
        let sum: u64 = pool.imap(add, 0..TASKS as u64).unwrap().map(Result::unwrap).sum();
        imap = imap.max(per_second(TASKS, start.elapsed()));
        black_box(sum);

        let start = Instant::now();
        let sum: u64 = pool.imap_unordered(add, 0..TASKS as u64).unwrap().map(Result::unwrap).sum();
        unordered = unordered.max(per_second(TASKS, start.elapsed()));
        black_box(sum);

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
    let beside = format!(
        "procspawn 1.0.2, pool of {WORKERS}: {theirs:.0} tasks/s; rayon, without isolation: {:.0} million tasks/s",
        limit / 1e6
    );
    let row = |table: &mut Table, name: &str, figure: f64, target: &str| {
        table.row(name, format!("{figure:.0} tasks/s, **{:.0} x**", figure / theirs), beside.clone(), target);
    };
    row(table, "tiny tasks by `map`, pool of 2", map, "at least 500,000 tasks/s and 20 x");
    row(
        table,
        "tiny tasks by `map`, each handed over by itself (`chunk_size(1)`)",
        ones,
        "at least 300,000 tasks/s",
    );
    row(table, "tiny tasks by `imap`", imap, "");
    row(table, "tiny tasks by `imap_unordered`", unordered, "");
    row(table, "tiny tasks one by one, `apply_async`", singly, "");
}

fn long_tasks(table: &mut Table, pool: &Pool) {
    const TASKS: u64 = 1000;
    let per_second = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        TASKS as f64 / start.elapsed().as_secs_f64()
    };
    // Forks have the CPUs of who forks them.
    unpin(fork::pid());
    let mut race = Race::default();
    race.add("bare", || {
        per_second(&|| {
            let half = || (0..TASKS / WORKERS as u64).for_each(|x| assert!(one_millisecond(x) < u64::MAX));
            let halves: Vec<_> = (0..WORKERS).map(|_| broody::fork(half).unwrap()).collect();
            halves.iter().for_each(|half| half.join().unwrap());
        })
    });
    race.add("pool", || per_second(&|| drop(pool.map(one_millisecond, 0..TASKS).unwrap())));
    race.run(5);
    table.row(
        "tasks of 1 ms, 1000 of them, pool of 2",
        format!("**{:.1} % efficient**", 100.0 * race.ratio("pool", "bare")),
        format!(
            "the same work in {WORKERS} processes without a pool: {:.0} ms",
            1000.0 * TASKS as f64 / race.rate("bare")
        ),
        "at least 95 %",
    );
}

fn own_pid(_: ()) -> Pid {
    fork::pid()
}

/// From the SIGKILL of the only worker, which has nothing to do, to the result of a task that another one has run.
fn replacement(table: &mut Table) {
    for (name, method) in [("forkserver", StartMethod::Forkserver), ("fork", StartMethod::Fork)] {
        let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
        // The dying one may get as far as to begin a task.
        let pool = pool.with(TaskOptions::new().retries(1));
        let mut worker = pool.apply(own_pid, ()).unwrap();
        let mut times = Times::default();
        for _ in 0..50 {
            let dead = worker;
            times.time(|| {
                fork::kill_child(dead, signals::SIGKILL).unwrap();
                while worker == dead {
                    worker = pool.apply(own_pid, ()).unwrap();
                }
            });
        }
        table.row(
            &format!("worker killed, next result from another, `{name}`, p99"),
            format!("**{:.2} ms**", times.percentile(99) / 1000.0),
            format!("median {:.2} ms", times.median() / 1000.0),
            "under 5 ms",
        );
    }
}

/// What it takes to have many tasks wait.
struct Queued {
    /// Nanoseconds a task, to hand it in.
    handing_in: f64,
    /// Nanoseconds a task, until all have run and their results are there.
    running: f64,
    /// Bytes a task.
    memory: f64,
}

fn wait_at(barrier: Barrier) {
    barrier.wait(Some(Duration::from_secs(60))).unwrap();
}

/// In a process of its own, whose memory nobody has used before. Nanoseconds to hand in and to run so many tasks, and bytes.
fn queue(tasks: u64) -> (f64, f64, f64) {
    let pool = Pool::builder().workers(1).build().unwrap();
    pool.map(add, 0..1000).unwrap();
    let gate = Barrier::new(2).unwrap();
    let blocked = pool.apply_async(wait_at, gate.clone()).unwrap();
    let before = resident();
    let start = Instant::now();
    let results: Vec<_> = (0..tasks).map(|x| pool.apply_async(add, x).unwrap()).collect();
    let handing_in = start.elapsed();
    let memory = resident() - before;
    let start = Instant::now();
    wait_at(gate);
    results.iter().for_each(|result| assert!(result.get().unwrap() > 0));
    let running = start.elapsed();
    blocked.get().unwrap();
    (handing_in.as_nanos() as f64, running.as_nanos() as f64, memory as f64)
}

/// Bytes of this process that are in memory. Not from /proc/self/statm, which may be behind by some dozens of pages.
fn resident() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * 1024
}

/// The median of three runs in each figure.
fn queued(tasks: u64) -> Queued {
    let runs: Vec<_> = (0..3).map(|_| broody::spawn(queue, tasks).unwrap().join().unwrap()).collect();
    let middle = |figure: fn(&(f64, f64, f64)) -> f64| {
        let mut figures: Vec<_> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[1] / tasks as f64
    };
    Queued { handing_in: middle(|run| run.0), running: middle(|run| run.1), memory: middle(|run| run.2) }
}

fn long_queues(table: &mut Table) {
    let mut least = None;
    for (name, tasks) in [("1e3", 1_000), ("1e5", 100_000), ("1e6", 1_000_000)] {
        let Queued { handing_in, running, memory } = queued(tasks);
        let cost = (handing_in + running) / 1000.0;
        let least = *least.get_or_insert(cost);
        table.row(
            &format!("{name} tasks that wait, by `apply_async`: cost of each"),
            format!("{cost:.2} us, {:.2} x of 1e3; **{memory:.0} bytes**", cost / least),
            format!(
                "to hand in: {:.2} us; to run, 1 worker: {:.2} us",
                handing_in / 1000.0,
                running / 1000.0
            ),
            "",
        );
    }
}

pub fn run(table: &mut Table) {
    round_trips(table);
    let pool = Pool::builder().workers(WORKERS).build().unwrap();
    tiny_tasks(table, &pool);
    long_tasks(table, &pool);
    drop(pool);
    replacement(table);
    long_queues(table);
}
