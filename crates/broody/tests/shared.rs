//! Shared objects as values: passed to children of every start method, sent through queues, cloned, inherited, dropped.

#![allow(unsafe_code)]

use std::time::Duration;

use broody::{
    Array, BareLock, Barrier, Blob, BoundedSemaphore, BytesQueue, Condition, Connection, Error, Event,
    JoinableQueue, Lock, LockError, Process, Queue, RLock, Receiver, Semaphore, Sender, SharedMemory,
    StartMethod, Value, wait,
};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Short, where nothing is to happen.
const SHORT: Duration = Duration::from_millis(30);

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

type Everything = (
    (Lock<[u64; 2]>, BareLock, RLock, Semaphore, BoundedSemaphore),
    (Condition, Event, Barrier),
    (Queue<String>, BytesQueue, JoinableQueue<u32>, Sender<u32>, Connection<u32, u32>),
    (Value<i64>, Array<u32>, SharedMemory, Blob),
);

fn use_everything(everything: Everything) -> u64 {
    let ((lock, bare, recursive, semaphore, permits), (condition, event, barrier), queues, data) = everything;
    let (queue, bytes, tasks, sender, connection) = queues;
    let (value, array, memory, blob) = data;
    *lock.lock().unwrap() = [1, 2];
    bare.acquire(None).unwrap().unwrap();
    bare.release().unwrap();
    drop(recursive.lock().unwrap());
    semaphore.release(1).unwrap();
    assert!(permits.acquire(Some(Duration::ZERO)).unwrap());
    permits.release().unwrap();
    event.set().unwrap();
    barrier.wait(Some(PATIENCE)).unwrap();
    queue.put("queue".to_owned()).unwrap();
    bytes.put(b"bytes", None).unwrap();
    assert_eq!(tasks.get().unwrap(), 5);
    tasks.task_done().unwrap();
    sender.send(6).unwrap();
    let number = connection.receive().unwrap();
    connection.send(number + 1).unwrap();
    value.fetch_add(3);
    array.set(1, 9).unwrap();
    memory.write(3, b"here").unwrap();
    condition.notify_all().unwrap();
    blob.iter().map(|byte| u64::from(*byte)).sum()
}

#[test]
fn everything_is_a_value_for_every_start_method() {
    for method in METHODS {
        let (lock, bare, recursive) =
            (Lock::new([0u64; 2]).unwrap(), BareLock::new().unwrap(), RLock::new().unwrap());
        let (semaphore, permits) = (Semaphore::new(0).unwrap(), BoundedSemaphore::new(1).unwrap());
        let (condition, event, barrier) =
            (Condition::new().unwrap(), Event::new().unwrap(), Barrier::new(2).unwrap());
        let (queue, bytes) = (Queue::<String>::new().unwrap(), BytesQueue::new().unwrap());
        let tasks = JoinableQueue::<u32>::new().unwrap();
        let (sender, receiver) = broody::channel::<u32>().unwrap();
        let (ours, theirs) = broody::pipe::<u32, u32>().unwrap();
        let (value, array) = (Value::new(4i64).unwrap(), Array::new(&[0u32; 3]).unwrap());
        let (memory, blob) = (SharedMemory::new(10).unwrap(), Blob::new(&[2; 5000]).unwrap());
        tasks.put(5).unwrap();
        ours.send(70).unwrap();
        let everything = (
            (lock.clone(), bare.clone(), recursive.clone(), semaphore.clone(), permits.clone()),
            (condition.clone(), event.clone(), barrier.clone()),
            (queue.clone(), bytes.clone(), tasks.clone(), sender, theirs),
            (value.clone(), array.clone(), memory.clone(), blob.clone()),
        );
        let child = Process::builder().start_method(method).spawn(use_everything, everything).unwrap();
        barrier.wait(Some(PATIENCE)).unwrap();
        assert_eq!(child.join().unwrap(), 10_000, "{method:?}");
        assert_eq!(*lock.lock().unwrap(), [1, 2]);
        assert!(!bare.locked() && !recursive.locked());
        assert_eq!((semaphore.value(), permits.value()), (1, 1));
        assert!(event.is_set());
        assert_eq!(queue.get().unwrap(), "queue");
        assert_eq!(&*bytes.get(None).unwrap(), b"bytes");
        tasks.join(Some(PATIENCE)).unwrap();
        // The child's end is gone; a fork's parent dropped its own with the arguments.
        assert_eq!(receiver.iter().map(Result::unwrap).collect::<Vec<_>>(), [6], "{method:?}");
        assert_eq!(ours.receive().unwrap(), 71);
        assert!(matches!(ours.receive(), Err(Error::Closed { .. })));
        assert_eq!(value.get().unwrap(), 7);
        assert_eq!(array.lock().unwrap().to_vec(), [0, 9, 0]);
        let mut here = [0; 4];
        memory.read(3, &mut here).unwrap();
        assert_eq!(&here, b"here");
    }
}

