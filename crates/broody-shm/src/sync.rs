//! What the protocols in shared memory are written with: atomic words, and a way to sleep on one.
//!
//! The protocols are generic over the [`Word`]. In shared memory it is std's `AtomicU32`; the tests put in words of a model checker (loom), which
//! tries every interleaving and every order that the memory model allows, and lets a thread die before any operation.

use std::time::{Duration, Instant};

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use broody_os::interrupt;

use crate::owner::Owner;

/// An atomic word of 32 bits.
pub trait Word: std::fmt::Debug + Default {
    /// See [`AtomicU32::load`].
    fn load(&self, order: Ordering) -> u32;
    /// See [`AtomicU32::store`].
    fn store(&self, value: u32, order: Ordering);
    /// See [`AtomicU32::swap`].
    fn swap(&self, value: u32, order: Ordering) -> u32;
    /// See [`AtomicU32::compare_exchange`].
    #[allow(missing_docs, clippy::missing_errors_doc)]
    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32>;
    /// See [`AtomicU32::fetch_add`].
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    /// See [`AtomicU32::fetch_sub`].
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32;

    /// A full fence: what this thread stored before is seen by others before what it loads after.
    fn fence() {
        fence(Ordering::SeqCst);
    }

    /// A full fence behind a read-modify-write operation, which on x86 is one already.
    fn fence_after_exchange() {
        Self::fence();
    }
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }

    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::swap(self, value, order)
    }

    #[inline]
    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        AtomicU32::compare_exchange(self, current, new, success, failure)
    }

    #[inline]
    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_add(self, value, order)
    }

    #[inline]
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_sub(self, value, order)
    }

    #[inline]
    fn fence_after_exchange() {
        #[cfg(target_arch = "x86_64")]
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        #[cfg(not(target_arch = "x86_64"))]
        fence(Ordering::SeqCst);
    }
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
    /// At this time, if there is one, or when a [signal](broody_os::interrupt) has come.
    OrSignal(Option<Instant>),
}

impl Deadline {
    /// After `limit`; what is too far away for the clock is never. In a thread whose waits signals end, also then.
    pub fn after(limit: Duration) -> Self {
        if limit.is_zero() {
            return Deadline::Now;
        }
        if interrupt::is_watched() {
            return Deadline::OrSignal(Instant::now().checked_add(limit));
        }
        Instant::now().checked_add(limit).map_or(Deadline::Never, Deadline::At)
    }

    /// The same, but not before so much time from now.
    pub(crate) fn not_before(self, grace: Duration) -> Self {
        match (self, Self::after(grace)) {
            (Deadline::At(time), Deadline::At(earliest)) => Deadline::At(time.max(earliest)),
            (Deadline::OrSignal(Some(time)), Deadline::At(earliest) | Deadline::OrSignal(Some(earliest))) => {
                Deadline::At(time.max(earliest))
            }
            (Deadline::Now, earliest) => earliest,
            (other, _) => other,
        }
    }

    /// The same, but not after so much time from now.
    pub(crate) fn within(self, limit: Duration) -> Self {
        match (self, Self::after(limit)) {
            (Deadline::At(time), Deadline::At(latest)) => Deadline::At(time.min(latest)),
            (Deadline::OrSignal(Some(time)), Deadline::OrSignal(Some(latest))) => {
                Deadline::OrSignal(Some(time.min(latest)))
            }
            (Deadline::Never | Deadline::OrSignal(None), latest) => latest,
            (other, _) => other,
        }
    }

    /// The time that is left, if there is an end to it.
    pub fn left(self) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(time) => Some(time.saturating_duration_since(Instant::now())),
            Deadline::OrSignal(_) if interrupt::is_raised() => Some(Duration::ZERO),
            Deadline::OrSignal(Some(time)) => Some(time.saturating_duration_since(Instant::now())),
            Deadline::Never | Deadline::OrSignal(None) => None,
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

/// The CPU that this thread is on, plus one: never 0.
#[inline]
pub(crate) fn place() -> u32 {
    broody_os::limits::current_cpu().wrapping_add(1)
}

/// Looks again and again, after `first` pauses of the CPU and then at growing distances, for `pauses` in all. Whether `look` was ever true.
pub(crate) fn spin(first: u32, pauses: u32, mut look: impl FnMut() -> bool) -> bool {
    let (mut spent, mut step) = (0, first);
    while spent < pauses {
        for _ in 0..step {
            std::hint::spin_loop();
        }
        spent += step;
        // No further apart than it takes a word to come from another CPU.
        step = (2 * step).min(64);
        if look() {
            return true;
        }
    }
    false
}

/// Spins, if that makes sense, as long as a short piece of work of another takes.
pub(crate) fn spin_briefly<W>(parking: &impl Parking<W>, look: impl FnMut() -> bool) -> bool {
    parking.may_spin() && spin(8, 127, look)
}

/// How a process sleeps on words in shared memory.
///
/// Whoever sleeps is known to the arena, so that a death can wake everybody: the dead process may have been about to wake them, or may have
/// been woken instead of them.
pub trait Parking<W = AtomicU32> {
    /// Sleeps while `word` is `value`, until woken, at the latest at `deadline` or after [`BOUND`].
    fn sleep(&self, word: &W, value: u32, deadline: Deadline) -> Slept;

    /// Wakes at most `count` of those that sleep on `word`.
    fn wake(&self, word: &W, count: u32);

    /// Whether waiting may begin with [spinning](spin): somebody else may be running meanwhile.
    fn may_spin(&self) -> bool;

    /// Looks whether `owner` is dead, and if so, puts right what it held. Whether nothing of it is left.
    fn bury(&self, owner: Owner) -> bool;

    /// Somebody got on only because his sleep was bounded: nobody woke him. Counted, since without deaths it must not happen.
    fn note_rescue(&self);
}
