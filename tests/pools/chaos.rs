//! Random deaths of workers, for each policy and start method.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broody::policy::Scheduling;
use broody::{Error, Pid, Pool, Slice, StartMethod, TaskOptions};
use broody_os::pidfd::PidFd;
use broody_os::signals::{SIGCONT, SIGKILL, SIGSTOP};
use broody_tests::{Random, observer, seed, within};
use rustix::process::{Resource, Rlimit, prlimit};

use super::{METHODS, are_gone};

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn tasks() -> u64 {
    number_from("BROODY_POOL_TASKS").unwrap_or(2000)
}

/// Of mixed length: most are tiny, some sleep, some burn, some need memory.
fn work(number: u64) -> u64 {
    match number % 100 {
        0 => std::thread::sleep(Duration::from_millis(4)),
        1..5 => {
            let end = Instant::now() + Duration::from_millis(1);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        5..10 => _ = std::hint::black_box(vec![number as u8; 4 << 20]),
        _ => {}
    }
    number
}

/// Does something bad to workers, again and again.
struct Killer<'a> {
    pool: &'a Pool,
    random: Random,
    victims: Vec<Pid>,
}

impl Killer<'_> {
    fn rage(mut self, over: &AtomicBool) -> Vec<Pid> {
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(2000 + self.random.below(3000)));
            self.strike();
        }
        self.victims
    }

    fn strike(&mut self) {
        let pids = self.pool.worker_pids();
        if pids.is_empty() {
            return;
        }
        let victim = pids[self.random.below(pids.len() as u64) as usize];
        let Ok(handle) = PidFd::open(victim) else { return };
        // Only now it is certain whose pid this is.
        if !self.pool.worker_pids().contains(&victim) {
            return;
        }
        self.victims.push(victim);
        match self.random.below(10) {
            0..2 => {
                let _ = handle.send_signal(SIGSTOP);
                std::thread::sleep(Duration::from_micros(self.random.below(8000)));
                let _ = handle.send_signal(SIGCONT);
            }
            2 => {
                // The next allocation fails, and with it the process.
                let limit = Rlimit { current: Some(1), maximum: None };
                let _ = prlimit(rustix::process::Pid::from_raw(victim), Resource::As, limit);
            }
            _ => _ = handle.send_signal(SIGKILL),
        }
    }
}

/// The results of all tasks, handed in by a map and one by one, while a killer rages. And whom he struck.
fn run(pool: &Pool, options: TaskOptions, seed: u64) -> (Vec<Result<u64, Error>>, Vec<Pid>) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = Killer { pool, random: Random::new(seed), victims: Vec::new() };
        let killer = scope.spawn(|| killer.rage(&over));
        let (pool, half) = (pool.with(options), tasks() / 2);
        let single: Vec<_> = (0..half).map(|number| pool.apply_async(work, number).unwrap()).collect();
        let others = pool.try_map(work, half..tasks()).unwrap();
        let results = single.into_iter().map(|result| result.get()).chain(others).collect();
        over.store(true, Ordering::Relaxed);
        (results, killer.join().unwrap())
    })
}

fn policies() -> [Scheduling; 4] {
    let quantum = Duration::from_millis(2);
    [
        Scheduling::Fcfs,
        Scheduling::Sjf,
        Scheduling::RoundRobin { quantum },
        Scheduling::Mlfq { levels: 3, quantum, boost: Duration::from_millis(50) },
    ]
}

fn every_task_ends_once(method: StartMethod) {
    let seed = number_from("BROODY_CHAOS_SEED").unwrap_or_else(seed);
    eprintln!("BROODY_CHAOS_SEED={seed}");
    for scheduling in policies() {
        let pool =
            Pool::builder().workers(4).start_method(method).scheduling(scheduling.clone()).build().unwrap();
        let (results, mut victims) = run(&pool, TaskOptions::new().retries(10_000), seed);
        for (number, result) in results.into_iter().enumerate() {
            let result = result.unwrap_or_else(|error| panic!("{scheduling}, {method:?}: {error}"));
            assert_eq!(result, number as u64);
        }
        let struck = victims.len();
        let before = pool.stats().lost;
        let (results, more) = run(&pool, TaskOptions::new(), seed + 1);
        let mut lost = 0;
        for (number, result) in results.into_iter().enumerate() {
            match result {
                Ok(result) => assert_eq!(result, number as u64),
                Err(Error::WorkerLost { task, .. }) => {
                    assert_eq!(task, tasks() + number as u64);
                    lost += 1;
                }
                Err(error) => panic!("{scheduling}, {method:?}: {error}"),
            }
        }
        assert_eq!(pool.stats().lost - before, lost);
        assert!(lost as usize <= more.len());
        eprintln!(
            "{scheduling}, {method:?}: {struck} + {} strikes, {lost} tasks lost without retries, {:?}",
            more.len(),
            pool.stats()
        );
        victims.extend(more);
        victims.extend(pool.worker_pids());
        drop(pool);
        are_gone(&victims);
    }
}

