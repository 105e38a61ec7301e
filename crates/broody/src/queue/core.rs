//! A queue of bytes, and this process's watch over it.

#![allow(unsafe_code)]

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use broody_os::events::EventFd;
use broody_shm::arena::forks;
use broody_shm::queue;

use crate::Result;
use crate::context::Context;

/// What the handles of this process on one queue share.
#[derive(Debug)]
pub(crate) struct Core {
    queue: Arc<queue::Queue>,
    /// This process's, if there is one; or that of a process that this one was forked from. No lock guards it: a thread that a fork
    /// does not have could hold it.
    watch: AtomicPtr<Watching>,
}

/// A process's watch over a queue. Freed with the [`Core`], so that whoever has that can look at it.
#[derive(Debug)]
struct Watching {
    watch: Arc<Watch>,
    /// Whose it is: a fork has to make its own.
    forks: u32,
    /// Of the process that this one was forked from.
    before: AtomicPtr<Watching>,
}

/// A descriptor that is readable while a queue has something to be taken.
#[derive(Debug)]
pub(crate) struct Watch {
    queue: Arc<queue::Queue>,
    event: EventFd,
}

impl Core {
    pub(super) fn new(queue: queue::Queue) -> Arc<Self> {
        Arc::new(Self { queue: Arc::new(queue), watch: AtomicPtr::new(ptr::null_mut()) })
    }

    /// A descriptor that is readable while there is something to be taken, or the queue is closed.
    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        // Acquire, here and below: pairs with the release that published it.
        let before = self.watch.load(Ordering::Acquire);
        if let Some(watch) = self.own(before) {
            return Ok(watch.clone());
        }
        let watch = Arc::new(Watch { queue: self.queue.clone(), event: EventFd::new()? });
        Context::current().watcher().add(&watch)?;
        let made = Watching { watch: watch.clone(), forks: forks(), before: AtomicPtr::new(before) };
        let made = Box::into_raw(Box::new(made));
        match self.watch.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(watch),
            Err(theirs) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                // Another thread of this process was faster.
                Ok(self.own(theirs).map_or(watch, Arc::clone))
            }
        }
    }

    /// The watch, if it is this process's.
    #[inline]
    fn own(&self, watching: *mut Watching) -> Option<&Arc<Watch>> {
        // SAFETY: what was ever stored in `watch` is freed only with `self`.
        let watching = unsafe { watching.as_ref() }?;
        (watching.forks == forks()).then_some(&watching.watch)
    }

    /// Something was taken, or was to be: the descriptor may have to become unreadable.
    #[inline]
    pub(super) fn after_take(&self) {
        let watching = self.watch.load(Ordering::Acquire);
        if !watching.is_null() {
            self.look_again(watching);
        }
    }

    #[cold]
    fn look_again(&self, watching: *mut Watching) {
        if let Some(watch) = self.own(watching) {
            watch.look_again();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let mut next = *self.watch.get_mut();
        while !next.is_null() {
            // SAFETY: each was made by `watch`, and nobody has this any more.
            let mut watching = unsafe { Box::from_raw(next) };
            next = *watching.before.get_mut();
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
