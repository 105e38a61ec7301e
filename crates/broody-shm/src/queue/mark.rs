//! How far a queue has come: bytes and messages, in one word.
//!
//! ```text
//! | messages: 28 bits | position: 36 bits, in units of 8 bytes |
//! ```
//!
//! Both count from the queue's beginning and wrap. One store moves both, so that the number of messages and the bytes that they take are
//! always of the same instant.

/// What messages are aligned to, in bytes; the unit of positions.
pub(super) const UNIT: u64 = 8;

const POSITION_BITS: u32 = 36;
const POSITIONS: u64 = (1 << POSITION_BITS) - 1;
const COUNTS: u64 = (1 << 28) - 1;

/// The most messages that can be told apart.
pub(super) const MOST_MESSAGES: u32 = COUNTS as u32;

/// The most bytes between two marks.
pub(super) const MOST_BYTES: u64 = (POSITIONS / 2) * UNIT;

/// A place between two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark(pub(super) u64);

impl Mark {
    /// The position, which names the message that begins here.
    #[inline]
    pub(super) fn position(self) -> u64 {
        self.0 & POSITIONS
    }

    /// Where this is in a ring of `capacity` bytes, a power of two.
    #[inline]
    pub(super) fn offset(self, capacity: usize) -> usize {
        ((self.position() * UNIT) & (capacity as u64 - 1)) as usize
    }

    /// The mark `bytes` (a multiple of the unit) and one message further.
    #[inline]
    pub(super) fn after(self, bytes: usize) -> Self {
        let position = (self.position() + bytes as u64 / UNIT) & POSITIONS;
        let count = ((self.0 >> POSITION_BITS) + 1) & COUNTS;
        Self((count << POSITION_BITS) | position)
    }

    /// How many bytes lie between this and a later mark.
    #[inline]
    pub(super) fn bytes_to(self, later: Self) -> usize {
        ((later.position().wrapping_sub(self.position()) & POSITIONS) * UNIT) as usize
    }

    /// How many messages lie between this and a later mark.
    #[inline]
    pub(super) fn messages_to(self, later: Self) -> u32 {
        ((later.0 >> POSITION_BITS).wrapping_sub(self.0 >> POSITION_BITS) & COUNTS) as u32
    }

    /// Whether the message at `position` lies between this and a later mark.
    #[inline]
    pub(super) fn reaches(self, later: Self, position: u64) -> bool {
        let distance = |to: u64| to.wrapping_sub(self.position()) & POSITIONS;
        distance(position) < distance(later.position())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_messages_are_counted_together_and_wrap() {
        let start = Mark(u64::MAX);
        let later = start.after(24).after(8);
        assert_eq!((start.bytes_to(later), start.messages_to(later)), (32, 2));
        assert!(start.reaches(later, start.position()));
        assert!(start.reaches(later, start.after(24).position()));
        assert!(!start.reaches(later, later.position()));
        assert!(!start.reaches(start, start.position()));
        assert_eq!(Mark::default().after(4096).offset(4096), 0);
    }
}
