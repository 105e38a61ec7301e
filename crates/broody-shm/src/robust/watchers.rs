//! Those who watch by a descriptor.
//!
//! One word, 0 or 1. **ask** stores 1, and then looks at what is watched; **tell**, after a change and a full fence, rings all bells if the word
//! is 1, and makes it 0. Either who asks sees the change, or who changes sees the word.
//!
//! # What a SIGKILL leaves
//!
//! Of a change: the bells that the broadcast rings.

use crate::arena::Arena;
use crate::sync::{AtomicU32, Ordering, Word};

/// The word, in shared memory.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Watchers<W = AtomicU32>(W);

impl<W: Word> Watchers<W> {
    /// Whoever changes next what is watched shall ring the bells. Who asks looks after this.
    pub(crate) fn ask(&self) {
        self.0.store(1, Ordering::Relaxed);
        W::fence();
    }
}

impl Watchers {
    /// After a change and a full fence.
    #[inline]
    pub(crate) fn tell(&self, arena: &Arena) {
        if self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::Relaxed) != 0 {
            arena.ring_bells();
        }
    }
}
