//! Whoever repairs what the dead have left dies over it: the next one does it again.

use std::time::Duration;

use broody_shm::arena::{Arena, Kind, Transit};
use broody_shm::blob::Blob;
use broody_shm::handle::Handle;
use broody_shm::queue::{Limits, Message, Queue};
use broody_shm::robust::barrier::Barrier;
use broody_shm::robust::condition::Condition;
use broody_shm::robust::guarded::Guarded;
use broody_shm::robust::permits::Permits;
use broody_shm::sync::Deadline;

use crate::operation::{Operation, Outcome, stay_on_one_cpu};
use crate::other::Other;
use crate::trace::{Spot, Traced, marker};
use crate::{MANY, soon};

struct Stage {
    arena: &'static Arena,
    lock: Handle<Guarded>,
    recursive: Handle<Guarded>,
    permits: Handle<Permits>,
    barrier: Handle<Barrier>,
    condition: Handle<Condition>,
    tasks: Queue,
    blobs: Queue,
    /// Killed, not reaped, and nothing of them is put right.
    dead: Vec<Dead>,
    others: Vec<Other>,
}

enum Dead {
    Other(Other),
    Traced(Traced),
}

impl Dead {
    fn reap(self) {
        match self {
            Dead::Other(other) => other.reap(),
            Dead::Traced(traced) => traced.reap(),
        }
    }
}

fn objects(arena: &'static Arena) -> Stage {
    let queue = |counts| Queue::new(arena, Limits::default(), 0, counts).unwrap();
    let stage = Stage {
        arena,
        lock: Handle::<Guarded>::new(arena, 0, 0).unwrap(),
        recursive: Handle::<Guarded>::new(arena, 0, 0).unwrap(),
        permits: Handle::<Permits>::new(arena, 3).unwrap(),
        barrier: Handle::<Barrier>::new(arena, 1).unwrap(),
        condition: Handle::<Condition>::new(arena).unwrap(),
        tasks: queue(true),
        blobs: queue(false),
        dead: Vec::new(),
        others: Vec::new(),
    };
    for number in 0..3u8 {
        stage.tasks.put(Message { bytes: &[number], holds: &[] }, soon()).unwrap();
    }
    put_blob(&stage);
    put_blob(&stage);
    stage
}

fn put_blob(stage: &Stage) {
    let blob = Blob::new(stage.arena, 5000, |_| ()).unwrap();
    let mut transit = Transit::new(stage.arena);
    transit.push(blob.held().send().unwrap());
    stage.blobs.put(Message { bytes: &[], holds: transit.holds() }, soon()).unwrap();
    transit.forget();
}

fn add_waiter(stage: &mut Stage) {
    let condition = &stage.condition;
    let waiter = Other::asleep(|| u8::from(!condition.wait(soon(), || (), || ()).unwrap().0));
    stage.others.push(waiter);
}

/// A process that had a part in everything is dead, and was just notified.
fn had_everything(arena: &'static Arena) -> Stage {
    let mut stage = objects(arena);
    let here = &stage;
    let dead = Other::asleep(|| {
        assert!(here.lock.acquire(soon()).unwrap().is_some());
        assert!(here.recursive.acquire_again(soon()).unwrap().is_some());
        assert!(here.permits.acquire(soon()).unwrap() && here.permits.acquire(soon()).unwrap());
        assert!(here.barrier.wait(soon(), || true).unwrap().is_ok());
        let mut buffer = Vec::new();
        here.tasks.take(&mut buffer, soon()).unwrap();
        here.tasks.take(&mut buffer, soon()).unwrap();
        let _taken = here.blobs.take(&mut buffer, soon()).unwrap();
        let _own = arena.allocate(Kind::Memory, 10_000, 0).unwrap();
        here.condition.wait(soon(), || (), || ()).unwrap();
        0
    });
    add_waiter(&mut stage);
    dead.stop();
    assert_eq!(stage.condition.notify(1).unwrap(), 1, "the dead one");
    dead.kill();
    stage.dead.push(Dead::Other(dead));
    stage
}

