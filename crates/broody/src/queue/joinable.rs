//! A queue of tasks that one can wait for.

use std::borrow::Borrow;
use std::time::Duration;

use broody_shm::queue;
use broody_shm::sync::Deadline;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::Core;
use super::faces::{iterates, looks, puts_and_takes};
use super::typed::{Queue, QueueBuilder};
use crate::handle::{self, tag_of};
use crate::sync::deadline;
use crate::{Error, Result};

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
    /// [`Memory`](Error::Memory) when there is no memory for it.
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

    /// A task that was taken is done.
    ///
    /// # Errors
    /// [`NotHeld`](Error::NotHeld) when no task is taken that is not done.
    pub fn task_done(&self) -> Result<()> {
        self.0.core().task_done().map_err(|_| Error::NotHeld { what: "task", by: "by anybody" })
    }

    /// Waits until all tasks that were put are done, at most for `limit` if there is one.
    ///
    /// # Errors
    /// [`TimedOut`](Error::TimedOut); [`TasksLost`](Error::TasksLost), once, when some were taken by processes that died with them: the others are
    /// done.
    pub fn join(&self, limit: Option<Duration>) -> Result<()> {
        if !self.0.core().join(deadline(limit)) {
            return Err(Error::TimedOut { what: "the end of all tasks" });
        }
        match self.take_lost() {
            0 => Ok(()),
            count => Err(Error::TasksLost { count }),
        }
    }

    /// How many tasks were put and are not done, whether they wait or were taken.
    pub fn unfinished(&self) -> usize {
        self.0.core().unfinished()
    }

    /// How many tasks were lost since this was last asked, or told by [`join`](Self::join).
    pub fn take_lost(&self) -> u32 {
        self.0.core().take_lost()
    }
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
