//! A flag to wait for.
//!
//! One word, 0 or 1, and how many sleep on it. **set** stores 1 and wakes all, **clear** stores 0, **wait** sleeps while it is 0. A fence on both
//! sides: either the setter sees the sleeper, or the sleeper sees the flag.
//!
//! # What a SIGKILL leaves
//!
//! The flag is set or not: nothing to repair. Killed between the store and the wake: the broadcast. A number of sleepers that stays too high costs
//! a wake of nobody.

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::robust::watchers::Watchers;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, Word, spin_briefly};

/// The words, in shared memory. All zero bytes are an event that is not set.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Event<W = AtomicU32> {
    flag: W,
    sleepers: W,
    watchers: Watchers<W>,
}

// SAFETY: atomics.
unsafe impl Words for Event {}

impl<W: Word> Event<W> {
    /// Sets the flag and wakes all who wait for it.
    pub fn set(&self, parking: &impl Parking<W>) {
        // Release: what was done before is seen by who sees the flag.
        self.flag.store(1, Ordering::Release);
        W::fence();
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            parking.wake(&self.flag, u32::MAX);
        }
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.flag.store(0, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire) != 0
    }

    /// Waits until the flag is set, at most until `deadline`. Whether it is set, or was when this was woken.
    pub fn wait(&self, parking: &impl Parking<W>, deadline: Deadline) -> bool {
        if self.is_set() || spin_briefly(parking, || self.is_set()) {
            return true;
        }
        let mut slept = Slept::Perhaps;
        while slept != Slept::TimedOut && !deadline.is_over() {
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            W::fence();
            slept = parking.sleep(&self.flag, 0, deadline);
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            if self.is_set() {
                if slept == Slept::Bound {
                    parking.note_rescue();
                }
                return true;
            }
        }
        false
    }
}

impl Primitive for Event {
    const KIND: Kind = Kind::Event;
}

impl Handle<Event> {
    /// Makes an event that is not set.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena) -> Result<Self, ArenaError> {
        Self::make(arena, 0, 0)
    }

    /// Sets the flag and wakes all who wait for it.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn set(&self) -> Result<(), ArenaError> {
        let (words, _, arena) = self.enter()?;
        words.set(arena);
        words.watchers.tell(arena);
        Ok(())
    }

    /// Who sets the flag next shall ring the bells. Whoever asks looks at the flag after this.
    pub fn ask_to_be_told(&self) {
        self.words().watchers.ask();
    }

    /// Clears the flag.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn clear(&self) {
        self.look().clear();
    }

    /// Whether the flag is set.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn is_set(&self) -> bool {
        self.look().is_set()
    }

    /// See [`Event::wait`].
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn wait(&self, deadline: Deadline) -> Result<bool, ArenaError> {
        let (words, _, arena) = self.enter()?;
        Ok(words.wait(arena, deadline))
    }
}
