//! Signal masks and dispositions. See sigprocmask(2), sigaction(2), signal(7).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

pub use libc::{SIGCHLD, SIGCONT, SIGINT, SIGKILL, SIGPIPE, SIGSTOP, SIGTERM};

/// What a process does on a signal, as far as a supervisor has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The kernel's default.
    Default,
    /// Ignored.
    Ignore,
}

fn set(signal: i32, handler: libc::sighandler_t) -> bool {
    // SAFETY: sigaction is plain data; zero bytes mean no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the action lives through the call; the handler is SIG_DFL, SIG_IGN, or does nothing.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0 }
}

/// Sets what happens on `signal` and returns whether that signal can be set at all.
pub fn set_disposition(signal: i32, disposition: Disposition) -> bool {
    set(
        signal,
        match disposition {
            Disposition::Default => libc::SIG_DFL,
            Disposition::Ignore => libc::SIG_IGN,
        },
    )
}

extern "C" fn nothing(_: i32) {}

/// Lets `signal` do nothing but interrupt what system call the process is in (EINTR). Whether that signal can be set at all.
pub fn interrupt_on(signal: i32) -> bool {
    set(signal, nothing as *const () as libc::sighandler_t)
}

/// The realtime signal number `number`, counted from 0. See signal(7); the first ones are glibc's own.
pub fn realtime(number: i32) -> i32 {
    libc::SIGRTMIN() + number
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// No signal.
    pub fn empty() -> Self {
        // SAFETY: sigemptyset initialises the set.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            Self(set)
        }
    }

    /// Every signal.
    pub fn all() -> Self {
        // SAFETY: sigfillset initialises the set.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Self(set)
        }
    }

    /// This set and `signal`.
    pub fn with(mut self, signal: i32) -> Self {
        // SAFETY: the set is initialised; a wrong number is refused.
        unsafe { libc::sigaddset(&raw mut self.0, signal) };
        self
    }

    /// Makes this the calling thread's mask of blocked signals; gives back the mask before.
    pub fn block_exactly(&self) -> Self {
        let mut before = Self::empty();
        // SAFETY: both sets are initialised and live through the call, which cannot fail with SIG_SETMASK.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0) };
        before
    }
}

/// A descriptor that is readable while a signal is pending that is blocked. See signalfd(2).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// For `signal`, which has to be blocked.
    pub fn new(signal: i32) -> Result<Self> {
        let set = SignalSet::empty().with(signal);
        // SAFETY: the set is initialised and lives through the call; -1 asks for a new descriptor.
        let raw = unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if raw < 0 {
            return Err(Error::last("signalfd"));
        }
        // SAFETY: the kernel just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Takes the signal, if it is pending. Whether it was.
    pub fn take(&self) -> bool {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // SAFETY: the buffer has the size that is given.
        unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) == info.len() as isize }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `f` with every signal blocked in this thread; threads that `f` starts inherit that.
pub fn with_all_blocked<T>(f: impl FnOnce() -> T) -> T {
    let before = SignalSet::all().block_exactly();
    let value = f();
    before.block_exactly();
    value
}

/// The name of a standard signal, such as `SIGKILL`.
pub fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
