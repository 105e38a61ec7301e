//! Where everything lies in an arena's file.
//!
//! ```text
//! 0          header | slots | waiters | holds | objects      tables, mapped as a whole
//! 64 MiB     small bodies, 64 bytes to 2 KiB                 mapped in windows, on demand
//! 320 MiB    everything else, in pages                       mapped piece by piece, by who uses it
//! ```
//!
//! Tables grow: a chunk of one is reserved before its first item is used. Their sizes limit what an arena holds; the file's size is
//! far beyond the machine's memory, so that places in it are never moved or merged.

use std::marker::PhantomData;

use super::holds::Hold;
use super::objects::Object;
use super::slots::Slot;
use super::waiters::Waiter;
use crate::owner::SLOTS;
use crate::robust::lock::LockWord;
use crate::sync::{AtomicU32, AtomicU64};

/// Tells an arena from other memory.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"broody\xa7\x01");

/// Tells this layout from others.
pub(super) const VERSION: u32 = 1;

/// The part with the header and the tables, in bytes.
pub(super) const TABLES: usize = 64 << 20;

/// Where small bodies begin.
pub(super) const SMALL: u64 = TABLES as u64;

/// Small bodies are mapped in windows of this size.
pub(super) const WINDOW: u64 = 16 << 20;

/// How many windows there are.
pub(super) const WINDOWS: usize = 16;

/// Where pages begin.
pub(super) const PAGES: u64 = SMALL + WINDOWS as u64 * WINDOW;

/// The least size of an arena's file: room for some pages behind the tables.
pub(super) const LEAST: u64 = PAGES + (64 << 20);

/// What a table's memory is reserved in, in bytes.
pub(super) const CHUNK: usize = 16 << 10;

/// Size classes of bodies: powers of two from 64 bytes to 8 TiB.
pub(super) const CLASSES: usize = 38;

/// The first page. What is not said to be derived is true at every instant.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU32,
    /// The size of this struct and of the tables' items, mixed: another build's layout is refused.
    pub(super) layout: AtomicU32,
    /// Which arena this is.
    pub(super) id: AtomicU64,
    /// Under it, objects and holds come and go.
    pub(super) lock: LockWord,
    /// Sleepers that got on only because their sleep was bounded.
    pub(super) rescues: AtomicU32,
    /// The last name given to an object.
    pub(super) last_name: AtomicU64,
    /// The order in which waiters of conditions came.
    pub(super) tickets: AtomicU64,
    pub(super) tables: [TableState; 4],
    /// First free hold plus one. Derived.
    pub(super) free_hold: AtomicU32,
    /// First free object plus one, for those that were never given a place. Derived.
    pub(super) free_object: AtomicU32,
    /// How many objects there are. Derived.
    pub(super) objects: AtomicU32,
    /// The last use number given to a hold. It wraps: what it is compared with is older than that by far.
    pub(super) last_use: AtomicU32,
    /// Bytes in pages that free places have kept. Derived.
    pub(super) kept: AtomicU64,
    /// The most of them.
    pub(super) most_kept: AtomicU64,
    /// Where the next piece of pages begins.
    pub(super) pages_end: AtomicU64,
    /// Where the next chunk of small bodies begins.
    pub(super) small_end: AtomicU64,
    pub(super) classes: [ClassState; CLASSES],
}

/// How far a table is used.
#[derive(Debug)]
#[repr(C)]
pub(super) struct TableState {
    /// Items that may have been used; those above are all zero.
    pub(super) used: AtomicU32,
    /// Items whose memory is there.
    pub(super) reserved: AtomicU32,
}

/// The objects of one size class.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ClassState {
    /// First free object plus one that has a place of this size. Derived.
    pub(super) free: AtomicU32,
    _unused: AtomicU32,
    /// The rest of the last chunk of small bodies: where the next one goes, and the end.
    pub(super) next: AtomicU64,
    pub(super) end: AtomicU64,
}

/// A table of items that are all zero at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<T> {
    pub(super) index: usize,
    /// Where it begins.
    pub(super) offset: usize,
    /// The most items.
    pub(super) most: u32,
    item: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    const fn new(index: usize, offset: usize, most: u32) -> Self {
        Self { index, offset, most, item: PhantomData }
    }

    const fn end(&self) -> usize {
        (self.offset + size_of::<T>() * self.most as usize).next_multiple_of(CHUNK)
    }
}

pub(super) const SLOT_TABLE: Table<Slot> = Table::new(0, CHUNK, SLOTS);
pub(super) const WAITER_TABLE: Table<Waiter> = Table::new(1, SLOT_TABLE.end(), 1 << 14);
pub(super) const HOLD_TABLE: Table<Hold> = Table::new(2, WAITER_TABLE.end(), 1 << 19);
pub(super) const OBJECT_TABLE: Table<Object> = Table::new(3, HOLD_TABLE.end(), 1 << 18);

const _: () = assert!(OBJECT_TABLE.end() <= TABLES && size_of::<Header>() <= CHUNK);

/// The layout in one number.
pub(super) const LAYOUT: u32 = (size_of::<Header>()
    ^ (size_of::<Slot>() << 12)
    ^ (size_of::<Waiter>() << 16)
    ^ (size_of::<Hold>() << 20)
    ^ (size_of::<Object>() << 24)) as u32;

/// The longest small body, in bytes.
pub(super) const SMALL_BODY: u64 = 2048;

/// The class of a body of `length` bytes; `None` where that is longer than any.
pub(super) fn class_of(length: u64) -> Option<u32> {
    let size = length.max(64).checked_next_power_of_two()?;
    Some(size.trailing_zeros() - 6).filter(|class| (*class as usize) < CLASSES)
}

/// The size of the bodies of a class, in bytes.
pub(super) fn class_size(class: u32) -> u64 {
    64 << class
}

/// Whether bodies of this size are small: they share pages with others.
pub(super) fn is_small(class: u32) -> bool {
    class_size(class) <= SMALL_BODY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_powers_of_two() {
        let class = |length| class_of(length).unwrap();
        assert_eq!((class(0), class(64), class(65), class(4096)), (0, 0, 1, 6));
        assert_eq!(class_size(class(3 << 30)), 4 << 30);
        assert!(is_small(class(2048)) && !is_small(class(2049)));
        assert_eq!(class(1 << 43) as usize, CLASSES - 1);
        assert_eq!((class_of((1 << 43) + 1), class_of(u64::MAX)), (None, None));
    }
}
