//! Limits of the system: an error that names them, no hang, nothing left behind.

use broody::{Error, Pool, Process, StartMethod};
use broody_os::{fork, proc};
use broody_tests::eventually;

use crate::family::idle;

const METHODS: [StartMethod; 3] = [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork];

/// A user that has no processes on any machine.
const NOBODY: u32 = 2_000_000_123;

pub fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) {
    // SAFETY: both structs are plain integers and live through the calls.
    unsafe {
        let mut now = std::mem::zeroed::<libc::rlimit>();
        assert_eq!(libc::getrlimit(resource, &raw mut now), 0);
        now.rlim_cur = limit;
        assert_eq!(libc::setrlimit(resource, &raw const now), 0);
    }
}

/// Leaves room for `spare` more descriptors.
fn leave_descriptors(spare: usize) {
    // The listing's own descriptor is among them, and closed by now.
    let mut open = proc::descriptors(fork::pid()).unwrap();
    open.retain(|fd| broody_os::environment::descriptor_identity(*fd).is_some());
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(spare).unwrap();
    set_limit(libc::RLIMIT_NOFILE, limit as u64);
}

fn nobody_but_the_supervisor_is_left() {
    eventually("only the supervisor is left", || proc::descendants(fork::pid()).len() <= 1);
}

fn add(x: u32) -> u32 {
    x + 1
}

