//! A lock that guards a value, and a bare one.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use broody_os::interrupt;
use broody_shm::handle::Handle;
use broody_shm::robust::guarded::{Guarded, Held};
use broody_shm::sync::Deadline;
use bytemuck::Pod;

use crate::data::Guardian;
use crate::handle::{sent_as_handle, tag_of};
use crate::{Error, Result, memory};

/// Why a lock was not taken, or how it was.
#[derive(Debug)]
pub enum LockError<G> {
    /// It *was* taken, and the process that held it before was ended while it did: what it guards may be half-changed. Look at it, put it
    /// right, and go on. The next one is not told any more.
    OwnerDied(G),
    /// It was not free in time.
    TimedOut,
    /// It cannot be had in this process.
    Failed(Error),
}

/// A guard, or why there is none, or that the last holder died with the lock.
pub type LockResult<G> = Result<G, LockError<G>>;

impl<G> LockError<G> {
    /// The guard all the same, if there is one: for values that cannot be half-changed.
    ///
    /// # Errors
    /// What kept the lock from being taken.
    pub fn recover(self) -> Result<G> {
        match self {
            LockError::OwnerDied(guard) => Ok(guard),
            other => Err(other.into()),
        }
    }
}

impl<G> From<LockError<G>> for Error {
    fn from(error: LockError<G>) -> Self {
        match error {
            LockError::OwnerDied(_) => Error::OwnerDied,
            LockError::TimedOut => Error::TimedOut { what: "the lock" },
            LockError::Failed(error) => error,
        }
    }
}

impl<G> std::fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LockError::OwnerDied(_) => Error::OwnerDied.fmt(f),
            LockError::TimedOut => Error::TimedOut { what: "the lock" }.fmt(f),
            LockError::Failed(error) => error.fmt(f),
        }
    }
}

impl<G: std::fmt::Debug> std::error::Error for LockError<G> {}

/// A lock between processes and threads, and the value in shared memory that it guards.
///
/// The value is plain data (bytemuck's `Pod`: numbers, arrays and structs of them), since it is read by other processes as its bytes. A thread
/// that takes a lock twice waits for itself, as with std's: see [`RLock`](crate::RLock).
///
/// ```
/// # broody::init();
/// use broody::Lock;
/// let counter = Lock::new(0u64)?;
/// fn add(counter: Lock<u64>) {
///     *counter.lock().unwrap() += 1;
/// }
/// let children: Vec<_> = (0..3).map(|_| broody::spawn(add, counter.clone())).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join()?;
/// }
/// assert_eq!(*counter.lock()?, 3);
/// # Ok::<(), broody::Error>(())
/// ```
pub struct Lock<T: Pod = ()> {
    guardian: Guardian,
    value: PhantomData<fn() -> T>,
}

impl<T: Pod> Clone for Lock<T> {
    fn clone(&self) -> Self {
        Self { guardian: self.guardian.clone(), value: PhantomData }
    }
}

impl<T: Pod> std::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let locked = self.guardian.lock().held().keep().map(|()| self.is_locked());
        f.debug_struct("Lock").field("locked", &locked.unwrap_or(false)).finish_non_exhaustive()
    }
}

