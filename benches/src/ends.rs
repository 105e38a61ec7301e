//! How soon a dead process is gone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use broody::{Pid, Process, StartMethod};
use broody_os::{events, fork, proc, signals};

use crate::measure::{Table, Times};

fn idle(_: ()) {
    loop {
        std::thread::park();
    }
}

fn busy(_: ()) {
    loop {
        std::hint::spin_loop();
    }
}

/// From the instant when a child is a zombie to that when it is no more, without anybody joining it.
fn zombie(method: StartMethod, times: &mut Times) {
    let child = Process::builder().start_method(method).spawn(|_: ()| (), ()).unwrap();
    events::poll(&[child.sentinel()], None).unwrap();
    times.time(|| while proc::stat(child.pid()).unwrap().is_some() {});
}

/// A host with children of all kinds, which is going to be killed.
pub fn family(method: &str) {
    let method = match method {
        "forkserver" => StartMethod::Forkserver,
        "spawn" => StartMethod::Spawn,
        _ => StartMethod::Fork,
    };
    let builder = || Process::builder().start_method(method);
    let children = [
        builder().spawn(idle, ()).unwrap(),
        builder().spawn(busy, ()).unwrap(),
        builder().spawn(idle, ()).unwrap(),
        builder().spawn(|_: ()| broody::spawn(idle, ()).unwrap().join().unwrap(), ()).unwrap(),
        builder()
            .spawn(
                |_: ()| {
                    Command::new("setsid").args(["sleep", "1000"]).status().unwrap();
                },
                (),
            )
            .unwrap(),
    ];
    fork::kill_child(children[2].pid(), signals::SIGSTOP).unwrap();
    let me = fork::pid();
    // The supervisor, five children, and a child of each of the last two.
    while proc::descendants(me).len() < 8 {
        std::thread::yield_now();
    }
    let pids: Vec<String> = proc::descendants(me).iter().map(Pid::to_string).collect();
    println!("{}", pids.join(" "));
    idle(());
}

/// From the SIGKILL of a host to the instant when the last of its descendants is gone.
fn orphans(method: &str, times: &mut Times) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut host = command.args(["family", method]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<Pid> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let started: Vec<_> =
        pids.iter().map(|pid| proc::stat(*pid).unwrap().map(|stat| stat.start_time)).collect();
    let is_gone = |pid: Pid, start_time: Option<u64>| {
        // A zombie that has fallen to init is init's.
        proc::stat(pid).unwrap().is_none_or(|stat| {
            Some(stat.start_time) != start_time || (stat.letter == 'Z' && stat.parent == 1)
        })
    };
    let start = Instant::now();
    host.kill().unwrap();
    while !pids.iter().zip(&started).all(|(pid, start_time)| is_gone(*pid, *start_time)) {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    times.add(start.elapsed());
    host.wait().unwrap();
}

pub fn run(table: &mut Table) {
    for (name, method) in
        [("forkserver", StartMethod::Forkserver), ("spawn", StartMethod::Spawn), ("fork", StartMethod::Fork)]
    {
        let mut zombies = Times::default();
        (0..500).for_each(|_| zombie(method, &mut zombies));
        table.row(
            &format!("life of a zombie, `{name}`, p99"),
            format!("**{:.0} us**", zombies.percentile(99)),
            format!("median {:.0} us", zombies.median()),
            "under 5 ms",
        );
        let mut gone = Times::default();
        (0..100).for_each(|_| orphans(name, &mut gone));
        table.row(
            &format!("host killed, all 8 descendants gone, `{name}`, p99"),
            format!("**{:.1} ms**", gone.percentile(99) / 1000.0),
            format!("median {:.1} ms", gone.median() / 1000.0),
            "under 100 ms",
        );
    }
}
