//! What a start and a join cost.

use std::process::Command;

use broody::{Process, StartMethod};
use broody_os::fork::{self, Fork};
use broody_os::wait;

use crate::measure::{Table, Times};

fn nothing(_: ()) {}

/// fork, _exit in the child, waitid: the least that the kernel asks for.
fn raw() {
    // SAFETY: the child calls only _exit.
    match unsafe { fork::fork() }.unwrap() {
        Fork::Child => fork::exit_now(0),
        // SAFETY: the pid is our own child's, and nobody else waits for it; a null siginfo is allowed.
        Fork::Parent(pid) => unsafe {
            libc::waitid(libc::P_PID, pid as u32, std::ptr::null_mut(), libc::WEXITED | libc::WNOWAIT);
            wait::reap_pid(pid).unwrap();
        },
    }
}

fn start_and_join(method: StartMethod) {
    Process::builder().start_method(method).spawn(nothing, ()).unwrap().join().unwrap();
}

/// A raw fork and what is compared with it.
struct Pair {
    raw: Times,
    ours: Times,
}

/// In turns of some dozens, so that a load on the machine hits both alike. Not one by one: after a fork of this process its memory
/// is write-protected, and whatever comes next pays for that.
fn in_turns(method: StartMethod, turns: usize) -> Pair {
    let mut pair = Pair { raw: Times::default(), ours: Times::default() };
    start_and_join(method);
    for _ in 0..turns {
        repeat(&mut pair.raw, raw);
        repeat(&mut pair.ours, || start_and_join(method));
    }
    pair
}

fn repeat(times: &mut Times, mut act: impl FnMut()) {
    (0..40).for_each(|_| times.time(&mut act));
}

pub fn run(table: &mut Table) {
    let small = in_turns(StartMethod::Forkserver, 25);
    let fork = in_turns(StartMethod::Fork, 25);
    let mut exec = Times::default();
    let mut spawn = Times::default();
    for _ in 0..200 {
        exec.time(|| Command::new("/bin/true").status().unwrap());
        spawn.time(|| start_and_join(StartMethod::Spawn));
    }
    // In turns again, and without forks of this process in between.
    let (mut without, mut with, mut raw_with) = (Times::default(), Times::default(), Times::default());
    for _ in 0..10 {
        repeat(&mut without, || start_and_join(StartMethod::Forkserver));
        let gibibyte = std::hint::black_box(vec![1u8; 1 << 30]);
        repeat(&mut with, || start_and_join(StartMethod::Forkserver));
        drop(gibibyte);
    }
    let gibibyte = std::hint::black_box(vec![1u8; 1 << 30]);
    repeat(&mut raw_with, raw);
    drop(gibibyte);

    let (raw, ours) = (small.raw.median(), small.ours.median());
    table.row(
        "start + join, `forkserver`, median",
        format!("{ours:.0} us, **{:.2} x raw**", ours / raw),
        format!("raw fork+_exit+waitid: {raw:.0} us"),
        "at most 1.5 x raw",
    );
    table.row(
        "the same with 1 GiB touched in the host",
        format!("{:.0} us, **{:.2} x of without**", with.median(), with.median() / without.median()),
        format!("raw: {:.0} us, {:.1} x of without", raw_with.median(), raw_with.median() / raw),
        "at most 1.2 x of without",
    );
    table.row(
        "start + join, `fork`, median",
        format!("{:.0} us, {:.2} x raw", fork.ours.median(), fork.ours.median() / fork.raw.median()),
        format!("raw: {:.0} us", fork.raw.median()),
        "",
    );
    table.row(
        "start + join, `spawn`, median",
        format!("{:.0} us, {:.2} x", spawn.median(), spawn.median() / exec.median()),
        format!("std's Command with /bin/true: {:.0} us", exec.median()),
        "",
    );
}
