//! Race-free handles on processes.
//!
//! A pid can be given to another process as soon as its owner has been reaped; a pidfd goes on meaning the process it was
//! opened for. Everything that waits for or signals a process does it through a [`PidFd`].
//!
//! See pidfd_open(2), pidfd_send_signal(2) and, for the exit status of a process that somebody else reaped,
//! `PIDFD_GET_INFO` in ioctl_pidfd(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{PidfdFlags, Signal};

use crate::wait::ExitStatus;
use crate::{Error, Pid, Result};

/// A handle on one process. It is readable (poll, epoll) once the process has ended, all its threads included.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a handle on `pid`.
    ///
    /// Only free of races while `pid` cannot be reaped: for oneself, for one's own unreaped child, or for one's parent
    /// when it is known to live.
    pub fn open(pid: Pid) -> Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid)
            .ok_or_else(|| Error::new("pidfd_open", rustix::io::Errno::INVAL))?;
        match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(error) => Err(Error::new("pidfd_open", error)),
        }
    }

    /// A handle on the calling process.
    pub fn myself() -> Result<Self> {
        Self::open(crate::fork::pid())
    }

    /// Sends `signal` (its number) to the process. `Ok(false)` when it has ended already.
    pub fn send_signal(&self, signal: i32) -> Result<bool> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| Error::new("pidfd_send_signal", rustix::io::Errno::INVAL))?;
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(Error::new("pidfd_send_signal", error)),
        }
    }

    /// Whether signals can be sent by pidfd on this machine: a seccomp profile may hide just that call.
    pub fn check_signalling(&self) -> Result<()> {
        let (no_signal, no_info, no_flags) = (0, std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: signal 0 only asks whether it could be sent; a null siginfo means the default one.
        let answer = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), no_signal, no_info, no_flags)
        };
        if answer == 0 { Ok(()) } else { Err(Error::last("pidfd_send_signal")) }
    }

    /// Whether the process has ended (it may still be a zombie).
    pub fn has_ended(&self) -> Result<bool> {
        crate::events::is_readable(self.as_fd())
    }

    /// The exit status of a process that has been reaped, by whomever.
    ///
    /// `None` while it is unreaped, and on kernels before 6.15, which do not keep it.
    pub fn reaped_status(&self) -> Option<ExitStatus> {
        // SAFETY: pidfd_info is made of integers, for which zero bytes are a value.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        info.mask = PIDFD_INFO_EXIT;
        // SAFETY: the request's size field is that of the struct behind the pointer, which lives through the call.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) };
        if answer != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
            return None;
        }
        Some(ExitStatus::from_wait_status(info.exit_code))
    }
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
