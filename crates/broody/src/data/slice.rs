//! Numbers that are handed over without a copy.

use std::marker::PhantomData;
use std::ops::Deref;

use broody_shm::blob;
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle::{self, tag_of, wrong_type};
use crate::{Result, memory};

/// Items in shared memory that do not change any more: as a [`Blob`](crate::Blob), with a type. One copy in, none out, whether it is an argument, a
/// result or a message.
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// use broody::Slice;
/// fn squares(numbers: Slice<f64>) -> Slice<f64> {
///     let squares: Vec<f64> = numbers.iter().map(|number| number * number).collect();
///     Slice::new(&squares).unwrap()
/// }
/// let pool = broody::Pool::builder().workers(1).build()?;
/// assert_eq!(*pool.apply(squares, Slice::new(&[1.0, 2.0, 3.0])?)?, [1.0, 4.0, 9.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Slice<T> {
    blob: blob::Blob,
    items: PhantomData<T>,
}

impl<T: Pod> Slice<T> {
    /// Copies `items` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(items: &[T]) -> Result<Self> {
        let blob = blob::Blob::for_message(memory::arena()?, bytemuck::cast_slice(items))?;
        Ok(Self { blob, items: PhantomData })
    }
}

impl<T: Pod> Deref for Slice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // Bodies are aligned to 64 bytes, and their length was checked.
        bytemuck::cast_slice(&self.blob)
    }
}

impl<T> Serialize for Slice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (tag_of::<T>(), Sent(&self.blob)).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Slice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (tag, Received(blob)): (u64, _) = Deserialize::deserialize(deserializer)?;
        let fits = tag == tag_of::<T>() && size_of::<T>() != 0 && blob.len().is_multiple_of(size_of::<T>());
        if !fits || align_of::<T>() > 64 {
            return Err(wrong_type("Slice"));
        }
        Ok(Self { blob, items: PhantomData })
    }
}

/// A blob that is encoded.
struct Sent<'a>(&'a blob::Blob);

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.0.held(), serializer)
    }
}

/// A blob that was decoded.
struct Received(blob::Blob);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let held = handle::deserialize(deserializer)?;
        blob::Blob::from_held(held).map(Self).ok_or_else(|| wrong_type("Slice"))
    }
}
