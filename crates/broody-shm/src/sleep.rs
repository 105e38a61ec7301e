//! One side sleeps until the other has something for it, and no system call is made when nobody sleeps.
//!
//! The sleeper announces itself in a word, looks once more for work, and sleeps on the word. The waker publishes its work, and
//! then looks at the word. Each side stores first and loads then; with a fence between the two, at least one of them sees the
//! other's store, so that either the sleeper finds the work or the waker finds the sleeper.
//!
//! ```text
//! AWAKE ── attend ──▶ ATTENDING ── sleep ──▶ ASLEEP          LISTENING: the descriptor is to be used
//!   ▲                     │ ring: nobody to wake │ ring: wake
//!   └─────────────────────┴──────────────────────┘
//! ```
//!
//! Between the two the sleeper may look at the word for a while, where it is likely to be rung soon. The waker writes down on which CPU it is: on the sleeper's own
//! it gets on only when the sleeper sleeps.
//!
//! A sleeper that dies leaves the word set: the next waker wakes nobody, once. A waker that dies between publishing and waking
//! leaves a sleeper asleep, by the word ASLEEP or, behind its last store, AWAKE: whoever sees the death [rouses](Doorbell::rouse) it. Where
//! nobody does, every sleep is bounded ([`BOUND`]), and the sleeper looks again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use broody_os::futex;

use crate::pace::Pace;
use crate::sync::{Word, place};

/// The longest sleep without another look.
pub const BOUND: Duration = Duration::from_secs(1);

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const LISTENING: u32 = 2;
const ATTENDING: u32 = 3;

/// The words, in shared memory. All zero bytes are valid ones: nobody waits.
///
/// One process waits, at most one thread of it at a time; the other process rings. Somebody who waits for many things at
/// once cannot sleep on a word: he [listens](Self::listen), and is told by a descriptor.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Doorbell<W = AtomicU32> {
    word: W,
    /// Where the ringer was when it last rang.
    ringer: W,
}

/// The protocol, without the kernel: `sleep` and `wake` get the word, as futex(2) does.
impl<W: Word> Doorbell<W> {
    /// The waiting side: from now on the ringer is to use the descriptor. Work must be looked for after this call.
    pub fn listen(&self) {
        // Relaxed: ordered before the look that follows by the fence.
        self.word.store(LISTENING, Ordering::Relaxed);
        W::fence();
    }

    /// The waiting side: a thread is going to [`sleep`](Doorbell::sleep) here. Work must be looked for after this call.
    pub fn attend(&self) {
        // Relaxed: as in `listen`.
        self.word.store(ATTENDING, Ordering::Relaxed);
        W::fence();
    }

    /// The waiting side: nobody waits any more.
    pub fn cancel(&self) {
        // Relaxed: a ringer that still sees the old value rings once too often.
        self.word.store(AWAKE, Ordering::Relaxed);
    }

    /// The waiting side, between `attend` and sleep: whether nobody has rung yet.
    pub(crate) fn is_attended(&self) -> bool {
        // Relaxed: what was published is looked for with the care that it needs.
        self.word.load(Ordering::Relaxed) == ATTENDING
    }

    /// Has `sleep` sleep while the word is the value that it gets, unless the bell was rung.
    pub(crate) fn sleep_with(&self, sleep: impl FnOnce(&W, u32)) {
        // Relaxed: as in `is_attended`.
        if self.word.compare_exchange(ATTENDING, ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            sleep(&self.word, ASLEEP);
        }
    }

    /// As [`rouse`](Doorbell::rouse).
    pub(crate) fn rouse_with(&self, wake: impl FnOnce(&W)) {
        // Relaxed: the thread looks at what it waits for under a lock.
        let rouse =
            |waits| self.word.compare_exchange(waits, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !rouse(ATTENDING) {
            rouse(ASLEEP);
            // Also who is AWAKE by the word alone: he sleeps on if the ringer has died before it woke him.
            wake(&self.word);
        }
    }

    /// As [`ring`](Doorbell::ring), on the CPU `here`.
    pub(crate) fn ring_with(&self, here: u32, wake: impl FnOnce(&W)) -> bool {
        // The loads first keep the line shared while nothing changes.
        if self.ringer.load(Ordering::Relaxed) != here {
            self.ringer.store(here, Ordering::Relaxed);
        }
        W::fence();
        // Relaxed: ordered after the publication by the fence.
        if self.word.load(Ordering::Relaxed) == AWAKE {
            return false;
        }
        match self.word.swap(AWAKE, Ordering::Relaxed) {
            ASLEEP => {
                wake(&self.word);
                false
            }
            LISTENING => true,
            _ => false,
        }
    }
}

impl Doorbell {
    /// The waiting side: sleeps until the bell is rung, at most for `limit` or [`BOUND`]; with a `pace`, it may look for a while first. Call
    /// [`attend`](Self::attend) before, look for work between the two, and call [`cancel`](Self::cancel) after.
    pub fn sleep(&self, limit: Duration, pace: Option<&Pace>) {
        let pace = pace.filter(|_| self.ringer.load(Ordering::Relaxed) != place());
        let mut wait = pace.map(Pace::begin);
        let was_rung = || (!self.is_attended()).then_some(());
        if wait.as_mut().and_then(|wait| wait.look(was_rung)).is_none() {
            self.sleep_with(|word, value| _ = futex::wait(word, value, limit.min(BOUND)));
        }
        if let (Some(pace), Some(wait)) = (pace, wait) {
            pace.learn(wait);
        }
    }

    /// Another thread of the waiting side: wakes the one that sleeps here, if there is one. Both hold a lock: this one now, and that one from before
    /// it [attended](Self::attend) until it had looked for work.
    pub fn rouse(&self) {
        self.rouse_with(|word| futex::wake(word, 1));
    }

    /// The ringing side, after it has published: wakes the thread that sleeps here. Whether the descriptor is to be used instead.
    pub fn ring(&self) -> bool {
        self.ring_with(place(), |word| futex::wake(word, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_rung_once_for_whoever_waits() {
        let bell = Doorbell::default();
        assert!(!bell.ring());
        bell.listen();
        assert!(bell.ring());
        assert!(!bell.ring());
        let pace = Pace::default();
        for pace in [None, Some(&pace)] {
            bell.attend();
            assert!(!bell.ring(), "a thread that sleeps here needs no descriptor");
            // It was woken before it slept: it does not.
            bell.sleep(100 * BOUND, pace);
            bell.attend();
            bell.rouse();
            bell.sleep(100 * BOUND, pace);
        }
    }

    #[test]
    fn a_thousand_handovers_lose_no_wakeup() {
        use std::sync::atomic::AtomicU64;
        let (bell, work) = (Doorbell::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pace = Pace::default();
                for round in 1..=1000 {
                    while work.load(Ordering::Acquire) != round {
                        bell.attend();
                        if work.load(Ordering::Acquire) != round {
                            bell.sleep(BOUND, (round % 2 == 0).then_some(&pace));
                        }
                        bell.cancel();
                    }
                    work.store(0, Ordering::Release);
                }
            });
            let start = std::time::Instant::now();
            for round in 1..=1000 {
                work.store(round, Ordering::Release);
                bell.ring();
                while work.load(Ordering::Acquire) != 0 {
                    std::thread::yield_now();
                }
            }
            // A lost wakeup costs BOUND each time.
            assert!(start.elapsed() < 100 * BOUND);
        });
    }
}
