//! Workers are killed at random instants.

use std::time::{SystemTime, UNIX_EPOCH};

use broody_tests::check;

use crate::HOST;

/// Another one each time: the scenario prints it.
fn seed() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_nanos() as u64).to_string()
}

#[test]
fn every_task_of_killed_workers_ends_once() {
    check(HOST, &["workers-killed", "0", &seed()]);
}

#[test]
fn with_retries_every_task_has_its_result() {
    check(HOST, &["workers-killed", "1000", &seed()]);
}
