//! Queues of messages.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use broody_shm::arena::{Arena, Held};
use broody_shm::queue::{End, Limits, Message, Queue, QueueError};
use broody_shm::sync::{BOUND, Deadline};

use crate::operation::{Operation, Outcome, bury, done_if, stay_on_one_cpu};
use crate::other::Other;
use crate::trace::{Spot, Stop, Traced, about_to_sleep, marker};
use crate::{MANY, soon};

struct Stage {
    arena: &'static Arena,
    queue: Queue,
    /// The length of the messages that the victim puts, in bytes.
    length: usize,
    others: Vec<Other>,
    end: RefCell<Option<Arc<Held>>>,
}

/// A queue with the messages `1..=count`, all of `length` bytes.
fn filled(arena: &'static Arena, limits: Limits, count: u8, length: usize) -> Stage {
    let queue = Queue::new(arena, limits, 0, false).unwrap();
    (1..=count).for_each(|number| put(&queue, number, length));
    Stage { arena, queue, length, others: Vec::new(), end: RefCell::new(None) }
}

/// An empty queue that has its ring: that is made under the arena's lock, which a victim may have while it is stopped.
fn used(arena: &'static Arena, length: usize) -> Stage {
    let stage = filled(arena, UNBOUNDED, 0, length);
    put_and_take(&stage);
    stage
}

/// A message that can be known again, and seen to be whole.
fn put_until(queue: &Queue, number: u8, length: usize, deadline: Deadline) -> Result<(), QueueError> {
    queue.put(Message { bytes: &vec![number; length], holds: &[] }, deadline)
}

fn put(queue: &Queue, number: u8, length: usize) {
    put_until(queue, number, length, soon()).unwrap();
}

/// Takes a message, and says which it is.
fn take_until(queue: &Queue, length: usize, deadline: Deadline) -> Result<u8, QueueError> {
    let mut buffer = Vec::new();
    let taken = queue.take(&mut buffer, deadline)?;
    let bytes: &[u8] = taken.blob.as_deref().unwrap_or(&buffer);
    assert_eq!(bytes.len(), length);
    assert!(bytes == vec![bytes[0]; length], "the message is torn");
    Ok(bytes[0])
}

fn take(queue: &Queue, length: usize) -> u8 {
    take_until(queue, length, soon()).unwrap()
}

