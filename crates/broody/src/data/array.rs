//! A fixed number of values.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use broody_shm::robust::guarded::Held;
use broody_shm::sync::Deadline;
use bytemuck::Pod;

use super::atomic::{Atomic, Change, changes, copy_in, copy_out};
use super::guardian::{Guardian, out_of_bounds};
use crate::handle::tag_of;
use crate::sync::{LockResult, not_here};
use crate::{Error, Result};

/// A fixed number of values in shared memory, with one lock, as Python's `multiprocessing.Array`.
///
/// Items of number types can also be used without the lock, as std's atomics are. The two ways do not exclude each other, and so items are
/// copied in and out; where that costs too much, see [`ArrayGuard::as_mut_slice`].
///
/// ```
/// # broody::init();
/// use broody::Array;
/// let squares = Array::<u64>::zeroed(3)?;
/// let child = broody::spawn(
///     |squares: Array<u64>| {
///         squares.lock().unwrap().update(|n, place| *place = (n * n) as u64);
///     },
///     squares.clone(),
/// )?;
/// child.join()?;
/// assert_eq!(squares.lock()?.to_vec(), [0, 1, 4]);
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

    /// Waits for the lock; the items are reached through the guard.
    ///
    /// # Errors
    /// As [`Lock::lock`](crate::Lock::lock).
    pub fn lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        self.lock_until(Deadline::Never)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// As [`Lock::try_lock`](crate::Lock::try_lock).
    pub fn try_lock(&self) -> LockResult<ArrayGuard<'_, T>> {
        self.lock_until(Deadline::Now)
    }

    /// As [`lock`](Self::lock), waiting at most for `limit`.
    ///
    /// # Errors
    /// As [`Lock::lock_timeout`](crate::Lock::lock_timeout).
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<ArrayGuard<'_, T>> {
        self.lock_until(Deadline::after(limit))
    }

    fn lock_until(&self, deadline: Deadline) -> LockResult<ArrayGuard<'_, T>> {
        self.guardian.hold(deadline, |held| ArrayGuard { array: self, held, not_send: PhantomData })
    }

    /// The item `index`, under the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end; [`OwnerDied`](Error::OwnerDied), once, after a process was ended while it had the lock.
    pub fn get(&self, index: usize) -> Result<T> {
        self.lock()?.get(index)
    }

    /// Puts another item there, under the lock.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn set(&self, index: usize, value: T) -> Result<()> {
        self.lock()?.set(index, value)
    }

    fn checked(&self, index: usize) -> Result<NonNull<T>> {
        self.guardian.keep()?;
        if index < self.len() { Ok(self.guardian.item(index)) } else { Err(out_of_bounds(index, self.len())) }
    }
}

macro_rules! changes_item {
    ($name:ident, $change:ident, $what:literal) => {
        #[doc = concat!($what, " For the item `index`. Gives the item before.")]
        ///
        /// # Errors
        /// [`Invalid`](Error::Invalid) behind the end.
        #[inline]
        pub fn $name(&self, index: usize, value: T) -> Result<T> {
            self.checked(index).map(|place| T::change(place, Change::$change, value))
        }
    };
}

impl<T: Atomic> Array<T> {
    /// The item `index`, without the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end; [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn load(&self, index: usize) -> Result<T> {
        self.checked(index).map(T::load)
    }

    /// Puts another item there, without the lock.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end; [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn store(&self, index: usize, value: T) -> Result<()> {
        self.checked(index).map(|place| T::store(place, value))
    }

    changes!(changes_item);

    /// Puts `new` at `index` if the item is `current`, without the lock. Gives the item before: as the inner `Err` if it was another one.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<Result<T, T>> {
        self.checked(index).map(|place| T::compare_exchange(place, current, new))
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
///
/// Other threads may use numbers without the lock meanwhile. In a fork that was made while the lock was held, this is a copy that holds
/// nothing, and whatever is asked of the items panics.
#[must_use = "the lock is given back when this is dropped"]
pub struct ArrayGuard<'a, T: Pod> {
    array: &'a Array<T>,
    held: Held,
    /// Only the thread that has it gives it back.
    not_send: PhantomData<*const ()>,
}

impl<T: Pod> ArrayGuard<'_, T> {
    fn guardian(&self) -> &Guardian {
        if !self.held.is_here() {
            not_here();
        }
        &self.array.guardian
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.array.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.array.is_empty()
    }

    /// The item `index`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn get(&self, index: usize) -> Result<T> {
        Ok(copy_out(self.checked(index)?))
    }

    /// Puts another item there.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) behind the end.
    pub fn set(&mut self, index: usize, item: T) -> Result<()> {
        copy_in(self.checked(index)?, item);
        Ok(())
    }

    fn checked(&self, index: usize) -> Result<NonNull<T>> {
        self.guardian();
        self.array.checked(index)
    }

    /// The items, one after the other.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator {
        let guardian = self.guardian();
        (0..self.len()).map(|index| copy_out(guardian.item(index)))
    }

    /// All items.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }

    /// Changes each item, which `change` gets with its index.
    pub fn update(&mut self, mut change: impl FnMut(usize, &mut T)) {
        let guardian = self.guardian();
        for index in 0..self.len() {
            let mut item = copy_out(guardian.item(index));
            change(index, &mut item);
            copy_in(guardian.item(index), item);
        }
    }

    /// Puts `items` there, from the item `index` on.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) where that would be behind the end; then nothing is changed.
    pub fn copy_from(&mut self, index: usize, items: &[T]) -> Result<()> {
        let guardian = self.guardian();
        if index > self.len() || items.len() > self.len() - index {
            return Err(out_of_bounds(index.saturating_add(items.len()).saturating_sub(1), self.len()));
        }
        items.iter().zip(index..).for_each(|(item, index)| copy_in(guardian.item(index), *item));
        Ok(())
    }

    /// Puts `item` everywhere.
    pub fn fill(&mut self, item: T) {
        self.update(|_, place| *place = item);
    }

    /// The items themselves, without a copy.
    ///
    /// # Safety
    /// As long as they are borrowed, no thread of this process changes an item without the lock, as [`Array::store`] and its like do.
    pub unsafe fn as_slice(&self) -> &[T] {
        self.guardian().items()
    }

    /// The items themselves, to be changed.
    ///
    /// # Safety
    /// As long as they are borrowed, no thread of this process uses an item without the lock, as [`Array::load`] and its like do.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [T] {
        self.guardian().items_mut()
    }
}

impl<T: Pod> Drop for ArrayGuard<'_, T> {
    fn drop(&mut self) {
        self.array.guardian.lock().let_go(self.held);
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.held.is_here() {
            f.debug_list().entries(self.iter()).finish()
        } else {
            f.write_str("ArrayGuard of another process")
        }
    }
}
