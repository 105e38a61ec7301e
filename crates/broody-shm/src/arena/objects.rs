//! Objects: what is allocated in an arena, and where.
//!
//! An object has a line in a table, and a *place* in the file whose size is a power of two. A line that was given a place keeps it:
//! freed, it waits for the next object of the same class. Places are never merged; the file is so long that they need not be, and the
//! memory of a large place goes back to the machine as soon as it is free, see [`pages`](super::pages).
//!
//! All changes are made under the arena's lock. An object *is* there if and only if it has a name, a number that no other object has
//! had; the one store of the name is what makes or frees it. Everything else (free lists, counts) is derived from names and
//! [holds](super::holds), and is made anew by [`rebuild`](Locked::rebuild) when the lock's holder was killed.

use super::layout::{
    CHUNK, HOLD_TABLE, OBJECT_TABLE, PAGES, SMALL, WINDOW, WINDOWS, class_of, class_size, is_small,
};
use super::pages::pages_of;
use super::{Arena, Body, Locked, Name};
use crate::ArenaError;
use crate::blob::MESSAGE;
use crate::queue::end_of;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Kind {
    Lock = 1,
    Semaphore,
    Permits,
    Condition,
    Event,
    Barrier,
    Queue,
    /// One side of a queue: when it is gone, the queue is closed.
    End,
    /// The memory of a queue.
    Ring,
    /// Bytes that do not change any more.
    Blob,
    /// Bytes.
    Memory,
    /// A file with a name: the number and the name, which is removed with the last user.
    Named,
    /// Nothing. While it is there, so are the pages that are kept for messages, at most as many bytes as its tag says.
    Keeper,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
        [Lock, Semaphore, Permits, Condition, Event, Barrier, Queue, End, Ring, Blob, Memory, Named, Keeper]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// An object's line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Object {
    /// 0: there is no such object.
    pub(super) name: AtomicU64,
    kind: AtomicU32,
    /// The class of its place plus one; 0: it has none yet.
    pub(super) class: AtomicU32,
    /// Its place in the file.
    pub(super) offset: AtomicU64,
    /// The length that was asked for, in bytes.
    pub(super) length: AtomicU64,
    /// What it belongs to: an object's number plus one.
    pub(super) parent: AtomicU32,
    /// How many pages its place may hold, where it is of whole pages.
    pub(super) dirty: AtomicU32,
    /// How many holds it has. Derived.
    pub(super) holds: AtomicU32,
    /// The next free line plus one. Derived.
    pub(super) next: AtomicU32,
    /// What its user says of its type.
    pub(super) tag: AtomicU64,
    /// Who is at work on its place, see [`pages`](super::pages).
    pub(super) busy: AtomicU32,
    _unused: AtomicU32,
}

const _: () = assert!(size_of::<Object>() == 64);

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// In bytes.
    pub(crate) length: u64,
    pub(crate) tag: u64,
    /// The number of the object that it belongs to.
    pub(crate) parent: Option<u32>,
    /// Whether its body has to be all zero; otherwise it may be anything that was there before.
    pub(crate) zeroed: bool,
}

impl Object {
    pub(super) fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind.load(Ordering::Relaxed))
    }

    /// Whether it is an end of the queue of this name.
    pub(crate) fn is_end_of(&self, name: u64) -> bool {
        self.kind() == Some(Kind::End) && end_of(self.tag.load(Ordering::Relaxed)).0 == name
    }

    /// Whether it is there.
    pub(super) fn is_there(&self) -> bool {
        self.name.load(Ordering::Acquire) != 0
    }
}

/// The most bytes in pages that places of long messages keep for the next ones, until a queue or a keeper goes, unless
/// [more is wanted](Arena::keep_pages): messages that come one after the other need no new pages.
pub(super) const KEPT: u64 = 32 << 20;

/// With fewer lines than this in use, nothing is cleaned up when the last object goes.
const WORTH_CLEANING: u32 = 256;

