//! Whether to look for a while before going to sleep.
//!
//! To sleep and be woken costs more than a short message does. Where answers come at once, and there is a CPU for the other side to make them on,
//! a receiver looks again and again for some microseconds first. Each wait teaches whether that pays: as long as answers take longer, there is no
//! looking.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest look. More than a process needs to be woken and to answer.
const LONGEST: Duration = Duration::from_micros(20);

/// Nanoseconds for the next look.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU32);

/// One wait.
pub(super) struct Wait {
    begun: Instant,
    budget: Duration,
    spun: bool,
}

// Relaxed throughout: it is a guess.
impl Pace {
    pub(super) fn begin(&self) -> Wait {
        static CPUS: OnceLock<bool> = OnceLock::new();
        let pays = *CPUS.get_or_init(|| broody_os::limits::cpu_count() > 1);
        let budget = if pays { self.0.load(Ordering::Relaxed) } else { 0 };
        Wait { begun: Instant::now(), budget: Duration::from_nanos(budget.into()), spun: false }
    }

    /// The wait is over.
    pub(super) fn learn(&self, wait: Wait) {
        let next = if wait.begun.elapsed() <= LONGEST { LONGEST } else { wait.budget / 4 };
        let next = if next < Duration::from_micros(1) { Duration::ZERO } else { next };
        self.0.store(next.as_nanos() as u32, Ordering::Relaxed);
    }
}

impl Wait {
    /// Calls `attempt` until it gives something or the look is over; once a wait.
    pub(super) fn spin<T>(&mut self, attempt: &mut impl FnMut() -> Option<T>) -> Option<T> {
        if std::mem::replace(&mut self.spun, true) || self.budget.is_zero() {
            return None;
        }
        loop {
            if let Some(value) = attempt() {
                return Some(value);
            }
            if self.begun.elapsed() >= self.budget {
                return None;
            }
            std::hint::spin_loop();
        }
    }
}
