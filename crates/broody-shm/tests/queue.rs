//! Queues between processes and threads of one program.

use std::time::Duration;

use broody_os::fork::{self, Fork};
use broody_os::wait::{self, ExitStatus, Reaped};
use broody_shm::arena::Arena;
use broody_shm::queue::{End, Limits, Message, Queue, QueueError};
use broody_shm::sync::Deadline;

fn message(bytes: &[u8]) -> Message<'_> {
    Message { bytes, holds: &[] }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Runs `child` in a fork and expects that it returns.
fn in_child(child: impl FnOnce()) -> broody_os::Pid {
    // SAFETY: the child uses only what this test made, and ends by _exit.
    match unsafe { fork::fork() }.unwrap() {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let returned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
            fork::exit_now(u8::from(!returned));
        }
    }
}

fn join(pid: broody_os::Pid) {
    loop {
        match wait::reap_pid(pid).unwrap() {
            Reaped::Running => std::thread::sleep(Duration::from_millis(1)),
            Reaped::Ended(status, _) => return assert_eq!(status, ExitStatus::Code(0)),
            Reaped::Stolen => panic!("stolen"),
        }
    }
}

#[test]
fn messages_come_out_as_they_went_in() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let lengths = [0usize, 1, 7, 8, 9, 4096, 100_000, 1 << 20, (1 << 20) + 1, 5 << 20];
    for length in lengths {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        queue.put(message(&bytes), Deadline::Now).unwrap();
    }
    assert_eq!(queue.len(), lengths.len());
    let mut buffer = Vec::new();
    for length in lengths {
        let taken = queue.take(&mut buffer, Deadline::Now).unwrap();
        let bytes: &[u8] = taken.blob.as_deref().unwrap_or(&buffer);
        assert_eq!(bytes.len(), length);
        assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    }
    assert!(matches!(queue.take(&mut buffer, Deadline::Now), Err(QueueError::TimedOut)));
    drop(queue);
    assert_eq!(arena.objects(), 0);
}

