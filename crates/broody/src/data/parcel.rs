//! A message whose long parts are beside it.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Slice;

/// A short message, and long bytes beside it that nobody copies on their way: what a serialiser with *out-of-band* buffers makes, as pickle's
/// protocol 5 does. It may be an argument, a result, or an item of a queue.
///
/// Each buffer is copied once, when it is [made](Slice::new), into pages that earlier buffers have left. Whoever gets the parcel looks at the same
/// memory; a clone of a buffer is another view of it, and it is free when the last view in the last process is gone, whether dropped or dead.
///
/// ```
/// # fn main() -> broody::Result<()> {
/// # broody::init();
/// use broody::{Parcel, Slice};
/// fn reverse(parcel: Parcel) -> Parcel {
///     let buffers = parcel.buffers.iter().rev().cloned().collect(); // the same memory
///     Parcel { head: parcel.head, buffers }
/// }
/// let pool = broody::Pool::builder().workers(1).build()?;
/// let buffers = vec![Slice::new(&[1; 1 << 20])?, Slice::new(&[2; 1000])?];
/// let back = pool.apply(reverse, Parcel { head: b"two".to_vec(), buffers })?;
/// assert_eq!((&back.head[..], back.buffers[1].len()), (&b"two"[..], 1 << 20));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Parcel {
    /// What says how the buffers belong together.
    pub head: Vec<u8>,
    /// The long parts.
    pub buffers: Vec<Slice<u8>>,
}

impl Serialize for Parcel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Bytes(&self.head[..]), &self.buffers).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Parcel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Bytes(head), buffers) = Deserialize::deserialize(deserializer)?;
        Ok(Self { head, buffers })
    }
}

/// Encoded at once, and not one by one.
struct Bytes<T>(T);

impl Serialize for Bytes<&[u8]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes<Vec<u8>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Copy;
        impl Visitor<'_> for Copy {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Copy).map(Self)
    }
}
