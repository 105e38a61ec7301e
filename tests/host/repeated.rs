//! Many starts leave nothing behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use broody::{Pool, Process, StartMethod};
use broody_os::{fork, proc};
use broody_tests::{PATIENCE, eventually, supervisor};

/// What a program could leave behind.
#[derive(Debug)]
struct Traces {
    descriptors: usize,
    supervisors_descriptors: usize,
    processes: usize,
    threads: usize,
    shm: BTreeSet<std::ffi::OsString>,
}

impl Traces {
    fn now() -> Self {
        let names =
            |path: &str| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let supervisor = supervisor().unwrap();
        Self {
            descriptors: proc::descriptors(fork::pid()).unwrap().len(),
            supervisors_descriptors: proc::descriptors(supervisor).unwrap().len(),
            processes: proc::descendants(fork::pid()).len(),
            threads: proc::thread_count(),
            shm: names("/dev/shm"),
        }
    }
}

impl Traces {
    /// Whether there is more than `before`, which may have been taken while a file in /proc was being read.
    fn exceed(&self, before: &Self) -> bool {
        self.descriptors > before.descriptors
            || self.supervisors_descriptors > before.supervisors_descriptors
            || self.processes > before.processes
            || self.threads > before.threads
            || !self.shm.is_subset(&before.shm)
    }
}

/// The resident memory of `pid`, in KiB.
fn resident(pid: broody::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn next(x: u32) -> u32 {
    x + 1
}

fn leaves_nothing(mut act: impl FnMut(u32)) {
    let files = std::env::temp_dir().join(format!("broody-traces-{}", std::process::id()));
    std::fs::create_dir(&files).unwrap();
    // SAFETY: this program has no other thread yet that looks at the environment.
    unsafe { std::env::set_var("TMPDIR", &files) };
    // Nothing is under way when the first look is taken: everything was joined, or belonged to a pool that is gone.
    (0..100).map(|number| number * 20 + 1).for_each(&mut act);
    act(0);
    eventually("only the supervisor is left", || proc::descendants(fork::pid()).len() == 1);
    let before = Traces::now();
    let memory = [fork::pid(), supervisor().unwrap()].map(resident);
    (0..1000).for_each(&mut act);
    // What is reaped and closed in the background is so a moment later.
    let mut now = Traces::now();
    let end = Instant::now() + PATIENCE;
    while now.exceed(&before) {
        assert!(Instant::now() < end, "before {before:?}, now {now:?}");
        std::thread::sleep(Duration::from_millis(1));
        now = Traces::now();
    }
    for (pid, before) in [fork::pid(), supervisor().unwrap()].into_iter().zip(memory) {
        let now = resident(pid);
        assert!(now < before + 1024, "{pid} has grown from {before} to {now} KiB");
    }
    assert_eq!(std::fs::read_dir(&files).unwrap().count(), 0, "temporary files");
    std::fs::remove_dir(&files).unwrap();
}

pub fn starts(method: StartMethod) {
    leaves_nothing(|number| {
        let child = Process::builder().start_method(method).spawn(next, number).unwrap();
        // A part of the handles is dropped without a join.
        if number % 4 != 2 {
            assert_eq!(child.join().unwrap(), number + 1);
        }
    });
}

pub fn pools() {
    leaves_nothing(|number| {
        if number % 20 == 0 {
            let pool = Pool::builder().workers(2).build().unwrap();
            let long = vec![7u8; 100_000];
            assert_eq!(pool.apply(|list: Vec<u8>| list, long.clone()).unwrap(), long);
            assert_eq!(pool.map(next, 0..100).unwrap().len(), 100);
        }
    });
}