#[test]
fn processes_exchange_messages_in_order() {
    let arena = Arena::create(1).unwrap();
    let (there, back) = (
        Queue::new(arena, Limits { messages: Some(10), ..Limits::default() }, 0, false).unwrap(),
        Queue::new(arena, Limits::default(), 0, false).unwrap(),
    );
    let child = in_child(|| {
        let mut buffer = Vec::new();
        loop {
            match there.take(&mut buffer, soon()) {
                Ok(_) => back.put(message(&buffer), soon()).unwrap(),
                Err(QueueError::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut buffer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20_000u32 {
                there.put(message(&number.to_le_bytes()), soon()).unwrap();
            }
            there.close();
        });
        for number in 0..20_000u32 {
            back.take(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, number.to_le_bytes());
        }
    });
    join(child);
    assert_eq!(arena.rescues(), 0);
}

mod against_a_model {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(usize),
        PutMany(Vec<usize>),
        Take,
        TakeMany(usize),
        Close,
    }

    fn length() -> impl Strategy<Value = usize> {
        // Mostly short; some that make the ring grow, some that go apart.
        prop_oneof![8 => 0usize..64, 4 => 0usize..5_000, 1 => 30_000usize..40_000, 1 => (1usize << 20)..(1 << 20) + 20]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => length().prop_map(Step::Put),
            2 => prop::collection::vec(length(), 0..8).prop_map(Step::PutMany),
            8 => Just(Step::Take),
            2 => (0usize..10).prop_map(Step::TakeMany),
            1 => Just(Step::Close),
        ]
    }

    fn bytes(number: usize, length: usize) -> Vec<u8> {
        (0..length).map(|at| (number + at) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn a_queue_does_what_a_deque_does(
            steps in prop::collection::vec(step(), 1..80),
            most in prop_oneof![Just(None), (1u32..6).prop_map(Some)],
        ) {
            let arena = Arena::create(1).unwrap();
            let limits = Limits { messages: most, ..Limits::default() };
            let queue = Queue::new(arena, limits, 0, false).unwrap();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let (mut closed, mut number) = (false, 0);
            let room = |model: &VecDeque<_>| most.is_none_or(|most| model.len() < most as usize);
            let mut buffer = Vec::new();
            for step in steps {
                match step {
                    Step::Put(length) => {
                        number += 1;
                        let bytes = bytes(number, length);
                        match queue.put(message(&bytes), Deadline::Now) {
                            Ok(()) => {
                                prop_assert!(!closed && room(&model));
                                model.push_back(bytes);
                            }
                            Err(QueueError::Closed) => prop_assert!(closed),
                            Err(QueueError::TimedOut) => prop_assert!(!closed && !room(&model)),
                            Err(error) => return Err(TestCaseError::fail(error.to_string())),
                        }
                    }
                    Step::PutMany(lengths) => {
                        let all: Vec<_> = lengths.iter().map(|length| { number += 1; bytes(number, *length) }).collect();
                        let messages: Vec<_> = all.iter().map(|bytes| message(bytes)).collect();
                        let put = queue.put_many(&messages, Deadline::Now).unwrap_or(0);
                        if !closed {
                            let fits = most.map_or(usize::MAX, |most| most as usize - model.len());
                            prop_assert_eq!(put, all.len().min(fits));
                        } else {
                            prop_assert_eq!(put, 0);
                        }
                        model.extend(all.into_iter().take(put));
                    }
                    Step::Take => match queue.take(&mut buffer, Deadline::Now) {
                        Ok(taken) => {
                            let got = taken.blob.as_deref().unwrap_or(&buffer);
                            prop_assert_eq!(Some(got.to_vec()), model.pop_front());
                        }
                        Err(QueueError::Closed) => prop_assert!(closed && model.is_empty()),
                        Err(QueueError::TimedOut) => prop_assert!(!closed && model.is_empty()),
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    },
                    Step::TakeMany(most) => {
                        let mut got = Vec::new();
                        let taken = queue.take_many(most.max(1), Deadline::Now, |bytes, taken| {
                            got.push(taken.blob.as_deref().unwrap_or(bytes).to_vec());
                        });
                        let count = taken.unwrap_or(0);
                        prop_assert_eq!(count, most.max(1).min(model.len()));
                        let expected: Vec<_> = model.drain(..count).collect();
                        prop_assert_eq!(got, expected);
                    }
                    Step::Close => {
                        queue.close();
                        closed = true;
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
            drop(queue);
            prop_assert_eq!(arena.objects(), 0);
        }
    }
}

#[test]
fn a_panic_while_a_message_is_looked_at_takes_it_and_keeps_nobody_up() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    for number in 0..5u8 {
        queue.put(message(&[number]), Deadline::Now).unwrap();
    }
    // The short way is open once the ring is mapped.
    queue.take(&mut Vec::new(), Deadline::Now).unwrap();
    let panics = |work: &dyn Fn()| {
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
    };
    // The short way, and the other one.
    panics(&|| _ = queue.take_short(|_| -> Option<()> { panic!("on purpose") }));
    panics(&|| _ = queue.take_many(1, Deadline::Now, |_, _| panic!("on purpose")));
    let child = in_child(|| {
        let mut buffer = Vec::new();
        for number in 3..5 {
            queue.take(&mut buffer, soon()).unwrap();
            assert_eq!(buffer, [number]);
        }
        queue.put(message(b"more"), soon()).unwrap();
    });
    join(child);
    assert_eq!(queue.len(), 1);
}

#[test]
fn threads_of_one_process_put_and_take_each_message_once() {
    const EACH: u32 = 20_000;
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let seen: Vec<u32> = std::thread::scope(|scope| {
        let take = || {
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            while queue.take(&mut buffer, soon()).is_ok() {
                seen.push(u32::from_le_bytes(buffer[..4].try_into().unwrap()));
            }
            seen
        };
        let takers = [scope.spawn(take), scope.spawn(take)];
        let put = |from: u32| {
            for number in from..from + EACH {
                // Some of them are not short.
                let mut bytes = vec![0; 4 + (number as usize % 50) * 100];
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                queue.put(message(&bytes), soon()).unwrap();
            }
        };
        let putters = [scope.spawn(move || put(0)), scope.spawn(move || put(EACH))];
        putters.into_iter().for_each(|putter| putter.join().unwrap());
        queue.close();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    let mut sorted = seen;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..2 * EACH));
    assert_eq!(arena.rescues(), 0);
}

#[test]
fn what_was_put_before_the_close_is_taken() {
    let arena = Arena::create(1).unwrap();
    for _ in 0..500 {
        let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
        let (put, taken) = std::thread::scope(|scope| {
            let putter = scope.spawn(|| {
                let mut count = 0;
                while queue.put(message(b"one more"), soon()).is_ok() {
                    count += 1;
                }
                count
            });
            let taker = scope.spawn(|| {
                let mut count = 0;
                let mut buffer = Vec::new();
                while queue.take(&mut buffer, soon()).is_ok() {
                    count += 1;
                }
                count
            });
            std::thread::yield_now();
            queue.close();
            (putter.join().unwrap(), taker.join().unwrap())
        });
        assert_eq!(put, taken);
    }
}

#[test]
fn who_only_tries_waits_for_who_is_at_it() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let fill = |count: usize| (0..count).for_each(|_| queue.put(message(b"there"), Deadline::Now).unwrap());
    fill(1000);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                // There are always hundreds.
                for _ in 0..50_000 {
                    queue.take(&mut buffer, Deadline::Now).unwrap();
                    queue.put(message(b"there"), Deadline::Now).unwrap();
                }
            });
        }
    });
    assert_eq!(queue.len(), 1000);
}

