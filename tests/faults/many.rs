//! Very many shared objects at once, and very many waits.

use broody_tests::check;

use crate::HOST;

#[test]
fn ten_thousand_locks_and_a_thousand_queues_take_no_descriptors_and_no_names_and_leave_no_memory() {
    check(HOST, &["memory", "many"]);
}

#[test]
fn nobody_sleeps_through_his_wake() {
    check(HOST, &["memory", "wakes"]);
}
