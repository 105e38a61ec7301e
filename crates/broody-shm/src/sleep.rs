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

/// The longest sleep without another look.
pub const BOUND: Duration = Duration::from_secs(1);

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// The word, in shared memory. All zero bytes are a valid one: awake.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Sleeper(AtomicU32);

impl Sleeper {
    /// The sleeper's side: from now on wakers will wake. What is to be slept for must be looked at after this call.
    pub fn announce(&self) {
        // Relaxed: ordered before the look that follows by the fence.
        self.0.store(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper's side: it has found something to do after all, or has slept.
    pub fn cancel(&self) {
        // Relaxed: a waker that still sees the old value makes one wake too many.
        self.0.store(AWAKE, Ordering::Relaxed);
    }

    /// The sleeper's side: sleeps until a waker has come, at most for `limit` or [`BOUND`]. Call [`announce`](Self::announce)
    /// before, and look at the work between the two.
    pub fn sleep(&self, limit: Duration) {
        futex::wait(&self.0, ASLEEP, limit.min(BOUND));
        self.cancel();
    }

    /// The waker's side, after it has published: whether there is a sleeper, which this call then takes upon itself to wake.
    pub fn claim(&self) -> bool {
        fence(Ordering::SeqCst);
        // Relaxed: ordered after the publication by the fence. The load first keeps the line shared while nobody sleeps.
        self.0.load(Ordering::Relaxed) == ASLEEP && self.0.swap(AWAKE, Ordering::Relaxed) == ASLEEP
    }

    /// The waker's side, after it has published: wakes the sleeper, if there is one. Whether a system call was made.
    pub fn wake(&self) -> bool {
        let asleep = self.claim();
        if asleep {
            futex::wake(&self.0, 1);
        }
        asleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_announced_sleeper_is_woken_and_only_once() {
        let sleeper = Sleeper::default();
        assert!(!sleeper.wake());
        sleeper.announce();
        assert!(sleeper.wake());
        assert!(!sleeper.wake());
        sleeper.announce();
        sleeper.cancel();
        assert!(!sleeper.wake());
    }

    #[test]
    fn a_thousand_handovers_lose_no_wakeup() {
        use std::sync::atomic::AtomicU64;
        let (sleeper, work) = (Sleeper::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=1000 {
                    while work.load(Ordering::Acquire) != round {
                        sleeper.announce();
                        if work.load(Ordering::Acquire) == round {
                            sleeper.cancel();
                        } else {
                            sleeper.sleep(BOUND);
                        }
                    }
                    work.store(0, Ordering::Release);
                }
            });
            let start = std::time::Instant::now();
            for round in 1..=1000 {
                work.store(round, Ordering::Release);
                sleeper.wake();
                while work.load(Ordering::Acquire) != 0 {
                    std::thread::yield_now();
                }
            }
            // A lost wakeup costs BOUND each time.
            assert!(start.elapsed() < 100 * BOUND);
        });
    }
}
