//! Tasks whose result is asked for later.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::batch::Gathered;
use super::dispatcher::Shared;
use super::gather::Gather;
use crate::{Error, Result};

/// What was handed to a pool by [`Pool::apply_async`](super::Pool::apply_async) or [`Pool::map_async`](super::Pool::map_async), and its result.
///
/// It is also a future, for any executor: `result.await`. Dropping it does not take the tasks back; [`cancel`](Self::cancel) does.
#[must_use = "dropping it does not take the task back, but nobody gets its result"]
pub struct AsyncResult<R> {
    pool: Arc<Shared>,
    batch: Gathered,
    decode: fn(&Gather, &str) -> Result<R>,
    result: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> AsyncResult<R> {
    /// Of one task.
    pub(super) fn one(pool: Arc<Shared>, batch: Gathered) -> Self {
        Self { pool, batch, decode: |gather, function| gather.get(0, function), result: PhantomData }
    }
}

impl<R: DeserializeOwned> AsyncResult<Vec<R>> {
    /// Of several tasks together.
    pub(super) fn all(pool: Arc<Shared>, batch: Gathered) -> Self {
        Self { pool, batch, decode: Gather::get_all, result: PhantomData }
    }
}

impl<R> AsyncResult<R> {
    /// Waits for the result. Any number of times; the answer is the same each time.
    ///
    /// # Errors
    /// Why there is none: [`Panicked`](crate::Error::Panicked), [`WorkerLost`](crate::Error::WorkerLost), [`TaskTimedOut`](crate::Error::TaskTimedOut),
    /// [`TaskMemory`](crate::Error::TaskMemory), [`Cancelled`](crate::Error::Cancelled), [`PoolTerminated`](crate::Error::PoolTerminated),
    /// [`PoolBroken`](crate::Error::PoolBroken), [`Encode`](crate::Error::Encode) or [`Decode`](crate::Error::Decode); of several tasks, the first one's (in
    /// order) that has none. [`WrongProcess`](crate::Error::WrongProcess) in a fork of the pool's process.
    pub fn get(&self) -> Result<R> {
        self.check_owner()?;
        self.pool.wait(&self.batch, None);
        self.decode()
    }

    /// As [`get`](Self::get), for at most `limit`. `None` when there is no result by then.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_timeout(&self, limit: Duration) -> Result<Option<R>> {
        self.check_owner()?;
        if !self.pool.wait(&self.batch, Instant::now().checked_add(limit)) {
            return Ok(None);
        }
        self.decode().map(Some)
    }

    /// The result, if it is over; never waits, nor for the pool's lock.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn try_get(&self) -> Result<Option<R>> {
        self.check_owner()?;
        if self.batch.is_complete() { self.decode().map(Some) } else { Ok(None) }
    }

    /// Waits until it is over, at most for `limit`. Whether it is.
    ///
    /// # Errors
    /// [`WrongProcess`](crate::Error::WrongProcess) in a fork of the pool's process.
    pub fn wait_timeout(&self, limit: Duration) -> Result<bool> {
        self.check_owner()?;
        Ok(self.pool.wait(&self.batch, Instant::now().checked_add(limit)))
    }

    /// Whether it is over, with a result or an error.
    pub fn ready(&self) -> bool {
        self.batch.is_complete()
    }

    /// Gives up what is not done: tasks that have not begun never will, and a worker that runs one is ended and replaced. They fail with
    /// [`Cancelled`](crate::Error::Cancelled). Whether there was any; a task that ends in this very moment may still have its result.
    ///
    /// # Errors
    /// [`WrongProcess`](crate::Error::WrongProcess) in a fork of the pool's process.
    pub fn cancel(&self) -> Result<bool> {
        self.check_owner()?;
        let mut schedule = self.pool.schedule();
        let running = schedule.cancel(self.batch.batch());
        let any = self.batch.batch().cancel(&running);
        schedule.hand_out();
        drop(schedule);
        self.pool.nudge();
        Ok(any)
    }

    /// Gives a single task up if it has not begun. Whether it is given up: it fails with [`Cancelled`](crate::Error::Cancelled) then. One that has begun,
    /// or is over, is not touched.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for several tasks together, and [`WrongProcess`](crate::Error::WrongProcess) in a fork of the pool's process.
    pub fn revoke(&self) -> Result<bool> {
        self.check_owner()?;
        if !self.batch.is_single() {
            return Err(Error::Invalid {
                what: "only a single task can be revoked: use cancel()".to_owned(),
            });
        }
        let mut schedule = self.pool.schedule();
        let revoked = schedule.revoke(self.batch.batch());
        schedule.hand_out();
        drop(schedule);
        self.pool.nudge();
        Ok(revoked)
    }

    /// Whether a worker has begun it, or one of its tasks, and it is not over.
    pub fn is_running(&self) -> bool {
        self.check_owner().is_ok() && self.pool.schedule().runs_any_of(self.batch.batch())
    }

    /// Has `callback` run with the result when it is there, in a thread for that: callbacks of a pool run one after the other.
    ///
    /// # Errors
    /// [`WrongProcess`](crate::Error::WrongProcess) in a fork of the pool's process.
    pub fn on_done(&self, callback: impl FnOnce(Result<R>) + Send + 'static) -> Result<()>
    where
        R: 'static,
    {
        let (batch, decode) = (self.batch.clone(), self.decode);
        self.when_done(move || callback(decode(&batch, batch.batch().name)))
    }

    /// As [`on_done`](Self::on_done), without the result.
    ///
    /// # Errors
    /// As [`on_done`](Self::on_done).
    pub fn when_done(&self, callback: impl FnOnce() + Send + 'static) -> Result<()> {
        self.check_owner()?;
        if let Some(callback) = self.batch.call_when_complete(Box::new(callback)) {
            self.pool.call_back(callback);
        }
        Ok(())
    }

    fn decode(&self) -> Result<R> {
        (self.decode)(&self.batch, self.batch.batch().name)
    }

    fn check_owner(&self) -> Result<()> {
        self.pool.check_owner("result of a pool")
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        if let Err(error) = self.check_owner() {
            return Poll::Ready(Err(error));
        }
        if self.batch.wake_when_complete(context.waker()) {
            return Poll::Ready(self.decode());
        }
        Poll::Pending
    }
}
