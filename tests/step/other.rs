//! A process that lives on beside the victim, mostly asleep.

use std::time::{Duration, Instant};

use broody_os::wait::ExitStatus;
use broody_os::{Pid, fork, proc, signals};
use broody_shm::arena::Arena;
use broody_tests::PATIENCE;

use crate::operation::put_right;
use crate::trace::{await_end, in_fork, reap};

/// A child that does something, and ends with what that gives. Killed on drop.
pub struct Other {
    pid: Pid,
    is_there: bool,
}

impl Other {
    /// Starts it.
    pub fn start(act: impl FnOnce() -> u8) -> Self {
        Self { pid: in_fork(act), is_there: true }
    }

    /// Starts it, and gives it when it sleeps.
    pub fn asleep(act: impl FnOnce() -> u8) -> Self {
        let other = Self::start(act);
        let end = Instant::now() + PATIENCE;
        while proc::stat(other.pid).unwrap().is_none_or(|stat| stat.letter != 'S') {
            assert!(!other.has_ended(), "it ends instead of waiting");
            assert!(Instant::now() < end, "it does not come to wait");
            std::thread::yield_now();
        }
        other
    }

    /// Waits until it sleeps or has ended; whether it has ended. A process that was woken is not asleep, even if it does not run yet.
    pub fn settle(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.has_ended() {
                return true;
            }
            if proc::stat(self.pid).unwrap().is_some_and(|stat| stat.letter == 'S') {
                return false;
            }
            assert!(Instant::now() < end, "it neither sleeps nor ends");
            std::thread::yield_now();
        }
    }

    /// Stops it where it is.
    pub fn stop(&self) {
        assert!(fork::kill_child(self.pid, signals::SIGSTOP).unwrap());
        while proc::stat(self.pid).unwrap().is_some_and(|stat| stat.letter != 'T') {
            std::thread::yield_now();
        }
    }

    /// Whether it has ended. It is a zombie then.
    pub fn has_ended(&self) -> bool {
        // SAFETY: plain data, which the kernel writes; the pid is our own unreaped child's.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
            assert_eq!(libc::waitid(libc::P_PID, self.pid as libc::id_t, &raw mut info, flags), 0);
            info.si_pid() == self.pid
        }
    }

    /// Waits for its end, puts right what it leaves, and gives what it ended with.
    pub fn end(mut self, arena: &Arena) -> u8 {
        let end = Instant::now() + PATIENCE;
        let mut looks = 0u32;
        while !self.has_ended() {
            assert!(Instant::now() < end, "a process that was to be woken sleeps on");
            std::thread::yield_now();
            looks += 1;
            if looks > 100 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        put_right(arena, self.pid);
        self.is_there = false;
        match reap(self.pid) {
            ExitStatus::Code(code) if code != crate::trace::PANICKED => code,
            status => panic!("a process that was left alone ended with {status}"),
        }
    }

    /// Kills it, and leaves it a zombie.
    pub fn kill(&self) {
        assert!(fork::kill_child(self.pid, signals::SIGKILL).unwrap());
        await_end(self.pid);
    }

    /// Reaps it, after [`kill`](Self::kill).
    pub fn reap(mut self) {
        self.is_there = false;
        reap(self.pid);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if self.is_there {
            self.kill();
            reap(self.pid);
        }
    }
}
