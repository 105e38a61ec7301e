//! Forking, and what a forked child has to put right.
//!
//! See fork(2), pthread_atfork(3), PR_SET_PDEATHSIG(2const), PR_SET_CHILD_SUBREAPER(2const), close_range(2).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::process::Signal;

use crate::{Error, Pid, Result};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The process that called.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Forks through libc, so that its locks and handlers are in order in the child.
///
/// # Safety
/// If the process has more than one thread, the child must not rely on any lock that another thread may have held, except
/// those that libc itself puts right (malloc, stdio).
pub unsafe fn fork() -> Result<Fork> {
    // SAFETY: the caller keeps the contract above; fork itself touches no memory of ours.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last("fork")),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends the process at once: no destructors, no exit functions, no flushing. See _exit(2).
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes any integer and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// Makes `handler` run in the child of every fork that goes through libc.
pub fn on_fork_in_child(handler: extern "C" fn()) -> Result<()> {
    // SAFETY: the handler is a plain function that lives as long as the program.
    match unsafe { libc::pthread_atfork(None, None, Some(handler)) } {
        0 => Ok(()),
        errno => Err(Error::new("pthread_atfork", std::io::Error::from_raw_os_error(errno))),
    }
}

/// Makes `handler` run when the process exits in an orderly way (return from main, `std::process::exit`). See atexit(3).
pub fn on_exit(handler: extern "C" fn()) -> Result<()> {
    // SAFETY: the handler is a plain function that lives as long as the program.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(Error::new("atexit", rustix::io::Errno::NOMEM)),
    }
}

/// The calling process's id, asked from the kernel each time (a copy would be wrong after a fork).
pub fn pid() -> Pid {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() }
}

/// The parent's process id; 0 when it is in another pid namespace.
pub fn parent_pid() -> Pid {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() }
}

/// Whether the calling thread is the first of its process.
pub fn is_main_thread() -> bool {
    // SAFETY: gettid has no preconditions.
    pid() == unsafe { libc::gettid() }
}

/// Lets the kernel SIGKILL this process when the *thread* that forked it ends.
///
/// The caller must then check that the parent still was the parent: it may have died before this call.
pub fn die_with_parent_thread() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::new("prctl(PR_SET_PDEATHSIG)", error))
}

/// Makes descendants whose parent dies children of this process.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(pid()))
        .map_err(|error| Error::new("prctl(PR_SET_CHILD_SUBREAPER)", error))
}

/// Names the calling thread, as ps and top show it; the kernel keeps the first 15 bytes.
pub fn set_thread_name(name: &str) {
    let mut bytes = [0; 16];
    for (place, byte) in bytes[..15].iter_mut().zip(name.bytes().take_while(|byte| *byte != 0)) {
        *place = byte;
    }
    if let Ok(name) = std::ffi::CStr::from_bytes_until_nul(&bytes) {
        // A name is a courtesy: a failure has no consequence.
        let _ = rustix::thread::set_name(name);
    }
}

/// Whether there is a process `pid`, be it a zombie. Needs no descriptor. See kill(2).
pub fn exists(pid: Pid) -> bool {
    // SAFETY: as in `kill_child`; signal 0 only asks. EPERM: it is there, and somebody else's.
    pid > 0 && (unsafe { libc::kill(pid, 0) } == 0 || Error::last("kill").errno() != Some(libc::ESRCH))
}

/// Sends `signal` to `pid`. `Ok(false)` when there is no such process.
///
/// Only for one's own unreaped children: any other pid may mean somebody else by now.
pub fn kill_child(pid: Pid, signal: i32) -> Result<bool> {
    // SAFETY: kill takes any two integers; a positive pid names one process.
    if pid > 0 && unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(true);
    }
    match Error::last("kill") {
        error if error.errno() == Some(libc::ESRCH) => Ok(false),
        error => Err(error),
    }
}

