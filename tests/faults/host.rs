//! The host dies: nothing of its program is left a second later.

use std::time::Duration;

use broody_os::signals;
use broody_tests::{Identity, METHODS, Program, eventually, within};

use crate::HOST;

/// Far more than is promised (100 ms), for loaded machines.
const SECOND: Duration = Duration::from_secs(1);

fn identities(pids: Vec<i32>) -> Vec<Identity> {
    let identities: Vec<_> = pids.iter().filter_map(|pid| Identity::of(*pid)).collect();
    assert_eq!(identities.len(), pids.len(), "somebody is missing: {pids:?}");
    identities
}

fn everyone_goes(family: &[Identity]) {
    within(SECOND, "everyone is gone", || family.iter().all(|one| one.is_gone()));
}

#[test]
fn a_killed_host_leaves_nobody() {
    for method in METHODS {
        for signal in [signals::SIGKILL, signals::SIGTERM] {
            let mut host = Program::start(HOST, &["family", method, "killed"]);
            let family = identities(host.pids());
            host.signal(signal);
            host.end();
            everyone_goes(&family);
        }
    }
}

#[test]
fn a_host_that_exits_at_once_leaves_nobody() {
    for method in METHODS {
        let mut host = Program::start(HOST, &["family", method, "exits"]);
        let family = identities(host.pids());
        host.proceed();
        host.end();
        everyone_goes(&family);
    }
}

#[test]
fn a_host_without_its_main_thread_keeps_its_children_until_it_ends() {
    for method in METHODS {
        let mut host = Program::start(HOST, &["family", method, "main-thread-gone"]);
        let family = identities(host.pids());
        host.proceed();
        assert_eq!(host.line(), "gone");
        assert!(family.iter().all(|one| !one.is_gone()), "{method}: nobody depends on a thread");
        host.proceed();
        host.end();
        everyone_goes(&family);
    }
}

#[test]
fn a_killed_host_leaves_no_pool() {
    let mut host = Program::start(HOST, &["pool-idle"]);
    let family = identities(host.pids());
    host.signal(signals::SIGKILL);
    host.end();
    everyone_goes(&family);
}

#[test]
fn a_stopped_host_that_is_killed_leaves_nobody() {
    let mut host = Program::start(HOST, &["family", "forkserver", "killed"]);
    let family = identities(host.pids());
    host.signal(signals::SIGSTOP);
    host.signal(signals::SIGKILL);
    host.end();
    everyone_goes(&family);
}

#[test]
fn an_orderly_exit_joins_children_ends_daemons_and_runs_exit_functions_in_order() {
    for method in METHODS {
        let mut host = Program::start(HOST, &["exit", method]);
        let family = identities(host.pids());
        host.proceed();
        let lines: Vec<String> =
            std::iter::from_fn(|| Some(host.line()).filter(|line| !line.is_empty())).collect();
        assert_eq!(lines[..2], ["first, first", "first, second"]);
        assert_eq!(lines[2..4], ["child: done", "child: exit function"]);
        assert_eq!(lines[4..], ["last; daemon there: false"]);
        assert!(host.end().success());
        everyone_goes(&family);
    }
}

#[test]
fn a_pool_that_nobody_dropped_ends_with_the_program() {
    let mut host = Program::start(HOST, &["pool-at-exit"]);
    let family = identities(host.pids());
    host.proceed();
    assert!(host.end().success());
    everyone_goes(&family);
}

#[test]
fn a_detached_child_lives_on_and_is_reaped() {
    for method in METHODS {
        for kill in [false, true] {
            let mut host = Program::start(HOST, &["detached", method]);
            let [kept, other] = identities(host.pids())[..] else { panic!("two children") };
            if kill {
                host.signal(signals::SIGKILL)
            } else {
                host.proceed()
            }
            host.end();
            within(SECOND, "the other one is gone", || other.is_gone());
            assert!(!kept.is_gone(), "{method}: it was detached");
            let _ = broody_os::fork::kill_child(kept.pid, signals::SIGKILL);
            eventually("it is reaped", || kept.is_gone());
        }
    }
}

#[test]
fn what_a_detached_child_has_started_lives_as_long_as_it_does() {
    let mut host = Program::start(HOST, &["detached-with-family"]);
    let family = identities(host.pids());
    host.proceed();
    assert!(host.end().success());
    assert!(family.iter().all(|one| !one.is_gone()), "it was detached");
    assert!(broody_os::fork::kill_child(family[0].pid, signals::SIGKILL).unwrap());
    everyone_goes(&family);
}

#[test]
fn what_a_child_has_detached_outlives_the_child_and_the_program() {
    let mut host = Program::start(HOST, &["child-detaches"]);
    let [kept] = identities(host.pids())[..] else { panic!("one process") };
    host.proceed();
    assert!(host.end().success());
    assert!(!kept.is_gone());
    assert!(broody_os::fork::kill_child(kept.pid, signals::SIGKILL).unwrap());
    eventually("it is reaped", || kept.is_gone());
}
