//! Priorities, around any policy.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Among, Job, Policy};

/// How many policies without jobs are kept, for what they have learned.
const KEPT: usize = 64;

/// One policy for each priority: higher ones first.
///
/// What runs makes room at once for a higher priority if its own policy would ever stop it, that is, gives it a quantum. Asking for the
/// next takes as long as there are priorities among what waits: there should be few.
///
/// A low priority may wait for ever, if higher ones never cease to come.
pub struct Priorities {
    make: Box<dyn Fn() -> Box<dyn Policy> + Send>,
    policies: BTreeMap<Reverse<i32>, Box<dyn Policy>>,
    /// Answers for priorities that have no policy any more.
    blank: Box<dyn Policy>,
}

impl Priorities {
    /// With the policies that `make` gives.
    pub fn new(make: impl Fn() -> Box<dyn Policy> + Send + 'static) -> Self {
        Self { blank: make(), make: Box::new(make), policies: BTreeMap::new() }
    }

    fn of(&mut self, priority: i32) -> &mut dyn Policy {
        let key = Reverse(priority);
        if self.policies.len() >= KEPT && !self.policies.contains_key(&key) {
            self.policies.retain(|_, policy| !policy.is_empty());
        }
        self.policies.entry(key).or_insert_with(&self.make).as_mut()
    }
}

impl Policy for Priorities {
    fn add(&mut self, job: Job, now: Duration) {
        self.of(job.priority).add(job, now);
    }

    fn next(&mut self, among: Among, now: Duration) -> Option<Job> {
        let mut waiting = self.policies.values_mut().filter(|policy| !policy.is_empty());
        waiting.find_map(|policy| policy.next(among, now))
    }

    fn give_back(&mut self, job: Job, now: Duration) {
        self.of(job.priority).give_back(job, now);
    }

    fn quantum(&self, job: &Job, now: Duration) -> Option<Duration> {
        self.policies.get(&Reverse(job.priority)).unwrap_or(&self.blank).quantum(job, now)
    }

    /// The youngest of the lowest priority, if something of a higher one waits; else whom the highest one's policy says.
    fn displaces(&self, running: &mut dyn Iterator<Item = Job>, now: Duration) -> Option<u64> {
        let (Reverse(highest), policy) = self.policies.iter().find(|(_, policy)| !policy.is_empty())?;
        let mut equal = Vec::new();
        let mut lowest: Option<Job> = None;
        for job in running.filter(|job| job.priority <= *highest) {
            let rank = |job: &Job| (Reverse(job.priority), job.id);
            if job.priority == *highest {
                equal.push(job);
            } else if self.quantum(&job, now).is_some()
                && lowest.is_none_or(|lowest| rank(&job) > rank(&lowest))
            {
                lowest = Some(job);
            }
        }
        match lowest {
            Some(job) => Some(job.id),
            None => policy.displaces(&mut equal.into_iter(), now),
        }
    }

    fn ended(&mut self, job: &Job) {
        // What one learns of a function is good for all.
        self.of(job.priority).ended(job);
        let others = self.policies.iter_mut().filter(|(priority, _)| priority.0 != job.priority);
        others.for_each(|(_, policy)| policy.ended(job));
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        self.policies.values_mut().for_each(|policy| policy.retain(keep));
    }

    fn is_empty(&self) -> bool {
        self.policies.values().all(|policy| policy.is_empty())
    }
}

impl fmt::Debug for Priorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.policies.iter().map(|(priority, policy)| (priority.0, policy))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Fcfs, RoundRobin, Sjf};

    fn job(id: u64, priority: i32) -> Job {
        Job { priority, ..Job::new(id, 0, 1) }
    }

    #[test]
    fn only_tasks_that_may_be_stopped_make_room() {
        let running = [job(0, 1), job(1, -1), job(2, -1), job(3, 5)];
        let displaced = |mut policy: Priorities| {
            policy.add(job(4, 2), Duration::ZERO);
            policy.displaces(&mut running.iter().copied(), Duration::ZERO)
        };
        let quantum = Duration::from_millis(1);
        assert_eq!(displaced(Priorities::new(move || Box::new(RoundRobin::new(quantum).unwrap()))), Some(2));
        assert_eq!(displaced(Priorities::new(|| Box::<Fcfs>::default())), None);
    }

    #[test]
    fn there_may_be_any_number_of_priorities() {
        let mut policy = Priorities::new(|| Box::<Sjf>::default());
        for round in 0..3 {
            (0..500).for_each(|id| policy.add(job(id, (id as i32 * 7) % 500 - 250), Duration::ZERO));
            let mut priorities = Vec::new();
            while let Some(job) = policy.next(Among::All, Duration::ZERO) {
                policy.ended(&job);
                priorities.push(job.priority);
            }
            assert!(priorities.is_sorted_by(|a, b| a > b) && priorities.len() == 500, "round {round}");
            assert!(policy.is_empty());
        }
        policy.add(job(0, 9_999), Duration::ZERO);
        assert!(policy.policies.len() <= 2);
    }
}