/// Puts `keep` at the numbers `first..` in their order, inheritable by exec only if `inheritable`, and closes every other
/// descriptor from `first` on. Descriptors below `first` are left alone.
///
/// The descriptors of `keep` are given back at their new numbers. For a process of one thread at its start or just after a
/// fork: everything else that holds a descriptor loses it.
///
/// # Safety
/// Nothing that runs later in this process may use or close a descriptor that it held before, other than those given back.
pub unsafe fn keep_only(first: RawFd, keep: Vec<OwnedFd>, inheritable: bool) -> Result<Vec<OwnedFd>> {
    let end = first + keep.len() as RawFd;
    let flags = if inheritable { 0 } else { libc::O_CLOEXEC };
    // Those that sit where another one goes move out of the way first.
    let mut sources = Vec::with_capacity(keep.len());
    for fd in keep {
        let raw = match (first..end).contains(&fd.as_raw_fd()) {
            true => duplicate_above(&fd, end)?.into_raw_fd(),
            false => fd.as_raw_fd(),
        };
        // Not closed here: its number may be another one's place by then, or is closed with all others below.
        std::mem::forget(fd);
        sources.push(raw);
    }
    let mut kept = Vec::with_capacity(sources.len());
    for (target, source) in (first..).zip(sources) {
        // SAFETY: `source` is open and differs from `target`; what sat at `target` is given up, as the contract says.
        if unsafe { libc::dup3(source, target, flags) } < 0 {
            return Err(Error::last("dup3"));
        }
        // SAFETY: dup3 made `target` a descriptor that nothing else owns.
        kept.push(unsafe { OwnedFd::from_raw_fd(target) });
    }
    close_from(end);
    Ok(kept)
}

/// Closes every descriptor from `first` on, with close_range(2) or, before Linux 5.9, one by one.
fn close_from(first: RawFd) {
    // SAFETY: the caller (keep_only) has taken responsibility for every descriptor in the range.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return;
    }
    let open: Vec<RawFd> = crate::proc::descriptors(pid()).unwrap_or_default();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Closes the descriptors in `range`, except `left`.
///
/// # Safety
/// As [`keep_only`], for those in the range.
pub unsafe fn close_between(range: std::ops::Range<RawFd>, left: &[RawFd]) {
    for fd in range.filter(|fd| !left.contains(fd)) {
        // SAFETY: the caller's; a number that is not open is refused.
        unsafe { libc::close(fd) };
    }
}

/// Takes ownership of the inherited descriptor `raw` and makes it close-on-exec, or says that it is not open.
///
/// # Safety
/// Nothing else in this process may own `raw`.
pub unsafe fn inherited(raw: RawFd) -> Result<OwnedFd> {
    // SAFETY: a number that is not open makes the call fail; only after it is this an owner.
    let fd = unsafe { std::mem::ManuallyDrop::new(OwnedFd::from_raw_fd(raw)) };
    rustix::io::fcntl_setfd(&*fd, rustix::io::FdFlags::CLOEXEC)
        .map_err(|error| Error::new("fcntl(F_SETFD)", error))?;
    Ok(std::mem::ManuallyDrop::into_inner(fd))
}

/// Lets exec leave `fd` open.
pub fn keep_over_exec(fd: &OwnedFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
        .map_err(|error| Error::new("fcntl(F_SETFD)", error))
}

/// Writes out what C code of this process has buffered for standard output and standard error. See fflush(3).
///
/// Not all streams, as a null pointer would ask for: a thread that waits for input holds the lock of its stream meanwhile.
pub fn flush_c_streams() {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
        static stderr: *mut libc::FILE;
    }
    // SAFETY: libc's own streams, which are open or closed but always there; fflush locks them.
    unsafe {
        libc::fflush(stdout);
        libc::fflush(stderr);
    }
}

/// Duplicates `fd`, close-on-exec, to a number above the standard streams.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    duplicate_above(fd, 3)
}

fn duplicate_above(fd: impl AsFd, lowest: RawFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, lowest).map_err(|error| Error::new("fcntl(F_DUPFD_CLOEXEC)", error))
}
