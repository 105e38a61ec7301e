//! Shortest job first.
//!
//! What a task will take is the caller's cost, or else what tasks of its function took so far: an average in which the latest counts for
//! a quarter. A function of which nothing is known comes first, since its first task tells.
//!
//! Costs need not be seconds, as long as all costs of a pool are in one unit. What that unit is in seconds is learned from tasks that had
//! a cost and have ended, and is 1 until then; it matters only where a cost meets an average. Since it is one factor for all, it
//! cannot change the order among costs, so that nothing has to be sorted again when it changes. When an average changes, its function
//! moves as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Among, Job, Policy, insert};

/// How much the latest counts in an average.
const LATEST: f64 = 0.25;

/// Shortest job first: by the caller's cost, or by what tasks of the function took so far; each task to its end.
///
/// A long task may wait for ever, if shorter ones never cease to come.
#[derive(Debug, Default)]
pub struct Sjf {
    functions: BTreeMap<u64, Function>,
    /// The functions of which tasks wait.
    order: BTreeSet<Rank>,
    /// Jobs with a cost: by its bits, which are in order for numbers from zero up, and by their ids.
    costs: BTreeMap<(u64, u64), Job>,
    /// None of its own, but a policy around it may pause tasks. They were the shortest when they began, and now are shorter.
    begun: BTreeMap<u64, Job>,
    unit: Unit,
}

/// What is known of a function, and its jobs without a cost.
#[derive(Debug, Default)]
struct Function {
    seconds: Option<f64>,
    jobs: BTreeMap<u64, Job>,
}

/// How long a function's tasks take (in the bits of its seconds, 0 if that is not known), the id of its first job, and which function.
type Rank = (u64, u64, u64);

impl Function {
    fn rank(&self, function: u64) -> Option<Rank> {
        let (first, _) = self.jobs.first_key_value()?;
        Some((self.seconds.unwrap_or(0.0).to_bits(), *first, function))
    }
}

/// Averages of tasks that had a cost.
#[derive(Debug, Default)]
struct Unit {
    seconds: Option<f64>,
    cost: Option<f64>,
}

impl Unit {
    fn in_seconds(&self, cost: f64) -> f64 {
        match (self.seconds, self.cost) {
            (Some(seconds), Some(average)) if average > 0.0 => cost * (seconds / average),
            _ => cost,
        }
    }
}

fn learn(average: &mut Option<f64>, latest: f64) {
    *average = Some(average.map_or(latest, |average| average + LATEST * (latest - average)));
}

/// A cost that is a number, and not below zero.
fn cost_of(job: &Job) -> Option<f64> {
    // Adding zero makes a negative zero positive.
    job.cost.filter(|cost| *cost >= 0.0 && cost.is_finite()).map(|cost| cost + 0.0)
}

impl Sjf {
    /// Changes what there is of a function, and where it stands among the others.
    fn change<R>(&mut self, function: u64, change: impl FnOnce(&mut Function) -> R) -> R {
        let entry = self.functions.entry(function).or_default();
        if let Some(rank) = entry.rank(function) {
            self.order.remove(&rank);
        }
        let result = change(entry);
        self.order.extend(entry.rank(function));
        result
    }

    /// The function whose next task is shorter than the one of the lowest cost.
    fn shorter_than_costs(&self) -> Option<u64> {
        let (seconds, first, function) = *self.order.first()?;
        let (seconds, unknown) = (f64::from_bits(seconds), seconds == 0);
        let shorter = self.costs.first_key_value().is_none_or(|((cost, id), _)| {
            let cost = self.unit.in_seconds(f64::from_bits(*cost));
            unknown || seconds < cost || (seconds == cost && first < *id)
        });
        shorter.then_some(function)
    }
}

impl Policy for Sjf {
    fn add(&mut self, job: Job, _now: Duration) {
        if job.begun {
            self.begun.insert(job.id, job);
        } else if let Some(cost) = cost_of(&job) {
            insert(&mut self.costs, (cost.to_bits(), job.id), job);
        } else {
            self.change(job.function, |function| insert(&mut function.jobs, job.id, job));
        }
    }

