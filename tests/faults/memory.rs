//! Processes killed while they use shared memory: what they held is free, what they had not finished never was, and everybody else
//! goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broody::{
    BareLock, Barrier, BoundedSemaphore, Child, Condition, Error, Event, ExitStatus, JoinableQueue, Lock,
    LockError, OwnerDied, Process, Queue, RLock, Sender,
};
use broody_os::{fork, signals};
use broody_tests::{METHODS, PATIENCE, Program, Random, check, eventually, method, seed};

use crate::HOST;

/// What is promised, between a death and what others notice of it.
const PROMISE: Duration = Duration::from_millis(100);

/// Of several rounds the best one keeps the promise: a loaded machine makes some of them slow, but not all.
fn in_time(mut round: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    for _ in 0..20 {
        took.push(round());
        if took.last().is_some_and(|took| *took < PROMISE) {
            return;
        }
    }
    panic!("{PROMISE:?} are promised: {took:?}");
}

fn idle() -> ! {
    loop {
        std::thread::park();
    }
}

/// Tells the test that all is set, and waits to be killed.
fn await_death(ready: &Event) -> ! {
    ready.set().unwrap();
    idle()
}

/// Waits until a child has said that all is set.
fn await_ready(ready: &Event) {
    assert!(ready.wait(Some(PATIENCE)).unwrap());
}

fn kill<R>(child: &Child<R>) {
    child.kill().unwrap();
}

fn signal<R>(child: &Child<R>, signal: i32) {
    assert!(fork::kill_child(child.pid(), signal).unwrap());
}

/// Stops a child where it is.
fn stop<R>(child: &Child<R>) {
    signal(child, signals::SIGSTOP);
    eventually("it is stopped", || child.state() == Some(broody::State::Stopped));
}

#[test]
fn a_killed_holder_frees_its_lock_and_the_next_one_is_told() {
    fn hold((lock, ready): (Lock<[u64; 2]>, Event)) {
        let mut guard = lock.lock().unwrap();
        guard[0] += 1;
        await_death(&ready);
    }
    for name in METHODS {
        let (lock, ready) = (Lock::new([0u64, 0]).unwrap(), Event::new().unwrap());
        let mut rounds = 0;
        in_time(|| {
            let start = Process::builder().start_method(method(name));
            let child = start.spawn(hold, (lock.clone(), ready.clone())).unwrap();
            await_ready(&ready);
            ready.clear();
            assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
            let start = Instant::now();
            kill(&child);
            match lock.lock() {
                Err(LockError::OwnerDied(mut guard)) => {
                    let took = start.elapsed();
                    rounds += 1;
                    assert_eq!(*guard, [rounds, rounds - 1], "the value is as the dead process left it");
                    guard[1] = rounds;
                    took
                }
                other => panic!("{name}: {other:?}"),
            }
        });
        assert_eq!(*lock.lock().unwrap(), [rounds, rounds], "a death is told once");
    }
}

