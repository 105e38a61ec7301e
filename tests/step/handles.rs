//! Objects that come and go, and handles on their way.

use std::cell::RefCell;
use std::sync::Arc;

use broody_os::fork;
use broody_shm::arena::{Arena, Frozen, Held, HoldId, Kind, Name, Transit};
use broody_shm::blob::Blob;
use broody_shm::handle::Handle;
use broody_shm::queue::{Limits, Message, Queue};
use broody_shm::robust::guarded::Guarded;
use broody_shm::sync::Deadline;

use crate::operation::{Operation, Outcome, done_if};
use crate::{MANY, soon};

fn allocate(arena: &'static Arena, length: u64) -> Arc<Held> {
    arena.allocate(Kind::Memory, length, 0).unwrap()
}

/// An arena whose tables are put right makes and frees objects as ever.
fn use_arena(arena: &'static Arena) {
    let before = arena.objects();
    let kept: Vec<_> = (0..MANY / 20).map(|number| allocate(arena, 60 << (number % 6))).collect();
    for (number, held) in kept.iter().enumerate() {
        // SAFETY: so many bytes are there, and nobody else knows of them.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(held.body().as_ptr().as_ptr(), held.body().length() as usize)
        };
        assert!(bytes.iter().all(|byte| *byte == 0), "what is new is empty");
        bytes.fill(number as u8 + 1);
    }
    for (number, held) in kept.iter().enumerate() {
        // SAFETY: as above.
        let bytes = unsafe {
            std::slice::from_raw_parts(held.body().as_ptr().as_ptr(), held.body().length() as usize)
        };
        assert!(bytes.iter().all(|byte| *byte == number as u8 + 1), "no place is another's, too");
    }
    assert_eq!(arena.objects(), before + MANY / 20);
    drop(kept);
    assert_eq!(arena.objects(), before);
}

struct Place {
    arena: &'static Arena,
    made: RefCell<Option<Arc<Held>>>,
    /// The survivor's own, so that the arena is not empty.
    _other: Arc<Held>,
}

fn place(arena: &'static Arena) -> Place {
    Place { arena, made: RefCell::new(None), _other: allocate(arena, 64) }
}

fn check_place(place: Place) -> Outcome {
    assert_eq!(place.arena.objects(), 1, "what the dead one had is gone");
    use_arena(place.arena);
    assert!(place.arena.allocated() < 4 << 20, "no pages are left: {} bytes", place.arena.allocated());
    Outcome::Done
}

#[test]
fn an_object_that_a_dead_process_makes_is_gone() {
    Operation::new(
        "make an object",
        place,
        |place| _ = place.made.replace(Some(allocate(place.arena, 200))),
        check_place,
    )
    .warm_up(|place| drop(allocate(place.arena, 200)))
    .in_any_order()
    .kill_everywhere_at_first_use();
}

#[test]
fn the_first_object_of_its_size_that_a_dead_process_makes_is_gone() {
    Operation::new(
        "make the first object of its size",
        place,
        |place| _ = place.made.replace(Some(allocate(place.arena, 200))),
        check_place,
    )
    .warm_up(|place| drop(allocate(place.arena, 64)))
    .in_any_order()
    .in_new_arenas()
    .kill_everywhere();
}

#[test]
fn an_object_of_pages_that_a_dead_process_makes_is_gone() {
    Operation::new(
        "make an object of pages",
        place,
        |place| _ = place.made.replace(Some(allocate(place.arena, 100_000))),
        check_place,
    )
    .warm_up(|place| drop(allocate(place.arena, 100_000)))
    .in_any_order()
    .kill_everywhere();
}

