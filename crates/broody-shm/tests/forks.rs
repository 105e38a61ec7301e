//! An arena in forks, and in processes that lack something: descriptors, address space.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::Duration;

use broody_os::fork::{self, Fork};
use broody_os::limits::{self, DescriptorLimit};
use broody_os::pidfd::PidFd;
use broody_os::wait::{ExitStatus, Reaped};
use broody_os::{Pid, events, proc, signals, wait};
use broody_shm::ArenaError;
use broody_shm::arena::{Arena, Kind};
use broody_shm::handle::Handle;
use broody_shm::queue::{Limits, Message, Queue, QueueError};
use broody_shm::robust::guarded::Guarded;
use broody_shm::sync::Deadline;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Starts `work` in a fork, which ends with code 0 if it returns.
fn start(work: impl FnOnce()) -> Pid {
    // SAFETY: the child uses only what its test made, and libc's own locks.
    match unsafe { fork::fork() }.unwrap() {
        Fork::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            fork::exit_now(done.is_err().into())
        }
        Fork::Parent(pid) => pid,
    }
}

/// Waits for the end of a fork.
fn end(pid: Pid) -> ExitStatus {
    let pidfd = PidFd::open(pid).unwrap();
    events::poll(&[pidfd.as_fd()], None).unwrap();
    match wait::reap_pid(pid).unwrap() {
        Reaped::Ended(status, _) => status,
        other => panic!("{other:?}"),
    }
}

/// Runs `work` in a fork, which must return there.
fn in_fork(work: impl FnOnce()) {
    assert_eq!(end(start(work)), ExitStatus::Code(0), "see above");
}

/// Starts a process that holds `lock`, and lives.
fn start_holder(lock: &Handle<Guarded>) -> Pid {
    let holder = start(|| {
        lock.acquire(soon()).unwrap().unwrap();
        loop {
            std::thread::park();
        }
    });
    await_locked(lock);
    holder
}

