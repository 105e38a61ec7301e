//! The one error of this crate: which system call failed, why, and what usually helps.

use std::io;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The errno of calls about a process that is not there: ESRCH.
pub const NO_SUCH_PROCESS: i32 = libc::ESRCH;

/// A system call failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}{}", remedy(.call, .source))]
pub struct Error {
    /// The system call, as its manual page is called.
    pub call: &'static str,
    /// What the kernel answered.
    pub source: io::Error,
}

impl Error {
    /// An error from the kernel's answer to `call`.
    pub fn new(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self { call, source: source.into() }
    }

    /// An error from `errno`, for calls made through libc.
    pub fn last(call: &'static str) -> Self {
        Self { call, source: io::Error::last_os_error() }
    }

    /// The errno that the kernel gave, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What usually helps, as the end of a sentence; empty where nothing general can be said.
///
/// See errno(3), and getrlimit(2) for the limits that are named.
fn remedy(call: &str, source: &io::Error) -> &'static str {
    match (call, source.raw_os_error()) {
        (_, Some(libc::ENOSYS)) => {
            "; broody needs Linux 5.4 or newer, and a seccomp profile that hides this call must allow it"
        }
        ("fork" | "clone", Some(libc::EAGAIN)) => {
            "; the user's limit of processes (ulimit -u, RLIMIT_NPROC) or the cgroup's pids.max is reached: \
             raise it or start fewer processes"
        }
        (_, Some(libc::EMFILE)) => {
            "; this process's limit of open descriptors (ulimit -n, RLIMIT_NOFILE) is reached: raise it or \
             keep fewer processes and files open"
        }
        (_, Some(libc::ENFILE)) => "; the machine's limit of open files (fs.file-max) is reached",
        ("mmap", Some(libc::ENOMEM)) => {
            "; there is no room in this process's address space (ulimit -v, RLIMIT_AS), or it has too many mappings \
             (vm.max_map_count)"
        }
        ("ftruncate", Some(libc::EFBIG)) => {
            "; the limit of file sizes (ulimit -f, RLIMIT_FSIZE) holds for shared memory, too: raise it"
        }
        (_, Some(libc::ENOMEM | libc::ENOSPC)) => {
            "; there is not enough memory (or its cgroup's limit is reached)"
        }
        (_, Some(libc::ETOOMANYREFS)) => {
            "; too many descriptors are in flight for this user (RLIMIT_NOFILE): raise the limit"
        }
        _ => "",
    }
}
