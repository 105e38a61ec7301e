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

struct Round {
    raw: Times,
    forkserver: Times,
    fork: Times,
}

/// In turns of some dozens, so that a load on the machine hits all alike. Not one by one: after a fork of this process its memory
/// is write-protected, and whatever comes next pays for that.
fn in_turns(turns: usize) -> Round {
    let mut round = Round { raw: Times::default(), forkserver: Times::default(), fork: Times::default() };
    start_and_join(StartMethod::Forkserver);
    for _ in 0..turns {
        repeat(&mut round.raw, raw);
        repeat(&mut round.forkserver, || start_and_join(StartMethod::Forkserver));
        repeat(&mut round.fork, || start_and_join(StartMethod::Fork));
    }
    round
}

fn repeat(times: &mut Times, mut act: impl FnMut()) {
    (0..40).for_each(|_| times.time(&mut act));
}

pub fn run(table: &mut Table) {
    let small = in_turns(25);
    let mut exec = Times::default();
    let mut spawn = Times::default();
    for _ in 0..200 {
        exec.time(|| Command::new("/bin/true").status().unwrap());
        spawn.time(|| start_and_join(StartMethod::Spawn));
    }
    let gibibyte = vec![1u8; 1 << 30];
    let large = in_turns(3);
    drop(std::hint::black_box(gibibyte));

    let (raw, forkserver) = (small.raw.median(), small.forkserver.median());
    table.row(
        "start + join, `forkserver`, median",
        format!("{forkserver:.0} us, **{:.2} x raw**", forkserver / raw),
        format!("raw fork+_exit+waitid: {raw:.0} us"),
        "at most 1.5 x raw",
    );
    table.row(
        "the same with 1 GiB touched in the host",
        format!(
            "{:.0} us, **{:.2} x of without**",
            large.forkserver.median(),
            large.forkserver.median() / forkserver
        ),
        format!("raw: {:.0} us, {:.1} x of without", large.raw.median(), large.raw.median() / raw),
        "at most 1.2 x of without",
    );
    let fork = small.fork.median();
    table.row(
        "start + join, `fork`, median",
        format!("{fork:.0} us, {:.2} x raw", fork / raw),
        format!("raw: {raw:.0} us"),
        "",
    );
    table.row(
        "start + join, `spawn`, median",
        format!("{:.0} us, {:.2} x", spawn.median(), spawn.median() / exec.median()),
        format!("std's Command with /bin/true: {:.0} us", exec.median()),
        "",
    );
}
