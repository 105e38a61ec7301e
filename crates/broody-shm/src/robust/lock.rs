//! A lock that survives its holder.
//!
//! One word: the holder's [`Owner`], and two flags.
//!
//! ```text
//! | OWNER_DIED | WAITERS | owner: 30 bits |
//! 0                      free
//! OWNER_DIED             free, and the next holder is told that the one before died
//! owner                  held, nobody sleeps
//! owner + WAITERS        held, and somebody may sleep on the word
//! ```
//!
//! * **acquire**: from free to held by one compare-and-swap. Who finds it held sets WAITERS and sleeps on the word; having slept, it takes
//!   the lock together with WAITERS, since it cannot know whether it was the only sleeper.
//! * **release**: from held to free by one compare-and-swap, or, if WAITERS was set, by one swap, and one sleeper is woken.
//!
//! # What a SIGKILL leaves
//!
//! The change of state and the change of owner are one store, so that the word always says the truth:
//! * before the store of `release`: held by the dead. [`repair`](LockWord::repair) makes it OWNER_DIED.
//! * after it, before the wake: free, with sleepers. The broadcast that follows every repair wakes them.
//! * woken, and gives up because its time is over: it sees to it that the next release wakes another one. Killed there: the broadcast.
//! * woken, before its compare-and-swap: free, with other sleepers; the broadcast again.
//! * with WAITERS set and not asleep yet: one wake too many, later.

use crate::owner::Owner;
use crate::sync::{AtomicU32, Deadline, Ordering, Parking, Slept, TimedOut, Word, spin_briefly};

const WAITERS: u32 = 1 << 30;
const OWNER_DIED: u32 = 1 << 31;

/// The word, in shared memory. All zero bytes are a free lock.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct LockWord<W = AtomicU32>(W);

/// The lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// The holder before was ended while it held the lock: what the lock protects may be half-done.
    pub owner_died: bool,
}

impl<W: Word> LockWord<W> {
    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> Option<Acquired> {
        if self.try_take(me) {
            return Some(Acquired { owner_died: false });
        }
        self.try_acquire_with(me, 0)
    }

