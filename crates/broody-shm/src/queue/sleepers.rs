//! Those who sleep until the other side of a queue has done something.
//!
//! A sleeper says that it sleeps, reads the number of changes, looks once more whether it has to, and sleeps on the number. The other side first
//! publishes what it did, then looks for sleepers; if there are any, it counts the changes up and wakes them. Each side stores first and
//! loads then, with a full fence between, so that the sleeper sees what was done or is seen.
//!
//! # What a SIGKILL leaves
//!
//! Of a sleeper: a number of sleepers that is too high, which costs a wake of nobody, once. (After 65,536 such deaths the number overflows, and
//! one sleeper waits for [`BOUND`](crate::sync::BOUND); then it is 0 again.) Of the other side, between its publication and its wake: the
//! [repair](Sleepers::repair) counts up in its place, and the broadcast wakes.

use crate::arena::Arena;
use crate::sync::{AtomicU32, Ordering, Parking, Slept, Word};

/// The words, in shared memory.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Sleepers<W = AtomicU32> {
    changes: W,
    /// In the lower half, how many sleep; in the upper half, how many of those were woken and have not left yet. Only the others can be woken:
    /// so a wake is not made again while one is on its way.
    sleeping: W,
    /// Somebody watches by a descriptor, and wants his bell rung once.
    watched: W,
}

/// One more in the upper half of `sleeping`.
const WOKEN: u32 = 1 << 16;

impl<W: Word> Sleepers<W> {
    /// Sleeps, unless `look` finds that there is no need. `sleep` sleeps on a word while it is the value given.
    pub(crate) fn sleep(&self, look: impl FnOnce() -> bool, sleep: impl FnOnce(&W, u32) -> Slept) -> Slept {
        self.sleeping.fetch_add(1, Ordering::Relaxed);
        W::fence();
        // Acquire: who reads the number of a change sees that change in the look that follows.
        let changes = self.changes.load(Ordering::Acquire);
        let slept = if look() { Slept::Perhaps } else { sleep(&self.changes, changes) };
        self.leave();
        slept
    }

    /// A sleeper looks for itself from now on.
    fn leave(&self) {
        let mut word = self.sleeping.load(Ordering::Relaxed);
        loop {
            // One wake less is on its way. If it was another's, that one is woken again: rather one wake too many than one too few.
            let left = if word >= WOKEN { word - WOKEN } else { word }.saturating_sub(1);
            match self.sleeping.compare_exchange(word, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// After a publication and a full fence: wakes `count` of those who sleep.
    #[inline]
    pub(crate) fn wake(&self, parking: &impl Parking<W>, count: u32) {
        let word = self.sleeping.load(Ordering::Relaxed);
        if word != 0 {
            self.wake_some(parking, count, word);
        }
    }

    #[cold]
    fn wake_some(&self, parking: &impl Parking<W>, count: u32, mut word: u32) {
        loop {
            let some = count.min((word % WOKEN).saturating_sub(word / WOKEN));
            if some == 0 {
                return;
            }
            let woken = word + some * WOKEN;
            match self.sleeping.compare_exchange(word, woken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    // Release: pairs with the sleeper's acquire.
                    self.changes.fetch_add(1, Ordering::Release);
                    return parking.wake(&self.changes, some);
                }
                Err(now) => word = now,
            }
        }
    }

    /// Somebody is dead who may have published and not counted up. Before the broadcast: who is about to sleep, and is not seen by it,
    /// finds another number.
    pub(crate) fn repair(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Whoever publishes next shall ring the bells. Who asks looks after this.
    pub(crate) fn watch(&self) {
        self.watched.store(1, Ordering::Relaxed);
        // Either who publishes sees the word, or who asks sees what was published.
        W::fence();
    }
}

impl Sleepers {
    /// As [`wake`](Self::wake), and tells those who watch.
    #[inline]
    pub(crate) fn announce(&self, arena: &Arena, count: u32) {
        self.wake(arena, count);
        if self.watched.load(Ordering::Relaxed) != 0 && self.watched.swap(0, Ordering::Relaxed) != 0 {
            arena.ring_bells();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::owner::Owner;
    use crate::sync::Deadline;

    /// Counts who is woken.
    #[derive(Default)]
    struct Counting(Cell<u32>);

    impl Parking for Counting {
        fn sleep(&self, _: &AtomicU32, _: u32, _: Deadline) -> Slept {
            Slept::Perhaps
        }

        fn wake(&self, _: &AtomicU32, count: u32) {
            self.0.set(self.0.get() + count);
        }

        fn may_spin(&self) -> bool {
            false
        }

        fn bury(&self, _: Owner) -> bool {
            false
        }

        fn note_rescue(&self) {}
    }

    #[test]
    fn who_was_woken_is_not_woken_again_before_he_has_left() {
        let (sleepers, woken) = (Sleepers::<AtomicU32>::default(), Counting::default());
        let wake = |count| {
            sleepers.wake(&woken, count);
            woken.0.take()
        };
        assert_eq!(wake(1), 0, "nobody sleeps");
        for _ in 0..2 {
            let asleep = |_: &AtomicU32, _| {
                assert_eq!((wake(3), wake(1)), (1, 0));
                sleepers.sleep(
                    || false,
                    |_, _| {
                        assert_eq!((wake(3), wake(1)), (1, 0), "the other one");
                        Slept::Perhaps
                    },
                )
            };
            sleepers.sleep(|| false, asleep);
        }
        assert_eq!(wake(1), 0, "nobody sleeps any more");
    }
}