fn use_all(stage: &Stage) {
    for _ in 0..MANY / 10 {
        let died = |handle: &Handle<Guarded>| handle.acquire(soon()).unwrap().unwrap().owner_died;
        assert!(!died(&stage.lock) && !died(&stage.recursive));
        assert!(stage.lock.release().unwrap() && stage.recursive.release().unwrap());
        assert!(stage.permits.acquire(Deadline::Now).unwrap() && stage.permits.release(false).unwrap());
        stage.tasks.put(Message { bytes: &[7], holds: &[] }, soon()).unwrap();
        stage.tasks.take(&mut Vec::new(), soon()).unwrap();
        stage.tasks.task_done().unwrap();
    }
}

/// Puts right what is left of the dead one, and looks at everything.
fn check_everything(mut stage: Stage) -> Outcome {
    assert!(stage.arena.recover_all(soon()));
    stage.dead.drain(..).for_each(Dead::reap);
    for lock in [&stage.lock, &stage.recursive] {
        assert!(lock.acquire(Deadline::Now).unwrap().expect("it is free").owner_died, "it is told");
        assert!(lock.release().unwrap());
    }
    assert_eq!(stage.permits.value(), 3, "its permits are free");
    assert!(stage.barrier.is_broken());
    stage.barrier.reset().unwrap();
    // Its notification has gone to the other one.
    let waiter = stage.others.remove(0);
    assert_eq!(stage.condition.notify(u32::MAX).unwrap(), 0, "the notification was passed on");
    assert_eq!(waiter.end(stage.arena), 0);
    assert_eq!((stage.tasks.len(), stage.tasks.unfinished()), (1, 1));
    assert_eq!(stage.tasks.take_lost(), 2, "its tasks are lost");
    stage.tasks.take(&mut Vec::new(), soon()).unwrap();
    stage.tasks.task_done().unwrap();
    // Seven objects, two rings, and the blob that is still in the queue.
    assert_eq!(stage.arena.objects(), 10);
    stage.blobs.take(&mut Vec::new(), soon()).unwrap();
    assert_eq!(stage.arena.objects(), 9);
    use_all(&stage);
    Outcome::Done
}

fn repair(stage: &Stage) {
    assert!(stage.arena.recover_all(soon()));
}

#[test]
fn a_repair_that_is_broken_off_is_done_again() {
    Operation::new("repair", had_everything, repair, check_everything)
        .warm_up(|stage| drop(stage.arena.allocate(Kind::Memory, 64, 0).unwrap()))
        .in_any_order()
        .kill_everywhere();
}

/// Runs a victim up to where `until` holds, and kills it.
fn dies_in_the_middle(stage: &mut Stage, spot: &Spot, act: fn(&Stage), until: fn(&Stage) -> bool) {
    let here = &*stage;
    let dead = Traced::start(|| {
        drop(here.arena.allocate(Kind::Memory, 5000, 0).unwrap());
        here.lock.acquire(soon()).unwrap();
        here.blobs.held().send().unwrap();
        here.tasks.held().send().unwrap();
        marker();
        act(here);
        marker();
    });
    dead.run_until(spot, || until(here));
    dead.kill();
    stage.dead.push(Dead::Traced(dead));
}

