//! A process's own handle on an object.
//!
//! All handles of a process on one object share one [`Held`], and that has one hold in the arena; a copy that a fork has inherited gets
//! one of its own when it is used there.

use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use broody_os::memory::Mapping;

use super::holds::IN_TRANSIT;
use super::layout::{HOLD_TABLE, OBJECT_TABLE, SMALL_BODY};
use super::objects::{Kind, Request};
use super::{Arena, forks};
use crate::ArenaError;
use crate::blob::MESSAGE;
use crate::owner::Owner;
use crate::sync::{AtomicU32, AtomicU64, Deadline, Ordering};

impl Arena {
    /// Makes an object.
    ///
    /// What takes long, its pages, is done outside of the lock, between two steps under it.
    pub(crate) fn make(&'static self, request: &Request) -> Result<Arc<Held>, ArenaError> {
        self.make_in(request).map(|(held, _)| held)
    }

    /// As [`make`](Self::make); says also whether its pages are new, or some of them.
    pub(crate) fn make_in(&'static self, request: &Request) -> Result<(Arc<Held>, bool), ArenaError> {
        let mut locked = self.lock_soon()?;
        let (index, lacks_pages) = locked.prepare(request)?;
        if lacks_pages {
            drop(locked);
            locked = self.furnish(index, request)?;
        }
        let (name, hold) = locked.found(index)?;
        let me = locked.me;
        drop(locked);
        let held = Held::new(self, Name { index, name }, hold, me)?;
        self.registry()?.enter(&held);
        Ok((held, lacks_pages))
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

    /// A hold of this process's on an object that is known to be there.
    pub(crate) fn hold_object(&'static self, index: u32) -> Result<Arc<Held>, ArenaError> {
        let locked = self.lock_soon()?;
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
}

impl super::Locked<'_> {
    pub(super) fn is_there(&self, name: Name) -> bool {
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
    pub(super) arena: &'static Arena,
    pub(super) name: Name,
    kind: Kind,
    body: Body,
    /// The pages of the body, where it is not small: mapped as long as this lives.
    pages: Option<Mapping>,
    /// Where in the file.
    offset: u64,
    tag: u64,
    /// The line of the hold, and the process that it is for.
    hold: AtomicU64,
    /// The number of [`forks`] of that process, which is another one in each that may have a copy of this.
    kept_in: AtomicU32,
    this: Weak<Held>,
}

impl Held {
    /// A handle for a hold of this process's, which is ended if there cannot be one.
    pub(super) fn new(
        arena: &'static Arena,
        name: Name,
        hold: u32,
        me: Owner,
    ) -> Result<Arc<Self>, ArenaError> {
        let place = arena.find_place(name);
        if place.is_err()
            && let Ok(locked) = arena.lock_soon()
        {
            locked.release_hold(hold);
        }
        Ok(Self::at(place?, arena, name, hold, me))
    }

    /// A handle on an object that is mapped already.
    pub(super) fn at(place: Place, arena: &'static Arena, name: Name, hold: u32, me: Owner) -> Arc<Self> {
        let Place { kind, body, pages, offset, tag } = place;
        let hold = AtomicU64::new(packed(hold, me));
        Arc::new_cyclic(|this| {
            let (kept_in, this) = (AtomicU32::new(forks()), this.clone());
            Self { arena, name, kind, body, pages, offset, tag, hold, kept_in, this }
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

    /// Writes bytes into its body by the kernel: see [`SparseFile::write`](broody_os::sparse::SparseFile::write).
    pub(crate) fn write_by_kernel(&self, from: usize, bytes: &[u8]) -> bool {
        debug_assert!(from + bytes.len() <= self.body.length() as usize, "within the body");
        self.arena.file.write(self.offset + from as u64, bytes)
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

    /// Sees to it that the object is there, and stays. Whoever looks at a body has asked this, in this process, before: in a fork the
    /// object may be gone, and its place another's.
    ///
    /// # Errors
    /// As [`ArenaError::Gone`] says, in a fork; what stands in the way of a hold.
    #[inline]
    pub fn keep(&self) -> Result<(), ArenaError> {
        if self.is_kept() { Ok(()) } else { self.owner().map(|_| ()) }
    }

    /// As [`keep`](Self::keep), for what has no way to tell of an error.
    ///
    /// # Panics
    /// In a fork, when the object was gone before it was used there.
    #[inline]
    #[track_caller]
    pub fn must_keep(&self) {
        if !self.is_kept() {
            self.keep_or_panic();
        }
    }

    /// Whether it was this process that has got the hold.
    #[inline]
    fn is_kept(&self) -> bool {
        // Relaxed: the process's own.
        self.kept_in.load(Ordering::Relaxed) == forks()
    }

    #[cold]
    #[track_caller]
    fn keep_or_panic(&self) {
        if let Err(error) = self.keep() {
            panic!("a fork uses a shared object that it has inherited, and cannot: {error}");
        }
    }

    /// In a fork: gets a hold of its own.
    #[cold]
    fn adopt(&self, me: Owner) -> Result<Owner, ArenaError> {
        // The registry before the hold: a fork that is made meanwhile waits until this is in it, and inherits it.
        let mut registry = self.arena.registry()?;
        let locked = self.arena.lock_soon()?;
        // Another thread may have done it.
        if self.hold.load(Ordering::Relaxed) as u32 == me.bits() {
            return Ok(me);
        }
        if !locked.is_there(self.name) {
            return Err(ArenaError::Gone);
        }
        let hold = locked.add_hold(self.name.index, 0)?;
        drop(locked);
        self.hold.store(packed(hold.index, me), Ordering::Relaxed);
        self.kept_in.store(forks(), Ordering::Relaxed);
        registry.enter(self);
        Ok(me)
    }

    /// Where it is in the registry: its object and its hold.
    pub(super) fn key(&self) -> (u32, u32) {
        (self.name.index, self.hold_index())
    }

    pub(super) fn this(&self) -> Weak<Self> {
        self.this.clone()
    }

    fn hold_index(&self) -> u32 {
        (self.hold.load(Ordering::Relaxed) >> 32) as u32
    }

    /// What this process counts in its hold.
    pub(crate) fn own_hold(&self) -> &AtomicU64 {
        &self.arena.hold(self.hold_index()).position
    }

    /// The process has taken part in something whose other parties shall know if it dies.
    pub(crate) fn take_part(&self) {
        self.arena.hold(self.hold_index()).flags.fetch_or(super::TOOK_PART, Ordering::Relaxed);
    }
}

/// What a handle needs of an object, beside a hold.
#[derive(Debug)]
pub(crate) struct Place {
    kind: Kind,
    body: Body,
    pages: Option<Mapping>,
    offset: u64,
    tag: u64,
}

impl Arena {
    /// Maps an object, of which somebody keeps that it is there.
    pub(crate) fn find_place(&self, name: Name) -> Result<Place, ArenaError> {
        let foreign = ArenaError::Foreign { what: "contents" };
        let object = (name.index < self.used(&OBJECT_TABLE)).then(|| self.object(name.index));
        let object = object.ok_or(ArenaError::Foreign { what: "contents" })?;
        let kind = object.kind().ok_or(foreign)?;
        let (offset, length) = (object.offset.load(Ordering::Relaxed), object.length.load(Ordering::Relaxed));
        let (body, pages) = if length <= SMALL_BODY {
            (self.small(offset)?, None)
        } else if kind == Kind::Ring {
            // A ring is mapped by who uses it, twice in a row.
            (NonNull::dangling(), None)
        } else {
            let mapping = self.map_pages(offset, (length as usize).next_multiple_of(4096))?;
            (mapping.as_ptr(), Some(mapping))
        };
        let (body, tag) = (Body::new(body, length), object.tag.load(Ordering::Relaxed));
        Ok(Place { kind, body, pages, offset, tag })
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
        let mut registry = local.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        registry.remove(self);
        if registry.frozen > 0 {
            registry.late.push(hold);
            return;
        }
        drop(registry);
        if let Ok(locked) = self.arena.lock(Deadline::Never) {
            locked.let_go(hold);
        }
    }
}

fn packed(hold: u32, owner: Owner) -> u64 {
    (u64::from(hold) << 32) | u64::from(owner.bits())
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
