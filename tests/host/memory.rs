//! Shared memory, where the program itself is looked at, or its supervisor dies.

use std::time::{Duration, Instant};

use broody::{
    BareLock, Barrier, Blob, Child, Error, Event, JoinableQueue, Lock, LockError, OwnerDied, Pool, Process,
    Queue, SharedMemory, StartMethod,
};
use broody_os::{fork, proc, signals};
use broody_tests::{PATIENCE, eventually, observer, supervisor};

/// Some seconds: until whoever waits looks by himself, or there is another supervisor.
const SOME_SECONDS: Duration = Duration::from_secs(10);

fn await_death(ready: &Event) -> ! {
    ready.set().unwrap();
    loop {
        std::thread::park();
    }
}

pub fn run(scenario: &str) {
    match scenario {
        "blobs" => blobs(),
        "many" => many(),
        "messages" => messages(),
        "wakes" => crate::wakes::run(),
        "named" => named(),
        "supervisor-killed-with-holder" => supervisor_dies_with_holder(),
        "supervisor-killed-before-holder" => supervisor_dies_before_holder(),
        "supervisor-killed-holder-lives" => holder_outlives_supervisor(),
        wait => supervisor_dies_with_peer(wait),
    }
}

const LONG: usize = 32 << 20;

fn long_blob() -> Blob {
    Blob::with(LONG, |bytes| bytes.fill(7)).unwrap()
}

fn blobs() {
    // So that the arena is there, and whatever broody itself needs.
    broody::spawn(|(): ()| (), ()).unwrap().join().unwrap();
    let ready = Event::new().unwrap();
    let arena = observer();
    let (before, objects) = (arena.allocated(), arena.objects());
    let is_back = || arena.allocated() < before + (1 << 20) && arena.objects() == objects;
    let await_ready = || {
        assert!(ready.wait(Some(PATIENCE)).unwrap());
        ready.clear();
    };

    // It has made it, and is the only one that has it.
    let make = |ready: Event| {
        let _blob = long_blob();
        await_death(&ready)
    };
    let child: Child<()> = broody::spawn(make, ready.clone()).unwrap();
    await_ready();
    assert!(arena.allocated() > before + LONG as u64);
    child.kill().unwrap();
    eventually("what it had made is gone", is_back);

    // It has got it as an argument, and the others have dropped theirs.
    let receive = |(blob, ready): (Blob, Event)| {
        assert!(blob.iter().all(|byte| *byte == 7));
        await_death(&ready)
    };
    let child: Child<()> = broody::spawn(receive, (long_blob(), ready.clone())).unwrap();
    await_ready();
    assert!(arena.allocated() > before + LONG as u64);
    child.kill().unwrap();
    eventually("what it had received is gone", is_back);

    // It has it from a queue; another one is in the queue, and stays there.
    let queue = Queue::<Blob>::new().unwrap();
    queue.put(long_blob()).unwrap();
    queue.put(long_blob()).unwrap();
    let take = |(queue, ready): (Queue<Blob>, Event)| {
        let _blob = queue.get().unwrap();
        await_death(&ready)
    };
    let child: Child<()> = broody::spawn(take, (queue.clone(), ready.clone())).unwrap();
    await_ready();
    assert!(arena.allocated() > before + 2 * LONG as u64);
    child.kill().unwrap();
    eventually("what it had taken is gone", || arena.allocated() < before + LONG as u64 + (1 << 20));
    assert_eq!(queue.get().unwrap().len(), LONG);
    drop(queue);
    eventually("all is back", is_back);

    // Killed before it has looked at its argument at all, or while it does.
    for round in 0..20 {
        let child: Child<()> = broody::spawn(receive, (long_blob(), ready.clone())).unwrap();
        std::thread::sleep(Duration::from_micros(200 * round));
        child.kill().unwrap();
        let _ = child.wait();
        eventually("an argument of a killed process is gone", is_back);
    }
}

/// Long arguments and results of a pool.
fn messages() {
    const LONG: usize = 1 << 20;
    let echo = |bytes: Vec<u8>| bytes;
    let pool = Pool::builder().workers(2).build().unwrap();
    let message = || vec![7u8; LONG];
    pool.apply(echo, message()).unwrap();
    let arena = observer();
    let objects = arena.objects();
    let mut most = 0;
    for _ in 0..100 {
        assert_eq!(pool.apply(echo, message()).unwrap().len(), LONG);
        most = most.max(arena.allocated());
    }
    assert!(most < 16 * LONG as u64, "one after the other takes the same pages: {most} bytes");
    let results = pool.map(echo, (0..100).map(|_| message())).unwrap();
    assert!(results.iter().all(|bytes| bytes.len() == LONG));
    assert_eq!(arena.objects(), objects, "none is left");
    let is_little = || arena.allocated() < 4 * LONG as u64;
    eventually("what was kept is given back when nothing goes on", is_little);
    // It is given back in the middle of something, too, if that ends.
    let result = pool.map_async(echo, (0..20).map(|_| message())).unwrap();
    drop(pool);
    drop(result);
    eventually("what a pool has kept goes with it", is_little);
}

