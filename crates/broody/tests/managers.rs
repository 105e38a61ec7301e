//! Values in a process of their own, called from others; and what becomes of them when processes die.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broody::{Error, Event, Hosted, Manager, Pool, Process, Queue, Semaphore, StartMethod, Value, wait};

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

type Counts = BTreeMap<String, u64>;

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn count(counts: &mut Counts, word: String) -> u64 {
    let count = counts.entry(word).or_default();
    *count += 1;
    *count
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn kill(pid: i32) {
    // SAFETY: of a process of this test's.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

/// Tells by a semaphore that it was dropped.
struct Witness(Semaphore);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.release(1).unwrap();
    }
}

fn is_dropped(dropped: &Semaphore) -> bool {
    dropped.acquire(Some(PATIENCE)).unwrap()
}

fn is_there(dropped: &Semaphore) -> bool {
    !dropped.acquire(Some(Duration::from_millis(50))).unwrap()
}

#[test]
fn children_of_every_start_method_call_the_same_value() {
    let manager = Manager::start().unwrap();
    let counts = manager.host(Counts::new()).unwrap();
    assert_eq!(counts.call(count, "word".to_owned()).unwrap(), 1);
    for method in METHODS {
        let child = Process::builder().start_method(method).spawn(
            |counts: Hosted<Counts>| {
                (0..100).for_each(|_| _ = counts.call(count, "word".to_owned()).unwrap())
            },
            counts.clone(),
        );
        child.unwrap().join().unwrap();
    }
    assert_eq!(
        counts.call(|counts, ()| counts.clone(), ()).unwrap(),
        Counts::from([("word".to_owned(), 301)])
    );
}

#[test]
fn a_closure_in_a_fork_calls_by_a_handle_that_it_captures() {
    let manager = Manager::start().unwrap();
    let counts = manager.host(Counts::new()).unwrap();
    counts.call(count, "word".to_owned()).unwrap();
    let inherited = counts.clone();
    let child = broody::fork(move || inherited.call(count, "word".to_owned()).unwrap()).unwrap();
    assert_eq!(child.join().unwrap(), 2);
    assert_eq!(counts.call(count, "word".to_owned()).unwrap(), 3);
}

#[test]
fn tasks_of_pools_and_messages_carry_handles() {
    let manager = Manager::start().unwrap();
    let total = manager.host(0u64).unwrap();
    let pool = Pool::builder().workers(2).build().unwrap();
    let add = |(total, number): (Hosted<u64>, u64)| {
        total.call(|total, number: u64| *total += number, number).unwrap()
    };
    pool.map(add, (1..=50).map(|number| (total.clone(), number))).unwrap();
    let queue = Queue::new().unwrap();
    queue.put(total.clone()).unwrap();
    let child = broody::spawn(
        |queue: Queue<Hosted<u64>>| queue.get().unwrap().call(|total, ()| *total, ()).unwrap(),
        queue,
    );
    assert_eq!(child.unwrap().join().unwrap(), 50 * 51 / 2);
}

#[test]
fn a_manager_is_a_value_by_which_children_host_their_own() {
    let manager = Manager::start().unwrap();
    let child = broody::spawn(
        |manager: Manager| manager.host(7u32).unwrap().call(|value, more: u32| *value + more, 1).unwrap(),
        manager.clone(),
    );
    assert_eq!(child.unwrap().join().unwrap(), 8);
    assert!(manager.is_alive());
}

#[test]
fn arguments_and_results_may_be_long_and_have_shared_objects_in_them() {
    let manager = Manager::start().unwrap();
    let bytes = manager.host(Vec::<u8>::new()).unwrap();
    bytes.call(|bytes, more: Vec<u8>| bytes.extend(more), vec![7; 10 << 20]).unwrap();
    assert_eq!(bytes.call(|bytes, ()| bytes.clone(), ()).unwrap(), vec![7; 10 << 20]);
    let queues = manager.host_with(|()| Vec::<Queue<u32>>::new(), ()).unwrap();
    let queue = Queue::new().unwrap();
    queues.call(|queues, queue: Queue<u32>| queues.push(queue), queue.clone()).unwrap();
    queue.put(5).unwrap();
    drop(queue);
    let queue = queues.call(|queues, ()| queues.pop().unwrap(), ()).unwrap();
    assert_eq!(queue.get().unwrap(), 5);
}

#[test]
fn the_last_handle_drops_the_value() {
    let manager = Manager::start().unwrap();
    let dropped = Semaphore::new(0).unwrap();
    let first = manager.host_with(Witness, dropped.clone()).unwrap();
    let second = first.clone();
    let queue = Queue::new().unwrap();
    queue.put(first.clone()).unwrap();
    drop((first, second));
    assert!(is_there(&dropped), "a message has a handle");
    drop(queue.get().unwrap());
    assert!(is_dropped(&dropped));
    let in_message = manager.host_with(Witness, dropped.clone()).unwrap();
    queue.put(in_message).unwrap();
    drop(queue);
    assert!(is_dropped(&dropped), "it goes with the queue");
}

