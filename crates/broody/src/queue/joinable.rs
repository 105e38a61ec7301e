//! A queue of tasks that one can wait for.

use std::borrow::Borrow;
use std::time::Duration;

use broody_shm::queue::{self, Limits};
use broody_shm::sync::Deadline;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bytes::{Bytes, BytesQueue};
use super::core::Core;
use super::faces::{counts_tasks, iterates, looks, puts_and_takes};
use super::typed::{Queue, QueueBuilder};
use crate::Result;
use crate::handle::{self, sent_as_handle, tag_of};

/// A queue whose values are tasks: whoever takes one says when it is done, and [`join`](Self::join) waits until all are. As Python's
/// `multiprocessing.JoinableQueue`.
///
/// A task that was taken is its process's until it says that it is done. The tasks that a process had taken and not done when it died are lost: `join` does not wait for them, and says how many there were.
///
/// ```
/// # broody::init();
/// use broody::JoinableQueue;
/// let queue = JoinableQueue::<u32>::new()?;
/// fn work(queue: JoinableQueue<u32>) {
///     for _task in &queue {
///         queue.task_done().unwrap();
///     }
/// }
/// let child = broody::spawn(work, queue.clone())?;
/// queue.put(1)?;
/// queue.put(2)?;
/// queue.join(None)?;
/// queue.close();
/// child.join()?;
/// # Ok::<(), broody::Error>(())
/// ```
pub struct JoinableQueue<T>(Queue<T>);

/// Sets the tag of a joinable queue apart from that of a plain one.
const JOINABLE: u64 = 0x5eed_0000_0000_0001;

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JoinableQueue").field(&self.0).finish()
    }
}

impl<T> JoinableQueue<T> {
    pub(crate) fn queue(&self) -> &Queue<T> {
        &self.0
    }

    fn core(&self) -> &Core {
        self.0.core()
    }

    looks!();
}

impl<T: Serialize + DeserializeOwned> JoinableQueue<T> {
    /// Makes a queue without bounds.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Self::with(Queue::builder())
    }

    /// Makes a queue with the bounds of `builder`.
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn with(builder: QueueBuilder<T>) -> Result<Self> {
        Queue::with(builder.limits, tag_of::<T>() ^ JOINABLE, true).map(Self)
    }

    puts_and_takes!();

    counts_tasks!();
}

iterates!([T: Serialize + DeserializeOwned] JoinableQueue<T>, T, JoinableQueue::get);

impl<T> serde::Serialize for JoinableQueue<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.0.core().held(), serializer)
    }
}

impl<'de, T> serde::Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let held = handle::deserialize(deserializer)?;
        let right = held.tag() == tag_of::<T>() ^ JOINABLE;
        let queue = queue::Queue::from_held(held).filter(|_| right);
        let queue = queue.ok_or_else(|| handle::wrong_type("JoinableQueue"))?;
        Ok(Self(Queue::from_core(queue)))
    }
}

/// A queue of bytes that are tasks. As [`JoinableQueue`], without a codec.
///
/// ```
/// # broody::init();
/// let queue = broody::JoinableBytesQueue::new()?;
/// queue.put(b"a task", None)?;
/// assert_eq!(&*queue.get(None)?, b"a task");
/// queue.task_done()?;
/// queue.join(None)?;
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct JoinableBytesQueue(BytesQueue);

/// Tells these queues from others.
const RAW_JOINABLE: u64 = JOINABLE + 1;

impl JoinableBytesQueue {
    /// Makes a queue without bounds.
    ///
    /// # Errors
    /// As [`BytesQueue::new`].
    pub fn new() -> Result<Self> {
        BytesQueue::with(Limits::default(), RAW_JOINABLE, true).map(Self)
    }

    /// Makes a queue of at most `messages` messages and at most `bytes` bytes of them.
    ///
    /// # Errors
    /// As [`BytesQueue::bounded`].
    pub fn bounded(messages: Option<u32>, bytes: Option<u64>) -> Result<Self> {
        BytesQueue::with(Limits { messages, bytes, refuse_long: true }, RAW_JOINABLE, true).map(Self)
    }

    /// See [`BytesQueue::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, bytes: &[u8], limit: Option<Duration>) -> Result<()> {
        self.0.put(bytes, limit)
    }

    /// See [`BytesQueue::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, limit: Option<Duration>) -> Result<Bytes> {
        self.0.get(limit)
    }

    /// See [`BytesQueue::put_many`].
    ///
    /// # Errors
    /// As there.
    pub fn put_many(&self, messages: &[impl AsRef<[u8]>], limit: Option<Duration>) -> Result<usize> {
        self.0.put_many(messages, limit)
    }

    /// See [`BytesQueue::get_many`].
    ///
    /// # Errors
    /// As there.
    pub fn get_many(&self, most: usize, limit: Option<Duration>) -> Result<Vec<Bytes>> {
        self.0.get_many(most, limit)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.0.0
    }

    counts_tasks!();
    looks!();
}

iterates!([] JoinableBytesQueue, Bytes, |queue| queue.get(None));

sent_as_handle!(JoinableBytesQueue; |queue| queue.core().held(), |held| {
    let right = held.tag() == RAW_JOINABLE;
    let queue = queue::Queue::from_held(held).filter(|_| right)?;
    Some(JoinableBytesQueue(BytesQueue(Core::new(queue))))
});
