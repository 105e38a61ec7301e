//! A child that is forked before it is asked for.
//!
//! A fork takes most of the time of a start. While starts come one upon another the supervisor therefore forks the next child as soon
//! as it has nothing else to do; the child waits on a socket for what it shall be. When no start has come for a while the socket
//! is closed, and the spare child ends: a program at rest has no such process.
//!
//! A spare that dies is reaped like any child and nobody misses it: a start that cannot be handed over forks instead.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use broody_os::fork::Fork;
use broody_os::pidfd::PidFd;
use broody_os::{Pid, socket};

use super::child;
use super::protocol::{self, Request, Start};
use super::server::Inherited;
use crate::embed;

/// Starts that are no further apart than this come one upon another.
const BUSY: Duration = Duration::from_millis(10);

/// How long a spare child is kept without being asked for.
const KEPT: Duration = Duration::from_millis(100);

/// A child that waits to be told what it shall be.
#[derive(Debug)]
struct Spare {
    pid: Pid,
    pidfd: PidFd,
    socket: OwnedFd,
}

/// The supervisor's spare child, if it has one, and when it needs one.
#[derive(Debug, Default)]
pub(super) struct Spares {
    waiting: Option<Spare>,
    last_start: Option<Instant>,
    wanted: bool,
}

impl Spares {
    /// A process was asked for: there may soon be more.
    pub(super) fn note_start(&mut self) {
        let now = Instant::now();
        self.wanted = self.last_start.is_some_and(|last| now - last < BUSY);
        self.last_start = Some(now);
    }

    /// Lets the spare child, if there is one, become the process that `start` describes. The first of `descriptors` is its channel.
    pub(super) fn hand_over(
        &mut self,
        start: &Start,
        argument: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Option<(Pid, PidFd)> {
        let Spare { pid, pidfd, socket } = self.waiting.take()?;
        // The request as it came: a spare child understands what the supervisor does.
        let request = Request::Start(start.clone());
        protocol::send(socket, &request, argument, descriptors, false).ok().map(|()| (pid, pidfd))
    }

    /// With nothing else to do: forks a spare child if one is wanted, and lets go of one that is not.
    pub(super) fn tend(&mut self, inherited: &Inherited) {
        if self.waiting.is_some() && self.last_start.is_none_or(|last| last.elapsed() > KEPT) {
            self.waiting = None;
        }
        if std::mem::take(&mut self.wanted) && self.waiting.is_none() {
            // Without room for a process there is no spare one.
            self.waiting = fork_one(inherited).ok();
        }
    }

    /// How long until the spare child is to be let go.
    pub(super) fn until_release(&self) -> Option<Duration> {
        let last = self.last_start.filter(|_| self.waiting.is_some())?;
        Some((KEPT + Duration::from_millis(1)).saturating_sub(last.elapsed()))
    }

    /// Whether `pid` is the spare child.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.waiting.as_ref().is_some_and(|spare| spare.pid == pid)
    }

    /// Lets go of the spare child.
    pub(super) fn release(&mut self) {
        self.waiting = None;
        self.wanted = false;
    }
}

fn fork_one(inherited: &Inherited) -> broody_os::Result<Spare> {
    let (ours, theirs) = socket::pair()?;
    // SAFETY: as for any other child, see `server`.
    #[allow(unsafe_code)]
    let forked = unsafe { embed::fork() }?;
    match forked {
        Fork::Child => child::wait(inherited, theirs),
        // Its pid is its own until the supervisor reaps it. Without a handle it is of no use, and finds the socket closed.
        Fork::Parent(pid) => Ok(Spare { pid, pidfd: PidFd::open(pid)?, socket: ours }),
    }
}
