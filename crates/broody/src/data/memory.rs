//! Bytes that processes share and change as they like.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use broody_shm::arena::{Held, Kind};

use crate::handle::sent_as_handle;
use crate::{Error, Result, memory};

/// Bytes in shared memory that every process which has them may change at any time.
///
/// Nothing keeps two of them from writing to the same place at once: agree on who does, by a [`Lock`](crate::Lock) for example. The bytes are
/// therefore copied in and out; where that costs too much, [`as_ptr`](Self::as_ptr) gives their address.
///
/// ```
/// # broody::init();
/// use broody::SharedMemory;
/// let memory = SharedMemory::new(4096)?;
/// broody::spawn(|memory: SharedMemory| memory.write(10, b"hello").unwrap(), memory.clone())?.join()?;
/// let mut bytes = [0; 5];
/// memory.read(10, &mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SharedMemory(Arc<Held>);

impl SharedMemory {
    /// Makes `length` bytes that are all zero.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for them.
    pub fn new(length: usize) -> Result<Self> {
        Ok(Self(memory::arena()?.allocate(Kind::Memory, length as u64, PLAIN)?))
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.body().length() as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first byte. Valid for reads and writes of [`len`](Self::len) bytes as long as this, or a clone of it, lives; whoever uses it
    /// answers for what other processes do at the same time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.body().as_ptr().as_ptr()
    }

    /// Copies bytes from `offset` on into `bytes`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) where that would be behind the end.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let start = self.at(offset, bytes.len())?;
        // SAFETY: so many bytes are there. Another process may write to them meanwhile: what is read then is some mixture, of bytes, for
        // which any value is valid; the compiler sees neither that process nor another name for this memory.
        unsafe { start.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) where that would be behind the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let start = self.at(offset, bytes.len())?;
        // SAFETY: as in `read`.
        unsafe { start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn at(&self, offset: usize, length: usize) -> Result<NonNull<u8>> {
        if offset.checked_add(length).is_none_or(|end| end > self.len()) {
            let what = format!(
                "{length} bytes from {offset} on do not lie within shared memory of {} bytes",
                self.len()
            );
            return Err(Error::Invalid { what });
        }
        // SAFETY: within the memory.
        Ok(unsafe { self.0.body().as_ptr().add(offset) })
    }
}

const PLAIN: u64 = 0;

sent_as_handle!(SharedMemory; |memory| &memory.0, |held| {
    (held.kind() == Kind::Memory && held.tag() == PLAIN).then_some(SharedMemory(held))
});
