//! Round robin.

use std::time::Duration;

use super::line::Line;
use super::{Among, Job, Policy, nanoseconds};
use crate::{Error, Result};

/// Round robin: a task runs for a quantum, and then goes to the end of the line.
///
/// A task that is displaced by one of a higher priority keeps its place and what is left of its quantum: however often that happens,
/// the others get their turn.
#[derive(Debug)]
pub struct RoundRobin {
    quantum: Duration,
    /// A job's note is how long it had run when its quantum began, in nanoseconds.
    line: Line,
}

impl RoundRobin {
    /// With turns of `quantum`.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for a quantum of zero.
    pub fn new(quantum: Duration) -> Result<Self> {
        if quantum.is_zero() {
            return Err(Error::Invalid { what: "a quantum is longer than zero; 20 ms are usual".to_owned() });
        }
        Ok(Self { quantum, line: Line::default() })
    }
}

impl Policy for RoundRobin {
    fn add(&mut self, job: Job, _now: Duration) {
        self.line.push_back(Job { note: nanoseconds(job.ran), ..job });
    }

    fn next(&mut self, among: Among, _now: Duration) -> Option<Job> {
        self.line.pop(among)
    }

    fn give_back(&mut self, job: Job, _now: Duration) {
        self.line.push_front(job);
    }

    fn quantum(&self, job: &Job, _now: Duration) -> Option<Duration> {
        let used = job.ran.saturating_sub(Duration::from_nanos(job.note));
        Some(left_of(self.quantum, used))
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        self.line.retain(keep);
    }

    fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

/// What is left of the last of the quanta that were `used`, one after the other while nobody waited.
pub(super) fn left_of(quantum: Duration, used: Duration) -> Duration {
    quantum - Duration::from_nanos_u128(used.as_nanos() % quantum.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantum_goes_on_after_a_displacement_and_begins_anew_after_its_end() {
        let ms = Duration::from_millis;
        let mut policy = RoundRobin::new(ms(10)).unwrap();
        policy.add(Job { begun: true, ran: ms(42), ..Job::new(0, 0, 1) }, ms(50));
        let job = policy.next(Among::Begun, ms(50)).unwrap();
        assert_eq!(policy.quantum(&job, ms(50)), Some(ms(10)));
        policy.give_back(Job { ran: ms(45), ..job }, ms(53));
        let job = policy.next(Among::Begun, ms(60)).unwrap();
        assert_eq!(policy.quantum(&job, ms(60)), Some(ms(7)));
    }

    #[test]
    fn a_quantum_of_zero_is_refused() {
        assert!(matches!(RoundRobin::new(Duration::ZERO), Err(Error::Invalid { .. })));
    }
}
