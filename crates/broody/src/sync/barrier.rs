//! A meeting of a number of parties.

use std::time::Duration;

use broody_shm::handle::Handle;
use broody_shm::robust::barrier;

use super::lock::deadline;
use crate::handle::sent_as_handle;
use crate::{Error, Result, memory};

/// A number of parties wait here for each other, as at Python's `multiprocessing.Barrier`.
///
/// A process that has taken part and is killed breaks the barrier for all, those who wait and those who come, until it is
/// [reset](Self::reset): nobody waits for somebody who will not come.
///
/// ```
/// # broody::init();
/// let barrier = broody::Barrier::new(2)?;
/// let child = broody::spawn(|barrier: broody::Barrier| barrier.wait(None).unwrap(), barrier.clone())?;
/// assert_eq!(barrier.wait(None)? + child.join()?, 1);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Barrier(Handle<barrier::Barrier>);

impl Barrier {
    /// Makes a barrier for `parties` parties.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) unless there are 1 to 65,535; [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new(parties: u32) -> Result<Self> {
        if parties == 0 || parties > barrier::Barrier::MOST {
            let most = barrier::Barrier::MOST;
            return Err(Error::Invalid {
                what: format!("a barrier is for 1 to {most} parties, not for {parties}"),
            });
        }
        Ok(Self(Handle::<barrier::Barrier>::new(memory::arena()?, parties)?))
    }

    /// Waits until all parties have come, at most for `limit` if there is one. Gives each party another number: how many came
    /// after it.
    ///
    /// # Errors
    /// [`BrokenBarrier`](Error::BrokenBarrier), also when the time was over: that breaks it for all.
    pub fn wait(&self, limit: Option<Duration>) -> Result<u32> {
        self.wait_and(limit, || true)
    }

    /// As [`wait`](Self::wait); the last one to come, and nobody else, runs `action` before anybody goes on. If it gives `false` or panics,
    /// the barrier breaks.
    ///
    /// # Errors
    /// [`BrokenBarrier`](Error::BrokenBarrier).
    pub fn wait_and(&self, limit: Option<Duration>, action: impl FnOnce() -> bool) -> Result<u32> {
        self.0.wait(deadline(limit), action)?.map_err(|_| Error::BrokenBarrier)
    }

    /// Breaks the barrier: whoever waits or comes is told, until it is reset.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn abort(&self) -> Result<()> {
        Ok(self.0.abort()?)
    }

    /// Makes it whole and empty again. Whoever waits is told that it broke.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn reset(&self) -> Result<()> {
        Ok(self.0.reset()?)
    }

    /// How many wait, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn waiting(&self) -> u32 {
        self.0.waiting()
    }

    /// How many parties it is for.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn parties(&self) -> u32 {
        self.0.parties()
    }

    /// Whether it is broken.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }
}

sent_as_handle!(Barrier; |barrier| barrier.0.held(), |held| Handle::from_held(held).map(Barrier));