/// Everything that is there.
fn take_all(stage: &Stage) -> Vec<u8> {
    std::iter::from_fn(|| match take_until(&stage.queue, stage.length, Deadline::Now) {
        Ok(number) => Some(number),
        Err(QueueError::TimedOut) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

/// Uses the queue, which is empty.
fn use_queue(stage: &Stage) {
    let queue = &stage.queue;
    let mut buffer = Vec::new();
    for round in 0..MANY / 2 {
        queue.put(Message { bytes: &round.to_le_bytes(), holds: &[] }, soon()).unwrap();
        queue.take(&mut buffer, soon()).unwrap();
        assert_eq!(buffer, round.to_le_bytes());
    }
    assert!(queue.is_empty());
}

/// What is left is what was there, `with` or `without` the operation's change. Which of them.
fn is_either(stage: &Stage, without: &[u8], with: &[u8]) -> Outcome {
    let left = take_all(stage);
    assert!(left == without || left == with, "{left:?} is neither {without:?} nor {with:?}");
    use_queue(stage);
    done_if(left == with)
}

/// Lets the victim use the queue once, for which it has to be empty.
fn put_and_take(stage: &Stage) {
    put(&stage.queue, 100, stage.length);
    assert_eq!(take(&stage.queue, stage.length), 100);
}

/// Lets the victim use the queue once, where that changes nothing.
fn look(stage: &Stage) {
    let nothing = stage.queue.take_many(0, Deadline::Now, |_, _| ());
    assert!(matches!(nothing, Err(QueueError::TimedOut)));
}

const UNBOUNDED: Limits = Limits { messages: None, bytes: None, refuse_long: false };
const ONE: Limits = Limits { messages: Some(1), bytes: None, refuse_long: false };

/// A queue whose messages are apart from a length of 4096 bytes on.
const SMALL: Limits = Limits { messages: None, bytes: Some(8192), refuse_long: false };

const CLOSED: u8 = 99;

fn add_taker(stage: &mut Stage) {
    let (queue, length) = (&stage.queue, stage.length);
    let taker = Other::asleep(|| match take_until(queue, length, soon()) {
        Ok(number) => number,
        Err(QueueError::Closed) => CLOSED,
        Err(error) => panic!("{error}"),
    });
    stage.others.push(taker);
}

/// The same, of a message of whatever length.
fn add_taker_of_any(stage: &mut Stage) {
    let queue = &stage.queue;
    let taker = Other::asleep(|| {
        let mut buffer = Vec::new();
        queue.take(&mut buffer, soon()).unwrap();
        buffer[0]
    });
    stage.others.push(taker);
}

fn add_putter(stage: &mut Stage, number: u8) {
    let (queue, length) = (&stage.queue, stage.length);
    let putter = Other::asleep(|| match put_until(queue, number, length, soon()) {
        Ok(()) => 0,
        Err(QueueError::Closed) => CLOSED,
        Err(error) => panic!("{error}"),
    });
    stage.others.push(putter);
}

#[test]
fn a_message_was_put_or_never_was() {
    Operation::new(
        "put",
        |arena| filled(arena, UNBOUNDED, 2, 40),
        |stage| put(&stage.queue, 3, stage.length),
        |stage| is_either(&stage, &[1, 2], &[1, 2, 3]),
    )
    .warm_up(look)
    .kill_everywhere_at_first_use();
}

#[test]
fn the_first_message_of_a_queue_was_put_or_never_was() {
    Operation::new(
        "put, into a new queue",
        |arena| filled(arena, UNBOUNDED, 0, 40),
        |stage| put(&stage.queue, 1, stage.length),
        |stage| is_either(&stage, &[], &[1]),
    )
    .warm_up(look)
    .in_new_arenas()
    .kill_everywhere();
}

#[test]
fn a_message_that_needs_a_larger_ring_was_put_or_never_was() {
    // The first one of 10,000 bytes gets a ring of 65,536, which the seventh does not fit into.
    Operation::new(
        "put, and let the ring grow",
        |arena| filled(arena, UNBOUNDED, 6, 10_000),
        |stage| put(&stage.queue, 7, stage.length),
        |stage| is_either(&stage, &[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 5, 6, 7]),
    )
    .warm_up(look)
    .kill_everywhere();
}

#[test]
fn a_long_message_was_put_or_never_was() {
    Operation::new(
        "put, apart",
        |arena| filled(arena, SMALL, 0, 5000),
        |stage| put(&stage.queue, 1, stage.length),
        |stage| is_either(&stage, &[], &[1]),
    )
    .warm_up(put_and_take)
    .kill_everywhere();
}

#[test]
fn a_message_of_more_than_a_mebibyte_was_put_or_never_was() {
    Operation::new(
        "put, more than a mebibyte",
        |arena| filled(arena, UNBOUNDED, 1, (1 << 20) + 5),
        |stage| put(&stage.queue, 2, stage.length),
        |stage| is_either(&stage, &[1], &[1, 2]),
    )
    .kill_at_times();
}

#[test]
fn many_messages_were_put_all_or_none() {
    Operation::new(
        "put three at once",
        |arena| filled(arena, UNBOUNDED, 1, 40),
        |stage| {
            let bytes = [[2u8; 40], [3; 40], [4; 40]];
            let messages = bytes.each_ref().map(|bytes| Message { bytes, holds: &[] });
            assert_eq!(stage.queue.put_many(&messages, soon()).unwrap(), 3);
        },
        |stage| is_either(&stage, &[1], &[1, 2, 3, 4]),
    )
    .warm_up(look)
    .kill_everywhere();
}

#[test]
fn a_message_was_taken_or_is_there() {
    Operation::new(
        "take",
        |arena| filled(arena, UNBOUNDED, 3, 40),
        |stage| assert_eq!(take(&stage.queue, stage.length), 1),
        |stage| is_either(&stage, &[1, 2, 3], &[2, 3]),
    )
    .warm_up(look)
    .kill_everywhere_at_first_use();
}

#[test]
fn a_long_message_was_taken_or_is_there() {
    Operation::new(
        "take, apart",
        |arena| filled(arena, SMALL, 1, 5000),
        |stage| assert_eq!(take(&stage.queue, stage.length), 1),
        |stage| is_either(&stage, &[1], &[]),
    )
    .warm_up(look)
    .kill_everywhere();
}

#[test]
fn messages_that_are_taken_at_once_go_one_by_one() {
    Operation::new(
        "take three at once",
        |arena| filled(arena, UNBOUNDED, 4, 40),
        |stage| {
            let mut count = 0;
            stage.queue.take_many(3, soon(), |_, _| count += 1).unwrap();
            assert_eq!(count, 3);
        },
        |stage| {
            let left = take_all(&stage);
            assert!([&[1, 2, 3, 4][..], &[2, 3, 4], &[3, 4], &[4]].contains(&&left[..]), "{left:?}");
            use_queue(&stage);
            done_if(left == [4])
        },
    )
    .warm_up(look)
    .kill_everywhere();
}

#[test]
fn who_sleeps_for_a_message_gets_the_one_that_a_dead_process_has_put() {
    Operation::new(
        "put, with a sleeping taker",
        |arena| filled(arena, UNBOUNDED, 0, 40),
        |stage| put(&stage.queue, 1, stage.length),
        |mut stage| {
            let done = stage.others[0].settle();
            if !done {
                assert!(stage.queue.is_empty(), "nobody sleeps while there is a message");
                put(&stage.queue, 2, stage.length);
            }
            let got = stage.others.remove(0).end(stage.arena);
            assert_eq!(got, if done { 1 } else { 2 });
            use_queue(&stage);
            done_if(done)
        },
    )
    .warm_up(put_and_take)
    .ready(add_taker)
    .kill_everywhere();
}

#[test]
fn who_sleeps_for_room_gets_that_which_a_dead_process_has_made() {
    Operation::new(
        "take, with a sleeping putter",
        |arena| filled(arena, ONE, 1, 40),
        |stage| assert_eq!(take(&stage.queue, stage.length), 1),
        |mut stage| {
            let done = stage.others[0].settle();
            if !done {
                assert!(stage.queue.is_full(), "nobody sleeps while there is room");
                assert_eq!(take(&stage.queue, stage.length), 1);
            }
            assert_eq!(stage.others.remove(0).end(stage.arena), 0);
            assert_eq!(take_all(&stage), [2]);
            use_queue(&stage);
            done_if(done)
        },
    )
    .warm_up(look)
    .ready(|stage| add_putter(stage, 2))
    .kill_everywhere();
}

#[test]
fn who_waits_for_a_message_and_dies_leaves_it_to_others() {
    Operation::new(
        "take, after a wait",
        |arena| used(arena, 40),
        |stage| assert_eq!(take(&stage.queue, stage.length), 1),
        |mut stage| {
            let left = stage.others[0].settle();
            if !left {
                assert!(stage.queue.is_empty(), "nobody sleeps while there is a message");
                put(&stage.queue, 2, stage.length);
            }
            assert_eq!(stage.others.remove(0).end(stage.arena), if left { 1 } else { 2 });
            use_queue(&stage);
            done_if(!left)
        },
    )
    .warm_up(put_and_take)
    .waits_for(|stage| {
        // It comes second, so that the victim is the first to be woken.
        add_taker(stage);
        put(&stage.queue, 1, stage.length);
        true
    })
    .kill_everywhere();
}

#[test]
fn who_waits_for_room_and_dies_leaves_it_to_others() {
    Operation::new(
        "put, after a wait",
        |arena| filled(arena, ONE, 1, 40),
        |stage| put(&stage.queue, 2, stage.length),
        |mut stage| {
            let left = stage.others[0].settle();
            if !left {
                assert!(stage.queue.is_full(), "nobody sleeps while there is room");
                assert_eq!(take(&stage.queue, stage.length), 2);
            }
            assert_eq!(stage.others.remove(0).end(stage.arena), 0);
            assert_eq!(take_all(&stage), [3]);
            use_queue(&stage);
            done_if(!left)
        },
    )
    .warm_up(look)
    .waits_for(|stage| {
        add_putter(stage, 3);
        assert_eq!(take(&stage.queue, stage.length), 1);
        true
    })
    .kill_everywhere();
}

fn waits_for_message() -> Operation<Stage> {
    Operation::new(
        "take, after a wait",
        |arena| used(arena, 40),
        |stage| assert_eq!(take(&stage.queue, stage.length), 1),
        |stage| is_either(&stage, &[1], &[]),
    )
    .warm_up(put_and_take)
    .waits_for(|stage| {
        put(&stage.queue, 1, stage.length);
        true
    })
    .in_any_order()
}

#[test]
fn who_is_about_to_sleep_for_a_message_does_not_sleep_through_it() {
    waits_for_message().stop_everywhere();
}

#[test]
fn who_is_about_to_sleep_for_a_message_does_not_sleep_through_its_putters_death() {
    static SPOT: Spot = Spot::new();
    waits_for_message()
        .waits_for(|stage| {
            let Stage { arena, queue, length, .. } = &*stage;
            let dying = Traced::start(|| {
                queue.held().send().unwrap();
                marker();
                put(queue, 1, *length);
                marker();
            });
            dying.run_until(&SPOT, || !queue.is_empty());
            bury(arena, dying);
            true
        })
        .stop_everywhere();
}

fn waits_for_room() -> Operation<Stage> {
    Operation::new(
        "put, after a wait",
        |arena| filled(arena, ONE, 1, 40),
        |stage| put(&stage.queue, 2, stage.length),
        |stage| is_either(&stage, &[], &[2]),
    )
    .warm_up(look)
    .waits_for(|stage| {
        assert_eq!(take(&stage.queue, stage.length), 1);
        true
    })
    .in_any_order()
}

#[test]
fn who_is_about_to_sleep_for_room_does_not_sleep_through_it() {
    waits_for_room().stop_everywhere();
}

#[test]
fn who_is_about_to_sleep_for_room_does_not_sleep_through_the_takers_death() {
    static SPOT: Spot = Spot::new();
    waits_for_room()
        .waits_for(|stage| {
            let Stage { arena, queue, length, .. } = &*stage;
            let dying = Traced::start(|| {
                queue.held().send().unwrap();
                marker();
                take(queue, *length);
                marker();
            });
            dying.run_until(&SPOT, || !queue.is_full());
            bury(arena, dying);
            true
        })
        .stop_everywhere();
}

#[test]
fn a_queue_is_closed_for_whoever_sleeps_or_is_open() {
    Operation::new(
        "close, with a sleeping taker",
        |arena| filled(arena, UNBOUNDED, 0, 40),
        |stage| stage.queue.close(),
        |mut stage| {
            let done = stage.others[0].settle();
            if !done {
                assert!(!stage.queue.is_closed(), "nobody sleeps before a closed queue");
                use_queue_with_sleeper(&stage);
                stage.queue.close();
            }
            assert_eq!(stage.others.remove(0).end(stage.arena), CLOSED);
            assert!(matches!(put_until(&stage.queue, 1, 1, soon()), Err(QueueError::Closed)));
            done_if(done)
        },
    )
    .warm_up(put_and_take)
    .ready(add_taker)
    .kill_everywhere();
}

/// Closes a queue beside a sleeper, and nobody dies, so that no broadcast wakes it.
fn close_beside(limits: Limits, count: u8, add_sleeper: fn(&mut Stage)) {
    stay_on_one_cpu();
    let mut rounds = (0..5).map(|_| {
        let mut stage = filled(Arena::create(1).unwrap(), limits, count, 40);
        add_sleeper(&mut stage);
        let start = Instant::now();
        stage.queue.close();
        assert_eq!(stage.others.remove(0).end(stage.arena), CLOSED);
        start.elapsed()
    });
    // A loaded machine makes some rounds slow, but not all.
    assert!(rounds.any(|took| took < BOUND / 10), "who sleeps is woken");
}

#[test]
fn who_sleeps_for_a_message_is_woken_by_a_close() {
    close_beside(UNBOUNDED, 0, add_taker);
}

#[test]
fn who_sleeps_for_room_is_woken_by_a_close() {
    close_beside(ONE, 1, |stage| add_putter(stage, 2));
}

/// It is still open: nobody is told anything else.
fn use_queue_with_sleeper(stage: &Stage) {
    assert!(matches!(take_until(&stage.queue, stage.length, Deadline::Now), Err(QueueError::TimedOut)));
}

fn has_end(arena: &'static Arena) -> Stage {
    filled(arena, UNBOUNDED, 0, 40)
}

#[test]
fn the_last_end_of_a_queue_that_is_dropped_closes_it_whoever_dies_over_it() {
    Operation::new(
        "drop the last end, with a sleeping taker",
        has_end,
        |stage| drop(stage.end.take()),
        |mut stage| {
            // It is gone in any case: dropped, or its process is.
            assert_eq!(stage.others.remove(0).end(stage.arena), CLOSED);
            assert!(stage.queue.is_closed());
            Outcome::Done
        },
    )
    .prepare(|stage| _ = stage.end.replace(Some(stage.queue.end(End::Sending).unwrap())))
    .ready(add_taker)
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn an_end_of_a_queue_is_made_or_not() {
    Operation::new(
        "make an end, with a sleeping taker",
        has_end,
        |stage| _ = stage.end.replace(Some(stage.queue.end(End::Sending).unwrap())),
        |mut stage| {
            let done = stage.others[0].settle();
            assert_eq!(done, stage.queue.is_closed(), "its only end is gone");
            stage.queue.close();
            assert_eq!(stage.others.remove(0).end(stage.arena), CLOSED);
            done_if(done)
        },
    )
    .warm_up(look)
    .ready(add_taker)
    .kill_everywhere();
}

#[test]
fn who_gives_up_waiting_for_a_message_leaves_nobody_asleep_who_could_have_it() {
    stay_on_one_cpu();
    static SPOT: Spot = Spot::new();
    let mut stage = filled(Arena::create(1).unwrap(), UNBOUNDED, 0, 40);
    put_and_take(&stage);
    let objects = stage.arena.objects();
    let here = &stage;
    let (hasty, end) = about_to_sleep(|deadline| {
        look(here);
        marker();
        assert!(take_until(&here.queue, 40, deadline()).is_err());
        marker();
    });
    let grower = Traced::start(|| {
        look(here);
        marker();
        put(&here.queue, 2, 40_000);
        marker();
    });
    let mut asleep = || {
        if stage.others.is_empty() {
            add_taker_of_any(&mut stage);
            add_taker_of_any(&mut stage);
            // For the one that has slept longest. Then the ring grows, for which both locks are taken: its time is over before it has one.
            put(&stage.queue, 1, 40);
            grower.run_until(&SPOT, || stage.arena.objects() > objects);
        }
    };
    hasty.step(hasty.place(), Some(&mut asleep));
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    assert_eq!(hasty.go_on(&mut || {}), Stop::Marker);
    assert_eq!(grower.go_on(&mut || {}), Stop::Marker);
    // All of them, before any one's end wakes the others.
    assert!(stage.others.iter().all(Other::settle), "nobody sleeps while there is a message");
    let mut got: Vec<_> = stage.others.drain(..).map(|other| other.end(stage.arena)).collect();
    // On a slow machine the first one has slept so long that it looks, and sleeps anew behind the other one.
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
    bury(stage.arena, hasty);
    bury(stage.arena, grower);
}
