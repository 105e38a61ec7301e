//! The memory of a queue's messages, as one process has it mapped, and what a message looks like there.
//!
//! ```text
//! | length: 40 | holds: 16 | kind: 8 |   holds, 8 bytes each   |   bytes, padded to 8   |
//! ```
//!
//! A message that is apart has, for bytes, the name of a blob; its hold is the first one.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

use broody_os::memory::{Mapping, page_size};

use super::mark::{Mark, UNIT};
use crate::arena::{Arena, Held, HoldId, Name};
use crate::blob::Blob;
use crate::owner::Owner;
use crate::{ArenaError, Corrupt};

const HEADER: usize = 8;
const HOLD: usize = 8;

const INLINE: u8 = 1;
const APART: u8 = 2;

/// The first ring of a queue, in bytes.
const SMALLEST: usize = 16 << 10;

/// The size of the next ring of a queue whose ring of `before` bytes has no room for `length` more beside `used`.
pub(super) fn next_capacity(before: usize, used: usize, length: usize) -> usize {
    // Room for some messages of this length: who puts shall seldom wait for who takes.
    let least = (used + length).max(4 * length).max(2 * before).max(SMALLEST).max(page_size());
    least.next_power_of_two()
}

/// A ring as a queue's word names it.
pub(super) fn word(index: u32, capacity: usize) -> u64 {
    (u64::from(capacity.trailing_zeros()) << 32) | u64::from(index + 1)
}

/// The number of the ring in a queue's word.
pub(super) fn index(word: u64) -> Option<u32> {
    (word as u32).checked_sub(1)
}

fn capacity(word: u64) -> usize {
    1 << ((word >> 32) & 63)
}

/// A message as it is to be written.
pub(super) struct Record<'a> {
    kind: u8,
    own: Option<(Name, HoldId)>,
    holds: &'a [HoldId],
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn inline(bytes: &'a [u8], holds: &'a [HoldId]) -> Self {
        Self { kind: INLINE, own: None, holds, bytes }
    }

    pub(super) fn apart(blob: &Blob, hold: HoldId, holds: &'a [HoldId]) -> Self {
        Self { kind: APART, own: Some((blob.held().name(), hold)), holds, bytes: &[] }
    }

    /// One that is apart, to ask whether there would be room.
    pub(super) fn reference() -> Self {
        let (name, hold) = (Name { index: 0, name: 0 }, HoldId { index: 0, use_number: 0 });
        Self { kind: APART, own: Some((name, hold)), holds: &[], bytes: &[] }
    }

    pub(super) fn is_apart(&self) -> bool {
        self.kind == APART
    }

    pub(super) fn holds(&self) -> impl Iterator<Item = HoldId> {
        self.own.map(|(_, hold)| hold).into_iter().chain(self.holds.iter().copied())
    }

    fn payload(&self) -> usize {
        if self.own.is_some() { size_of::<Name>() } else { self.bytes.len() }
    }

    /// All of it, in bytes.
    #[inline]
    pub(super) fn length(&self) -> usize {
        let holds = self.holds.len() + usize::from(self.own.is_some());
        (HEADER + holds * HOLD + self.payload()).next_multiple_of(UNIT as usize)
    }
}

/// A message as it was found. Only under the lock of takers, or when nobody else has the queue.
pub(super) struct Read<'a> {
    kind: u8,
    holds: usize,
    bytes: &'a [u8],
    start: *const u8,
}

impl<'a> Read<'a> {
    pub(super) fn holds(&self) -> impl Iterator<Item = HoldId> + use<> {
        let start = self.start;
        (0..self.holds).map(move |number| {
            // SAFETY: `Ring::read` has seen that so many holds lie within the message, which is aligned to 8.
            let raw = unsafe { start.add(HEADER + number * HOLD).cast::<u64>().read() };
            HoldId { index: raw as u32, use_number: (raw >> 32) as u32 }
        })
    }

    /// What the message says.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The blob that the message is, and its hold.
    pub(super) fn blob_name(&self) -> Option<(Name, HoldId)> {
        if self.kind != APART {
            return None;
        }
        let number = |at: usize| {
            self.bytes.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
        };
        Some((Name { index: number(0)? as u32, name: number(8)? }, self.holds().next()?))
    }

    /// All of it, in bytes.
    pub(super) fn length(&self) -> usize {
        (HEADER + self.holds * HOLD + self.bytes.len()).next_multiple_of(UNIT as usize)
    }
}

/// A ring, mapped twice in a row.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    mapping: Arc<Mapping>,
    start: NonNull<u8>,
    capacity: usize,
}

impl Ring {
    /// Maps the ring that a queue's word names.
    pub(super) fn open(arena: &Arena, word: u64) -> Option<Self> {
        let object = index(word)?;
        Self::map(arena, object, capacity(word)).ok()
    }

    fn map(arena: &Arena, object: u32, capacity: usize) -> Result<Self, ArenaError> {
        let mapping = Arc::new(arena.map_twice(object, capacity)?);
        let start = mapping.as_ptr();
        Ok(Self { mapping, start, capacity })
    }