// Relaxed throughout, but for the name: all of it is done under the arena's lock.
impl Locked<'_> {
    /// Makes an object without any hold. It is not there before [`name`](Self::name); whether it needs pages before that, by
    /// [`furnish`](Arena::furnish), is said, too.
    pub(super) fn prepare(&self, request: &Request) -> Result<(u32, bool), ArenaError> {
        let class = class_of(request.length).ok_or(ArenaError::TooLong { length: request.length })?;
        let index = self.take_line(class)?;
        let object = self.arena.object(index);
        let lacks_pages = match is_small(class) {
            true => self.empty_small(index, class).map(|()| false)?,
            false => self.take_pages(object, request),
        };
        object.kind.store(request.kind as u32, Ordering::Relaxed);
        object.length.store(request.length, Ordering::Relaxed);
        object.parent.store(request.parent.map_or(0, |parent| parent + 1), Ordering::Relaxed);
        object.tag.store(request.tag, Ordering::Relaxed);
        object.holds.store(0, Ordering::Relaxed);
        Ok((index, lacks_pages))
    }

    /// Makes the bytes of a small body zero.
    fn empty_small(&self, index: u32, class: u32) -> Result<(), ArenaError> {
        let body = match self.arena.small(self.arena.object(index).offset.load(Ordering::Relaxed)) {
            Ok(body) => body,
            Err(error) => {
                self.give_line_back(index);
                return Err(error);
            }
        };
        // SAFETY: a place of this class is `class_size` long and has memory; its object is not there, so that nobody uses it.
        unsafe { body.as_ptr().write_bytes(0, class_size(class) as usize) };
        Ok(())
    }

    /// Lets a prepared object be there.
    pub(super) fn name(&self, index: u32) -> u64 {
        let header = self.arena.header();
        let name = header.last_name.fetch_add(1, Ordering::Relaxed) + 1;
        header.objects.fetch_add(1, Ordering::Relaxed);
        // Release: the object as it was prepared.
        self.arena.object(index).name.store(name, Ordering::Release);
        name
    }

    /// Frees an object, and gives its pages back.
    pub(super) fn unname(&self, index: u32) {
        let object = self.arena.object(index);
        let header = self.arena.header();
        object.name.store(0, Ordering::Release);
        let kept = header.kept.load(Ordering::Relaxed) + pages_of(object);
        let was_message = object.kind() == Some(Kind::Blob) && object.tag.load(Ordering::Relaxed) == MESSAGE;
        if was_message && object.pages().is_some() && kept <= header.most_kept.load(Ordering::Relaxed) {
            header.kept.store(kept, Ordering::Relaxed);
        } else if object.is_dirty() {
            self.free_pages(index);
        }
        self.give_line_back(index);
        let last = header.objects.fetch_sub(1, Ordering::Relaxed) == 1;
        if last || matches!(object.kind(), Some(Kind::Queue | Kind::Keeper)) {
            self.give_kept_back();
        }
        if last {
            self.clean_up();
        }
    }

    /// A line with a place of `class`, which is neither free nor there now.
    fn take_line(&self, class: u32) -> Result<u32, ArenaError> {
        let header = self.arena.header();
        let mut link = &header.classes[class as usize].free;
        while let Some(index) = link.load(Ordering::Relaxed).checked_sub(1) {
            let object = self.arena.object(index);
            if !object.is_busy() {
                link.store(object.next.load(Ordering::Relaxed), Ordering::Relaxed);
                return Ok(index);
            }
            link = &object.next;
        }
        let index = match header.free_object.load(Ordering::Relaxed).checked_sub(1) {
            Some(index) => {
                header
                    .free_object
                    .store(self.arena.object(index).next.load(Ordering::Relaxed), Ordering::Relaxed);
                index
            }
            None => {
                let index = self.arena.used(&OBJECT_TABLE);
                self.arena.ensure(&OBJECT_TABLE, index)?;
                index
            }
        };
        let object = self.arena.object(index);
        match self.find_place(class) {
            Ok(offset) => {
                object.offset.store(offset, Ordering::Relaxed);
                object.class.store(class + 1, Ordering::Relaxed);
                Ok(index)
            }
            Err(error) => {
                self.give_line_back(index);
                Err(error)
            }
        }
    }

    /// Puts a line into the list where it is looked for.
    pub(super) fn give_line_back(&self, index: u32) {
        let (header, object) = (self.arena.header(), self.arena.object(index));
        let list = match object.class.load(Ordering::Relaxed).checked_sub(1) {
            Some(class) => &header.classes[class as usize].free,
            None => &header.free_object,
        };
        object.next.store(list.load(Ordering::Relaxed), Ordering::Relaxed);
        list.store(index + 1, Ordering::Relaxed);
    }

    /// A place in the file that nobody has had.
    ///
    /// The end moves before anybody has the place: a death in between loses some of the file's length, which there is plenty of.
    fn find_place(&self, class: u32) -> Result<u64, ArenaError> {
        let (header, file) = (self.arena.header(), &self.arena.file);
        let size = class_size(class);
        if !is_small(class) {
            let offset = header.pages_end.load(Ordering::Relaxed);
            let end = offset.checked_add(size).filter(|end| *end <= file.length());
            header.pages_end.store(end.ok_or(ArenaError::TooLong { length: size })?, Ordering::Relaxed);
            return Ok(offset);
        }
        let state = &header.classes[class as usize];
        if state.next.load(Ordering::Relaxed) == state.end.load(Ordering::Relaxed) {
            let chunk = header.small_end.load(Ordering::Relaxed);
            if chunk >= SMALL + WINDOW * WINDOWS as u64 {
                return Err(ArenaError::TooMany { what: "small objects", most: OBJECT_TABLE.most });
            }
            file.reserve(chunk, CHUNK as u64)?;
            header.small_end.store(chunk + CHUNK as u64, Ordering::Relaxed);
            // The end first: in between the chunk looks larger than it is, but nobody looks.
            state.next.store(chunk, Ordering::Relaxed);
            state.end.store(chunk + CHUNK as u64, Ordering::Relaxed);
        }
        Ok(state.next.fetch_add(size, Ordering::Relaxed))
    }

    /// The last object is gone: the tables and small places begin anew.
    ///
    /// Who dies within leaves a lock that is rebuilt, and then there is still no object, and this is done again.
    pub(super) fn clean_up(&self) {
        let arena = self.arena;
        let is_busy = || (0..arena.used(&OBJECT_TABLE)).any(|index| arena.object(index).is_busy());
        if arena.is_worth_cleaning() && self.freed.is_empty() && !is_busy() {
            self.start_anew();
        }
    }

    pub(super) fn start_anew(&self) {
        let (header, file) = (self.arena.header(), &self.arena.file);
        for class in &header.classes {
            for word in [&class.next, &class.end] {
                word.store(0, Ordering::Relaxed);
            }
            class.free.store(0, Ordering::Relaxed);
        }
        header.free_hold.store(0, Ordering::Relaxed);
        header.free_object.store(0, Ordering::Relaxed);
        // No place has pages: they were given back as their objects went.
        header.pages_end.store(PAGES, Ordering::Relaxed);
        let small_end = header.small_end.swap(SMALL, Ordering::Relaxed);
        file.give_back(SMALL, small_end - SMALL);
        self.arena.empty(&HOLD_TABLE);
        self.arena.empty(&OBJECT_TABLE);
    }

    /// Makes everything derived anew: the lock's last holder was killed, at whatever point.
    pub(super) fn rebuild(&self) {
        let arena = self.arena;
        let header = arena.header();
        for class in &header.classes {
            class.free.store(0, Ordering::Relaxed);
            // A chunk that was just being given out is lost rather than given out twice.
            class.next.store(0, Ordering::Relaxed);
            class.end.store(0, Ordering::Relaxed);
        }
        header.free_hold.store(0, Ordering::Relaxed);
        header.free_object.store(0, Ordering::Relaxed);
        header.kept.store(0, Ordering::Relaxed);
        let mut there = 0;
        for index in 0..arena.used(&OBJECT_TABLE) {
            let object = arena.object(index);
            object.holds.store(0, Ordering::Relaxed);
            if object.is_there() {
                there += 1;
            } else if !object.is_being_made() {
                if object.is_dirty() && !object.is_busy() {
                    self.free_pages(index);
                }
                self.give_line_back(index);
            }
        }
        header.objects.store(there, Ordering::Relaxed);
        self.count_holds();
        // What nobody holds was being made, or being freed.
        for index in 0..arena.used(&OBJECT_TABLE) {
            let object = arena.object(index);
            if object.is_there() && object.holds.load(Ordering::Relaxed) == 0 && !self.is_kept(index) {
                self.free_object(index);
            }
        }
        if there == 0 {
            self.clean_up();
        }
    }

    /// Whether an object lives without a hold: a queue's ring does as long as its queue says that it is its ring.
    pub(super) fn is_kept(&self, index: u32) -> bool {
        let object = self.arena.object(index);
        let Some(parent) = object.parent.load(Ordering::Relaxed).checked_sub(1) else { return false };
        object.kind() == Some(Kind::Ring)
            && self.arena.object(parent).is_there()
            && self.arena.ring_of(parent) == Some(index)
    }

    /// A queue that nobody has: what its messages keep, and its ring, go with it.
    fn before_queue_goes(&self, index: u32) {
        for id in self.arena.holds_in_queue(index) {
            if self.in_transit(id).is_some() {
                self.release_hold(id.index);
            }
        }
        if let Some(ring) = self.arena.ring_of(index)
            && self.arena.object(ring).is_there()
            && self.is_kept(ring)
            && self.arena.object(ring).holds.load(Ordering::Relaxed) == 0
        {
            self.unname(ring);
        }
    }

    /// What is kept is as much as others want.
    fn before_keeper_goes(&self, index: u32) {
        let arena = self.arena;
        let others = (0..arena.used(&OBJECT_TABLE)).filter(|other| *other != index);
        let keepers = others
            .map(|other| arena.object(other))
            .filter(|object| object.is_there() && object.kind() == Some(Kind::Keeper));
        let most = keepers.map(|keeper| keeper.tag.load(Ordering::Relaxed)).fold(KEPT, u64::max);
        arena.header().most_kept.store(most, Ordering::Relaxed);
    }

    /// Frees an object that nobody holds, and what belonged to it alone.
    pub(super) fn free_object(&self, index: u32) {
        let object = self.arena.object(index);
        let kind = object.kind();
        let parent = object.parent.load(Ordering::Relaxed).checked_sub(1);
        match kind {
            Some(Kind::Queue) => self.before_queue_goes(index),
            Some(Kind::End) => {
                let (name, how) = end_of(object.tag.load(Ordering::Relaxed));
                // The queue may have gone first, and another one may be in its place.
                if let Some(index) = parent.filter(|index| self.is_there(Name { index: *index, name })) {
                    self.arena.close_queue(index, how);
                }
            }
            Some(Kind::Named) => self.arena.remove_name(index),
            Some(Kind::Keeper) => self.before_keeper_goes(index),
            _ => {}
        }
        self.unname(index);
    }
}

impl Arena {
    /// Whether there is no object, and were many.
    pub(super) fn is_worth_cleaning(&self) -> bool {
        self.objects() == 0 && self.used(&OBJECT_TABLE) >= WORTH_CLEANING
    }

    /// A file with a name is used no more by this program.
    fn remove_name(&self, index: u32) {
        let Some(body) = self.body_of(index, Kind::Named) else { return };
        if let Some((number, name)) = named(&body) {
            broody_os::named::remove_if_unused(&name, number);
        }
    }

    pub(crate) fn object(&self, index: u32) -> &Object {
        self.item(&OBJECT_TABLE, index)
    }
}

/// What a named object says: the file's number, and its name.
pub fn named(body: &Body) -> Option<(u64, String)> {
    let length = (body.length() as usize).checked_sub(8)?;
    // SAFETY: within the body, and aligned; written once, by the maker, before anybody else knew of the object.
    let (number, name) = unsafe {
        let start = body.as_ptr().as_ptr();
        (start.cast::<u64>().read(), std::slice::from_raw_parts(start.add(8), length))
    };
    Some((number, String::from_utf8(name.to_vec()).ok()?))
}
