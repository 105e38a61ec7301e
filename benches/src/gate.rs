//! Processes that begin together, and when they do.

use std::time::Duration;

use broody::{Barrier, Child};
use serde::{Deserialize, Serialize};

use crate::bare;

/// How long one waits for the others: longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where processes begin together, and wait for each other in the end.
#[derive(Clone, Serialize, Deserialize)]
pub struct Gate {
    start: Barrier,
    end: Barrier,
}

/// When a process began and ended its part, on the machine's monotonic clock, in nanoseconds.
pub type Times = (u64, u64);

impl Gate {
    /// For so many processes.
    pub fn new(processes: usize) -> Self {
        let barrier = || Barrier::new(processes as u32).unwrap();
        Self { start: barrier(), end: barrier() }
    }

    /// Does this process's part, when all are here. Returns when all are done: what one has, the others can use so long.
    pub fn work(&self, part: impl FnOnce()) -> Times {
        self.start.wait(Some(PATIENCE)).unwrap();
        let start = now();
        part();
        let end = now();
        self.end.wait(Some(PATIENCE)).unwrap();
        (start, end)
    }
}

fn now() -> u64 {
    bare::clock(libc::CLOCK_MONOTONIC).as_nanos() as u64
}

/// The seconds from the first one's begin to the last one's end.
pub fn seconds(processes: Vec<Child<Times>>) -> f64 {
    let times: Vec<_> = processes.into_iter().map(|process| process.join().unwrap()).collect();
    let start = times.iter().map(|(start, _)| *start).min().unwrap();
    let end = times.iter().map(|(_, end)| *end).max().unwrap();
    (end - start) as f64 / 1e9
}
