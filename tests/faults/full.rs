//! Memory that is full is an error, and never a SIGBUS, a kill, or a hang.

use broody_tests::Program;

use crate::HOST;

fn run(scenario: &str) {
    let mut program = Program::start(HOST, &["full", scenario]);
    let line = program.line();
    let status = program.end();
    assert!(status.success(), "{scenario}: {status}, after {line:?}");
    if line == "skipped" {
        eprintln!("{scenario}: skipped, this machine does not let it be made");
    } else {
        assert!(line.starts_with("done"), "{line}");
    }
}

#[test]
fn a_full_address_space_is_an_error() {
    run("address-space");
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_processes_start_all_the_same() {
    run("file-size");
}

#[test]
fn long_arguments_and_results_without_a_place_fail_their_tasks_only() {
    run("pool");
}

#[test]
fn a_full_cgroup_is_an_error_and_not_the_oom_killer() {
    run("cgroup");
}

#[test]
fn a_full_dev_shm_is_an_error() {
    run("small-tmpfs");
}
