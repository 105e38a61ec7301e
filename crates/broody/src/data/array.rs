//! A fixed number of values.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use broody_shm::robust::guarded::Held;
use broody_shm::sync::Deadline;
use bytemuck::Pod;

use super::guardian::{Guardian, out_of_bounds};
use super::value::Atomic;
use crate::handle::tag_of;
use crate::sync::{LockError, LockResult, not_here};
use crate::{Error, Result};

/// A fixed number of values in shared memory, with one lock, as Python's `multiprocessing.Array`.
///
/// Items of number types can also be used without the lock, as std's atomics are: the two ways do not exclude each other.
///
/// ```
/// # broody::init();
/// use broody::Array;
/// let squares = Array::<u64>::zeroed(3)?;
/// let child = broody::spawn(
///     |squares: Array<u64>| {
///         for (n, place) in squares.lock().unwrap().iter_mut().enumerate() {
///             *place = (n * n) as u64;
///         }
///     },
///     squares.clone(),
/// )?;
/// child.join()?;
/// assert_eq!(*squares.lock()?, [0, 1, 4]);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug)]
pub struct Array<T: Pod> {
    guardian: Guardian,
    item: PhantomData<fn() -> T>,
}

impl<T: Pod> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { guardian: self.guardian.clone(), item: PhantomData }
    }
}

impl<T: Pod> Array<T> {
    /// Copies `items` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new(items: &[T]) -> Result<Self> {
        let guardian = Guardian::new(bytemuck::cast_slice(items), tag_of::<[T]>())?;
        Ok(Self { guardian, item: PhantomData })
    }

    /// Makes `length` items that are all zero.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn zeroed(length: usize) -> Result<Self> {
        let bytes = length.checked_mul(size_of::<T>()).ok_or_else(|| Error::Invalid {
            what: format!("an array of {length} items of {} bytes is longer than any memory", size_of::<T>()),
        })?;
        Ok(Self { guardian: Guardian::with(bytes, tag_of::<[T]>(), |_| {})?, item: PhantomData })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.guardian.count::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the lock; the guard is the items.
    ///
    /// # Errors
    /// As [`Lock::lock`](crate::Lock::lock).
    pub fn lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        self.lock_until(Deadline::Never)
    }

    /// As [`lock`](Self::lock), waiting at most for `limit`; zero only tries.
    ///
    /// # Errors
    /// As [`Lock::lock_timeout`](crate::Lock::lock_timeout).
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<ArrayGuard<'_, T>> {
        self.lock_until(Deadline::after(limit))
    }

    fn lock_until(&self, deadline: Deadline) -> LockResult<ArrayGuard<'_, T>> {
        let acquired = self.guardian.lock().hold(deadline);
        let acquired = acquired.map_err(|error| LockError::Failed(error.into()))?;
        let (acquired, held) = acquired.ok_or(LockError::TimedOut)?;
        let guard = ArrayGuard { array: self, held, not_send: PhantomData };
        if acquired.owner_died { Err(LockError::OwnerDied(guard)) } else { Ok(guard) }
    }

    /// The item `index`, under the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end; [`OwnerDied`](Error::OwnerDied), once, after a process was ended while it had the lock.
    pub fn get(&self, index: usize) -> Result<T> {
        self.lock()?.get(index).copied().ok_or_else(|| out_of_bounds(index, self.len()))
    }

    /// Puts another item there, under the lock.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        match self.lock()?.get_mut(index) {
            Some(place) => *place = value,
            None => return Err(out_of_bounds(index, self.len())),
        }
        Ok(())
    }
}

impl<T: Atomic> Array<T> {
    fn checked(&self, index: usize) -> Result<std::ptr::NonNull<T>> {
        if index < self.len() { Ok(self.guardian.item(index)) } else { Err(out_of_bounds(index, self.len())) }
    }

    /// The item `index`, without the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn load(&self, index: usize) -> Result<T> {
        self.checked(index).map(T::load)
    }

    /// Puts another item there, without the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn store(&self, index: usize, value: T) -> Result<()> {
        self.checked(index).map(|place| T::store(place, value))
    }

    /// Adds to the item `index`, without the lock; wraps around. Gives the item before.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn fetch_add(&self, index: usize, value: T) -> Result<T> {
        self.checked(index).map(|place| T::fetch_add(place, value))
    }
}

impl<T: Pod> serde::Serialize for Array<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.guardian.serialize(serializer)
    }
}

impl<'de, T: Pod> serde::Deserialize<'de> for Array<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let guardian = Guardian::deserialize(deserializer)?;
        if guardian.tag() == tag_of::<[T]>() {
            Ok(Self { guardian, item: PhantomData })
        } else {
            Err(crate::handle::wrong_type("Array"))
        }
    }
}

/// The items of an array whose lock is held; dropping this gives it back.
#[must_use = "the lock is given back when this is dropped"]
pub struct ArrayGuard<'a, T: Pod> {
    array: &'a Array<T>,
    held: Held,
    /// Only the thread that has it gives it back.
    not_send: PhantomData<*const ()>,
}

impl<T: Pod> ArrayGuard<'_, T> {
    /// # Panics
    /// In a fork of the process that has the lock.
    fn assert_here(&self) {
        if !self.held.is_here() {
            not_here();
        }
    }
}

impl<T: Pod> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.assert_here();
        self.array.guardian.items()
    }
}

impl<T: Pod> DerefMut for ArrayGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.assert_here();
        self.array.guardian.items_mut()
    }
}

impl<T: Pod> Drop for ArrayGuard<'_, T> {
    fn drop(&mut self) {
        self.array.guardian.lock().let_go(self.held);
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.held.is_here() { (**self).fmt(f) } else { f.write_str("ArrayGuard of another process") }
    }
}
