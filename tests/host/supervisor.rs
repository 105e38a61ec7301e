//! The supervisor dies, or is sent what a terminal sends.

use broody::{Error, ExitStatus, Pool, Process, StartMethod, State};
use broody_os::{fork, signals};
use broody_tests::{Identity, eventually};

use crate::family::idle;

fn double(x: u32) -> u32 {
    x * 2
}

pub fn is_killed() {
    let supervised = [StartMethod::Forkserver, StartMethod::Spawn]
        .map(|method| Process::builder().start_method(method).spawn(idle, ()).unwrap());
    let forked = Process::builder().start_method(StartMethod::Fork).daemon(true).spawn(idle, ()).unwrap();
    let waiter = {
        let child = supervised[0].clone();
        std::thread::spawn(move || child.join())
    };
    let old = broody_tests::supervisor().unwrap();
    let identities: Vec<_> = supervised.iter().map(|child| Identity::of(child.pid()).unwrap()).collect();
    fork::kill_child(old, signals::SIGKILL).unwrap();

    assert!(matches!(waiter.join().unwrap(), Err(Error::SupervisorLost { pid }) if pid == old));
    for child in &supervised {
        assert!(matches!(child.join(), Err(Error::SupervisorLost { .. })));
        assert_eq!(child.exit_status(), Some(ExitStatus::Signal(signals::SIGKILL)));
    }
    eventually("the children of a dead supervisor are gone", || identities.iter().all(|one| one.is_gone()));
    eventually("the dead supervisor is reaped", || broody_os::proc::stat(old).unwrap().is_none());

    // The next start works, by each method; the forked child has lost nothing, and the new supervisor knows it.
    for method in [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork] {
        assert_eq!(Process::builder().start_method(method).spawn(double, 21).unwrap().join().unwrap(), 42);
    }
    assert_ne!(broody_tests::supervisor().unwrap(), old);
    assert!(forked.is_alive());
}

pub fn is_killed_under_a_pool() {
    let pool = Pool::builder().workers(2).build().unwrap();
    assert_eq!(pool.map(double, 0..100).unwrap().len(), 100);
    let running = pool.apply_async(idle, ()).unwrap();
    let waiting: Vec<_> = (0..50).map(|x| pool.apply_async(double, x).unwrap()).collect();
    // It is running when nothing else is left.
    waiting.iter().for_each(|result| drop(result.get()));
    for _ in 0..5 {
        fork::kill_child(broody_tests::supervisor().unwrap(), signals::SIGKILL).unwrap();
        assert_eq!(pool.map(double, 0..1000).unwrap_or_default().len() % 1000, 0);
        eventually("the pool works again", || pool.apply(double, 4).is_ok_and(|result| result == 8));
    }
    assert!(matches!(running.get(), Err(Error::WorkerLost { .. })));
}

pub fn shrugs_at_signals() {
    let child = broody::spawn(idle, ()).unwrap();
    let supervisor = broody_tests::supervisor().unwrap();
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGTSTP,
        libc::SIGUSR1,
        libc::SIGPIPE,
    ] {
        fork::kill_child(supervisor, signal).unwrap();
    }
    assert_eq!(broody::spawn(double, 4).unwrap().join().unwrap(), 8);
    assert!(child.is_alive());
    assert_eq!(broody_tests::supervisor().unwrap(), supervisor);
    child.kill().unwrap();
}

/// Nobody reaps while it is stopped: a child that has ended is a zombie, and is said to be one.
pub fn is_stopped() {
    let child = broody::spawn(idle, ()).unwrap();
    let supervisor = broody_tests::supervisor().unwrap();
    fork::kill_child(supervisor, signals::SIGSTOP).unwrap();
    child.kill().unwrap();
    eventually("it is a zombie", || child.state() == Some(State::Zombie));
    assert!(!child.is_alive());
    assert!(
        child.join_timeout(std::time::Duration::from_millis(10)).unwrap().is_none(),
        "how it ended is not known yet"
    );
    fork::kill_child(supervisor, signals::SIGCONT).unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signals::SIGKILL));
    assert_eq!(child.state(), None);
}
