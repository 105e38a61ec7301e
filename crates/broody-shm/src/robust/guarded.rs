//! A lock, plain or recursive, and the bytes that it guards.
//!
//! ```text
//! lock word | depth | thread || bytes
//! ```
//!
//! `depth` and `thread` are written by the holder only. A recursive lock is held by one thread of one process: the word says which process, `thread`
//! which of its threads. Whoever takes the lock writes both anew, so that what a dead holder left there means nothing.

use crate::arena::Words;
use crate::owner::Owner;
use crate::robust::lock::{Acquired, LockWord};
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering, Parking, TimedOut};

/// The words, in shared memory. All zero bytes are free.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Guarded {
    word: LockWord,
    depth: AtomicU32,
    thread: AtomicU64,
}

// SAFETY: atomics.
unsafe impl Words for Guarded {}

impl Guarded {
    /// The lock.
    #[inline]
    pub fn lock(&self) -> &LockWord {
        &self.word
    }

    /// Takes the lock once more if this thread has it, or else waits for it.
    ///
    /// # Errors
    /// [`TimedOut`].
    pub fn acquire_again(
        &self,
        me: Owner,
        thread: u64,
        parking: &impl Parking,
        deadline: Deadline,
    ) -> Result<Acquired, TimedOut> {
        if self.is_held_by(me, thread) {
            self.depth.fetch_add(1, Ordering::Relaxed);
            return Ok(Acquired { owner_died: false });
        }
        let acquired = self.word.acquire(me, parking, deadline)?;
        // Relaxed: only this thread reads its own number there and finds it its own.
        self.thread.store(thread, Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
        Ok(acquired)
    }

    /// Gives the lock back once. `false` when this thread does not hold it.
    pub fn release_once(&self, me: Owner, thread: u64, parking: &impl Parking) -> bool {
        if !self.is_held_by(me, thread) {
            return false;
        }
        if self.depth.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.thread.store(0, Ordering::Relaxed);
            self.word.release(me, parking);
        }
        true
    }

    /// Gives the lock back altogether, for a wait; gives how often it was held.
    pub fn release_all(&self, me: Owner, thread: u64, parking: &impl Parking) -> u32 {
        if !self.is_held_by(me, thread) {
            return 0;
        }
        let depth = self.depth.swap(0, Ordering::Relaxed);
        self.thread.store(0, Ordering::Relaxed);
        self.word.release(me, parking);
        depth
    }

    /// Takes back what [`release_all`](Self::release_all) has given.
    pub fn acquire_all(&self, me: Owner, thread: u64, depth: u32, parking: &impl Parking) -> Acquired {
        loop {
            if let Ok(acquired) = self.acquire_again(me, thread, parking, Deadline::Never) {
                self.depth.store(depth, Ordering::Relaxed);
                return acquired;
            }
        }
    }

    /// Whether this thread holds it.
    pub fn is_held_by(&self, me: Owner, thread: u64) -> bool {
        self.word.holder() == Some(me) && self.thread.load(Ordering::Relaxed) == thread
    }

    /// How often its holder has taken it.
    pub fn depth(&self) -> u32 {
        if self.word.holder().is_some() { self.depth.load(Ordering::Relaxed) } else { 0 }
    }

    pub(crate) fn repair(&self, dead: Owner) {
        self.word.repair(dead);
    }
}