#[test]
fn a_closure_of_a_fork_uses_what_it_captured() {
    let (lock, queue) = (Lock::new(0u32).unwrap(), Queue::<u32>::new().unwrap());
    let child = broody::fork(|| {
        *lock.lock().unwrap() += 1;
        queue.put(2).unwrap();
    })
    .unwrap();
    child.join().unwrap();
    assert_eq!((*lock.lock().unwrap(), queue.get().unwrap()), (1, 2));
}

#[test]
fn what_a_fork_inherits_outlives_its_parents_handle() {
    let (go, done) = (Event::new().unwrap(), Queue::<u32>::new().unwrap());
    let inherited = Lock::new(41u32).unwrap();
    let child = broody::fork(|| {
        go.wait(Some(PATIENCE)).unwrap();
        done.put(*inherited.lock().unwrap() + 1).unwrap();
    })
    .unwrap();
    drop(inherited);
    go.set().unwrap();
    assert_eq!(done.get_timeout(PATIENCE).unwrap(), 42);
    child.join().unwrap();
}

#[test]
fn what_a_fork_of_a_fork_inherits_outlives_the_handles_of_both() {
    let (go, dropped) = (Event::new().unwrap(), Event::new().unwrap());
    let inherited = Lock::new(41u32).unwrap();
    let child = broody::fork({
        let (go, dropped) = (go.clone(), dropped.clone());
        // Moved: with the closure, this process drops its only handle.
        move || {
            let grandchild = broody::fork(|| {
                go.wait(Some(PATIENCE)).unwrap();
                *inherited.lock().unwrap() + 1
            });
            drop(inherited);
            dropped.set().unwrap();
            grandchild.unwrap().join().unwrap()
        }
    })
    .unwrap();
    assert!(dropped.wait(Some(PATIENCE)).unwrap());
    go.set().unwrap();
    assert_eq!(child.join().unwrap(), 42);
}

/// Runs `act` in a fork that knows nothing of broody, and `meanwhile` here. Whether `act` returned.
fn in_raw_fork(act: impl FnOnce(), meanwhile: impl FnOnce()) -> bool {
    // SAFETY: the child uses only what it inherits, and exits at once.
    match unsafe { libc::fork() } {
        0 => {
            let panicked = panics(act);
            // SAFETY: no exit function of the test's runs in the child.
            unsafe { libc::_exit(panicked.into()) }
        }
        pid => {
            meanwhile();
            let mut status = 0;
            // SAFETY: a child of this process, and a place for its status.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            status == 0
        }
    }
}

/// Whether `act` panics.
fn panics<R>(act: impl FnOnce() -> R) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
}

