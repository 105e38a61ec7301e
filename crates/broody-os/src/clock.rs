//! The clock that all processes of a machine share. See clock_gettime(2).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since some moment before the machine's start, the same in every process. It never goes back, and no system call is made.
#[inline]
pub fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
