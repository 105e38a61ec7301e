//! Who owns something in shared memory: a process's slot and the slot's generation.
//!
//! Never a pid: a pid is given away again as soon as its process was reaped, while a slot gets a new generation only after everything that
//! its process owned has been repaired. An owner that is found anywhere is therefore a living process, or a dead one that nobody
//! has cleaned up after yet.

use std::num::NonZeroU32;

const SLOT_BITS: u32 = 13;
const GENERATION_BITS: u32 = 17;

/// The most slots of an arena.
pub(crate) const SLOTS: u32 = (1 << SLOT_BITS) - 1;

/// A process, as shared memory knows it: 30 bits, so that a lock's word has room for two flags beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(NonZeroU32);

impl Owner {
    /// The bits that an owner may have.
    pub(crate) const MASK: u32 = (1 << (SLOT_BITS + GENERATION_BITS)) - 1;

    /// The owner of `slot` in its `generation`, which wraps.
    #[inline]
    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        let generation = generation % (1 << GENERATION_BITS);
        let raw = (generation << SLOT_BITS) | (slot + 1);
        Self(NonZeroU32::new(raw).expect("a slot's number plus one is not zero"))
    }

    /// The owner in a word, whose other bits are ignored; `None` when nobody is in it.
    #[inline]
    pub(crate) fn in_word(word: u32) -> Option<Self> {
        NonZeroU32::new(word & Self::MASK).filter(|raw| raw.get() & SLOTS != 0).map(Self)
    }

    /// As it is written into a word.
    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0.get()
    }

    /// The slot's number.
    #[inline]
    pub(crate) fn slot(self) -> u32 {
        (self.0.get() & SLOTS) - 1
    }

    /// The slot's generation.
    #[cfg(test)]
    pub(crate) fn generation(self) -> u32 {
        self.0.get() >> SLOT_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_comes_back_out_of_a_word() {
        for (slot, generation) in [(0, 0), (0, 1), (SLOTS - 1, 5), (7, (1 << GENERATION_BITS) - 1)] {
            let owner = Owner::new(slot, generation);
            assert_eq!((owner.slot(), owner.generation()), (slot, generation));
            assert_eq!(Owner::in_word(owner.bits() | !Owner::MASK), Some(owner));
        }
        assert_eq!(Owner::in_word(0), None);
        assert_eq!(Owner::in_word(!Owner::MASK), None);
        assert_eq!(Owner::new(3, 1 << GENERATION_BITS), Owner::new(3, 0));
    }
}
