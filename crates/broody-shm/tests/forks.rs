//! An arena in forks, and in processes that lack something: descriptors, address space.

use std::os::fd::AsFd;
use std::time::Duration;

use broody_os::fork::{self, Fork};
use broody_os::limits::{self, DescriptorLimit};
use broody_os::pidfd::PidFd;
use broody_os::wait::{ExitStatus, Reaped};
use broody_os::{Pid, events, signals, wait};
use broody_shm::arena::Arena;
use broody_shm::handle::Handle;
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
    while !lock.is_locked() {
        std::thread::sleep(Duration::from_millis(1));
    }
    holder
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