    /// The size, in bytes.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        debug_assert_eq!(self.mapping.len(), 2 * self.capacity);
        self.capacity
    }

    fn at(&self, mark: Mark) -> *mut u8 {
        self.start.as_ptr().wrapping_add(mark.offset(self.capacity))
    }

    /// Writes a message at `tail`. The caller has the lock of putters, and has seen that there is room.
    pub(super) fn write(&self, tail: Mark, record: &Record<'_>) {
        let at = self.at(tail);
        let holds = record.holds().count();
        let header = record.payload() as u64 | ((holds as u64) << 40) | (u64::from(record.kind) << 56);
        // SAFETY: from `tail` on, `record.length()` bytes are free, contiguous by the second mapping, aligned to 8, and belong to whoever
        // has the lock of putters.
        unsafe {
            at.cast::<u64>().write(header);
            for (number, hold) in record.holds().enumerate() {
                let raw = u64::from(hold.index) | (u64::from(hold.use_number) << 32);
                at.add(HEADER + number * HOLD).cast::<u64>().write(raw);
            }
            let payload = at.add(HEADER + holds * HOLD);
            match record.own {
                Some((name, _)) => {
                    payload.cast::<u64>().write(name.index.into());
                    payload.cast::<u64>().add(1).write(name.name);
                }
                None => payload.copy_from_nonoverlapping(record.bytes.as_ptr(), record.bytes.len()),
            }
        }
    }

    /// Looks at the message at `head`. The caller has the lock of takers, or the queue for itself.
    pub(super) fn read(&self, head: Mark, tail: Mark) -> Result<Read<'_>, Corrupt> {
        let start: *const u8 = self.at(head);
        let room = head.bytes_to(tail);
        if room < HEADER || room > self.capacity {
            return Err(Corrupt);
        }
        // SAFETY: within the mapping, aligned to 8; what is between head and tail is not written to.
        let header = unsafe { start.cast::<u64>().read() };
        let length = (header & ((1 << 40) - 1)) as usize;
        let (holds, kind) = ((header >> 40) as u16 as usize, (header >> 56) as u8);
        let before = HEADER + holds * HOLD;
        let fits = before.checked_add(length).is_some_and(|end| end <= room);
        if !fits || !matches!(kind, INLINE | APART) {
            return Err(Corrupt);
        }
        // SAFETY: within the message, as was just seen; nobody writes to it before the head has moved past it, which only the holder of the
        // lock of takers does.
        let bytes = unsafe { std::slice::from_raw_parts(start.add(before), length) };
        Ok(Read { kind, holds, bytes, start })
    }

    /// Copies `length` bytes from `head` on. The caller has both locks.
    pub(super) fn copy_from(&self, old: &Ring, head: Mark, length: usize) {
        debug_assert!(length <= old.capacity && length <= self.capacity);
        // SAFETY: contiguous in both, by their second mappings, and nobody else touches either.
        unsafe { self.at(head).copy_from_nonoverlapping(old.at(head), length) };
    }
}

/// One of a process's two views of a queue's ring: used only under the lock of that side.
#[derive(Debug, Default)]
pub(super) struct Side(UnsafeCell<View>);

// SAFETY: `ring` and `replacement` are called with the side's lock held by the calling thread, so that no two threads are inside at a time.
unsafe impl Sync for Side {}
// SAFETY: a mapping and numbers.
unsafe impl Send for Side {}

#[derive(Debug, Default)]
struct View {
    /// The process that it was made in: a fork's copy may have been half-changed when it was copied.
    owner: Option<Owner>,
    word: u64,
    ring: Option<Ring>,
}

impl Side {
    /// The ring that the queue has now; `None` when it has none yet.
    #[inline]
    pub(super) fn ring(&self, queue: &Held, me: Owner) -> Result<Option<&Ring>, ArenaError> {
        let control = queue.body().get::<super::Control>();
        // Acquire: the copy in a new ring. It changes only under both locks.
        let word = control.fixed.0.ring.load(super::Ordering::Acquire);
        // SAFETY: the caller has this side's lock.
        let view = unsafe { &mut *self.0.get() };
        if view.word == word && view.owner == Some(me) {
            return Ok(view.ring.as_ref());
        }
        if view.owner != Some(me) {
            // Not dropped: it may be torn.
            // SAFETY: as above.
            unsafe { self.0.get().write(View { owner: Some(me), word: 0, ring: None }) };
        }
        // SAFETY: as above.
        let view = unsafe { &mut *self.0.get() };
        if view.word != word {
            view.ring = match index(word) {
                Some(object) => Some(Ring::map(queue.arena(), object, capacity(word))?),
                None => None,
            };
            view.word = word;
        }
        Ok(view.ring.as_ref())
    }

    /// Maps a ring that is to become the queue's.
    pub(super) fn replacement(&self, made: &Held, capacity: usize) -> Result<Ring, ArenaError> {
        Ring::map(made.arena(), made.name().index, capacity)
    }
}
