//! Waiting without the GIL, so that Python's signal handlers run promptly.

use std::time::{Duration, Instant};

use broody_os::interrupt;
use pyo3::prelude::*;

/// How long one wait lasts at most: a signal that came just before its system call is seen then.
const SLICE: Duration = Duration::from_secs(1);

/// A limit as Python gives it: seconds, none for ever; what is negative is over.
pub(crate) fn limit(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
}

/// Calls `attempt` with a time for which it may wait, until it gives something or `limit` is over. Signal handlers run in between; what they raise
/// ends the wait.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    limit: Option<Duration>,
    mut attempt: impl FnMut(Duration) -> Option<T> + Send,
) -> PyResult<Option<T>> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let slice = left.map_or(SLICE, |left| left.min(SLICE));
        let (value, _) = py.detach(|| interrupt::watching(|| attempt(slice)));
        if value.is_some() {
            return Ok(value);
        }
        py.check_signals()?;
        if left.is_some_and(|left| left <= slice)
            && deadline.is_none_or(|deadline| deadline <= Instant::now())
        {
            return Ok(None);
        }
    }
}
