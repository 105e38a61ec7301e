//! Nothing is left behind.

use broody_tests::{METHODS, check};

use crate::HOST;

#[test]
fn a_thousand_starts_leave_nothing_behind() {
    for method in METHODS {
        check(HOST, &["thousand", method]);
    }
}

#[test]
fn pools_leave_nothing_behind() {
    check(HOST, &["pools"]);
}
