//! The memory of a queue's messages, as one process has it mapped.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

use broody_os::memory::{Mapping, page_size};

use super::frame::{self, Incoming, Outgoing};
use super::mark::Mark;
use crate::arena::{Arena, Held};
use crate::owner::Owner;
use crate::{ArenaError, Corrupt};

/// The first ring of a queue, in bytes.
const SMALLEST: usize = 16 << 10;

/// The size of the next ring of a queue whose ring of `before` bytes has no room for `length` more beside `used`; `bound` is of the queue, 0 for none.
pub(super) fn next_capacity(before: usize, used: usize, length: usize, bound: usize) -> usize {
    // Room for some messages of this length: who puts shall seldom wait for who takes. But not for more than the queue's bound, if it has one.
    let bound = if bound == 0 { usize::MAX } else { bound };
    let wanted = (4 * length).max(2 * before).max(SMALLEST).max(page_size()).min(bound);
    wanted.max(used + length).max(page_size()).next_power_of_two()
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

    #[inline]
    fn at(&self, mark: Mark) -> *mut u8 {
        self.start.as_ptr().wrapping_add(mark.offset(self.capacity))
    }

    /// Writes a message at `tail`. The caller has the lock of putters, and has seen that there is room.
    #[inline]
    pub(super) fn write(&self, tail: Mark, message: &Outgoing<'_>) {
        let length = message.length();
        assert!(length <= self.capacity, "a message that is written has room");
        // SAFETY: from `tail` on, so many bytes are free, contiguous by the second mapping, and belong to whoever has the lock of putters.
        message.write(unsafe { std::slice::from_raw_parts_mut(self.at(tail), length) });
    }

    /// As [`write`](Self::write), for a message that is nothing but these bytes.
    #[inline]
    pub(super) fn write_short(&self, tail: Mark, bytes: &[u8]) {
        let length = frame::short_length(bytes);
        assert!(length <= self.capacity, "a message that is written has room");
        // SAFETY: as in `write`.
        frame::write_short(bytes, unsafe { std::slice::from_raw_parts_mut(self.at(tail), length) });
    }

    /// Looks at the message at `head`. The caller has the lock of takers, or the queue for itself.
    #[inline]
    pub(super) fn read(&self, head: Mark, tail: Mark) -> Result<Incoming<'_>, Corrupt> {
        let there = head.bytes_to(tail);
        if there > self.capacity {
            return Err(Corrupt);
        }
        // SAFETY: contiguous by the second mapping. Nobody writes to what is between head and tail before the head has moved past it, which only
        // the holder of the lock of takers does.
        let message = Incoming::parse(unsafe { std::slice::from_raw_parts(self.at(head), there) })?;
        if message.length() <= there { Ok(message) } else { Err(Corrupt) }
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
    /// The ring that the queue has now, if this process has it mapped already.
    #[inline]
    pub(super) fn current(&self, control: &super::control::Control, me: Owner) -> Option<&Ring> {
        // Acquire: the copy in a new ring. It changes only under both locks.
        let word = control.fixed.0.ring.load(super::Ordering::Acquire);
        // SAFETY: the caller has this side's lock.
        let view = unsafe { &*self.0.get() };
        view.ring.as_ref().filter(|_| view.word == word && view.owner == Some(me))
    }

    /// The ring that the queue has now; `None` when it has none yet.
    #[inline]
    pub(super) fn ring(&self, queue: &Held, me: Owner) -> Result<Option<&Ring>, ArenaError> {
        let control = queue.body().get::<super::control::Control>();
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
