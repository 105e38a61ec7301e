//! A counting semaphore whose tokens belong to nobody.
//!
//! A counter, and how many sleep on it. **acquire** counts down by one compare-and-swap, or sleeps while the counter is 0; **release** counts
//! up, then wakes as many sleepers as there are new tokens. Both sides store first and load then, with a full fence between: either
//! the releaser sees the sleeper, or the sleeper sees the token.
//!
//! # What a SIGKILL leaves
//!
//! Tokens may be consumed for good on purpose, so that one is never given back for the dead: killed before the compare-and-swap it has taken
//! nothing, killed after it its token is gone (a bounded semaphore is what gives it back). Between release's count and its wake,
//! or woken instead of others: the broadcast. The number of sleepers may stay too high, which costs a wake of nobody and nothing else.

use crate::ArenaError;
use crate::arena::{Arena, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::robust::watchers::Watchers;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, TimedOut, Word, spin_briefly};

/// The highest value of a semaphore.
pub const MOST: u32 = i32::MAX as u32;

/// The words, in shared memory. All zero bytes are a semaphore of 0.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Semaphore<W = AtomicU32> {
    value: W,
    sleepers: W,
    watchers: Watchers<W>,
}

// SAFETY: atomics.
unsafe impl Words for Semaphore {}

/// The counter would be more than it can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

impl<W: Word> Semaphore<W> {
    /// Takes a token if there is one.
    pub fn try_acquire(&self) -> bool {
        // Acquire: pairs with the release's, so that what was done before it is seen.
        let mut value = self.value.load(Ordering::Relaxed);
        while value > 0 {
            match self.value.compare_exchange(value, value - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => value = now,
            }
        }
        false
    }

    /// Takes a token, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`]; no token was taken.
    pub fn acquire(&self, parking: &impl Parking<W>, deadline: Deadline) -> Result<(), TimedOut> {
        if self.try_acquire() || spin_briefly(parking, || self.try_acquire()) {
            return Ok(());
        }
        let mut slept = Slept::Perhaps;
        while slept != Slept::TimedOut && !deadline.is_over() {
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            W::fence();
            slept = parking.sleep(&self.value, 0, deadline);
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            if self.try_acquire() {
                if slept == Slept::Bound {
                    parking.note_rescue();
                }
                return Ok(());
            }
        }
        Err(TimedOut)
    }

    /// Gives `count` tokens.
    ///
    /// # Errors
    /// [`Overflow`]; the value is as it was.
    pub fn release(&self, parking: &impl Parking<W>, count: u32) -> Result<(), Overflow> {
        self.release_to(parking, count, MOST)
    }

    /// As [`release`](Self::release), where there may be `most` tokens.
    ///
    /// # Errors
    /// [`Overflow`]; the value is as it was.
    pub fn release_to(&self, parking: &impl Parking<W>, count: u32, most: u32) -> Result<(), Overflow> {
        let mut value = self.value.load(Ordering::Relaxed);
        loop {
            let more = value.checked_add(count).filter(|value| *value <= most).ok_or(Overflow)?;
            // Release: what was done before is seen by who takes the token.
            match self.value.compare_exchange(value, more, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => value = now,
            }
        }
        W::fence();
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            parking.wake(&self.value, count);
        }
        Ok(())
    }

    /// How many tokens there are.
    pub fn value(&self) -> u32 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Primitive for Semaphore {
    const KIND: Kind = Kind::Semaphore;
}

impl Handle<Semaphore> {
    /// Makes a semaphore of `value` tokens, at most [`MOST`].
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena, value: u32) -> Result<Self, ArenaError> {
        let made = Self::make(arena, 0, 0)?;
        made.words().value.store(value.min(MOST), Ordering::Relaxed);
        Ok(made)
    }

    /// See [`Semaphore::acquire`]. Whether a token was taken.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn acquire(&self, deadline: Deadline) -> Result<bool, ArenaError> {
        let (words, _, arena) = self.enter()?;
        Ok(words.acquire(arena, deadline).is_ok())
    }

    /// Takes a token if there is one. Whether there was.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    #[inline]
    pub fn try_acquire(&self) -> Result<bool, ArenaError> {
        Ok(self.enter()?.0.try_acquire())
    }

    /// See [`Semaphore::release`]. Whether there was room for the tokens.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release(&self, count: u32) -> Result<bool, ArenaError> {
        self.release_to(count, MOST)
    }

    /// See [`Semaphore::release_to`]. Whether there was room for the tokens.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release_to(&self, count: u32, most: u32) -> Result<bool, ArenaError> {
        let (words, _, arena) = self.enter()?;
        let released = words.release_to(arena, count, most).is_ok();
        words.watchers.tell(arena);
        Ok(released)
    }

    /// Who gives tokens next shall ring the bells. Whoever asks looks at the value after this.
    pub fn ask_to_be_told(&self) {
        self.words().watchers.ask();
    }

    /// How many tokens there are.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn value(&self) -> u32 {
        self.look().value()
    }
}
