//! Something that has come, for threads of this process that wait for it.
//!
//! A condition variable that a [signal](broody_os::interrupt) may interrupt, and that costs nothing where nobody waits.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use broody_os::{futex, interrupt};

/// Without any reason to look who waits still does.
const BOUND: Duration = Duration::from_secs(1);

/// Says that there may be something new.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// How often it was sent.
    sent: AtomicU32,
    waiters: AtomicU32,
}

impl Signal {
    /// Calls `look` whenever there may be something new, until it gives something, at most until `deadline`.
    pub(super) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        // SeqCst, as in `send`: either who sends sees the waiter, or who waits sees what was done before it was sent.
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            let sent = self.sent.load(Ordering::SeqCst);
            if let Some(found) = look() {
                break Some(found);
            }
            let left = deadline.map_or(BOUND, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() || interrupt::is_raised() {
                break None;
            }
            futex::wait(&self.sent, sent, left.min(BOUND));
        };
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        found
    }

    /// Lets those who wait look.
    pub(super) fn send(&self) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            futex::wake(&self.sent, u32::MAX);
        }
    }
}