#[test]
fn a_killed_holder_frees_its_recursive_lock_however_often_it_has_taken_it() {
    fn hold((lock, ready): (RLock, Event)) {
        let (_first, _second) = (lock.lock().unwrap(), lock.lock().unwrap());
        await_death(&ready);
    }
    let (lock, ready) = (RLock::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(hold, (lock.clone(), ready.clone())).unwrap();
    await_ready(&ready);
    assert_eq!((lock.acquire(Some(Duration::ZERO)).unwrap(), lock.depth()), (None, 2));
    kill(&child);
    assert_eq!(lock.acquire(Some(PATIENCE)).unwrap(), Some(OwnerDied(true)));
    assert_eq!(lock.depth(), 1);
    lock.release().unwrap();
    assert!(lock.lock().is_ok() && !lock.locked());
    ready.clear();
    let child = broody::spawn(hold, (lock.clone(), ready.clone())).unwrap();
    await_ready(&ready);
    assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
    kill(&child);
    match lock.lock_timeout(PATIENCE) {
        Err(LockError::OwnerDied(_guard)) => assert_eq!(lock.depth(), 1),
        other => panic!("{other:?}"),
    }
    assert!(!lock.locked());
}

#[test]
fn a_killed_holder_frees_its_bare_lock() {
    fn hold((lock, ready): (BareLock, Event)) {
        assert!(lock.acquire(None).unwrap().is_some());
        await_death(&ready);
    }
    let (lock, ready) = (BareLock::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(hold, (lock.clone(), ready.clone())).unwrap();
    await_ready(&ready);
    assert_eq!(lock.acquire(Some(Duration::ZERO)).unwrap(), None);
    kill(&child);
    assert_eq!(lock.acquire(Some(PATIENCE)).unwrap(), Some(OwnerDied(true)));
    lock.release().unwrap();
    assert_eq!(lock.acquire(Some(PATIENCE)).unwrap(), Some(OwnerDied(false)));
}

#[test]
fn a_bare_lock_is_free_when_its_holder_ends_though_it_had_dropped_the_handle() {
    fn hold(lock: BareLock) {
        assert!(lock.acquire(None).unwrap().is_some());
    }
    let lock = BareLock::new().unwrap();
    broody::spawn(hold, lock.clone()).unwrap().join().unwrap();
    assert!(lock.acquire(Some(PATIENCE)).unwrap().is_some());
}

#[test]
fn the_permits_of_a_killed_process_are_free() {
    fn hold((permits, ready): (BoundedSemaphore, Event)) {
        assert!(permits.acquire(None).unwrap() && permits.acquire(None).unwrap());
        await_death(&ready);
    }
    let (permits, ready) = (BoundedSemaphore::new(3).unwrap(), Event::new().unwrap());
    let child = broody::spawn(hold, (permits.clone(), ready.clone())).unwrap();
    await_ready(&ready);
    assert_eq!(permits.value(), 1);
    kill(&child);
    assert!((0..3).all(|_| permits.acquire(Some(PATIENCE)).unwrap()));
    assert_eq!(permits.value(), 0);
    (0..3).for_each(|_| permits.release().unwrap());
    assert!(permits.release().is_err(), "none was doubled");
}

#[test]
fn a_notification_that_a_killed_process_had_got_goes_to_the_next_one() {
    fn wait((lock, condition): (Lock<u32>, Condition)) -> bool {
        let mut guard = lock.lock().unwrap();
        *guard += 1;
        // Whoever dies as the holder of the lock has used its notification.
        condition.wait(guard).is_ok()
    }
    let (lock, condition) = (Lock::new(0u32).unwrap(), Condition::new().unwrap());
    let waiters: Vec<_> = (1..=2)
        .map(|count| {
            let waiter = broody::spawn(wait, (lock.clone(), condition.clone())).unwrap();
            eventually("it waits", || *lock.lock().unwrap() == count);
            waiter
        })
        .collect();
    stop(&waiters[0]);
    assert_eq!(condition.notify(1).unwrap(), 1, "the one that has waited longest, which is stopped");
    kill(&waiters[0]);
    assert_eq!(waiters[1].join_timeout(PATIENCE).unwrap(), Some(true));
}

#[test]
fn a_killed_party_breaks_the_barrier_for_all() {
    fn meet(barrier: Barrier) -> bool {
        matches!(barrier.wait(Some(PATIENCE)), Err(Error::BrokenBarrier))
    }
    let barrier = Barrier::new(3).unwrap();
    let parties = [(); 2].map(|()| broody::spawn(meet, barrier.clone()).unwrap());
    eventually("both wait", || barrier.waiting() == 2);
    kill(&parties[0]);
    assert!(parties[1].join().unwrap(), "who waits is told");
    assert!(matches!(barrier.wait(Some(PATIENCE)), Err(Error::BrokenBarrier)), "who comes is told");
    barrier.reset().unwrap();
    let meet = |barrier: Barrier| barrier.wait(Some(PATIENCE)).is_ok();
    let parties = [(); 2].map(|()| broody::spawn(meet, barrier.clone()).unwrap());
    assert!(barrier.wait(Some(PATIENCE)).is_ok());
    assert!(parties.iter().all(|party| party.join().unwrap()));
}

#[test]
fn who_waits_for_a_notification_is_told_that_the_locks_holder_died() {
    fn notify((lock, condition, ready): (RLock, Condition, Event)) {
        lock.acquire(None).unwrap();
        condition.notify_all().unwrap();
        await_death(&ready);
    }
    let (lock, condition, ready) = (RLock::new().unwrap(), Condition::new().unwrap(), Event::new().unwrap());
    lock.acquire(None).unwrap();
    lock.acquire(None).unwrap();
    let child = broody::spawn(notify, (lock.clone(), condition.clone(), ready.clone())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It has the lock once this thread waits, and is killed with it.
            await_ready(&ready);
            kill(&child);
        });
        assert_eq!(condition.wait_with(&lock, Some(PATIENCE)).unwrap(), (true, OwnerDied(true)));
    });
    assert_eq!(lock.depth(), 2);
    assert_eq!(condition.wait_with(&lock, Some(Duration::ZERO)).unwrap(), (false, OwnerDied(false)));
}

