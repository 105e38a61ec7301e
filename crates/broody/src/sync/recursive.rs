//! A lock that its holder can take again.

use std::marker::PhantomData;
use std::time::Duration;

use broody_shm::handle::Handle;
use broody_shm::robust::guarded::{Guarded, Held};
use broody_shm::sync::Deadline;

use super::lock::{LockError, LockResult, OwnerDied, deadline};
use crate::handle::sent_as_handle;
use crate::{Error, Result, memory};

const RECURSIVE: u64 = 2;

/// A recursive lock, as Python's `multiprocessing.RLock`: it belongs to one thread of one process, which may take it again and must release
/// it as often.
///
/// See <https://docs.python.org/3/library/multiprocessing.html#multiprocessing.RLock>.
///
/// ```
/// # broody::init();
/// let lock = broody::RLock::new()?;
/// let once = lock.lock()?;
/// let twice = lock.lock()?;
/// assert_eq!(lock.depth(), 2);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RLock(Handle<Guarded>);

impl RLock {
    /// Makes a lock that is free.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self(Handle::<Guarded>::new(memory::arena()?, 0, RECURSIVE)?))
    }

    /// Takes the lock until the guard is dropped, waiting for it if another thread or process has it.
    ///
    /// # Errors
    /// As [`Lock::lock`](crate::Lock::lock): [`LockError::OwnerDied`], with the guard, when the holder before was ended while it held it.
    pub fn lock(&self) -> LockResult<RLockGuard<'_>> {
        self.lock_until(Deadline::Never)
    }

    /// As [`lock`](Self::lock), if no other thread or process has the lock.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] when another one has it, and as [`lock`](Self::lock).
    pub fn try_lock(&self) -> LockResult<RLockGuard<'_>> {
        self.lock_until(Deadline::Now)
    }

    /// As [`lock`](Self::lock), waiting at most for `limit`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] when it was not free in time, and as [`lock`](Self::lock).
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<RLockGuard<'_>> {
        self.lock_until(Deadline::after(limit))
    }

    fn lock_until(&self, deadline: Deadline) -> LockResult<RLockGuard<'_>> {
        let held = self.0.hold_again(deadline).map_err(|error| LockError::Failed(error.into()))?;
        let (acquired, held) = held.ok_or(LockError::TimedOut)?;
        let guard = RLockGuard { lock: self, held, not_send: PhantomData };
        if acquired.owner_died { Err(LockError::OwnerDied(guard)) } else { Ok(guard) }
    }

    /// Takes the lock, waiting at most for `limit` if there is one; `Some(Duration::ZERO)` only tries. `None` when it was not free in time;
    /// else whether its last holder died with it.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn acquire(&self, limit: Option<Duration>) -> Result<Option<OwnerDied>> {
        let acquired = self.0.acquire_again(deadline(limit))?;
        Ok(acquired.map(|acquired| OwnerDied(acquired.owner_died)))
    }

    /// Takes the lock if it is free or this thread's, without any wait. `None` when another one has it; else whether its last holder died with it.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<OwnerDied>> {
        Ok(self.0.try_acquire_again()?.map(|acquired| OwnerDied(acquired.owner_died)))
    }

    /// Whether this process has the lock, by any of its threads.
    pub fn is_held_here(&self) -> bool {
        self.0.is_held_here()
    }

    /// Gives the lock back once.
    ///
    /// # Errors
    /// [`NotHeld`](Error::NotHeld) when another thread or process has it, or nobody.
    pub fn release(&self) -> Result<()> {
        if self.0.release_once()? {
            Ok(())
        } else {
            Err(Error::NotHeld { what: "recursive lock", by: "by this thread" })
        }
    }

    /// Whether anybody has it, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn locked(&self) -> bool {
        self.0.is_locked()
    }

    /// Whether the calling thread has it.
    pub fn is_mine(&self) -> bool {
        self.0.is_mine()
    }

    /// How often its holder has taken it.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn depth(&self) -> u32 {
        self.0.depth()
    }

    pub(super) fn handle(&self) -> &Handle<Guarded> {
        &self.0
    }
}

sent_as_handle!(RLock; |lock| lock.0.held(), |held| {
    if held.tag() == RECURSIVE { Handle::from_held(held).map(RLock) } else { None }
});

/// A recursive lock that is held; dropping this gives it back once. In a fork, this is a copy that holds nothing.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    held: Held,
    /// Only the thread that has it gives it back.
    not_send: PhantomData<*const ()>,
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        self.lock.0.let_go_once(self.held);
    }
}
