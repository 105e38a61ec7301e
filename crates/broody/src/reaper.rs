//! Reaping of direct children, and forgetting children that nobody holds.
//!
//! A child that ended stays a zombie until its parent waits for it. The supervisor reaps its own; what is left for this
//! process are the supervisor itself and the children of start method `fork`. The [`Reaper`] is one thread a process that waits
//! on their pidfds, never by `waitpid(-1)`: other children belong to the host program. It has every signal blocked, so that the
//! host's handlers never run on it.
//!
//! It also watches children whose last handle was dropped, to let go of their descriptors when they end.
//!
//! After a fork the child has no such thread; its own context starts one when it needs it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use broody_os::events::{Epoll, Trigger};
use broody_os::{fork, signals};

use crate::context::{Context, lock};
use crate::process::Shared;
use crate::supervisor::link::Link;

/// A handle on the thread.
pub(crate) struct Reaper {
    state: Arc<State>,
}

struct State {
    epoll: Epoll,
    watched: Mutex<BTreeMap<u64, Watched>>,
}

#[derive(Clone)]
enum Watched {
    Supervisor(Arc<Link>),
    Child(Arc<Shared>),
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let epoll = Epoll::new().map_err(|error| error.source)?;
        let state = Arc::new(State { epoll, watched: Mutex::default() });
        let theirs = state.clone();
        signals::with_all_blocked(|| {
            std::thread::Builder::new().name("broody-reaper".to_owned()).stack_size(256 * 1024).spawn(
                move || {
                    fork::set_thread_name("broody-reaper");
                    theirs.work();
                },
            )
        })?;
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

    fn work(&self) {
        let mut ready = Vec::with_capacity(64);
        loop {
            // It fails only for a broken epoll descriptor, which somebody closed under us: nothing is left to watch.
            if self.epoll.wait(&mut ready, None).is_err() {
                return;
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
                                self.epoll.remove(pidfd);
                            }
                            Context::current().supervisor_lost();
                        }
                        Watched::Child(child) => self.epoll.remove(child.wake_descriptor()),
                    }
                    lock(&self.watched).remove(&token);
                }
            }
        }
    }
}
