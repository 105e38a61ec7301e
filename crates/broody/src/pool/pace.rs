//! How long the tasks of a function take, and so how many of them make a frame.
//!
//! A frame costs the host and the worker some microseconds, whatever is in it. A frame of [`FRAME`] length makes that less than a
//! hundredth. The first frames hold one task each, since nothing is known; from then on a function's pace is known from what
//! workers report, the recent counting more, and a slowdown counting at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::function::FunctionId;

/// How long a frame shall take.
const FRAME: Duration = Duration::from_micros(400);

/// The most tasks in a frame.
const MOST: usize = 2048;

/// The paces of all functions that a pool has run, in nanoseconds a task.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<FunctionId, u64>);

impl Paces {
    /// A worker reports that `tasks` of `function` took so long together.
    pub(super) fn note(&mut self, function: FunctionId, tasks: u16, nanoseconds: u64) {
        let now = (nanoseconds / u64::from(tasks.max(1))).max(1);
        self.0
            .entry(function)
            .and_modify(|pace| *pace = if now > *pace { now } else { (*pace * 3 + now) / 4 })
            .or_insert(now);
    }

    /// How many tasks of `function` make a frame.
    pub(super) fn frame(&self, function: FunctionId) -> usize {
        self.frame_within(Some(function), FRAME)
    }

    /// How many tasks of `function` make a frame that takes no longer than `limit`.
    pub(super) fn frame_within(&self, function: Option<FunctionId>, limit: Duration) -> usize {
        let Some(pace) = function.and_then(|function| self.0.get(&function)) else { return 1 };
        (FRAME.min(limit).as_nanos() as u64 / pace).clamp(1, MOST as u64) as usize
    }

    /// Whether `tasks` of `function` are known to take no longer than `limit`.
    pub(super) fn fit(&self, function: FunctionId, tasks: usize, limit: Duration) -> bool {
        self.0.contains_key(&function) && self.expect(function, tasks) <= limit
    }

    /// How long `tasks` of `function` will take; nothing known is long.
    pub(super) fn expect(&self, function: FunctionId, tasks: usize) -> Duration {
        self.0.get(&function).map_or(FRAME, |pace| Duration::from_nanos(pace.saturating_mul(tasks as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: FunctionId = FunctionId::from_bytes([0; 8]);

    #[test]
    fn tiny_tasks_make_large_frames_and_long_ones_small_ones() {
        let mut paces = Paces::default();
        assert_eq!(paces.frame(F), 1);
        paces.note(F, 1, 4_000);
        assert_eq!(paces.frame(F), 100);
        (0..20).for_each(|_| paces.note(F, 100, 10_000));
        assert_eq!(paces.frame(F), MOST);
        paces.note(F, 10, 10_000_000);
        assert_eq!(paces.frame(F), 1);
    }
}