#[test]
fn a_fork_does_not_touch_what_is_another_object_by_now() {
    type Things = (Event, Value<u64>, Lock<[u8; 10]>, Lock<[u8; 3000]>, [Array<u8>; 2], SharedMemory, Blob);
    let make = || -> Things {
        let arrays = [Array::new(&[1; 10]).unwrap(), Array::new(&[1; 3000]).unwrap()];
        let (event, value) = (Event::new().unwrap(), Value::new(1).unwrap());
        let (short, long) = (Lock::new([1; 10]).unwrap(), Lock::new([1; 3000]).unwrap());
        let (memory, blob) = (SharedMemory::new(3000).unwrap(), Blob::new(&[1; 3000]).unwrap());
        memory.write(0, &[1; 3000]).unwrap();
        event.set().unwrap();
        (event, value, short, long, arrays, memory, blob)
    };
    let try_all = |(event, value, short, long, arrays, memory, blob): &Things| {
        assert!(panics(|| event.clear()) && panics(|| event.is_set()) && event.set().is_err());
        assert!(panics(|| value.store(2)) && panics(|| value.load()) && panics(|| value.fetch_add(1)));
        assert!(panics(|| value.compare_exchange(1, 2)) && value.set(2).is_err());
        assert!(short.lock().is_err() && long.lock().is_err() && panics(|| long.is_locked()));
        for array in arrays {
            assert!(array.store(0, 2).is_err() && array.load(0).is_err() && array.fetch_add(0, 1).is_err());
            assert!(array.get(0).is_err() && array.set(0, 2).is_err() && array.lock().is_err());
        }
        assert!(memory.write(0, &[2]).is_err() && memory.read(0, &mut [0]).is_err());
        assert!(panics(|| memory.as_ptr()) && panics(|| blob.len()));
    };
    let things = std::cell::RefCell::new(Some(make()));
    let (ready, others) = (Event::new().unwrap(), std::cell::OnceCell::new());
    let refused = in_raw_fork(
        || {
            assert!(ready.wait(Some(PATIENCE)).unwrap());
            try_all(things.borrow().as_ref().unwrap());
        },
        || {
            drop(things.take());
            // In the same places, as likely as not.
            others.set(make()).unwrap();
            ready.set().unwrap();
        },
    );
    assert!(refused, "see above");
    let (event, value, short, long, arrays, memory, blob) = others.get().unwrap();
    let mut bytes = [0; 3000];
    memory.read(0, &mut bytes).unwrap();
    assert!(event.is_set() && value.load() == 1 && bytes == [1; 3000] && blob[..] == [1; 3000]);
    assert!(*short.lock().unwrap() == [1; 10] && *long.lock().unwrap() == [1; 3000]);
    assert!(arrays.iter().all(|array| array.lock().unwrap().iter().all(|item| item == 1)));
}

#[test]
fn objects_travel_through_queues_and_outlive_their_sender() {
    type Parcel = (Lock<u64>, Blob, Sender<u8>);
    let queue = Queue::<Parcel>::new().unwrap();
    let (sender, receiver) = broody::channel::<u8>().unwrap();
    fn send((queue, sender): (Queue<Parcel>, Sender<u8>)) {
        queue.put((Lock::new(7).unwrap(), Blob::new(&[1; 100_000]).unwrap(), sender)).unwrap();
    }
    broody::spawn(send, (queue.clone(), sender)).unwrap().join().unwrap();
    // The process that made them is gone.
    let (lock, blob, sender) = queue.get().unwrap();
    assert_eq!(*lock.lock().unwrap(), 7);
    assert!(blob.iter().all(|byte| *byte == 1) && blob.len() == 100_000);
    assert!(!receiver.is_ready());
    drop(sender);
    assert!(matches!(receiver.receive(), Err(Error::Closed { .. })));
}

#[test]
fn a_message_that_nobody_takes_lets_go_of_its_objects() {
    let queue = Queue::<Sender<u8>>::new().unwrap();
    let (sender, receiver) = broody::channel::<u8>().unwrap();
    queue.put(sender).unwrap();
    assert!(matches!(receiver.receive_timeout(SHORT), Err(Error::TimedOut { .. })));
    drop(queue);
    assert!(matches!(receiver.receive_timeout(PATIENCE), Err(Error::Closed { .. })));
}

