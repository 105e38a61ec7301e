//! A bounded semaphore: as many permits as it was made with, each with an owner.
//!
//! Permit `n` is a cell, which holds its owner or 0; the number of free permits is counted from the cells and is stored nowhere. **acquire**
//! makes some free cell one's own by a compare-and-swap. **release** frees a cell of one's own, or, where anybody may release what another
//! has acquired, some other one.
//!
//! Who finds all cells taken sleeps on `changes`, a number that each release counts up *after* it has freed a cell, and which the sleeper has
//! read *before* it looked at the cells.
//!
//! # What a SIGKILL leaves
//!
//! A cell is owned or not, by one store. The dead one's cells are freed by [`repair`](Permits::repair). Killed between the freeing of a cell and the
//! count or the wake, or woken instead of others: the broadcast, before which the repair counts up, too.

use crate::ArenaError;
use crate::arena::{Arena, Body, Kind, Words};
use crate::handle::{Handle, Primitive};
use crate::owner::Owner;
use crate::robust::watchers::Watchers;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, TimedOut, fence};

/// The words before the cells, in shared memory.
#[derive(Debug)]
#[repr(C)]
pub struct Permits {
    count: AtomicU32,
    changes: AtomicU32,
    sleepers: AtomicU32,
    /// Where a free cell was last seen. A hint.
    hint: AtomicU32,
    watchers: Watchers,
}

// SAFETY: atomics.
unsafe impl Words for Permits {}

/// One permit: its owner, or 0.
#[derive(Debug)]
#[repr(transparent)]
pub struct Cell(AtomicU32);

/// All permits are free: there is nothing to release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingHeld;

impl Permits {
    /// The most permits: what fits into a small body.
    pub const MOST: u32 = (2048 - size_of::<Self>() as u32) / 4;

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    fn cells<'a>(&self, body: &'a Body) -> &'a [Cell] {
        let room = (body.length() as usize).saturating_sub(size_of::<Self>()) / 4;
        let count = (self.count() as usize).min(room);
        // SAFETY: the cells lie behind the words, within the body by the `min`, are atomics, and live as long as the body does.
        unsafe {
            let first = body.as_ptr().add(size_of::<Self>()).cast::<Cell>();
            std::slice::from_raw_parts(first.as_ptr(), count)
        }
    }

    /// Takes a permit if one is free.
    pub fn try_acquire(&self, body: &Body, me: Owner) -> bool {
        let cells = self.cells(body);
        let hint = self.hint.load(Ordering::Relaxed) as usize;
        (0..cells.len()).any(|step| {
            let at = (hint + step) % cells.len();
            // Acquire: pairs with the release of who had it.
            let taken = cells[at].0.load(Ordering::Relaxed) == 0
                && cells[at].0.compare_exchange(0, me.bits(), Ordering::Acquire, Ordering::Relaxed).is_ok();
            if taken {
                self.hint.store(at as u32 + 1, Ordering::Relaxed);
            }
            taken
        })
    }

    /// Takes a permit, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`]; none was taken.
    pub fn acquire(
        &self,
        body: &Body,
        me: Owner,
        parking: &impl Parking,
        deadline: Deadline,
    ) -> Result<(), TimedOut> {
        let mut slept = Slept::Perhaps;
        loop {
            let changes = self.changes.load(Ordering::Acquire);
            if self.try_acquire(body, me) {
                if slept == Slept::Bound {
                    parking.note_rescue();
                }
                return Ok(());
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                return Err(TimedOut);
            }
            if slept == Slept::Bound {
                for owner in self.owners(body) {
                    parking.bury(owner);
                }
            }
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            slept = parking.sleep(&self.changes, changes, deadline);
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives a permit back: one of `me`'s, or else, `for_others`, some other one.
    ///
    /// # Errors
    /// [`NothingHeld`]; nothing has happened.
    pub fn release(
        &self,
        body: &Body,
        me: Owner,
        parking: &impl Parking,
        for_others: bool,
    ) -> Result<(), NothingHeld> {
        let cells = self.cells(body);
        let free = |wanted: &dyn Fn(u32) -> bool| {
            cells.iter().enumerate().find(|(_, cell)| {
                let owner = cell.0.load(Ordering::Relaxed);
                // Release: what was done with the permit is seen by who takes it.
                wanted(owner)
                    && cell.0.compare_exchange(owner, 0, Ordering::Release, Ordering::Relaxed).is_ok()
            })
        };
        let freed = free(&|owner| owner == me.bits());
        let freed = freed.or_else(|| if for_others { free(&|owner| owner != 0) } else { None });
        let (at, _) = freed.ok_or(NothingHeld)?;
        self.hint.store(at as u32, Ordering::Relaxed);
        // Release: who reads the new number sees the free cell.
        self.changes.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            parking.wake(&self.changes, 1);
        }
        Ok(())
    }

    /// How many permits are free.
    pub fn value(&self, body: &Body) -> u32 {
        self.cells(body).iter().filter(|cell| cell.0.load(Ordering::Relaxed) == 0).count() as u32
    }

    /// Whether one of them is `me`'s.
    pub(crate) fn has_any(&self, body: &Body, me: Owner) -> bool {
        self.cells(body).iter().any(|cell| cell.0.load(Ordering::Relaxed) == me.bits())
    }

    fn owners(&self, body: &Body) -> Vec<Owner> {
        let mut owners: Vec<_> = self
            .cells(body)
            .iter()
            .filter_map(|cell| Owner::in_word(cell.0.load(Ordering::Relaxed)))
            .collect();
        owners.sort_by_key(|owner| owner.bits());
        owners.dedup();
        owners
    }

    /// Frees the permits of `dead`. The caller wakes everybody afterwards.
    pub(crate) fn repair(&self, body: &Body, dead: Owner) {
        for cell in self.cells(body) {
            // AcqRel: as in acquire and release.
            let _ = cell.0.compare_exchange(dead.bits(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Primitive for Permits {
    const KIND: Kind = Kind::Permits;
}

impl Handle<Permits> {
    /// Makes `count` permits, at most [`MOST`](Permits::MOST).
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn new(arena: &'static Arena, count: u32) -> Result<Self, ArenaError> {
        let count = count.min(Permits::MOST);
        let made = Self::make(arena, 4 * u64::from(count), 0)?;
        made.words().count.store(count, Ordering::Relaxed);
        Ok(made)
    }

    /// See [`Permits::acquire`]. Whether a permit was taken.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn acquire(&self, deadline: Deadline) -> Result<bool, ArenaError> {
        let (words, me, arena) = self.enter()?;
        Ok(words.acquire(self.held().body(), me, arena, deadline).is_ok())
    }

    /// See [`Permits::release`]. Whether there was anything to release.
    ///
    /// # Errors
    /// [`ArenaError`], in a fork.
    pub fn release(&self, for_others: bool) -> Result<bool, ArenaError> {
        let (words, me, arena) = self.enter()?;
        let released = words.release(self.held().body(), me, arena, for_others).is_ok();
        words.watchers.tell(arena);
        Ok(released)
    }

    /// Who gives a permit back next shall ring the bells. Whoever asks looks at the value after this.
    pub fn ask_to_be_told(&self) {
        self.words().watchers.ask();
    }

    /// How many permits are free.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn value(&self) -> u32 {
        self.look().value(self.held().body())
    }

    /// How many permits there are.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[track_caller]
    pub fn count(&self) -> u32 {
        self.look().count()
    }
}
