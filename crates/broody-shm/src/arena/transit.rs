//! Handles on their way to another process.
//!
//! An encoded handle names its object, and a hold that keeps the object alive while the bytes are on their way. Whoever opens it makes the hold
//! his own.

use std::sync::Arc;

use super::held::{Held, Name, Place};
use super::holds::{HoldId, IN_TRANSIT};
use super::layout::HOLD_TABLE;
use super::{Arena, MOST_HOLDS, PATIENCE};
use crate::ArenaError;
use crate::owner::Owner;
use crate::sync::{AtomicU32, Deadline, Ordering};

impl Arena {
    /// Opens an object that was encoded by [`Held::send`], in whatever process.
    ///
    /// # Errors
    /// [`ArenaError::Gone`] when it is no more.
    pub fn receive(&'static self, name: Name, transit: HoldId) -> Result<Arc<Held>, ArenaError> {
        self.receive_at(None, name, transit)
    }

    /// A handle on an object that somebody else keeps, by its name.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn open_object(&'static self, name: Name) -> Result<Arc<Held>, ArenaError> {
        // A line that there is not.
        self.receive(name, HoldId { index: u32::MAX, use_number: 0 })
    }

    /// As [`receive`](Self::receive), where the object may be mapped already.
    pub(crate) fn receive_at(
        &'static self,
        place: Option<Place>,
        name: Name,
        transit: HoldId,
    ) -> Result<Arc<Held>, ArenaError> {
        let mut registry = self.registry()?;
        if let Some(held) = registry.find(name) {
            // The handle may be the last one by now: it is not dropped under this lock.
            drop(registry);
            // It has a hold of its own. Should the lock not be had, whoever answers for the other one ends it.
            self.end_transit(&[transit], Deadline::after(PATIENCE));
            return Ok(held);
        }
        let (hold, me) = self.take_hold(name, transit)?;
        let held = match place {
            Some(place) => Held::at(place, self, name, hold, me),
            None => Held::new(self, name, hold, me)?,
        };
        registry.enter(&held);
        Ok(held)
    }

    /// The hold that was on its way as this process's own, or a new one.
    fn take_hold(&self, name: Name, transit: HoldId) -> Result<(u32, Owner), ArenaError> {
        let locked = self.lock_soon()?;
        if !locked.is_there(name) {
            return Err(ArenaError::Gone);
        }
        let sent =
            locked.in_transit(transit).filter(|hold| hold.object.load(Ordering::Relaxed) == name.index + 1);
        let hold = match sent {
            Some(hold) => {
                // Whose it is first: whoever dies before the last of these leaves a hold of his own, which goes with him.
                hold.process.store(locked.me.bits(), Ordering::Relaxed);
                hold.queue.store(0, Ordering::Release);
                hold.flags.store(0, Ordering::Release);
                transit.index
            }
            None => locked.add_hold(name.index, 0)?.index,
        };
        Ok((hold, locked.me))
    }
}

impl Held {
    /// Makes a hold for a copy of this handle that is on its way to somebody.
    ///
    /// # Errors
    /// As [`owner`](Self::owner).
    pub fn send(&self) -> Result<HoldId, ArenaError> {
        self.owner()?;
        self.arena.lock_soon()?.add_hold(self.name.index, IN_TRANSIT)
    }
}

/// Holds on their way, in bytes that were not delivered yet. Dropped, it ends those that nobody has taken.
#[derive(Debug)]
pub struct Transit {
    arena: &'static Arena,
    holds: Vec<HoldId>,
    owner: AtomicU32,
}

impl Transit {
    /// Nothing on its way, so far.
    pub fn new(arena: &'static Arena) -> Self {
        Self { arena, holds: Vec::new(), owner: AtomicU32::new(0) }
    }

    /// Another one.
    pub fn push(&mut self, hold: HoldId) {
        if let Ok(me) = self.arena.me() {
            self.owner.store(me.bits(), Ordering::Relaxed);
        }
        self.holds.push(hold);
    }

    /// All of them.
    pub fn holds(&self) -> &[HoldId] {
        &self.holds
    }

