//! A process's own handle on an object.
//!
//! All handles of a process on one object share one [`Held`], and that has one hold in the arena. What a process knows of its own lives in a
//! [`Local`], of which a forked child makes a new one: the child is another owner. It has copies of its parent's handles, without holds
//! for them. They get one when they are first used, if the object is still there then; a fork that goes through [`Arena::freeze`]
//! loses none of them in between.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use broody_os::memory::Mapping;

use super::holds::{HoldId, IN_TRANSIT};
use super::layout::{HOLD_TABLE, OBJECT_TABLE, SMALL_BODY};
use super::objects::{Kind, Request};
use super::{Arena, forks};
use crate::ArenaError;
use crate::blob::MESSAGE;
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering};

/// What this process, and no other, knows of an arena.
#[derive(Debug)]
pub(super) struct Local {
    forks: u32,
    owner: Owner,
    registry: Mutex<Registry>,
    /// Mappings of long messages that this process has let go of, for the next ones in the same places.
    mappings: Mutex<Vec<(u64, Mapping)>>,
}

/// The most mappings that are kept, and the longest, in bytes.
const MAPPINGS: usize = 8;
const LONGEST_MAPPING: usize = 16 << 20;

#[derive(Debug, Default)]
struct Registry {
    held: BTreeMap<u32, Weak<Held>>,
    /// While a forked child has not got its own holds: how many such forks there are, and what is released after.
    frozen: u32,
    late: Vec<u32>,
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
    fn existing_local(&self) -> Option<&Local> {
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

    fn registry(&self) -> Result<MutexGuard<'_, Registry>, ArenaError> {
        Ok(self.local()?.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Makes an object.
    pub(crate) fn make(&'static self, request: &Request) -> Result<Arc<Held>, ArenaError> {
        let locked = self.lock(Deadline::Never)?;
        let (index, name, hold) = locked.make(request)?;
        let me = locked.me;
        drop(locked);
        let held = match Held::new(self, Name { index, name }, hold, me) {
            Ok(held) => Arc::new(held),
            Err(error) => {
                self.lock(Deadline::Never)?.release_hold(hold);
                return Err(error);
            }
        };
        self.registry()?.held.insert(index, Arc::downgrade(&held));
        Ok(held)
    }

    /// Makes an object of `length` zero bytes.
    ///
    /// # Errors
    /// [`ArenaError::Os`] with ENOSPC or ENOMEM when there is no memory for it, or [`ArenaError::TooMany`].
    pub fn allocate(&'static self, kind: Kind, length: u64, tag: u64) -> Result<Arc<Held>, ArenaError> {
        self.make(&Request { kind, length, tag, parent: None, zeroed: true })
    }

    /// Makes an object for a file with a name, which is removed when nobody has it any more. The file may get its name after this.
    ///
    /// # Errors
    /// [`ArenaError`].
    pub fn allocate_named(&'static self, number: u64, name: &str) -> Result<Arc<Held>, ArenaError> {
        let held = self.allocate(Kind::Named, 8 + name.len() as u64, 0)?;
        // SAFETY: so long is the body, aligned to 64 bytes; nobody else has it yet. Killed before this is done: a name that is no file's.
        unsafe {
            let start = held.body().as_ptr().as_ptr();
            start.add(8).copy_from_nonoverlapping(name.as_ptr(), name.len());
            start.cast::<u64>().write(number);
        }
        Ok(held)
    }

    /// Opens an object that was encoded by [`Held::send`], in whatever process.
    ///
    /// # Errors
    /// [`ArenaError::Gone`] when it is no more.
    pub fn receive(&'static self, name: Name, transit: HoldId) -> Result<Arc<Held>, ArenaError> {
        let mut registry = self.registry()?;
        let known = registry.held.get(&name.index).and_then(Weak::upgrade).filter(|held| held.name == name);
        let locked = self.lock(Deadline::Never)?;
        let sent =
            locked.in_transit(transit).filter(|hold| hold.object.load(Ordering::Relaxed) == name.index + 1);
        if let Some(held) = known {
            held.adopt_under(&locked)?;
            if sent.is_some() {
                locked.release_hold(transit.index);
            }
            return Ok(held);
        }
        if !locked.is_there(name) {
            return Err(ArenaError::Gone);
        }
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
        let me = locked.me;
        drop(locked);
        let held = Arc::new(Held::new(self, name, hold, me)?);
        registry.held.insert(name.index, Arc::downgrade(&held));
        Ok(held)
    }

    /// A hold of this process's on an object that is known to be there.
    pub(crate) fn hold_object(&'static self, index: u32) -> Result<Held, ArenaError> {
        let locked = self.lock(Deadline::Never)?;
        let object = self.object(index);
        let name = Name { index, name: object.name.load(Ordering::Relaxed) };
        if !locked.is_there(name) {
            return Err(ArenaError::Gone);
        }
        let hold = locked.add_hold(index, 0)?;
        let me = locked.me;
        drop(locked);
        Held::new(self, name, hold.index, me)
    }

    /// What each process that keeps an object has counted in its hold.
    pub(crate) fn holds_of(&self, object: u32) -> impl Iterator<Item = &AtomicU64> {
        (0..self.used(&HOLD_TABLE)).map(|index| self.hold(index)).filter_map(move |hold| {
            let own = hold.object.load(Ordering::Acquire) == object + 1
                && hold.queue.load(Ordering::Relaxed) == 0
                && hold.flags.load(Ordering::Relaxed) & IN_TRANSIT == 0;
            own.then_some(&hold.position)
        })
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
            late.into_iter().for_each(|hold| locked.release_hold(hold));
        }
        drop(held);
    }
}

impl super::Locked<'_> {
    fn is_there(&self, name: Name) -> bool {
        name.index < self.arena.used(&OBJECT_TABLE)
            && self.arena.object(name.index).name.load(Ordering::Relaxed) == name.name
    }
}

