//! A pool's worker, and the program that has the pool, in a round trip from a call to its answer.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use broody::{Error, Pid, Pool, StartMethod};
use broody_os::{fork, proc};
use broody_shm::sleep::BOUND;
use broody_tests::{Identity, eventually, supervisor};

use crate::operation::{Path, run_to};
use crate::trace::{Stop, Traced, in_program, is_system_call, marker};

/// So many calls, one upon another, that who waits has learnt to look before he sleeps, where that pays.
const CALLS: u64 = 100;

/// Less than what is left of a sleep that nobody ends, and more than a new worker takes.
const SOON: Duration = Duration::from_millis(BOUND.as_millis() as u64 / 2);

fn double(number: u64) -> u64 {
    2 * number
}

/// Stops in the process `victim`. Who has run it.
fn pass(victim: Pid) -> Pid {
    let pid = fork::pid();
    if pid == victim {
        marker();
    }
    pid
}

fn call(pool: &Pool) {
    assert_eq!(pool.apply(double, 4).unwrap(), 8);
}

/// A thread that calls, by its number, and when its answer came.
type Call = (Pid, JoinHandle<Answer>);

fn call_to_pass(pool: &Arc<Pool>, victim: Pid) -> Call {
    let pool = pool.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: takes nothing.
        tell.send(unsafe { libc::gettid() }).unwrap();
        (pool.apply(pass, victim), Instant::now())
    });
    (told.recv().unwrap(), thread)
}

/// Where the links of this process are. Those of other tests only make more steps seem to matter.
fn links() -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let links =
        maps.lines().filter(|line| line.contains("memfd:broody-worker") && line.contains(" 00000000 "));
    links.map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()).collect()
}

/// Their words, to see when they change.
fn words(links: &[u64], memory: &File) -> Vec<u8> {
    const LENGTH: usize = 1280;
    let mut words = vec![0; links.len() * LENGTH];
    for (bytes, place) in words.chunks_mut(LENGTH).zip(links) {
        // Another test may have unmapped it by now.
        _ = memory.read_at(bytes, *place);
    }
    words
}

/// Says at which step a failure was.
struct Where<'a>(&'a str, usize, u64);

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(name, step, place) = self;
            let place = in_program(*place);
            eprintln!("{name}: at step {step}, at {place:#x}; again: BROODY_STEPS=@{step}");
        }
    }
}

type Answer = (broody::Result<Pid>, Instant);

/// One worker, which stops in a task, answers it, sleeps, and stops in the next one.
struct Round {
    pool: Arc<Pool>,
    worker: Traced,
    first: Call,
    /// From when the worker sleeps, or is dead.
    second: Option<Call>,
}

impl Round {
    fn start() -> Self {
        let pool = Pool::builder().workers(1).start_method(StartMethod::Fork).build().unwrap();
        let pool = Arc::new(pool);
        call(&pool);
        let worker = Traced::seize(pool.worker_pids()[0]);
        worker.let_go();
        (0..CALLS).for_each(|_| call(&pool));
        let first = call_to_pass(&pool, worker.pid());
        assert_eq!(worker.wait(), Stop::Marker);
        Self { pool, worker, first, second: None }
    }

    /// The worker, and what is done when it sleeps.
    fn parts(&mut self) -> (&Traced, impl FnMut()) {
        let Self { pool, worker, second, .. } = self;
        (worker, || _ = second.get_or_insert_with(|| call_to_pass(pool, worker.pid())))
    }

    /// Kills the worker. Whether it has answered the first task, and whether it has begun with the second; how long the callers have
    /// waited after its death.
    fn kill(mut self) -> (bool, bool, Duration) {
        let victim = self.worker.pid();
        let was_called_again = self.second.is_some();
        let death = Instant::now();
        self.worker.kill_and_leave();
        let second = self.second.take().unwrap_or_else(|| call_to_pass(&self.pool, victim));
        let is_lost = |answer: &broody::Result<Pid>| match answer {
            Ok(_) => false,
            Err(Error::WorkerLost { pid, .. }) if *pid == victim => true,
            Err(error) => panic!("the wrong error: {error}"),
        };
        let ((first, first_at), (second, second_at)) =
            (self.first.1.join().unwrap(), second.1.join().unwrap());
        let (first_is_lost, second_is_lost) = (is_lost(&first), is_lost(&second));
        assert!(first_is_lost || first.unwrap() == victim, "it had begun with the first task");
        assert!(second_is_lost || second.unwrap() != victim, "it cannot have answered the second task");
        assert!(!(first_is_lost && second_is_lost), "it has had one task at a time");
        assert!(was_called_again || !second_is_lost, "it was dead before the second task was there");
        // Another worker has its place.
        call(&self.pool);
        assert!(!self.pool.worker_pids().contains(&victim));
        (!first_is_lost, second_is_lost, first_at.max(second_at) - death)
    }
}

/// A round, step by step.
fn look() -> Path {
    let mut round = Round::start();
    let (mut places, mut changes) = (Vec::new(), Vec::new());
    let (links, memory) = (links(), File::open("/proc/self/mem").unwrap());
    let mut before = words(&links, &memory);
    loop {
        let (worker, mut asleep) = round.parts();
        let place = worker.place();
        places.push(place);
        assert!(places.len() < 5_000_000, "it does not come to its next task");
        if worker.step(place, Some(&mut asleep)) == Stop::Marker {
            break;
        }
        let now = words(&links, &memory);
        if now != before || is_system_call(place) {
            changes.push(places.len());
            before = now;
        }
    }
    round.kill();
    Path::new(places, changes)
}