#[test]
fn a_sender_that_is_killed_is_gone() {
    fn send((sender, ready): (Sender<u32>, Event)) {
        (0..10).for_each(|number| sender.send(number).unwrap());
        await_death(&ready);
    }
    let (sender, receiver) = broody::channel::<u32>().unwrap();
    let ready = Event::new().unwrap();
    let child = broody::spawn(send, (sender, ready.clone())).unwrap();
    await_ready(&ready);
    kill(&child);
    let received: Vec<_> = receiver.iter().map(Result::unwrap).collect();
    assert_eq!(received, (0..10).collect::<Vec<_>>());
    assert!(matches!(receiver.receive_timeout(PATIENCE), Err(Error::Closed { .. })));
}

#[test]
fn a_receiver_that_is_killed_is_gone() {
    fn receive((receiver, ready): (broody::Receiver<u32>, Event)) {
        assert_eq!(receiver.receive().unwrap(), 1);
        await_death(&ready);
    }
    let (sender, receiver) = broody::channel::<u32>().unwrap();
    let ready = Event::new().unwrap();
    let child = broody::spawn(receive, (receiver, ready.clone())).unwrap();
    sender.send(1).unwrap();
    await_ready(&ready);
    kill(&child);
    eventually("nobody receives any more", || matches!(sender.send(2), Err(Error::Closed { .. })));
}

#[test]
fn the_tasks_of_a_killed_process_are_lost_and_counted() {
    fn take((tasks, ready): (JoinableQueue<u32>, Event)) {
        (0..3).for_each(|_| _ = tasks.get().unwrap());
        tasks.task_done().unwrap();
        await_death(&ready);
    }
    let (tasks, ready) = (JoinableQueue::new().unwrap(), Event::new().unwrap());
    (0..4u32).for_each(|task| tasks.put(task).unwrap());
    let child = broody::spawn(take, (tasks.clone(), ready.clone())).unwrap();
    await_ready(&ready);
    assert_eq!(tasks.unfinished(), 3);
    kill(&child);
    assert_eq!(tasks.get().unwrap(), 3);
    tasks.task_done().unwrap();
    assert!(matches!(tasks.join(Some(PATIENCE)), Err(Error::TasksLost { count: 2 })));
    assert!(tasks.join(Some(PATIENCE)).is_ok(), "that is told once");
}

/// A message of a producer.
type Numbered = (u32, u64);

fn produce((producer, queue, count): (u32, Queue<Numbered>, u64)) {
    (0..count).for_each(|number| queue.put((producer, number)).unwrap());
}

fn consume((queue, taken): (Queue<Numbered>, Queue<Numbered>)) {
    let mut last = BTreeMap::new();
    while let Ok((producer, number)) = queue.get() {
        let before = last.insert(producer, number);
        assert!(before.is_none_or(|before| before < number), "{producer}: {number} after {before:?}");
        taken.put((producer, number)).unwrap();
    }
}

