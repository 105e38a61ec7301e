//! A lock that its holder can take again.

use std::marker::PhantomData;
use std::time::Duration;

use broody_shm::handle::Handle;
use broody_shm::robust::guarded::{Guarded, Held};
use broody_shm::sync::Deadline;

use super::lock::{OwnerDied, deadline};
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
    /// [`OwnerDied`](Error::OwnerDied) when the holder before was ended while it held it (and then it is free again);
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn lock(&self) -> Result<RLockGuard<'_>> {
        let (acquired, held) =
            self.0.hold_again(Deadline::Never)?.ok_or(Error::TimedOut { what: "the lock" })?;
        let guard = RLockGuard { lock: self, held, not_send: PhantomData };
        if acquired.owner_died { Err(Error::OwnerDied) } else { Ok(guard) }
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
    pub fn locked(&self) -> bool {
        self.0.is_locked()
    }

    /// Whether the calling thread has it.
    pub fn is_mine(&self) -> bool {
        self.0.is_mine()
    }

    /// How often its holder has taken it.
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
