//! The workers of a pool: how they begin, how long they stay, what they are told.

use std::time::{Duration, Instant};

use broody::{Error, Pool, StartMethod, TaskOptions, Value};
use rustix::process::{Signal, kill_process};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

fn pid_of_worker(_: u64) -> u32 {
    std::process::id()
}

fn square(x: u64) -> u64 {
    x * x
}

/// Waits until `is_so`.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal to a worker, which may be gone.
fn kill(pid: broody::Pid, signal: Signal) {
    let _ = kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

struct State {
    start: u64,
}

#[test]
fn tasks_see_what_the_initializer_has_made_by_every_start_method() {
    fn set_up((start, made): (u64, Value<u32>)) -> State {
        made.fetch_add(1);
        State { start }
    }
    fn add(x: u64) -> u64 {
        broody::worker_state::<State>().unwrap().start + x
    }
    fn tear_down(ended: Value<u32>) {
        ended.fetch_add(1);
    }
    for method in METHODS {
        let (made, ended) = (Value::new(0u32).unwrap(), Value::new(0u32).unwrap());
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .initializer(set_up, (100, made.clone()))
            .finalizer(tear_down, ended.clone())
            .build()
            .unwrap();
        assert_eq!(pool.map(add, 0..100).unwrap(), (100..200).collect::<Vec<u64>>());
        assert!(pool.apply(|_: ()| broody::worker_state::<String>().is_none(), ()).unwrap());
        until("two initializers", || made.load() == 2);
        pool.close().unwrap();
        pool.join().unwrap();
        assert_eq!(ended.load(), 2, "{method:?}");
    }
    assert!(broody::worker_state::<State>().is_none());
}

#[test]
fn a_pool_whose_initializer_fails_says_why() {
    let reason = |pool: Pool| match pool.map(square, 0..10) {
        Err(Error::PoolBroken { reason }) => reason,
        other => panic!("{other:?}"),
    };
    let pool = Pool::builder().workers(2);
    let panics = pool.clone().initializer(|_: ()| panic!("no model here"), ()).build().unwrap();
    assert!(reason(panics).contains("no model here"));
    let ends = pool.clone().initializer(|_: ()| std::process::abort(), ()).build().unwrap();
    assert!(reason(ends).contains("SIGABRT"));
    let hangs = pool.start_timeout(Duration::from_millis(50));
    let hangs = hangs.initializer(|_: ()| std::thread::sleep(PATIENCE), ()).build().unwrap();
    let start = Instant::now();
    assert!(reason(hangs).contains("did not get ready in time"));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn a_worker_is_replaced_after_its_share() {
    let pool = Pool::builder().workers(2).max_tasks_per_worker(5).build().unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for pid in pool.map(pid_of_worker, 0..100).unwrap() {
        *counts.entry(pid).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count <= 5), "{counts:?}");
    assert!(counts.len() >= 20);
}

#[test]
fn a_pool_grows_while_there_is_work_and_shrinks_when_there_is_none() {
    fn nap(_: u64) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let idle = Duration::from_millis(50);
    let pool = Pool::builder().workers_between(0, 3).idle_timeout(idle).build().unwrap();
    assert_eq!(pool.worker_pids().len(), 0);
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
    let result = pool.map_async(nap, 0..50).unwrap();
    until("three workers", || pool.worker_pids().len() == 3);
    result.get().unwrap();
    until("no workers", || pool.worker_pids().is_empty());
    assert_eq!(pool.apply(square, 6).unwrap(), 36);
}

#[test]
fn a_worker_that_grew_is_replaced_between_tasks_or_with_its_task() {
    fn leak(megabytes: usize) -> u32 {
        std::mem::forget(vec![1u8; megabytes << 20]);
        std::process::id()
    }
    fn fill(_: ()) {
        std::hint::black_box(vec![1u8; 300 << 20]);
        std::thread::sleep(PATIENCE);
    }
    let pool = Pool::builder().workers(1).memory_per_worker(200 << 20).build().unwrap();
    let first = pool.apply(leak, 1).unwrap();
    // It is looked at while the task runs, or after.
    let grown = pool.apply(leak, 220);
    assert!(matches!(grown, Ok(pid) if pid == first) || matches!(grown, Err(Error::TaskMemory { .. })));
    until("another worker", || pool.worker_pids().iter().any(|pid| *pid as u32 != first));
    assert_ne!(pool.apply(leak, 1).unwrap(), first);
    let error = pool.apply(fill, ()).unwrap_err();
    assert!(matches!(error, Error::TaskMemory { limit, .. } if limit == 200 << 20), "{error}");
    assert_eq!(pool.apply(square, 7).unwrap(), 49);
}

#[test]
fn workers_have_their_environment_their_cpu_and_their_priority() {
    fn surroundings(_: ()) -> (String, String, Vec<usize>, String) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        let cpus = cpus.trim().split(',').filter_map(|cpu| cpu.parse().ok()).collect();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        // Behind the name in parentheses, nice(2) is the 17th field.
        let nice = stat[stat.rfind(')').unwrap()..].split(' ').nth(17).unwrap().to_owned();
        let variable = |name| std::env::var(name).unwrap();
        // So that others get some, too.
        std::thread::sleep(Duration::from_millis(5));
        (variable("BROODY_TEST_ALL"), variable("BROODY_TEST_SEAT"), cpus, nice)
    }
    let pool = Pool::builder()
        .workers(2)
        .env("BROODY_TEST_ALL", "both")
        .env_per_worker(|seat| vec![("BROODY_TEST_SEAT".to_owned(), seat.to_string())])
        .nice(3)
        .pin_cpus(true)
        .build()
        .unwrap();
    let mut seats = std::collections::BTreeSet::new();
    until("both workers", || {
        for (all, seat, cpus, nice) in pool.map(surroundings, [(); 4]).unwrap() {
            assert_eq!((all.as_str(), cpus.len(), nice.as_str()), ("both", 1, "3"));
            seats.insert(seat);
        }
        seats.len() == 2
    });
    assert_eq!(seats.into_iter().collect::<Vec<_>>(), ["0", "1"]);
    assert!(std::env::var("BROODY_TEST_ALL").is_err());
}

