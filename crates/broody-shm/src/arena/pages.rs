//! The pages of large places: reserved and given back outside of the arena's lock.
//!
//! The kernel takes its time for many pages (about 0.2 s for 1 GiB), in which no one else could make an object, and no lock of a dead
//! process be freed. So a line says in `busy` who is at work on its place:
//!
//! ```text
//! 0                 nobody
//! owner             gives the pages back; the line is free, and in its list, where it is passed over as long as this stands
//! owner + MAKING    reserves the pages of an object that is not there yet; the line is in no list
//! ```
//!
//! It is set under the lock. **Whoever gives pages back sets it to 0 when they are gone**, without the lock: that makes the place fit for
//! the next object. Whoever has reserved pages takes the lock again, clears it and names the object.
//!
//! # What a SIGKILL leaves
//!
//! * under the lock, before `busy` is set: a line without a name. [`rebuild`](Locked::rebuild) finds it, and has its pages given back.
//! * from then on, until it is 0: a line that is busy for a dead process. Rebuilding leaves it alone, and the recovery of that process
//!   ([`take_over`](Locked::take_over)) gives its pages back, itself busy with it meanwhile.
//! * after the name: an object like others, which goes with the dead process's hold.
//!
//! As long as any line is busy the tables do not begin anew, since that would give its place to others.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::layout::{OBJECT_TABLE, class_size, is_small};
use super::objects::{Kind, Object, Request};
use super::{Arena, Held, Locked};
use crate::ArenaError;
use crate::owner::Owner;
use crate::sync::{Deadline, Ordering};

/// In `busy`, beside the owner.
const MAKING: u32 = 1 << 31;

/// How long the tables' cleaning may wait for the lock: it is done again with the next last object.
const BRIEFLY: Duration = Duration::from_millis(5);

const PAGE: u64 = 4096;

/// The bytes in pages that an object's place may have.
pub(super) fn pages_of(object: &Object) -> u64 {
    u64::from(object.dirty.load(Ordering::Relaxed)) * PAGE
}

impl Object {
    /// The length of its place, if that is of whole pages.
    pub(super) fn pages(&self) -> Option<u64> {
        let class = self.class.load(Ordering::Relaxed).checked_sub(1)?;
        (!is_small(class)).then(|| class_size(class))
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) != 0
    }

    /// Whether anybody is at work on its place.
    pub(super) fn is_busy(&self) -> bool {
        // Acquire: pairs with the release in `punch`.
        self.busy.load(Ordering::Acquire) != 0
    }

    /// Whether somebody makes an object of it.
    pub(super) fn is_being_made(&self) -> bool {
        self.busy.load(Ordering::Relaxed) & MAKING != 0
    }
}

/// Lines whose places have pages that are nobody's: given back when this is dropped, which is to be outside of the lock.
pub(super) struct Freed<'a> {
    arena: &'a Arena,
    lines: RefCell<Vec<u32>>,
}

impl<'a> Freed<'a> {
    pub(super) fn none(arena: &'a Arena) -> Self {
        Self { arena, lines: RefCell::default() }
    }

    /// What is to be given back, to be dropped later than this.
    pub(super) fn take(&self) -> Self {
        Self { arena: self.arena, lines: RefCell::new(self.lines.take()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.borrow().is_empty()
    }
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        let lines = std::mem::take(self.lines.get_mut());
        if lines.is_empty() {
            return;
        }
        lines.into_iter().for_each(|index| self.arena.punch(self.arena.object(index)));
        // The last object may have been one of these.
        if self.arena.is_worth_cleaning()
            && let Ok(locked) = self.arena.lock(Deadline::after(BRIEFLY))
        {
            locked.clean_up();
        }
    }
}

impl Arena {
    /// While what this gives is there, free places keep at most so many bytes in pages for messages, or more if others want it.
    ///
    /// # Errors
    /// [`ArenaError::TooMany`].
    pub fn keep_pages(&'static self, bytes: u64) -> Result<Arc<Held>, ArenaError> {
        let keeper = self.allocate(Kind::Keeper, 0, bytes)?;
        self.header().most_kept.fetch_max(bytes, Ordering::Relaxed);
        Ok(keeper)
    }

    /// Gives the pages that are kept for messages back to the machine, unless others are at work with the arena.
    pub fn give_kept_back(&self) {
        if self.header().kept.load(Ordering::Relaxed) > 0
            && let Ok(locked) = self.lock(Deadline::after(BRIEFLY))
        {
            locked.give_kept_back();
        }
    }

