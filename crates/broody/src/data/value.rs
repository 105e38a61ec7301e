//! One value, and atomic access to numbers.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::time::Duration;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::sync::{Lock, LockError, LockGuard, LockResult};

/// A value in shared memory, with a lock of its own, as Python's `multiprocessing.Value`.
///
/// [`get`](Self::get), [`set`](Self::set) and [`update`](Self::update) take the lock. Numbers can also be used without it, as std's atomics
/// are: the two ways do not exclude each other.
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
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Value<T: Pod>(Lock<T>);

impl<T: Pod> Value<T> {
    /// Puts `value` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(value: T) -> Result<Self> {
        Lock::new(value).map(Self)
    }

    /// Takes the lock, for several steps at once.
    ///
    /// # Errors
    /// As [`Lock::lock`].
    pub fn lock(&self) -> LockResult<LockGuard<'_, T>> {
        self.0.lock()
    }

    /// As [`lock`](Self::lock), waiting at most for `limit`.
    ///
    /// # Errors
    /// As [`Lock::lock_timeout`].
    pub fn lock_timeout(&self, limit: Duration) -> LockResult<LockGuard<'_, T>> {
        self.0.lock_timeout(limit)
    }

    /// The value.
    ///
    /// # Errors
    /// [`OwnerDied`](crate::Error::OwnerDied), once, after a process was ended while it changed the value.
    pub fn get(&self) -> Result<T> {
        Ok(*self.0.lock()?)
    }

    /// Puts another value there.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) in a fork, after it was gone.
    pub fn set(&self, value: T) -> Result<()> {
        // Whatever was half-changed is overwritten.
        match self.0.lock() {
            Ok(mut guard) | Err(LockError::OwnerDied(mut guard)) => {
                *guard = value;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the value under the lock.
    ///
    /// # Errors
    /// As [`get`](Self::get); then it is not changed.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        Ok(change(&mut *self.0.lock()?))
    }
}

impl<T: Atomic> Value<T> {
    #[track_caller]
    fn place(&self) -> NonNull<T> {
        self.0.guardian().must_keep();
        self.0.guardian().item(0)
    }

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

    /// Adds, without the lock; wraps around. Gives the value before.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn fetch_add(&self, value: T) -> T {
        T::fetch_add(self.place(), value)
    }

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

/// Numbers that can be used without a lock. For the integers of 8 to 64 bits; not to be implemented elsewhere.
pub trait Atomic: Pod + sealed::Sealed {
    #[doc(hidden)]
    fn load(place: NonNull<Self>) -> Self;
    #[doc(hidden)]
    fn store(place: NonNull<Self>, value: Self);
    #[doc(hidden)]
    fn fetch_add(place: NonNull<Self>, value: Self) -> Self;
    #[doc(hidden)]
    fn compare_exchange(place: NonNull<Self>, current: Self, new: Self) -> Result<Self, Self>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! atomic {
    ($($number:ident: $atomic:ident),*) => {
        $(
            impl sealed::Sealed for $number {}

            // Sequentially consistent, as a user expects of a number that processes share.
            impl Atomic for $number {
                fn load(place: NonNull<Self>) -> Self {
                    at::$number(place).load(std::sync::atomic::Ordering::SeqCst)
                }

                fn store(place: NonNull<Self>, value: Self) {
                    at::$number(place).store(value, std::sync::atomic::Ordering::SeqCst);
                }

                fn fetch_add(place: NonNull<Self>, value: Self) -> Self {
                    at::$number(place).fetch_add(value, std::sync::atomic::Ordering::SeqCst)
                }

                fn compare_exchange(place: NonNull<Self>, current: Self, new: Self) -> Result<Self, Self> {
                    use std::sync::atomic::Ordering::SeqCst;
                    at::$number(place).compare_exchange(current, new, SeqCst, SeqCst)
                }
            }
        )*

        /// The atomic at a place in shared memory, which the caller keeps mapped for the call.
        mod at {
            $(
                pub(super) fn $number<'a>(place: std::ptr::NonNull<$number>) -> &'a std::sync::atomic::$atomic {
                    // SAFETY: callers give the place of an item of live data, mapped and aligned, and use the result at once.
                    unsafe { std::sync::atomic::$atomic::from_ptr(place.as_ptr()) }
                }
            )*
        }
    };
}

atomic!(
    u8: AtomicU8, i8: AtomicI8, u16: AtomicU16, i16: AtomicI16, u32: AtomicU32, i32: AtomicI32, u64: AtomicU64,
    i64: AtomicI64, usize: AtomicUsize, isize: AtomicIsize
);

impl<T: Pod> Value<T> {
    /// The lock and the value as a [`Lock`].
    pub fn as_lock(&self) -> &Lock<T> {
        &self.0
    }
}