fn hold(lock: Lock<[u64; 2]>, ready: &Event) -> ! {
    let mut guard = lock.lock().unwrap();
    guard[0] += 1;
    await_death(ready)
}

/// The lock is had within some seconds, and its holder's death is told.
fn is_told(lock: &Lock<[u64; 2]>, start: Instant) {
    match lock.lock_timeout(PATIENCE) {
        Err(LockError::OwnerDied(guard)) => assert_eq!(*guard, [1, 0]),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < SOME_SECONDS, "{:?}", start.elapsed());
    assert_eq!(*lock.lock().unwrap(), [1, 0]);
}

/// Keeps named memory, in a child, too, and never drops it.
fn named() {
    let name = format!("broody-host-{}", fork::pid());
    let memory = SharedMemory::create(&name, 10_000).unwrap();
    let ready = Event::new().unwrap();
    let keep = |(_memory, ready): (SharedMemory, Event)| await_death(&ready);
    let _child: Child<()> =
        Process::builder().daemon(true).spawn(keep, (memory.clone(), ready.clone())).unwrap();
    assert!(ready.wait(Some(PATIENCE)).unwrap());
    println!("/dev/shm/{name}");
    std::mem::forget(memory);
    broody_tests::wait_for_test();
}

fn supervisor_dies_with_holder() {
    let (lock, ready) = (Lock::new([0u64, 0]).unwrap(), Event::new().unwrap());
    let child: Child<()> =
        broody::spawn(|(lock, ready)| hold(lock, &ready), (lock.clone(), ready.clone())).unwrap();
    assert!(ready.wait(Some(PATIENCE)).unwrap());
    let waiter = {
        let lock = lock.clone();
        std::thread::spawn(move || is_told(&lock, Instant::now()))
    };
    // It waits already, as far as can be told.
    std::thread::sleep(Duration::from_millis(20));
    fork::kill_child(supervisor().unwrap(), signals::SIGKILL).unwrap();
    waiter.join().unwrap();
    assert!(child.join().is_err());
}

/// Whoever waits for a process of a pipe, a queue or a barrier is told, though nobody is there to see that it has ended.
fn supervisor_dies_with_peer(wait: &str) {
    let ready = Event::new().unwrap();
    let (sender, received) = broody::channel::<u32>().unwrap();
    let (filled, taker) = broody::channel_bytes().unwrap();
    let tasks = JoinableQueue::<u32>::new().unwrap();
    tasks.put(7).unwrap();
    let barrier = Barrier::new(3).unwrap();
    type Ends = (broody::Sender<u32>, broody::Receiver<[u8]>);
    let keep = |(ends, tasks, barrier, ready): (Ends, JoinableQueue<u32>, Barrier, Event)| {
        tasks.get().unwrap();
        std::thread::spawn(move || barrier.wait(None));
        let _ends = ends;
        await_death(&ready)
    };
    let theirs = ((sender, taker), tasks.clone(), barrier.clone(), ready.clone());
    let child: Child<()> = broody::spawn(keep, theirs).unwrap();
    assert!(ready.wait(Some(PATIENCE)).unwrap());
    eventually("it has come to the barrier", || barrier.waiting() == 1);
    let killed = std::thread::spawn(|| {
        // The other thread waits then, as far as can be told.
        std::thread::sleep(Duration::from_millis(50));
        fork::kill_child(supervisor().unwrap(), signals::SIGKILL).unwrap();
    });
    match wait {
        "receive" => assert!(matches!(received.receive(), Err(Error::Closed { .. }))),
        "receive-again-and-again" => {
            eventually("it is closed", || {
                matches!(received.receive_timeout(Duration::from_millis(10)), Err(Error::Closed { .. }))
            });
        }
        "poll" => assert_eq!(broody::wait(&[&received], None).unwrap(), [0]),
        "send" => {
            let refused = (0..).find_map(|_| filled.send(&[0; 1 << 16]).err());
            assert!(matches!(refused, Some(Error::Closed { .. })));
        }
        "join" => assert!(matches!(tasks.join(None), Err(Error::TasksLost { count: 1 }))),
        "meet" => assert!(matches!(barrier.wait(None), Err(Error::BrokenBarrier))),
        other => panic!("no such wait: {other}"),
    }
    killed.join().unwrap();
    assert!(child.join().is_err());
}