    fn next(&mut self, among: Among, _now: Duration) -> Option<Job> {
        if among == Among::Begun || !self.begun.is_empty() {
            return Some(self.begun.pop_first()?.1);
        }
        match self.shorter_than_costs() {
            Some(function) => Some(self.change(function, |function| function.jobs.pop_first())?.1),
            None => Some(self.costs.pop_first()?.1),
        }
    }

    fn give_back(&mut self, job: Job, now: Duration) {
        self.add(job, now);
    }

    fn ended(&mut self, job: &Job) {
        let seconds = job.ran.as_secs_f64();
        if let Some(cost) = cost_of(job) {
            learn(&mut self.unit.seconds, seconds);
            learn(&mut self.unit.cost, cost);
        }
        // Above zero, which says that nothing is known.
        self.change(job.function, |function| learn(&mut function.seconds, seconds.max(1e-9)));
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
        let mut keep = |job: &mut Job| keep(job) && job.tasks > 0;
        self.costs.retain(|_, job| keep(job));
        self.begun.retain(|_, job| keep(job));
        self.order.clear();
        for (number, function) in &mut self.functions {
            function.jobs.retain(|_, job| keep(job));
            self.order.extend(function.rank(*number));
        }
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty() && self.costs.is_empty() && self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(policy: &mut Sjf, function: u64, cost: Option<f64>, seconds: u64) {
        policy.ended(&Job { cost, ran: Duration::from_secs(seconds), ..Job::new(0, function, 1) });
    }

    fn order(policy: &mut Sjf) -> Vec<u64> {
        std::iter::from_fn(|| policy.next(Among::All, Duration::ZERO)).map(|job| job.id).collect()
    }

    #[test]
    fn what_is_learned_moves_jobs_that_wait_already() {
        let mut policy = Sjf::default();
        ended(&mut policy, 1, None, 10);
        ended(&mut policy, 2, None, 20);
        for (id, function) in [(0, 2), (1, 1), (2, 2), (3, 1)] {
            policy.add(Job::new(id, function, 1), Duration::ZERO);
        }
        assert_eq!(policy.next(Among::All, Duration::ZERO).map(|job| job.id), Some(1));
        // 10 s and three quarters of what is more: 40 s.
        ended(&mut policy, 1, None, 130);
        policy.add(Job::new(4, 3, 1), Duration::ZERO);
        assert_eq!(order(&mut policy), [4, 0, 2, 3]);
    }

    #[test]
    fn the_unit_of_costs_is_learned() {
        let mut policy = Sjf::default();
        let costly = |id, cost| Job { cost: Some(cost), ..Job::new(id, 9, 1) };
        let fill = |policy: &mut Sjf| {
            policy.add(costly(0, 5.0), Duration::ZERO);
            policy.add(costly(1, 2.0), Duration::ZERO);
            policy.add(Job::new(2, 1, 1), Duration::ZERO);
        };
        ended(&mut policy, 1, None, 10);
        fill(&mut policy);
        assert_eq!(order(&mut policy), [1, 0, 2], "seconds, as long as nothing else is known");
        ended(&mut policy, 9, Some(2.0), 8);
        fill(&mut policy);
        assert_eq!(order(&mut policy), [1, 2, 0], "4 s each: 8 s, 10 s, 20 s");
    }

    #[test]
    fn a_cost_that_is_no_cost_counts_as_none() {
        let mut policy = Sjf::default();
        ended(&mut policy, 0, None, 1);
        for (id, cost) in [(0, f64::NAN), (1, -1.0), (2, f64::INFINITY), (3, -0.0)] {
            policy.add(Job { cost: Some(cost), ..Job::new(id, 0, 1) }, Duration::ZERO);
        }
        assert_eq!(order(&mut policy), [3, 0, 1, 2]);
        assert!(policy.is_empty());
    }

    #[test]
    fn functions_that_are_forgotten_are_in_nobodys_way() {
        let mut policy = Sjf::default();
        (0..4).for_each(|id| policy.add(Job::new(id, id % 2, 1), Duration::ZERO));
        policy.retain(&mut |job| job.function == 1);
        assert_eq!(order(&mut policy), [1, 3]);
        assert!(policy.is_empty());
    }
}
