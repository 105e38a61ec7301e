//! Sleeping on a word in shared memory. See futex(2).
//!
//! Shared, never `FUTEX_PRIVATE`: the waker is another process.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex::{self, Flags};

/// How a [`wait`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The word had another value, somebody called [`wake`], or a signal came: look again.
    Perhaps,
    /// The time was over.
    TimedOut,
}

/// Sleeps while `word` is `value`, at most for `limit`. May return early for no reason.
pub fn wait(word: &AtomicU32, value: u32, limit: Duration) -> Woken {
    let limit = rustix::event::Timespec {
        tv_sec: limit.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    match futex::wait(word, Flags::empty(), value, Some(&limit)) {
        Err(rustix::io::Errno::TIMEDOUT) => {
            crate::interrupt::look();
            Woken::TimedOut
        }
        Err(rustix::io::Errno::INTR) => {
            crate::interrupt::interrupted();
            Woken::Perhaps
        }
        // A signal and a changed value both mean: look again.
        _ => Woken::Perhaps,
    }
}

/// Wakes at most `count` sleepers of `word`.
pub fn wake(word: &AtomicU32, count: u32) {
    let _ = futex::wake(word, Flags::empty(), count.min(i32::MAX as u32));
}
