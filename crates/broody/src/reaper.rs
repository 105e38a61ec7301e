//! Reaping of direct children, and forgetting children that nobody holds.
//!
//! A child that ended stays a zombie until its parent waits for it. The supervisor reaps its own; what is left for this
//! process are the supervisor itself and the children of start method `fork`. The [`Reaper`] is one thread a process that waits
//! on their pidfds, never by `waitpid(-1)`: other children belong to the host program. It has every signal blocked, so that the
//! host's handlers never run on it.
//!
//! It also looks after children whose last handle was dropped, to let go of their descriptors when their end is reported. For those that
//! have ended, which is what a joined child has, that is a matter of microseconds: they are put aside, for the next start to look after
//! or, if there is none within [`PAUSE`], for the thread. It is not woken for each.
//!
//! A supervisor ends with its program, unless somebody ends it. It is left for a second to whoever has done that, as he may wait for it: it is
//! reaped then, if he has not.
//!
//! After a fork the child has no such thread; its own context starts one when it needs it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broody_os::events::{Epoll, EventFd, Trigger};

use crate::context::{Context, lock};
use crate::helper;
use crate::process::Shared;
use crate::supervisor::link::Link;

/// A handle on the thread.
pub(crate) struct Reaper {
    state: Arc<State>,
}

struct State {
    epoll: Epoll,
    watched: Mutex<BTreeMap<u64, Watched>>,
    departed: Mutex<Departed>,
    /// Tells the thread that there is somebody to look after.
    bell: EventFd,
}

/// Children that have ended and that nobody holds.
#[derive(Default)]
struct Departed {
    unreported: Vec<Arc<Shared>>,
    /// The thread looks after them every [`PAUSE`].
    attended: bool,
}

/// How long children that have ended are left to the next start.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a lost supervisor is left to others.
const LEFT: Duration = Duration::from_secs(1);

const TOKEN_BELL: u64 = 0;

#[derive(Clone)]
enum Watched {
    Supervisor(Arc<Link>),
    Child(Arc<Shared>),
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let epoll = Epoll::new().map_err(|error| error.source)?;
        let bell = EventFd::new().map_err(|error| error.source)?;
        epoll.add(&bell, TOKEN_BELL, Trigger::Edge).map_err(|error| error.source)?;
        let state = Arc::new(State { epoll, watched: Mutex::default(), departed: Mutex::default(), bell });
        let theirs = state.clone();
        helper::start("broody-reaper", move || theirs.work())?;
        Ok(Self { state })
    }

    /// Reaps the supervisor when it ends.
    pub(crate) fn watch_supervisor(&self, link: &Arc<Link>) {
        if let Ok(pidfd) = link.pidfd() {
            // Supervisors have no number of their own; pids of supervisors and numbers of children must not meet.
            let token = u64::MAX - link.pid() as u64;
            self.state.watch(token, Watched::Supervisor(link.clone()), pidfd.as_fd());
        }
    }

    /// Looks after `child`, which has ended, until that is reported.
    pub(crate) fn await_report(&self, child: &Arc<Shared>) {
        let mut departed = lock(&self.state.departed);
        departed.unreported.push(child.clone());
        if !std::mem::replace(&mut departed.attended, true) {
            self.state.bell.signal();
        }
    }

    /// Lets go of those whose end has been reported.
    pub(crate) fn sweep(&self) {
        self.state.sweep();
    }

    /// Leaves `child` to a thread that waits for it, and that will have it [watched](Self::watch) again if it has not ended by then.
    pub(crate) fn leave(&self, child: &Shared) {
        self.state.forget(child.number(), child.wake_descriptor());
    }

    /// Looks after `child` until it has ended. Does nothing for one that is being watched.
    pub(crate) fn watch(&self, child: &Arc<Shared>) {
        self.state.watch(child.number(), Watched::Child(child.clone()), child.wake_descriptor());
    }
}

impl State {
    fn watch(&self, token: u64, watched: Watched, fd: std::os::fd::BorrowedFd<'_>) {
        // The lock is held until both are done, so that an event always finds its entry.
        let mut entries = lock(&self.watched);
        if !entries.contains_key(&token) && self.epoll.add(fd, token, Trigger::Level).is_ok() {
            entries.insert(token, watched);
        }
    }

    fn forget(&self, token: u64, fd: std::os::fd::BorrowedFd<'_>) {
        let mut entries = lock(&self.watched);
        if entries.remove(&token).is_some() {
            self.epoll.remove(fd);
        }
    }

    /// Whether somebody is left.
    fn sweep(&self) -> bool {
        let mut departed = lock(&self.departed);
        departed.unreported.retain(|child| !child.settle());
        !departed.unreported.is_empty()
    }

    fn work(&self) {
        let mut ready = Vec::with_capacity(64);
        let mut limit = None;
        let mut lost: Vec<(Instant, Arc<Link>)> = Vec::new();
        loop {
            let until_reaped = lost.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            // It fails only for a broken epoll descriptor, which somebody closed under us: nothing is left to watch.
            if self.epoll.wait(&mut ready, limit.into_iter().chain(until_reaped).min()).is_err() {
                return;
            }
            let due = lost.partition_point(|(at, _)| *at <= Instant::now());
            lost.drain(..due).for_each(|(_, link)| link.reap());
            if limit.is_some() && ready.is_empty() && !self.sweep() {
                let mut departed = lock(&self.departed);
                departed.attended = !departed.unreported.is_empty();
                limit = departed.attended.then_some(PAUSE);
            } else if lock(&self.departed).attended {
                limit = Some(PAUSE);
            }
            for token in ready.drain(..) {
                let Some(watched) = lock(&self.watched).get(&token).cloned() else { continue };
                let ended = match &watched {
                    Watched::Supervisor(link) => link.check(),
                    Watched::Child(child) => child.settle(),
                };
                if ended {
                    match &watched {
                        Watched::Supervisor(link) => {
                            if let Ok(pidfd) = link.pidfd() {
                                self.forget(token, pidfd.as_fd());
                            }
                            lost.push((Instant::now() + LEFT, link.clone()));
                            Context::current().supervisor_lost();
                        }
                        Watched::Child(child) => self.forget(token, child.wake_descriptor()),
                    }
                }
            }
        }
    }
}
