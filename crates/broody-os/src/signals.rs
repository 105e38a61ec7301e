//! Signal masks and dispositions. See sigprocmask(2), sigaction(2), signal(7).

use std::sync::atomic::{AtomicBool, Ordering};

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
    // SAFETY: the action lives through the call; the handler is SIG_DFL, SIG_IGN or async-signal-safe (wake_on).
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0 }
}

/// Sets what happens on `signal` and returns whether that signal can be set at all.
pub fn set_disposition(signal: i32, disposition: Disposition) -> bool {
    set(signal, match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    })
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets `signal` interrupt a waiting system call, and be seen by [`take_interrupt`].
pub fn interrupt_on(signal: i32) {
    extern "C" fn note(_: i32) {
        // Relaxed: the handler runs on the thread that reads it, or before that thread's next look.
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    set(signal, note as *const () as libc::sighandler_t);
}

/// Whether a signal of [`interrupt_on`] came since the last call.
pub fn take_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::Relaxed)
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

    /// This set except `signal`.
    pub fn without(mut self, signal: i32) -> Self {
        // SAFETY: the set is initialised; a wrong number is refused.
        unsafe { libc::sigdelset(&raw mut self.0, signal) };
        self
    }

    /// Makes this the calling thread's mask of blocked signals; gives back the mask before.
    pub fn block_exactly(&self) -> Self {
        let mut before = Self::empty();
        // SAFETY: both sets are initialised and live through the call, which cannot fail with SIG_SETMASK.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0) };
        before
    }

    pub(crate) fn as_raw(&self) -> *const libc::sigset_t {
        &raw const self.0
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
