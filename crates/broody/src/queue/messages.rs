//! Queues of what a runtime of another language has encoded. See [`embed`](crate::embed).
//!
//! A message is bytes, in which handles on shared objects may be, and long [`Buffer`]s. Short messages without any go the short way, which waits for
//! nothing, so that a runtime need not let go of what it holds meanwhile.

use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use broody_os::memory::Mapping;
use broody_shm::arena::Transit;
use broody_shm::blob;
use broody_shm::queue::{self, Limits, Message};

use super::bytes::BytesQueue;
use super::core::Core;
use super::faces::{counts_tasks, looks};
use crate::embed::Encoded;
use crate::handle::sent_as_handle;
use crate::sync::deadline;
use crate::{Result, memory};

/// A queue of a runtime's messages.
#[derive(Debug, Clone)]
pub struct MessageQueue(BytesQueue);

/// Tells these queues from others.
const MESSAGES: u64 = 0x5eed_0000_0000_0010;

impl MessageQueue {
    /// Makes a queue of at most `most` messages, if there is a bound; `counts_tasks` for one that can be [joined](Self::join).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a bound of 0; [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(most: Option<u32>, counts_tasks: bool) -> Result<Self> {
        let limits = Limits { messages: most, ..Limits::default() };
        Ok(Self(BytesQueue::with(limits, MESSAGES, counts_tasks)?))
    }

    /// Puts a message, if that can be done the short way. Whether it was.
    #[inline]
    pub fn try_put(&self, bytes: &[u8]) -> bool {
        self.core().put_short(bytes)
    }

    /// Puts a message, waiting for room at most for `limit` if there is one; zero only tries.
    ///
    /// # Errors
    /// As [`BytesQueue::put`].
    pub fn put(&self, bytes: &[u8], limit: Option<Duration>) -> Result<()> {
        self.0.put(bytes, limit)
    }

    /// As [`put`](Self::put), with the objects in it.
    ///
    /// # Errors
    /// As there; then the objects are still in it.
    pub fn put_encoded(&self, encoded: &Encoded, limit: Option<Duration>) -> Result<()> {
        encoded.deliver(|outgoing| {
            self.0.put_message(Message { bytes: &encoded.bytes, holds: outgoing.holds() }, deadline(limit))
        })
    }

    /// Takes a message, if that can be done the short way: `None` where there is none, too. `each` gets its bytes while other takers wait, and leaves it
    /// where it is if it gives `None`.
    #[inline]
    pub fn try_take<R>(&self, each: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        let taken = self.core().take_short(each);
        if taken.is_some() {
            self.core().after_take();
        }
        taken
    }

    /// Takes a message, waiting for it at most for `limit` if there is one; zero only tries.
    ///
    /// # Errors
    /// As [`BytesQueue::get`].
    pub fn take(&self, limit: Option<Duration>) -> Result<Received> {
        Received::take(&self.0, limit)
    }

    /// A descriptor that is readable when there is something to be taken; perhaps also when others were faster. It lives as long as the queue does here.
    ///
    /// # Errors
    /// [`Os`](crate::Error::Os) when there are no descriptors left.
    pub fn descriptor(&self) -> Result<RawFd> {
        use std::os::fd::AsFd;
        let watch = self.core().watch()?;
        watch.look_again();
        Ok(watch.as_fd().as_raw_fd())
    }

    pub(crate) fn bytes(&self) -> &BytesQueue {
        &self.0
    }

    fn core(&self) -> &Core {
        &self.0.0
    }

    looks!();
    counts_tasks!();
}

super::faces::iterates!([] MessageQueue, Received, |queue| queue.take(None));

sent_as_handle!(MessageQueue; |queue| queue.core().held(), |held| {
    let right = held.tag() == MESSAGES;
    let queue = queue::Queue::from_held(held).filter(|_| right)?;
    Some(MessageQueue(BytesQueue(Core::new(queue))))
});

/// A message that was taken. The objects to which it refers are kept as long as this lives.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    blob: Option<blob::Blob>,
    _holds: Option<Transit>,
}

impl Received {
    pub(super) fn take(queue: &BytesQueue, limit: Option<Duration>) -> Result<Self> {
        let mut buffer = Vec::new();
        let taken = queue.take(&mut buffer, deadline(limit))?;
        Ok(Self { bytes: buffer, blob: taken.blob, _holds: taken.holds })
    }
}

impl From<Encoded> for Received {
    fn from(encoded: Encoded) -> Self {
        Self { bytes: encoded.bytes, blob: None, _holds: None }
    }
}

impl std::ops::Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.blob.as_deref().unwrap_or(&self.bytes)
    }
}

/// Many bytes that go with a message, in memory of their own, and do not change any more.
#[derive(Debug, Clone)]
pub struct Buffer(blob::Blob);

impl Buffer {
    /// Copies `bytes`. The memory is used again for others once nobody has it.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        Ok(Self(blob::Blob::for_message(memory::arena()?, bytes)?))
    }

    /// The bytes for somebody who may change them, without a copy of those that he does not change. `None` for a few bytes, which have no pages of
    /// their own: copy them.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) without memory.
    pub fn own(&self) -> Result<Option<OwnBuffer>> {
        let pages = self.0.private_copy()?;
        Ok(pages.map(|pages| OwnBuffer { pages, blob: self.0.clone() }))
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

sent_as_handle!(Buffer; |buffer| buffer.0.held(), |held| blob::Blob::from_held(held).map(Buffer));

/// A [`Buffer`]'s bytes, for one process that may change them.
#[derive(Debug)]
pub struct OwnBuffer {
    pages: Mapping,
    /// Keeps what is not changed.
    blob: blob::Blob,
}

impl OwnBuffer {
    /// The first byte. Valid for reads and writes of [`len`](Self::len) bytes as long as this lives.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.pages.as_ptr()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.blob.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
