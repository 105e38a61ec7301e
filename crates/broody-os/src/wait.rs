//! Looking at ended children and reaping them, in two steps.
//!
//! An ended child stays a zombie, and its pid cannot be used again, until its parent reaps it. [`any_ended_child`] only
//! looks, so that what the dead process owned can be put right first; [`reap_pid`] and [`reap_pidfd`] take it away. See
//! waitid(2).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::{Error, Pid, Result};

/// How a process ended.
///
/// `Code` is what the process passed to `exit`, 0 to 255. `Signal` is the signal's number; Python shows it as `-N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit, or returned from its function.
    Code(u8),
    /// It was ended by this signal.
    Signal(i32),
    /// Reaped by someone else, on a kernel that no longer tells (before 6.15).
    Unknown,
}

impl ExitStatus {
    /// Whether the process ended with exit code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// The status in one number, as Python has it: the exit code, or minus the signal; `None` when unknown.
    pub fn exit_code(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code.into()),
            ExitStatus::Signal(signal) => Some(-signal),
            ExitStatus::Unknown => None,
        }
    }

    /// The inverse of [`exit_code`](Self::exit_code).
    pub fn from_exit_code(code: Option<i32>) -> Self {
        match code {
            Some(code) if code < 0 => ExitStatus::Signal(-code),
            Some(code) => ExitStatus::Code(code as u8),
            None => ExitStatus::Unknown,
        }
    }

    /// From the classic status word of wait(2).
    pub(crate) fn from_wait_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            ExitStatus::Signal(libc::WTERMSIG(status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(status) as u8)
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => match crate::signals::name(*signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
            ExitStatus::Unknown => f.write_str("an unknown status (somebody else reaped it)"),
        }
    }
}

/// What a process and the descendants that it waited for have used, by its end. See getrusage(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident set, in bytes.
    pub peak_memory: u64,
}

/// An answer to reaping a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// It has not ended yet.
    Running,
    /// It is gone now; this is how it ended.
    Ended(ExitStatus, Usage),
    /// There is no such child: somebody else reaped it, or SIGCHLD is ignored.
    Stolen,
}

/// The pid of any child that has ended, without reaping it; `None` when there is none now.
///
/// Only for a process whose every child is its own business: never in the host program.
pub fn any_ended_child() -> Result<Option<Pid>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok((0, ..)) => Ok(None),
        Ok((pid, ..)) => Ok(Some(pid)),
        Err(error) if error.errno() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps the ended child `pid`. Does not wait for its end.
pub fn reap_pid(pid: Pid) -> Result<Reaped> {
    reap(libc::P_PID, pid as libc::id_t)
}

/// Reaps the ended child behind `pidfd`. Does not wait for its end.
pub fn reap_pidfd(pidfd: BorrowedFd<'_>) -> Result<Reaped> {
    reap(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t)
}

fn reap(kind: libc::idtype_t, id: libc::id_t) -> Result<Reaped> {
    match waitid(kind, id, libc::WEXITED | libc::WNOHANG) {
        Ok((0, ..)) => Ok(Reaped::Running),
        Ok((_, status, usage)) => Ok(Reaped::Ended(status, usage)),
        Err(error) if error.errno() == Some(libc::ECHILD) => Ok(Reaped::Stolen),
        Err(error) => Err(error),
    }
}

/// The raw call: unlike libc's wrapper it also gives the child's resource usage.
fn waitid(kind: libc::idtype_t, id: libc::id_t, options: i32) -> Result<(Pid, ExitStatus, Usage)> {
    loop {
        // SAFETY: both structs are plain integers (and unions of them); zero bytes are a value.
        let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one siginfo_t and one rusage behind pointers that live through the call.
        let answer =
            unsafe { libc::syscall(libc::SYS_waitid, kind, id, &raw mut info, options, &raw mut usage) };
        if answer == 0 {
            // SAFETY: waitid fills the SIGCHLD part of siginfo, or leaves the zeroes where no child was found.
            let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
            let status = match info.si_code {
                libc::CLD_EXITED => ExitStatus::Code(value as u8),
                _ => ExitStatus::Signal(value),
            };
            let usage = Usage {
                user: duration(usage.ru_utime),
                system: duration(usage.ru_stime),
                peak_memory: usage.ru_maxrss as u64 * 1024,
            };
            return Ok((pid, status, usage));
        }
        let error = Error::last("waitid");
        if error.errno() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}
