//! A queue of bytes, and this process's watch over it.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use broody_os::Pid;
use broody_os::events::EventFd;
use broody_os::fork;
use broody_shm::queue;

use crate::Result;
use crate::context::{Context, lock};

/// What the handles of this process on one queue share.
#[derive(Debug)]
pub(crate) struct Core {
    queue: Arc<queue::Queue>,
    watch: Mutex<Option<Arc<Watch>>>,
    /// Whether there is a watch: saves the look at the lock.
    watched: AtomicBool,
}

/// A descriptor that is readable while a queue has something to be taken.
#[derive(Debug)]
pub(crate) struct Watch {
    queue: Arc<queue::Queue>,
    event: EventFd,
    /// Whose it is: a fork has to make its own.
    process: Pid,
}

impl Core {
    pub(super) fn new(queue: queue::Queue) -> Arc<Self> {
        Arc::new(Self { queue: Arc::new(queue), watch: Mutex::new(None), watched: AtomicBool::new(false) })
    }

    /// A descriptor that is readable while there is something to be taken, or the queue is closed.
    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        let mut watch = lock(&self.watch);
        let process = fork::pid();
        if let Some(watch) = watch.as_ref().filter(|watch| watch.process == process) {
            return Ok(watch.clone());
        }
        let made = Arc::new(Watch { queue: self.queue.clone(), event: EventFd::new()?, process });
        Context::current().watcher().add(&made)?;
        *watch = Some(made.clone());
        self.watched.store(true, Ordering::Relaxed);
        Ok(made)
    }

    /// Something was taken, or was to be: the descriptor may have to become unreadable.
    #[inline]
    pub(super) fn after_take(&self) {
        if self.watched.load(Ordering::Relaxed) {
            self.look_again();
        }
    }

    #[cold]
    fn look_again(&self) {
        if let Some(watch) = lock(&self.watch).as_ref() {
            watch.look_again();
        }
    }
}

impl Deref for Core {
    type Target = queue::Queue;

    fn deref(&self) -> &queue::Queue {
        &self.queue
    }
}

impl Watch {
    /// Whether there is something to be taken, or never will be.
    pub(crate) fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.queue.is_closed()
    }

    /// Makes the descriptor unreadable where there is nothing to be taken, and asks to be told of what comes.
    pub(crate) fn look_again(&self) {
        if self.is_ready() {
            return;
        }
        self.event.reset();
        self.queue.ask_to_be_told();
        // What came in between told nobody.
        self.tell();
    }

    /// Makes the descriptor readable where there is something to be taken.
    pub(crate) fn tell(&self) {
        if self.is_ready() {
            self.event.signal();
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