#[test]
fn every_task_ends_once_by_forkserver() {
    every_task_ends_once(METHODS[0]);
}

#[test]
fn every_task_ends_once_by_spawn() {
    every_task_ends_once(METHODS[1]);
}

#[test]
fn every_task_ends_once_by_fork() {
    every_task_ends_once(METHODS[2]);
}

/// Long bytes, and longer ones beside them.
type Message = (Vec<u8>, Vec<Slice<u8>>);

/// A task's long argument comes back longer.
fn lengthen((number, (mut bytes, mut slices)): (u64, Message)) -> (Vec<f64>, Message) {
    assert!(slices.iter().all(|slice| slice.iter().all(|byte| *byte == number as u8)));
    bytes.extend_from_within(..);
    slices.push(Slice::new(&vec![number as u8; 100_000]).unwrap());
    (bytes.iter().map(|byte| f64::from(*byte)).collect(), (bytes, slices))
}

#[test]
fn long_arguments_and_results_are_whole_or_gone_when_workers_die() {
    const LONG: usize = 80_000;
    let argument = |number: u64| {
        let slice = Slice::new(&vec![number as u8; 200_000]).unwrap();
        (number, (vec![number as u8; LONG], vec![slice]))
    };
    let check = |number: u64, (numbers, (bytes, slices)): (Vec<f64>, Message)| {
        assert!(numbers == vec![f64::from(number as u8); 2 * LONG]);
        assert!(bytes == vec![number as u8; 2 * LONG]);
        assert_eq!(slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [200_000, 100_000]);
        assert!(slices.iter().all(|slice| slice.iter().all(|byte| *byte == number as u8)));
    };
    let seed = number_from("BROODY_CHAOS_SEED").unwrap_or_else(seed);
    eprintln!("BROODY_CHAOS_SEED={seed}");
    // Without memory a task panics.
    let options = TaskOptions::new().retries(10_000).retry_errors(true);
    let pool = Pool::builder().workers(3).tasks(options).build().unwrap();
    check(1, pool.apply(lengthen, argument(1)).unwrap());
    let arena = observer();
    let before = arena.objects();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = Killer { pool: &pool, random: Random::new(seed), victims: Vec::new() };
        let killer = scope.spawn(|| killer.rage(&over));
        for round in 0..3 {
            let numbers = || round * 20..round * 20 + 20;
            let results = pool.map(lengthen, numbers().map(argument)).unwrap();
            numbers().zip(results).for_each(|(number, result)| check(number, result));
            let results = pool.imap(lengthen, numbers().map(argument)).unwrap();
            numbers().zip(results).take(15).for_each(|(number, result)| check(number, result.unwrap()));
        }
        over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
    });
    pool.close().unwrap();
    pool.join().unwrap();
    within(super::PATIENCE, "the end of all objects", || arena.objects() <= before);
}

#[test]
fn objects_in_results_are_there_or_gone_when_workers_die() {
    fn make(number: u64) -> Slice<u64> {
        Slice::new(&vec![number; 20_000]).unwrap()
    }
    let seed = number_from("BROODY_CHAOS_SEED").unwrap_or_else(seed);
    eprintln!("BROODY_CHAOS_SEED={seed}");
    // Without memory a task panics.
    let options = TaskOptions::new().retries(10_000).retry_errors(true);
    let pool = Pool::builder().workers(3).tasks(options).build().unwrap();
    pool.apply(make, 1).unwrap();
    let arena = observer();
    let objects = || arena.objects();
    let before = objects();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = Killer { pool: &pool, random: Random::new(seed), victims: Vec::new() };
        let killer = scope.spawn(|| killer.rage(&over));
        for round in 0..10 {
            let results = pool.map(make, round * 100..round * 100 + 100).unwrap();
            for (number, result) in results.iter().enumerate() {
                assert!(result.iter().all(|item| *item == round * 100 + number as u64));
            }
            for result in pool.imap_unordered(make, 0..50).unwrap().take(25) {
                result.unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
    });
    // What was under way for the iterators is done first.
    pool.close().unwrap();
    pool.join().unwrap();
    within(super::PATIENCE, "the end of all objects", || objects() <= before);
}
