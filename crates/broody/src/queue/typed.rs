//! A queue of values.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use broody_shm::queue::{self, Limits, Message};
use broody_shm::sync::Deadline;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bytes::{BytesQueue, explain};
use super::core::Core;
use super::faces::{iterates, looks, puts_and_takes};
use crate::handle::{self, Outgoing, tag_of};
use crate::{Error, Result, codec};

/// A queue between processes: any number of them put values in, any number take them out, in the order in which they were put.
///
/// As Python's `multiprocessing.Queue`, without its feeder thread: what was put is there, whatever becomes of the process that put it.
///
/// ```
/// # broody::init();
/// use broody::Queue;
/// let (tasks, results) = (Queue::<u64>::new()?, Queue::<u64>::new()?);
/// fn work((tasks, results): (Queue<u64>, Queue<u64>)) {
///     for task in &tasks {
///         let task = task.unwrap();
///         results.put(task * task).unwrap();
///     }
/// }
/// let child = broody::spawn(work, (tasks.clone(), results.clone()))?;
/// tasks.put_many([1, 2, 3])?;
/// tasks.close();
/// child.join()?;
/// assert_eq!(results.get_many(10)?.into_iter().collect::<Result<Vec<_>, _>>()?, [1, 4, 9]);
/// # Ok::<(), broody::Error>(())
/// ```
pub struct Queue<T: ?Sized> {
    pub(super) bytes: BytesQueue,
    value: PhantomData<fn(Box<T>) -> Box<T>>,
}

impl<T: ?Sized> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), value: PhantomData }
    }
}

impl<T: ?Sized> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Says what a queue may hold. Made by [`Queue::builder`].
#[derive(Debug, Clone, Copy)]
#[must_use = "a builder makes nothing until `build` is called"]
pub struct QueueBuilder<T> {
    pub(super) limits: Limits,
    value: PhantomData<fn(T) -> T>,
}

impl<T> QueueBuilder<T> {
    /// The most messages at once: who puts more waits.
    pub fn messages(mut self, most: u32) -> Self {
        self.limits.messages = Some(most);
        self
    }

