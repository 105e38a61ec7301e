//! A flag to wait for.

use std::sync::Arc;
use std::time::Duration;

use broody_shm::handle::Handle;
use broody_shm::robust::event;

use super::lock::deadline;
use crate::handle::sent_as_handle;
use crate::watch::{Pollable, Watch, Watched};
use crate::{Result, memory};

/// A flag that processes set, clear and wait for, as Python's `multiprocessing.Event`.
///
/// ```
/// # broody::init();
/// let ready = broody::Event::new()?;
/// let child = broody::spawn(|ready: broody::Event| ready.wait(None).unwrap(), ready.clone())?;
/// ready.set()?;
/// assert!(child.join()?);
/// # Ok::<(), broody::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Event(Arc<Watched<Handle<event::Event>>>);

impl Event {
    /// Makes an event that is not set.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) when there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self(Watched::new(Handle::<event::Event>::new(memory::arena()?)?)))
    }

    /// Sets the flag: whoever waits goes on.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) in a fork, after it was gone.
    pub fn set(&self) -> Result<()> {
        Ok(self.0.set()?)
    }

    /// Clears the flag.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn clear(&self) {
        self.0.clear();
        self.0.after_take();
    }

    /// Whether the flag is set, at this instant.
    ///
    /// # Panics
    /// In a fork, when it was gone before it was used there.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Waits until the flag is set, at most for `limit` if there is one. Whether it was.
    ///
    /// # Errors
    /// [`Memory`](crate::Error::Memory) in a fork, after it was gone.
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        Ok(self.0.wait(deadline(limit))?)
    }

    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        self.0.watch()
    }
}

impl Pollable for Handle<event::Event> {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn ask_to_be_told(&self) {
        Handle::<event::Event>::ask_to_be_told(self);
    }
}

sent_as_handle!(Event; |event| event.0.held(), |held| Handle::from_held(held).map(|event| Event(Watched::new(event))));