    /// Gives the pages of a line back that this process is busy with.
    fn punch(&self, object: &Object) {
        if let Some(length) = object.pages().filter(|_| object.is_dirty()) {
            self.file.give_back(object.offset.load(Ordering::Relaxed), length);
        }
        object.dirty.store(0, Ordering::Relaxed);
        // Release: there are no pages any more for whoever takes the line.
        object.busy.store(0, Ordering::Release);
    }

    /// Reserves the pages of an object that this process is making. Gives the lock, to make it with.
    pub(super) fn furnish(&self, index: u32, request: &Request) -> Result<Locked<'_>, ArenaError> {
        let reserved =
            self.reserve(self.object(index), request.length.next_multiple_of(PAGE), request.zeroed);
        match (reserved, self.lock_soon()) {
            (Ok(()), Ok(locked)) => {
                self.object(index).busy.store(0, Ordering::Relaxed);
                Ok(locked)
            }
            (Err(error), Ok(locked)) => {
                self.object(index).busy.store(0, Ordering::Relaxed);
                locked.give_line_back(index);
                Err(error)
            }
            (_, Err(error)) => {
                // The line is lost, until the tables are made anew; its pages are not.
                self.punch(self.object(index));
                Err(error)
            }
        }
    }

    /// What is kept there already stays, unless the pages have to be zero.
    fn reserve(&self, object: &Object, length: u64, zeroed: bool) -> Result<(), ArenaError> {
        let offset = object.offset.load(Ordering::Relaxed);
        let give_back = || {
            if let Some(place) = object.pages().filter(|_| object.is_dirty()) {
                self.file.give_back(offset, place);
            }
        };
        let kept = if zeroed { 0 } else { object.dirty.load(Ordering::Relaxed) };
        if zeroed {
            give_back();
        }
        object.dirty.store(kept.max((length / PAGE) as u32), Ordering::Relaxed);
        let reserved = self.file.reserve(offset, length).or_else(|error| {
            // What is kept for messages is memory, too.
            match self.lock_soon().is_ok_and(|locked| locked.give_kept_back()) {
                true => self.file.reserve(offset, length),
                false => Err(error),
            }
        });
        if reserved.is_err() {
            give_back();
            object.dirty.store(0, Ordering::Relaxed);
        }
        Ok(reserved?)
    }
}

// Relaxed: all of it is done under the arena's lock.
impl Locked<'_> {
    /// Pages are nobody's any more. They are given back after the lock.
    pub(super) fn free_pages(&self, index: u32) {
        self.arena.object(index).busy.store(self.me.bits(), Ordering::Relaxed);
        self.freed.lines.borrow_mut().push(index);
    }

    /// Takes pages for a line of which an object is made: those that its place has kept, if they will do. Whether there are to be
    /// others, by [`furnish`](Arena::furnish), after the lock.
    pub(super) fn take_pages(&self, object: &Object, request: &Request) -> bool {
        if object.is_dirty() {
            let (header, kept) = (self.arena.header(), pages_of(object));
            header.kept.store(header.kept.load(Ordering::Relaxed).saturating_sub(kept), Ordering::Relaxed);
            if !request.zeroed && kept >= request.length.next_multiple_of(PAGE) {
                return false;
            }
        }
        object.busy.store(self.me.bits() | MAKING, Ordering::Relaxed);
        true
    }

    /// Gives the pages of free places back to the machine, after the lock. Whether there are any.
    pub(super) fn give_kept_back(&self) -> bool {
        let header = self.arena.header();
        if header.kept.swap(0, Ordering::Relaxed) == 0 {
            return false;
        }
        for class in &header.classes {
            let mut next = class.free.load(Ordering::Relaxed);
            while let Some(index) = next.checked_sub(1) {
                let object = self.arena.object(index);
                if object.is_dirty() && !object.is_busy() {
                    self.free_pages(index);
                }
                next = object.next.load(Ordering::Relaxed);
            }
        }
        true
    }

    /// Goes on with what a dead process was busy with.
    pub(super) fn take_over(&self, dead: Owner) {
        for index in 0..self.arena.used(&OBJECT_TABLE) {
            let object = self.arena.object(index);
            if Owner::in_word(object.busy.load(Ordering::Relaxed)) != Some(dead) {
                continue;
            }
            let is_in_list = !object.is_being_made();
            self.free_pages(index);
            if !is_in_list {
                self.give_line_back(index);
            }
        }
    }
}
