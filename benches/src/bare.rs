//! What the kernel gives by itself, without broody: the floor under the figures.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use broody::{Child, Pid, Value};
use broody_os::memory::{self, Mapping};

/// Two processes that wake each other by a futex in shared memory, and never spin: what a round trip costs at least.
pub struct PingPong {
    memory: Mapping,
}

/// A word for each way, on cache lines of their own.
const THERE: usize = 0;
const BACK: usize = 128;

impl PingPong {
    pub fn new() -> Self {
        let memory = memory::create("ping-pong", memory::page_size()).unwrap();
        Self { memory: Mapping::new(&memory).unwrap() }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: within the mapping, which is a page, zeroed, and which all touch as these atomics.
        unsafe { self.memory.as_ptr().add(offset).cast::<AtomicU32>().as_ref() }
    }

    fn tell(&self, offset: usize, round: u32) {
        let word = self.word(offset);
        word.store(round, Ordering::Release);
        // SAFETY: the word is mapped; FUTEX_WAKE takes no pointer but its address.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    fn await_round(&self, offset: usize, round: u32) {
        let word = self.word(offset);
        loop {
            let now = word.load(Ordering::Acquire);
            if now == round {
                return;
            }
            // SAFETY: the word is mapped; there is no time limit.
            unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, now, std::ptr::null::<u8>())
            };
        }
    }

    /// The other process's part.
    pub fn answer(&self, rounds: u32) {
        for round in 1..=rounds {
            self.await_round(THERE, round);
            self.tell(BACK, round);
        }
    }

    /// There and back; rounds are numbered from 1.
    pub fn go_round(&self, round: u32) {
        self.tell(THERE, round);
        self.await_round(BACK, round);
    }
}

/// Lets the process or thread `pid` (0: the caller) run on `cpus` only.
pub fn pin(pid: Pid, cpus: &[usize]) {
    // SAFETY: the set is plain data, ours, and lives through the calls.
    unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
        assert_eq!(libc::sched_setaffinity(pid, size_of_val(&set), &raw const set), 0);
    }
}

/// Lets the process or thread `pid` run everywhere.
pub fn unpin(pid: Pid) {
    // More than there are: how many there are cannot be asked by who is pinned to one.
    pin(pid, &(0..1024).collect::<Vec<_>>());
}

/// A process that keeps a CPU busy until it is dropped.
pub struct Busy(Child<()>);

impl Busy {
    pub fn on(cpu: usize) -> Self {
        let child = broody::fork(|| {
            loop {
                std::hint::spin_loop();
            }
        });
        let child = child.unwrap();
        pin(child.pid(), &[cpu]);
        Self(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        let _ = self.0.join();
    }
}

/// The time that a clock of clock_gettime(2) shows.
pub fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is ours and lives through the call.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Repeats `act` in a process for which any system call is deadly (strict mode of seccomp(2)). How often it got through.
pub fn times_without_system_calls(times: u64, act: impl Fn()) -> u64 {
    let count = Value::new(0u64).unwrap();
    let child = broody::fork(|| {
        // What is done once in each process is done before.
        act();
        count.store(0);
        // SAFETY: takes no pointers. From here on, everything but read, write and exit ends the process.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        for done in 1..=times {
            act();
            count.store(done);
        }
        // SAFETY: ends the process's only thread, and so the process.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    // It never says how it ended: it could not.
    let _ = child.unwrap().join();
    count.load()
}
