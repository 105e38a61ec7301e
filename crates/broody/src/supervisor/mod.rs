//! The supervisor: fork server, guardian and child subreaper of one program, in one small process.
//!
//! ```text
//! host program (any threads, any SIGCHLD policy)
//!   | request socket (shared by all processes of the program) + pidfd each way
//! supervisor (one thread; PR_SET_CHILD_SUBREAPER; sees the host die by its pidfd, kills and reaps everything, exits)
//!   |-- child 1..N   PR_SET_PDEATHSIG=SIGKILL: the supervisor's only thread is the parent thread
//!         '-- what children start themselves: falls to the supervisor when the child dies, and is killed and reaped
//! ```
//!
//! It is a process of its own because a library must not take the host's SIGCHLD, wait for its other children or make it a
//! subreaper; because PDEATHSIG follows the thread that forked; and because forking the host is unsafe when it has threads and
//! slow when it is large.
//!
//! # Who owns what, and what a SIGKILL leaves
//!
//! Each start has its own *channel*, a message socket pair. The starter keeps one end; the other goes with the request to the
//! supervisor, which keeps it to report the start and the end, and to the child, which sends its outcome there. A message is
//! there as a whole or not at all.
//!
//! * The **starter** dies before it sends: nobody knows of the start. After: the child runs until the starter's death is seen,
//!   and is killed (a child dies with the process that started it, unless it was detached).
//! * The **supervisor** dies: the kernel kills its children (PDEATHSIG); starters see its pidfd and report
//!   [`Error::SupervisorLost`](crate::Error::SupervisorLost). The next start makes a new one. Children of the start method
//!   `fork` are the host's own: they live on and are given to the new supervisor.
//! * A **child** dies: the supervisor looks at it (WNOWAIT), kills what it had started, reaps it and reports its status.
//! * The **host** dies: everything is killed and reaped, and the supervisor exits. Detached children are left alone; the
//!   supervisor stays for them until the last has ended.
//!
//! Nothing trusts an end of file, since a descendant may have inherited the other end: the pidfd is the truth.

pub(crate) mod child;
pub(crate) mod link;
pub(crate) mod protocol;
mod repair;
pub(crate) mod server;
mod spare;
