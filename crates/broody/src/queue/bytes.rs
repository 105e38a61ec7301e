//! A queue of bytes: what queues of values are made of.

use std::sync::Arc;
use std::time::Duration;

use broody_shm::blob;
use broody_shm::queue::{self, Limits, Message, QueueError, Taken};
use broody_shm::sync::Deadline;

use super::core::Core;
use super::faces::{iterates, looks};
use crate::data::Blob;
use crate::handle::sent_as_handle;
use crate::sync::deadline;
use crate::{Error, Result, memory};

/// A queue of messages that are bytes. As [`Queue`](crate::Queue), without a codec.
///
/// ```
/// # broody::init();
/// let queue = broody::BytesQueue::new()?;
/// queue.put(b"hello", None)?;
/// assert_eq!(&*queue.get(None)?, b"hello");
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BytesQueue(pub(crate) Arc<Core>);

/// A message that was taken: its bytes.
///
/// A short one was copied out of the queue; a long one, of more than 64 KiB, is the very memory that it was put into.
#[derive(Debug)]
pub struct Bytes(Repr);

#[derive(Debug)]
enum Repr {
    /// So many bytes.
    Short([u8; SHORT], u8),
    Copied(Vec<u8>),
    Shared(Blob),
}

/// A message of so few bytes needs no memory of its own.
const SHORT: usize = 38;

impl Bytes {
    fn copied(bytes: &[u8]) -> Self {
        if bytes.len() > SHORT {
            return Self(Repr::Copied(bytes.to_vec()));
        }
        let mut short = [0; SHORT];
        short[..bytes.len()].copy_from_slice(bytes);
        Self(Repr::Short(short, bytes.len() as u8))
    }

    fn shared(blob: blob::Blob) -> Self {
        Self(Repr::Shared(Blob::from_shared(blob)))
    }

    /// The bytes as a vector of their own.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Repr::Short(bytes, length) => bytes[..length.into()].to_vec(),
            Repr::Copied(bytes) => bytes,
            Repr::Shared(blob) => blob.to_vec(),
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Short(bytes, length) => &bytes[..(*length).into()],
            Repr::Copied(bytes) => bytes,
            Repr::Shared(blob) => blob,
        }
    }
}

/// Tells queues of bytes from those of values.
const RAW: u64 = 1;

impl BytesQueue {
    /// Makes a queue without bounds.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Self::with(Limits::default(), RAW, false)
    }

    /// Makes a queue of at most `messages` messages and at most `bytes` bytes of them.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a bound of 0, and as [`new`](Self::new).
    pub fn bounded(messages: Option<u32>, bytes: Option<u64>) -> Result<Self> {
        Self::with(Limits { messages, bytes, refuse_long: true }, RAW, false)
    }

    pub(super) fn with(limits: Limits, tag: u64, counts_tasks: bool) -> Result<Self> {
        // In shared memory, 0 is no bound.
        if limits.messages == Some(0) || limits.bytes == Some(0) {
            return Err(Error::Invalid {
                what: "a queue needs room for at least one message and one byte".to_owned(),
            });
        }
        Ok(Self(Core::new(queue::Queue::new(memory::arena()?, limits, tag, counts_tasks)?)))
    }

    /// Puts a message, waiting for room at most for `limit` if there is one; `Some(Duration::ZERO)` only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut) when there was no room in time, [`Closed`](Error::Closed),
    /// [`MessageTooLong`](Error::MessageTooLong), and [`Memory`](Error::Memory) when there is no memory for it. The queue is as it was.
    pub fn put(&self, bytes: &[u8], limit: Option<Duration>) -> Result<()> {
        self.put_message(Message { bytes, holds: &[] }, deadline(limit))
    }

    pub(super) fn put_message(&self, message: Message<'_>, deadline: Deadline) -> Result<()> {
        self.0.put(message, deadline).map_err(|error| explain(error, "room in the queue"))
    }

    /// Takes the next message, waiting for it at most for `limit` if there is one; `Some(Duration::ZERO)` only tries.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut) when there was none in time; [`Closed`](Error::Closed) when there is none and will be none.
    pub fn get(&self, limit: Option<Duration>) -> Result<Bytes> {
        let taken = self.0.take_as(deadline(limit), Bytes::copied);
        self.0.after_take();
        let taken = taken.map_err(|error| explain(error, "a message in the queue"))?;
        Ok(match taken {
            (_, Some(blob)) => Bytes::shared(blob),
            (bytes, None) => bytes,
        })
    }

    pub(super) fn take(&self, buffer: &mut Vec<u8>, deadline: Deadline) -> Result<Taken> {
        let taken = self.0.take(buffer, deadline);
        self.0.after_take();
        taken.map_err(|error| explain(error, "a message in the queue"))
    }

    /// Puts `messages` in their order, waiting for room at most for `limit` if there is one: as many at once as there is room for. How many
    /// were put: fewer than all when the time was over, or the next one is refused by an error that putting it again gives.
    ///
    /// # Errors
    /// As [`put`](Self::put), when none was put.
    pub fn put_many(&self, messages: &[impl AsRef<[u8]>], limit: Option<Duration>) -> Result<usize> {
        let messages: Vec<_> =
            messages.iter().map(|bytes| Message { bytes: bytes.as_ref(), holds: &[] }).collect();
        self.0.put_many(&messages, deadline(limit)).map_err(|error| explain(error, "room in the queue"))
    }

    /// Takes up to `most` messages that are there, waiting for the first one at most for `limit` if there is one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_many(&self, most: usize, limit: Option<Duration>) -> Result<Vec<Bytes>> {
        let mut messages = Vec::new();
        if most > 0 {
            let taken = self.0.take_many(most, deadline(limit), |bytes, taken| {
                messages.push(taken.blob.map_or_else(|| Bytes::copied(bytes), Bytes::shared));
            });
            self.0.after_take();
            taken.map_err(|error| explain(error, "a message in the queue"))?;
        }
        Ok(messages)
    }

    fn core(&self) -> &Core {
        &self.0
    }

    looks!();
}

iterates!([] BytesQueue, Bytes, |queue| queue.get(None));

/// A queue's error, to users.
pub(super) fn explain(error: QueueError, what: &'static str) -> Error {
    match error {
        QueueError::TimedOut => Error::TimedOut { what },
        QueueError::Closed => Error::Closed { what: "queue" },
        QueueError::TooLong { length, bound } => Error::MessageTooLong { length, bound },
        QueueError::Arena(error) => error.into(),
        QueueError::Corrupt(error) => error.into(),
    }
}

sent_as_handle!(BytesQueue; |queue| queue.0.held(), |held| {
    if held.tag() == RAW { queue::Queue::from_held(held).map(|queue| BytesQueue(Core::new(queue))) } else { None }
});
