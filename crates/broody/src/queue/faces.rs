//! What the kinds of queues have in common, written once.

use crate::{Error, Result};

/// What every queue can be asked, in terms of its `core`.
macro_rules! looks {
    () => {
        /// How many messages there are, at this instant.
        pub fn len(&self) -> usize {
            self.core().len()
        }

        /// Whether there is none, at this instant.
        pub fn is_empty(&self) -> bool {
            self.core().is_empty()
        }

        /// Whether it holds as many messages as it may, at this instant. A bound in bytes does not count here.
        pub fn is_full(&self) -> bool {
            self.core().is_full()
        }

        /// No more is put. What is there can still be taken; then whoever takes gets [`Closed`](crate::Error::Closed), and iteration ends.
        pub fn close(&self) {
            self.core().close();
        }

        /// Takes what comes until it is closed and empty. See [`Iter`](crate::Iter).
        pub fn iter(&self) -> $crate::queue::Iter<'_, Self> {
            $crate::queue::Iter::new(self)
        }

        /// Whether it was closed.
        pub fn is_closed(&self) -> bool {
            self.core().is_closed()
        }
    };
}
pub(super) use looks;

/// How values are put and taken, in terms of the `queue` of values.
macro_rules! puts_and_takes {
    () => {
        /// Puts a value, waiting for room if the queue is full.
        ///
        /// # Errors
        /// [`Encode`](crate::Error::Encode) for a value without an encoding, [`Closed`](crate::Error::Closed),
        /// [`MessageTooLong`](crate::Error::MessageTooLong), and [`Memory`](crate::Error::Memory) when there is no memory for it. The queue is as it was.
        pub fn put(&self, value: impl Borrow<T>) -> Result<()> {
            self.queue().put_until(value.borrow(), Deadline::Never)
        }

        /// Puts a value if there is room.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when the queue is full, and as [`put`](Self::put).
        pub fn try_put(&self, value: impl Borrow<T>) -> Result<()> {
            self.queue().put_until(value.borrow(), Deadline::Now)
        }

        /// Puts a value, waiting for room at most for `limit`.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there was no room in time, and as [`put`](Self::put).
        pub fn put_timeout(&self, value: impl Borrow<T>, limit: Duration) -> Result<()> {
            self.queue().put_until(value.borrow(), Deadline::after(limit))
        }

        /// Puts all of `values` in their order, waiting for room: as many at once as there is room for.
        ///
        /// # Errors
        /// As [`put`](Self::put). The values before the one that failed may have been put.
        pub fn put_many<V: Borrow<T>>(&self, values: impl IntoIterator<Item = V>) -> Result<()> {
            self.queue().put_many_until(values, Deadline::Never).map(|_| ())
        }

        /// Puts the first ones of `values` for which there is room. How many those are. Others may have been taken from the iterator: whoever
        /// needs them again gives references.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there is room for none, and as [`put_many`](Self::put_many).
        pub fn try_put_many<V: Borrow<T>>(&self, values: impl IntoIterator<Item = V>) -> Result<usize> {
            self.queue().put_many_until(values, Deadline::Now)
        }

        /// As [`put_many`](Self::put_many), waiting for room at most for `limit`. How many were put, as for
        /// [`try_put_many`](Self::try_put_many).
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there was room for none in time, and as [`put_many`](Self::put_many).
        pub fn put_many_timeout<V: Borrow<T>>(
            &self,
            values: impl IntoIterator<Item = V>,
            limit: Duration,
        ) -> Result<usize> {
            self.queue().put_many_until(values, Deadline::after(limit))
        }

        /// Takes the next value, waiting for it.
        ///
        /// # Errors
        /// [`Closed`](crate::Error::Closed) when there is none and will be none; [`Decode`](crate::Error::Decode) for a value that cannot be decoded (it is
        /// taken, and the queue goes on).
        pub fn get(&self) -> Result<T> {
            self.queue().get_until(Deadline::Never)
        }

        /// Takes the next value if there is one.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there is none, and as [`get`](Self::get).
        pub fn try_get(&self) -> Result<T> {
            self.queue().get_until(Deadline::Now)
        }

        /// Takes the next value, waiting for it at most for `limit`.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there was none in time, and as [`get`](Self::get).
        pub fn get_timeout(&self, limit: Duration) -> Result<T> {
            self.queue().get_until(Deadline::after(limit))
        }

        /// Takes up to `most` values that are there, waiting for the first one. Each of them is a result of its own: one that cannot be decoded
        /// is [`Decode`](crate::Error::Decode), and takes no other one with it.
        ///
        /// # Errors
        /// As [`get`](Self::get), when nothing was taken.
        pub fn get_many(&self, most: usize) -> Result<Vec<Result<T>>> {
            self.queue().get_many_until(most, Deadline::Never)
        }

        /// Takes up to `most` values that are there.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there is none, and as [`get_many`](Self::get_many).
        pub fn try_get_many(&self, most: usize) -> Result<Vec<Result<T>>> {
            self.queue().get_many_until(most, Deadline::Now)
        }

        /// Takes up to `most` values that are there, waiting for the first one at most for `limit`.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut) when there was none in time, and as [`get_many`](Self::get_many).
        pub fn get_many_timeout(&self, most: usize, limit: Duration) -> Result<Vec<Result<T>>> {
            self.queue().get_many_until(most, Deadline::after(limit))
        }
    };
}
pub(super) use puts_and_takes;

