//! Pools seen from outside.

use std::time::Duration;

use broody::{Error, Pool, Shared, TaskOptions, Undone, WhenFull};

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
fn what_a_runtime_sets_apart_is_not_copied_and_is_free_after() {
    use broody::embed::{self, Buffer, Encoded};
    fn encoded(buffers: &[Buffer]) -> Encoded {
        let encoded = Encoded::new(|| embed::encode_handle(&buffers)).unwrap();
        encoded.behind(b"first")
    }
    fn decoded(encoded: &Encoded) -> Vec<Buffer> {
        embed::decode_handle(encoded.bytes.strip_prefix(b"first").unwrap()).unwrap()
    }
    fn reverse(given: Encoded) -> Encoded {
        let mut buffers = decoded(&given);
        buffers.reverse();
        encoded(&buffers)
    }
    let pool = pool(2);
    for length in [0, 10, 100_000] {
        let buffers = [1 << 20, 0, length].map(|length| Buffer::new(&vec![7; length]).unwrap());
        let back = decoded(&pool.apply(reverse, encoded(&buffers)).unwrap());
        let addresses = |buffers: &[Buffer]| buffers.iter().map(|buffer| buffer.as_ptr()).collect::<Vec<_>>();
        let mut there = addresses(&buffers);
        there.reverse();
        assert_eq!(addresses(&back), there, "the same memory came back");
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

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn sleep_for(milliseconds: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(milliseconds));
    milliseconds
}

fn forever(_: u64) -> u64 {
    loop {
        std::thread::sleep(PATIENCE);
    }
}

#[test]
fn a_task_that_takes_too_long_fails_alone() {
    let pool = pool(2);
    let limit = Duration::from_millis(100);
    let quick = pool.with(TaskOptions::new().timeout(limit));
    // Also those that wait behind the long one in its worker, and those that are at work beside it.
    let results = quick.try_map(sleep_for, (0..200).map(|n| if n % 50 == 7 { 100_000 } else { 0 })).unwrap();
    for (n, result) in results.into_iter().enumerate() {
        match (n % 50, result) {
            (7, Err(Error::TaskTimedOut { task, limit: told, .. })) => {
                assert_eq!((task, told), (n as u64, limit))
            }
            (7, other) => panic!("{n}: {other:?}"),
            (_, result) => assert_eq!(result.unwrap(), 0),
        }
    }
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
    let error = quick.apply(forever, 1).unwrap_err();
    assert!(error.to_string().contains("took longer than its limit of 100ms"), "{error}");
}

#[test]
fn a_soft_limit_asks_the_task_to_stop() {
    fn until_asked(_: ()) -> bool {
        let start = std::time::Instant::now();
        while !broody::should_stop() && start.elapsed() < PATIENCE {
            // The signal interrupts this.
            std::thread::park_timeout(Duration::from_millis(5));
        }
        broody::should_stop()
    }
    let pool = pool(1);
    let soft = pool.with(TaskOptions::new().soft_timeout(Duration::from_millis(30)));
    assert!(soft.apply(until_asked, ()).unwrap());
    assert!(!pool.apply(|_: ()| broody::should_stop(), ()).unwrap(), "it is another task");
    assert!(!broody::should_stop());
}

#[test]
fn a_task_that_takes_too_much_memory_fails_alone() {
    fn fill(megabytes: usize) -> usize {
        let filled = vec![1u8; megabytes << 20];
        std::thread::sleep(Duration::from_millis(if megabytes > 50 { 60_000 } else { 0 }));
        std::hint::black_box(filled).len() >> 20
    }
    let pool = pool(2);
    let small = pool.with(TaskOptions::new().memory_limit(50 << 20));
    let results = small.try_map(fill, [1, 2, 200, 3]).unwrap();
    assert!(
        matches!(&results[2], Err(Error::TaskMemory { task: 2, limit, grown, .. })
            if *limit == 50 << 20 && grown > limit),
        "{results:?}"
    );
    for (index, megabytes) in [(0, 1), (1, 2), (3, 3)] {
        assert_eq!(*results[index].as_ref().unwrap(), megabytes);
    }
}

#[test]
fn what_is_cancelled_is_not_begun_or_ended() {
    let pool = pool(1);
    let running = pool.apply_async(forever, 0).unwrap();
    let waiting = pool.apply_async(forever, 1).unwrap();
    let many = pool.map_async(forever, 0..1000).unwrap();
    let after = pool.apply_async(square, 4).unwrap();
    assert!(waiting.cancel().unwrap());
    assert!(matches!(waiting.get(), Err(Error::Cancelled { task: 1 })));
    assert!(many.cancel().unwrap());
    assert!(matches!(many.get(), Err(Error::Cancelled { task: 2 })));
    assert!(running.cancel().unwrap());
    assert!(matches!(running.get(), Err(Error::Cancelled { task: 0 })));
    assert_eq!(after.get().unwrap(), 16);
    assert!(!after.cancel().unwrap(), "it is done");
    assert_eq!(after.get().unwrap(), 16);
    pool.close().unwrap();
    pool.join().unwrap();
}

#[test]
fn a_task_that_fails_is_tried_again_as_often_as_it_may() {
    // The number of the try, counted in shared memory.
    fn third_time((tries, deadly): (broody::Value<u32>, bool)) -> u32 {
        let before = tries.fetch_add(1);
        if before < 2 {
            assert!(deadly, "on purpose");
            std::process::abort();
        }
        before
    }
    let pool = pool(2);
    for deadly in [true, false] {
        let tries = broody::Value::new(0u32).unwrap();
        let options = TaskOptions::new().retries(2).retry_errors(true).backoff(Duration::from_millis(2));
        assert_eq!(pool.with(options).apply(third_time, (tries.clone(), deadly)).unwrap(), 2);
        let tries = broody::Value::new(0u32).unwrap();
        let error = pool
            .with(TaskOptions::new().retries(1).retry_errors(true))
            .apply(third_time, (tries.clone(), deadly));
        match deadly {
            true => assert!(matches!(error, Err(Error::WorkerLost { .. })), "{error:?}"),
            false => assert!(matches!(error, Err(Error::Panicked { .. })), "{error:?}"),
        }
        assert_eq!(tries.load(), 2);
    }
    // Errors are not tried again unless it is asked for.
    let tries = broody::Value::new(0u32).unwrap();
    assert!(pool.with(TaskOptions::new().retries(5)).apply(third_time, (tries.clone(), false)).is_err());
    assert_eq!(tries.load(), 1);
}

#[test]
fn a_callback_gets_the_result_and_may_use_the_pool() {
    let pool = std::sync::Arc::new(pool(1));
    let (sender, results) = std::sync::mpsc::channel();
    for number in 0..10 {
        let (sender, theirs) = (sender.clone(), pool.clone());
        let result = pool.apply_async(square, number).unwrap();
        result.on_done(move |result| sender.send(theirs.apply(square, result.unwrap())).unwrap()).unwrap();
    }
    let mut sum: u64 = (0..10).map(|_| results.recv_timeout(PATIENCE).unwrap().unwrap()).sum();
    assert_eq!(sum, (0..10).map(|number: u64| number.pow(4)).sum::<u64>());
    // One that is there already.
    let result = pool.apply_async(square, 7).unwrap();
    result.get().unwrap();
    result.on_done(move |result| sender.send(result).unwrap()).unwrap();
    sum = results.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(sum, 49);
}

#[test]
fn a_result_is_a_future() {
    use std::future::Future;
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park_timeout(PATIENCE),
            }
        }
    }
    let pool = pool(2);
    let sum = block_on(async {
        let (first, second) =
            (pool.apply_async(sleep_for, 20).unwrap(), pool.apply_async(square, 5).unwrap());
        let many = pool.map_async(square, 1..=3).unwrap();
        first.await.unwrap() + second.await.unwrap() + many.await.unwrap().iter().sum::<u64>()
    });
    assert_eq!(sum, 20 + 25 + 14);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let pool = pool(1);
    let refused = [
        TaskOptions::new().chunk_size(0),
        TaskOptions::new().timeout(Duration::ZERO),
        TaskOptions::new().cost(-1.0),
        TaskOptions::new().cost(f64::NAN),
    ];
    for options in refused {
        assert!(matches!(pool.with(options.clone()).apply(square, 1), Err(Error::Invalid { .. })));
        assert!(matches!(Pool::builder().tasks(options).build(), Err(Error::Invalid { .. })));
    }
    let long = TaskOptions::new().timeout(Duration::MAX).soft_timeout(Duration::MAX);
    assert_eq!(pool.with(long).apply(square, 3).unwrap(), 9);
}

