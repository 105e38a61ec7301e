//! A lock, plain or recursive, and the bytes that it guards.
//!
//! ```text
//! lock word | depth | thread || bytes
//! ```
//!
//! `depth` and `thread` are written by the holder only, and 0 while nobody holds it. A recursive lock is held by one thread of one process: the word says which process, `thread`
//! which of its threads. Whoever takes the lock writes both anew, so that what a dead holder left there means nothing.

use std::ptr::NonNull;

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words, forks};
use crate::handle::{Handle, Primitive};
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
        if let Some(acquired) = self.try_acquire_again(me, thread) {
            return Ok(acquired);
        }
        let acquired = self.word.acquire(me, parking, deadline)?;
        self.begin(thread);
        Ok(acquired)
    }

    /// Takes the lock once more if this thread has it, or else if it is free.
    #[inline]
    pub fn try_acquire_again(&self, me: Owner, thread: u64) -> Option<Acquired> {
        if self.is_held_by(me, thread) {
            self.depth.store(self.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return Some(Acquired { owner_died: false });
        }
        let acquired = self.word.try_acquire(me)?;
        self.begin(thread);
        Some(acquired)
    }

    #[inline]
    fn begin(&self, thread: u64) {
        // Relaxed: only this thread reads its own number there and finds it its own.
        self.thread.store(thread, Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
    }

    /// Gives the lock back once. `false` when this thread does not hold it.
    pub fn release_once(&self, me: Owner, thread: u64, parking: &impl Parking) -> bool {
        if !self.is_held_by(me, thread) {
            return false;
        }
        // Only the holder writes it.
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
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
        if self.word.holder() == Some(dead) {
            // No thread of the next holder's process may find its own number there before it has the lock.
            self.thread.store(0, Ordering::Relaxed);
            self.depth.store(0, Ordering::Relaxed);
        }
        self.word.repair(dead);
    }
}

impl Primitive for Guarded {
    const KIND: Kind = Kind::Lock;
}

/// A lock that is held, by this process.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    me: Owner,
    forks: u32,
}

impl Held {
    /// Whether the calling process is the one that has taken it, and not a fork of that.
    #[inline]
    pub fn is_here(self) -> bool {
        self.forks == forks()
    }
}

/// The most bytes that lie with their lock: longer ones are memory of their own.
pub const MOST_BYTES: usize = 1024;

/// What the guarded bytes are aligned to.
pub const ALIGNMENT: usize = 64;

impl Handle<Guarded> {
    /// Makes a free lock that guards `length` bytes, at most [`MOST_BYTES`].
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena, length: usize, tag: u64) -> Result<Self, ArenaError> {
        let more = match length.min(MOST_BYTES) {
            0 => 0,
            length => ALIGNMENT - size_of::<Guarded>() + length,
        };
        Self::make(arena, more as u64, tag)
    }

    /// The guarded bytes: the first, aligned to [`ALIGNMENT`], and how many. Whoever reads or writes them has the lock.
    pub fn bytes(&self) -> (NonNull<u8>, usize) {
        let body = self.held().body();
        let length = (body.length() as usize).saturating_sub(ALIGNMENT);
        // SAFETY: within the body, or just at the end of its place, which is at least as long as the alignment.
        (unsafe { body.as_ptr().add(ALIGNMENT) }, length)
    }

    /// Takes the lock, waiting for it until `deadline`; `None` when the time was over.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<Option<Acquired>, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.word.acquire(me, arena, deadline).ok())
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<Acquired>, ArenaError> {
        let (words, me, _) = self.enter()?;
        Ok(words.word.try_acquire(me))
    }

    /// Takes the lock if it is free, or if the calling thread has it already.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn try_acquire_again(&self) -> Result<Option<Acquired>, ArenaError> {
        let (words, me, _) = self.enter()?;
        Ok(words.try_acquire_again(me, this_thread()))
    }

    /// Whether the calling process holds it.
    pub fn is_held_here(&self) -> bool {
        self.enter().is_ok_and(|(words, me, _)| words.word.holder() == Some(me))
    }

    /// Takes the lock, waiting for it until `deadline`; `None` when the time was over. Also gives what gives it back.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn hold(&self, deadline: Deadline) -> Result<Option<(Acquired, Held)>, ArenaError> {
        let (words, me, arena) = self.enter()?;
        let acquired = words.word.acquire(me, arena, deadline).ok();
        Ok(acquired.map(|acquired| (acquired, Held { me, forks: forks() })))
    }

    /// As [`hold`](Self::hold), if the lock is free, there is nothing to say about it, and nothing else is out of the ordinary.
    #[inline]
    pub fn hold_at_once(&self) -> Option<Held> {
        let (words, me, _) = self.enter().ok()?;
        words.word.try_take(me).then(|| Held { me, forks: forks() })
    }

    /// Gives back what [`hold`](Self::hold) has taken; in a fork, where it is not held, nothing.
    #[inline]
    pub fn let_go(&self, held: Held) {
        if held.is_here() {
            self.words().word.release(held.me, self.held().arena());
        }
    }

    /// Gives the lock back. `false` when this process does not hold it.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn release(&self) -> Result<bool, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.word.release(me, arena))
    }

    /// Gives the lock back, whoever holds it. `false` when nobody does.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release_for_anybody(&self) -> Result<bool, ArenaError> {
        let (words, _, arena) = self.enter()?;
        Ok(words.word.release_for_anybody(arena))
    }

    /// As [`acquire`](Self::acquire), for the calling thread, which may have it already.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn acquire_again(&self, deadline: Deadline) -> Result<Option<Acquired>, ArenaError> {
        Ok(self.hold_again(deadline)?.map(|(acquired, _)| acquired))
    }

    /// As [`acquire_again`](Self::acquire_again). Also gives what gives it back once.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn hold_again(&self, deadline: Deadline) -> Result<Option<(Acquired, Held)>, ArenaError> {
        let (words, me, arena) = self.enter()?;
        let acquired = words.acquire_again(me, this_thread(), arena, deadline).ok();
        Ok(acquired.map(|acquired| (acquired, Held { me, forks: forks() })))
    }

    /// Gives back once what [`hold_again`](Self::hold_again) has taken; in a fork, where it is not held, nothing.
    pub fn let_go_once(&self, held: Held) {
        if held.is_here() {
            self.words().release_once(held.me, this_thread(), self.held().arena());
        }
    }

    /// Gives the lock back once. `false` when the calling thread does not hold it.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release_once(&self) -> Result<bool, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.release_once(me, this_thread(), arena))
    }

    /// Gives a recursive lock back altogether; how often it was held.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release_all(&self) -> Result<u32, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.release_all(me, this_thread(), arena))
    }

    /// Takes back what [`release_all`](Self::release_all) has given.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn acquire_all(&self, depth: u32) -> Result<Acquired, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.acquire_all(me, this_thread(), depth, arena))
    }

    /// Whether anybody holds it.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn is_locked(&self) -> bool {
        self.look().word.holder().is_some()
    }

    /// Whether the calling thread holds it, as a recursive lock.
    pub fn is_mine(&self) -> bool {
        self.enter().is_ok_and(|(words, me, _)| words.is_held_by(me, this_thread()))
    }

    /// How often its holder has taken it, as a recursive lock.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn depth(&self) -> u32 {
        self.look().depth()
    }
}

/// A number that this thread has alone among those of its process; not 0.
fn this_thread() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    // A thread that is ending has no such number any more, and none of its locks is recursive by then.
    NUMBER.try_with(|number| *number).unwrap_or(u64::MAX)
}
