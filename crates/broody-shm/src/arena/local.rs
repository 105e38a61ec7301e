//! What a process knows of its own: which owner it is, and what it holds.
//!
//! It lives in a [`Local`], of which a forked child makes a new one: the child is another owner. It has copies of its parent's handles,
//! without holds for them. They get one when they are first used, if the object is still there then; a fork that goes through
//! [`Arena::freeze`] loses none of them in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use broody_os::memory::Mapping;

use super::held::{Held, Name};
use super::mappings::KeptMappings;
use super::{Arena, forks};
use crate::ArenaError;
use crate::owner::Owner;
use crate::sync::{Deadline, Ordering};

/// What this process, and no other, knows of an arena.
#[derive(Debug)]
pub(super) struct Local {
    forks: u32,
    pub(super) owner: Owner,
    pub(super) registry: Mutex<Registry>,
    /// Mappings of long messages that this process has let go of, for the next ones in the same places.
    mappings: Mutex<KeptMappings>,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// By object and hold: a fork may have inherited a handle, and have got another one on the same object before it used that.
    held: BTreeMap<(u32, u32), Weak<Held>>,
    /// While a forked child has not got its own holds: how many such forks there are, and what is released after.
    pub(super) frozen: u32,
    pub(super) late: Vec<u32>,
}

impl Registry {
    /// A handle that has a hold of this process's, so that others find it, and forks inherit it.
    pub(super) fn enter(&mut self, held: &Held) {
        self.held.insert(held.key(), held.this());
    }

    pub(super) fn remove(&mut self, held: &Held) {
        self.held.remove(&held.key());
    }

    /// This process's handle on an object.
    pub(super) fn find(&self, name: Name) -> Option<Arc<Held>> {
        let of_object = self.held.range((name.index, 0)..=(name.index, u32::MAX));
        of_object.filter_map(|(_, held)| held.upgrade()).find(|held| held.name() == name)
    }
}

impl Arena {
    /// The calling process, as an owner. Claims a slot the first time.
    #[inline]
    pub(crate) fn me(&self) -> Result<Owner, ArenaError> {
        // Relaxed: both halves are of one store, and an owner is all that is wanted.
        let me = self.me.load(Ordering::Relaxed);
        match Owner::in_word(me as u32) {
            Some(owner) if (me >> 32) as u32 == forks() => Ok(owner),
            _ => self.local().map(|local| local.owner),
        }
    }

    #[inline]
    fn local(&self) -> Result<&Local, ArenaError> {
        // Acquire: pairs with the release in `make_local`.
        let local = self.local.load(Ordering::Acquire);
        // SAFETY: what was ever stored there is never freed.
        match unsafe { local.as_ref() } {
            Some(local) if local.forks == forks() => Ok(local),
            _ => self.make_local(local),
        }
    }

    /// What this process already has here.
    pub(super) fn existing_local(&self) -> Option<&Local> {
        // SAFETY: as in `local`.
        unsafe { self.local.load(Ordering::Acquire).as_ref() }.filter(|local| local.forks == forks())
    }

    #[cold]
    fn make_local(&self, before: *mut Local) -> Result<&Local, ArenaError> {
        let owner = self.claim_slot()?;
        let made = Box::leak(Box::new(Local {
            forks: forks(),
            owner,
            registry: Mutex::default(),
            mappings: Mutex::default(),
        }));
        // The one that is replaced is the parent's, whose locks its threads may hold: it stays as it is.
        match self.local.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.me.store((u64::from(made.forks) << 32) | u64::from(owner.bits()), Ordering::Relaxed);
                Ok(made)
            }
            Err(theirs) => {
                // Another thread was faster: nobody has seen this slot.
                self.free_slot(owner);
                // SAFETY: as above; it is not null, since something was stored there.
                Ok(unsafe { &*theirs })
            }
        }
    }

    pub(super) fn registry(&self) -> Result<MutexGuard<'_, Registry>, ArenaError> {
        Ok(self.local()?.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Before a fork: until what this gives is dropped, nothing that this process holds goes. In the child, [`Frozen::adopt`] gets it holds
    /// of its own.
    pub fn freeze(&'static self) -> Result<Frozen, ArenaError> {
        let mut registry = self.registry()?;
        registry.frozen += 1;
        let held = registry.held.values().filter_map(Weak::upgrade).collect();
        Ok(Frozen { arena: self, held, forks: forks() })
    }

    /// This process ends in an orderly way: what it held was let go of, as far as others can tell.
    pub fn leave(&self) {
        if let Some(local) = self.existing_local() {
            self.take_leave(local.owner);
        }
    }

    /// Maps pages, by a mapping that was kept if there is one.
    pub(super) fn map_pages(&self, offset: u64, length: usize) -> Result<Mapping, ArenaError> {
        if let Some(mapping) = self.kept_mappings().and_then(|mut kept| kept.take(offset, length)) {
            return Ok(mapping);
        }
        let mapped = self.file.map(offset, length).or_else(|error| {
            // Those that are kept take address space, too.
            let emptied = self.kept_mappings().is_some_and(|mut kept| kept.empty());
            if emptied { self.file.map(offset, length) } else { Err(error) }
        });
        Ok(mapped?)
    }

    /// Keeps a mapping for the next blob in its place.
    pub(super) fn keep_mapping(&self, offset: u64, mapping: Mapping) {
        if let Some(mut kept) = self.kept_mappings() {
            kept.keep(offset, mapping);
        }
    }

    fn kept_mappings(&self) -> Option<MutexGuard<'_, KeptMappings>> {
        let local = self.existing_local()?;
        Some(local.mappings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// What a process holds, kept for a child that it forks.
#[derive(Debug)]
pub struct Frozen {
    arena: &'static Arena,
    held: Vec<Arc<Held>>,
    forks: u32,
}

impl Frozen {
    /// In the child: gets holds for everything.
    pub fn adopt(self) -> Result<(), ArenaError> {
        self.held.iter().try_for_each(|held| held.owner().map(|_| ()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The child has another registry, in which nothing is frozen.
        if self.forks != forks() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let late = match self.arena.registry() {
            Ok(mut registry) => {
                registry.frozen -= 1;
                if registry.frozen == 0 { std::mem::take(&mut registry.late) } else { Vec::new() }
            }
            Err(_) => return,
        };
        if !late.is_empty()
            && let Ok(locked) = self.arena.lock(Deadline::Never)
        {
            late.into_iter().for_each(|hold| locked.let_go(hold));
        }
        drop(held);
    }
}
