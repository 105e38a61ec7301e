//! Looking at the task that a worker runs: whether it takes too long, or too much memory.
//!
//! A worker says when it begins a task, where it was asked to ([`Begun`]). The pool's thread looks when the first limit may be over. What it
//! finds is a *verdict*: the worker is given nothing more, what it has not begun is taken back, and only if it is then still at that very
//! task, it is ended. So nobody else's task is lost with it.

use std::time::Duration;

use broody_os::proc;
use broody_shm::duplex::Begun;

use super::options::Terms;

/// How often the memory of a task is looked at that has a limit.
pub(super) const MEMORY_LOOK: Duration = Duration::from_millis(10);

/// Why a task is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    TooLong { limit: Duration },
    TooLarge { limit: u64, grown: u64 },
    Cancelled,
}

/// A task that a worker has: the number of its frame, and its own in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtHand {
    pub(super) frame: u32,
    pub(super) index: usize,
}

/// What came out of a look.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// The task that was looked at.
    pub(super) task: Option<AtHand>,
    pub(super) verdict: Option<Verdict>,
    /// The soft limit is over.
    pub(super) is_late: bool,
    /// When to look again, at the latest.
    pub(super) again: Option<Duration>,
}

/// Looks at the task at hand, if it has begun, at the time `now`.
pub(super) fn look(terms: &Terms, begun: Option<Begun>, pid: broody_os::Pid, now: Duration) -> Finding {
    let mut finding = Finding::default();
    let ran = begun.map_or(Duration::ZERO, |begun| now.saturating_sub(begun.since));
    let mut next = |at: Duration| finding.again = Some(finding.again.map_or(at, |other| other.min(at)));
    // A limit that is over is not looked at again.
    for limit in [terms.timeout, terms.soft_timeout].into_iter().flatten().filter(|limit| *limit > ran) {
        next(now.saturating_add(limit - ran));
    }
    if terms.memory_limit.is_some() {
        next(now + MEMORY_LOOK);
    }
    let Some(begun) = begun else { return finding };
    finding.is_late = terms.soft_timeout.is_some_and(|limit| limit <= ran);
    finding.verdict = match (terms.timeout, terms.memory_limit) {
        (Some(limit), _) if limit <= ran => Some(Verdict::TooLong { limit }),
        (_, Some(limit)) => {
            let grown = proc::resident(pid).unwrap_or(0).saturating_sub(begun.resident);
            (grown > limit).then_some(Verdict::TooLarge { limit, grown })
        }
        _ => None,
    };
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_over_when_they_are_over_and_not_before() {
        let second = Duration::from_secs(1);
        let terms = Terms { timeout: Some(2 * second), soft_timeout: Some(second), ..Terms::default() };
        let begun = Some(Begun { frame: 0, index: 0, since: 10 * second, resident: 0 });
        let at = |now| look(&terms, begun, 1, now);
        assert_eq!(look(&terms, None, 1, 30 * second).again, Some(31 * second), "it has not begun");
        let early = at(10 * second);
        assert_eq!((early.verdict, early.is_late, early.again), (None, false, Some(11 * second)));
        let late = at(11 * second);
        assert_eq!((late.verdict, late.is_late, late.again), (None, true, Some(12 * second)));
        let over = at(12 * second);
        assert_eq!((over.verdict, over.again), (Some(Verdict::TooLong { limit: 2 * second }), None));
    }

    #[test]
    fn growth_counts_and_not_size() {
        let terms = Terms { memory_limit: Some(1 << 20), ..Terms::default() };
        let me = std::process::id() as i32;
        let resident = proc::resident(me).unwrap();
        let begun = |resident| Some(Begun { frame: 0, index: 0, since: Duration::ZERO, resident });
        assert_eq!(look(&terms, begun(resident + (64 << 20)), me, Duration::ZERO).verdict, None);
        assert!(matches!(
            look(&terms, begun(0), me, Duration::ZERO).verdict,
            Some(Verdict::TooLarge { limit: 1_048_576, .. })
        ));
    }
}
