//! Policies in pools of real processes. What each does with a given load is told by their own tests, in virtual time.

use std::time::Duration;

use broody::policy::Scheduling;
use broody::{BareLock, Error, Event, Pool, Queue, TaskOptions};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn scheduled(scheduling: Scheduling, workers: usize) -> Pool {
    Pool::builder().workers(workers).scheduling(scheduling).build().unwrap()
}

fn note((number, order): (u32, Queue<u32>)) {
    order.put(number).unwrap();
}

fn wait_for(event: Event) -> bool {
    event.wait(Some(PATIENCE)).unwrap()
}

/// Keeps a CPU busy until the event is set.
fn burn_until(event: Event) {
    while !event.is_set() {
        std::hint::spin_loop();
    }
}

/// The order in which tasks run that are handed in while the only worker is busy.
fn order_of(pool: &Pool, tasks: &[(u32, TaskOptions)]) -> Vec<u32> {
    let (gate, order) = (Event::new().unwrap(), Queue::new().unwrap());
    // One runs, and one more may have been given to the worker beside it.
    let before: Vec<_> = (0..2).map(|_| pool.apply_async(wait_for, gate.clone()).unwrap()).collect();
    let results: Vec<_> = tasks
        .iter()
        .map(|(number, options)| {
            pool.with(options.clone()).apply_async(note, (*number, order.clone())).unwrap()
        })
        .collect();
    gate.set().unwrap();
    before.into_iter().for_each(|result| assert!(result.get().unwrap()));
    results.into_iter().for_each(|result| result.get().unwrap());
    (0..tasks.len()).map(|_| order.try_get().unwrap()).collect()
}

#[test]
fn short_jobs_go_first_and_high_priorities_before_them() {
    let cost = |seconds| TaskOptions::new().cost(seconds);
    let pool = scheduled(Scheduling::Sjf, 1);
    let tasks = [(3, cost(3.0)), (1, cost(1.0)), (2, cost(2.0)), (0, cost(9.0).priority(1))];
    assert_eq!(order_of(&pool, &tasks), [0, 1, 2, 3]);
    let pool = scheduled(Scheduling::Fcfs, 1);
    let plain = TaskOptions::new();
    let tasks =
        [(2, plain.clone()), (3, plain.clone()), (0, plain.clone().priority(7)), (1, plain.priority(7))];
    assert_eq!(order_of(&pool, &tasks), [0, 1, 2, 3]);
}

#[test]
fn tasks_take_turns_on_one_worker() {
    let quantum = Duration::from_millis(10);
    let policies = [
        Scheduling::RoundRobin { quantum },
        Scheduling::Mlfq { levels: 3, quantum, boost: Duration::from_millis(500) },
    ];
    for scheduling in policies {
        let pool = scheduled(scheduling, 1);
        let event = Event::new().unwrap();
        // It goes on until another one has run, for which there is only its own worker.
        let long = pool.apply_async(burn_until, event.clone()).unwrap();
        let setter = |event: Event| event.set().unwrap();
        pool.apply(setter, event).unwrap();
        long.get().unwrap();
        // Tiny ones go through as well.
        assert_eq!(pool.map(|x: u64| x + 1, 0..5000).unwrap(), (1..=5000).collect::<Vec<u64>>());
        pool.close().unwrap();
        pool.join().unwrap();
    }
}

#[test]
fn no_more_are_stopped_than_there_are_spare_processes() {
    let quantum = Duration::from_millis(5);
    let pool =
        Pool::builder().workers(1).spares(1).scheduling(Scheduling::RoundRobin { quantum }).build().unwrap();
    let events: Vec<Event> = (0..4).map(|_| Event::new().unwrap()).collect();
    let results: Vec<_> =
        events.iter().map(|event| pool.apply_async(burn_until, event.clone()).unwrap()).collect();
    for (event, result) in events.iter().zip(&results) {
        assert!(pool.worker_pids().len() <= 2);
        event.set().unwrap();
        result.get().unwrap();
    }
}