/// Something that messages are taken from, one after the other, until it is closed. Not to be implemented elsewhere.
pub trait Takes: sealed::Sealed {
    /// What is taken.
    type Item;

    #[doc(hidden)]
    fn take_next(&self) -> Result<Self::Item>;
}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// What is taken from a queue or pipe, until it is closed. Made by `iter` of each of them.
///
/// A value that cannot be decoded is [`Decode`](crate::Error::Decode), and the next one comes after it. After any other error, of a queue that cannot
/// be used, nothing comes.
#[derive(Debug)]
pub struct Iter<'a, Q> {
    queue: &'a Q,
    over: bool,
}

impl<'a, Q> Iter<'a, Q> {
    pub(super) fn new(queue: &'a Q) -> Self {
        Self { queue, over: false }
    }
}

impl<Q: Takes> Iterator for Iter<'_, Q> {
    type Item = Result<Q::Item>;

    fn next(&mut self) -> Option<Result<Q::Item>> {
        if self.over {
            return None;
        }
        let next = self.queue.take_next();
        self.over = !matches!(next, Ok(_) | Err(Error::Decode { .. }));
        if let Err(Error::Closed { .. }) = next { None } else { Some(next) }
    }
}

impl<Q: Takes> std::iter::FusedIterator for Iter<'_, Q> {}

/// Lets a queue be iterated over: `$take` takes the next one.
macro_rules! iterates {
    ([$($parameters:tt)*] $queue:ty, $item:ty, $take:expr) => {
        impl<$($parameters)*> $crate::queue::faces::sealed::Sealed for $queue {}

        impl<$($parameters)*> $crate::queue::faces::Takes for $queue {
            type Item = $item;

            fn take_next(&self) -> $crate::Result<$item> {
                let take: fn(&Self) -> $crate::Result<$item> = $take;
                take(self)
            }
        }

        impl<'a, $($parameters)*> IntoIterator for &'a $queue {
            type Item = $crate::Result<$item>;
            type IntoIter = $crate::queue::Iter<'a, $queue>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }
    };
}
pub(super) use iterates;

/// What a queue of tasks can do beyond others, in terms of its `core`.
macro_rules! counts_tasks {
    () => {
        /// A task that was taken is done.
        ///
        /// # Errors
        /// [`NotHeld`](crate::Error::NotHeld) when no task is taken that is not done.
        pub fn task_done(&self) -> crate::Result<()> {
            self.core().task_done().map_err(|_| $crate::Error::NotHeld { what: "task", by: "by anybody" })
        }

        /// Waits until all tasks that were put are done, at most for `limit` if there is one.
        ///
        /// # Errors
        /// [`TimedOut`](crate::Error::TimedOut); [`TasksLost`](crate::Error::TasksLost), once, when some were taken by processes that died with them: the others are
        /// done.
        pub fn join(&self, limit: Option<std::time::Duration>) -> crate::Result<()> {
            if !self.core().join($crate::sync::deadline(limit)) {
                return Err(crate::Error::TimedOut { what: "the end of all tasks" });
            }
            match self.take_lost() {
                0 => Ok(()),
                count => Err(crate::Error::TasksLost { count }),
            }
        }

        /// How many tasks were put and are not done, whether they wait or were taken.
        pub fn unfinished(&self) -> usize {
            self.core().unfinished()
        }

        /// How many tasks were lost since this was last asked, or told by [`join`](Self::join).
        pub fn take_lost(&self) -> u32 {
            self.core().take_lost()
        }
    };
}
pub(super) use counts_tasks;
