//! Plain data in shared memory, and the lock that guards it: what [`Lock`](crate::Lock), [`Value`](crate::Value) and
//! [`Array`](crate::Array) are made of.
//!
//! Short data lies with its lock. Long data is memory of its own, in pages, kept by a second handle.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use broody_shm::arena::{Held, Kind};
use broody_shm::handle::Handle;
use broody_shm::robust::guarded::{ALIGNMENT, Guarded, Held as Hold, MOST_BYTES};
use broody_shm::sync::Deadline;
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sync::{LockError, LockResult};
use crate::{Error, Result, memory};

/// The data and its lock.
#[derive(Debug, Clone)]
pub(crate) struct Guardian {
    lock: Handle<Guarded>,
    apart: Option<Arc<Held>>,
    start: Start,
    length: usize,
}

/// The first byte of the data, mapped as long as the handles live.
#[derive(Debug, Clone, Copy)]
struct Start(NonNull<u8>);

// SAFETY: an address; who reads or writes there has the lock, or does it atomically.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

impl Guardian {
    /// Puts `bytes` into shared memory.
    pub(crate) fn new(bytes: &[u8], tag: u64) -> Result<Self> {
        Self::with(bytes.len(), tag, |place| place.copy_from_slice(bytes))
    }

    /// Makes `length` zero bytes, which `fill` writes.
    pub(crate) fn with(length: usize, tag: u64, fill: impl FnOnce(&mut [u8])) -> Result<Self> {
        let arena = memory::arena()?;
        let here = if length <= MOST_BYTES { length } else { 0 };
        let lock = Handle::<Guarded>::new(arena, here, tag)?;
        let apart =
            if length > MOST_BYTES { Some(arena.allocate(Kind::Memory, length as u64, tag)?) } else { None };
        let made = Self::of(lock, apart);
        // SAFETY: so many bytes are mapped there, and nobody else knows of them yet.
        fill(unsafe { std::slice::from_raw_parts_mut(made.start.0.as_ptr(), length) });
        Ok(made)
    }

    fn of(lock: Handle<Guarded>, apart: Option<Arc<Held>>) -> Self {
        let (start, length) = match &apart {
            Some(held) => (held.body().as_ptr(), held.body().length() as usize),
            None => lock.bytes(),
        };
        Self { lock, apart, start: Start(start), length }
    }

    /// The lock.
    #[inline]
    pub(crate) fn lock(&self) -> &Handle<Guarded> {
        &self.lock
    }

    /// Sees to it that the data is there, and stays. To be asked before the data is used: in a fork it may be gone, and its place another's.
    #[inline]
    pub(crate) fn keep(&self) -> Result<()> {
        Ok(self.apart.as_ref().unwrap_or(self.lock.held()).keep()?)
    }

    /// As [`keep`](Self::keep), where the lock is taken, which sees to itself.
    #[inline]
    pub(crate) fn keep_apart(&self) -> Result<()> {
        Ok(self.apart.as_ref().map_or(Ok(()), |apart| apart.keep())?)
    }

    /// As [`keep`](Self::keep), for what has no way to tell of an error.
    #[inline]
    #[track_caller]
    pub(crate) fn must_keep(&self) {
        self.apart.as_ref().unwrap_or(self.lock.held()).must_keep();
    }

    /// Takes the lock, and makes a guard of what gives it back.
    // Always inlined, and the rest returns little: a guard that came back through memory would cost more than the lock.
    #[inline(always)]
    pub(crate) fn hold<G>(&self, deadline: Deadline, guard: impl FnOnce(Hold) -> G) -> LockResult<G> {
        if self.apart.is_none()
            && let Some(held) = self.lock.hold_at_once()
        {
            return Ok(guard(held));
        }
        match self.hold_the_long_way(deadline) {
            Ok((true, held)) => Err(LockError::OwnerDied(guard(held))),
            Ok((false, held)) => Ok(guard(held)),
            Err(None) => Err(LockError::TimedOut),
            Err(Some(error)) => Err(LockError::Failed(*error)),
        }
    }

