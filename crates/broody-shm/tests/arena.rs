//! An arena from outside: what is refused, what comes back, what a death leaves.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use broody_os::fork::{self, Fork};
use broody_os::sparse::SparseFile;
use broody_os::{events, memory, pidfd, wait};
use broody_shm::ArenaError;
use broody_shm::arena::{Arena, Held, Kind};
use broody_shm::blob::Blob;
use broody_shm::handle::Handle;
use broody_shm::queue::{Limits, Message, Queue};
use broody_shm::robust::guarded::Guarded;
use broody_shm::robust::permits::Permits;
use broody_shm::robust::semaphore::Semaphore;
use broody_shm::sync::Deadline;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Runs `work` in a fork that is killed there; gives back when its arena is repaired.
fn killed_after(arena: &Arena, work: impl FnOnce()) {
    // SAFETY: the child uses only what this test made, and is killed.
    match unsafe { fork::fork() }.unwrap() {
        Fork::Child => {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            fork::kill_child(fork::pid(), 9).unwrap();
            unreachable!("it was killed");
        }
        Fork::Parent(pid) => {
            let pidfd = pidfd::PidFd::open(pid).unwrap();
            events::poll(&[pidfd.as_fd()], None).unwrap();
            assert!(arena.recover_process(pid, soon()));
            wait::reap_pid(pid).unwrap();
        }
    }
}

#[test]
fn what_is_no_arena_is_refused() {
    let refused = |descriptor: OwnedFd| match Arena::open(descriptor) {
        Err(ArenaError::Foreign { what }) => what,
        other => panic!("{other:?}"),
    };
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert_eq!(refused(file), "size");
    assert_eq!(refused(memory::create("test", 4096).unwrap()), "size");
    let empty = SparseFile::create("test", 1 << 30).unwrap();
    assert_eq!(refused(empty.as_fd().try_clone_to_owned().unwrap()), "magic");
    // Something else of the right size, and an arena of another version.
    let noise = SparseFile::create("test", 1 << 30).unwrap();
    noise.reserve(0, 16384).unwrap();
    let mapping = noise.map(0, 4096).unwrap();
    // SAFETY: only this test has the page.
    unsafe { mapping.as_ptr().write_bytes(0x5a, 4096) };
    assert_eq!(refused(noise.as_fd().try_clone_to_owned().unwrap()), "magic");
    let arena = Arena::create(7).unwrap();
    let other = SparseFile::open(arena.descriptor().try_clone_to_owned().unwrap()).unwrap();
    let mapping = other.map(0, 4096).unwrap();
    // SAFETY: the version is the four bytes behind the magic.
    unsafe { mapping.as_ptr().add(8).cast::<u32>().write(99) };
    assert_eq!(refused(arena.descriptor().try_clone_to_owned().unwrap()), "version");
}

