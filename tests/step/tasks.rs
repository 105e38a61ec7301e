//! Queues that count tasks.

use std::time::Instant;

use broody_shm::arena::Arena;
use broody_shm::queue::{Limits, Message, Queue, TooManyDone};
use broody_shm::sync::{BOUND, Deadline};

use crate::operation::{Operation, Outcome, done_if, stay_on_one_cpu};
use crate::other::Other;
use crate::{MANY, soon};

struct Stage {
    arena: &'static Arena,
    queue: Queue,
    others: Vec<Other>,
}

/// A queue of so many tasks, of which the survivor has taken some.
fn tasks(arena: &'static Arena, count: u8, taken: u8) -> Stage {
    let queue = Queue::new(arena, Limits::default(), 0, true).unwrap();
    (0..count).for_each(|number| put(&queue, number));
    (0..taken).for_each(|number| assert_eq!(take(&queue), number));
    Stage { arena, queue, others: Vec::new() }
}

fn put(queue: &Queue, number: u8) {
    queue.put(Message { bytes: &[number; 20], holds: &[] }, soon()).unwrap();
}

fn take(queue: &Queue) -> u8 {
    let mut buffer = Vec::new();
    queue.take(&mut buffer, soon()).unwrap();
    assert_eq!(buffer, [buffer[0]; 20], "the message is torn");
    buffer[0]
}

fn take_and_do(queue: &Queue) {
    take(queue);
    queue.task_done().unwrap();
}

/// Uses the queue, of which all tasks are done.
fn use_queue(queue: &Queue) {
    assert_eq!((queue.unfinished(), queue.take_lost()), (0, 0));
    for round in 0..MANY / 4 {
        put(queue, round as u8);
        assert!(!queue.join(Deadline::Now));
        assert_eq!(take(queue), round as u8);
        assert_eq!(queue.unfinished(), 1);
        queue.task_done().unwrap();
        assert!(queue.join(Deadline::Now));
    }
    assert_eq!(queue.task_done(), Err(TooManyDone));
}

fn add_joiner(stage: &mut Stage) {
    let queue = &stage.queue;
    let joiner = Other::asleep(|| u8::from(!queue.join(soon())));
    stage.others.push(joiner);
}

/// Lets the victim use the queue once, where that changes nothing.
fn look(stage: &Stage) {
    assert!(stage.queue.take_many(0, Deadline::Now, |_, _| ()).is_err());
}

#[test]
fn a_task_of_a_dead_process_is_lost_and_counted_or_was_never_taken() {
    Operation::new(
        "take a task",
        |arena| tasks(arena, 2, 0),
        |stage| assert_eq!(take(&stage.queue), 0),
        |stage| {
            let queue = &stage.queue;
            let (unfinished, lost) = (queue.unfinished(), queue.take_lost());
            assert!((unfinished, lost) == (2, 0) || (unfinished, lost) == (1, 1), "{unfinished}, {lost}");
            assert_eq!(queue.len(), unfinished);
            (0..unfinished).for_each(|_| take_and_do(queue));
            use_queue(queue);
            done_if(lost == 1)
        },
    )
    .warm_up(look)
    .kill_everywhere();
}

#[test]
fn a_task_that_others_wait_for_is_done_or_lost_and_they_go_on() {
    Operation::new(
        "say that a task is done, with a sleeper",
        |arena| tasks(arena, 1, 0),
        |stage| stage.queue.task_done().unwrap(),
        |mut stage| {
            assert_eq!(stage.others.remove(0).end(stage.arena), 0, "nothing is left to wait for");
            let lost = stage.queue.take_lost();
            assert!(lost <= 1);
            use_queue(&stage.queue);
            done_if(lost == 0)
        },
    )
    .prepare(|stage| _ = take(&stage.queue))
    .ready(add_joiner)
    .kill_everywhere();
}

#[test]
fn a_task_that_another_has_taken_is_said_to_be_done_or_not() {
    Operation::new(
        "say that another's task is done, with a sleeper",
        |arena| tasks(arena, 1, 1),
        |stage| stage.queue.task_done().unwrap(),
        |mut stage| {
            let done = stage.others[0].settle();
            if !done {
                assert_eq!(stage.queue.unfinished(), 1, "nobody waits for nothing");
                stage.queue.task_done().unwrap();
            }
            assert_eq!(stage.others.remove(0).end(stage.arena), 0);
            use_queue(&stage.queue);
            done_if(done)
        },
    )
    .warm_up(look)
    .ready(add_joiner)
    .kill_everywhere();
}

#[test]
fn a_task_was_put_and_is_waited_for_or_never_was() {
    Operation::new(
        "put a task",
        |arena| tasks(arena, 2, 1),
        |stage| put(&stage.queue, 2),
        |stage| {
            let queue = &stage.queue;
            let unfinished = queue.unfinished();
            assert!([2, 3].contains(&unfinished));
            assert_eq!((take(queue), queue.len()), (1, unfinished - 2));
            if unfinished == 3 {
                assert_eq!(take(queue), 2);
            }
            (0..unfinished).for_each(|_| queue.task_done().unwrap());
            use_queue(queue);
            done_if(unfinished == 3)
        },
    )
    .warm_up(look)
    .kill_everywhere();
}

fn joins() -> Operation<Stage> {
    Operation::new(
        "wait for the end of all tasks",
        |arena| tasks(arena, 1, 1),
        |stage| assert!(stage.queue.join(soon())),
        |stage| {
            use_queue(&stage.queue);
            Outcome::Done
        },
    )
    .warm_up(look)
    .waits_for(|stage| {
        stage.queue.task_done().unwrap();
        true
    })
    .in_any_order()
}

#[test]
fn who_waits_for_tasks_and_dies_harms_nobody() {
    joins().kill_everywhere();
}

#[test]
fn who_is_about_to_wait_for_tasks_does_not_sleep_through_their_end() {
    joins().stop_everywhere();
}

#[test]
fn who_waits_for_tasks_is_woken_by_the_last_of_them() {
    stay_on_one_cpu();
    let mut rounds = (0..5).map(|_| {
        let mut stage = tasks(Arena::create(1).unwrap(), 2, 2);
        add_joiner(&mut stage);
        stage.queue.task_done().unwrap();
        assert!(!stage.others[0].settle(), "there is another task");
        let start = Instant::now();
        stage.queue.task_done().unwrap();
        assert_eq!(stage.others.remove(0).end(stage.arena), 0);
        start.elapsed()
    });
    // Nobody dies, so that no broadcast wakes it. A loaded machine makes some rounds slow, but not all.
    assert!(rounds.any(|took| took < BOUND / 10), "who waits is woken");
}

#[test]
fn who_is_about_to_wait_for_tasks_does_not_sleep_through_the_death_of_who_has_them() {
    Operation::new(
        "wait for the end of a dead process's task",
        |arena| tasks(arena, 1, 0),
        |stage| assert!(stage.queue.join(soon())),
        |stage| {
            assert_eq!(stage.queue.take_lost(), 1);
            use_queue(&stage.queue);
            Outcome::Done
        },
    )
    .warm_up(look)
    .ready(|stage| {
        let queue = &stage.queue;
        stage.others.push(Other::asleep(|| {
            take(queue);
            loop {
                std::thread::park();
            }
        }));
    })
    .waits_for(|stage| {
        let other = stage.others.remove(0);
        other.kill();
        assert!(stage.arena.recover_all(soon()));
        other.reap();
        true
    })
    .in_any_order()
    .stop_everywhere();
}