#[test]
fn a_killed_holder_lets_go_of_the_value() {
    let manager = Manager::start().unwrap();
    for method in METHODS {
        let dropped = Semaphore::new(0).unwrap();
        let held = Event::new().unwrap();
        let value = manager.host_with(Witness, dropped.clone()).unwrap();
        let child = Process::builder().start_method(method).spawn(
            |(value, held): (Hosted<Witness>, Event)| {
                value.call(|_, ()| (), ()).unwrap();
                held.set().unwrap();
                std::thread::sleep(PATIENCE);
                drop(value);
            },
            (value.clone(), held.clone()),
        );
        let child = child.unwrap();
        assert!(held.wait(Some(PATIENCE)).unwrap());
        drop(value);
        assert!(is_there(&dropped), "{method:?}: the child has a handle");
        child.kill().unwrap();
        assert!(is_dropped(&dropped), "{method:?}");
    }
}

#[test]
fn a_caller_killed_in_the_middle_of_a_call_holds_nothing() {
    let manager = Manager::start().unwrap();
    let (dropped, gate, called) =
        (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    type Guarded = (Witness, u32);
    let value = manager.host_with(|dropped: Semaphore| (Witness(dropped), 0u32), dropped.clone()).unwrap();
    fn block((_, count): &mut Guarded, (gate, called): (Semaphore, Semaphore)) {
        called.release(1).unwrap();
        assert!(gate.acquire(Some(PATIENCE)).unwrap());
        *count += 1;
    }
    let child = broody::spawn(
        |(value, gates): (Hosted<Guarded>, (Semaphore, Semaphore))| value.call(block, gates).unwrap(),
        (value.clone(), (gate.clone(), called.clone())),
    )
    .unwrap();
    assert!(called.acquire(Some(PATIENCE)).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    gate.release(1).unwrap();
    assert_eq!(value.call(|(_, count), ()| *count, ()).unwrap(), 1, "what was sent was carried out");
    drop(value);
    assert!(is_dropped(&dropped));
}

#[test]
fn a_call_that_waits_keeps_nobody_else_waiting() {
    let manager = Manager::start().unwrap();
    let gate = Event::new().unwrap();
    let (slow, fast) = (manager.host(0u32).unwrap(), manager.host(0u32).unwrap());
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    slow.call(
                        |count, gate: Event| {
                            assert!(gate.wait(Some(PATIENCE)).unwrap());
                            *count += 1;
                        },
                        gate.clone(),
                    )
                })
            })
            .collect();
        for number in 1..=100 {
            assert_eq!(
                fast.call(
                    |count, ()| {
                        *count += 1;
                        *count
                    },
                    ()
                )
                .unwrap(),
                number
            );
        }
        assert!(threads(manager.pid()) < 10, "no thread for each who waits for the same value");
        gate.set().unwrap();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    });
    assert_eq!(slow.call(|count, ()| *count, ()).unwrap(), 20);
}

#[test]
fn many_callers_and_values_have_no_threads() {
    let manager = Manager::start().unwrap();
    let values: Vec<_> = (0..200u64).map(|number| manager.host(number).unwrap()).collect();
    std::thread::scope(|scope| {
        for caller in 0..40 {
            let values = &values;
            scope.spawn(move || {
                for value in values.iter().skip(caller % 7) {
                    value.call(|value, ()| *value += 1, ()).unwrap();
                }
            });
        }
    });
    eventually("the end of threads", || threads(manager.pid()) < 10);
    assert_eq!(values[199].call(|value, ()| *value, ()).unwrap(), 199 + 40);
}

#[test]
fn a_panic_is_an_error_and_poisons_the_value_until_somebody_clears_that() {
    let manager = Manager::start().unwrap();
    let counts = manager.host(Counts::new()).unwrap();
    fn fail(counts: &mut Counts, word: String) {
        counts.insert(word, 1);
        panic!("half-way");
    }
    match counts.call(fail, "half".to_owned()).unwrap_err() {
        Error::Panicked { function, pid, message, backtrace } => {
            assert!(function.contains("fail") && message.contains("half-way") && backtrace.contains("fail"));
            assert_eq!(pid, manager.pid());
        }
        error => panic!("{error}"),
    }
    match counts.call(count, "word".to_owned()).unwrap_err() {
        Error::Poisoned { message } => assert!(message.contains("half-way")),
        error => panic!("{error}"),
    }
    counts.clear_poison().unwrap();
    assert_eq!(counts.call(count, "half".to_owned()).unwrap(), 2);
    assert!(matches!(
        manager.host_with(|()| -> u32 { panic!("not made") }, ()).unwrap_err(),
        Error::Panicked { .. }
    ));
    assert!(manager.is_alive());
}

/// Says that it is longer than it is.
#[derive(Debug)]
struct Liar;

impl serde::Serialize for Liar {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

impl<'de> serde::Deserialize<'de> for Liar {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("no"))
    }
}

