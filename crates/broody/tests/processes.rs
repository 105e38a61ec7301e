//! Processes seen from outside: results, errors, handles.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use broody_os::{fork, signals};

use broody::{Error, ExitStatus, Process, StartMethod, State};

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

fn builder(method: StartMethod) -> broody::Builder {
    Process::builder().start_method(method)
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come about in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn sleep_for_ever(_: ()) {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_function_runs_in_another_process_and_gives_its_result() {
    fn count_words(text: String) -> (u32, BTreeMap<String, u32>) {
        let mut counts = BTreeMap::new();
        for word in text.split_whitespace() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
        (std::process::id(), counts)
    }
    for method in METHODS {
        let child = builder(method).spawn(count_words, "to be or not to be".to_owned()).unwrap();
        let (pid, counts) = child.join().unwrap();
        assert_eq!(pid, child.pid() as u32);
        assert_ne!(pid, std::process::id());
        assert_eq!(counts["to"], 2);
        assert_eq!(child.start_method(), method);
        assert_eq!(child.exit_status(), Some(ExitStatus::Code(0)));
        assert!(!child.is_alive());
        assert!(child.resource_usage().unwrap().peak_memory > 0);
    }
}

#[test]
fn a_long_argument_and_a_long_result_cross() {
    let long: Vec<u64> = (0..1_000_000).collect();
    for method in METHODS {
        let child =
            builder(method).spawn(|list: Vec<u64>| list.into_iter().rev().collect::<Vec<_>>(), long.clone());
        let back = child.unwrap().join().unwrap();
        assert_eq!(back.len(), long.len());
        assert_eq!(back[0], 999_999);
    }
}

#[test]
fn a_fork_may_capture() {
    let words = ["own", "memory"];
    let child = broody::fork(|| words.join(" ")).unwrap();
    assert_eq!(child.join().unwrap(), "own memory");
}

#[test]
fn join_gives_the_same_answer_again_and_from_every_thread() {
    let child = broody::spawn(
        |x: u32| {
            std::thread::sleep(Duration::from_millis(20));
            x + 1
        },
        1,
    )
    .unwrap();
    std::thread::scope(|scope| {
        let joiners: Vec<_> = (0..8).map(|_| scope.spawn(|| child.join().unwrap())).collect();
        for joiner in joiners {
            assert_eq!(joiner.join().unwrap(), 2);
        }
    });
    assert_eq!(child.join().unwrap(), 2);
    assert_eq!(child.try_join().unwrap(), Some(2));
}

#[test]
fn join_with_a_limit_says_that_it_is_not_over() {
    for method in METHODS {
        let child = builder(method).spawn(sleep_for_ever, ()).unwrap();
        assert!(child.try_join().unwrap().is_none());
        assert!(child.join_timeout(Duration::from_millis(10)).unwrap().is_none());
        assert!(child.is_alive());
        assert!(child.exit_status().is_none());
        assert!(child.resource_usage().is_none());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap(), ExitStatus::Signal(libc::SIGKILL));
    }
}

#[test]
fn a_panic_arrives_with_its_message_and_stack() {
    fn divide(by: u32) -> u32 {
        assert!(by != 0, "cannot divide by {by}");
        1 / by
    }
    for method in METHODS {
        let child = builder(method).spawn(divide, 0).unwrap();
        match child.join().unwrap_err() {
            Error::Panicked { function, pid, message, backtrace } => {
                assert!(message.starts_with("cannot divide by 0, at "), "{message}");
                assert!(message.contains("processes.rs"), "{message}");
                assert!(method == StartMethod::Fork || function.contains("divide"), "{function}");
                assert_eq!(pid, child.pid());
                assert!(backtrace.contains("divide"), "{backtrace}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(child.exit_status(), Some(ExitStatus::Code(101)));
    }
}

#[test]
fn exits_and_signals_arrive_as_what_they_are() {
    fn end(how: u8) {
        match how {
            0 => std::process::exit(3),
            1 => std::process::abort(),
            2 => {
                // Rust's own handler would look for a stack overflow first.
                signals::set_disposition(libc::SIGSEGV, signals::Disposition::Default);
                fork::kill_child(fork::pid(), libc::SIGSEGV).unwrap();
            }
            _ => {
                fork::kill_child(fork::pid(), libc::SIGKILL).unwrap();
            }
        }
    }
    let expected = [
        ExitStatus::Code(3),
        ExitStatus::Signal(libc::SIGABRT),
        ExitStatus::Signal(libc::SIGSEGV),
        ExitStatus::Signal(libc::SIGKILL),
    ];
    for method in METHODS {
        for (how, wanted) in (0..).zip(expected) {
            let child = builder(method).spawn(end, how).unwrap();
            match child.join().unwrap_err() {
                Error::Ended { pid, status, .. } => assert_eq!((pid, status), (child.pid(), wanted)),
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn terminate_interrupt_and_kill_end_a_process() {
    for method in METHODS {
        type Way = fn(&Process) -> broody::Result<()>;
        let ways: [(Way, i32); 3] = [
            (Process::terminate, libc::SIGTERM),
            (Process::interrupt, libc::SIGINT),
            (Process::kill, libc::SIGKILL),
        ];
        for (way, signal) in ways {
            let child = builder(method).spawn(sleep_for_ever, ()).unwrap();
            way(&child).unwrap();
            assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signal), "{method:?}");
            // It is over: no error, and nobody else is hit.
            way(&child).unwrap();
        }
    }
}

#[test]
fn the_sentinel_becomes_readable_at_the_end() {
    for method in METHODS {
        let child = builder(method).spawn(sleep_for_ever, ()).unwrap();
        assert!(!broody_os::events::is_readable(child.sentinel()).unwrap());
        child.kill().unwrap();
        let end = Some(Instant::now() + PATIENCE);
        assert_eq!(broody_os::events::poll(&[child.as_fd()], end).unwrap(), [true]);
    }
}

#[test]
fn the_state_of_a_process_is_told_in_the_textbooks_words() {
    fn spin(_: ()) {
        loop {
            std::hint::spin_loop();
        }
    }
    for method in METHODS {
        let blocked = builder(method).spawn(sleep_for_ever, ()).unwrap();
        eventually("a sleeper is blocked", || blocked.state() == Some(State::Blocked));
        fork::kill_child(blocked.pid(), libc::SIGSTOP).unwrap();
        eventually("a stopped process is stopped", || blocked.state() == Some(State::Stopped));
        blocked.kill().unwrap();
        blocked.wait().unwrap();
        assert_eq!(blocked.state(), None);

        let busy = builder(method).spawn(spin, ()).unwrap();
        eventually("a spinner runs", || busy.state() == Some(State::Running));
        busy.kill().unwrap();
        busy.wait().unwrap();
    }
}

#[test]
fn names_are_given_or_numbered() {
    fn names(_: ()) -> (String, Option<String>, String) {
        let nested = broody::spawn(|_: ()| broody::current_process().name().to_owned(), ()).unwrap();
        let parent = broody::parent_process().map(|parent| parent.name().to_owned());
        (broody::current_process().name().to_owned(), parent, nested.join().unwrap())
    }
    for method in METHODS {
        let child = builder(method).name("counter").daemon(true).spawn(names, ()).unwrap();
        assert_eq!(child.name(), "counter");
        assert!(child.is_daemon());
        assert_eq!(child.join().unwrap(), ("counter".into(), Some("main".into()), "counter:1".into()));
        let numbered = builder(method).spawn(names, ()).unwrap();
        assert!(numbered.name().starts_with("Process-"));
        assert_eq!(numbered.join().unwrap().2, format!("{}:1", numbered.name()));
    }
}

#[test]
fn a_child_knows_its_parent() {
    fn parent(_: ()) -> (i32, bool) {
        let parent = broody::parent_process().unwrap();
        assert!(!broody_os::events::is_readable(parent.sentinel().unwrap()).unwrap());
        (parent.pid(), parent.is_alive())
    }
    assert!(broody::parent_process().is_none());
    for method in METHODS {
        let child = builder(method).spawn(parent, ()).unwrap();
        assert_eq!(child.join().unwrap(), (std::process::id() as i32, true));
    }
}

#[test]
fn active_children_are_those_that_have_not_ended() {
    let child = builder(StartMethod::Forkserver).name("the active one").spawn(sleep_for_ever, ()).unwrap();
    let is_listed = || broody::active_children().iter().any(|other| other.pid() == child.pid());
    assert!(is_listed());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!is_listed());
}

#[test]
fn children_start_children_and_those_too() {
    fn nest(depth: u32) -> u32 {
        if depth == 0 { 0 } else { 1 + broody::spawn(nest, depth - 1).unwrap().join().unwrap() }
    }
    for method in METHODS {
        assert_eq!(builder(method).spawn(nest, 4).unwrap().join().unwrap(), 4);
    }
}

#[test]
fn a_prepared_process_can_be_started_again_and_again() {
    let prepared = Process::builder().prepare(|x: u32| x * 2, 21).unwrap();
    let children: Vec<_> = (0..5).map(|_| prepared.start().unwrap()).collect();
    assert!(children.iter().all(|child| child.join().unwrap() == 42));
}
