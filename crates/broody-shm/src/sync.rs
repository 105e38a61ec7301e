//! What the protocols in shared memory are written with: atomics, and a way to sleep on one.
//!
//! Under `--cfg shuttle` the same protocols are compiled for a model checker, whose atomics and sleep these are then.

use std::time::{Duration, Instant};

use crate::owner::Owner;

#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(shuttle)]
pub(crate) use crate::model::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A full fence behind a read-modify-write operation, which on x86 is one already.
#[inline]
pub(crate) fn fence_after_exchange() {
    #[cfg(all(target_arch = "x86_64", not(shuttle)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(shuttle))))]
    fence(Ordering::SeqCst);
}

/// The longest sleep without another look: the second net under the death broadcast.
pub const BOUND: Duration = Duration::from_secs(1);

/// When to give up waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Not at all: only try.
    Now,
    /// At this time.
    At(Instant),
    /// Never.
    Never,
}

impl Deadline {
    /// After `limit`; what is too far away for the clock is never.
    pub fn after(limit: Duration) -> Self {
        if limit.is_zero() {
            return Deadline::Now;
        }
        Instant::now().checked_add(limit).map_or(Deadline::Never, Deadline::At)
    }

    /// The time that is left, if there is an end to it.
    pub fn left(self) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(time) => Some(time.saturating_duration_since(Instant::now())),
            Deadline::Never => None,
        }
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// The time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Woken, or there was no need to sleep, or a signal came: look again.
    Perhaps,
    /// [`BOUND`] is over, and the deadline is not: look again, also at whether the owner lives.
    Bound,
    /// The deadline is over. Look once more all the same.
    TimedOut,
}

/// How a process sleeps on words in shared memory.
///
/// Whoever sleeps is known to the arena, so that a death can wake everybody: the dead process may have been about to wake them, or may have
/// been woken instead of them.
pub trait Parking {
    /// Sleeps while `word` is `value`, until woken, at the latest at `deadline` or after [`BOUND`].
    fn sleep(&self, word: &AtomicU32, value: u32, deadline: Deadline) -> Slept;

    /// Wakes at most `count` of those that sleep on `word`.
    fn wake(&self, word: &AtomicU32, count: u32);

    /// A chance for others to get on, before a sleep. `false` when it is time to sleep.
    fn spin(&self, round: u32) -> bool;

    /// Looks whether `owner` is dead, and if so, puts right what it held.
    fn bury(&self, owner: Owner);

    /// Somebody got on only because his sleep was bounded: nobody woke him. Counted, since without deaths it must not happen.
    fn note_rescue(&self);
}
