//! A host whose own code does with children what it likes.

use broody::{Error, ExitStatus, Process, StartMethod};
use broody_os::signals::{self, Disposition, SignalSet};

fn end(code: u8) -> u8 {
    match code {
        0..100 => std::process::exit(code.into()),
        other => other,
    }
}

/// Statuses and results are right; where the host's code reaps a forked child first, the status may be unknown on kernels that do
/// not keep it, but never wrong.
fn check(method: StartMethod, may_be_stolen: bool) {
    for round in 0..30u8 {
        let exits = Process::builder().start_method(method).spawn(end, round).unwrap();
        let returns = Process::builder().start_method(method).spawn(end, 100 + round).unwrap();
        match exits.join().unwrap_err() {
            Error::Ended { status: ExitStatus::Unknown, .. } => {
                assert!(may_be_stolen && method == StartMethod::Fork)
            }
            Error::Ended { status, .. } => assert_eq!(status, ExitStatus::Code(round)),
            other => panic!("{other}"),
        }
        assert_eq!(returns.join().unwrap(), 100 + round);
    }
}

pub fn sigchld(how: &str, method: StartMethod) {
    match how {
        "ignored" => assert!(signals::set_disposition(signals::SIGCHLD, Disposition::Ignore)),
        "blocked" => drop(SignalSet::all().block_exactly()),
        other => panic!("no such way: {other}"),
    }
    check(method, how == "ignored");
}

pub fn waits_for_everything(method: StartMethod) {
    std::thread::spawn(|| {
        loop {
            // SAFETY: waitpid takes any pid, and a null status.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        }
    });
    check(method, true);
}

pub fn forks_by_itself(method: StartMethod) {
    let child = Process::builder().start_method(method).daemon(true).spawn(crate::family::idle, ()).unwrap();
    let pool = broody::Pool::builder().workers(1).build().unwrap();
    for round in 0..10u8 {
        // SAFETY: the child uses broody, which is made for that, and its own memory; no other thread of this program holds a lock.
        let forked = unsafe { broody_os::fork::fork() }.unwrap();
        if forked == broody_os::fork::Fork::Child {
            // Handles are its parent's, and say so.
            let refused = matches!(child.join(), Err(Error::WrongProcess { .. }))
                && matches!(pool.apply(end, 200), Err(Error::WrongProcess { .. }));
            // It may start its own.
            let works = broody::spawn(end, 100 + round)
                .is_ok_and(|child| child.join().is_ok_and(|code| code == 100 + round));
            // An orderly exit ends its own children only.
            std::process::exit(if refused && works { 0 } else { 1 });
        }
        let broody_os::fork::Fork::Parent(pid) = forked else { unreachable!() };
        assert_eq!(Process::builder().start_method(method).spawn(end, 100).unwrap().join().unwrap(), 100);
        let mut status = 0;
        // SAFETY: the pid is our own unreaped child's, and the status is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0, "the fork of round {round}");
        assert!(child.is_alive());
        assert_eq!(pool.apply(end, 201).unwrap(), 201);
    }
}

/// Another thread is in the middle of a panic, or waits for input by C's means, while this one forks.
pub fn is_busy_elsewhere(how: &str) {
    match how {
        "panicking" => {
            assert_eq!(broody::fork(|| 1u8).unwrap().join().unwrap(), 1);
            std::panic::set_hook(Box::new(|_| std::thread::sleep(std::time::Duration::from_millis(300))));
            std::thread::spawn(|| panic!("on purpose"));
        }
        "reading" => {
            // SAFETY: getchar has no preconditions; the test never writes, so that it waits.
            std::thread::spawn(|| unsafe {
                unsafe extern "C" {
                    fn getchar() -> i32;
                }
                getchar()
            });
        }
        other => panic!("no such way: {other}"),
    }
    // Until the other thread is where it is to be: there is no event to wait for.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let child = broody::fork(|| 7u8).unwrap();
    let result = child.join_timeout(broody_tests::PATIENCE).unwrap();
    assert_eq!(result, Some(7));
    // The other thread may still wait: that is not to keep the program.
    broody_os::fork::exit_now(0);
}