#[test]
fn who_hands_in_more_than_may_wait_is_kept_waiting_or_refused() {
    let build = |when_full| Pool::builder().workers(1).max_queued(3, when_full).build().unwrap();
    let fill = |pool: &Pool, gate: &broody::Event| -> Vec<_> {
        // The worker takes two beforehand.
        let wait = |gate: broody::Event| gate.wait(None).unwrap();
        let mut results = vec![pool.apply_async(wait, gate.clone()).unwrap()];
        results.extend((0..4).map(|_| pool.apply_async(wait, gate.clone()).unwrap()));
        results
    };
    for when_full in [WhenFull::Fail, WhenFull::WaitFor(Duration::from_millis(20))] {
        let (pool, gate) = (build(when_full), broody::Event::new().unwrap());
        let results = fill(&pool, &gate);
        assert!(matches!(pool.apply_async(square, 1), Err(Error::PoolFull { waiting: 3 })));
        gate.set().unwrap();
        results.into_iter().for_each(|result| assert!(result.get().unwrap()));
        assert_eq!(pool.apply(square, 2).unwrap(), 4);
    }
    let (pool, gate) = (build(WhenFull::Wait), broody::Event::new().unwrap());
    let results = fill(&pool, &gate);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.apply(square, 3).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        gate.set().unwrap();
        assert_eq!(waiting.join().unwrap(), 9);
        // One who waits is told when the pool ends.
        let (gate, never) = (broody::Event::new().unwrap(), fill);
        let _held = never(&pool, &gate);
        let waiting = scope.spawn(|| pool.apply(square, 3));
        std::thread::sleep(Duration::from_millis(20));
        pool.terminate().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::PoolTerminated { .. })));
    });
    results.into_iter().for_each(|result| assert!(result.get().unwrap()));
}