/// A child by fork of this process alone, which no supervisor's death ends.
fn forked(act: impl FnOnce()) -> Child<()> {
    Process::builder().start_method(StartMethod::Fork).daemon(true).fork(act).unwrap()
}

fn supervisor_dies_before_holder() {
    let (lock, ready) = (Lock::new([0u64, 0]).unwrap(), Event::new().unwrap());
    let holder = forked(|| hold(lock.clone(), &ready));
    assert!(ready.wait(Some(PATIENCE)).unwrap());
    let told = Event::new().unwrap();
    let waiter = forked(|| {
        is_told(&lock, Instant::now());
        told.set().unwrap();
    });
    let old = supervisor().unwrap();
    fork::kill_child(old, signals::SIGKILL).unwrap();
    eventually("the supervisor is gone", || proc::stat(old).unwrap().is_none_or(|stat| stat.letter == 'Z'));
    assert!(holder.is_alive() && waiter.is_alive());
    holder.kill().unwrap();
    assert!(told.wait(Some(SOME_SECONDS)).unwrap(), "the waiter has found out by itself");
    waiter.join().unwrap();
}

fn holder_outlives_supervisor() {
    let (lock, ready, end) = (BareLock::new().unwrap(), Event::new().unwrap(), Event::new().unwrap());
    let holder = forked(|| {
        lock.acquire(None).unwrap();
        ready.set().unwrap();
        assert!(end.wait(Some(PATIENCE)).unwrap());
        lock.release().unwrap();
    });
    assert!(ready.wait(Some(PATIENCE)).unwrap());
    let old = supervisor().unwrap();
    fork::kill_child(old, signals::SIGKILL).unwrap();
    eventually("the supervisor is gone", || proc::stat(old).unwrap().is_none());
    // The next supervisor looks after what the last one may have left undone: that is not this one's.
    let starts =
        || broody::spawn(|(): ()| 7u32, ()).is_ok_and(|child| child.join().is_ok_and(|result| result == 7));
    eventually("there is another supervisor", starts);
    assert_ne!(supervisor().unwrap(), old);
    assert_eq!(lock.acquire(Some(Duration::from_millis(1500))).unwrap(), None, "its holder lives");
    end.set().unwrap();
    assert_eq!(lock.acquire(Some(PATIENCE)).unwrap(), Some(OwnerDied(false)));
    holder.join().unwrap();
}

/// Ten thousand locks and a thousand queues at once.
fn many() {
    broody::spawn(|(): ()| (), ()).unwrap().join().unwrap();
    let names = || -> std::collections::BTreeSet<_> {
        std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    drop(Lock::new(0u64).unwrap());
    let arena = observer();
    let (before, objects, shm) = (arena.allocated(), arena.objects(), names());
    let locks: Vec<_> = (0..10_000u64).map(|number| Lock::new(number).unwrap()).collect();
    let queues: Vec<_> = (0..1000).map(|_| Queue::<u64>::new().unwrap()).collect();
    for (number, lock) in locks.iter().enumerate() {
        *lock.lock().unwrap() += number as u64;
    }
    for (number, queue) in queues.iter().enumerate() {
        queue.put(number as u64).unwrap();
    }
    // Another process uses them, too.
    let (some_locks, some_queues) = (locks[..100].to_vec(), queues[..100].to_vec());
    let sum = |(locks, queues): (Vec<Lock<u64>>, Vec<Queue<u64>>)| {
        locks.iter().map(|lock| *lock.lock().unwrap()).sum::<u64>()
            + queues.iter().map(|queue| queue.get().unwrap()).sum::<u64>()
    };
    assert_eq!(broody::spawn(sum, (some_locks, some_queues)).unwrap().join().unwrap(), 3 * (99 * 100 / 2));
    assert_eq!(arena.objects() - objects, 10_000 + 2 * 1000, "each queue has a ring");
    assert!(proc::descriptors(fork::pid()).unwrap().len() < 100);
    assert_eq!(names(), shm, "nothing has a name");
    for (number, lock) in locks.iter().enumerate() {
        assert_eq!(*lock.lock().unwrap(), 2 * number as u64);
    }
    for (number, queue) in queues.iter().enumerate().skip(100) {
        assert_eq!(queue.get().unwrap(), number as u64);
    }
    drop((locks, queues));
    eventually("all memory is back", || {
        arena.objects() == objects && arena.allocated() <= before + (64 << 10)
    });
}