    /// Holds that were [given](Self::give_to) to this process, which has been told of them now.
    pub fn accept(arena: &'static Arena, holds: &[HoldId]) -> Self {
        let mut accepted = Self::new(arena);
        for hold in holds.iter().filter(|hold| hold.index < MOST_HOLDS) {
            // Relaxed: this process alone looks at it, and it is its own.
            arena.hold(hold.index).position.store(0, Ordering::Relaxed);
            accepted.push(*hold);
        }
        accepted
    }

    /// Another process answers for them from now on, which has a slot with these [bits](Arena::my_bits). Until it is told of them they have a mark, by
    /// which it finds them should it never be told: [`Arena::end_marked`].
    pub fn give_to(mut self, process: u32, mark: u64) -> Vec<HoldId> {
        for hold in &self.holds {
            let hold = self.arena.hold(hold.index);
            hold.position.store(mark, Ordering::Relaxed);
            // Release: whoever sees that it is his sees the mark.
            hold.process.store(process, Ordering::Release);
        }
        std::mem::take(&mut self.holds)
    }

    /// Somebody else answers for them now.
    pub fn forget(mut self) {
        self.holds.clear();
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        let owner = self.owner.load(Ordering::Relaxed);
        let mine = self.arena.existing_local().is_some_and(|local| local.owner.bits() == owner);
        if !self.holds.is_empty() && mine {
            self.arena.end_transit(&self.holds, Deadline::Never);
        }
    }
}

impl Arena {
    /// What this process is called in holds that others give to it.
    ///
    /// # Errors
    /// [`ArenaError::TooMany`] when there is no slot for it.
    pub fn my_bits(&self) -> Result<u32, ArenaError> {
        self.me().map(Owner::bits)
    }

    /// Opens the object of a hold on its way.
    ///
    /// # Errors
    /// [`ArenaError::Gone`] when it is no more.
    pub fn open_transit(&'static self, transit: HoldId) -> Result<Arc<Held>, ArenaError> {
        let locked = self.lock_soon()?;
        let object = locked.in_transit(transit).map(|hold| hold.object.load(Ordering::Relaxed));
        let index = object.and_then(|object| object.checked_sub(1)).ok_or(ArenaError::Gone)?;
        let name = Name { index, name: self.object(index).name.load(Ordering::Relaxed) };
        drop(locked);
        self.receive(name, transit)
    }

    /// Ends the holds that were given to this process with this mark, and that it was not told of: who gave them has died. Should a process be stopped
    /// that has the arena's lock, they stay until this process ends.
    pub fn end_marked(&self, mark: u64) {
        let Ok(locked) = self.lock_soon() else { return };
        for index in 0..self.used(&HOLD_TABLE) {
            let hold = self.hold(index);
            let is_marked = hold.process.load(Ordering::Acquire) == locked.me.bits()
                && hold.flags.load(Ordering::Relaxed) & IN_TRANSIT != 0
                && hold.queue.load(Ordering::Relaxed) == 0
                && hold.position.load(Ordering::Relaxed) == mark;
            if is_marked {
                locked.release_hold(index);
            }
        }
    }

    /// Makes holds that are on their way this process's, so that they stay when the process that has sent them ends. `false` when the
    /// arena's lock could not be had before `deadline`.
    pub fn answer_for(&self, holds: &[HoldId], deadline: Deadline) -> bool {
        let Ok(locked) = self.lock(deadline) else { return false };
        for hold in holds.iter().filter_map(|hold| locked.in_transit(*hold)) {
            hold.process.store(locked.me.bits(), Ordering::Relaxed);
        }
        true
    }

    /// Ends holds that were on their way and were not taken. `false` when the arena's lock could not be had before `deadline`.
    pub fn end_transit(&self, holds: &[HoldId], deadline: Deadline) -> bool {
        let Ok(locked) = self.lock(deadline) else { return false };
        for hold in holds {
            if locked.in_transit(*hold).is_some() {
                locked.release_hold(hold.index);
            }
        }
        true
    }
}
