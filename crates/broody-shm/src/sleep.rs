//! One side sleeps until the other has something for it, and no system call is made when nobody sleeps.
//!
//! The sleeper announces itself in a word, looks once more for work, and sleeps on the word. The waker publishes its work, and
//! then looks at the word. Each side stores first and loads then; with a fence between the two, at least one of them sees the
//! other's store, so that either the sleeper finds the work or the waker finds the sleeper.
//!
//! A sleeper that dies leaves the word set: the next waker wakes nobody, once. A waker that dies between publishing and waking
//! leaves a sleeper asleep: therefore every sleep is bounded ([`BOUND`]), and the sleeper looks again.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use broody_os::futex;

use crate::sync::spin;

/// The longest sleep without another look.
pub const BOUND: Duration = Duration::from_secs(1);

/// How many pauses a watch lasts.
const PATIENCE: u32 = 2048;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// The word, in shared memory. All zero bytes are a valid one: nobody waits.
///
/// One process waits, at most one thread of it on the word at a time; the other process rings. Somebody who waits for many things at
/// once cannot sleep on a word: he [listens](Self::listen), and is told by a descriptor.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Doorbell(AtomicU32);

const LISTENING: u32 = 2;

impl Doorbell {
    /// The waiting side: from now on the ringer is to use the descriptor. Work must be looked for after this call.
    pub fn listen(&self) {
        // Relaxed: ordered before the look that follows by the fence.
        self.0.store(LISTENING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The waiting side: a thread is going to [`sleep`](Self::sleep) here. Work must be looked for after this call.
    pub fn announce(&self) {
        // Relaxed: as in `listen`.
        self.0.store(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The waiting side: nobody waits any more.
    pub fn cancel(&self) {
        // Relaxed: a ringer that still sees the old value rings once too often.
        self.0.store(AWAKE, Ordering::Relaxed);
    }

    /// The waiting side: sleeps until the bell is rung, at most for `limit` or [`BOUND`]. Call [`announce`](Self::announce) before, look
    /// for work between the two, and call [`cancel`](Self::cancel) after.
    pub fn sleep(&self, limit: Duration) {
        futex::wait(&self.0, ASLEEP, limit.min(BOUND));
    }

    /// As [`sleep`](Self::sleep), but looks first whether the bell is rung, for about as long as it takes to wake an idle CPU of a virtual machine (some
    /// 40 us). For who waits for something short that another CPU is at.
    pub fn watch(&self, limit: Duration) {
        // Relaxed: what was published before the ring is looked for with an ordering of its own.
        if !spin(64, PATIENCE, || self.0.load(Ordering::Relaxed) != ASLEEP) {
            self.sleep(limit);
        }
    }

    /// Another thread of the waiting side: wakes the one that sleeps here, if there is one.
    pub fn rouse(&self) {
        // Relaxed: the thread looks at what it waits for under a lock.
        if self.0.compare_exchange(ASLEEP, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            futex::wake(&self.0, 1);
        }
    }

    /// The ringing side, after it has published: wakes the thread that sleeps here. Whether the descriptor is to be used instead.
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // Relaxed: ordered after the publication by the fence. The load first keeps the line shared while nobody waits.
        if self.0.load(Ordering::Relaxed) == AWAKE {
            return false;
        }
        match self.0.swap(AWAKE, Ordering::Relaxed) {
            ASLEEP => {
                futex::wake(&self.0, 1);
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
        bell.announce();
        assert!(!bell.ring(), "a thread that sleeps here needs no descriptor");
        // It was woken before it slept: it does not.
        bell.sleep(100 * BOUND);
        bell.announce();
        bell.rouse();
        bell.sleep(100 * BOUND);
    }

    #[test]
    fn a_thousand_handovers_lose_no_wakeup() {
        use std::sync::atomic::AtomicU64;
        let (bell, work) = (Doorbell::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=1000 {
                    while work.load(Ordering::Acquire) != round {
                        bell.announce();
                        if work.load(Ordering::Acquire) != round {
                            bell.sleep(BOUND);
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
