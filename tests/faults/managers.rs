//! Managers, when their program, their supervisor or their callers die.

use std::time::Duration;

use broody_os::signals;
use broody_tests::{Identity, Program, check, within};

use crate::HOST;

#[test]
fn a_manager_in_the_middle_of_a_call_dies_with_its_program() {
    for signal in [signals::SIGKILL, signals::SIGTERM] {
        let mut host = Program::start(HOST, &["manager"]);
        let family: Vec<_> = host.pids().into_iter().map(|pid| Identity::of(pid).unwrap()).collect();
        assert_eq!(family.len(), 2);
        host.signal(signal);
        host.end();
        within(Duration::from_secs(1), "everyone is gone", || family.iter().all(|one| one.is_gone()));
    }
}

#[test]
fn an_exit_ends_a_manager_in_the_middle_of_a_call() {
    let mut host = Program::start(HOST, &["manager"]);
    let pids = host.pids();
    let [manager, caller] = pids[..] else { panic!("two processes") };
    let manager = Identity::of(manager).unwrap();
    // The exit would wait for it.
    broody_os::fork::kill_child(caller, signals::SIGKILL).unwrap();
    host.proceed();
    assert!(host.end().success());
    within(Duration::from_secs(10), "it is gone", || manager.is_gone());
}

#[test]
fn a_manager_that_goes_with_its_supervisor_is_an_error_and_the_next_one_serves() {
    check(HOST, &["manager-without-supervisor"]);
}

#[test]
fn callers_that_abort_leave_nothing_in_a_manager() {
    check(HOST, &["manager-callers"]);
}