/// Producers number their messages, and consumers pass them on, while some of both are killed at any instant.
#[test]
fn of_a_queues_messages_none_is_doubled_and_none_lost_but_those_in_the_hands_of_the_dead() {
    const COUNT: u64 = 3000;
    let seed = seed();
    let mut random = Random::new(seed);
    let (queue, taken) = (Queue::<Numbered>::bounded(50).unwrap(), Queue::<Numbered>::new().unwrap());
    let start_consumer = || broody::spawn(consume, (queue.clone(), taken.clone())).unwrap();
    let mut consumers: Vec<_> = (0..3).map(|_| start_consumer()).collect();
    let (mut whole, mut killed_consumers) = (Vec::new(), 0);
    for producer in 0..30 {
        let child = broody::spawn(produce, (producer, queue.clone(), COUNT)).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        if random.below(2) == 0 {
            kill(&child);
        }
        let consumer = random.below(3) as usize;
        kill(&consumers[consumer]);
        killed_consumers += 1;
        consumers[consumer] = start_consumer();
        match child.wait_timeout(PATIENCE).unwrap() {
            Some(ExitStatus::Code(0)) => whole.push(producer),
            Some(ExitStatus::Signal(signals::SIGKILL)) => {}
            other => panic!("seed {seed}: a producer ended with {other:?}"),
        }
    }
    queue.close();
    for consumer in &consumers {
        assert_eq!(consumer.wait_timeout(PATIENCE).unwrap(), Some(ExitStatus::Code(0)), "seed {seed}");
    }
    assert!(queue.is_empty());
    let mut numbers: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    while let Ok((producer, number)) = taken.try_get() {
        numbers.entry(producer).or_default().push(number);
    }
    let mut missing = 0;
    for (producer, mut numbers) in numbers {
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: {producer} has a double");
        let end = if whole.contains(&producer) { COUNT } else { numbers.last().unwrap() + 1 };
        missing += end - numbers.len() as u64;
    }
    assert!(
        missing <= killed_consumers,
        "seed {seed}: {missing} are missing, {killed_consumers} were killed"
    );
}

#[test]
fn a_stopped_holder_makes_others_wait_only_for_what_it_holds() {
    fn hold((held, queue, ready): (Lock<u32>, Queue<u32>, Event)) -> u32 {
        let mut guard = held.lock().unwrap();
        ready.set().unwrap();
        *guard += 1;
        drop(guard);
        queue.get().unwrap()
    }
    /// Short, where nothing is to happen.
    const SHORT: Duration = Duration::from_millis(30);
    let (held, other) = (Lock::new(0u32).unwrap(), Lock::new(0u32).unwrap());
    let (queue, ready) = (Queue::<u32>::new().unwrap(), Event::new().unwrap());
    // As its holder, this process waits for the child to come, and then lets it have it: stopped, it may hold the lock or not.
    let guard = held.lock().unwrap();
    let child = broody::spawn(hold, (held.clone(), queue.clone(), ready.clone())).unwrap();
    drop(guard);
    await_ready(&ready);
    stop(&child);
    match held.lock_timeout(SHORT) {
        Ok(guard) => assert_eq!(*guard, 1),
        Err(LockError::TimedOut) => {}
        Err(other) => panic!("{other}"),
    }
    for number in 0..1000 {
        *other.lock().unwrap() += 1;
        queue.put(number).unwrap();
    }
    assert_eq!(*other.lock().unwrap(), 1000);
    signal(&child, signals::SIGCONT);
    child.join_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(*held.lock().unwrap(), 1, "its holder was stopped, and not dead");
}

