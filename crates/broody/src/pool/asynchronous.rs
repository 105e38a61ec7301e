//! `apply_async`: one task, whose result is asked for later.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broody_os::{Pid, fork};
use serde::de::DeserializeOwned;

use super::dispatcher::Shared;
use super::gather::Gather;
use crate::{Error, Result};

/// A task that was handed to a pool by [`Pool::apply_async`](super::Pool::apply_async), and its result.
///
/// Dropping it does not take the task back.
pub struct AsyncResult<R> {
    pool: Arc<Shared>,
    gather: Arc<Gather>,
    function: &'static str,
    owner: Pid,
    result: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> AsyncResult<R> {
    pub(super) fn new(pool: Arc<Shared>, gather: Arc<Gather>, function: &'static str) -> Self {
        Self { pool, gather, function, owner: fork::pid(), result: PhantomData }
    }

    /// Waits for the result. Any number of times; the answer is the same each time.
    ///
    /// # Errors
    /// [`Panicked`](Error::Panicked), [`WorkerLost`](Error::WorkerLost), [`PoolTerminated`](Error::PoolTerminated),
    /// [`PoolBroken`](Error::PoolBroken), [`Encode`](Error::Encode) or [`Decode`](Error::Decode), if that is what became of it;
    /// [`WrongProcess`](Error::WrongProcess) in a fork of the pool's process.
    pub fn get(&self) -> Result<R> {
        self.check_owner()?;
        self.pool.wait(&self.gather, None);
        self.gather.get(0, self.function)
    }

    /// As [`get`](Self::get), for at most `limit`. `None` when there is no result by then.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_timeout(&self, limit: Duration) -> Result<Option<R>> {
        self.check_owner()?;
        if !self.pool.wait(&self.gather, Instant::now().checked_add(limit)) {
            return Ok(None);
        }
        self.gather.get(0, self.function).map(Some)
    }

    /// Whether it is over, with a result or an error.
    pub fn ready(&self) -> bool {
        self.gather.is_complete()
    }

    fn check_owner(&self) -> Result<()> {
        let here = fork::pid();
        if here == self.owner {
            return Ok(());
        }
        Err(Error::WrongProcess { what: "result of a pool", owner: self.owner, here })
    }
}