    /// Takes the lock if it is free and there is nothing to say about it.
    #[inline]
    pub(crate) fn try_take(&self, me: Owner) -> bool {
        // Acquire: what the last holder wrote is seen. Pairs with the release in `release`.
        self.0.compare_exchange(0, me.bits(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// As `try_acquire`, leaving `flags` in the word.
    #[cold]
    fn try_acquire_with(&self, me: Owner, flags: u32) -> Option<Acquired> {
        let mut word = self.0.load(Ordering::Relaxed);
        while Owner::in_word(word).is_none() {
            let held = me.bits() | flags | (word & WAITERS);
            // Acquire: as above; `repair` releases, too.
            match self.0.compare_exchange(word, held, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Acquired { owner_died: word & OWNER_DIED != 0 }),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Takes the lock, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`]; the lock is as it was.
    #[inline]
    pub fn acquire(
        &self,
        me: Owner,
        parking: &impl Parking<W>,
        deadline: Deadline,
    ) -> Result<Acquired, TimedOut> {
        match self.try_acquire(me) {
            Some(acquired) => Ok(acquired),
            None => self.wait(me, parking, deadline),
        }
    }

    #[cold]
    fn wait(&self, me: Owner, parking: &impl Parking<W>, deadline: Deadline) -> Result<Acquired, TimedOut> {
        let mut acquired = None;
        let mut look = || {
            acquired = self.try_acquire_with(me, 0);
            acquired.is_some()
        };
        if spin_briefly(parking, &mut look) {
            return acquired.ok_or(TimedOut);
        }
        let (mut flags, mut slept) = (0, Slept::Perhaps);
        loop {
            if let Some(acquired) = self.try_acquire_with(me, flags) {
                if slept == Slept::Bound {
                    parking.note_rescue();
                }
                return Ok(acquired);
            }
            if slept == Slept::TimedOut || deadline.is_over() {
                if flags != 0 {
                    self.pass_on(parking);
                }
                return Err(TimedOut);
            }
            let word = self.0.load(Ordering::Relaxed);
            let Some(holder) = Owner::in_word(word) else { continue };
            if slept == Slept::Bound && parking.bury(holder) {
                // Done already, but where somebody was gone before and had forgotten this lock.
                self.repair(holder);
            }
            // Relaxed: the flag carries nothing but itself.
            if word & WAITERS == 0
                && self
                    .0
                    .compare_exchange(word, word | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                slept = Slept::Perhaps;
                continue;
            }
            slept = parking.sleep(&self.0, word | WAITERS, deadline);
            flags = WAITERS;
        }
    }

    /// Who gives up may have been woken, and others still sleep: they are not forgotten.
    fn pass_on(&self, parking: &impl Parking<W>) {
        let mut word = self.0.load(Ordering::Relaxed);
        while Owner::in_word(word).is_some() {
            if word & WAITERS != 0 {
                return;
            }
            // Relaxed: the flag carries nothing but itself. The release of whoever holds it wakes the next one.
            match self.0.compare_exchange(word, word | WAITERS, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        parking.wake(&self.0, 1);
    }

    /// Gives the lock back. `false` when `me` does not hold it; then nothing has happened.
    #[inline]
    pub fn release(&self, me: Owner, parking: &impl Parking<W>) -> bool {
        // Release: what was done under the lock is seen by the next holder.
        match self.0.compare_exchange(me.bits(), 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => true,
            Err(word) => self.release_to_sleepers(word, me, parking),
        }
    }

    #[cold]
    fn release_to_sleepers(&self, word: u32, me: Owner, parking: &impl Parking<W>) -> bool {
        // Only this owner itself could have put itself there, or take itself away.
        if Owner::in_word(word) != Some(me) {
            return false;
        }
        // Release: as above.
        let before = self.0.swap(0, Ordering::Release);
        if before & WAITERS != 0 {
            parking.wake(&self.0, 1);
        }
        true
    }

    /// Gives the lock back, whoever holds it. `false` when nobody does.
    pub fn release_for_anybody(&self, parking: &impl Parking<W>) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while Owner::in_word(word).is_some() {
            // Release: what was done under the lock is seen by the next holder.
            match self.0.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if word & WAITERS != 0 {
                        parking.wake(&self.0, 1);
                    }
                    return true;
                }
                Err(now) => word = now,
            }
        }
        false
    }

    /// Who holds it.
    #[inline]
    pub fn holder(&self) -> Option<Owner> {
        Owner::in_word(self.0.load(Ordering::Relaxed))
    }

    /// Frees the lock if `dead` holds it; the next holder is told. The caller wakes everybody afterwards.
    pub fn repair(&self, dead: Owner) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while Owner::in_word(word) == Some(dead) {
            // WAITERS stays: sleepers may be woken by the next release if not by the broadcast. AcqRel: the dead holder's
            // writes, which this process may look at, and what it repaired before.
            let freed = OWNER_DIED | (word & WAITERS);
            match self.0.compare_exchange(word, freed, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    /// Sleeps by giving way: for threads of one process, also under Miri.
    struct GiveWay;

    impl Parking for GiveWay {
        fn sleep(&self, _: &AtomicU32, _: u32, deadline: Deadline) -> Slept {
            std::thread::yield_now();
            if deadline.is_over() { Slept::TimedOut } else { Slept::Perhaps }
        }

        fn wake(&self, _: &AtomicU32, _: u32) {}

        fn may_spin(&self) -> bool {
            false
        }

        fn bury(&self, _: Owner) -> bool {
            false
        }

        fn note_rescue(&self) {}
    }

    struct Guarded(UnsafeCell<u64>);

    // SAFETY: used under the lock only, which is what is tested (by Miri, which sees a race).
    unsafe impl Sync for Guarded {}

    #[test]
    fn threads_exclude_each_other() {
        const EACH: u64 = 100;
        let (lock, guarded) = (LockWord::<AtomicU32>::default(), Guarded(UnsafeCell::new(0)));
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (lock, guarded) = (&lock, &guarded);
                scope.spawn(move || {
                    let me = Owner::new(number, 1);
                    for _ in 0..EACH {
                        lock.acquire(me, &GiveWay, Deadline::Never).unwrap();
                        // SAFETY: under the lock.
                        unsafe { *guarded.0.get() += 1 };
                        assert!(lock.release(me, &GiveWay));
                    }
                });
            }
        });
        assert_eq!(guarded.0.into_inner(), 3 * EACH);
        assert_eq!(lock.holder(), None);
    }

    #[test]
    fn the_word_says_who_holds_it_and_who_died() {
        let lock = LockWord::<AtomicU32>::default();
        let (first, second) = (Owner::new(0, 1), Owner::new(1, 1));
        assert_eq!(lock.try_acquire(first), Some(Acquired { owner_died: false }));
        assert_eq!(lock.try_acquire(second), None);
        assert_eq!(lock.acquire(second, &GiveWay, Deadline::Now), Err(TimedOut));
        assert!(!lock.release(second, &GiveWay), "it is the other one's");
        assert!(!lock.repair(second));
        assert!(lock.repair(first));
        assert_eq!(lock.acquire(second, &GiveWay, Deadline::Now), Ok(Acquired { owner_died: true }));
        assert!(lock.release_for_anybody(&GiveWay));
        assert!(!lock.release_for_anybody(&GiveWay));
        assert_eq!(lock.try_acquire(first), Some(Acquired { owner_died: false }));
    }
}
