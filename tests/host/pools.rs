//! Pools whose workers are killed, and pools that are left to the program's end.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broody::{AsyncResult, Error, ExitStatus, Pid, Pool};
use broody_os::pidfd::PidFd;
use broody_os::{proc, signals};
use broody_tests::{supervisor, tell_pids, wait_for_test};

use crate::family::idle;

/// How many kills there are to be.
const KILLS: usize = 200;

/// A generator of numbers that look random, by George Marsaglia (xorshift64, Journal of Statistical Software 8(14), 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Takes from nothing up to 2 ms, mostly little, and gives back its number, doubled.
fn work(number: u64) -> u64 {
    match number % 16 {
        0 => std::thread::sleep(Duration::from_millis(2)),
        1..4 => (0..20_000u32).for_each(|x| assert!(std::hint::black_box(x) < 20_000)),
        _ => {}
    }
    number * 2
}

/// Kills one of the pool's workers. `None` when there was none at that instant.
fn kill_one(pool: &Pool, random: &mut Random) -> Option<Pid> {
    let workers = pool.worker_pids();
    let pid = *workers.get(random.below(workers.len().max(1) as u64) as usize)?;
    let handle = PidFd::open(pid).ok()?;
    // The number may have been given away before it was opened: only what is the supervisor's child is ours.
    let ours = proc::stat(pid).unwrap().is_some_and(|stat| Some(stat.parent) == supervisor());
    (ours && handle.send_signal(signals::SIGKILL).unwrap_or(false)).then_some(pid)
}

/// Under load, workers are killed at random instants: every task ends once, with its result or with the loss of a worker that was
/// killed; with retries, with its result.
pub fn workers_are_killed(retries: u32, seed: u64) {
    let pool = Pool::builder().workers(3).retries(retries).build().unwrap();
    let (killed, enough) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    let (mut next, mut lost) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed.max(1));
            let mut kills = 0;
            while kills < KILLS {
                std::thread::sleep(Duration::from_micros(random.below(10_000)));
                // The lock is held from before the kill: whoever hears of the loss finds the pid.
                let mut killed = killed.lock().unwrap();
                if let Some(pid) = kill_one(&pool, &mut random) {
                    killed.insert(pid);
                    kills += 1;
                }
            }
            enough.store(true, Ordering::Relaxed);
        });
        let endless = (0u64..).take_while(|_| !enough.load(Ordering::Relaxed));
        for result in pool.imap(work, endless).unwrap() {
            match result {
                Ok(value) => assert_eq!(value, next * 2, "the results are in order and whole"),
                Err(Error::WorkerLost { pid, status, task }) => {
                    assert!(killed.lock().unwrap().contains(&pid), "{pid} was not killed");
                    assert_eq!((status, task), (ExitStatus::Signal(signals::SIGKILL), next));
                    lost += 1;
                }
                Err(other) => panic!("{other}"),
            }
            next += 1;
        }
    });
    println!("{next} tasks, {lost} lost, {KILLS} kills, seed {seed}");
    assert!(next > 1000, "there was load: {next} tasks");
    assert!(lost <= KILLS as u64);
    if retries > 100 {
        assert_eq!(lost, 0);
    }
    assert_eq!(pool.map(work, 0..100).unwrap().len(), 100);
}

/// Starts a pool with one busy worker, and tells the pids of its workers and of the supervisor.
fn start_a_busy_pool() -> (Pool, AsyncResult<()>) {
    let pool = Pool::builder().workers(2).build().unwrap();
    let running = pool.apply_async(idle, ()).unwrap();
    let mut pids = pool.worker_pids();
    pids.push(supervisor().unwrap());
    tell_pids(&pids);
    (pool, running)
}

/// The program ends without dropping its pool.
pub fn is_left_to_the_exit() {
    let (pool, _running) = start_a_busy_pool();
    wait_for_test();
    std::mem::forget(pool);
}

/// The pool lives until the program is killed.
pub fn idles() {
    let (_pool, running) = start_a_busy_pool();
    let _ = running.get();
}

/// A pool whose workers have more than enough to do, until somebody ends the program.
pub fn is_busy() {
    fn burn(_: u64) {
        loop {
            std::hint::spin_loop();
        }
    }
    let pool = Pool::builder().workers(2).build().unwrap();
    let result = pool.map_async(burn, 0..100).unwrap();
    broody_tests::tell_pids(&pool.worker_pids());
    let _ = result.get();
}
