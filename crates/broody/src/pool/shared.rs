//! Values that are sent once per worker, not once per task.
//!
//! The encoded value lies in shared memory; what is sent is a handle on it. A process that decodes the handle decodes the value, unless it has it
//! already: the last few are kept.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use broody_shm::arena::Name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Blob, Error, Result, codec};

/// How many values a process keeps beyond the task that used them.
const KEPT: usize = 16;

/// A value for many tasks: see [`Pool::share`](super::Pool::share). It is decoded once in each process that uses it.
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// use broody::Shared;
/// fn look_up((table, index): (Shared<Vec<u32>>, usize)) -> u32 {
///     table[index]
/// }
/// let pool = broody::Pool::builder().workers(2).build()?;
/// let table = pool.share(&(0..100_000).collect::<Vec<u32>>())?;
/// assert_eq!(pool.map(look_up, [1, 77_777].map(|index| (table.clone(), index)))?, [1, 77_777]);
/// # Ok(())
/// # }
/// ```
pub struct Shared<T> {
    encoded: Blob,
    value: Arc<T>,
}

impl<T: Serialize + DeserializeOwned> Shared<T> {
    /// Puts a value into shared memory. This process has a copy of its own, decoded from there.
    ///
    /// # Errors
    /// [`Encode`](Error::Encode) and [`Decode`](Error::Decode) for a value that does not come through its encoding, [`Memory`](Error::Memory)
    /// when there is no memory for it. Handles on shared objects cannot be in it.
    pub fn new(value: &T) -> Result<Self> {
        let (what, function) = ("a shared value", std::any::type_name::<T>());
        let bytes = codec::encode(value).map_err(|reason| Error::Encode {
            what,
            function: function.to_owned(),
            reason,
        })?;
        let encoded = Blob::new(&bytes)?;
        let value = codec::decode(&bytes).map_err(|reason| Error::Decode {
            what,
            function: function.to_owned(),
            reason,
        })?;
        Ok(Self { encoded, value: Arc::new(value) })
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { encoded: self.encoded.clone(), value: self.value.clone() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shared").field(&*self.value).finish()
    }
}

impl<T> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encoded.serialize(serializer)
    }
}

/// What this process has decoded, the latest last.
static DECODED: Mutex<VecDeque<Decoded>> = Mutex::new(VecDeque::new());

type Decoded = (Name, Arc<dyn Any + Send + Sync>);

/// What was decoded, unless another thread is at it: which in a fork may be one of the parent's, for ever. Without it a value is decoded once
/// more.
fn decoded() -> Option<MutexGuard<'static, VecDeque<Decoded>>> {
    match DECODED.try_lock() {
        Ok(decoded) => Some(decoded),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl<'de, T: DeserializeOwned + Send + Sync + 'static> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = Blob::deserialize(deserializer)?;
        let name = encoded.name();
        let known = decoded().and_then(|decoded| {
            decoded.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
        });
        if let Some(value) = known.and_then(|known| known.downcast::<T>().ok()) {
            return Ok(Self { encoded, value });
        }
        // Not under the lock: it may take long, and may decode others.
        let value = codec::decode::<T>(&encoded).map_err(serde::de::Error::custom)?;
        let value = Arc::new(value);
        let oldest = decoded().and_then(|mut decoded| {
            decoded.push_back((name, value.clone()));
            if decoded.len() > KEPT { decoded.pop_front() } else { None }
        });
        drop(oldest);
        Ok(Self { encoded, value })
    }
}