#[test]
fn a_pool_is_drained_in_the_time_that_it_is_given() {
    let idle = pool(2);
    let result = idle.map_async(sleep_for, [1; 20]).unwrap();
    assert_eq!(idle.drain(PATIENCE).unwrap(), Undone::default());
    assert_eq!(result.get().unwrap(), [1; 20]);
    let busy = pool(2);
    let results = busy.map_async(forever, 0..10).unwrap();
    let start = std::time::Instant::now();
    // Both run by then.
    assert_eq!(busy.drain(Duration::from_millis(500)).unwrap(), Undone { begun: 2, waiting: 8 });
    assert!(start.elapsed() < PATIENCE);
    assert!(matches!(results.get(), Err(Error::PoolTerminated { .. })));
    assert!(matches!(busy.apply(square, 1), Err(Error::PoolTerminated { .. })));
    let undone = pool(1);
    assert_eq!(undone.terminate().unwrap(), Undone::default());
}

#[test]
fn a_shared_value_is_decoded_once_in_each_worker() {
    fn address((table, index): (Shared<Vec<u32>>, usize)) -> (u32, usize, u32) {
        (std::process::id(), table.as_ptr().addr(), table[index])
    }
    let pool = pool(2);
    let table = pool.share(&(0..50_000).collect::<Vec<u32>>()).unwrap();
    let places = pool.map(address, (0..2000).map(|index| (table.clone(), index))).unwrap();
    assert!(places.iter().enumerate().all(|(index, (.., value))| *value == index as u32));
    let different: std::collections::BTreeSet<_> =
        places.iter().map(|(pid, address, _)| (pid, address)).collect();
    assert!(different.len() <= 2, "each worker has one copy: {different:?}");
}

#[test]
fn functions_of_several_arguments_are_called_with_tuples() {
    fn join(a: String, b: u32, c: bool) -> String {
        format!("{a}{b}{c}")
    }
    let pool = pool(1);
    let items = [("x".to_owned(), 1, true), ("y".to_owned(), 2, false)];
    assert_eq!(pool.starmap(join, items).unwrap(), ["x1true", "y2false"]);
    let quick = pool.with(TaskOptions::new().timeout(PATIENCE));
    assert_eq!(quick.starmap(|a: u32, b: u32| a * b, [(2, 3)]).unwrap(), [6]);
}

#[test]
fn results_carry_shared_objects() {
    use broody::{Blob, Queue, Slice};
    fn make(number: u32) -> (Slice<u32>, Blob, Queue<u32>) {
        let queue = Queue::new().unwrap();
        queue.put(number).unwrap();
        (Slice::new(&vec![number; 100_000]).unwrap(), Blob::new(&[number as u8; 10]).unwrap(), queue)
    }
    fn die(number: u32) -> Blob {
        let _held = Blob::new(&[1; 1 << 20]).unwrap();
        assert!(number < 3, "on purpose");
        std::process::abort()
    }
    let pool = pool(2);
    let check = |number: u32, (slice, blob, queue): (Slice<u32>, Blob, Queue<u32>)| {
        assert!(slice.len() == 100_000 && slice.iter().all(|item| *item == number));
        assert_eq!((&*blob, queue.try_get().unwrap()), (&[number as u8; 10][..], number));
    };
    for (number, result) in pool.map(make, 0..20).unwrap().into_iter().enumerate() {
        check(number as u32, result);
    }
    for (number, result) in pool.imap(make, 0..20).unwrap().enumerate() {
        check(number as u32, result.unwrap());
    }
    // Any number of times, and when the worker that made it is gone.
    let result = pool.apply_async(make, 7).unwrap();
    let once = result.get().unwrap();
    for pid in pool.worker_pids() {
        pool.signal_worker(pid, libc::SIGKILL).unwrap();
    }
    assert!(!pool.signal_worker(std::process::id() as i32, 0).unwrap(), "no worker");
    let again = result.get().unwrap();
    assert_eq!(once.0.len(), again.0.len());
    assert_eq!(again.2.try_get().unwrap(), 7, "it is the same queue");
    assert!(once.2.try_get().is_err());
    for result in pool.try_map(die, 0..6).unwrap() {
        assert!(result.is_err());
    }
    // Of another type.
    let wrong = pool.apply(|(): ()| Slice::new(&[1u64]).unwrap(), ()).unwrap();
    assert_eq!(*wrong, [1]);
    let error = pool.apply(|_: Slice<u32>| (), Slice::new(&[1u32]).unwrap());
    error.unwrap();
}
