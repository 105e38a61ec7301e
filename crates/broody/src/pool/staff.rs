//! How many workers there are to be, and how long one is kept.

use std::collections::VecDeque;
use std::time::Duration;

/// What holds for a pool's workers.
#[derive(Debug, Clone)]
pub(super) struct Staff {
    pub(super) least: usize,
    pub(super) most: usize,
    /// How many more there may be while others are paused.
    pub(super) spares: usize,
    /// How long a worker has nothing to do before it is one too many.
    pub(super) idle: Duration,
    /// After so many tasks a worker is replaced.
    pub(super) tasks: Option<u64>,
    /// Beyond so many bytes of resident memory, too.
    pub(super) memory: Option<u64>,
    /// So many deaths in so long a time are too many.
    pub(super) deaths: Option<(u32, Duration)>,
    /// How long a worker may take to get ready.
    pub(super) patience: Duration,
}

impl Staff {
    /// How many workers there should be for so many tasks that have no answer, while `paused` of them are stopped.
    ///
    /// Of the spare ones there is always one ahead, so that nobody waits for its start; who pauses nobody needs no more.
    pub(super) fn wanted(&self, tasks: usize, paused: usize) -> usize {
        let ahead = paused.saturating_add(1).min(self.spares);
        tasks.clamp(self.least, self.most + ahead)
    }
}

/// When workers died lately.
#[derive(Debug, Default)]
pub(super) struct Deaths(VecDeque<Duration>);

impl Deaths {
    /// One died at the time `now`. Whether these are too many.
    pub(super) fn note(&mut self, limit: Option<(u32, Duration)>, now: Duration) -> bool {
        let Some((most, period)) = limit else { return false };
        self.0.push_back(now);
        while self.0.front().is_some_and(|death| death.saturating_add(period) < now) {
            self.0.pop_front();
        }
        self.0.len() > most as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deaths_within_the_period_count() {
        let mut deaths = Deaths::default();
        let second = Duration::from_secs(1);
        let limit = Some((2, 10 * second));
        assert!(!deaths.note(limit, second));
        assert!(!deaths.note(limit, 2 * second));
        assert!(!deaths.note(limit, 12 * second), "the first one was long ago");
        assert!(deaths.note(limit, 12 * second));
        assert!(!Deaths::default().note(None, second));
    }
}
