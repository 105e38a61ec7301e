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
                    broody_os::proc::stat(me).is_some_and(|stat| stat.letter == 'Z')
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
        println!("last; daemon there: {}", broody_os::proc::stat(pid).is_some());
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