#[test]
fn a_prepared_process_gets_its_objects_at_each_start() {
    let counter = Value::new(0u32).unwrap();
    let ready =
        Process::builder().prepare(|counter: Value<u32>| counter.fetch_add(1), counter.clone()).unwrap();
    let children: Vec<_> = (0..4).map(|_| ready.start().unwrap()).collect();
    let mut seen: Vec<_> = children.into_iter().map(|child| child.join().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!((seen, counter.load()), (vec![0, 1, 2, 3], 4));
}

#[test]
fn an_object_of_another_type_is_refused_by_the_receiver() {
    /// Encoded as the lock that it is, decoded as a lock of something else.
    #[derive(serde::Serialize, serde::Deserialize)]
    enum Disguised {
        #[serde(skip_deserializing)]
        Numbers(Lock<u64>),
        #[serde(skip_serializing)]
        Letters(Lock<[u8; 8]>),
    }
    let queue = Queue::<Disguised>::new().unwrap();
    queue.put(Disguised::Numbers(Lock::new(1u64).unwrap())).unwrap();
    let is_held = |got| match got {
        Disguised::Letters(lock) => lock.is_locked(),
        Disguised::Numbers(lock) => lock.is_locked(),
    };
    let error = queue.get().map(is_held).unwrap_err();
    assert!(error.to_string().contains("of this type"), "{error}");
    assert!(queue.is_empty());
}

#[test]
fn what_is_longer_than_any_memory_is_an_error() {
    let is_error = |error: Error| error.to_string().contains("memory");
    assert!(is_error(SharedMemory::new(usize::MAX).unwrap_err()));
    assert!(is_error(Array::<u8>::zeroed(usize::MAX).unwrap_err()));
    assert!(is_error(Array::<u64>::zeroed(usize::MAX).unwrap_err()));
    assert!(SharedMemory::create(&format!("broody-huge-{}", std::process::id()), usize::MAX).is_err());
}

#[test]
fn a_shared_object_cannot_be_a_result() {
    let child = broody::spawn(|(): ()| Lock::new(1u8).unwrap(), ()).unwrap();
    let error = child.join().unwrap_err();
    assert!(error.to_string().contains("through a queue or pipe"), "{error}");
}

#[test]
fn a_lock_held_elsewhere_times_out_and_is_intact() {
    let (lock, held, go) = (Lock::new(5u8).unwrap(), Event::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(
        |(lock, held, go): (Lock<u8>, Event, Event)| {
            let mut guard = lock.lock().unwrap();
            held.set().unwrap();
            go.wait(Some(PATIENCE)).unwrap();
            *guard += 1;
        },
        (lock.clone(), held.clone(), go.clone()),
    )
    .unwrap();
    assert!(held.wait(Some(PATIENCE)).unwrap());
    assert!(lock.is_locked());
    assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
    assert!(matches!(lock.lock_timeout(SHORT), Err(LockError::TimedOut)));
    go.set().unwrap();
    // A limit beyond the clock's range is none.
    assert_eq!(*lock.lock_timeout(Duration::MAX).unwrap(), 6);
    child.join().unwrap();
}

#[test]
fn releasing_what_is_not_held_is_an_error_and_changes_nothing() {
    let (bare, recursive, permits) =
        (BareLock::new().unwrap(), RLock::new().unwrap(), BoundedSemaphore::new(2).unwrap());
    assert!(matches!(bare.release(), Err(Error::NotHeld { .. })));
    assert!(matches!(recursive.release(), Err(Error::NotHeld { .. })));
    assert!(matches!(permits.release(), Err(Error::NotHeld { .. })));
    assert_eq!(permits.value(), 2);
    let _guard = recursive.lock().unwrap();
    let other = broody::spawn(|lock: RLock| lock.release().is_err(), recursive.clone()).unwrap();
    assert!(other.join().unwrap());
    assert!(std::thread::scope(|scope| scope.spawn(|| recursive.release().is_err()).join().unwrap()));
    assert_eq!(recursive.depth(), 1);
    let tasks = JoinableQueue::<u8>::new().unwrap();
    assert!(matches!(tasks.task_done(), Err(Error::NotHeld { .. })));
    let semaphore = Semaphore::new(i32::MAX as u32).unwrap();
    assert!(semaphore.release(1).is_err());
    assert_eq!(semaphore.value(), i32::MAX as u32);
    assert!(Semaphore::new(u32::MAX).is_err());
    assert!(BoundedSemaphore::new(1_000_000).is_err());
    assert!(Barrier::new(0).is_err());
    assert!(Queue::<u8>::bounded(0).is_err());
    assert!(BytesQueue::bounded(Some(0), None).is_err() && BytesQueue::bounded(None, Some(0)).is_err());
    assert!(JoinableQueue::<u8>::with(Queue::builder().messages(0)).is_err());
}

#[test]
fn full_empty_and_closed_queues_say_so() {
    let queue = Queue::<u32>::bounded(2).unwrap();
    assert!(matches!(queue.try_get(), Err(Error::TimedOut { .. })));
    assert!(matches!(queue.get_timeout(SHORT), Err(Error::TimedOut { .. })));
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(3), Err(Error::TimedOut { .. })));
    assert!(matches!(queue.put_timeout(3, SHORT), Err(Error::TimedOut { .. })));
    queue.close();
    assert!(matches!(queue.put(3), Err(Error::Closed { .. })));
    assert_eq!(queue.iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(queue.get(), Err(Error::Closed { .. })));
}

