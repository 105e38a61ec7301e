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
//! leaves a sleeper asleep: therefore every sleep is bounded ([`BOUND`]), and the sleeper looks again.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use broody_os::futex;

use crate::pace::Pace;
use crate::sync::place;

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
pub struct Doorbell {
    word: AtomicU32,
    /// Where the ringer was when it last rang.
    ringer: AtomicU32,
}

impl Doorbell {
    /// The waiting side: from now on the ringer is to use the descriptor. Work must be looked for after this call.
    pub fn listen(&self) {
        // Relaxed: ordered before the look that follows by the fence.
        self.word.store(LISTENING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The waiting side: a thread is going to [`sleep`](Self::sleep) here. Work must be looked for after this call.
    pub fn attend(&self) {
        // Relaxed: as in `listen`.
        self.word.store(ATTENDING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The waiting side: nobody waits any more.
    pub fn cancel(&self) {
        // Relaxed: a ringer that still sees the old value rings once too often.
        self.word.store(AWAKE, Ordering::Relaxed);
    }

    /// The waiting side: sleeps until the bell is rung, at most for `limit` or [`BOUND`]; with a `pace`, it may look for a while first. Call
    /// [`attend`](Self::attend) before, look for work between the two, and call [`cancel`](Self::cancel) after.
    pub fn sleep(&self, limit: Duration, pace: Option<&Pace>) {
        let pace = pace.filter(|_| self.ringer.load(Ordering::Relaxed) != place());
        let mut wait = pace.map(Pace::begin);
        // Relaxed here and below: what was published is looked for with the care that it needs.
        let was_rung = || (self.word.load(Ordering::Relaxed) != ATTENDING).then_some(());
        if wait.as_mut().and_then(|wait| wait.look(was_rung)).is_none()
            && self.word.compare_exchange(ATTENDING, ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            futex::wait(&self.word, ASLEEP, limit.min(BOUND));
        }
        if let (Some(pace), Some(wait)) = (pace, wait) {
            pace.learn(wait);
        }
    }

    /// Another thread of the waiting side: wakes the one that sleeps here, if there is one.
    pub fn rouse(&self) {
        for (waits, sleeps) in [(ATTENDING, false), (ASLEEP, true)] {
            // Relaxed: the thread looks at what it waits for under a lock.
            if self.word.compare_exchange(waits, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                if sleeps {
                    futex::wake(&self.word, 1);
                }
                return;
            }
        }
    }

    /// The ringing side, after it has published: wakes the thread that sleeps here. Whether the descriptor is to be used instead.
    pub fn ring(&self) -> bool {
        let here = place();
        // The loads first keep the line shared while nothing changes.
        if self.ringer.load(Ordering::Relaxed) != here {
            self.ringer.store(here, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        // Relaxed: ordered after the publication by the fence.
        if self.word.load(Ordering::Relaxed) == AWAKE {
            return false;
        }
        match self.word.swap(AWAKE, Ordering::Relaxed) {
            ASLEEP => {
                futex::wake(&self.word, 1);
                false
            }
            LISTENING => true,
            _ => false,
        }
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
