//! The tasks that wait, in the order of a policy.
//!
//! The policy knows [`Job`]s by the number of their first task; the tasks themselves are here, under the same number. Tasks are cut off a job from
//! the front: the rest is a job with the number of its own first task. A policy may have [joined](Job::join) jobs: one job is then
//! several runs.

use std::time::Duration;

use super::batch::Run;
use super::held::Held;
use super::policy::floor::Floor;
use super::policy::{Among, Job, Policy};
use crate::function::FunctionId;

/// What waits.
pub(super) struct Waiting {
    policy: Box<dyn Policy>,
    runs: Held,
    tasks: usize,
}

impl Waiting {
    pub(super) fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy, runs: Held::default(), tasks: 0 }
    }

    /// How many tasks wait.
    pub(super) fn len(&self) -> usize {
        self.tasks
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    fn keep(&mut self, run: Run) -> Job {
        let job = job_of(&run);
        self.tasks += run.len();
        self.runs.insert(run);
        job
    }

    fn remove(&mut self, id: u64) -> Option<Run> {
        let run = self.runs.remove(id)?;
        self.tasks -= run.len();
        Some(run)
    }

    /// These are new, or to be tried again.
    pub(super) fn add(&mut self, run: Run, now: Duration) {
        let job = self.keep(run);
        self.policy.add(job, now);
    }

    /// As [`add`](Self::add), for a pool that takes turns.
    pub(super) fn add_by(&mut self, floor: &mut Floor, run: Run, now: Duration) {
        let job = self.keep(run);
        floor.add(self.policy.as_mut(), job, now);
    }

    /// These were given out and not begun: it is their turn again.
    pub(super) fn put_back(&mut self, run: Run, now: Duration) {
        if run.len() > 0 {
            let job = self.keep(run);
            self.policy.give_back(job, now);
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, now: Duration) -> Option<Run> {
        loop {
            let job = self.policy.next(Among::All, now)?;
            // A policy of the caller's own may give one twice.
            if let Some(run) = self.remove(job.id) {
                self.give_back(job.after(run.len()), now);
                return Some(run);
            }
        }
    }

    fn give_back(&mut self, job: Option<Job>, now: Duration) {
        job.into_iter().for_each(|job| self.policy.give_back(job, now));
    }

    /// The tasks that the floor has said are to start with the task `id`; at most `most` of those that follow it are among them.
    pub(super) fn start(&mut self, id: u64, most: usize, now: Duration) -> Option<Run> {
        let mut run = self.remove(id)?;
        let mut rest = run.after(1);
        run.range.end = run.range.start + 1;
        if rest.len() == 0 {
            return Some(run);
        }
        // The floor has given the others back to the policy already.
        if most > 1
            && let Some(job) = self.policy.next(Among::All, now)
        {
            let more = if job.id == rest.first() && !job.begun { rest.len().min(most - 1) } else { 0 };
            run.range.end += more;
            rest.range.start += more;
            self.give_back(job.after(more), now);
        }
        if rest.len() > 0 {
            self.keep(rest);
        }
        Some(run)
    }

    /// A task of `function` took so long.
    pub(super) fn learn(&mut self, function: FunctionId, took: Duration) {
        let mut job = Job::new(0, number_of(function), 1);
        (job.begun, job.ran) = (true, took);
        self.policy.ended(&job);
    }

    /// The function of the job `id`.
    pub(super) fn function_of(&self, id: u64) -> Option<FunctionId> {
        self.runs.get(id).map(|batch| batch.function)
    }

    /// For the floor, which asks it whose turn it is.
    pub(super) fn policy(&mut self) -> &mut dyn Policy {
        self.policy.as_mut()
    }

    /// Forgets everything, and gives it.
    pub(super) fn clear(&mut self) -> Vec<Run> {
        self.policy.retain(&mut |_| false);
        self.tasks = 0;
        self.runs.take_all()
    }
}

fn number_of(function: FunctionId) -> u64 {
    u64::from_le_bytes(function.to_bytes())
}

fn job_of(run: &Run) -> Job {
    let terms = &run.batch.terms;
    let mut job = Job::new(run.first(), number_of(run.batch.function), run.len());
    job.cost = terms.cost;
    job.priority = terms.priority;
    job
}
