//! Bytes that are handed over without a copy.

use broody_shm::arena::Name;
use broody_shm::blob;

use crate::handle::sent_as_handle;
use crate::{Result, memory};

/// Bytes in shared memory that do not change any more. Whoever gets a blob, as an argument or out of a queue, reads the same memory.
///
/// Its memory goes back to the machine when the last process that has it drops it or dies.
///
/// ```
/// # broody::init();
/// use broody::Blob;
/// let picture = Blob::new(&vec![7u8; 1 << 20])?;
/// let child = broody::spawn(|picture: Blob| picture.iter().map(|byte| u64::from(*byte)).sum::<u64>(), picture)?;
/// assert_eq!(child.join()?, 7 << 20);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Blob(blob::Blob);

impl Blob {
    /// Copies `bytes` into shared memory.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        Ok(Self(blob::Blob::copy_of(memory::arena()?, bytes)?))
    }

    /// Makes `length` bytes, which are zero and which `fill` writes: no copy at all.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn with(length: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self> {
        Ok(Self(blob::Blob::new(memory::arena()?, length, fill)?))
    }

    /// Which object it is: no other ever has this name.
    pub(crate) fn name(&self) -> Name {
        self.0.held().name()
    }

    pub(crate) fn from_shared(blob: blob::Blob) -> Self {
        Self(blob)
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

sent_as_handle!(Blob; |blob| blob.0.held(), |held| blob::Blob::from_held(held).map(Blob));
