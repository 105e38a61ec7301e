//! A program with children and grandchildren of all kinds.

use std::process::Command;

use broody::{Pid, Process, StartMethod};
use broody_os::{fork, signals};
use broody_tests::{eventually, tell_pids, wait_for_test};

/// Sleeps for ever.
pub fn idle(_: ()) {
    loop {
        std::thread::park();
    }
}

fn busy(_: ()) {
    loop {
        std::hint::spin_loop();
    }
}

/// Starts a child that broody does not know of, in a session of its own if `session`, and tells its pid.
fn with_grandchild((session, path): (bool, String)) {
    let mut command = if session { Command::new("setsid") } else { Command::new("sleep") };
    if session {
        command.arg("sleep");
    }
    let mut grandchild = command.arg("1000").spawn().unwrap();
    std::fs::write(path, grandchild.id().to_string()).unwrap();
    let _ = grandchild.wait();
}

/// Starts a child by broody, which starts one itself.
fn with_family(path: String) {
    let nested = broody::spawn(
        |path: String| {
            let nested = broody::spawn(idle, ()).unwrap();
            std::fs::write(path, format!("{} {}", std::process::id(), nested.pid())).unwrap();
            idle(());
        },
        path,
    );
    nested.unwrap().join().unwrap();
}

/// Starts the whole family and tells everyone's pid, the supervisor's first.
pub fn live(method: StartMethod, ending: &str) {
    let start = || Process::builder().start_method(method).daemon(true);
    let directory = std::env::temp_dir().join(format!("broody-family-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let children = [
        start().spawn(idle, ()).unwrap(),
        start().spawn(busy, ()).unwrap(),
        start().spawn(idle, ()).unwrap(),
        start().spawn(with_grandchild, (false, path("a"))).unwrap(),
        start().spawn(with_grandchild, (true, path("b"))).unwrap(),
        start().spawn(with_family, path("c")).unwrap(),
    ];
    fork::kill_child(children[2].pid(), signals::SIGSTOP).unwrap();
    let mut pids = vec![broody_tests::supervisor().expect("there is a supervisor")];
    pids.extend(children.iter().map(|child| child.pid()));
    for (name, count) in [("a", 1), ("b", 1), ("c", 2)] {
        let read = || -> Vec<Pid> {
            let text = std::fs::read_to_string(path(name)).unwrap_or_default();
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
        };
        eventually("the grandchildren are there", || read().len() == count);
        pids.extend(read());
    }
    std::fs::remove_dir_all(&directory).unwrap();
    tell_pids(&pids);
    match ending {
        "killed" => idle(()),
        "exits" => {
            wait_for_test();
            // Not in an orderly way: exit functions do not run.
            fork::exit_now(0)
        }
        "main-thread-gone" => {
            wait_for_test();
            std::thread::spawn(|| {
                let me = broody_os::fork::pid();
                eventually("the main thread is gone", || {
                    broody_os::proc::stat(me).unwrap().is_some_and(|stat| stat.letter == 'Z')
                });
                println!("gone");
                wait_for_test();
                fork::exit_now(0)
            });
            // SAFETY: ends this thread alone, as pthread_exit does at last. What it owned is never used again: the program's end
            // comes from the other thread, by _exit.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        other => panic!("no such ending: {other}"),
    }
}

/// Exits in an orderly way: a daemon is ended, another child is joined, exit functions run in their order.
pub fn exit(method: StartMethod) {
    let start = || Process::builder().start_method(method);
    let daemon = start().daemon(true).spawn(idle, ()).unwrap();
    let short = start()
        .spawn(
            |_: ()| {
                broody::at_exit(|| println!("child: exit function"));
                std::thread::sleep(std::time::Duration::from_millis(200));
                println!("child: done");
            },
            (),
        )
        .unwrap();
    tell_pids(&[daemon.pid(), short.pid(), broody_tests::supervisor().unwrap()]);
    broody::at_exit(|| println!("first, second"));
    broody::at_exit_with_priority(10, || println!("first, first"));
    let pid = daemon.pid();
    broody::at_exit_with_priority(-1, move || {
        println!("last; daemon there: {}", broody_os::proc::stat(pid).unwrap().is_some());
    });
    broody::at_exit(|| println!("never")).cancel();
    wait_for_test();
}

/// Leaves a child behind on purpose.
pub fn detach(method: StartMethod) {
    let started =
        std::thread::spawn(move || Process::builder().start_method(method).spawn(idle, ()).unwrap());
    let child = started.join().unwrap();
    let other = Process::builder().start_method(method).daemon(true).spawn(idle, ()).unwrap();
    let pids = [child.pid(), other.pid()];
    child.detach().unwrap();
    tell_pids(&pids);
    wait_for_test();
}

/// A detached child starts a process that broody does not know of and forks another one, and both outlive the program. When the child is
/// killed, they are to go as well.
pub fn detach_with_family() {
    fn with_both(path: String) {
        let mut unknown = Command::new("sleep").arg("1000").spawn().unwrap();
        let forked = broody::fork(|| idle(())).unwrap();
        std::fs::write(path, format!("{} {}", unknown.id(), forked.pid())).unwrap();
        let _ = unknown.wait();
    }
    let path = std::env::temp_dir().join(format!("broody-detached-{}", std::process::id()));
    let child = broody::spawn(with_both, path.to_str().unwrap().to_owned()).unwrap();
    let read = || -> Vec<Pid> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    eventually("the grandchildren are there", || read().len() == 2);
    let mut pids = vec![child.pid()];
    pids.extend(read());
    std::fs::remove_file(&path).unwrap();
    child.detach().unwrap();
    tell_pids(&pids);
    wait_for_test();
}

/// A child forks, from a thread of its own, and detaches that fork before it ends. Gives the fork's pid.
fn detach_a_fork(_: ()) -> Pid {
    std::thread::spawn(|| {
        let forked = broody::fork(|| idle(())).unwrap();
        let pid = forked.pid();
        forked.detach().unwrap();
        pid
    })
    .join()
    .unwrap()
}

/// What a child has detached lives on after it, and after the program.
pub fn child_detaches() {
    let child = broody::spawn(detach_a_fork, ()).unwrap();
    let kept = child.join().unwrap();
    // Orphans are looked for a few milliseconds after the end of a child: there is no event to wait for.
    std::thread::sleep(std::time::Duration::from_millis(100));
    // A fork that cannot be detached says so.
    let refused = broody::spawn(
        |_: ()| {
            let forked = Process::builder().daemon(true).fork(|| idle(())).unwrap();
            matches!(forked.detach(), Err(broody::Error::Invalid { .. }))
        },
        (),
    );
    assert!(refused.unwrap().join().unwrap());
    tell_pids(&[kept]);
    wait_for_test();
}

/// A child forks; the supervisor is killed, and with it everything below it.
pub fn forked_below() {
    let child = broody::spawn(
        |path: String| {
            let forked = broody::fork(|| idle(())).unwrap();
            std::fs::write(path, forked.pid().to_string()).unwrap();
            idle(());
        },
        std::env::temp_dir()
            .join(format!("broody-below-{}", std::process::id()))
            .to_str()
            .unwrap()
            .to_owned(),
    )
    .unwrap();
    let path = std::env::temp_dir().join(format!("broody-below-{}", std::process::id()));
    let read = || -> Option<Pid> { std::fs::read_to_string(&path).ok()?.parse().ok() };
    eventually("the fork is there", || read().is_some());
    tell_pids(&[child.pid(), read().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    fork::kill_child(broody_tests::supervisor().unwrap(), signals::SIGKILL).unwrap();
    wait_for_test();
}