#[test]
fn an_object_that_a_dead_process_drops_is_gone() {
    Operation::new("drop an object", place, |place| drop(place.made.take()), check_place)
        .prepare(|place| _ = place.made.replace(Some(allocate(place.arena, 100_000))))
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn the_last_object_of_an_arena_that_was_full_is_dropped_by_a_dead_process() {
    drop_the_last::<64>("drop the last of many objects");
}

#[test]
fn the_last_object_of_an_arena_that_was_full_has_pages_and_is_dropped_by_a_dead_process() {
    drop_the_last::<100_000>("drop the last of many objects, which has pages");
}

/// With the last one of many the tables begin anew.
fn drop_the_last<const LENGTH: u64>(name: &'static str) {
    Operation::new(
        name,
        |arena| arena,
        |_| {
            LAST.with_borrow_mut(Vec::clear);
        },
        |arena| {
            assert_eq!(arena.objects(), 0);
            use_arena(arena);
            assert!(arena.allocated() < 4 << 20, "no pages are left: {} bytes", arena.allocated());
            Outcome::Done
        },
    )
    .prepare(|arena| {
        let many: Vec<_> = (0..300).map(|_| allocate(arena, 64)).collect();
        LAST.with_borrow_mut(|last| last.push(allocate(arena, LENGTH)));
        drop(many);
    })
    .in_any_order()
    .kill_everywhere();
}

thread_local! {
    static LAST: RefCell<Vec<Arc<Held>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn a_queue_that_a_dead_process_drops_goes_with_its_ring_and_what_its_messages_keep() {
    Operation::new(
        "drop a queue of messages with blobs",
        place,
        |_| QUEUE.with_borrow_mut(|queue| *queue = None),
        check_place,
    )
    .prepare(|place| {
        let queue = Queue::new(place.arena, Limits::default(), 0, false).unwrap();
        for _ in 0..2 {
            put_blob(&queue, &blob(place.arena));
        }
        assert_eq!(place.arena.objects(), 5);
        QUEUE.with_borrow_mut(|kept| *kept = Some(queue));
    })
    .in_any_order()
    .kill_everywhere();
}

thread_local! {
    static QUEUE: RefCell<Option<Queue>> = const { RefCell::new(None) };
}

const BLOB: usize = 5000;

fn blob(arena: &'static Arena) -> Blob {
    Blob::new(arena, BLOB, |bytes| bytes.fill(7)).unwrap()
}

/// A handle as a message: what `broody` encodes.
fn put_blob(queue: &Queue, blob: &Blob) {
    let mut transit = Transit::new(queue.held().arena());
    transit.push(blob.held().send().unwrap());
    let (Name { index, name }, hold) = (blob.held().name(), transit.holds()[0]);
    let mut bytes = Vec::new();
    [u64::from(index), name, hold.index.into(), hold.use_number.into()]
        .iter()
        .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    queue.put(Message { bytes: &bytes, holds: transit.holds() }, soon()).unwrap();
    transit.forget();
}

/// The blob of the next message, if there is one.
fn take_blob(queue: &Queue) -> Option<Blob> {
    let mut buffer = Vec::new();
    let taken = queue.take(&mut buffer, Deadline::Now).ok()?;
    let number = |at: usize| u64::from_le_bytes(buffer[8 * at..8 * at + 8].try_into().unwrap());
    let name = Name { index: number(0) as u32, name: number(1) };
    let hold = HoldId { index: number(2) as u32, use_number: number(3) as u32 };
    let held = queue.held().arena().receive(name, hold).expect("what a message refers to is there");
    drop(taken);
    let blob = Blob::from_held(held).unwrap();
    assert!(*blob == [7; BLOB], "the blob is whole");
    Some(blob)
}

struct Sent {
    arena: &'static Arena,
    queue: Queue,
    blob: RefCell<Option<Blob>>,
}

fn sent(arena: &'static Arena) -> Sent {
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    // So that it has its ring.
    queue.put(Message { bytes: &[], holds: &[] }, soon()).unwrap();
    queue.take(&mut Vec::new(), soon()).unwrap();
    Sent { arena, queue, blob: RefCell::new(None) }
}

/// The blob is in the queue, or gone.
fn check_sent(sent: &Sent) -> bool {
    let Sent { arena, queue, .. } = sent;
    let there = queue.len();
    // The queue and its ring.
    assert_eq!(arena.objects(), 2 + there as u32);
    assert_eq!(take_blob(queue).is_some(), there == 1);
    assert_eq!(arena.objects(), 2);
    for _ in 0..MANY / 20 {
        put_blob(queue, &blob(arena));
        assert!(take_blob(queue).is_some());
    }
    there == 1
}

#[test]
fn a_blob_that_is_put_goes_with_its_message_or_is_gone() {
    Operation::new(
        "put a message with a blob",
        sent,
        |sent| put_blob(&sent.queue, sent.blob.borrow().as_ref().unwrap()),
        |sent| done_if(check_sent(&sent)),
    )
    .prepare(|sent| _ = sent.blob.replace(Some(blob(sent.arena))))
    .kill_everywhere();
}

#[test]
fn a_blob_that_is_taken_is_still_in_the_queue_or_gone() {
    Operation::new(
        "take a message with a blob",
        |arena| {
            let sent = sent(arena);
            put_blob(&sent.queue, &blob(arena));
            sent
        },
        |sent| _ = sent.blob.replace(Some(take_blob(&sent.queue).unwrap())),
        |sent| done_if(!check_sent(&sent)),
    )
    .warm_up(|sent| assert!(sent.queue.take_many(0, Deadline::Now, |_, _| ()).is_err()))
    .kill_everywhere();
}

/// An object that is on its way to the victim, as an argument of its start.
struct Argument {
    arena: &'static Arena,
    held: Arc<Held>,
    hold: HoldId,
    received: RefCell<Option<Arc<Held>>>,
}

fn argument(arena: &'static Arena) -> Argument {
    let held = allocate(arena, 3000);
    let hold = held.send().unwrap();
    Argument { arena, held, hold, received: RefCell::new(None) }
}

fn check_argument(argument: Argument) -> Outcome {
    let Argument { arena, held, hold, .. } = argument;
    // As the supervisor does for what the dead child had not received.
    assert!(arena.end_transit(&[hold], soon()));
    assert_eq!(arena.objects(), 1);
    drop(held);
    assert_eq!(arena.objects(), 0, "no hold is left");
    use_arena(arena);
    Outcome::Done
}

#[test]
fn an_object_that_is_received_is_not_kept_by_the_dead() {
    Operation::new(
        "receive an object",
        argument,
        |argument| {
            let held = argument.arena.receive(argument.held.name(), argument.hold).unwrap();
            argument.received.replace(Some(held));
        },
        check_argument,
    )
    .warm_up(|argument| drop(allocate(argument.arena, 64)))
    .in_any_order()
    .kill_everywhere_at_first_use();
}

#[test]
fn an_object_that_is_sent_is_not_kept_by_the_dead() {
    Operation::new("send an object", argument, |argument| _ = argument.held.send().unwrap(), check_argument)
        .warm_up(|argument| drop(allocate(argument.arena, 64)))
        .in_any_order()
        .kill_everywhere();
}

#[test]
fn a_process_that_opens_the_arena_and_dies_leaves_nothing() {
    // As an exec'ed child does: nothing is mapped there yet.
    Operation::new(
        "open the arena and use a lock",
        |arena| {
            let lock = Handle::<Guarded>::new(arena, 0, 0).unwrap();
            let hold = lock.held().send().unwrap();
            let held = lock.held().clone();
            Argument { arena, held, hold, received: RefCell::new(None) }
        },
        |argument| {
            let descriptor = fork::duplicate(argument.arena.descriptor()).unwrap();
            let arena = Arena::open(descriptor).unwrap();
            let held = arena.receive(argument.held.name(), argument.hold).unwrap();
            let lock = Handle::<Guarded>::from_held(held).unwrap();
            assert!(lock.acquire(soon()).unwrap().is_some());
            // It holds it to its end.
            argument.received.replace(Some(lock.held().clone()));
        },
        |argument| {
            let lock = Handle::<Guarded>::from_held(argument.held.clone()).unwrap();
            let died = lock.acquire(Deadline::Now).unwrap().expect("the lock is free").owner_died;
            assert!(lock.release().unwrap());
            drop(lock);
            check_argument(argument);
            done_if(died)
        },
    )
    .kill_everywhere();
}

struct Forked {
    arena: &'static Arena,
    held: Vec<Arc<Held>>,
    frozen: RefCell<Option<Frozen>>,
}

#[test]
fn what_a_fork_adopts_is_not_kept_by_the_dead() {
    Operation::new(
        "adopt what a fork inherits",
        |arena| {
            let held = (0..3).map(|_| allocate(arena, 64)).collect();
            Forked { arena, held, frozen: RefCell::new(Some(arena.freeze().unwrap())) }
        },
        |forked| forked.frozen.take().unwrap().adopt().unwrap(),
        |forked| {
            // In the parent the fork is over, and what it drops is dropped.
            drop(forked.frozen.take());
            assert_eq!(forked.arena.objects(), 3);
            drop(forked.held);
            assert_eq!(forked.arena.objects(), 0);
            use_arena(forked.arena);
            Outcome::Done
        },
    )
    .warm_up(|forked| drop(allocate(forked.arena, 64)))
    .in_any_order()
    .kill_everywhere();
}
