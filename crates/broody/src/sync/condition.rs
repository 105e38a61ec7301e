//! Waiting for something that a lock guards.

use std::time::{Duration, Instant};

use broody_shm::handle::Handle;
use broody_shm::robust::condition;
use broody_shm::sync::Deadline;
use bytemuck::Pod;

use super::lock::{LockError, LockGuard, LockResult, OwnerDied, deadline};
use super::recursive::RLock;
use crate::handle::sent_as_handle;
use crate::{Error, Result, memory};

/// A condition: processes wait until what a lock guards has changed, and are notified by whoever changes it.
///
/// A notification wakes exactly one waiter, the one that has waited longest; one that dies with it passes it on. A waiter is never woken
/// without a notification.
///
/// ```
/// # broody::init();
/// use broody::{Condition, Lock};
/// let (lock, changed) = (Lock::new(0u32)?, Condition::new()?);
/// let child = broody::spawn(
///     |(lock, changed): (Lock<u32>, Condition)| {
///         *lock.lock().unwrap() = 7;
///         changed.notify_one().unwrap();
///     },
///     (lock.clone(), changed.clone()),
/// )?;
/// let mut value = lock.lock()?;
/// while *value == 0 {
///     value = changed.wait(value)?;
/// }
/// assert_eq!(*value, 7);
/// # drop(value);
/// # child.join()?;
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Condition(Handle<condition::Condition>);

impl Condition {
    /// Makes a condition that nobody waits for.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self(Handle::<condition::Condition>::new(memory::arena()?)?))
    }

    /// Gives the lock back, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    /// Those of [`Lock::lock`](crate::Lock::lock), when the lock is taken again.
    ///
    /// # Panics
    /// In a fork, with a guard of the process that it was forked from.
    pub fn wait<'a, T: Pod>(&self, guard: LockGuard<'a, T>) -> LockResult<LockGuard<'a, T>> {
        guard.assert_here();
        let lock = guard.lock();
        let waited = self.0.wait(Deadline::Never, move || drop(guard), || lock.lock());
        waited.map_err(|error| LockError::Failed(error.into()))?.1
    }

    /// As [`wait`](Self::wait), at most for `limit`. Also says whether a notification came.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a, T: Pod>(
        &self,
        guard: LockGuard<'a, T>,
        limit: Duration,
    ) -> LockResult<(LockGuard<'a, T>, bool)> {
        guard.assert_here();
        let lock = guard.lock();
        let waited = self.0.wait(Deadline::after(limit), move || drop(guard), || lock.lock());
        let (notified, locked) = waited.map_err(|error| LockError::Failed(error.into()))?;
        match locked {
            Ok(guard) => Ok((guard, notified)),
            Err(LockError::OwnerDied(guard)) => Err(LockError::OwnerDied((guard, notified))),
            Err(LockError::TimedOut) => Err(LockError::TimedOut),
            Err(LockError::Failed(error)) => Err(LockError::Failed(error)),
        }
    }

    /// Waits until `condition` does not hold any more, at most for `limit` if there is one. Whether it does not.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_while<'a, T: Pod>(
        &self,
        mut guard: LockGuard<'a, T>,
        limit: Option<Duration>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(LockGuard<'a, T>, bool)> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        while condition(&mut guard) {
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok((guard, false));
            }
            (guard, _) = self.wait_timeout(guard, left)?;
        }
        Ok((guard, true))
    }

    /// As Python's `Condition.wait` with its default lock: gives `lock` back however often this thread has taken it, waits for a notification at
    /// most for `limit` if there is one, and takes it as often again. Whether a notification came, and whether somebody died meanwhile while he
    /// held the lock: this thread has it all the same.
    ///
    /// # Errors
    /// [`NotHeld`](Error::NotHeld) when the calling thread does not have the lock.
    pub fn wait_with(&self, lock: &RLock, limit: Option<Duration>) -> Result<(bool, OwnerDied)> {
        if !lock.is_mine() {
            return Err(Error::NotHeld { what: "condition's lock", by: "by this thread" });
        }
        let depth = std::cell::Cell::new(0);
        let release = || depth.set(lock.handle().release_all().unwrap_or(0));
        let (notified, acquired) =
            self.0.wait(deadline(limit), release, || lock.handle().acquire_all(depth.get()))?;
        Ok((notified, OwnerDied(acquired?.owner_died)))
    }

    /// As [`wait_with`](Self::wait_with), for a lock of any kind, which the caller has: `release` gives it back altogether, and `acquire` takes it again.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone, or where too many wait; then neither was called.
    pub fn wait_around<R>(
        &self,
        limit: Option<Duration>,
        release: impl FnOnce(),
        acquire: impl FnOnce() -> R,
    ) -> Result<(bool, R)> {
        Ok(self.0.wait(deadline(limit), release, acquire)?)
    }

    /// How many wait and are not notified, at this instant.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.0.waiting()?)
    }

    /// Notifies one waiter, the one that has waited longest. Whether there was one.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn notify_one(&self) -> Result<bool> {
        self.notify(1).map(|notified| notified == 1)
    }

    /// Notifies the `count` that have waited longest. How many there were.
    ///
    /// # Errors
    /// As [`notify_one`](Self::notify_one).
    pub fn notify(&self, count: u32) -> Result<u32> {
        Ok(self.0.notify(count)?)
    }

    /// Notifies everybody who waits. How many there were.
    ///
    /// # Errors
    /// As [`notify_one`](Self::notify_one).
    pub fn notify_all(&self) -> Result<u32> {
        self.notify(u32::MAX)
    }
}

sent_as_handle!(Condition; |condition| condition.0.held(), |held| Handle::from_held(held).map(Condition));
