//! One value, and atomic access to numbers.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use broody_shm::robust::guarded::Held;
use broody_shm::sync::Deadline;
use bytemuck::Pod;

use super::atomic::{Atomic, Change, changes, copy_in, copy_out};
use super::guardian::Guardian;
use crate::Result;
use crate::handle::tag_of;
use crate::sync::{LockError, LockResult, not_here};

/// A value in shared memory, with a lock of its own, as Python's `multiprocessing.Value`.
///
/// [`get`](Self::get), [`set`](Self::set) and [`update`](Self::update) take the lock. Numbers can also be used without it, as std's atomics
/// are: the two ways do not exclude each other, and so the value is copied in and out. For a reference to it, and for a
/// [`Condition`](crate::Condition), see [`Lock`](crate::Lock).
///
/// ```
/// # broody::init();
/// use broody::Value;
/// let total = Value::new(0i64)?;
/// let children: Vec<_> = (0..3)
///     .map(|_| broody::spawn(|total: Value<i64>| _ = total.fetch_add(2), total.clone()))
///     .collect::<Result<_, _>>()?;
/// for child in children {
///     child.join()?;
/// }
/// assert_eq!(total.get()?, 6);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug)]
pub struct Value<T: Pod> {
    guardian: Guardian,
    value: PhantomData<fn() -> T>,
}

impl<T: Pod> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self { guardian: self.guardian.clone(), value: PhantomData }
    }
}

impl<T: Pod> Value<T> {
    /// Puts `value` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(value: T) -> Result<Self> {
        let guardian = Guardian::new(bytemuck::bytes_of(&value), tag_of::<Self>())?;
        Ok(Self { guardian, value: PhantomData })
    }

    /// Takes the lock, for several steps at once.
    ///
    /// # Errors
    /// As [`Lock::lock`](crate::Lock::lock).
    pub fn lock(&self) -> LockResult<ValueGuard<'_, T>> {
        self.lock_until(Deadline::Never)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// As [`Lock::try_lock`](crate::Lock::try_lock).
    pub fn try_lock(&self) -> LockResult<ValueGuard<'_, T>> {
        self.lock_until(Deadline::Now)
    }

    /// As [`lock`](Self::lock), waiting at most for `limit`.
    ///
    /// # Errors
    /// As [`Lock::lock_timeout`](crate::Lock::lock_timeout).
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<ValueGuard<'_, T>> {
        self.lock_until(Deadline::after(limit))
    }

    fn lock_until(&self, deadline: Deadline) -> LockResult<ValueGuard<'_, T>> {
        self.guardian.hold(deadline, |held| ValueGuard { value: self, held, not_send: PhantomData })
    }

    /// The value.
    ///
    /// # Errors
    /// [`OwnerDied`](crate::Error::OwnerDied), once, after a process was ended while it changed the value.
    pub fn get(&self) -> Result<T> {
        Ok(self.lock()?.get())
    }

    /// Puts another value there.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) in a fork, after it was gone.
    pub fn set(&self, value: T) -> Result<()> {
        // Whatever was half-changed is overwritten.
        match self.lock() {
            Ok(mut guard) | Err(LockError::OwnerDied(mut guard)) => {
                guard.set(value);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the value under the lock: a copy of it, which is put back when `change` returns.
    ///
    /// # Errors
    /// As [`get`](Self::get); then it is not changed.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        Ok(self.lock()?.update(change))
    }

    #[track_caller]
    fn place(&self) -> NonNull<T> {
        self.guardian.must_keep();
        self.guardian.item(0)
    }
}

macro_rules! changes_value {
    ($name:ident, $change:ident, $what:literal) => {
        #[doc = concat!($what, " Gives the value before.")]
        #[inline]
        pub fn $name(&self, value: T) -> T {
            T::change(self.place(), Change::$change, value)
        }
    };
}

impl<T: Atomic> Value<T> {
    /// The value, without the lock.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn load(&self) -> T {
        T::load(self.place())
    }

    /// Puts another value there, without the lock.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn store(&self, value: T) {
        T::store(self.place(), value);
    }

    changes!(changes_value);

    /// Puts `new` there if the value is `current`, without the lock. Gives the value before: as `Err` if it was another one.
    ///
    /// # Errors
    /// The value, unless it was `current`.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        T::compare_exchange(self.place(), current, new)
    }
}

impl<T: Pod> serde::Serialize for Value<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.guardian.serialize(serializer)
    }
}

impl<'de, T: Pod> serde::Deserialize<'de> for Value<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let guardian = Guardian::deserialize(deserializer)?;
        if guardian.tag() == tag_of::<Self>() && guardian.length() >= size_of::<T>() {
            Ok(Self { guardian, value: PhantomData })
        } else {
            Err(crate::handle::wrong_type("Value"))
        }
    }
}

/// A value whose lock is held; dropping this gives it back.
///
/// Other threads may use a number without the lock meanwhile. In a fork that was made while the lock was held, this is a copy that holds
/// nothing, and whatever is asked of it panics.
#[must_use = "the lock is given back when this is dropped"]
pub struct ValueGuard<'a, T: Pod> {
    value: &'a Value<T>,
    held: Held,
    /// Only the thread that has it gives it back.
    not_send: PhantomData<*const ()>,
}

impl<T: Pod> ValueGuard<'_, T> {
    fn place(&self) -> NonNull<T> {
        if !self.held.is_here() {
            not_here();
        }
        self.value.place()
    }

    /// The value.
    pub fn get(&self) -> T {
        copy_out(self.place())
    }

    /// Puts another value there.
    pub fn set(&mut self, value: T) {
        copy_in(self.place(), value);
    }

    /// Changes a copy of the value, and puts it there.
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.get();
        let result = change(&mut value);
        self.set(value);
        result
    }
}

impl<T: Pod> Drop for ValueGuard<'_, T> {
    fn drop(&mut self) {
        self.value.guardian.lock().let_go(self.held);
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.held.is_here() { self.get().fmt(f) } else { f.write_str("ValueGuard of another process") }
    }
}
