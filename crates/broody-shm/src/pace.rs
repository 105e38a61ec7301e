//! Whether to look for a while before going to sleep.
//!
//! To sleep and be woken costs more than a short message does. Where answers come soon, and there is a CPU for the other side to make them on, who waits
//! looks again and again first, for as long as it takes to be woken and to answer. Where that was in vain, the other side had perhaps to wait for this very CPU: then it
//! sleeps at once, and tries to look only after a number of short sleeps, more of them each time.
//!
//! Who waits long each time never looks: only sleeps that a look might have saved are counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest look, and what a short sleep is. More than it takes to wake a process on another CPU of a virtual machine (some 40 us) and have its answer: with
/// less, two that answer each other never find each other awake.
const LONGEST: Duration = Duration::from_micros(100);

/// After how many short sleeps the first look is tried, and after how many at most.
const FIRST: u32 = 4;
const LAST: u32 = 1 << 10;

/// The most pauses of the CPU between two attempts: no further apart than it takes a word to come from another CPU.
const MOST_PAUSES: u32 = 64;

/// What was learnt.
#[derive(Debug)]
pub struct Pace {
    longest: Duration,
    /// How many short sleeps are left until a look is tried.
    left: AtomicU32,
    /// How many there are after the next look that is in vain.
    next: AtomicU32,
}

/// One wait.
#[derive(Debug)]
pub struct Wait {
    begun: Instant,
    longest: Duration,
    looks: bool,
    looked: bool,
    found: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(LONGEST)
    }
}

// Relaxed throughout: it is a guess.
impl Pace {
    /// Looks take so long at most, and a sleep of that length is short.
    pub fn new(longest: Duration) -> Self {
        Self { longest, left: AtomicU32::new(FIRST), next: AtomicU32::new(FIRST) }
    }

    /// As [`new`](Self::new), and the first wait begins with a look.
    pub fn hopeful(longest: Duration) -> Self {
        Self { left: AtomicU32::new(0), ..Self::new(longest) }
    }

    /// A wait begins.
    pub fn begin(&self) -> Wait {
        let looks = self.left.load(Ordering::Relaxed) == 0;
        Wait { begun: Instant::now(), longest: self.longest, looks, looked: false, found: false }
    }

    /// The wait is over.
    pub fn learn(&self, wait: Wait) {
        if wait.found {
            self.next.store(FIRST, Ordering::Relaxed);
        } else if wait.looked {
            let next = self.next.load(Ordering::Relaxed);
            self.left.store(next, Ordering::Relaxed);
            self.next.store((next * 4).min(LAST), Ordering::Relaxed);
        } else if wait.begun.elapsed() <= self.longest && may_look() {
            self.left.store(self.left.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        }
    }
}

/// Whether there may be a CPU for the other side.
fn may_look() -> bool {
    static MORE_THAN_ONE: OnceLock<bool> = OnceLock::new();
    *MORE_THAN_ONE.get_or_init(|| broody_os::limits::cpu_count() > 1)
}

impl Wait {
    /// Whether it begins with a look.
    pub fn looks(&self) -> bool {
        self.looks
    }

    /// Calls `attempt` until it gives something or the look is over; once a wait, and only where that pays.
    pub fn look<T>(&mut self, attempt: impl FnMut() -> Option<T>) -> Option<T> {
        let mut pauses = 4;
        let pause = || {
            (0..pauses).for_each(|_| std::hint::spin_loop());
            pauses = (2 * pauses).min(MOST_PAUSES);
        };
        self.look_with(pause, attempt)
    }

    /// As [`look`](Self::look), where the other side was on this very CPU: it is let run in between. Either goes on with it so, at less than the price of a
    /// sleep, until one of them is moved to another CPU.
    pub fn look_by_turns<T>(&mut self, attempt: impl FnMut() -> Option<T>) -> Option<T> {
        self.look_with(std::thread::yield_now, attempt)
    }

    fn look_with<T>(&mut self, mut pause: impl FnMut(), mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        if !std::mem::take(&mut self.looks) {
            return None;
        }
        self.looked = true;
        // What is there at once needs no clock.
        let first = attempt();
        self.found = first.is_some();
        if first.is_some() {
            return first;
        }
        loop {
            pause();
            let value = attempt();
            let is_over = self.begun.elapsed() >= self.longest;
            // After so long it was others who had the CPU meanwhile.
            self.found = value.is_some() && !is_over;
            if value.is_some() || is_over {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(pace: &Pace, found: bool, slept: Duration) -> bool {
        let mut wait = pace.begin();
        let looked = wait.looks;
        wait.look(|| found.then_some(()));
        wait.begun = Instant::now().checked_sub(slept).unwrap();
        pace.learn(wait);
        looked
    }

    #[test]
    fn short_sleeps_lead_to_a_look_and_looks_in_vain_to_fewer() {
        let (pace, short) = (Pace::default(), Duration::ZERO);
        let sleeps = |found| (0..).take_while(|_| !wait(&pace, found, short)).count() as u32;
        if !may_look() {
            return;
        }
        assert_eq!(sleeps(true), FIRST);
        assert_eq!(sleeps(true), 0, "what pays goes on");
        assert_eq!(sleeps(false), 0);
        assert_eq!(sleeps(false), FIRST);
        assert_eq!(sleeps(true), 4 * FIRST);
        assert_eq!(sleeps(false), 0);
        assert_eq!(sleeps(true), FIRST, "one that pays makes up for those before");
    }

    #[test]
    fn who_always_waits_long_never_looks() {
        let pace = Pace::default();
        assert!((0..1000).all(|_| !wait(&pace, false, 2 * LONGEST)));
    }
}