/// An object's number, and its name, which no other object ever has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The line in the table of objects.
    pub index: u32,
    /// The name.
    pub name: u64,
}

/// A process's handle on an object, which stays there as long as this does.
#[derive(Debug)]
pub struct Held {
    arena: &'static Arena,
    name: Name,
    kind: Kind,
    body: Body,
    /// The pages of the body, where it is not small: mapped as long as this lives.
    pages: Option<Mapping>,
    /// Where in the file.
    offset: u64,
    tag: u64,
    /// The line of the hold, and the process that it is for.
    hold: AtomicU64,
}

impl Held {
    fn new(arena: &'static Arena, name: Name, hold: u32, me: Owner) -> Result<Self, ArenaError> {
        let object = arena.object(name.index);
        let foreign = ArenaError::Foreign { what: "contents" };
        let kind = object.kind().ok_or(foreign)?;
        let (offset, length) = (object.offset.load(Ordering::Relaxed), object.length.load(Ordering::Relaxed));
        let (body, mapping) = if length <= SMALL_BODY {
            (arena.small(offset)?, None)
        } else if kind == Kind::Ring {
            // A ring is mapped by who uses it, twice in a row.
            (NonNull::dangling(), None)
        } else {
            let mapping = arena.map_pages(offset, (length as usize).next_multiple_of(4096))?;
            (mapping.as_ptr(), Some(mapping))
        };
        Ok(Self {
            arena,
            name,
            kind,
            body: Body::new(body, length),
            pages: mapping,
            offset,
            tag: object.tag.load(Ordering::Relaxed),
            hold: AtomicU64::new(packed(hold, me)),
        })
    }

    /// The arena.
    #[inline]
    pub fn arena(&self) -> &'static Arena {
        self.arena
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which it is.
    #[inline]
    pub fn name(&self) -> Name {
        self.name
    }

    /// What its maker said of its type.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Its memory.
    #[inline]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The calling process, which holds the object: by this handle, or, after a fork, by a hold that it gets now.
    ///
    /// # Errors
    /// [`ArenaError::Gone`] in a fork of the holder, when the object went before it was used there; what stands in the way of a hold.
    #[inline]
    pub(crate) fn owner(&self) -> Result<Owner, ArenaError> {
        let me = self.arena.me()?;
        // Relaxed: the process's own.
        if self.hold.load(Ordering::Relaxed) as u32 == me.bits() { Ok(me) } else { self.adopt(me) }
    }

    #[cold]
    fn adopt(&self, me: Owner) -> Result<Owner, ArenaError> {
        let locked = self.arena.lock(Deadline::Never)?;
        self.adopt_under(&locked)?;
        Ok(me)
    }

    fn adopt_under(&self, locked: &super::Locked<'_>) -> Result<(), ArenaError> {
        if self.hold.load(Ordering::Relaxed) as u32 == locked.me.bits() {
            return Ok(());
        }
        if !locked.is_there(self.name) {
            return Err(ArenaError::Gone);
        }
        let hold = locked.add_hold(self.name.index, 0)?;
        self.hold.store(packed(hold.index, locked.me), Ordering::Relaxed);
        Ok(())
    }

