//! The supervisor dies.

use broody_tests::{Identity, Program, check, eventually};

use crate::HOST;

#[test]
fn a_killed_supervisor_takes_its_children_with_it_and_is_replaced() {
    check(HOST, &["supervisor-killed"]);
}

#[test]
fn a_pool_survives_its_supervisor() {
    check(HOST, &["supervisor-killed-under-a-pool"]);
}

#[test]
fn signals_to_the_whole_program_do_not_end_the_supervisor() {
    check(HOST, &["supervisor-signalled"]);
}

#[test]
fn a_stopped_supervisor_leaves_a_zombie_that_is_called_one_and_reaps_it_later() {
    check(HOST, &["supervisor-stopped"]);
}

#[test]
fn a_killed_supervisor_takes_the_forks_of_its_children_with_it() {
    let mut host = Program::start(HOST, &["forked-below"]);
    let below: Vec<_> = host.pids().into_iter().map(Identity::of).collect();
    eventually("they are gone", || below.iter().flatten().all(|one| one.is_gone()));
    host.proceed();
    assert!(host.end().success());
}