#[test]
fn a_message_longer_than_the_bound_is_refused_and_the_queue_goes_on() {
    let queue = Queue::<Vec<u8>>::builder().bytes(10_000).build().unwrap();
    let error = queue.put(vec![0; 20_000]).unwrap_err();
    assert!(matches!(error, Error::MessageTooLong { bound: 10_000, .. }), "{error}");
    queue.put(vec![1; 9_000]).unwrap();
    assert_eq!(queue.get().unwrap().len(), 9_000);
}

#[test]
fn a_pipe_takes_messages_of_any_length_one_after_the_other() {
    let (ours, theirs) = broody::pipe::<Vec<u8>, usize>().unwrap();
    let child = broody::spawn(
        |theirs: Connection<usize, Vec<u8>>| {
            while let Ok(message) = theirs.receive() {
                assert!(message.iter().all(|byte| *byte == message.len() as u8));
                theirs.send(message.len()).unwrap();
            }
        },
        theirs,
    )
    .unwrap();
    for length in [0usize, 1, 1000, 300_000, 700_000, 3 << 20] {
        ours.send(vec![length as u8; length]).unwrap();
        assert_eq!(ours.receive_timeout(PATIENCE).unwrap(), length);
    }
    drop(ours);
    child.join().unwrap();
}

#[test]
fn waiting_for_several_things_gives_those_that_are_ready() {
    let (first, second) = (Queue::<u32>::new().unwrap(), BytesQueue::new().unwrap());
    let (sender, receiver) = broody::channel::<u32>().unwrap();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = broody::spawn(|event: Event| event.wait(Some(PATIENCE)).unwrap(), {
        let event = Event::new().unwrap();
        event.set().unwrap();
        event
    })
    .unwrap();
    let things: [&dyn broody::Waitable; 5] = [&first, &second, &receiver, &far, &child];
    assert_eq!(wait(&things, Some(PATIENCE)).unwrap(), [4]);
    let things = &things[..4];
    assert!(wait(things, Some(SHORT)).unwrap().is_empty());
    assert!(wait(things, Some(Duration::ZERO)).unwrap().is_empty());
    for round in 0..100 {
        let putter = broody::fork(|| second.put(b"x", None).unwrap()).unwrap();
        assert_eq!(wait(things, Some(PATIENCE)).unwrap(), [1], "round {round}");
        assert_eq!(&*second.get(None).unwrap(), b"x");
        putter.join().unwrap();
    }
    first.put(1).unwrap();
    std::io::Write::write_all(&mut near, b"x").unwrap();
    assert_eq!(wait(things, Some(PATIENCE)).unwrap(), [0, 3]);
    drop(sender);
    // Forks that other tests make meanwhile have a copy of the sender, too, until they end.
    while wait(things, Some(PATIENCE)).unwrap() == [0, 3] {
        std::thread::yield_now();
    }
    assert_eq!(wait(things, Some(PATIENCE)).unwrap(), [0, 2, 3]);
    child.join().unwrap();
}

