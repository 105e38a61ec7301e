//! Pools seen from outside.

use std::time::Duration;

use broody::{Error, Pool};

fn square(x: u64) -> u64 {
    x * x
}

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

#[test]
fn map_gives_results_in_order() {
    let pool = pool(2);
    for count in [0, 1, 2, 1000, 100_000] {
        let expected: Vec<u64> = (0..count).map(|x| x * x).collect();
        assert_eq!(pool.map(square, 0..count).unwrap(), expected);
    }
}

#[test]
fn imap_gives_results_in_order_and_is_lazy() {
    let pool = pool(2);
    let results: Vec<u64> = pool.imap(square, 0..10_000).unwrap().map(Result::unwrap).collect();
    assert_eq!(results, (0..10_000).map(|x| x * x).collect::<Vec<u64>>());
    // An endless iterator: only so many are taken.
    let mut taken = 0;
    let first: Vec<u64> = {
        let endless = std::iter::repeat_with(|| {
            taken += 1;
            3
        });
        pool.imap(square, endless).unwrap().take(5).map(Result::unwrap).collect()
    };
    assert_eq!(first, [9; 5]);
    assert!(taken < 100_000, "{taken} items were taken for 5 results");
}

#[test]
fn imap_unordered_gives_each_result_once() {
    let pool = pool(3);
    let mut results: Vec<u64> = pool.imap_unordered(square, 0..10_000).unwrap().map(Result::unwrap).collect();
    results.sort_unstable();
    assert_eq!(results, (0..10_000).map(|x| x * x).collect::<Vec<u64>>());
}

#[test]
fn a_short_task_does_not_wait_behind_a_long_one() {
    fn work(milliseconds: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(milliseconds));
        milliseconds
    }
    let pool = pool(2);
    // The pace is learned from short tasks, so that long ones are put behind them in large frames.
    pool.map(work, vec![0; 10_000]).unwrap();
    let mut delays = vec![0; 100];
    delays[0] = 100_000;
    let mut stream = pool.imap_unordered(work, delays).unwrap();
    for _ in 0..99 {
        assert_eq!(stream.next().unwrap().unwrap(), 0);
    }
}

#[test]
fn apply_and_apply_async_give_one_result_any_number_of_times() {
    let pool = pool(1);
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
    let later = pool.apply_async(square, 6).unwrap();
    assert_eq!(later.get().unwrap(), 36);
    assert_eq!(later.get_timeout(Duration::ZERO).unwrap(), Some(36));
    assert!(later.ready());
    let slow = pool.apply_async(|_: ()| std::thread::sleep(Duration::from_secs(100)), ()).unwrap();
    assert!(!slow.ready());
    assert_eq!(slow.get_timeout(Duration::from_millis(10)).unwrap(), None);
}

#[test]
fn long_arguments_and_results_cross() {
    fn reverse(mut list: Vec<u32>) -> Vec<u32> {
        list.reverse();
        list
    }
    let pool = pool(2);
    let lengths = [0u32, 10, 10_000, 50_000, 1_000_000];
    let lists: Vec<Vec<u32>> = lengths.iter().map(|length| (0..*length).collect()).collect();
    let reversed = pool.map(reverse, lists.clone()).unwrap();
    for (list, mut back) in lists.into_iter().zip(reversed) {
        back.reverse();
        assert_eq!(list, back);
    }
    let results: Vec<_> =
        pool.imap(|length: u32| vec![7u8; length as usize], (0..50).map(|n| n * 9000)).unwrap().collect();
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap().len(), number * 9000);
    }
}

#[test]
fn a_panic_fails_its_task_and_the_pool_goes_on() {
    fn even(x: u64) -> u64 {
        assert!(x.is_multiple_of(2), "{x} is odd");
        x
    }
    let pool = pool(2);
    let results: Vec<_> = pool.imap(even, 0..100).unwrap().collect();
    for (x, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => assert_eq!(value, x as u64),
            Err(Error::Panicked { message, .. }) => assert!(message.starts_with(&format!("{x} is odd"))),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(pool.map(even, 0..3), Err(Error::Panicked { .. })));
}

#[test]
fn close_finishes_what_there_is_and_takes_no_more() {
    let pool = pool(2);
    let results: Vec<_> = (0..100).map(|x| pool.apply_async(square, x).unwrap()).collect();
    let mut stream = pool.imap(square, 0..1000).unwrap();
    stream.next();
    assert!(matches!(pool.join(), Err(Error::Invalid { .. })));
    pool.close().unwrap();
    assert!(matches!(pool.apply(square, 1), Err(Error::PoolClosed)));
    assert!(matches!(pool.imap(square, 0..1), Err(Error::PoolClosed)));
    assert_eq!(stream.count(), 999);
    pool.join().unwrap();
    pool.join().unwrap();
    for (x, result) in results.into_iter().enumerate() {
        assert_eq!(result.get().unwrap(), (x * x) as u64);
    }
}

#[test]
fn terminate_ends_tasks_with_an_error() {
    let pool = pool(2);
    let results: Vec<_> = (0..10)
        .map(|_| pool.apply_async(|_: ()| std::thread::sleep(Duration::from_secs(1000)), ()).unwrap())
        .collect();
    pool.terminate().unwrap();
    for result in results {
        assert!(matches!(result.get(), Err(Error::PoolTerminated { .. })));
    }
    pool.join().unwrap();
    assert!(matches!(pool.apply(square, 1), Err(Error::PoolTerminated { .. })));
}

#[test]
fn many_threads_may_use_a_pool() {
    let pool = pool(2);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..50 {
                    let from = thread * 1000 + round;
                    let expected: Vec<u64> = (from..from + 20).map(|x| x * x).collect();
                    assert_eq!(pool.map(square, from..from + 20).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn threads_that_wait_for_one_worker_are_all_woken() {
    fn nap(_: ()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pool = pool(1);
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| pool.apply(nap, ()).unwrap()));
        }
    });
    // Below a second's work. A wake that is lost costs up to a quarter of a second, and most were.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_task_may_start_processes_and_pools() {
    fn nested(x: u64) -> u64 {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.apply(square, x).unwrap() + broody::spawn(square, x).unwrap().join().unwrap()
    }
    assert_eq!(pool(2).map(nested, 1..4).unwrap(), [2, 8, 18]);
}

#[test]
fn a_pool_that_cannot_be_is_refused() {
    for workers in [0, 100_000] {
        let Err(error) = Pool::builder().workers(workers).build() else { panic!("{workers} workers") };
        assert!(error.to_string().contains("1 to 4096"), "{error}");
    }
}

#[test]
fn tasks_get_shared_objects_in_their_arguments() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let (total, seen) = (broody::Value::new(0u64).unwrap(), broody::Queue::<u64>::new().unwrap());
    let arguments = (1..=50u64).map(|number| (number, total.clone(), seen.clone()));
    fn add((number, total, seen): (u64, broody::Value<u64>, broody::Queue<u64>)) {
        total.fetch_add(number);
        seen.put(number).unwrap();
    }
    pool.map(add, arguments).unwrap();
    assert_eq!((total.load(), seen.len()), (1275, 50));
}