#[test]
fn a_second_mapping_of_an_arena_is_the_same_arena() {
    let arena = Arena::create(42).unwrap();
    let lock = Handle::<Guarded>::new(arena, 0, 5).unwrap();
    let sent = lock.held().send().unwrap();
    let again = Arena::open(arena.descriptor().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!((again.id(), again.objects()), (42, 1));
    let same = Handle::<Guarded>::from_held(again.receive(lock.held().name(), sent).unwrap()).unwrap();
    lock.acquire(soon()).unwrap().unwrap();
    assert!(same.is_locked());
    assert_eq!(same.held().tag(), 5);
}

#[test]
fn all_memory_comes_back() {
    let arena = Arena::create(1).unwrap();
    drop(Handle::<Guarded>::new(arena, 8, 0).unwrap());
    let before = arena.allocated();
    let locks: Vec<_> = (0..10_000).map(|_| Handle::<Guarded>::new(arena, 8, 0).unwrap()).collect();
    let queues: Vec<_> =
        (0..1_000).map(|_| Queue::new(arena, Limits::default(), 0, false).unwrap()).collect();
    let mut buffer = Vec::new();
    for queue in &queues {
        queue.put(Message { bytes: &[1; 1000], holds: &[] }, soon()).unwrap();
        queue.take(&mut buffer, soon()).unwrap();
        queue.put(Message { bytes: &[2; 10], holds: &[] }, soon()).unwrap();
    }
    for lock in &locks {
        lock.acquire(soon()).unwrap().unwrap();
        assert!(lock.release().unwrap());
    }
    let blob = Blob::new(arena, 10 << 20, |place| place.fill(1)).unwrap();
    assert_eq!(arena.objects(), 12_001);
    assert!(arena.allocated() > before + (10 << 20));
    drop((locks, queues, blob));
    assert_eq!(arena.objects(), 0);
    assert!(arena.allocated() <= before, "{} bytes are left of {before}", arena.allocated());
    // And it goes on.
    let lock = Handle::<Guarded>::new(arena, 8, 0).unwrap();
    assert!(lock.acquire(soon()).unwrap().is_some());
}

/// More objects than those after which the tables begin anew with the last one.
fn many(arena: &'static Arena) -> Vec<Arc<Held>> {
    (0..300).map(|_| arena.allocate(Kind::Memory, 8, 0).unwrap()).collect()
}

#[test]
fn a_hold_of_old_tables_is_none_of_the_new_ones() {
    let arena = Arena::create(1).unwrap();
    let held = many(arena);
    let old = held[0].send().unwrap();
    drop(arena.receive(held[0].name(), old).unwrap());
    drop(held);
    assert_eq!(arena.objects(), 0);
    let mut held = many(arena);
    // On its way, by the line that the old one had.
    let new = held[0].send().unwrap();
    assert_eq!(new.index, old.index);
    drop(held.remove(0));
    assert!(arena.end_transit(&[old], soon()), "as the supervisor does when a child has ended");
    assert_eq!(arena.objects(), 300, "it is still on its way");
    assert!(arena.end_transit(&[new], soon()));
    assert_eq!(arena.objects(), 299);
}

#[test]
fn tables_that_begin_anew_have_the_whole_file_again() {
    let arena = Arena::create(1).unwrap();
    // 16 TiB in all, a quarter of a TiB each time.
    for _ in 0..100 {
        let held = many(arena);
        // There is no memory for it; a place, there is.
        let made = arena.allocate(Kind::Memory, 1 << 38, 0);
        assert!(!matches!(made, Err(ArenaError::TooLong { .. })), "{made:?}");
        drop((made, held));
    }
}

#[test]
fn a_lock_that_is_dropped_by_its_holder_goes_if_nobody_else_keeps_it() {
    let arena = Arena::create(1).unwrap();
    let taken = |lock: &Handle<Guarded>| assert!(lock.acquire(soon()).unwrap().is_some());
    let lock = Handle::<Guarded>::new(arena, 0, 0).unwrap();
    taken(&lock);
    drop(lock);
    let permits = Handle::<Permits>::new(arena, 2).unwrap();
    assert!(permits.acquire(soon()).unwrap());
    drop(permits);
    assert_eq!(arena.objects(), 0);
    // In a fork that is being made it is kept until that is done.
    let lock = Handle::<Guarded>::new(arena, 0, 0).unwrap();
    taken(&lock);
    let frozen = arena.freeze().unwrap();
    drop(lock);
    assert_eq!(arena.objects(), 1);
    drop(frozen);
    assert_eq!(arena.objects(), 0);
    // Somebody else keeps this one, and is told when the holder has ended.
    let lock = RefCell::new(Some(Handle::<Guarded>::new(arena, 0, 0).unwrap()));
    killed_after(arena, || {
        let lock = lock.take().unwrap();
        taken(&lock);
        drop(lock);
    });
    let lock = lock.take().unwrap();
    assert!(lock.acquire(soon()).unwrap().unwrap().owner_died);
}

#[test]
fn what_a_killed_process_held_is_free_and_said_to_be() {
    let arena = Arena::create(1).unwrap();
    let (lock, recursive) =
        (Handle::<Guarded>::new(arena, 8, 0).unwrap(), Handle::<Guarded>::new(arena, 0, 0).unwrap());
    let (permits, semaphore) =
        (Handle::<Permits>::new(arena, 3).unwrap(), Handle::<Semaphore>::new(arena, 3).unwrap());
    killed_after(arena, || {
        lock.acquire(soon()).unwrap().unwrap();
        recursive.acquire_again(soon()).unwrap().unwrap();
        recursive.acquire_again(soon()).unwrap().unwrap();
        assert!(permits.acquire(soon()).unwrap() && permits.acquire(soon()).unwrap());
        assert!(semaphore.acquire(soon()).unwrap());
    });
    assert!(lock.acquire(soon()).unwrap().unwrap().owner_died);
    assert!(lock.release().unwrap());
    assert!(!lock.acquire(soon()).unwrap().unwrap().owner_died, "only the next one is told");
    assert!(recursive.acquire_again(soon()).unwrap().unwrap().owner_died);
    assert_eq!(recursive.depth(), 1);
    assert_eq!((permits.value(), semaphore.value()), (3, 2));
}

#[test]
fn objects_of_a_killed_process_go_with_it() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    queue.put(Message { bytes: b"warm", holds: &[] }, soon()).unwrap();
    let before = (arena.objects(), arena.allocated());
    killed_after(arena, || {
        std::mem::forget(Blob::new(arena, 5 << 20, |place| place.fill(7)).unwrap());
        std::mem::forget(arena.allocate(Kind::Memory, 1 << 20, 0).unwrap());
        std::mem::forget(Queue::new(arena, Limits::default(), 0, false).unwrap());
        // On its way to nobody.
        let blob = Blob::new(arena, 2 << 20, |place| place.fill(7)).unwrap();
        blob.held().send().unwrap();
        // In a queue: this one stays.
        queue.put(Message { bytes: &[3; 2 << 20], holds: &[] }, soon()).unwrap();
    });
    assert_eq!(arena.objects(), before.0 + 1);
    let mut buffer = Vec::new();
    queue.take(&mut buffer, soon()).unwrap();
    let taken = queue.take(&mut buffer, soon()).unwrap();
    assert!(
        taken
            .blob
            .as_deref()
            .is_some_and(|bytes| bytes.len() == 2 << 20 && bytes.iter().all(|byte| *byte == 3))
    );
    drop(taken);
    assert_eq!(arena.objects(), before.0);
    // The message's pages are kept for the next one.
    assert!(arena.allocated() <= before.1 + (2 << 20) + (64 << 10), "tables may have grown by some pages");
    drop(queue);
    assert!(arena.allocated() <= before.1 + (64 << 10));
}

