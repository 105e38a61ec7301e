//! First come, first served.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Among, Job, Policy, insert};

/// First come, first served: in the order of arrival, each task to its end.
///
/// A task that comes back, since its worker died, has the place that it had.
#[derive(Debug, Default)]
pub struct Fcfs {
    fresh: BTreeMap<u64, Job>,
    /// None of its own, but a policy around it may pause tasks.
    begun: BTreeMap<u64, Job>,
}

impl Policy for Fcfs {
    fn add(&mut self, job: Job, _now: Duration) {
        insert(if job.begun { &mut self.begun } else { &mut self.fresh }, job.id, job);
    }

    fn next(&mut self, among: Among, _now: Duration) -> Option<Job> {
        let fresh = self.fresh.first_key_value().filter(|_| among == Among::All).map(|(id, _)| *id);
        let begun = self.begun.first_key_value().map(|(id, _)| *id);
        let line = match (fresh, begun) {
            (Some(fresh), Some(begun)) if fresh < begun => &mut self.fresh,
            (Some(_), None) => &mut self.fresh,
            _ => &mut self.begun,
        };
        Some(line.pop_first()?.1)
    }

    fn give_back(&mut self, job: Job, now: Duration) {
        self.add(job, now);
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        for line in [&mut self.fresh, &mut self.begun] {
            line.retain(|_, job| keep(job) && job.tasks > 0);
        }
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_has_its_old_place() {
        let mut fcfs = Fcfs::default();
        for (id, tasks) in [(3, 2), (5, 1), (0, 3)] {
            // Of different functions: equal ones would be joined.
            fcfs.add(Job::new(id, id, tasks), Duration::ZERO);
        }
        let first = fcfs.next(Among::All, Duration::ZERO).unwrap();
        assert_eq!((first.id, first.tasks), (0, 3));
        fcfs.give_back(first.take_first().1.unwrap(), Duration::ZERO);
        let mut next = || fcfs.next(Among::All, Duration::ZERO).map(|job| job.id);
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(3), Some(5), None]);
    }

    #[test]
    fn jobs_can_be_forgotten_or_made_smaller() {
        let mut fcfs = Fcfs::default();
        for (id, function, tasks) in [(0, 7, 2), (2, 8, 4), (6, 9, 1)] {
            fcfs.add(Job::new(id, function, tasks), Duration::ZERO);
        }
        fcfs.retain(&mut |job| {
            job.tasks /= 2;
            job.function != 7
        });
        let left = fcfs.next(Among::All, Duration::ZERO).unwrap();
        assert_eq!((left.id, left.tasks), (2, 2));
        assert!(fcfs.is_empty());
    }
}
