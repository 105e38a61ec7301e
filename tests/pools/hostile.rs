//! Tasks that do what no task should.

use std::time::Duration;

use broody::{Error, ExitStatus, Pool, TaskOptions};
use broody_os::signals;
use broody_tests::within;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{METHODS, PATIENCE, are_gone};

fn square(x: u64) -> u64 {
    x * x
}

fn close_everything(x: u64) -> u64 {
    (0..1024).for_each(|descriptor| {
        // SAFETY: whoever used it will find it closed, which is what is tested.
        unsafe { libc::close(descriptor) };
    });
    x
}

fn fork_and_exit_in_the_child(x: u64) -> u64 {
    // SAFETY: the child ends at once.
    match unsafe { libc::fork() } {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(3) },
        child => {
            let mut status = 0;
            // SAFETY: the child was just made here.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            x
        }
    }
}

#[allow(clippy::zombie_processes, reason = "what becomes of it is what is tested")]
fn leave_a_grandchild(x: u64) -> u64 {
    std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    x
}

fn exit_in_the_middle(_: u64) -> u64 {
    std::process::exit(0)
}

fn abort(_: u64) -> u64 {
    std::process::abort()
}

fn fill_memory(_: u64) -> u64 {
    let mut all = Vec::new();
    loop {
        all.push(vec![1u8; 16 << 20]);
    }
}

fn ignore_the_end(_: u64) -> u64 {
    signals::set_disposition(signals::SIGTERM, signals::Disposition::Ignore);
    loop {
        std::thread::sleep(PATIENCE);
    }
}

/// Has an encoding that is none of its own.
#[derive(Debug)]
struct OneWay;

impl Serialize for OneWay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("no way back"))
    }
}

fn ended_with(result: Result<u64, Error>, expected: ExitStatus) {
    match result {
        Err(Error::WorkerLost { status, .. }) => assert_eq!(status, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_harms_itself_at_most() {
    for method in METHODS {
        let pool = Pool::builder().workers(2).start_method(method).build().unwrap();
        let good = pool.map_async(square, 0..1000).unwrap();
        ended_with(pool.apply(exit_in_the_middle, 1), ExitStatus::Code(0));
        ended_with(pool.apply(abort, 1), ExitStatus::Signal(libc::SIGABRT));
        assert_eq!(pool.apply(fork_and_exit_in_the_child, 5).unwrap(), 5);
        let quick = pool.with(TaskOptions::new().timeout(Duration::from_millis(50)));
        assert!(matches!(quick.apply(ignore_the_end, 1), Err(Error::TaskTimedOut { .. })));
        let small = pool.with(TaskOptions::new().memory_limit(100 << 20));
        assert!(matches!(small.apply(fill_memory, 1), Err(Error::TaskMemory { .. })));
        let error = pool.apply(|_: u64| OneWay, 1).unwrap_err();
        assert!(matches!(&error, Error::Decode { what: "the result", .. }), "{error}");
        let error = pool.apply(|_: OneWay| 1u64, OneWay).unwrap_err();
        assert!(matches!(&error, Error::Decode { what: "the argument", .. }), "{error}");
        assert_eq!(good.get().unwrap(), (0..1000).map(square).collect::<Vec<u64>>());
        // It cannot be told apart from a worker that is fine until it is next needed.
        let closed = pool.apply(close_everything, 7);
        assert!(matches!(closed, Ok(7) | Err(Error::WorkerLost { .. })), "{closed:?}");
        within(PATIENCE, "a pool that works again", || {
            pool.try_map(square, 0..10).unwrap().iter().all(Result::is_ok)
        });
        let pids = pool.worker_pids();
        drop(pool);
        are_gone(&pids);
    }
}

#[test]
fn what_a_task_has_started_ends_with_its_worker() {
    let pool = Pool::builder().workers(1).build().unwrap();
    assert_eq!(pool.apply(leave_a_grandchild, 1).unwrap(), 1);
    let children = broody_os::proc::children(pool.worker_pids()[0]);
    assert_eq!(children.len(), 1);
    pool.terminate().unwrap();
    pool.join().unwrap();
    are_gone(&children);
}

#[test]
fn results_of_every_length_come_back() {
    fn zeros(length: usize) -> Blob {
        Blob(length)
    }
    /// So many bytes, as bytes and not as a list.
    #[derive(Debug)]
    struct Blob(usize);
    impl Serialize for Blob {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&vec![0; self.0])
        }
    }
    impl<'de> Deserialize<'de> for Blob {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            <&[u8]>::deserialize(deserializer).map(|bytes| Blob(bytes.len()))
        }
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    for length in [0, 1, 1 << 16, 1 << 20, 100 << 20, 2 << 30] {
        assert_eq!(pool.apply(zeros, length).unwrap().0, length);
    }
    assert_eq!(pool.map(|(): ()| (), [(); 1000]).unwrap().len(), 1000, "of no bytes at all");
}

#[test]
fn a_million_tiny_tasks() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let results = pool.map(square, 0..1_000_000).unwrap();
    assert!(results.into_iter().zip(0u64..).all(|(result, x)| result == x * x));
    let sum: u64 = pool.imap_unordered(|x: u64| x & 1, 0..1_000_000).unwrap().map(Result::unwrap).sum();
    assert_eq!(sum, 500_000);
}

#[test]
fn a_pool_may_be_dropped_in_the_middle_of_everything() {
    for method in METHODS {
        for round in 0..5 {
            let pool = Pool::builder().workers(3).start_method(method).build().unwrap();
            let map = pool.map_async(square, 0..10_000).unwrap();
            let mut stream = pool.imap_unordered(square, 0..u64::MAX).unwrap();
            if round % 2 == 0 {
                stream.next();
            }
            let single: Vec<_> = (0..20).map(|_| pool.apply_async(ignore_the_end, 0).unwrap()).collect();
            drop(stream);
            let pids = pool.worker_pids();
            drop(pool);
            are_gone(&pids);
            for result in single {
                assert!(matches!(result.get(), Err(Error::PoolTerminated { .. })));
            }
            assert!(matches!(map.get(), Ok(_) | Err(Error::PoolTerminated { .. })));
        }
    }
}

#[test]
fn threads_may_hand_in_and_end_one_pool_at_once() {
    for _ in 0..10 {
        let pool = Pool::builder().workers(2).build().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        match pool.map(square, 0..100) {
                            Ok(results) => assert_eq!(results.len(), 100),
                            Err(Error::PoolTerminated { .. }) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(5));
                    pool.terminate().unwrap();
                    pool.join().unwrap();
                });
            }
        });
        assert!(pool.worker_pids().is_empty());
    }
}

#[test]
fn a_fork_of_the_host_does_not_disturb_the_pool() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let running = pool.map_async(square, 0..200_000).unwrap();
    for _ in 0..5 {
        let child = broody::fork(|| {
            // Its copy is of no use, says so, and harms nobody when it is dropped.
            let refused = matches!(pool.apply(square, 1), Err(Error::WrongProcess { .. }));
            let own = Pool::builder().workers(1).build().unwrap();
            (refused, own.apply(square, 3).unwrap())
        });
        assert_eq!(child.unwrap().join().unwrap(), (true, 9));
    }
    assert_eq!(running.get().unwrap().len(), 200_000);
    assert_eq!(pool.apply(square, 4).unwrap(), 16);
}