impl<T: Pod> Lock<T> {
    /// Makes a lock, and puts `value` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new(value: T) -> Result<Self> {
        let guardian = Guardian::new(bytemuck::bytes_of(&value), tag_of::<T>())?;
        Ok(Self { guardian, value: PhantomData })
    }

    pub(crate) fn from_guardian(guardian: Guardian) -> Option<Self> {
        let fits = guardian.tag() == tag_of::<T>() && guardian.length() >= size_of::<T>();
        fits.then_some(Self { guardian, value: PhantomData })
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`], with the guard, when the holder before was ended while it held the lock.
    #[inline]
    pub fn lock(&self) -> LockResult<LockGuard<'_, T>> {
        self.lock_until(Deadline::Never)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] when it is not free, and as [`lock`](Self::lock).
    pub fn try_lock(&self) -> LockResult<LockGuard<'_, T>> {
        self.lock_until(Deadline::Now)
    }

    /// Waits for the lock, at most for `limit`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] when it was not free in time, and as [`lock`](Self::lock).
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<LockGuard<'_, T>> {
        self.lock_until(Deadline::after(limit))
    }

    #[inline]
    fn lock_until(&self, deadline: Deadline) -> LockResult<LockGuard<'_, T>> {
        self.guardian.hold(deadline, |held| LockGuard { lock: self, held, not_send: PhantomData })
    }

    /// Whether anybody holds the lock, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn is_locked(&self) -> bool {
        self.guardian.lock().is_locked()
    }
}

/// A lock that is held; dropping this gives it back.
///
/// In a fork that was made while the lock was held, this is a copy that holds nothing: the lock is the parent's. There the value cannot be
/// reached through it: that is a panic. A reference that it gave before the fork cannot be stopped like this; it must not be used there.
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard<'a, T: Pod> {
    lock: &'a Lock<T>,
    held: Held,
    /// Only the thread that has it gives it back.
    not_send: PhantomData<*const ()>,
}

impl<'a, T: Pod> LockGuard<'a, T> {
    /// The lock that this holds.
    pub fn lock(&self) -> &'a Lock<T> {
        self.lock
    }

    /// # Panics
    /// In a fork of the process that has the lock.
    #[inline]
    pub(crate) fn assert_here(&self) {
        if !self.held.is_here() {
            not_here();
        }
    }
}

impl<T: Pod> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.assert_here();
        self.lock.guardian.value()
    }
}

impl<T: Pod> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.assert_here();
        self.lock.guardian.value_mut()
    }
}

impl<T: Pod> Drop for LockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.guardian.lock().let_go(self.held);
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.held.is_here() { (**self).fmt(f) } else { f.write_str("LockGuard of another process") }
    }
}

#[cold]
#[inline(never)]
pub(crate) fn not_here() -> ! {
    panic!("this guard is of a lock that the process which was forked holds, not this one: lock it here")
}

impl<T: Pod> serde::Serialize for Lock<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.guardian.serialize(serializer)
    }
}

impl<'de, T: Pod> serde::Deserialize<'de> for Lock<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let guardian = Guardian::deserialize(deserializer)?;
        Self::from_guardian(guardian).ok_or_else(|| crate::handle::wrong_type("Lock"))
    }
}

/// Whether the holder before was ended while it held the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerDied(pub bool);

/// A lock without a guard and without a value, as Python's `multiprocessing.Lock`: any process and any thread may release it.
///
/// See <https://docs.python.org/3/library/multiprocessing.html#multiprocessing.Lock>.
///
/// ```
/// # broody::init();
/// use std::time::Duration;
/// let lock = broody::BareLock::new()?;
/// assert!(lock.acquire(None)?.is_some());
/// assert!(lock.acquire(Some(Duration::ZERO))?.is_none());
/// broody::spawn(|lock: broody::BareLock| lock.release().is_ok(), lock.clone())?.join()?;
/// assert!(!lock.locked());
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BareLock(Handle<Guarded>);

const BARE: u64 = 1;

impl BareLock {
    /// Makes a lock that is free.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self(Handle::<Guarded>::new(memory::arena()?, 0, BARE)?))
    }

    /// Waits for the lock, at most for `limit` if there is one; `Some(Duration::ZERO)` only tries. `None` when it was not free in time; else
    /// whether its last holder died with it.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork in which the lock was not used before it was gone.
    pub fn acquire(&self, limit: Option<Duration>) -> Result<Option<OwnerDied>> {
        let acquired = self.0.acquire(deadline(limit))?;
        Ok(acquired.map(|acquired| OwnerDied(acquired.owner_died)))
    }

    /// Takes the lock if it is free, without any wait. `None` when it is not; else whether its last holder died with it.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<OwnerDied>> {
        Ok(self.0.try_acquire()?.map(|acquired| OwnerDied(acquired.owner_died)))
    }

    /// Whether this process has the lock, by any of its threads.
    pub fn is_held_here(&self) -> bool {
        self.0.is_held_here()
    }

    /// Gives the lock back, whoever has it.
    ///
    /// # Errors
    /// [`NotHeld`](Error::NotHeld) when nobody has it.
    pub fn release(&self) -> Result<()> {
        if self.0.release_for_anybody()? {
            Ok(())
        } else {
            Err(Error::NotHeld { what: "lock", by: "by anybody" })
        }
    }

    /// Whether anybody has the lock, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn locked(&self) -> bool {
        self.0.is_locked()
    }
}

sent_as_handle!(BareLock; |lock| lock.0.held(), |held| {
    if held.tag() == BARE { Handle::from_held(held).map(BareLock) } else { None }
});

/// A limit as the primitives take it.
pub(crate) fn deadline(limit: Option<Duration>) -> Deadline {
    match limit {
        Some(limit) => Deadline::after(limit),
        None if interrupt::is_watched() => Deadline::OrSignal(None),
        None => Deadline::Never,
    }
}
