//! The calling process, its parent and its children.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use broody_os::pidfd::PidFd;
use broody_os::{Pid, limits};

use super::handle::Process;
use super::{Shared, StartMethod};
use crate::context::{Context, lock};
use crate::{Error, Result};

/// The calling process, as broody started it or found it.
#[derive(Debug, Clone)]
pub struct CurrentProcess {
    name: String,
    pid: Pid,
    daemon: bool,
    method: Option<StartMethod>,
}

/// The calling process.
///
/// ```
/// # broody::init();
/// assert_eq!(broody::current_process().name(), "main");
/// assert_eq!(broody::current_process().pid() as u32, std::process::id());
/// ```
pub fn current_process() -> CurrentProcess {
    let context = Context::current();
    let identity = &context.identity;
    CurrentProcess {
        name: identity.name.clone(),
        pid: context.pid,
        daemon: identity.daemon,
        method: identity.method,
    }
}

impl CurrentProcess {
    /// Its name; `main` for a process that broody did not start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it was started as a daemon.
    pub fn is_daemon(&self) -> bool {
        self.daemon
    }

    /// How it was started; `None` for a process that broody did not start.
    pub fn start_method(&self) -> Option<StartMethod> {
        self.method
    }
}

/// The process that started the calling one.
#[derive(Debug)]
pub struct ParentProcess {
    name: String,
    pid: Pid,
    pidfd: Option<PidFd>,
}

/// The process that started the calling one through broody; `None` where broody did not start it.
///
/// For `forkserver` and `spawn` that is not the parent in the kernel's sense, which is the supervisor.
pub fn parent_process() -> Option<ParentProcess> {
    let parent = Context::current().identity.parent.clone()?;
    // A child ends with the process that started it, unless it is detached, so that the number is that process's in all but
    // the last case. There, a start time after ours gives an impostor away.
    let pidfd = PidFd::open(parent.pid).ok().filter(|_| !started_after_us(parent.pid));
    Some(ParentProcess { name: parent.name, pid: parent.pid, pidfd })
}

fn started_after_us(pid: Pid) -> bool {
    let start = |pid| broody_os::proc::stat(pid).ok()?.map(|stat| stat.start_time);
    match (start(pid), start(broody_os::fork::pid())) {
        (Some(theirs), Some(ours)) => theirs > ours,
        _ => true,
    }
}

impl ParentProcess {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| !pidfd.has_ended().unwrap_or(true))
    }

    /// A descriptor that becomes readable when it ends; `None` when it has ended already.
    pub fn sentinel(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }
}

/// The children of this process that have not ended, oldest first, without those that were detached.
pub fn active_children() -> Vec<Process> {
    let children: Vec<Arc<Shared>> = lock(&Context::current().children).values().cloned().collect();
    children.into_iter().filter(|child| !child.has_ended()).map(Process::new).collect()
}

/// How many CPUs this process may use: those of its affinity mask (sched_getaffinity(2)), or fewer where a cgroup has a
/// quota of CPU time. At least 1.
pub fn cpu_count() -> usize {
    limits::cpu_count()
}

/// All descriptors that this process was started with; once.
pub(crate) fn take_all_own_descriptors() -> Vec<OwnedFd> {
    std::mem::take(&mut *lock(&Context::current().own_descriptors))
}

/// The descriptors that this process was started with for its function's own use; once.
pub(crate) fn take_own_descriptors<const N: usize>() -> Result<[OwnedFd; N]> {
    take_all_own_descriptors().try_into().map_err(|own: Vec<_>| Error::Invalid {
        what: format!("this function needs {N} descriptors of its own and was started with {}", own.len()),
    })
}