#[test]
fn a_pool_gives_up_when_workers_die_too_often() {
    let pool = Pool::builder().workers(2).restart_limit(3, PATIENCE).build().unwrap();
    let results = pool.try_map(|_: u64| -> u64 { std::process::abort() }, 0..100).unwrap();
    let broken = results.iter().filter(|result| matches!(result, Err(Error::PoolBroken { .. }))).count();
    assert!(broken >= 90, "{broken} of 100");
    let error = pool.apply(square, 1).unwrap_err();
    assert!(error.to_string().contains("more than 3 workers died within 60s"), "{error}");
    // Those that are ended because of a limit do not count.
    let pool = Pool::builder().workers(1).restart_limit(1, PATIENCE).build().unwrap();
    let quick = pool.with(TaskOptions::new().timeout(Duration::from_millis(5)));
    for result in quick.try_map(|_: u64| std::thread::sleep(PATIENCE), 0..5).unwrap() {
        assert!(matches!(result, Err(Error::TaskTimedOut { .. })));
    }
    assert_eq!(pool.apply(square, 2).unwrap(), 4);
}

#[test]
fn workers_of_every_start_method_take_over_when_one_is_killed() {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method).retries(3).build().unwrap();
        for round in 0..5 {
            let pids = pool.worker_pids();
            let victim = pids[round % pids.len()];
            let result = pool.map_async(square, 0..2000).unwrap();
            kill(victim, Signal::KILL);
            assert_eq!(result.get().unwrap(), (0..2000).map(|x| x * x).collect::<Vec<u64>>());
            until("two workers", || pool.worker_pids().len() == 2);
        }
    }
}

#[test]
fn pools_that_cannot_be_are_refused() {
    let refused = [
        Pool::builder().workers_between(3, 2),
        Pool::builder().max_tasks_per_worker(0),
        Pool::builder().env("A=B", "c"),
        Pool::builder().name("a\0b"),
    ];
    for builder in refused {
        assert!(matches!(builder.build(), Err(Error::Invalid { .. })));
    }
    // What only the kernel knows: a worker cannot have it, and the pool says why.
    let pool = Pool::builder().workers(1).nice(1_000_000).build();
    if let Ok(pool) = pool {
        assert_eq!(pool.apply(square, 2).unwrap(), 4, "nice is cut to 19");
    }
}

#[test]
fn a_forked_pool_in_a_worker_has_a_state_of_its_own() {
    fn set_up(start: u64) -> State {
        State { start }
    }
    fn start(_: ()) -> u64 {
        broody::worker_state::<State>().unwrap().start
    }
    fn nested(_: ()) -> (u64, u64) {
        let inner = Pool::builder().workers(1).start_method(StartMethod::Fork).initializer(set_up, 2);
        (start(()), inner.build().unwrap().apply(start, ()).unwrap())
    }
    let pool = Pool::builder().workers(1).initializer(set_up, 1).build().unwrap();
    assert_eq!(pool.apply(nested, ()).unwrap(), (1, 2));
}