#[test]
fn a_worker_that_dies_anywhere_in_a_round_costs_its_pool_one_task_at_most_and_no_time() {
    const NAME: &str = "answer, sleep, and begin with the next task";
    let (start, path) = (Instant::now(), look());
    let chosen = path.chosen(1);
    let (mut before, mut missed) = ((false, false), 0);
    for step in &chosen {
        let mut context = Where(NAME, *step, 0);
        let kill = || {
            let mut round = Round::start();
            let (worker, mut asleep) = round.parts();
            let stop = run_to(worker, &path, *step, &mut asleep);
            context.2 = worker.place();
            drop(asleep);
            (stop, round.kill())
        };
        // On a machine that is slow just then, another worker may be late; but not each time.
        let mut tries = std::iter::repeat_with(kill).take(3);
        let found = tries.find(|(_, (_, _, waited))| *waited < SOON);
        let (stop, (answered, begun, _)) = found.expect("a caller was not told of his worker's death");
        let is_end = *step == path.length();
        if stop == Stop::Marker && !is_end {
            missed += 1;
            continue;
        }
        assert!(answered || !begun);
        assert!(*step > 0 || !answered, "nothing has happened yet");
        assert!(!is_end || begun, "all has happened");
        if path.comes_once(*step) {
            assert!((answered, begun) >= before, "what was done is not done any more");
            before = (answered, begun);
        }
    }
    let (length, tried, time) = (path.length(), chosen.len(), start.elapsed().as_millis());
    eprintln!("{NAME}: {length} steps; killed at {tried}, {missed} missed; {time} ms");
}

#[test]
fn a_worker_that_is_about_to_sleep_does_not_sleep_through_its_next_task() {
    const NAME: &str = "answer, and get the next task anywhere";
    let (start, path) = (Instant::now(), look());
    let chosen = path.chosen(2);
    for step in &chosen {
        let mut context = Where(NAME, *step, 0);
        let give = || {
            let mut round = Round::start();
            let (worker, mut asleep) = round.parts();
            let stop = run_to(worker, &path, *step, &mut asleep);
            context.2 = worker.place();
            let (links, memory) = (links(), File::open("/proc/self/mem").unwrap());
            let before = words(&links, &memory);
            drop(asleep);
            if round.second.is_none() {
                round.second = Some(call_to_pass(&round.pool, round.worker.pid()));
                // The caller sleeps, having published and rung.
                let thread = round.second.as_ref().unwrap().0;
                eventually("the call", || {
                    words(&links, &memory) != before
                        && proc::stat(thread).unwrap().is_some_and(|stat| stat.letter == 'S')
                });
            }
            let given = Instant::now();
            if stop == Stop::Trap {
                round.worker.let_go();
                assert_eq!(round.worker.wait(), Stop::Marker);
            }
            let slept = given.elapsed();
            let (answered, begun, _) = round.kill();
            assert!(answered && begun);
            slept
        };
        // On a machine that is slow just then, it may be late; but not each time.
        let mut tries = std::iter::repeat_with(give).take(3);
        assert!(tries.any(|slept| slept < SOON), "a worker has slept through its task");
    }
    let (length, tried, time) = (path.length(), chosen.len(), start.elapsed().as_millis());
    eprintln!("{NAME}: {length} steps; stopped at {tried}; {time} ms");
}

/// A program with a pool, when it is about to call, and who goes with it.
fn program() -> (Traced, [Identity; 2]) {
    let (mut tell, mut told) = UnixStream::pair().unwrap();
    let victim = Traced::start(|| {
        let pool = Pool::builder().workers(1).build().unwrap();
        (0..CALLS).for_each(|_| call(&pool));
        for pid in [pool.worker_pids()[0], supervisor().unwrap()] {
            tell.write_all(&pid.to_ne_bytes()).unwrap();
        }
        marker();
        call(&pool);
        marker();
    });
    let family = std::array::from_fn(|_| {
        let mut pid = [0; size_of::<Pid>()];
        told.read_exact(&mut pid).unwrap();
        Identity::of(Pid::from_ne_bytes(pid)).expect("it runs")
    });
    (victim, family)
}

/// Kills it, after which nobody is left.
fn end(victim: Traced, family: [Identity; 2]) {
    victim.kill();
    victim.reap();
    for process in family {
        eventually("the end of a dead program's processes", || process.is_gone());
    }
}

#[test]
fn of_a_program_that_dies_anywhere_in_a_call_nobody_is_left() {
    const NAME: &str = "call, and wait for the answer";
    let start = Instant::now();
    let (victim, family) = program();
    let (mut places, mut changes) = (Vec::new(), Vec::new());
    loop {
        let place = victim.place();
        places.push(place);
        if victim.step_in_a_crowd() == Stop::Marker {
            break;
        }
        if is_system_call(place) {
            changes.push(places.len());
        }
    }
    end(victim, family);
    let path = Path::new(places, changes);
    let chosen = path.chosen(1);
    let mut missed = 0;
    for step in &chosen {
        let mut context = Where(NAME, *step, 0);
        let (victim, family) = program();
        match path.place(*step) {
            // Its way depends on its other threads.
            Some((place, visits)) => {
                missed += usize::from(victim.go_to_in_a_crowd(place, visits) == Stop::Marker);
            }
            None => {
                victim.let_go();
                assert_eq!(victim.wait(), Stop::Marker);
            }
        }
        context.2 = victim.place();
        end(victim, family);
    }
    let (length, tried, time) = (path.length(), chosen.len(), start.elapsed().as_millis());
    eprintln!("{NAME}: {length} steps; killed at {tried}, {missed} missed; {time} ms");
}