#[test]
fn a_bound_in_bytes_is_for_long_messages_as_for_short_ones() {
    let arena = Arena::create(1).unwrap();
    let limits = Limits { bytes: Some(10 << 20), ..Limits::default() };
    let queue = Queue::new(arena, limits, 0, false).unwrap();
    let long = vec![7; 100 << 10];
    for _ in 0..50 {
        queue.put(message(&long), Deadline::Now).unwrap();
    }
    let mut buffer = Vec::new();
    for _ in 0..50 {
        let taken = queue.take(&mut buffer, Deadline::Now).unwrap();
        assert_eq!(taken.blob.as_deref().unwrap_or(&buffer), long);
    }
}

#[test]
fn a_message_that_goes_alone_has_its_turn_beside_short_ones() {
    let arena = Arena::create(1).unwrap();
    let limits = Limits { bytes: Some(1 << 20), ..Limits::default() };
    let queue = Queue::new(arena, limits, 0, false).unwrap();
    // By processes: threads of one are not kept apart.
    let shorts = in_child(|| while queue.put(message(&[1; 1000]), soon()).is_ok() {});
    let long = in_child(|| {
        for _ in 0..3 {
            queue.put(message(&[2; 900 << 10]), soon()).unwrap();
        }
        queue.close();
    });
    let (mut buffer, mut seen, mut shorter) = (Vec::new(), 0, 0);
    loop {
        // It is never empty while somebody fills it: two are left for a while, in which more may come.
        let patience = Deadline::after(Duration::from_millis(50));
        while queue.len() < 2 && !queue.is_closed() && !patience.is_over() {
            std::thread::yield_now();
        }
        let Ok(taken) = queue.take(&mut buffer, soon()) else { break };
        seen += usize::from(taken.blob.is_some());
        shorter += usize::from(taken.blob.is_none());
        assert!(shorter < 100_000, "{shorter} short messages went before {seen} long ones");
    }
    assert_eq!(seen, 3);
    join(shorts);
    join(long);
}

#[test]
fn too_many_handles_in_a_message_are_refused() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let holds = vec![broody_shm::arena::HoldId { index: 0, use_number: 0 }; 70_000];
    let refused = queue.put(Message { bytes: b"x", holds: &holds }, Deadline::Now);
    assert!(matches!(refused, Err(QueueError::Arena(_))), "{refused:?}");
    queue.put(message(b"y"), Deadline::Now).unwrap();
    assert_eq!(queue.take_as(Deadline::Now, <[u8]>::to_vec).unwrap().0, b"y");
}

#[test]
fn nobody_puts_where_a_message_is_still_being_read() {
    let arena = Arena::create(1).unwrap();
    let limits = Limits { messages: Some(1), ..Limits::default() };
    let queue = Queue::new(arena, limits, 0, false).unwrap();
    let is_full = || matches!(queue.put(message(b"second"), Deadline::Now), Err(QueueError::TimedOut));
    let put_first = || queue.put(message(b"first"), Deadline::Now).unwrap();
    // The other way, which maps the ring, and the short one.
    put_first();
    queue.take_many(1, Deadline::Now, |bytes, _| assert!(bytes == b"first" && is_full())).unwrap();
    put_first();
    assert_eq!(queue.take_short(|bytes| Some(bytes == b"first" && is_full())), Some(true));
    assert!(queue.is_empty());
}

#[test]
fn an_end_that_outlives_its_queue_closes_no_other_one() {
    let arena = Arena::create(1).unwrap();
    let first = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let (sending, receiving) = (first.end(End::Sending).unwrap(), first.end(End::Receiving).unwrap());
    let place = first.held().name().index;
    drop(first);
    let others: Vec<_> = (0..8).map(|_| Queue::new(arena, Limits::default(), 0, false).unwrap()).collect();
    assert!(others.iter().any(|other| other.held().name().index == place), "one of them is in its place");
    drop((sending, receiving));
    for other in others {
        assert!(!other.is_closed());
        other.put(message(b"x"), Deadline::Now).unwrap();
    }
}
