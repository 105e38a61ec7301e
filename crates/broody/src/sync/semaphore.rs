//! Semaphores, whose tokens belong to nobody, and bounded ones, whose permits belong to whoever has them.

use std::sync::Arc;
use std::time::Duration;

use broody_shm::handle::Handle;
use broody_shm::robust::permits::Permits;
use broody_shm::robust::semaphore;

use super::lock::deadline;
use crate::handle::sent_as_handle;
use crate::watch::{Pollable, Watch, Watched};
use crate::{Error, Result, memory};

/// A counting semaphore, as Python's `multiprocessing.Semaphore`.
///
/// A token that a process has taken is gone when that process dies: it may have been consumed on purpose. A
/// [`BoundedSemaphore`] is what gives back the permits of the dead.
///
/// ```
/// # broody::init();
/// use std::time::Duration;
/// let semaphore = broody::Semaphore::new(1)?;
/// assert!(semaphore.acquire(None)?);
/// assert!(!semaphore.acquire(Some(Duration::ZERO))?);
/// semaphore.release(2)?;
/// assert_eq!(semaphore.value(), 2);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore(Arc<Watched<Handle<semaphore::Semaphore>>>);

impl Semaphore {
    /// Makes a semaphore with `value` tokens.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for more than 2,147,483,647; [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new(value: u32) -> Result<Self> {
        if value > semaphore::MOST {
            let most = semaphore::MOST;
            return Err(Error::Invalid { what: format!("a semaphore counts to {most}, not to {value}") });
        }
        Ok(Self(Watched::new(Handle::<semaphore::Semaphore>::new(memory::arena()?, value)?)))
    }

    /// Takes a token, waiting at most for `limit` if there is one; `Some(Duration::ZERO)` only tries. Whether one was taken.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn acquire(&self, limit: Option<Duration>) -> Result<bool> {
        let acquired = self.0.acquire(deadline(limit));
        self.0.after_take();
        Ok(acquired?)
    }

    /// Takes a token if there is one, without any wait. Whether there was.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    #[inline]
    pub fn try_acquire(&self) -> Result<bool> {
        let acquired = self.0.try_acquire()?;
        if acquired {
            self.0.after_take();
        }
        Ok(acquired)
    }

    /// As [`release`](Self::release), where there may be `most` tokens. Whether there was room for them.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn release_to(&self, count: u32, most: u32) -> Result<bool> {
        Ok(self.0.release_to(count, most)?)
    }

    /// Gives `count` tokens.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) when there would be more than can be counted; then none was given.
    pub fn release(&self, count: u32) -> Result<()> {
        if self.0.release(count)? {
            Ok(())
        } else {
            let most = semaphore::MOST;
            Err(Error::Invalid {
                what: format!("a semaphore counts to {most}, and {count} more are too many"),
            })
        }
    }

    /// How many tokens there are, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn value(&self) -> u32 {
        self.0.value()
    }

    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        self.0.watch()
    }
}

impl Pollable for Handle<semaphore::Semaphore> {
    fn is_ready(&self) -> bool {
        self.value() > 0
    }

    fn ask_to_be_told(&self) {
        Handle::<semaphore::Semaphore>::ask_to_be_told(self);
    }
}

sent_as_handle!(Semaphore; |semaphore| semaphore.0.held(), |held| Handle::from_held(held).map(|made| Semaphore(Watched::new(made))));

/// A semaphore with a fixed number of permits, each of which belongs to the process that has acquired it: when that dies, the permit is free
/// again.
///
/// As Python's `multiprocessing.BoundedSemaphore`: more than were acquired cannot be released, and a process may release what another one
/// has acquired.
///
/// ```
/// # broody::init();
/// let permits = broody::BoundedSemaphore::new(2)?;
/// assert!(permits.acquire(None)?);
/// permits.release()?;
/// assert!(permits.release().is_err());
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BoundedSemaphore(Arc<Watched<Handle<Permits>>>);

impl BoundedSemaphore {
    /// The most permits that one can have.
    pub const MOST: u32 = Permits::MOST;

    /// Makes `permits` permits, all free.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for more than 507; [`Memory`](Error::Memory) when there is no memory for it.
    pub fn new(permits: u32) -> Result<Self> {
        if permits > Permits::MOST {
            let most = Permits::MOST;
            return Err(Error::Invalid {
                what: format!(
                    "a bounded semaphore has at most {most} permits, not {permits}: a Semaphore has no such limit"
                ),
            });
        }
        Ok(Self(Watched::new(Handle::<Permits>::new(memory::arena()?, permits)?)))
    }

    /// Takes a permit, waiting at most for `limit` if there is one; `Some(Duration::ZERO)` only tries. Whether one was taken.
    ///
    /// # Errors
    /// [`Memory`](Error::Memory) in a fork, after it was gone.
    pub fn acquire(&self, limit: Option<Duration>) -> Result<bool> {
        let acquired = self.0.acquire(deadline(limit));
        self.0.after_take();
        Ok(acquired?)
    }

    /// Gives a permit back: one of this process's, or if it has none, another one's.
    ///
    /// # Errors
    /// [`NotHeld`](Error::NotHeld) when all are free.
    pub fn release(&self) -> Result<()> {
        if self.0.release(true)? {
            Ok(())
        } else {
            Err(Error::NotHeld { what: "bounded semaphore", by: "by anybody" })
        }
    }

    /// How many permits are free, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn value(&self) -> u32 {
        self.0.value()
    }

    /// How many permits there are.
    pub fn permits(&self) -> u32 {
        self.0.count()
    }

    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        self.0.watch()
    }
}

impl Pollable for Handle<Permits> {
    fn is_ready(&self) -> bool {
        self.value() > 0
    }

    fn ask_to_be_told(&self) {
        Handle::<Permits>::ask_to_be_told(self);
    }
}

sent_as_handle!(BoundedSemaphore; |permits| permits.0.held(), |held| Handle::from_held(held).map(|made| BoundedSemaphore(Watched::new(made))));
