//! A bound on the tasks that wait: who hands in more waits, or is refused.

use std::time::{Duration, Instant};

/// What happens to who hands in a task while as many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// He waits until there is room.
    #[default]
    Wait,
    /// He gets [`PoolFull`](crate::Error::PoolFull).
    Fail,
    /// He waits, and gets [`PoolFull`](crate::Error::PoolFull) after so long.
    WaitFor(Duration),
}

/// How many may wait, and what then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) most: usize,
    pub(super) when_full: WhenFull,
}

impl Bound {
    /// Until when to wait for room, from now; `None` for as long as it takes.
    pub(super) fn patience(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.when_full {
            WhenFull::Wait => None,
            WhenFull::Fail => Some(now),
            // Too far away for the clock is for ever.
            WhenFull::WaitFor(limit) => now.checked_add(limit),
        }
    }
}