#[test]
fn one_notification_wakes_one_waiter_in_the_order_of_their_coming() {
    let (lock, condition) = (Lock::new(0u32).unwrap(), Condition::new().unwrap());
    let woken = Queue::<u32>::new().unwrap();
    fn waiter((number, lock, condition, woken): (u32, Lock<u32>, Condition, Queue<u32>)) {
        let mut guard = lock.lock().unwrap();
        *guard += 1;
        drop(condition.wait(guard).unwrap());
        woken.put(number).unwrap();
    }
    let mut children = Vec::new();
    for number in 0..5 {
        let arguments = (number, lock.clone(), condition.clone(), woken.clone());
        children.push(broody::spawn(waiter, arguments).unwrap());
        while *lock.lock().unwrap() != number + 1 {
            std::thread::yield_now();
        }
    }
    for expected in 0..3 {
        assert!(condition.notify_one().unwrap());
        assert_eq!(woken.get_timeout(PATIENCE).unwrap(), expected);
        assert!(matches!(woken.try_get(), Err(Error::TimedOut { .. })));
    }
    assert_eq!(condition.notify_all().unwrap(), 2);
    children.into_iter().for_each(|child| child.join().unwrap());
    assert!(!condition.notify_one().unwrap());
    let guard = lock.lock().unwrap();
    let (_guard, notified) = condition.wait_timeout(guard, SHORT).unwrap();
    assert!(!notified);
}

#[test]
fn a_barrier_that_somebody_gives_up_breaks_for_all_until_it_is_reset() {
    let barrier = Barrier::new(2).unwrap();
    assert!(matches!(barrier.wait(Some(SHORT)), Err(Error::BrokenBarrier)));
    assert!(barrier.is_broken());
    let child = broody::spawn(|barrier: Barrier| barrier.wait(None).is_err(), barrier.clone()).unwrap();
    assert!(child.join().unwrap());
    barrier.reset().unwrap();
    let child =
        broody::spawn(|barrier: Barrier| barrier.wait(Some(PATIENCE)).unwrap(), barrier.clone()).unwrap();
    let ours = barrier.wait(Some(PATIENCE)).unwrap();
    assert_eq!(ours + child.join().unwrap(), 1);
    let (waiting, told) = (barrier.clone(), Queue::<bool>::new().unwrap());
    let child = broody::spawn(
        |(barrier, told): (Barrier, Queue<bool>)| told.put(barrier.wait(None).is_err()).unwrap(),
        (waiting, told.clone()),
    )
    .unwrap();
    while barrier.waiting() != 1 {
        std::thread::yield_now();
    }
    barrier.reset().unwrap();
    assert!(told.get_timeout(PATIENCE).unwrap());
    child.join().unwrap();
}

#[test]
fn a_party_that_ends_in_order_breaks_no_barrier_though_it_never_drops_its_handle() {
    let barrier = Barrier::new(2).unwrap();
    for method in METHODS {
        let child = Process::builder().start_method(method).spawn(
            |barrier: Barrier| {
                barrier.wait(Some(PATIENCE)).unwrap();
                std::mem::forget(barrier);
            },
            barrier.clone(),
        );
        let child = child.unwrap();
        barrier.wait(Some(PATIENCE)).unwrap();
        child.join().unwrap();
        // Then what it held is put right.
        child.wait().unwrap();
        assert!(!barrier.is_broken(), "{method:?}");
    }
}

#[test]
fn a_large_lock_and_array_are_memory_of_their_own() {
    let lock = Lock::new([3u64; 1000]).unwrap();
    let array = Array::<u16>::zeroed(1_000_000).unwrap();
    let child = broody::spawn(
        |(lock, array): (Lock<[u64; 1000]>, Array<u16>)| {
            lock.lock().unwrap()[999] = 4;
            array.fetch_add(999_999, 5).unwrap();
        },
        (lock.clone(), array.clone()),
    )
    .unwrap();
    child.join().unwrap();
    assert_eq!(lock.lock().unwrap().iter().sum::<u64>(), 3001);
    assert_eq!((array.len(), array.load(999_999).unwrap()), (1_000_000, 5));
    assert!(array.get(1_000_000).is_err());
}