    /// Whether the owner before died, and what gives the lock back; without an error, the time was over.
    #[cold]
    fn hold_the_long_way(&self, deadline: Deadline) -> std::result::Result<(bool, Hold), Option<Box<Error>>> {
        self.keep_apart().map_err(|error| Some(Box::new(error)))?;
        match self.lock.hold(deadline) {
            Ok(Some((acquired, held))) => Ok((acquired.owner_died, held)),
            Ok(None) => Err(None),
            Err(error) => Err(Some(Box::new(error.into()))),
        }
    }

    /// What the type of the data is called.
    pub(crate) fn tag(&self) -> u64 {
        self.lock.held().tag()
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The address of the item `index` of so many as there are. The caller has seen to it that they are kept.
    pub(crate) fn item<T: Pod>(&self, index: usize) -> NonNull<T> {
        const { assert!(align_of::<T>() <= ALIGNMENT, "data in shared memory is aligned to at most 64 bytes") };
        let end = index.checked_add(1).and_then(|end| end.checked_mul(size_of::<T>()));
        assert!(end.is_some_and(|end| end <= self.length), "item {index} lies behind the end of the data");
        // SAFETY: within the data, by the assertion.
        unsafe { self.start.0.cast::<T>().add(index) }
    }

    /// All items. The caller has the lock, and nobody uses them without.
    pub(crate) fn items<T: Pod>(&self) -> &[T] {
        // SAFETY: the data is that long, aligned to at least T (see `item`), and any bytes are a T. The caller has the lock, so that
        // nobody writes who follows the protocol.
        unsafe { std::slice::from_raw_parts(self.first().as_ptr(), self.count::<T>()) }
    }

    /// All items, to be changed. The caller has the lock, by a guard that is borrowed for as long, and nobody uses them without.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn items_mut<T: Pod>(&self) -> &mut [T] {
        // SAFETY: as in `items`; the caller's guard is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first().as_ptr(), self.count::<T>()) }
    }

    /// The one value. The caller has the lock.
    #[inline]
    pub(crate) fn value<T: Pod>(&self) -> &T {
        // SAFETY: as in `items`, for one.
        unsafe { self.item::<T>(0).as_ref() }
    }

    /// The one value, to be changed, as for `items_mut`.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub(crate) fn value_mut<T: Pod>(&self) -> &mut T {
        // SAFETY: as in `items_mut`, for one.
        unsafe { self.item::<T>(0).as_mut() }
    }

    fn first<T: Pod>(&self) -> NonNull<T> {
        const { assert!(align_of::<T>() <= ALIGNMENT, "data in shared memory is aligned to at most 64 bytes") };
        self.start.0.cast()
    }

    /// How many items there are.
    pub(crate) fn count<T: Pod>(&self) -> usize {
        self.length.checked_div(size_of::<T>()).unwrap_or(0)
    }
}

/// Sent as one or two handles.
#[derive(Serialize, Deserialize)]
struct Parts(Handled, Option<Handled>);

struct Handled(Arc<Held>);

impl Serialize for Handled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::handle::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Handled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::handle::deserialize(deserializer).map(Self)
    }
}

impl Serialize for Guardian {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts(Handled(self.lock.held().clone()), self.apart.clone().map(Handled)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Guardian {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts(lock, apart) = Parts::deserialize(deserializer)?;
        let apart = apart.map(|handled| handled.0);
        let is_memory = apart.as_ref().is_none_or(|held| held.kind() == Kind::Memory);
        let lock = Handle::from_held(lock.0).filter(|_| is_memory);
        let lock = lock.ok_or_else(|| crate::handle::wrong_type("Lock, Value or Array"))?;
        Ok(Self::of(lock, apart))
    }
}

/// The error of an index that is too high.
pub(crate) fn out_of_bounds(index: usize, length: usize) -> Error {
    Error::Invalid { what: format!("there is no item {index} in an array of {length}") }
}
