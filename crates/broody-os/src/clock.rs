//! The clock that all processes of a machine share. See clock_gettime(2).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since some moment before the machine's start, the same in every process. It never goes back, and no system call is made.
#[inline]
pub fn monotonic() -> Duration {
    read(ClockId::Monotonic)
}

/// How much CPU time this process has used, all its threads together.
pub fn process_cpu() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Neither is ever negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