pub fn of_processes() {
    // SAFETY: plain calls; root is exempt from the limit, so another user is taken.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!((libc::setgid(NOBODY), libc::setuid(NOBODY)), (0, 0));
            libc::prctl(libc::PR_SET_DUMPABLE, 1);
        }
    }
    assert_eq!(broody::spawn(add, 1).unwrap().join().unwrap(), 2);
    let count = |pid: broody::Pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let now: usize = {
        // SAFETY: geteuid has no preconditions.
        let me = unsafe { libc::geteuid() };
        let is_mine = |pid: &broody::Pid| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|data| data.uid() == me)
        };
        proc::all().into_iter().filter(is_mine).map(count).sum()
    };
    let limit = now as u64 + 3;
    set_limit(libc::RLIMIT_NPROC, limit);
    // The supervisor was started with the old limit, and makes the processes.
    let supervisor = broody_tests::supervisor().unwrap();
    let new = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the pid is our child's; the struct lives through the call.
    let set = unsafe { libc::prlimit(supervisor, libc::RLIMIT_NPROC, &raw const new, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    for method in METHODS {
        let mut children = Vec::new();
        let error = loop {
            assert!(children.len() < 10, "the limit does not work");
            match Process::builder().start_method(method).spawn(idle, ()) {
                Ok(child) => children.push(child),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Start { .. }), "{error}");
        assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
        // Those that run are not harmed, and room that is given back is room.
        assert!(children.len() >= 2 && children.iter().all(|child| child.is_alive()));
        children.iter().for_each(|child| child.kill().unwrap());
        children.iter().for_each(|child| drop(child.wait()));
        assert_eq!(Process::builder().start_method(method).spawn(add, 1).unwrap().join().unwrap(), 2);
    }
    let Err(error) = Pool::builder().workers(20).build() else { panic!("a pool of 20") };
    assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
    nobody_but_the_supervisor_is_left();
    assert_eq!(Pool::builder().workers(1).build().unwrap().apply(add, 1).unwrap(), 2);
}

/// There is not enough for a supervisor.
pub fn of_descriptors_at_first() {
    for spare in 0..6 {
        leave_descriptors(spare);
        let started = broody::spawn(add, 1).map(|child| child.join());
        set_limit(libc::RLIMIT_NOFILE, 1024);
        match started {
            Ok(result) => assert_eq!(result.unwrap(), 2),
            Err(error) => assert!(error.to_string().contains("RLIMIT_NOFILE"), "{spare} spare: {error}"),
        }
        nobody_but_the_supervisor_is_left();
    }
}

/// There is not enough for another process.
pub fn of_descriptors() {
    assert_eq!(broody::spawn(add, 1).unwrap().join().unwrap(), 2);
    // Something is missing at each step of a start in turn.
    for method in METHODS {
        let mut errors = 0;
        for spare in 0..8 {
            leave_descriptors(spare);
            let started = Process::builder().start_method(method).spawn(add, 1);
            let result = started.map(|child| child.join());
            set_limit(libc::RLIMIT_NOFILE, 1024);
            match result {
                Ok(result) => assert_eq!(result.unwrap(), 2),
                Err(error) => {
                    errors += 1;
                    assert!(
                        error.to_string().contains("RLIMIT_NOFILE"),
                        "{method:?}, {spare} spare: {error}"
                    );
                }
            }
        }
        assert!(errors > 0, "the limit does not work");
        nobody_but_the_supervisor_is_left();
    }
    leave_descriptors(12);
    let Err(error) = Pool::builder().workers(8).build() else { panic!("a pool of 8") };
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    set_limit(libc::RLIMIT_NOFILE, 1024);
    nobody_but_the_supervisor_is_left();

    // Long arguments and results need no descriptor.
    let pool = Pool::builder().workers(1).build().unwrap();
    let long = |length: usize| vec![1u8; length];
    assert_eq!(pool.apply(long, 1_000_000).unwrap().len(), 1_000_000);
    leave_descriptors(0);
    let result = pool.apply(long, 1_000_000);
    let length = pool.apply(|bytes: Vec<u8>| bytes.len(), vec![1u8; 1_000_000]);
    set_limit(libc::RLIMIT_NOFILE, 1024);
    assert_eq!((result.unwrap().len(), length.unwrap()), (1_000_000, 1_000_000));
}

/// The workers of a pool have been started, and its thread cannot be.
pub fn of_memory() {
    assert_eq!(broody::spawn(add, 1).unwrap().join().unwrap(), 2);
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split_whitespace().next().unwrap().parse().unwrap();
    let mut errors = 0;
    // Somewhere on the way from too little for a ring to enough for everything.
    for kibibytes in (0..4096).step_by(128) {
        set_limit(libc::RLIMIT_AS, pages * broody_os::memory::page_size() as u64 + kibibytes * 1024);
        let pool = Pool::builder().workers(1).build();
        set_limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        match pool {
            Ok(pool) => assert_eq!(pool.apply(add, 1).unwrap(), 2),
            Err(_) => errors += 1,
        }
        nobody_but_the_supervisor_is_left();
    }
    assert!(errors > 0, "the limit does not work");
}

/// Lets the system call `number` answer ENOSYS in this process and its descendants. See seccomp(2).
fn forbid(number: libc::c_long) {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let compare = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut program = [
        // The number is the first word of what the filter sees.
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: compare, jt: 0, jf: 1, k: number as u32 },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: errno },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter is a valid program of four instructions and lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

pub fn without(call: &str) {
    match call {
        "pidfd_open" => forbid(libc::SYS_pidfd_open),
        "pidfd_send_signal" => forbid(libc::SYS_pidfd_send_signal),
        "memfd_create" => forbid(libc::SYS_memfd_create),
        other => panic!("no such call: {other}"),
    }
    let says_so = |error: Error| {
        let text = error.to_string();
        assert!(text.contains(call) && text.contains("Linux 5.4") && text.contains("seccomp"), "{text}");
    };
    if let Err(error) = Pool::builder().workers(2).build() {
        says_so(error);
    } else {
        panic!("a pool without {call}");
    }
    for method in METHODS {
        let long = vec![0u8; 100_000];
        match Process::builder().start_method(method).spawn(|list: Vec<u8>| list.len() as u32, long) {
            Err(error) => says_so(error),
            // A fork hands nothing over, and a short result comes in a message.
            Ok(child) => assert_eq!(
                (call, method, child.join().unwrap()),
                ("memfd_create", StartMethod::Fork, 100_000)
            ),
        }
    }
    nobody_but_the_supervisor_is_left();
}
