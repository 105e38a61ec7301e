//! What the handles of this process on one queue share.

use broody_shm::queue;

use crate::watch::{Pollable, Watched};

/// A queue of bytes, and this process's watch over it.
pub(crate) type Core = Watched<queue::Queue>;

impl Pollable for queue::Queue {
    /// Whether there is something to be taken, or never will be.
    fn is_ready(&self) -> bool {
        !self.is_empty() || self.is_closed()
    }

    fn ask_to_be_told(&self) {
        queue::Queue::ask_to_be_told(self);
    }

    fn look_after_others(&self) {
        queue::Queue::look_after_others(self);
    }
}