#[test]
fn what_has_no_encoding_is_an_error_that_says_so() {
    let manager = Manager::start().unwrap();
    let value = manager.host(1u32).unwrap();
    assert!(matches!(
        value.call(|_, _: Liar| (), Liar).unwrap_err(),
        Error::Encode { what: "the argument", .. }
    ));
    assert!(matches!(value.call(|_, ()| Liar, ()).unwrap_err(), Error::Encode { what: "the result", .. }));
    assert!(matches!(manager.host(Liar).unwrap_err(), Error::Encode { .. }));
    assert_eq!(value.call(|value, ()| *value, ()).unwrap(), 1);
}

#[test]
fn a_killed_manager_is_an_error_for_who_calls_and_for_who_waits() {
    let manager = Manager::start().unwrap();
    let (gate, called) = (Event::new().unwrap(), Semaphore::new(0).unwrap());
    let value = manager.host(0u32).unwrap();
    fn block(_: &mut u32, (gate, called): (Event, Semaphore)) {
        called.release(1).unwrap();
        gate.wait(None).unwrap();
    }
    let pid = manager.pid();
    std::thread::scope(|scope| {
        let gates = (gate.clone(), called.clone());
        let running = scope.spawn(|| value.call(block, gates));
        assert!(called.acquire(Some(PATIENCE)).unwrap());
        // It has not begun: the value is in use.
        let waiting = scope.spawn(|| value.call(|_, ()| (), ()));
        kill(pid);
        for call in [running, waiting] {
            let error = call.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::ManagerLost { pid: lost } if lost == pid), "{error}");
        }
    });
    assert_eq!(wait(&[&manager], Some(PATIENCE)).unwrap(), [0]);
    for _ in 0..2 {
        assert!(matches!(value.call(|_, ()| (), ()).unwrap_err(), Error::ManagerLost { .. }));
        assert!(matches!(manager.host(1u32).unwrap_err(), Error::ManagerLost { .. }));
    }
    assert!(!manager.is_alive());
    manager.shutdown().unwrap();
    assert_eq!(Manager::start().unwrap().host(3u32).unwrap().call(|value, ()| *value, ()).unwrap(), 3);
}

#[test]
fn a_shutdown_ends_the_process_and_its_values() {
    let manager = Manager::start().unwrap();
    let dropped = Semaphore::new(0).unwrap();
    let value = manager.host_with(Witness, dropped.clone()).unwrap();
    manager.shutdown().unwrap();
    assert!(is_dropped(&dropped));
    assert!(matches!(value.call(|_, ()| (), ()).unwrap_err(), Error::ManagerLost { .. }));
}

#[test]
fn a_manager_ends_with_its_last_handle() {
    let manager = Manager::start().unwrap();
    let pid = manager.pid();
    let value = manager.host(1u32).unwrap();
    drop(manager);
    assert_eq!(value.call(|value, ()| *value, ()).unwrap(), 1, "a value keeps it");
    drop(value);
    eventually("the end of the process", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_value_may_call_others_but_not_itself() {
    let manager = Manager::start().unwrap();
    let (outer, inner) = (manager.host(1u32).unwrap(), manager.host(10u32).unwrap());
    fn add(value: &mut u32, other: Hosted<u32>) -> Result<u32, String> {
        let more = other.call(|other, ()| *other, ()).map_err(|error| error.to_string())?;
        *value += more;
        Ok(*value)
    }
    assert_eq!(outer.call(add, inner).unwrap(), Ok(11));
    assert!(outer.call(add, outer.clone()).unwrap().unwrap_err().contains("wait for itself"));
}

#[test]
fn managers_of_both_start_methods_that_are_no_forks_serve() {
    for method in [StartMethod::Forkserver, StartMethod::Spawn] {
        let manager = Manager::start_as(Process::builder().name("keeper").start_method(method)).unwrap();
        let value = manager.host("a".to_owned()).unwrap();
        value.call(|value, more: String| value.push_str(&more), "b".to_owned()).unwrap();
        assert_eq!(value.call(|value, ()| value.clone(), ()).unwrap(), "ab");
        let pid = manager.pid();
        drop((manager, value));
        eventually("the end of the process", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    let forked = Manager::start_as(Process::builder().start_method(StartMethod::Fork));
    assert!(matches!(forked.unwrap_err(), Error::Invalid { .. }));
}

#[test]
fn a_counter_loses_nothing_among_killed_callers() {
    let manager = Manager::start().unwrap();
    let counter = manager.host(0u64).unwrap();
    let done = Value::new(0u64).unwrap();
    for round in 0..10u64 {
        let child = broody::spawn(
            |(counter, done): (Hosted<u64>, Value<u64>)| {
                while counter.call(|counter, ()| *counter += 1, ()).is_ok() {
                    done.fetch_add(1);
                }
            },
            (counter.clone(), done.clone()),
        )
        .unwrap();
        let before = done.load();
        eventually("some calls", || done.load() > before + 20);
        std::thread::sleep(Duration::from_micros(137 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let counted = counter.call(|counter, ()| *counter, ()).unwrap();
    // Each was killed between the call and its own count at most once.
    assert!((done.load()..=done.load() + 10).contains(&counted), "{counted} of {}", done.load());
}