#[test]
fn the_repair_of_a_task_that_was_just_being_taken_is_done_again() {
    static SPOT: Spot = Spot::new();
    Operation::new(
        "repair after a take",
        |arena| {
            let mut stage = objects(arena);
            // Behind the store of the head: the task is taken, and it is not said yet that it is.
            let take = |stage: &Stage| _ = stage.tasks.take(&mut Vec::new(), soon()).unwrap();
            dies_in_the_middle(&mut stage, &SPOT, take, |stage| stage.tasks.len() == 2);
            stage
        },
        repair,
        |mut stage| {
            repair(&stage);
            stage.dead.drain(..).for_each(Dead::reap);
            assert_eq!((stage.tasks.len(), stage.tasks.unfinished()), (2, 2));
            assert_eq!(stage.tasks.take_lost(), 1);
            assert!(stage.lock.acquire(Deadline::Now).unwrap().unwrap().owner_died);
            stage.lock.release().unwrap();
            for _ in 0..2 {
                stage.tasks.take(&mut Vec::new(), soon()).unwrap();
                stage.tasks.task_done().unwrap();
            }
            use_all(&stage);
            Outcome::Done
        },
    )
    .warm_up(|stage| drop(stage.arena.allocate(Kind::Memory, 64, 0).unwrap()))
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn the_repair_of_an_arena_whose_lock_the_dead_one_had_is_done_again() {
    static SPOT: Spot = Spot::new();
    Operation::new(
        "repair of the arena's lists",
        |arena| {
            let mut stage = objects(arena);
            let make = |stage: &Stage| _ = stage.arena.allocate(Kind::Memory, 5000, 0).unwrap();
            // The object is there, its hold is not.
            dies_in_the_middle(&mut stage, &SPOT, make, |stage| stage.arena.objects() == 12);
            stage
        },
        repair,
        |mut stage| {
            repair(&stage);
            stage.dead.drain(..).for_each(Dead::reap);
            // Seven objects, two rings, two blobs.
            assert_eq!(stage.arena.objects(), 11);
            assert!(stage.lock.acquire(Deadline::Now).unwrap().unwrap().owner_died);
            stage.lock.release().unwrap();
            for _ in 0..3 {
                stage.tasks.take(&mut Vec::new(), soon()).unwrap();
                stage.tasks.task_done().unwrap();
            }
            use_all(&stage);
            Outcome::Done
        },
    )
    // Gets its slot, without the lock of the arena.
    .warm_up(|stage| _ = stage.arena.bell())
    .in_any_order()
    .kill_everywhere();
}

/// A process that held a lock is dead, and so is another one, which has the lock of the arena. Somebody waits for the first one.
fn two_are_dead() -> Stage {
    stay_on_one_cpu();
    static SPOT: Spot = Spot::new();
    let mut stage = objects(Arena::create(1).unwrap());
    let here = &stage;
    let first = Other::asleep(|| {
        here.recursive.acquire(soon()).unwrap();
        here.condition.wait(soon(), || (), || ()).unwrap();
        0
    });
    let recursive = &stage.recursive;
    let acquire = || recursive.acquire(soon()).unwrap().is_some_and(|acquired| acquired.owner_died);
    let waiter = Other::asleep(|| acquire().into());
    first.kill();
    stage.others.push(waiter);
    stage.dead.push(Dead::Other(first));
    let make = |stage: &Stage| _ = stage.arena.allocate(Kind::Memory, 5000, 0).unwrap();
    dies_in_the_middle(&mut stage, &SPOT, make, |stage| stage.arena.objects() == 12);
    stage
}

#[test]
fn of_two_dead_processes_either_can_be_put_right_first() {
    let mut stage = two_are_dead();
    // As patient as the supervisor is.
    let tries = (0..50).take_while(|_| !stage.arena.recover_all(Deadline::after(Duration::from_millis(5))));
    assert!(tries.count() < 50, "the one who has the arena's lock is dead, too");
    stage.dead.drain(..).for_each(Dead::reap);
    assert_eq!(stage.others.remove(0).end(stage.arena), 1);
}

#[test]
fn who_waits_for_a_dead_process_puts_it_right_though_another_dead_one_has_the_arenas_lock() {
    // No supervisor: it may be dead, too.
    let mut stage = two_are_dead();
    assert_eq!(stage.others.remove(0).end(stage.arena), 1);
    stage.dead.drain(..).for_each(Dead::reap);
}
