//! Scheduling policies: whose turn it is, and for how long.
//!
//! A [`Policy`] holds what waits and puts it in order; it starts nothing, stops nothing and has no clock. The pool's `floor` asks it
//! and decides what is done: who starts, who pauses, who goes on. [`Simulation`] drives both through virtual time, and so shows what a
//! policy makes of a workload without running it.
//!
//! Which policies there are, and their defaults, is told by [`Scheduling`].
//!
//! # Who may starve
//!
//! Under [`Fcfs`], [`RoundRobin`] and [`Mlfq`] every task gets its turn, however many come after it. Under [`Sjf`] a long one waits for
//! as long as shorter ones come, and under any policy a task waits for as long as tasks of a higher priority come.

mod fcfs;
pub(crate) mod floor;
mod line;
mod mlfq;
mod priorities;
mod round_robin;
mod scheduling;
mod simulator;
mod sjf;

/// Puts a job into a map by its key, or joins it to the one before it.
fn insert<K: Ord + Copy>(jobs: &mut BTreeMap<K, Job>, key: K, job: Job) {
    let before = jobs.range_mut(..key).next_back();
    if !before.is_some_and(|(_, before)| before.join(&job)) {
        jobs.insert(key, job);
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod textbook;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

pub use fcfs::Fcfs;
pub use floor::Action;
pub use mlfq::Mlfq;
pub use priorities::Priorities;
pub use round_robin::RoundRobin;
pub use scheduling::Scheduling;
pub use simulator::{SimulatedTask, Simulation, Times, mean, simulate};
pub use sjf::Sjf;

/// Tasks of one function that were handed in one after the other and wait, or one task that was begun and paused.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Job {
    /// The number of its first task; the others follow. Tasks are numbered as they are handed in, and keep their numbers.
    pub id: u64,
    /// Which function; only good for telling functions apart.
    pub function: u64,
    /// How many tasks are left: 1 at least, and 1 if it was begun.
    pub tasks: usize,
    /// What the caller expects one task to cost, in seconds or in any unit that is the same throughout the pool.
    pub cost: Option<f64>,
    /// Higher ones first; usually 0.
    pub priority: i32,
    /// Whether its task has been started: it has a process of its own, and goes on there.
    pub begun: bool,
    /// How long its task has run already.
    pub ran: Duration,
    /// The policy's own, which others leave as it is; 0 at first.
    pub note: u64,
}

impl Job {
    /// `tasks` tasks of `function` that nobody has begun, the first of them with the number `id`.
    pub fn new(id: u64, function: u64, tasks: usize) -> Self {
        Self { id, function, tasks, cost: None, priority: 0, begun: false, ran: Duration::ZERO, note: 0 }
    }

    /// Its first task, and the others.
    pub(crate) fn take_first(self) -> (Job, Option<Job>) {
        (Job { tasks: 1, ..self }, self.after(1))
    }

    /// Without its first `count` tasks, if there are more.
    pub(crate) fn after(self, count: usize) -> Option<Job> {
        let left = Job { id: self.id + count as u64, tasks: self.tasks.saturating_sub(count), ..self };
        (left.tasks > 0).then_some(left)
    }

    /// Takes up the tasks of `next`, if they follow upon its own and nothing else tells them apart: many tasks that were handed in one by one
    /// are then one job. Whether it has.
    pub(crate) fn join(&mut self, next: &Job) -> bool {
        let fits =
            !self.begun && *next == Job { id: self.id + self.tasks as u64, tasks: next.tasks, ..*self };
        if fits {
            self.tasks += next.tasks;
        }
        fits
    }
}

/// Among whom [`Policy::next`] chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All that wait.
    All,
    /// Those that were begun: there is no process for another one.
    Begun,
}

/// An order of what waits.
///
/// Jobs that follow each other and are alike but for their numbers may be made one. Times are counted from whenever the pool began, and never go back. A policy gives everything that it was given, once: a
/// fresh job that it loses never runs. None of the methods that are called for each task ([`add`](Self::add),
/// [`next`](Self::next), [`give_back`](Self::give_back)) should take longer the more jobs wait: there may be a million.
///
/// ```
/// use std::time::Duration;
///
/// use broody::policy::{Among, Job, Policy};
///
/// /// Last come, first served.
/// #[derive(Debug, Default)]
/// struct Stack(Vec<Job>);
///
/// impl Policy for Stack {
///     fn add(&mut self, job: Job, _now: Duration) {
///         self.0.push(job);
///     }
///     fn next(&mut self, among: Among, _now: Duration) -> Option<Job> {
///         // What it gives runs to its end: nothing that was begun ever waits here.
///         if among == Among::All { self.0.pop() } else { None }
///     }
///     fn give_back(&mut self, job: Job, _now: Duration) {
///         self.0.push(job);
///     }
///     fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool) {
///         self.0.retain_mut(|job| keep(job) && job.tasks > 0);
///     }
///     fn is_empty(&self) -> bool {
///         self.0.is_empty()
///     }
/// }
/// ```
pub trait Policy: Send + Debug {
    /// It waits from now on: it is new, or its quantum is over and others wait.
    fn add(&mut self, job: Job, now: Duration);

    /// Whose turn it is; it waits no more. `None` only if nothing of that kind waits.
    fn next(&mut self, among: Among, now: Duration) -> Option<Job>;

    /// It waits again, and its turn is not over: tasks of a job that [`next`](Self::next) gave and that were not begun, or one that
    /// was displaced before its quantum was over.
    fn give_back(&mut self, job: Job, now: Duration);

    /// How long `job`, which has run for `job.ran` and runs on, may go on from `now` before others get a turn. `None`: to its end.
    ///
    /// Asked in the middle of a quantum, it tells what is left of it.
    fn quantum(&self, job: &Job, now: Duration) -> Option<Duration> {
        let _ = (job, now);
        None
    }

    /// Which of those that run should make room at once for what waits: its `id`.
    fn displaces(&self, running: &mut dyn Iterator<Item = Job>, now: Duration) -> Option<u64> {
        let _ = (running, now);
        None
    }

    /// A task has come to its own end, after `job.ran`.
    fn ended(&mut self, job: &Job) {
        let _ = job;
    }

    /// Forgets the jobs for which `keep` is false, and those that it leaves no tasks: it may take some from the end.
    fn retain(&mut self, keep: &mut dyn FnMut(&mut Job) -> bool);

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;
}

/// Nanoseconds, for a job's note.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}
