//! Children that end by themselves, and hosts that treat them badly.

use std::time::Duration;

use broody::{Error, ExitStatus, Process, StartMethod};
use broody_os::{environment, fork, proc, signals};
use broody_tests::{Identity, METHODS, check, eventually, method, within};

use crate::HOST;

fn exit_with(code: u8) {
    std::process::exit(code.into());
}

fn idle(_: ()) {
    loop {
        std::thread::park();
    }
}

#[test]
fn two_hundred_children_that_nobody_joins_are_reaped() {
    for name in METHODS {
        let start = || Process::builder().start_method(method(name));
        let children: Vec<_> = (0..200u8).map(|code| start().spawn(exit_with, code).unwrap()).collect();
        // Those that have ended are either gone or, for an instant, zombies.
        within(Duration::from_secs(1), "no zombie is left", || {
            children.iter().all(|child| {
                proc::stat(child.pid())
                    .unwrap()
                    .is_none_or(|stat| stat.parent != fork::pid() || stat.letter != 'Z')
            })
        });
        for (code, child) in (0..200).zip(&children) {
            match child.join().unwrap_err() {
                Error::Ended { pid, status, .. } => {
                    assert_eq!((pid, status), (child.pid(), ExitStatus::Code(code)))
                }
                other => panic!("{other}"),
            }
        }
        eventually("everyone is gone", || {
            children.iter().all(|child| proc::stat(child.pid()).unwrap().is_none())
        });
    }
}

#[test]
fn a_child_outlives_the_thread_that_started_it() {
    for name in METHODS {
        let start = move || Process::builder().start_method(method(name)).spawn(idle, ()).unwrap();
        let child = std::thread::spawn(start).join().unwrap();
        // The thread's end is what would do it: it is over, and there is nothing else to wait for.
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.is_alive(), "{name}");
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signals::SIGKILL));
    }
}

#[test]
fn what_a_killed_child_had_started_is_ended_too() {
    fn with_grandchild(path: String) {
        let mut grandchild = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let nested = broody::spawn(idle, ()).unwrap();
        std::fs::write(path, format!("{} {}", grandchild.id(), nested.pid())).unwrap();
        let _ = grandchild.wait();
    }
    for name in ["forkserver", "spawn"] {
        let path = std::env::temp_dir().join(format!("broody-nested-{}-{name}", std::process::id()));
        let argument = path.to_str().unwrap().to_owned();
        let child = Process::builder().start_method(method(name)).spawn(with_grandchild, argument).unwrap();
        let read = || -> Vec<Identity> {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.split_whitespace().filter_map(|pid| Identity::of(pid.parse().ok()?)).collect()
        };
        eventually("the grandchildren are there", || read().len() == 2);
        let grandchildren = read();
        child.kill().unwrap();
        within(Duration::from_secs(1), "they are gone", || grandchildren.iter().all(|one| one.is_gone()));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_host_that_ignores_or_blocks_sigchld_learns_every_status() {
    for name in METHODS {
        check(HOST, &["sigchld", "ignored", name]);
        check(HOST, &["sigchld", "blocked", name]);
    }
}

#[test]
fn a_host_that_waits_for_every_child_learns_every_status() {
    for name in METHODS {
        check(HOST, &["waitpid", name]);
    }
}

#[test]
fn a_host_may_fork_by_itself() {
    for name in METHODS {
        check(HOST, &["forks", name]);
    }
}

#[test]
fn a_fork_does_not_wait_for_what_other_threads_do() {
    check(HOST, &["busy-elsewhere", "panicking"]);
    check(HOST, &["busy-elsewhere", "reading"]);
}

/// What a child finds: standard streams, other descriptors, its signal mask and dispositions.
fn inventory(_: ()) -> (bool, Vec<i32>, bool) {
    let null = std::fs::metadata("/dev/null").unwrap();
    let is_null = {
        use std::os::unix::fs::MetadataExt;
        environment::descriptor_identity(0) == Some((null.dev(), null.ino()))
    };
    // The listing's own descriptor is among them, and closed by now.
    let mut open = proc::descriptors(fork::pid()).unwrap();
    open.retain(|fd| environment::descriptor_identity(*fd).is_some());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap().ends_with("0000000000000000");
    (is_null, open, mask)
}

#[test]
fn a_child_finds_null_as_its_input_no_foreign_descriptor_and_no_blocked_signal() {
    // Inheritable on purpose: not even that one may get through.
    // SAFETY: dup takes any descriptor; the copy is closed below.
    let leak = unsafe { libc::dup(2) };
    for name in METHODS {
        let before = signals::SignalSet::all().block_exactly();
        let child = Process::builder().start_method(method(name)).spawn(inventory, ());
        before.block_exactly();
        let (null, open, mask) = child.unwrap().join().unwrap();
        assert!(null && mask, "{name}: input from null {null}, empty mask {mask}");
        if method(name) != StartMethod::Fork {
            // Beside the streams: the socket to the supervisor, the program's shared memory, the channel to this process.
            assert_eq!(open, [0, 1, 2, 3, 4, 5], "{name}");
        }
    }
    // SAFETY: it is the copy from above, and nobody else's.
    unsafe { libc::close(leak) };
}

#[test]
fn a_child_has_the_working_directory_and_environment_of_its_start() {
    // In a process of its own, since both belong to the whole process.
    fn changes(_: ()) -> Vec<(String, Option<String>)> {
        std::env::set_current_dir("/usr").unwrap();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("BROODY_TEST_VARIABLE", "later") };
        let look = |_: ()| {
            let directory = std::env::current_dir().unwrap().to_str().unwrap().to_owned();
            (directory, std::env::var("BROODY_TEST_VARIABLE").ok())
        };
        ["forkserver", "spawn", "fork"]
            .map(|name| {
                Process::builder().start_method(method(name)).spawn(look, ()).unwrap().join().unwrap()
            })
            .to_vec()
    }
    let found = broody::fork(|| changes(())).unwrap().join().unwrap();
    for (directory, variable) in found {
        assert_eq!((directory.as_str(), variable.as_deref()), ("/usr", Some("later")));
    }
}
