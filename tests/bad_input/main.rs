//! Wrong input and missing means: an error that names the cause and the remedy, no hang, nothing left behind.
//!
//! A closure that captures is refused by the compiler: see the documentation of `broody::spawn`, whose example is a test.

use broody::{Error, Process, StartMethod};
use broody_tests::{METHODS, Program, check, method};
use serde::{Deserialize, Serialize, Serializer};

const HOST: &str = env!("CARGO_BIN_EXE_host");
const NO_INIT: &str = env!("CARGO_BIN_EXE_no-init");

/// Cannot be encoded.
#[derive(Debug, Clone, Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is stubborn"))
    }
}

/// Is encoded as a number, and cannot be decoded.
#[derive(Debug, Clone, Copy)]
struct OneWay;

impl Serialize for OneWay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(7)
    }
}

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer)?;
        Err(serde::de::Error::custom("it goes one way"))
    }
}

fn program_says(path: &str, arguments: &[&str]) -> String {
    let mut program = Program::start(path, arguments);
    let line = program.line();
    assert!(program.end().success());
    line
}

#[test]
fn a_program_without_init_is_told_to_call_it() {
    let said = program_says(NO_INIT, &[]);
    assert!(said.contains("call broody::init() as the first line of main"), "{said}");
}

#[test]
fn a_program_that_calls_init_after_starting_a_thread_is_told_so() {
    let said = program_says(NO_INIT, &["late"]);
    assert!(said.contains("found 2 threads"), "{said}");
}

#[test]
fn an_argument_that_cannot_be_encoded_is_refused_before_the_start() {
    for name in ["forkserver", "spawn"] {
        let start = Process::builder().start_method(method(name)).spawn(|_: Stubborn| (), Stubborn);
        match start.map(drop) {
            Err(Error::Encode { what: "the argument", function, .. }) => {
                assert!(function.contains("closure"))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_result_that_cannot_be_encoded_is_an_error_of_join() {
    for name in METHODS {
        let child = Process::builder().start_method(method(name)).spawn(|_: ()| Stubborn, ()).unwrap();
        assert!(matches!(child.join(), Err(Error::Encode { what: "the result", .. })));
        assert!(child.exit_status().unwrap().success());
    }
}

#[test]
fn what_cannot_be_decoded_is_an_error_that_says_which_side() {
    for name in ["forkserver", "spawn"] {
        let child = Process::builder().start_method(method(name)).spawn(|_: OneWay| (), OneWay).unwrap();
        assert!(matches!(child.join(), Err(Error::Decode { what: "the argument", .. })));
    }
    for name in METHODS {
        let child = Process::builder().start_method(method(name)).spawn(|_: ()| OneWay, ()).unwrap();
        assert!(matches!(child.join(), Err(Error::Decode { what: "the result", .. })));
    }
}

#[test]
fn in_a_pool_what_does_not_cross_fails_its_task_only() {
    let pool = broody::Pool::builder().workers(1).build().unwrap();
    assert!(matches!(
        pool.map(|_: Stubborn| (), [Stubborn]),
        Err(Error::Encode { what: "the argument", .. })
    ));
    assert!(matches!(pool.apply(|_: ()| Stubborn, ()), Err(Error::Encode { what: "the result", .. })));
    assert!(matches!(pool.apply(|_: OneWay| (), OneWay), Err(Error::Decode { what: "the argument", .. })));
    assert!(matches!(pool.apply(|_: ()| OneWay, ()), Err(Error::Decode { what: "the result", .. })));
    let stubborn = pool.imap(|_: Stubborn| 1, vec![Stubborn; 3]).unwrap();
    assert_eq!(stubborn.filter(|result| matches!(result, Err(Error::Encode { .. }))).count(), 3);
    assert_eq!(pool.apply(|x: u32| x + 1, 1).unwrap(), 2);
}

#[test]
fn a_name_that_cannot_be_one_is_refused() {
    for name in [String::new(), "x".repeat(256), "a\0b".to_owned()] {
        let start = Process::builder().name(name).spawn(|_: ()| (), ());
        assert!(matches!(start.map(drop), Err(Error::Invalid { .. })));
    }
}

#[test]
fn a_fork_cannot_be_prepared() {
    let prepared = Process::builder().start_method(StartMethod::Fork).prepare(|_: ()| (), ());
    assert!(matches!(prepared.map(drop), Err(Error::Invalid { .. })));
}

#[test]
fn a_supervisor_of_another_build_is_refused() {
    let said = program_says(HOST, &["executable", "other-build"]);
    assert!(said.contains("another build"), "{said}");
}

#[test]
fn a_supervisor_that_is_no_broody_program_is_refused() {
    for path in ["/bin/true", "/no/such/program", "/etc/passwd"] {
        let said = program_says(HOST, &["executable", path]);
        assert!(said.contains(path), "{said}");
    }
}

#[test]
fn the_limit_of_processes_is_an_error_that_names_it() {
    check(HOST, &["process-limit"]);
}

#[test]
fn the_limit_of_descriptors_is_an_error_that_names_it() {
    check(HOST, &["descriptor-limit-at-first"]);
    check(HOST, &["descriptor-limit"]);
}

#[test]
fn a_kernel_without_a_call_is_an_error_that_names_it() {
    for call in ["pidfd_open", "pidfd_send_signal", "memfd_create"] {
        check(HOST, &["without", call]);
    }
}

#[test]
fn a_pool_that_finds_no_memory_leaves_no_worker() {
    check(HOST, &["memory-limit"]);
}