#[test]
fn who_waits_for_a_stopped_process_gives_up_in_time_and_gets_it_when_that_goes_on() {
    fn hold((lock, ready, end): (BareLock, Event, Event)) {
        lock.acquire(None).unwrap();
        ready.set().unwrap();
        end.wait(Some(PATIENCE)).unwrap();
        lock.release().unwrap();
    }
    let (lock, ready, end) = (BareLock::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(hold, (lock.clone(), ready.clone(), end.clone())).unwrap();
    await_ready(&ready);
    stop(&child);
    end.set().unwrap();
    let start = Instant::now();
    // Longer than the time after which a waiter looks whether the holder lives.
    assert_eq!(lock.acquire(Some(Duration::from_millis(1500))).unwrap(), None);
    assert!(start.elapsed() >= Duration::from_millis(1500));
    signal(&child, signals::SIGCONT);
    assert_eq!(lock.acquire(Some(PATIENCE)).unwrap(), Some(OwnerDied(false)));
    child.join().unwrap();
}

#[test]
fn a_queue_whose_user_is_stopped_at_any_instant_can_be_waited_for_with_a_limit() {
    fn work(queue: Queue<u64>) {
        loop {
            queue.put(1).unwrap();
            queue.get().unwrap();
        }
    }
    let seed = seed();
    let mut random = Random::new(seed);
    let queue = Queue::<u64>::new().unwrap();
    let child = broody::spawn(work, queue.clone()).unwrap();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_micros(random.below(2000)));
        stop(&child);
        let start = Instant::now();
        for end in [queue.put_timeout(7, Duration::from_millis(5)).err(), {
            queue.get_timeout(Duration::from_millis(5)).err()
        }] {
            assert!(matches!(end, None | Some(Error::TimedOut { .. })), "seed {seed}: {end:?}");
        }
        assert!(start.elapsed() < PATIENCE);
        signal(&child, signals::SIGCONT);
    }
    kill(&child);
    queue.put_timeout(8, PATIENCE).unwrap();
    while queue.get_timeout(PATIENCE).unwrap() != 8 {}
    assert!(queue.is_empty());
}

/// It takes a while to be decoded: until the starter of the process that decodes it is gone.
struct Slow;

impl serde::Serialize for Slow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Slow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::thread::sleep(Duration::from_millis(200));
        <()>::deserialize(deserializer).map(|()| Slow)
    }
}

#[test]
fn a_detached_child_has_its_argument_though_its_starter_is_gone() {
    const COUNT: usize = 3;
    fn report((_, queue, lock): (Slow, Queue<u32>, Lock<u32>)) {
        queue.put(*lock.lock().unwrap()).unwrap();
    }
    fn start(queue: Queue<u32>) {
        for _ in 0..COUNT {
            // Nobody else has this one.
            let lock = Lock::new(5u32).unwrap();
            broody::spawn(report, (Slow, queue.clone(), lock)).unwrap().detach().unwrap();
        }
        fork::exit_now(0);
    }
    let queue = Queue::<u32>::new().unwrap();
    let _ = broody::spawn(start, queue.clone()).unwrap().wait();
    for number in 0..COUNT {
        let read = queue.get_timeout(Duration::from_secs(10));
        assert!(matches!(read, Ok(5)), "number {number}: {read:?}");
    }
}

#[test]
fn blobs_go_with_their_last_holder() {
    check(HOST, &["memory", "blobs"]);
}

#[test]
fn pages_of_long_messages_are_used_again_and_given_back() {
    check(HOST, &["memory", "messages"]);
}

#[test]
fn named_memory_goes_with_its_program_however_that_ends() {
    for kill in [false, true] {
        let mut host = Program::start(HOST, &["memory", "named"]);
        let path = host.line();
        assert!(std::fs::exists(&path).unwrap(), "{path}");
        if kill {
            host.signal(signals::SIGKILL)
        } else {
            host.proceed()
        }
        host.end();
        eventually("the name is gone", || !std::fs::exists(&path).unwrap());
    }
}

#[test]
fn a_lock_is_free_though_the_supervisor_is_killed_with_its_holder() {
    check(HOST, &["memory", "supervisor-killed-with-holder"]);
}

#[test]
fn a_lock_of_a_fork_is_free_though_there_is_no_supervisor_when_its_holder_is_killed() {
    check(HOST, &["memory", "supervisor-killed-before-holder"]);
}

#[test]
fn who_waits_for_another_is_told_though_the_supervisor_is_killed_with_the_other_side() {
    for wait in ["receive", "receive-again-and-again", "poll", "send", "join", "meet"] {
        check(HOST, &["memory", wait]);
    }
}

#[test]
fn a_holder_that_outlives_the_supervisor_keeps_its_lock_until_it_gives_it_back() {
    check(HOST, &["memory", "supervisor-killed-holder-lives"]);
}