#[test]
fn objects_are_freed_with_their_last_handle() {
    let (sender, receiver) = broody::channel::<u8>().unwrap();
    fn hold(sender: Sender<u8>) -> bool {
        let copy = sender.clone();
        drop(sender);
        copy.send(1).is_ok()
    }
    assert!(broody::spawn(hold, sender).unwrap().join().unwrap());
    assert_eq!(Receiver::iter(&receiver).map(Result::unwrap).collect::<Vec<_>>(), [1]);
}

#[test]
fn named_memory_is_shared_by_name_and_goes_with_its_last_user() {
    let name = format!("broody-test-{}", std::process::id());
    let path = format!("/dev/shm/{name}");
    let memory = SharedMemory::create(&name, 10_000).unwrap();
    assert!(matches!(SharedMemory::create(&name, 1), Err(Error::Os(_))));
    for method in METHODS {
        // By its name, and as an argument.
        let child = Process::builder().start_method(method).spawn(
            |(memory, name): (SharedMemory, String)| {
                memory.write(9_999, b"x").unwrap();
                SharedMemory::open(&name).unwrap().write(0, b"y").unwrap();
            },
            (memory.clone(), name.clone()),
        );
        child.unwrap().join().unwrap();
        let mut got = [0; 1];
        memory.read(9_999, &mut got).unwrap();
        assert_eq!(&got, b"x");
        memory.read(0, &mut got).unwrap();
        assert_eq!(&got, b"y");
        memory.write(0, b"0").unwrap();
        memory.write(9_999, b"0").unwrap();
        assert!(std::fs::exists(&path).unwrap());
    }
    let (opened, go) = (Event::new().unwrap(), Event::new().unwrap());
    let child = broody::spawn(
        |(name, opened, go): (String, Event, Event)| {
            let memory = SharedMemory::open(&name).unwrap();
            opened.set().unwrap();
            go.wait(None).unwrap();
            drop(memory);
        },
        (name.clone(), opened.clone(), go.clone()),
    )
    .unwrap();
    assert!(opened.wait(Some(PATIENCE)).unwrap());
    drop(memory);
    assert!(std::fs::exists(&path).unwrap(), "another process has it");
    child.kill().unwrap();
    child.wait().unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    while std::fs::exists(&path).unwrap() {
        assert!(std::time::Instant::now() < end, "the name is left behind");
        std::thread::yield_now();
    }
    assert!(SharedMemory::open(&name).is_err());
    for wrong in ["", "a/b", "..", &"x".repeat(300)] {
        assert!(matches!(SharedMemory::create(wrong, 1), Err(Error::Invalid { .. })), "{wrong}");
    }
}

#[test]
fn tasks_of_who_panics_or_drops_the_queue_are_lost_and_nobody_waits_for_them() {
    fn panics(queue: JoinableQueue<u32>) {
        assert_eq!(queue.get().unwrap(), 99, "on purpose");
    }
    fn drops((queue, end): (JoinableQueue<u32>, Event)) {
        queue.get().unwrap();
        drop(queue);
        end.wait(Some(PATIENCE)).unwrap();
    }
    let queue = JoinableQueue::<u32>::new().unwrap();
    queue.put(1).unwrap();
    let child = broody::spawn(panics, queue.clone()).unwrap();
    assert!(child.join().is_err());
    assert!(matches!(queue.join(Some(PATIENCE)), Err(Error::TasksLost { count: 1 })));
    queue.put(2).unwrap();
    let end = Event::new().unwrap();
    let child = broody::spawn(drops, (queue.clone(), end.clone())).unwrap();
    // It is alive, and could not say any more that it is done. Who waits already is told.
    assert!(matches!(queue.join(Some(PATIENCE)), Err(Error::TasksLost { count: 1 })));
    end.set().unwrap();
    child.join().unwrap();
    queue.join(Some(PATIENCE)).unwrap();
}
