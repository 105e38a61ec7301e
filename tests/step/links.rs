//! The link between a pool and one worker: who sleeps at which doorbell, and how he looks before that.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use broody_shm::arena::Arena;
use broody_shm::duplex::{Host, Worker};
use broody_shm::pace::Pace;
use broody_shm::ring::{Consumer, Producer};
use broody_shm::sleep::{BOUND, Doorbell};
use broody_shm::sync::Parking;

use crate::operation::{Operation, Outcome, done_if};
use crate::other::Other;

const TASK: [u8; 20] = [3; 20];
const ANSWER: [u8; 20] = [5; 20];
const FRAME: u32 = 0;

/// How long the victims look: some rounds of single steps.
const LOOK: Duration = Duration::from_millis(1);

struct Stage {
    arena: &'static Arena,
    file: OwnedFd,
    host: RefCell<Host>,
    worker: RefCell<Worker>,
    pace: Pace,
    /// A caller, in a process of his own.
    caller: Option<Other>,
}

fn stage(arena: &'static Arena) -> Stage {
    let (host, file) = Host::create("broody-link", 4096).unwrap();
    let worker = RefCell::new(Worker::open(&file).unwrap());
    Stage { arena, file, host: RefCell::new(host), worker, pace: Pace::hopeful(LOOK), caller: None }
}

fn take(inbox: &mut Consumer, expected: [u8; 20]) -> bool {
    let mut bytes = Vec::new();
    match inbox.take_next().unwrap() {
        Some(record) => record.copy_to(&mut bytes),
        None => return false,
    }
    assert_eq!(bytes, expected, "the record is torn");
    inbox.release();
    true
}

fn put(outbox: &mut Producer, bytes: [u8; 20]) {
    assert!(outbox.push(&[&bytes]).unwrap());
}

/// Sleeps between `attend` and the next look. Without deaths nobody does until the bound of his sleep.
fn sleep(stage: &Stage, bell: &Doorbell, pace: Option<&Pace>) {
    let begun = Instant::now();
    bell.sleep(BOUND, pace);
    if begun.elapsed() >= BOUND {
        stage.arena.note_rescue();
    }
}

fn give_a_task(stage: &Stage) {
    let host = &mut *stage.host.borrow_mut();
    host.duplex.lease(FRAME).grant(FRAME, 1);
    put(&mut host.outgoing, TASK);
    host.outgoing.control().consumer().ring();
}

fn answer(worker: &mut Worker) {
    assert_eq!(worker.duplex.lease(FRAME).claim(FRAME), Some(0));
    put(&mut worker.outbox, ANSWER);
    worker.duplex.doorbell().ring();
}

/// The worker's part: one task.
fn work(stage: &Stage) {
    let worker = &mut *stage.worker.borrow_mut();
    while !take(&mut worker.inbox, TASK) {
        let bell = worker.inbox.control().consumer();
        bell.attend();
        if worker.inbox.is_empty() {
            sleep(stage, bell, Some(&stage.pace));
        }
        bell.cancel();
    }
    answer(worker);
}

/// The host's part: one task, for whose answer the calling thread waits.
fn ask(stage: &Stage) {
    // It may be answered before he sleeps.
    stage.host.borrow().duplex.doorbell().attend();
    give_a_task(stage);
    await_answer(stage, Some(&stage.pace));
}

fn await_answer(stage: &Stage, pace: Option<&Pace>) {
    let host = &mut *stage.host.borrow_mut();
    let bell = host.duplex.doorbell();
    loop {
        bell.attend();
        if host.incoming.is_empty() {
            sleep(stage, bell, pace);
        }
        bell.listen();
        if take(&mut host.incoming, ANSWER) {
            return;
        }
    }
}

/// What a worker leaves: a task that it has answered, has claimed, or has not begun.
fn look_at_what_a_worker_left(stage: &Stage) -> Outcome {
    let host = &mut *stage.host.borrow_mut();
    let is_answered = take(&mut host.incoming, ANSWER);
    let claimed = host.duplex.lease(FRAME).claimed(FRAME);
    assert!(claimed == 1 || !is_answered, "an answer to what was not claimed");
    assert!(!take(&mut host.incoming, ANSWER), "one answer");
    done_if(is_answered)
}

fn works() -> Operation<Stage> {
    Operation::new("wait for a task and answer it", stage, work, |stage| look_at_what_a_worker_left(&stage))
        .changes(|stage| stage.file.as_fd())
        .waits_for(|stage| {
            give_a_task(stage);
            true
        })
}

#[test]
fn a_task_of_a_dead_worker_is_answered_or_claimed_or_not_begun() {
    works().kill_everywhere();
}

#[test]
fn a_worker_that_is_about_to_sleep_does_not_sleep_through_its_task() {
    works().in_any_order().stop_everywhere();
}

/// The survivor does a worker's part, once the task is there.
fn work_at_once(stage: &mut Stage) -> bool {
    let worker = &mut *stage.worker.borrow_mut();
    let is_there = take(&mut worker.inbox, TASK);
    if is_there {
        answer(worker);
    }
    is_there
}

fn asks() -> Operation<Stage> {
    Operation::new("give a task and wait for its answer", stage, ask, |mut stage| {
        let claimed = || stage.worker.borrow().duplex.lease(FRAME).claimed(FRAME) == 1;
        let done = claimed() || work_at_once(&mut stage);
        // A dead caller seems to wait: who rings for him goes on.
        let worker = stage.worker.borrow();
        (0..2).for_each(|_| _ = worker.duplex.doorbell().ring());
        done_if(done)
    })
    .changes(|stage| stage.file.as_fd())
    .waits_for(work_at_once)
}

#[test]
fn a_task_of_a_dead_host_is_whole_or_never_was() {
    asks().kill_everywhere();
}

#[test]
fn a_caller_who_is_about_to_sleep_does_not_sleep_through_his_answer() {
    asks().in_any_order().stop_everywhere();
}

#[test]
fn a_caller_is_woken_whatever_his_worker_was_doing_when_it_died() {
    Operation::new("answer a caller who sleeps", stage, work, |mut stage| {
        // As the pool's thread does it that sees the death.
        stage.host.borrow().duplex.doorbell().rouse();
        let is_answered = stage.caller.take().unwrap().end(stage.arena) == 1;
        done_if(is_answered)
    })
    .changes(|stage| stage.file.as_fd())
    .prepare(give_a_task)
    .ready(|stage| {
        stage.caller = Some(Other::asleep(|| {
            let host = &mut *stage.host.borrow_mut();
            let bell = host.duplex.doorbell();
            bell.attend();
            if host.incoming.is_empty() {
                sleep(stage, bell, None);
            }
            bell.listen();
            u8::from(take(&mut host.incoming, ANSWER))
        }));
    })
    .kill_everywhere();
}