fn await_locked(lock: &Handle<Guarded>) {
    while !lock.is_locked() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nobody_is_taken_for_dead_for_want_of_descriptors() {
    let arena = Arena::create(1).unwrap();
    let lock = Handle::<Guarded>::new(arena, 0, 0).unwrap();
    let holder = start_holder(&lock);
    let no_descriptors = || limits::set_descriptors(&DescriptorLimit { current: Some(0), maximum: Some(0) });
    in_fork(|| {
        no_descriptors();
        assert!(!arena.recover_process(holder, soon()), "nothing can be known of it");
        assert!(lock.is_locked());
        // Longer than the time after which a waiter looks whether the holder lives.
        assert!(lock.acquire(Deadline::after(Duration::from_millis(1500))).unwrap().is_none());
    });
    fork::kill_child(holder, signals::SIGKILL).unwrap();
    end(holder);
    in_fork(|| {
        no_descriptors();
        assert!(arena.recover_process(holder, soon()), "that it is gone is known without");
        assert!(lock.acquire(soon()).unwrap().unwrap().owner_died);
    });
}

#[test]
fn what_a_fork_has_used_is_kept_for_its_own_forks() {
    let arena = Arena::create(1).unwrap();
    let new = || Handle::<Guarded>::new(arena, 0, 0).unwrap();
    let (inherited, dropped, adopted, alone) = (RefCell::new(Some(new())), new(), new(), new());
    let lock = || inherited.borrow().clone().unwrap();
    let fork = start(|| {
        // It knows nothing of arenas: its copy gets a hold when it is used.
        assert!(lock().acquire(soon()).unwrap().is_some());
        await_locked(&dropped);
        assert!(lock().release().unwrap());
        let frozen = RefCell::new(arena.freeze().ok());
        let grandchild = start(|| {
            frozen.take().unwrap().adopt().unwrap();
            assert!(adopted.acquire(soon()).unwrap().is_some());
            await_locked(&alone);
            assert!(lock().acquire(soon()).unwrap().is_some());
        });
        await_locked(&adopted);
        drop((frozen.take(), inherited.take()));
        assert!(alone.acquire(soon()).unwrap().is_some());
        assert_eq!(end(grandchild), ExitStatus::Code(0));
    });
    await_locked(&lock());
    drop(inherited.take());
    assert!(dropped.acquire(soon()).unwrap().is_some());
    assert_eq!(end(fork), ExitStatus::Code(0));
}

#[test]
fn a_handle_for_which_there_is_no_address_space_leaves_no_hold() {
    let arena = Arena::create(1).unwrap();
    in_fork(|| {
        let held = arena.allocate(Kind::Memory, 64 << 20, 0).unwrap();
        let (name, sent) = (held.name(), held.send().unwrap());
        // Another user of the arena, as another process would be.
        let other = Arena::open(arena.descriptor().try_clone_to_owned().unwrap()).unwrap();
        let before = set_address_space(0);
        let (received, made) = (other.receive(name, sent), other.allocate(Kind::Memory, 1 << 20, 0));
        set_address_space(before);
        assert!(matches!(received, Err(ArenaError::Os(_))), "{received:?}");
        assert!(matches!(made, Err(ArenaError::Os(_))), "{made:?}");
        drop(held);
        assert_eq!(arena.objects(), 0);
    });
}

#[test]
fn who_reserves_many_pages_keeps_nobody_up() {
    const LONG: u64 = 1 << 30;
    let arena = Arena::create(1).unwrap();
    let held = arena.allocate(Kind::Memory, 8, 0).unwrap();
    let before = arena.allocated();
    // Until it is caught in the middle: the kernel takes 0.1 s and more for so many.
    let reserving = loop {
        let fork = start(|| {
            let _held = arena.allocate(Kind::Memory, LONG, 0).unwrap();
            loop {
                std::thread::park();
            }
        });
        while arena.allocated() < before + LONG / 10 {
            std::thread::yield_now();
        }
        fork::kill_child(fork, signals::SIGSTOP).unwrap();
        while proc::stat(fork).unwrap().is_some_and(|stat| stat.letter != 'T') {
            std::thread::yield_now();
        }
        if arena.objects() == 1 {
            break fork;
        }
        fork::kill_child(fork, signals::SIGKILL).unwrap();
        end_and_recover(arena, fork);
    };
    let other = arena.allocate(Kind::Memory, 8, 0).unwrap();
    let long = arena.allocate(Kind::Memory, LONG / 2 + 1, 0).unwrap();
    assert_eq!(arena.objects(), 3);
    // A recovery is made meanwhile, too.
    let lock = Handle::<Guarded>::new(arena, 0, 0).unwrap();
    let holder = start_holder(&lock);
    fork::kill_child(holder, signals::SIGKILL).unwrap();
    end_and_recover(arena, holder);
    assert!(lock.acquire(soon()).unwrap().unwrap().owner_died);
    assert!(lock.release().unwrap());

    fork::kill_child(reserving, signals::SIGKILL).unwrap();
    end_and_recover(arena, reserving);
    drop((other, long, lock));
    assert_eq!(arena.objects(), 1);
    assert!(arena.allocated() <= before + (64 << 10), "{} bytes are left of {before}", arena.allocated());
    drop(held);
}

/// Waits for the end of a fork, and puts right what it has left.
fn end_and_recover(arena: &Arena, pid: Pid) {
    end(pid);
    assert!(arena.recover_all(soon()));
}

/// Limits this process's address space; gives the limit before.
fn set_address_space(limit: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives through both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &mut before), 0);
        let now = libc::rlimit { rlim_cur: limit, ..before };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &now), 0);
    }
    before.rlim_cur
}

#[test]
fn a_long_message_for_which_there_is_no_address_space_stays_where_it_is() {
    let arena = Arena::create(1).unwrap();
    let queue = Queue::new(arena, Limits::default(), 0, false).unwrap();
    let long = vec![7; 1 << 20];
    for bytes in [&b"first"[..], &long] {
        queue.put(Message { bytes, holds: &[] }, Deadline::Now).unwrap();
    }
    in_fork(|| {
        let take = || queue.take_many(2, soon(), |_, _| {});
        // What is needed in any case is mapped.
        assert_eq!(queue.len(), 2);
        queue.put(Message { bytes: b"last", holds: &[] }, Deadline::Now).unwrap();
        queue.take_many(1, soon(), |bytes, _| assert_eq!(bytes, b"first")).unwrap();
        let before = set_address_space(0);
        let taken = take();
        set_address_space(before);
        assert!(matches!(taken, Err(QueueError::Arena(ArenaError::Os(_)))), "{taken:?}");
        assert_eq!(take().unwrap(), 2);
    });
}