#[test]
fn long_ones_make_room_for_a_short_one_as_long_as_there_are_spares() {
    fn begin((begun, end): (Queue<u32>, Event)) {
        begun.put(1).unwrap();
        burn_until(end);
    }
    let pool = scheduled(Scheduling::mlfq(), 1);
    let (begun, end) = (Queue::new().unwrap(), Event::new().unwrap());
    // One less than there are processes: 1, and 9 to spare.
    let long: Vec<_> =
        (0..9).map(|_| pool.apply_async(begin, (begun.clone(), end.clone())).unwrap()).collect();
    (0..9).for_each(|_| assert_eq!(begun.get_timeout(PATIENCE).unwrap(), 1));
    assert_eq!(pool.apply(|x: u64| x + 1, 1).unwrap(), 2);
    end.set().unwrap();
    long.into_iter().for_each(|long| long.get().unwrap());
}

#[test]
fn what_was_given_ahead_does_not_wait_while_another_worker_is_idle() {
    fn wait_if(event: Option<Event>) -> bool {
        event.is_none_or(wait_for)
    }
    // Nobody's turn is ever over.
    let pool = scheduled(Scheduling::RoundRobin { quantum: 10 * PATIENCE }, 2);
    // It is known to be short from then on.
    assert!(pool.map(wait_if, std::iter::repeat_n(None, 50)).unwrap().into_iter().all(|done| done));
    let (first, second) = (Event::new().unwrap(), Event::new().unwrap());
    let hand_in = |event: Option<&Event>| pool.apply_async(wait_if, event.cloned()).unwrap();
    let blocked = [hand_in(Some(&first)), hand_in(Some(&second))];
    let others: Vec<_> = (0..4).map(|_| hand_in(None)).collect();
    second.set().unwrap();
    for other in &others {
        assert_eq!(other.get_timeout(PATIENCE).unwrap(), Some(true));
    }
    assert!(!blocked[0].ready());
    first.set().unwrap();
    assert!(blocked.iter().all(|blocked| blocked.get().unwrap()));
}

#[test]
fn who_is_never_stopped_needs_no_spares() {
    let pool = scheduled(Scheduling::mlfq(), 2);
    let short = |x: u64| (0..x).map(std::hint::black_box).sum::<u64>();
    pool.map(short, [10_000; 200]).unwrap();
    // One is ahead; a machine under load may stop a few.
    let stats = pool.stats();
    assert!(stats.started <= 3 + stats.preempted, "{stats:?}");
}

#[test]
fn a_task_is_not_stopped_while_it_holds_a_lock() {
    fn hold((lock, held, wanted): (BareLock, Event, Event)) {
        lock.acquire(None).unwrap().unwrap();
        held.set().unwrap();
        burn_until(wanted);
        // For so long that it would have been stopped.
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        lock.release().unwrap();
    }
    fn take((lock, wanted): (BareLock, Event)) -> bool {
        wanted.set().unwrap();
        lock.acquire(Some(PATIENCE / 2)).unwrap().is_some()
    }
    // Turns are so long that a stopped one would not come back in time.
    let pool = Pool::builder()
        .workers(1)
        .scheduling(Scheduling::RoundRobin { quantum: 10 * PATIENCE })
        .build()
        .unwrap();
    let (lock, held, wanted) = (BareLock::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
    let first = pool.apply_async(hold, (lock.clone(), held.clone(), wanted.clone())).unwrap();
    assert!(held.wait(Some(PATIENCE)).unwrap());
    // It displaces the other at once.
    let urgent = pool.with(TaskOptions::new().priority(1));
    assert!(urgent.apply(take, (lock, wanted)).unwrap(), "the lock's holder was stopped");
    first.get().unwrap();
}

#[test]
fn the_time_that_a_task_is_stopped_is_not_its_own() {
    fn burn_for(milliseconds: u64) {
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let start = cpu();
        let since = |now: rustix::time::Timespec| {
            (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1_000_000
        };
        while (since(cpu()) as u64) < milliseconds {
            std::hint::spin_loop();
        }
    }
    let pool = scheduled(Scheduling::RoundRobin { quantum: Duration::from_millis(10) }, 1);
    let event = Event::new().unwrap();
    let others: Vec<_> = (0..1).map(|_| pool.apply_async(burn_until, event.clone()).unwrap()).collect();
    // On its own it would take 300 ms, and beside the other one twice as long.
    let limited = pool.with(TaskOptions::new().timeout(Duration::from_secs(20)));
    limited.apply(burn_for, 300).unwrap();
    event.set().unwrap();
    others.into_iter().for_each(|other| other.get().unwrap());
    let error = pool.with(TaskOptions::new().timeout(Duration::from_millis(50))).apply(burn_for, 60_000);
    assert!(matches!(error, Err(Error::TaskTimedOut { .. })), "{error:?}");
}