    /// What this process counts in its hold.
    pub(crate) fn own_hold(&self) -> &AtomicU64 {
        &self.arena.hold((self.hold.load(Ordering::Relaxed) >> 32) as u32).position
    }

    /// The process has taken part in something whose other parties shall know if it dies.
    pub(crate) fn take_part(&self) {
        let hold = (self.hold.load(Ordering::Relaxed) >> 32) as u32;
        self.arena.hold(hold).flags.fetch_or(super::TOOK_PART, Ordering::Relaxed);
    }

    /// Makes a hold for a copy of this handle that is on its way to somebody.
    ///
    /// # Errors
    /// As [`owner`](Self::owner).
    pub fn send(&self) -> Result<HoldId, ArenaError> {
        self.owner()?;
        self.arena.lock(Deadline::Never)?.add_hold(self.name.index, IN_TRANSIT)
    }
}

impl Arena {
    /// Maps pages, by a mapping that was kept if there is one.
    fn map_pages(&self, offset: u64, length: usize) -> Result<Mapping, ArenaError> {
        let kept = self.existing_local().and_then(|local| {
            let mut kept = local.mappings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let at = kept.iter().position(|(at, mapping)| *at == offset && mapping.len() >= length)?;
            Some(kept.swap_remove(at).1)
        });
        match kept {
            Some(mapping) => Ok(mapping),
            None => Ok(self.file.map(offset, length)?),
        }
    }

    /// Keeps a mapping for the next blob in its place.
    fn keep_mapping(&self, offset: u64, mapping: Mapping) {
        if let Some(local) = self.existing_local().filter(|_| mapping.len() <= LONGEST_MAPPING) {
            let mut kept = local.mappings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            kept.retain(|(at, _)| *at != offset);
            if kept.len() == MAPPINGS {
                kept.remove(0);
            }
            kept.push((offset, mapping));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.kind == Kind::Blob
            && self.tag == MESSAGE
            && let Some(mapping) = self.pages.take()
        {
            self.arena.keep_mapping(self.offset, mapping);
        }
        let packed = self.hold.load(Ordering::Relaxed);
        let (hold, owner) = ((packed >> 32) as u32, packed as u32);
        // A copy in a forked child that never used it is nobody's.
        let Some(local) = self.arena.existing_local().filter(|local| local.owner.bits() == owner) else {
            return;
        };
        if self.arena.still_owns(self.kind, &self.body, local.owner) {
            // The hold stays, until the process ends: by it, what the process has is found and freed then.
            return;
        }
        let mut registry = local.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if registry.held.get(&self.name.index).is_some_and(|held| held.strong_count() == 0) {
            registry.held.remove(&self.name.index);
        }
        if registry.frozen > 0 {
            registry.late.push(hold);
            return;
        }
        drop(registry);
        if let Ok(locked) = self.arena.lock(Deadline::Never) {
            locked.release_hold(hold);
        }
    }
}

fn packed(hold: u32, owner: Owner) -> u64 {
    (u64::from(hold) << 32) | u64::from(owner.bits())
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

/// The memory of an object. Others may write to it at any time: it is looked at as atomics, or under a lock.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    start: NonNull<u8>,
    length: u64,
}

// SAFETY: an address and a length; who dereferences it answers for the races.
unsafe impl Send for Body {}
// SAFETY: as above.
unsafe impl Sync for Body {}

/// What may be looked at in a body: made of atomics alone, for which all bytes are a value.
///
/// # Safety
/// Every field is an atomic, or of a type that this is implemented for.
pub unsafe trait Words {}

impl Body {
    pub(super) fn new(start: NonNull<u8>, length: u64) -> Self {
        Self { start, length }
    }

    /// The first byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The length that was asked for, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The words that a body begins with. Whoever made the handle has seen that it is as long.
    #[inline]
    pub(crate) fn get<T: Words>(&self) -> &T {
        debug_assert!(size_of::<T>() as u64 <= self.length, "an object is as long as its words");
        debug_assert!(self.start.addr().get().is_multiple_of(align_of::<T>()));
        // SAFETY: long enough, aligned (places are aligned to their size, of which words' alignment is at most), and made of atomics.
        unsafe { self.start.cast::<T>().as_ref() }
    }
}
