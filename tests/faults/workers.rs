//! Workers are killed at random instants.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use broody_tests::{Identity, check, eventually};
use rustix::process::{Pid, Signal, kill_process_group};

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

#[test]
fn after_ctrl_c_nobody_complains_and_nobody_is_left() {
    let mut host = Command::new(HOST)
        .arg("pool-busy")
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let workers: Vec<Identity> =
        line.split_whitespace().map(|pid| Identity::of(pid.parse().unwrap()).unwrap()).collect();
    assert_eq!(workers.len(), 2);
    // As a terminal does: to all of the group.
    kill_process_group(Pid::from_child(&host), Signal::INT).unwrap();
    assert_eq!(host.wait().unwrap().signal(), Some(libc::SIGINT));
    eventually("the end of the workers", || workers.iter().all(|worker| worker.is_gone()));
    let mut said = String::new();
    host.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