    /// The most bytes of encoded messages at once. A message that is longer by itself is an error.
    pub fn bytes(mut self, most: u64) -> Self {
        self.limits.bytes = Some(most);
        self.limits.refuse_long = true;
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a bound of 0; [`Memory`](Error::Memory) when there is no memory for it.
    pub fn build(self) -> Result<Queue<T>> {
        Queue::with(self.limits, tag_of::<T>(), false)
    }
}

thread_local! {
    /// What a message is encoded into, and taken into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Messages of so few bytes are encoded and decoded on the stack.
const SHORT: usize = 128;

/// A buffer that has grown larger than this is not kept, in bytes.
const KEPT: usize = 64 * 1024;

fn with_buffer<R>(use_it: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // Taken out, since what is encoded or decoded may itself use a queue; and not kept by a thread that is ending.
    let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
    buffer.clear();
    let result = use_it(&mut buffer);
    if buffer.capacity() <= KEPT {
        let _ = BUFFER.try_with(|kept| kept.replace(buffer));
    }
    result
}

impl<T: ?Sized> Queue<T> {
    pub(super) fn with(limits: Limits, tag: u64, counts_tasks: bool) -> Result<Self> {
        Ok(Self { bytes: BytesQueue::with(limits, tag, counts_tasks)?, value: PhantomData })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.bytes.0
    }

    pub(super) fn from_core(queue: queue::Queue) -> Self {
        Self { bytes: BytesQueue(Core::new(queue)), value: PhantomData }
    }

    fn queue(&self) -> &Self {
        self
    }

    looks!();
}

impl<T: Serialize + DeserializeOwned> Queue<T> {
    /// Makes a queue without bounds.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Makes a queue of at most `messages` values: who puts more waits.
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn bounded(messages: u32) -> Result<Self> {
        Self::builder().messages(messages).build()
    }

    /// Says what the queue may hold, before it is made.
    pub fn builder() -> QueueBuilder<T> {
        QueueBuilder { limits: Limits::default(), value: PhantomData }
    }

    puts_and_takes!();

    pub(super) fn put_until(&self, value: &T, deadline: Deadline) -> Result<()> {
        let mut place = [0; SHORT];
        let (encoded, outgoing) = handle::collect(|| codec::encode_to(value, &mut place));
        let Some(bytes) = encoded else {
            drop(outgoing);
            return self.put_long(value, deadline);
        };
        self.bytes.put_message(Message { bytes, holds: outgoing.holds() }, deadline)?;
        outgoing.hand_over();
        Ok(())
    }

    /// Puts what is too long to be encoded on the stack, or has no encoding.
    fn put_long(&self, value: &T, deadline: Deadline) -> Result<()> {
        with_buffer(|buffer| {
            let outgoing = encode(value, buffer)?;
            self.bytes.put_message(Message { bytes: buffer, holds: outgoing.holds() }, deadline)?;
            outgoing.hand_over();
            Ok(())
        })
    }

    pub(super) fn put_many_until<V: Borrow<T>>(
        &self,
        values: impl IntoIterator<Item = V>,
        deadline: Deadline,
    ) -> Result<usize> {
        /// Encoded and put together: so many bytes, and so many values.
        const BATCH: usize = 8 * 1024;
        const MOST: usize = 1024;
        let mut values = values.into_iter().peekable();
        with_buffer(|buffer| {
            let mut put = 0;
            while values.peek().is_some() {
                buffer.clear();
                let mut parts = Vec::new();
                while buffer.len() < BATCH
                    && parts.len() < MOST
                    && let Some(value) = values.next()
                {
                    let start = buffer.len();
                    let outgoing = encode(value.borrow(), buffer)?;
                    parts.push((start..buffer.len(), outgoing));
                }
                match self.put_parts(buffer, parts, &mut put, deadline) {
                    Err(Error::TimedOut { .. }) if put > 0 => break,
                    result => result?,
                }
            }
            Ok(put)
        })
    }

    /// Puts what is encoded, and counts it.
    fn put_parts(
        &self,
        buffer: &[u8],
        mut parts: Vec<(std::ops::Range<usize>, Outgoing)>,
        count: &mut usize,
        deadline: Deadline,
    ) -> Result<()> {
        while !parts.is_empty() {
            let messages: Vec<_> = parts
                .iter()
                .map(|(range, outgoing)| Message { bytes: &buffer[range.clone()], holds: outgoing.holds() })
                .collect();
            let put = self.core().put_many(&messages, deadline);
            let put = put.map_err(|error| explain(error, "room in the queue"))?;
            parts.drain(..put).for_each(|(_, outgoing)| outgoing.hand_over());
            *count += put;
        }
        Ok(())
    }

    pub(super) fn get_until(&self, deadline: Deadline) -> Result<T> {
        let mut place = [0; SHORT];
        let short = self.core().take_short(|bytes| {
            let fits = bytes.len() <= SHORT;
            if fits {
                place[..bytes.len()].copy_from_slice(bytes);
            }
            fits.then_some(bytes.len())
        });
        match short {
            Some(length) => {
                self.core().after_take();
                decode(&place[..length])
            }
            None => self.get_long(deadline),
        }
    }

    /// Takes a message that is not short, or has to be waited for.
    fn get_long(&self, deadline: Deadline) -> Result<T> {
        with_buffer(|buffer| {
            let taken = self.bytes.take(buffer, deadline)?;
            // What the value does not take of what came with it goes after this.
            decode(taken.blob.as_deref().unwrap_or(buffer))
        })
    }

    pub(super) fn get_many_until(&self, most: usize, deadline: Deadline) -> Result<Vec<Result<T>>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut parts = Vec::new();
        with_buffer(|buffer| {
            let taken = self.core().take_many(most, deadline, |bytes, taken| {
                let start = buffer.len();
                buffer.extend_from_slice(bytes);
                parts.push((start..buffer.len(), taken));
            });
            self.core().after_take();
            taken.map_err(|error| explain(error, "a message in the queue"))?;
            Ok(parts
                .iter()
                .map(|(range, taken)| decode(taken.blob.as_deref().unwrap_or(&buffer[range.clone()])))
                .collect())
        })
    }
}

fn encode<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<Outgoing> {
    let (encoded, outgoing) = handle::collect(|| codec::encode_into(value, buffer));
    encoded.map(|()| outgoing).map_err(|reason| Error::Encode {
        what: "a message",
        function: std::any::type_name::<T>().to_owned(),
        reason,
    })
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    codec::decode(bytes).map_err(|reason| Error::Decode {
        what: "a message",
        function: std::any::type_name::<T>().to_owned(),
        reason,
    })
}

iterates!([T: Serialize + DeserializeOwned] Queue<T>, T, Queue::get);

impl<T: ?Sized> serde::Serialize for Queue<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.core().held(), serializer)
    }
}

impl<'de, T: ?Sized> serde::Deserialize<'de> for Queue<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let held = handle::deserialize(deserializer)?;
        let right = held.tag() == tag_of::<T>();
        let queue = queue::Queue::from_held(held).filter(|_| right);
        queue.map(Self::from_core).ok_or_else(|| handle::wrong_type("Queue"))
    }
}