#[test]
fn more_memory_than_there_is_is_an_error() {
    let arena = Arena::create(1).unwrap();
    let error = Blob::new(arena, 1 << 42, |_| {}).map(|_| ()).unwrap_err();
    assert!(matches!(error, ArenaError::Os(_)), "{error}");
    assert!(matches!(arena.allocate(Kind::Memory, u64::MAX / 2, 0), Err(ArenaError::TooLong { .. })));
    assert!(matches!(arena.allocate(Kind::Memory, u64::MAX, 0), Err(ArenaError::TooLong { .. })));
    assert!(arena.allocate(Kind::Memory, 1 << 44, 0).is_err());
    assert_eq!(arena.objects(), 0);
    assert!(Blob::new(arena, 1 << 20, |_| {}).is_ok());
}

#[test]
fn before_a_fork_nothing_goes_until_the_child_has_what_it_inherits() {
    let arena = Arena::create(1).unwrap();
    let make = || Handle::<Guarded>::new(arena, 0, 0).unwrap();
    let before = make();
    let frozen = (arena.freeze().unwrap(), arena.freeze().unwrap());
    let since = make();
    drop((before, since));
    assert_eq!(arena.objects(), 2, "a fork in this instant has copies of both");
    drop(frozen.0);
    assert_eq!(arena.objects(), 2, "there is another fork");
    drop(frozen.1);
    assert_eq!(arena.objects(), 0);
}
