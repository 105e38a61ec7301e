//! Who sleeps, and where.
//!
//! A sleeper claims a line of this table by one compare-and-swap on its owner and writes down on which word it sleeps. That is what a
//! death is told by: the repair is followed by a wake of every word that anybody sleeps on. So nobody has to know whether the
//! dead process was about to wake someone, or was woken instead of someone.
//!
//! A sleeper writes its line first and lets the kernel compare the word then; the broadcast comes after the repair and reads the
//! lines. With a fence on both sides, either the broadcast finds the line or the kernel finds the word changed: by the dead process, or by
//! the repair, which changes every word that the dead one may have been about to change.
//!
//! A waiter of a [condition](crate::robust::condition) sleeps on its own line's `state`, which says whether it was notified.
//!
//! The line of a dead process is freed by its repair. A full table costs no correctness: who finds no line sleeps all the same, and
//! looks again after [`BOUND`].

use std::time::Duration;

use broody_os::futex::{self, Woken};

use super::Arena;
use super::layout::WAITER_TABLE;
use crate::ArenaError;
use crate::owner::Owner;
use crate::robust::condition::{Line, Lines};
use crate::sync::{AtomicU32, AtomicU64, BOUND, Deadline, Ordering, Parking, Slept, fence};

/// A sleeper's line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Waiter {
    /// Who sleeps; 0: the line is free.
    owner: AtomicU32,
    _unused: AtomicU32,
    /// Of a waiter of a condition.
    pub(crate) line: Line,
    /// Where the word is that it sleeps on, as an offset in the file; 0: it does not sleep.
    word: AtomicU64,
}

const _: () = assert!(size_of::<Waiter>() == 64);

/// A line that this process has, freed on drop.
pub(crate) struct WaiterLine<'a> {
    pub(crate) waiter: &'a Waiter,
}

impl Drop for WaiterLine<'_> {
    fn drop(&mut self) {
        self.waiter.word.store(0, Ordering::Relaxed);
        self.waiter.line.clear();
        // Release: whoever claims the line next finds it clean.
        self.waiter.owner.store(0, Ordering::Release);
    }
}

impl Arena {
    /// Claims a line for `me`.
    pub(crate) fn claim_waiter(&self, me: Owner) -> Option<WaiterLine<'_>> {
        for index in 0..WAITER_TABLE.most {
            self.ensure(&WAITER_TABLE, index).ok()?;
            let line = self.item(&WAITER_TABLE, index);
            // Acquire: what the last owner did to the line is over.
            if line.owner.load(Ordering::Relaxed) == 0
                && line.owner.compare_exchange(0, me.bits(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some(WaiterLine { waiter: line });
            }
        }
        None
    }

    /// There is no line left for a waiter that needs one.
    pub(crate) fn too_many_waiters(&self) -> ArenaError {
        ArenaError::TooMany { what: "waiters", most: WAITER_TABLE.most }
    }

    /// Every line that somebody has.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (Owner, &Waiter)> {
        (0..self.used(&WAITER_TABLE)).filter_map(|index| {
            let line = self.item(&WAITER_TABLE, index);
            Some((Owner::in_word(line.owner.load(Ordering::Acquire))?, line))
        })
    }

    /// Frees a line of a dead process.
    pub(super) fn free_waiter(line: &Waiter, dead: Owner) {
        line.word.store(0, Ordering::Relaxed);
        line.line.clear();
        let _ = line.owner.compare_exchange(dead.bits(), 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Wakes everybody who sleeps on a word of this arena, after a repair.
    pub(super) fn broadcast(&self) {
        fence(Ordering::SeqCst);
        for (_, line) in self.waiters() {
            let offset = line.word.load(Ordering::Relaxed);
            if let Some(word) = self.word_at(offset) {
                futex::wake(word, u32::MAX);
            }
        }
        self.ring_bells();
    }

    /// How often this process's bell was rung.
    pub fn bell(&self) -> u32 {
        // Acquire: what happened before the ring is seen.
        self.me().map_or(0, |me| self.bell_of(me).load(Ordering::Acquire))
    }

    /// Sleeps until the bell is rung again, at most for [`BOUND`]. Whether that was over.
    pub fn await_bell(&self, rung: u32) -> bool {
        self.me().is_ok_and(|me| matches!(futex::wait(self.bell_of(me), rung, BOUND), Woken::TimedOut))
    }

    /// Lets everybody who watches look at what he watches.
    pub(crate) fn ring_bells(&self) {
        for owner in self.owners() {
            self.ring_bell(owner);
        }
    }

    /// Lets the watcher of `owner` look at what it watches.
    pub(super) fn ring_bell(&self, owner: Owner) {
        let bell = self.bell_of(owner);
        // Release: what happened before is seen by who sees the new number.
        bell.fetch_add(1, Ordering::Release);
        futex::wake(bell, 1);
    }

    /// Sleeps, as `Parking` says, with the line that the sleeper has.
    pub(crate) fn sleep_with(
        &self,
        line: Option<&Waiter>,
        word: &AtomicU32,
        value: u32,
        deadline: Deadline,
    ) -> Slept {
        let left = deadline.left();
        if left == Some(Duration::ZERO) {
            return Slept::TimedOut;
        }
        if let Some(line) = line {
            line.word.store(self.offset_of(word), Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        let limit = left.map_or(BOUND, |left| left.min(BOUND));
        let woken = futex::wait(word, value, limit);
        if let Some(line) = line {
            line.word.store(0, Ordering::Relaxed);
        }
        match woken {
            Woken::Perhaps => Slept::Perhaps,
            Woken::TimedOut if left.is_some_and(|left| left <= BOUND) => Slept::TimedOut,
            Woken::TimedOut => Slept::Bound,
        }
    }
}

impl Lines<AtomicU32> for Arena {
    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.waiters().map(|(_, waiter)| &waiter.line)
    }

    fn next_ticket(&self) -> u64 {
        self.header().tickets.fetch_add(1, Ordering::Relaxed)
    }
}

impl Parking for Arena {
    fn sleep(&self, word: &AtomicU32, value: u32, deadline: Deadline) -> Slept {
        let line = self.me().ok().and_then(|me| self.claim_waiter(me));
        self.sleep_with(line.as_ref().map(|line| line.waiter), word, value, deadline)
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        futex::wake(word, count);
    }

    fn may_spin(&self) -> bool {
        self.many_cpus
    }

    fn bury(&self, owner: Owner) -> bool {
        self.is_dead(owner) && self.recover(owner, Deadline::after(BOUND))
    }

    fn note_rescue(&self) {
        self.header().rescues.fetch_add(1, Ordering::Relaxed);
    }
}
