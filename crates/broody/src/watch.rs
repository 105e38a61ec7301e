//! What can be polled: something in shared memory, with a descriptor that this process has for it.
//!
//! See [`watcher`](crate::watcher) for who signals the descriptors.

#![allow(unsafe_code)]

use std::fmt::Debug;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use broody_os::events::EventFd;
use broody_shm::arena::forks;

use crate::Result;
use crate::context::Context;

/// Something that rings the bells when it becomes ready, if it was asked to.
pub(crate) trait Pollable: Debug + Send + Sync + 'static {
    /// Whether there is something to be had.
    fn is_ready(&self) -> bool;

    /// Whoever makes it ready next shall ring the bells. Who asks looks after this.
    fn ask_to_be_told(&self);

    /// Nobody has told for a while: looks whether those live that it depends on.
    fn look_after_others(&self) {}
}

/// Something pollable, and this process's watch over it if there is one.
#[derive(Debug)]
pub(crate) struct Watched<P> {
    it: Arc<P>,
    /// This process's, if there is one; or that of a process that this one was forked from. No lock guards it: a thread that a fork
    /// does not have could hold it.
    watch: AtomicPtr<Watching>,
}

/// A process's watch. Freed with the [`Watched`], so that whoever has that can look at it.
#[derive(Debug)]
struct Watching {
    watch: Arc<Watch>,
    /// Whose it is: a fork has to make its own.
    forks: u32,
    /// Of the process that this one was forked from.
    before: AtomicPtr<Watching>,
}

/// A descriptor that is readable while something is ready.
#[derive(Debug)]
pub(crate) struct Watch {
    it: Arc<dyn Pollable>,
    event: EventFd,
}

impl<P: Pollable> Watched<P> {
    pub(crate) fn new(it: P) -> Arc<Self> {
        Arc::new(Self { it: Arc::new(it), watch: AtomicPtr::new(ptr::null_mut()) })
    }

    /// A descriptor that is readable while it is ready.
    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        // Acquire, here and below: pairs with the release that published it.
        let before = self.watch.load(Ordering::Acquire);
        if let Some(watch) = self.own(before) {
            return Ok(watch.clone());
        }
        let watch = Arc::new(Watch { it: self.it.clone(), event: EventFd::new()? });
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
    pub(crate) fn after_take(&self) {
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

impl<P> Drop for Watched<P> {
    fn drop(&mut self) {
        let mut next = *self.watch.get_mut();
        while !next.is_null() {
            // SAFETY: each was made by `watch`, and nobody has this any more.
            let mut watching = unsafe { Box::from_raw(next) };
            next = *watching.before.get_mut();
        }
    }
}

impl<P> Deref for Watched<P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        &self.it
    }
}

impl Watch {
    /// Whether it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.it.is_ready()
    }

    /// Makes the descriptor unreadable where it is not ready, and asks to be told when it is.
    pub(crate) fn look_again(&self) {
        if self.is_ready() {
            return;
        }
        self.event.reset();
        self.it.ask_to_be_told();
        // What came in between told nobody.
        self.tell();
    }

    /// See [`Pollable::look_after_others`].
    pub(crate) fn look_after_others(&self) {
        self.it.look_after_others();
    }

    /// Makes the descriptor readable where it is ready.
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
